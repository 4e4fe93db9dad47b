//! The minimal gated recurrent unit layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use refrain_kernels::{Cell, Direction, Precision};

use super::recurrent::{Pass, RecurrentLayer, RecurrentState, Variant};
use super::{DropoutSchedule, InitialWeights, Initializer, RecurrentOptions};

/// Configuration of a [`MinGru`] layer.
#[derive(Clone, Copy, Debug)]
pub struct MinGruConfig {
    /// Features of the input.
    pub input_size: usize,
    /// Hidden units.
    pub hidden_size: usize,
    /// How the input weights begin, if not as [usual](Self::init).
    pub input_weights: Option<InitialWeights>,
    /// In what the factors of large products are kept.
    pub precision: Precision,
    /// What the layer does beyond its equations.
    pub options: RecurrentOptions,
}

impl MinGruConfig {
    /// A layer in full precision.
    pub fn new(input_size: usize, hidden_size: usize) -> Self {
        Self {
            input_size,
            hidden_size,
            input_weights: None,
            precision: Precision::default(),
            options: RecurrentOptions::default(),
        }
    }

    /// Features of the output.
    pub fn output_size(&self) -> usize {
        self.hidden_size
    }

    /// Xavier input weights and zero biases: the gate begins half open.
    ///
    /// # Panics
    /// If the options are not those of the cell; there are no recurrent weights or products to drop.
    pub fn init(&self, init: &mut Initializer<'_>) -> MinGru {
        let Self { input_size, hidden_size, precision, options, .. } = *self;
        let input_weights = self.input_weights.unwrap_or(InitialWeights::XavierUniform);
        MinGru {
            weight_ih: init.weights(input_weights, [2 * hidden_size, input_size], 2),
            bias: init.constant(vec![0.0; 2 * hidden_size]),
            precision,
            options: options.checked(Cell::MinGru),
        }
    }
}

/// A minimal GRU layer (Feng et al. 2024, "Were RNNs all we needed?"): neither its gate nor its candidate reads the state, so the
/// weights' share of all steps is one product, and what is left of a step is element by element.
///
/// ```text
/// z = σ(W_z x + b_z)            update
/// g = W_h x + b_h               candidate
/// h' = (1 - z) ∘ h + z ∘ g
/// ```
///
/// The paper computes the recurrence of a whole sequence by a parallel scan. So does this layer where a batch has few units and few,
/// long sequences, which are then worked on in segments side by side; else units and sequences are what is side by side.
#[derive(Module, Debug)]
pub struct MinGru {
    /// `[2 * hidden_size, input_size]`: of z, then of g.
    pub weight_ih: Param<Tensor<2>>,
    /// `[2 * hidden_size]`.
    pub bias: Param<Tensor<1>>,
    /// In what the factors of large products are kept.
    #[module(skip)]
    pub precision: Precision,
    /// What the layer does beyond its equations.
    #[module(skip)]
    pub options: RecurrentOptions,
}

impl MinGru {
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
        let Self { weight_ih, bias, precision, options } = self;
        let (cell, precision, options) = (Cell::MinGru, *precision, *options);
        RecurrentLayer { cell, precision, options, weight_ih, weight_hh: None, bias, variant: Variant::default() }
    }
}
