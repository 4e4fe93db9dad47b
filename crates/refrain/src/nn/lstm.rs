//! The long short-term memory layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use refrain_kernels::{Cell, Precision};

use super::Initializer;
use super::recurrent::{RecurrentLayer, RecurrentState};

/// Configuration of an [`Lstm`] layer.
#[derive(Clone, Copy, Debug)]
pub struct LstmConfig {
    /// Features of the input.
    pub input_size: usize,
    /// Hidden units.
    pub hidden_size: usize,
    /// The forget gate's initial bias.
    pub forget_bias: f64,
    /// In what the factors of large products are kept.
    pub precision: Precision,
}

impl LstmConfig {
    /// A layer that remembers at first: forget bias 1 (Jozefowicz et al. 2015).
    pub fn new(input_size: usize, hidden_size: usize) -> Self {
        Self { input_size, hidden_size, forget_bias: 1.0, precision: Precision::default() }
    }

    /// Xavier input weights, orthogonal recurrent weights (Saxe et al. 2013), zero biases but for the forget gate's.
    pub fn init(&self, init: &mut Initializer<'_>) -> Lstm {
        let Self { input_size, hidden_size, .. } = *self;
        let mut bias = vec![0.0; 4 * hidden_size];
        bias[hidden_size..2 * hidden_size].fill(self.forget_bias as f32);
        Lstm {
            weight_ih: init.xavier_uniform([4 * hidden_size, input_size], 4),
            weight_hh: init.orthogonal(hidden_size, 4),
            bias: init.constant(bias),
            precision: self.precision,
        }
    }
}

/// An LSTM layer (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000).
///
/// ```text
/// i = σ(W_ii x + W_hi h + b_i)      input
/// f = σ(W_if x + W_hf h + b_f)      forget
/// g = tanh(W_ig x + W_hg h + b_g)   candidate
/// o = σ(W_io x + W_ho h + b_o)      output
/// c' = f ∘ c + i ∘ g
/// h' = o ∘ tanh(c')
/// ```
///
/// The weights of the four gates lie one below the other in PyTorch's order, so that a PyTorch layer's `weight_ih_l0` and
/// `weight_hh_l0` are `weight_ih` and `weight_hh`, and `bias_ih_l0 + bias_hh_l0` is `bias`.
#[derive(Module, Debug)]
pub struct Lstm {
    /// `[4 * hidden_size, input_size]`.
    pub weight_ih: Param<Tensor<2>>,
    /// `[4 * hidden_size, hidden_size]`.
    pub weight_hh: Param<Tensor<2>>,
    /// `[4 * hidden_size]`.
    pub bias: Param<Tensor<1>>,
    /// In what the factors of large products are kept.
    #[module(skip)]
    pub precision: Precision,
}

impl Lstm {
    /// Runs over a whole sequence; without a state, from zeros.
    ///
    /// # Shapes
    /// - `input`: `[batch_size, seq_len, input_size]`, `seq_len` 0 allowed
    /// - output: `[batch_size, seq_len, hidden_size]`, the hidden state after each step
    ///
    /// # Panics
    /// If the input or the state does not fit the weights.
    pub fn forward(&self, input: Tensor<3>, state: Option<RecurrentState>) -> (Tensor<3>, RecurrentState) {
        self.borrowed().forward(input, state)
    }

    pub(super) fn borrowed(&self) -> RecurrentLayer<'_> {
        let Self { weight_ih, weight_hh, bias, precision } = self;
        RecurrentLayer { cell: Cell::Lstm, precision: *precision, weight_ih, weight_hh, bias }
    }
}
