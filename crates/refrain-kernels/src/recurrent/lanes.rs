//! The equations of a cell over the units of a tile, lane by lane.
//!
//! All numbers of a tile are brought together in one value: of slices from here and there the compiler would not know that they
//! lie apart, and would compute one unit after the other.

use super::cell::{Backward, Step};
use crate::arch::MulAdd;

/// Floats of the largest block: 32 rows of 32 units; and a line more, so that the same unit of two blocks does not share the
/// low bits of its address, by which the processor tells loads from earlier stores.
pub(super) const MAX_BLOCK: usize = 32 * 32 + 16;

/// One float for every unit and row of a tile.
pub(super) type Block = [f32; MAX_BLOCK];

/// What a step reads and writes.
#[repr(C, align(64))]
pub(super) struct Lanes {
    /// Forward, the sums, then what is kept of them; backward, what was kept, then the gradients of the sums.
    pub(super) sums: [Block; 4],
    /// The state before the step, or its gradient after and then before it.
    pub(super) state: Block,
    pub(super) state_before: Block,
    pub(super) state_after: Block,
    /// The hidden state, or its gradient.
    pub(super) hidden: Block,
}

impl Lanes {
    #[expect(clippy::large_stack_arrays, reason = "it lives on a member's stack, which has megabytes")]
    pub(super) fn new() -> Self {
        let block = [0.0; MAX_BLOCK];
        Self { sums: [block; 4], state: block, state_before: block, state_after: block, hidden: block }
    }

    /// A step forward of the first `count` units.
    #[inline(always)]
    pub(super) fn forward<C: Step, O: MulAdd>(&mut self, count: usize) {
        for i in 0..count.min(MAX_BLOCK) {
            let mut sums = [0.0; 4];
            for (sum, block) in sums.iter_mut().zip(&self.sums).take(C::SUMS) {
                *sum = block[i];
            }
            let step = C::forward::<O>(sums, if C::HAS_STATE { self.state[i] } else { 0.0 });
            for (block, kept) in self.sums.iter_mut().zip(step.kept).take(C::SUMS) {
                block[i] = kept;
            }
            if C::HAS_STATE {
                self.state[i] = step.state;
            }
            self.hidden[i] = step.hidden;
        }
    }

    /// A step back of the first `count` units.
    #[inline(always)]
    pub(super) fn backward<C: Step, O: MulAdd>(&mut self, count: usize) {
        for i in 0..count.min(MAX_BLOCK) {
            let mut kept = [0.0; 4];
            for (kept, block) in kept.iter_mut().zip(&self.sums).take(C::SUMS) {
                *kept = block[i];
            }
            let state = |block: &Block| if C::HAS_STATE { block[i] } else { 0.0 };
            let (gradients, next) = C::backward::<O>(Backward {
                kept,
                state_before: state(&self.state_before),
                state_after: state(&self.state_after),
                hidden: self.hidden[i],
                state: state(&self.state),
            });
            for (block, gradient) in self.sums.iter_mut().zip(gradients).take(C::GRADIENTS.len()) {
                block[i] = gradient;
            }
            if C::HAS_STATE {
                self.state[i] = next;
            }
        }
    }
}
