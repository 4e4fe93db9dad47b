//! The long short-term memory layer.

use burn::backend::Dispatch;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::Initializer;
use super::fused::FusedOps;

/// Configuration of an [`Lstm`] layer.
#[derive(Clone, Copy, Debug)]
pub struct LstmConfig {
    /// Features of the input.
    pub input_size: usize,
    /// Hidden units.
    pub hidden_size: usize,
    /// The forget gate's initial bias.
    pub forget_bias: f64,
}

impl LstmConfig {
    /// A layer that remembers at first: forget bias 1 (Jozefowicz et al. 2015).
    pub fn new(input_size: usize, hidden_size: usize) -> Self {
        Self { input_size, hidden_size, forget_bias: 1.0 }
    }

    /// Xavier input weights, orthogonal recurrent weights (Saxe et al. 2013), zero biases but for the forget gate's.
    pub fn init(&self, init: &mut Initializer<'_>) -> Lstm {
        let hidden_size = self.hidden_size;
        let mut bias = vec![0.0; 4 * hidden_size];
        bias[hidden_size..2 * hidden_size].fill(self.forget_bias as f32);
        Lstm {
            weight_ih: init.xavier_uniform([4 * hidden_size, self.input_size], 4),
            weight_hh: init.orthogonal(hidden_size, 4),
            bias: init.constant(bias),
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
}

/// What an LSTM layer remembers between steps.
#[derive(Clone, Debug)]
pub struct LstmState {
    /// `h`: `[batch_size, hidden_size]`.
    pub hidden: Tensor<2>,
    /// `c`: `[batch_size, hidden_size]`.
    pub cell_state: Tensor<2>,
}

impl LstmState {
    /// The state before the first step.
    pub fn zeros(batch_size: usize, hidden_size: usize, device: &Device) -> Self {
        let zeros = Tensor::zeros([batch_size, hidden_size], device);
        Self { hidden: zeros.clone(), cell_state: zeros }
    }

    /// The same numbers as constants: no gradient flows into the steps before them.
    #[must_use]
    pub fn detach(self) -> Self {
        Self { hidden: self.hidden.detach(), cell_state: self.cell_state.detach() }
    }
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
    pub fn forward(&self, input: Tensor<3>, state: Option<LstmState>) -> (Tensor<3>, LstmState) {
        let [batch_size, seq_len, input_size] = input.dims();
        let [_, hidden_size] = self.weight_hh.dims();
        let weight_ih = self.weight_ih.val();
        assert!(
            weight_ih.dims()[1] == input_size,
            "LSTM input is [{batch_size}, {seq_len}, {input_size}] but weight_ih is {:?}",
            weight_ih.dims()
        );
        let LstmState { hidden, cell_state } =
            state.unwrap_or_else(|| LstmState::zeros(batch_size, hidden_size, &input.device()));
        assert!(
            hidden.dims() == [batch_size, hidden_size] && cell_state.dims() == [batch_size, hidden_size],
            "LSTM state is {:?} and {:?} but the layer needs [{batch_size}, {hidden_size}]",
            hidden.dims(),
            cell_state.dims()
        );
        let (output, cell_state) = <Dispatch as FusedOps>::lstm_sequence(
            input.into_dispatch(),
            weight_ih.into_dispatch(),
            self.weight_hh.val().into_dispatch(),
            self.bias.val().into_dispatch(),
            hidden.clone().into_dispatch(),
            cell_state.into_dispatch(),
        );
        let output: Tensor<3> = Tensor::from_dispatch(output);
        let hidden = match seq_len {
            0 => hidden,
            _ => output.clone().slice([0..batch_size, seq_len - 1..seq_len]).reshape([batch_size, hidden_size]),
        };
        (output, LstmState { hidden, cell_state: Tensor::from_dispatch(cell_state) })
    }
}
