//! The long short-term memory.

use super::cell::{Backward, Forward, Kept, Step};
use crate::activation::{sigmoid_pair, tanh_lane, tanh_sigmoid};
use crate::arch::MulAdd;

/// Keeps the gates i, f, g, o; its state is the cell state.
pub(super) struct Lstm;

impl Step for Lstm {
    const RECURRENT_SUMS: &'static [usize] = &[0, 1, 2, 3];
    const SUMS: usize = 4;
    const HAS_STATE: bool = true;
    const GRADIENTS: &'static [usize] = &[0, 1, 2, 3];
    const INPUT_GATES: &'static [usize] = &[0, 1, 2, 3];
    const RECURRENT_GATES: &'static [usize] = &[0, 1, 2, 3];

    #[inline(always)]
    fn forward<O: MulAdd>(sums: Kept, state: f32) -> Forward {
        let (i, f) = sigmoid_pair::<O>(sums[0], sums[1]);
        let (g, o) = tanh_sigmoid::<O>(sums[2], sums[3]);
        let c = O::mul_add(f, state, i * g);
        Forward { kept: [i, f, g, o], state: c, hidden: o * tanh_lane::<O>(c) }
    }

    /// ```text
    /// δc += δh ∘ o ∘ (1 - tanh²(c))      δi = δc ∘ g ∘ i ∘ (1 - i)      δg = δc ∘ i ∘ (1 - g²)
    /// δc(t-1) = δc ∘ f                   δf = δc ∘ c(t-1) ∘ f ∘ (1 - f) δo = δh ∘ tanh(c) ∘ o ∘ (1 - o)
    /// ```
    #[inline(always)]
    fn backward<O: MulAdd>(step: Backward) -> (Kept, f32) {
        let [i, f, g, o] = step.kept;
        let tanh_c = tanh_lane::<O>(step.state_after);
        let through_output = step.hidden * o;
        let d = step.state + through_output * O::mul_add(-tanh_c, tanh_c, 1.0);
        let gradients = [
            d * g * (i * (1.0 - i)),
            d * step.state_before * (f * (1.0 - f)),
            d * i * O::mul_add(-g, g, 1.0),
            through_output * tanh_c * (1.0 - o),
        ];
        (gradients, d * f)
    }
}
