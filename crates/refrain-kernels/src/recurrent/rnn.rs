//! The simple recurrence, with either activation.

use super::cell::{Backward, Extra, Forward, Gradients, Kept, Step};
use crate::activation::tanh_lane;
use crate::arch::MulAdd;

/// Keeps the hidden state.
pub(super) struct RnnTanh;
/// Keeps the hidden state.
pub(super) struct RnnRelu;

/// The part of a [`Step`] that both have in common; `$forward` and `$slope` are the activation and its slope where it has
/// given `h`.
macro_rules! rnn {
    ($cell:ty, $forward:expr, $slope:expr) => {
        impl Step for $cell {
            const RECURRENT_SUMS: &'static [usize] = &[0];
            const SUMS: usize = 1;
            const HAS_STATE: bool = false;
            const GRADIENTS: &'static [usize] = &[0];
            const INPUT_GATES: &'static [usize] = &[0];
            const RECURRENT_GATES: &'static [usize] = &[0];

            #[inline(always)]
            fn forward<O: MulAdd>(sums: Kept, _state: f32, _extra: Option<Extra>) -> Forward {
                let hidden = $forward(sums[0]);
                Forward { kept: [hidden, 0.0, 0.0, 0.0], state: 0.0, hidden }
            }

            #[inline(always)]
            fn backward<O: MulAdd>(step: Backward) -> Gradients {
                Gradients::new([step.hidden * $slope(step.kept[0]), 0.0, 0.0, 0.0], 0.0)
            }
        }
    };
}

rnn!(RnnTanh, tanh_lane::<O>, |h: f32| O::mul_add(-h, h, 1.0));
// NaN must stay NaN: `max` would drop it.
rnn!(RnnRelu, |x: f32| if x < 0.0 { 0.0 } else { x }, |h: f32| if h > 0.0 { 1.0 } else { 0.0 });
