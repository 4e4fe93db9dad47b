//! What a member does with rows between the products of a step.

use std::marker::PhantomData;
use std::ops::Range;

use super::super::lanes::Lanes;
use super::super::options::{Extras, SequenceOptions};
use super::layout::Layout;
use crate::arch::{Kernel, MulAdd};
use crate::tile::Sums;

/// What a member works in.
pub(super) struct Work {
    pub(super) sums: Sums,
    pub(super) lanes: Lanes,
    /// Where there are options.
    pub(super) extras: Option<Box<Extras>>,
    /// Rows of units: the hidden state and the state, or the gradients of them.
    pub(super) hidden: Vec<f32>,
    pub(super) state: Vec<f32>,
    /// Numbers of options.
    pub(super) factors: Vec<f32>,
    /// The normalised cell state.
    pub(super) normal: Vec<f32>,
    /// Backward: the gradients of what it shows, of the output gate's sum, of what of the state a step kept, and of all sums.
    pub(super) shown: Vec<f32>,
    pub(super) output: Vec<f32>,
    pub(super) kept: Vec<f32>,
    pub(super) of_sums: Vec<f32>,
}

impl Work {
    pub(super) fn new(layout: &Layout, options: &SequenceOptions) -> Self {
        let row = || vec![0.0; layout.shape.hidden_size.max(layout.state_size)];
        Self {
            sums: Sums::new(),
            lanes: Lanes::new(),
            extras: options.change_steps().then(Extras::new),
            hidden: row(),
            state: row(),
            factors: row(),
            normal: row(),
            shown: row(),
            output: row(),
            kept: row(),
            of_sums: vec![0.0; layout.gates * layout.shape.hidden_size],
        }
    }
}

/// What is done with a row in one phase of a step of a pass `P`.
pub(super) trait Phase<P, At: Copy> {
    /// # Safety
    ///
    /// The place must be the calling member's until the next barrier, and what the last products gave be complete.
    unsafe fn row<const W: usize, O: MulAdd>(pass: &P, work: &mut Work, at: At, place: usize);
}

/// A phase of some places.
pub(super) struct EachRow<'a, P, At, F> {
    pass: &'a P,
    at: At,
    places: Range<usize>,
    work: &'a mut Work,
    phase: PhantomData<F>,
}

impl<'a, P, At: Copy, F: Phase<P, At>> EachRow<'a, P, At, F> {
    /// # Safety
    ///
    /// As [`Phase::row`], for all places.
    pub(super) unsafe fn new(pass: &'a P, work: &'a mut Work, at: At, places: Range<usize>) -> Self {
        Self { pass, at, places, work, phase: PhantomData }
    }
}

impl<P, At: Copy, F: Phase<P, At>> Kernel for EachRow<'_, P, At, F> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        for place in self.places {
            // SAFETY: promised by the maker.
            unsafe { F::row::<W, O>(self.pass, self.work, self.at, place) };
        }
    }
}
