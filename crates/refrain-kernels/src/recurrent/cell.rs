//! The equations of one step of each cell, forward and backward, for one unit of one sequence.

use crate::arch::MulAdd;

/// What a step keeps for the way back, and the sums before its activations: at most four numbers a unit.
pub(super) type Kept = [f32; 4];

/// What a forward step gives.
pub(super) struct Forward {
    pub(super) kept: Kept,
    /// The state that the next step reads beside the products.
    pub(super) state: f32,
    pub(super) hidden: f32,
}

/// What options add to a step: see [`SequenceOptions`](super::SequenceOptions).
#[derive(Clone, Copy)]
pub(super) struct Extra {
    /// What the candidate is multiplied with.
    pub(super) candidate: f32,
    /// Of the input, forget and output gates.
    pub(super) peepholes: [f32; 3],
}

/// What a backward step reads.
pub(super) struct Backward {
    pub(super) kept: Kept,
    pub(super) extra: Option<Extra>,
    pub(super) state_before: f32,
    pub(super) state_after: f32,
    /// δh: from the output and from the products of the later step.
    pub(super) hidden: f32,
    /// δ of the state after the step.
    pub(super) state: f32,
}

/// What a backward step gives.
pub(super) struct Gradients {
    /// Of the sums, in the order of [`Step::GRADIENTS`].
    pub(super) sums: Kept,
    /// Of the state before the step.
    pub(super) state: f32,
    /// Of the peepholes; nobody's where there are none.
    pub(super) peepholes: [f32; 3],
}

impl Gradients {
    /// Those of a step without peepholes.
    #[inline(always)]
    pub(super) fn new(sums: Kept, state: f32) -> Self {
        Self { sums, state, peepholes: [0.0; 3] }
    }
}

/// A cell.
///
/// Forward, its gates' products are added to sums, of which [`Kept`] holds one or more. Backward, there are gradients of
/// `GRADIENTS` sums; those of the input's products come first, those of the recurrent products last.
pub(super) trait Step: Sync + 'static {
    /// For each gate, in the order of the weights, the sum that its recurrent product joins; empty where the state enters none.
    /// The input's product of gate g joins sum g.
    const RECURRENT_SUMS: &'static [usize];
    const GATES: usize = Self::INPUT_GATES.len();
    /// Whether any product reads the state: what none reads is not packed, and no member waits for it.
    const STATE_ENTERS_PRODUCTS: bool = !Self::RECURRENT_SUMS.is_empty();
    /// Sums of a unit, and biases.
    const SUMS: usize;
    /// Whether there is a state beside the products.
    const HAS_STATE: bool;
    /// Whether that state is the hidden state.
    const STATE_IS_HIDDEN: bool = false;
    /// Whether a step keeps `[z, g]` and makes `(1 - z) ∘ h + z ∘ g` of the hidden state `h`, which neither depends on: then what a
    /// segment of a sequence makes of the state before it is known without that state, and segments need not wait for each other.
    const SCANS: bool = false;
    /// For each gradient, the sum that it belongs to, which is its bias too.
    const GRADIENTS: &'static [usize];
    /// The gates of the first gradients, which are those of the input's products.
    const INPUT_GATES: &'static [usize];
    /// The gates of the last gradients, which are those of the recurrent products.
    const RECURRENT_GATES: &'static [usize];

    /// The step, plain where there is no `extra`.
    fn forward<O: MulAdd>(sums: Kept, state: f32, extra: Option<Extra>) -> Forward;

    fn backward<O: MulAdd>(step: Backward) -> Gradients;
}
