//! The gated recurrent unit layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use refrain_kernels::{Cell, Direction, Precision};

use super::recurrent::{Pass, RecurrentLayer, RecurrentState, Variant};
use super::{DropoutSchedule, InitialWeights, Initializer, LayerNorms, Normalization, RecurrentOptions, ResetGate};

/// Configuration of a [`Gru`] layer.
#[derive(Clone, Copy, Debug)]
pub struct GruConfig {
    /// Features of the input.
    pub input_size: usize,
    /// Hidden units.
    pub hidden_size: usize,
    /// Where the reset gate comes.
    pub reset: ResetGate,
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

impl GruConfig {
    /// A layer in full precision.
    pub fn new(input_size: usize, hidden_size: usize) -> Self {
        Self {
            input_size,
            hidden_size,
            reset: ResetGate::default(),
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

    /// Xavier input weights, orthogonal recurrent weights (Saxe et al. 2013), zero biases: the update gate begins half open.
    ///
    /// # Panics
    /// If the options are not those of the cell.
    pub fn init(&self, init: &mut Initializer<'_>) -> Gru {
        let Self { input_size, hidden_size, reset, normalization, precision, options, .. } = *self;
        assert!(
            reset == ResetGate::AfterProduct || normalization == Normalization::None,
            "{reset:?} does not go with {normalization:?} normalisation: there is no one product of the state"
        );
        let input_weights = self.input_weights.unwrap_or(InitialWeights::XavierUniform);
        let recurrent_weights = self.recurrent_weights.unwrap_or(InitialWeights::Orthogonal);
        Gru {
            weight_ih: init.weights(input_weights, [3 * hidden_size, input_size], 3),
            weight_hh: init.weights(recurrent_weights, [3 * hidden_size, hidden_size], 3),
            bias: init.constant(vec![0.0; 4 * hidden_size]),
            norms: normalization.init(Cell::Gru, hidden_size, init),
            reset,
            precision,
            options: options.checked(Cell::Gru),
        }
    }
}

/// A GRU layer (Cho et al. 2014), its reset gate after the product, as in cuDNN and PyTorch, or [before](ResetGate).
///
/// ```text
/// r = σ(W_ir x + W_hr h + b_r)               reset
/// z = σ(W_iz x + W_hz h + b_z)               update
/// n = tanh(W_in x + b_n + r ∘ (W_hn h + b_m))   candidate
/// h' = (1 - z) ∘ n + z ∘ h
/// ```
///
/// With the gate before the product, `n = tanh(W_in x + b_n + W_hn (r ∘ h) + b_m)`; sums may be [normalised](Normalization).
///
/// The weights of the three gates lie one below the other in PyTorch's order, so that a PyTorch layer's `weight_ih_l0` and
/// `weight_hh_l0` are `weight_ih` and `weight_hh`. The biases of `r` and `z` only count as sums, but those of the candidate
/// do not mix, so `bias` has four blocks of `hidden_size`:
///
/// | `bias` | of | from PyTorch |
/// |---|---|---|
/// | blocks 0 and 1 | `b_r`, `b_z` | blocks 0 and 1 of `bias_ih_l0 + bias_hh_l0` |
/// | block 2 | `b_n` | block 2 of `bias_ih_l0` |
/// | block 3 | `b_m` | block 2 of `bias_hh_l0` |
#[derive(Module, Debug)]
pub struct Gru {
    /// `[3 * hidden_size, input_size]`.
    pub weight_ih: Param<Tensor<2>>,
    /// `[3 * hidden_size, hidden_size]`.
    pub weight_hh: Param<Tensor<2>>,
    /// `[4 * hidden_size]`.
    pub bias: Param<Tensor<1>>,
    /// Where sums are normalised.
    pub norms: Option<LayerNorms>,
    /// Where the reset gate comes.
    #[module(skip)]
    pub reset: ResetGate,
    /// In what the factors of large products are kept.
    #[module(skip)]
    pub precision: Precision,
    /// What the layer does beyond its equations.
    #[module(skip)]
    pub options: RecurrentOptions,
}

impl Gru {
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
        let Self { weight_ih, weight_hh, bias, norms, reset, precision, options } = self;
        let variant = Variant { reset: *reset, norms: norms.as_ref(), ..Variant::default() };
        let (cell, precision, options) = (Cell::Gru, *precision, *options);
        RecurrentLayer { cell, precision, options, weight_ih, weight_hh: Some(weight_hh), bias, variant }
    }
}
