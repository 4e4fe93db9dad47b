//! The equations of a cell over the units of a tile, lane by lane.
//!
//! All numbers of a tile are brought together in one value: of slices from here and there the compiler would not know that they
//! lie apart, and would compute one unit after the other.

use super::cell::{Backward, Extra, Kept, Step};
use super::options::Extras;
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

    /// The first `count` numbers of a unit's sums.
    #[inline(always)]
    fn gather(&self, count: usize, i: usize) -> Kept {
        let mut sums = [0.0; 4];
        for (sum, block) in sums.iter_mut().zip(&self.sums).take(count) {
            *sum = block[i];
        }
        sums
    }

    /// Puts others in their place.
    #[inline(always)]
    fn scatter(&mut self, count: usize, i: usize, sums: Kept) {
        for (block, sum) in self.sums.iter_mut().zip(sums).take(count) {
            block[i] = sum;
        }
    }

    /// What a step back of a plain layer reads of a unit.
    #[inline(always)]
    fn step_back<C: Step>(&self, i: usize) -> Backward {
        let state = |block: &Block| if C::HAS_STATE { block[i] } else { 0.0 };
        Backward {
            kept: self.gather(C::SUMS, i),
            extra: None,
            state_before: state(&self.state_before),
            state_after: state(&self.state_after),
            hidden: self.hidden[i],
            state: state(&self.state),
        }
    }

    /// A step forward of the first `count` units.
    #[inline(always)]
    pub(super) fn forward<C: Step, O: MulAdd>(&mut self, count: usize) {
        for i in 0..count.min(MAX_BLOCK) {
            let before = if C::HAS_STATE { self.state[i] } else { 0.0 };
            let step = C::forward::<O>(self.gather(C::SUMS, i), before, None);
            self.scatter(C::SUMS, i, step.kept);
            if C::HAS_STATE {
                self.state[i] = step.state;
            }
            self.hidden[i] = step.hidden;
        }
    }

    /// A step forward with options.
    #[inline(always)]
    pub(super) fn forward_with<C: Step, O: MulAdd>(&mut self, count: usize, extras: &Extras) {
        for i in 0..count.min(MAX_BLOCK) {
            let before = if C::HAS_STATE { self.state[i] } else { 0.0 };
            let step = C::forward::<O>(self.gather(C::SUMS, i), before, Some(extras.of(i)));
            self.scatter(C::SUMS, i, step.kept);
            let hidden_before = if C::STATE_IS_HIDDEN { before } else { extras.hidden_before[i] };
            let hidden = mix::<O>(extras.keep_hidden[i], hidden_before, step.hidden);
            if C::HAS_STATE {
                let state = mix::<O>(extras.keep_state[i], before, step.state);
                self.state[i] = if C::STATE_IS_HIDDEN { hidden } else { state };
            }
            self.hidden[i] = hidden;
        }
    }

    /// A step back with options.
    #[inline(always)]
    pub(super) fn backward_with<C: Step, O: MulAdd>(&mut self, count: usize, extras: &mut Extras) {
        for i in 0..count.min(MAX_BLOCK) {
            let plain = self.step_back::<C>(i);
            let after = plain.state;
            let hidden = plain.hidden + if C::STATE_IS_HIDDEN { after } else { extras.carry[i] };
            let (keep_hidden, keep_state) = (extras.keep_hidden[i], extras.keep_state[i]);
            let gradients = C::backward::<O>(Backward {
                extra: Some(extras.of(i)),
                hidden: (1.0 - keep_hidden) * hidden,
                state: if C::STATE_IS_HIDDEN { 0.0 } else { (1.0 - keep_state) * after },
                ..plain
            });
            self.scatter(C::GRADIENTS.len(), i, gradients.sums);
            let kept_on = if C::STATE_IS_HIDDEN { keep_hidden * hidden } else { keep_state * after };
            if C::HAS_STATE {
                self.state[i] = gradients.state + kept_on;
            }
            extras.carry[i] = keep_hidden * hidden;
            for (block, gradient) in extras.peephole_sums.iter_mut().zip(gradients.peepholes) {
                block[i] += gradient;
            }
        }
    }

    /// A step back of the first `count` units.
    #[inline(always)]
    pub(super) fn backward<C: Step, O: MulAdd>(&mut self, count: usize) {
        for i in 0..count.min(MAX_BLOCK) {
            let gradients = C::backward::<O>(self.step_back::<C>(i));
            self.scatter(C::GRADIENTS.len(), i, gradients.sums);
            if C::HAS_STATE {
                self.state[i] = gradients.state;
            }
        }
    }
}

/// `keep ∘ before + (1 - keep) ∘ after`.
#[inline(always)]
pub(super) fn mix<O: MulAdd>(keep: f32, before: f32, after: f32) -> f32 {
    // What is not kept does not count, not even where it is infinite.
    if keep == 0.0 { after } else { O::mul_add(keep, before, (1.0 - keep) * after) }
}

impl Extras {
    #[inline(always)]
    fn of(&self, i: usize) -> Extra {
        Extra { candidate: self.candidate[i], peepholes: [0, 1, 2].map(|gate| self.peepholes[gate][i]) }
    }
}
