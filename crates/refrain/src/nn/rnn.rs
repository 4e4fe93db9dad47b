//! The simple recurrent layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use refrain_kernels::{Cell, Direction, Precision};

use super::recurrent::{Pass, RecurrentLayer, RecurrentState, Variant};
use super::{DropoutSchedule, InitialWeights, Initializer, LayerNorms, Normalization, RecurrentOptions};

/// What a simple recurrent layer does to its sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nonlinearity {
    /// The hyperbolic tangent (Elman 1990).
    #[default]
    Tanh,
    /// The rectifier, `max(0, x)` (Le et al. 2015).
    Relu,
}

impl Nonlinearity {
    fn cell(self) -> Cell {
        match self {
            Self::Tanh => Cell::RnnTanh,
            Self::Relu => Cell::RnnRelu,
        }
    }
}

/// Configuration of an [`Rnn`] layer.
#[derive(Clone, Copy, Debug)]
pub struct RnnConfig {
    /// Features of the input.
    pub input_size: usize,
    /// Hidden units.
    pub hidden_size: usize,
    /// What the sums go through.
    pub nonlinearity: Nonlinearity,
    /// Whether sums are normalised.
    pub normalization: Normalization,
    /// How the input weights begin, if not as [usual](Self::init).
    pub input_weights: Option<InitialWeights>,
    /// How the recurrent weights begin, if not as [usual](Self::init).
    pub recurrent_weights: Option<InitialWeights>,
    /// In what the factors of large products are kept.
    pub precision: Precision,
    /// What the layer does beyond its equations.
    pub options: RecurrentOptions,
}

impl RnnConfig {
    /// A layer with the hyperbolic tangent.
    pub fn new(input_size: usize, hidden_size: usize) -> Self {
        Self {
            input_size,
            hidden_size,
            nonlinearity: Nonlinearity::default(),
            normalization: Normalization::default(),
            input_weights: None,
            recurrent_weights: None,
            precision: Precision::default(),
            options: RecurrentOptions::default(),
        }
    }

    /// Features of the output.
    pub fn output_size(&self) -> usize {
        self.hidden_size
    }

    /// Zero biases; for tanh Xavier input weights and orthogonal recurrent ones (Saxe et al. 2013), for the rectifier
    /// normal input weights of deviation 0.001 and the identity (Le et al. 2015): a state that nothing enters stays.
    ///
    /// # Panics
    /// If the options are not those of the cell.
    pub fn init(&self, init: &mut Initializer<'_>) -> Rnn {
        let Self { input_size, hidden_size, nonlinearity, normalization, precision, options, .. } = *self;
        let (input_weights, recurrent_weights) = match nonlinearity {
            Nonlinearity::Tanh => (InitialWeights::XavierUniform, InitialWeights::Orthogonal),
            Nonlinearity::Relu => (InitialWeights::Normal { deviation: 1e-3 }, InitialWeights::Identity),
        };
        let input_weights = self.input_weights.unwrap_or(input_weights);
        let recurrent_weights = self.recurrent_weights.unwrap_or(recurrent_weights);
        let weight_ih = init.weights(input_weights, [hidden_size, input_size], 1);
        let weight_hh = init.weights(recurrent_weights, [hidden_size, hidden_size], 1);
        let bias = init.constant(vec![0.0; hidden_size]);
        let cell = nonlinearity.cell();
        let norms = normalization.init(cell, hidden_size, init);
        Rnn { weight_ih, weight_hh, bias, norms, nonlinearity, precision, options: options.checked(cell) }
    }
}

/// A simple recurrent layer (Elman 1990).
///
/// ```text
/// h' = tanh(W_ih x + W_hh h + b)      or max(0, …)
/// ```
///
/// A PyTorch layer's `weight_ih_l0` and `weight_hh_l0` are `weight_ih` and `weight_hh`, and `bias_ih_l0 + bias_hh_l0` is
/// `bias`.
#[derive(Module, Debug)]
pub struct Rnn {
    /// `[hidden_size, input_size]`.
    pub weight_ih: Param<Tensor<2>>,
    /// `[hidden_size, hidden_size]`.
    pub weight_hh: Param<Tensor<2>>,
    /// `[hidden_size]`.
    pub bias: Param<Tensor<1>>,
    /// Where sums are normalised.
    pub norms: Option<LayerNorms>,
    /// What the sums go through.
    #[module(skip)]
    pub nonlinearity: Nonlinearity,
    /// In what the factors of large products are kept.
    #[module(skip)]
    pub precision: Precision,
    /// What the layer does beyond its equations.
    #[module(skip)]
    pub options: RecurrentOptions,
}

impl Rnn {
    /// Runs over whole sequences; without a state, from zeros; without a schedule, without dropping anything.
    ///
    /// # Shapes
    /// - `input`: `[batch_size, seq_len, input_size]`, `seq_len` 0 allowed
    /// - `lengths`: `[batch_size]`, in any order, 0 allowed; `None` where all sequences are as long as the input
    /// - output: `[batch_size, seq_len, hidden_size]`, the hidden state after each step, zeros after a sequence's end
    /// - state: after each sequence's last step; of one without steps, as it came
    ///
    /// # Panics
    /// If the input, a length or the state does not fit.
    pub fn forward(
        &self,
        input: Tensor<3>,
        lengths: Option<&[usize]>,
        state: Option<RecurrentState>,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<3>, RecurrentState) {
        self.borrowed().forward(Pass { direction: Direction::Forward, input, lengths, state, schedule })
    }

    pub(super) fn borrowed(&self) -> RecurrentLayer<'_> {
        let Self { weight_ih, weight_hh, bias, norms, nonlinearity, precision, options } = self;
        let variant = Variant { norms: norms.as_ref(), ..Variant::default() };
        let (cell, precision, options) = (nonlinearity.cell(), *precision, *options);
        RecurrentLayer { cell, precision, options, weight_ih, weight_hh: Some(weight_hh), bias, variant }
    }
}
