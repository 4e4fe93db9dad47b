//! The gated recurrent unit, its reset gate applied after the product.

use super::cell::{Backward, Forward, Kept, Step};
use crate::activation::{sigmoid_pair, tanh_lane};
use crate::arch::MulAdd;

/// Keeps r, z, n and the recurrent part of n's sum, `m = U_n h + b_m`; its state is the hidden state.
pub(super) struct Gru;

impl Step for Gru {
    const RECURRENT_SUMS: &'static [usize] = &[0, 1, 3];
    const SUMS: usize = 4;
    const HAS_STATE: bool = true;
    const GRADIENTS: &'static [usize] = &[2, 0, 1, 3];
    const INPUT_GATES: &'static [usize] = &[2, 0, 1];
    const RECURRENT_GATES: &'static [usize] = &[0, 1, 2];

    #[inline(always)]
    fn forward<O: MulAdd>(sums: Kept, state: f32) -> Forward {
        let (r, z) = sigmoid_pair::<O>(sums[0], sums[1]);
        let n = tanh_lane::<O>(O::mul_add(r, sums[3], sums[2]));
        let hidden = O::mul_add(z, state - n, n);
        Forward { kept: [r, z, n, sums[3]], state: hidden, hidden }
    }

    /// ```text
    /// δh += δh(t+1) ∘ z(t+1)         δn = δh ∘ (1 - z) ∘ (1 - n²)      δr = δn ∘ m ∘ r ∘ (1 - r)
    /// δh(t-1) = δh ∘ z + …           δz = δh ∘ (h(t-1) - n) ∘ z ∘ (1 - z)   δm = δn ∘ r
    /// ```
    #[inline(always)]
    fn backward<O: MulAdd>(step: Backward) -> (Kept, f32) {
        let [r, z, n, m] = step.kept;
        let d = step.hidden + step.state;
        let dn = d * (1.0 - z) * O::mul_add(-n, n, 1.0);
        let gradients = [dn, dn * m * (r * (1.0 - r)), d * (step.state_before - n) * (z * (1.0 - z)), dn * r];
        (gradients, d * z)
    }
}
