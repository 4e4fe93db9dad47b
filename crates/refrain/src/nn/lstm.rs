//! The long short-term memory layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use refrain_kernels::{Cell, Direction, Precision};

use super::recurrent::{Pass, RecurrentLayer, RecurrentState, Variant};
use super::{DropoutSchedule, ForgetBias, InitialWeights, Initializer, LayerNorms, Normalization, RecurrentOptions};

/// How an LSTM's input gate is had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputGate {
    /// By weights of its own.
    #[default]
    Own,
    /// It is what the forget gate leaves, `1 - f` (the coupled gates of Greff et al. 2017): a quarter fewer weights.
    Coupled,
}

impl InputGate {
    fn cell(self) -> Cell {
        match self {
            Self::Own => Cell::Lstm,
            Self::Coupled => Cell::CoupledLstm,
        }
    }
}

/// Whether the gates see the cell state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peepholes {
    /// They do not, as in PyTorch.
    #[default]
    None,
    /// Each gate sees that of its own unit (Gers and Schmidhuber 2000).
    Diagonal,
}

/// Configuration of an [`Lstm`] layer.
#[derive(Clone, Copy, Debug)]
pub struct LstmConfig {
    /// Features of the input.
    pub input_size: usize,
    /// Hidden units.
    pub hidden_size: usize,
    /// The forget gate's initial bias.
    pub forget_bias: ForgetBias,
    /// How the input weights begin, if not as [usual](Self::init).
    pub input_weights: Option<InitialWeights>,
    /// How the recurrent weights begin, if not as [usual](Self::init).
    pub recurrent_weights: Option<InitialWeights>,
    /// How the input gate is had.
    pub input_gate: InputGate,
    /// Whether the gates see the cell state.
    pub peepholes: Peepholes,
    /// Units that the hidden units are projected to, in PyTorch `proj_size` (Sak et al. 2014); `None` for no projection.
    pub projection_size: Option<usize>,
    /// Whether sums are normalised.
    pub normalization: Normalization,
    /// In what the factors of large products are kept.
    pub precision: Precision,
    /// What the layer does beyond its equations.
    pub options: RecurrentOptions,
}

impl LstmConfig {
    /// A layer that remembers at first: forget bias 1 (Jozefowicz et al. 2015).
    pub fn new(input_size: usize, hidden_size: usize) -> Self {
        Self {
            input_size,
            hidden_size,
            forget_bias: ForgetBias::default(),
            input_weights: None,
            recurrent_weights: None,
            input_gate: InputGate::default(),
            peepholes: Peepholes::default(),
            projection_size: None,
            normalization: Normalization::default(),
            precision: Precision::default(),
            options: RecurrentOptions::default(),
        }
    }

    /// Features of the output.
    pub fn output_size(&self) -> usize {
        self.projection_size.unwrap_or(self.hidden_size)
    }

    /// Xavier input weights, orthogonal recurrent weights (Saxe et al. 2013), zero biases but for the forget gate's, zero peepholes.
    ///
    /// # Panics
    /// If the options are not those of the cell, or [chrono](ForgetBias::Chrono) biases are for fewer than two steps.
    pub fn init(&self, init: &mut Initializer<'_>) -> Lstm {
        let Self { input_size, hidden_size, input_gate, .. } = *self;
        let cell = input_gate.cell();
        let gates = cell.num_gates();
        let input_weights = self.input_weights.unwrap_or(InitialWeights::XavierUniform);
        let recurrent_weights = self.recurrent_weights.unwrap_or(match self.projection_size {
            None => InitialWeights::Orthogonal,
            // There is no orthogonal matrix of another shape than a square.
            Some(_) => InitialWeights::XavierUniform,
        });
        let weight_ih = init.weights(input_weights, [gates * hidden_size, input_size], gates);
        let weight_hh = init.weights(recurrent_weights, [gates * hidden_size, self.output_size()], gates);
        let [input, forget] = init.gate_biases(self.forget_bias, hidden_size);
        let mut bias = match input_gate {
            InputGate::Own => [input, forget].concat(),
            InputGate::Coupled => forget,
        };
        bias.resize(cell.num_biases() * hidden_size, 0.0);
        Lstm {
            weight_ih,
            weight_hh,
            bias: init.constant(bias),
            projection: self
                .projection_size
                .map(|size| init.weights(InitialWeights::XavierUniform, [size, hidden_size], 1)),
            norms: self.normalization.init(cell, hidden_size, init),
            peepholes: (self.peepholes == Peepholes::Diagonal).then(|| init.constant(vec![0.0; 3 * hidden_size])),
            input_gate,
            precision: self.precision,
            options: self.options.checked(cell),
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
/// `weight_hh_l0` are `weight_ih` and `weight_hh`, and `bias_ih_l0 + bias_hh_l0` is `bias`. With [coupled](InputGate) gates
/// `i = 1 - f`, and there are three: f, g, o. With [peepholes](Peepholes) the sums of i and f have `p_i ∘ c` and `p_f ∘ c` too, and
/// that of o `p_o ∘ c'`. With a projection `h' = W_r (o ∘ tanh(c'))` (Sak et al. 2014); sums may be [normalised](Normalization).
#[derive(Module, Debug)]
pub struct Lstm {
    /// `[num_gates * hidden_size, input_size]`.
    pub weight_ih: Param<Tensor<2>>,
    /// `[num_gates * hidden_size, hidden_size]`.
    pub weight_hh: Param<Tensor<2>>,
    /// `[num_gates * hidden_size]`.
    pub bias: Param<Tensor<1>>,
    /// `p_i`, `p_f` and `p_o`: `[3 * hidden_size]`; with coupled gates `p_i` is nobody's.
    pub peepholes: Option<Param<Tensor<1>>>,
    /// From the hidden units to the hidden state: `[projection_size, hidden_size]`; `weight_hh` has then `projection_size` columns.
    pub projection: Option<Param<Tensor<2>>>,
    /// Where sums are normalised.
    pub norms: Option<LayerNorms>,
    /// How the input gate is had.
    #[module(skip)]
    pub input_gate: InputGate,
    /// In what the factors of large products are kept.
    #[module(skip)]
    pub precision: Precision,
    /// What the layer does beyond its equations.
    #[module(skip)]
    pub options: RecurrentOptions,
}

impl Lstm {
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
        let Self { weight_ih, weight_hh, bias, peepholes, projection, norms, input_gate, precision, options } = self;
        let variant = Variant {
            peepholes: peepholes.as_ref(),
            projection: projection.as_ref(),
            norms: norms.as_ref(),
            ..Variant::default()
        };
        let (cell, precision, options) = (input_gate.cell(), *precision, *options);
        RecurrentLayer { cell, precision, options, weight_ih, weight_hh: Some(weight_hh), bias, variant }
    }
}
