//! The gated recurrent unit, its reset gate applied after the product.

use super::cell::{Backward, Extra, Forward, Gradients, Kept, Step};
use crate::activation::{sigmoid_pair, tanh_lane};
use crate::arch::MulAdd;

/// Keeps r, z, n and the recurrent part of n's sum, `m = U_n h + b_m`; its state is the hidden state.
pub(super) struct Gru;

impl Step for Gru {
    const RECURRENT_SUMS: &'static [usize] = &[0, 1, 3];
    const SUMS: usize = 4;
    const HAS_STATE: bool = true;
    const STATE_IS_HIDDEN: bool = true;
    const GRADIENTS: &'static [usize] = &[2, 0, 1, 3];
    const INPUT_GATES: &'static [usize] = &[2, 0, 1];
    const RECURRENT_GATES: &'static [usize] = &[0, 1, 2];

    #[inline(always)]
    fn forward<O: MulAdd>(sums: Kept, state: f32, extra: Option<Extra>) -> Forward {
        let (r, z) = sigmoid_pair::<O>(sums[0], sums[1]);
        let n = tanh_lane::<O>(O::mul_add(r, sums[3], sums[2]));
        let recalled = extra.map_or(n, |extra| extra.candidate * n);
        let hidden = O::mul_add(z, state - recalled, recalled);
        Forward { kept: [r, z, n, sums[3]], state: hidden, hidden }
    }

    /// ```text
    /// δh += δh(t+1) ∘ z(t+1)         δn = δh ∘ (1 - z) ∘ (1 - n²)      δr = δn ∘ m ∘ r ∘ (1 - r)
    /// δh(t-1) = δh ∘ z + …           δz = δh ∘ (h(t-1) - n) ∘ z ∘ (1 - z)   δm = δn ∘ r
    /// ```
    #[inline(always)]
    fn backward<O: MulAdd>(step: Backward) -> Gradients {
        let [r, z, n, m] = step.kept;
        let d = step.hidden + step.state;
        let (recalled, dn) = match step.extra {
            Some(Extra { candidate, .. }) => (candidate * n, d * (1.0 - z) * candidate * O::mul_add(-n, n, 1.0)),
            None => (n, d * (1.0 - z) * O::mul_add(-n, n, 1.0)),
        };
        let sums = [dn, dn * m * (r * (1.0 - r)), d * (step.state_before - recalled) * (z * (1.0 - z)), dn * r];
        Gradients::new(sums, d * z)
    }
}
