//! The minimal gated recurrent unit: neither its gate nor its candidate reads the state.

use super::cell::{Backward, Extra, Forward, Gradients, Kept, Step};
use crate::activation::sigmoid_lane;
use crate::arch::MulAdd;

/// Keeps z and the candidate; its state is the hidden state.
pub(super) struct MinGru;

impl Step for MinGru {
    const RECURRENT_SUMS: &'static [usize] = &[];
    const SUMS: usize = 2;
    const HAS_STATE: bool = true;
    const STATE_IS_HIDDEN: bool = true;
    const SCANS: bool = true;
    const GRADIENTS: &'static [usize] = &[0, 1];
    const INPUT_GATES: &'static [usize] = &[0, 1];
    const RECURRENT_GATES: &'static [usize] = &[];

    #[inline(always)]
    fn forward<O: MulAdd>([z, candidate, ..]: Kept, state: f32, extra: Option<Extra>) -> Forward {
        let z = sigmoid_lane::<O>(z);
        let entering = extra.map_or(candidate, |extra| extra.candidate * candidate);
        let hidden = O::mul_add(z, entering - state, state);
        Forward { kept: [z, candidate, 0.0, 0.0], state: hidden, hidden }
    }

    /// ```text
    /// δh += δh(t+1) ∘ (1 - z(t+1))      δz = δh ∘ (g - h(t-1)) ∘ z ∘ (1 - z)      δg = δh ∘ z
    /// ```
    #[inline(always)]
    fn backward<O: MulAdd>(step: Backward) -> Gradients {
        let [z, candidate, ..] = step.kept;
        let d = step.hidden + step.state;
        let factor = step.extra.map_or(1.0, |extra| extra.candidate);
        let update = d * O::mul_add(factor, candidate, -step.state_before) * (z * (1.0 - z));
        Gradients::new([update, d * z * factor, 0.0, 0.0], d * (1.0 - z))
    }
}
