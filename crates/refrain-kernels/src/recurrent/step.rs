//! One step of a tile: from the sums to the new states, packed for the next step's product.

use std::marker::PhantomData;

use super::batch::Batch;
use super::cell::Step;
use super::lanes::{Block, Lanes, MAX_BLOCK};
use super::options::{Extras, SequenceOptions, Spot};
use super::plan::Plan;
use crate::arch::{Kernel, MulAdd};
use crate::format::{Encode, take};
use crate::tile::{Sums, sum_of};

/// Calls a function that is generic over the number of a panel's units, which so many lanes and gates have.
///
/// It is matched as a constant, so that one of these functions is compiled and not four: those took half of the compiler's time.
macro_rules! with_units {
    ($lanes:expr, $gates:expr, $U:ident => $call:expr) => {
        match const { $crate::recurrent::plan::units($lanes, $gates) } {
            4 => {
                const $U: usize = 4;
                $call
            }
            8 => {
                const $U: usize = 8;
                $call
            }
            16 => {
                const $U: usize = 16;
                $call
            }
            32 => {
                const $U: usize = 32;
                $call
            }
            units => unreachable!("panels of {units} units"),
        }
    };
}

pub(super) use with_units;

/// The parts of a block's terms.
pub(super) type Terms<E> = [[<E as Encode>::Term; MAX_BLOCK]; 3];

/// What a member works in.
pub(super) struct Work<E: Encode> {
    pub(super) sums: Sums,
    pub(super) lanes: Lanes,
    pub(super) terms: Terms<E>,
    /// Where there are options.
    pub(super) extras: Option<Box<Extras>>,
}

impl<E: Encode> Work<E> {
    pub(super) fn new(options: &SequenceOptions) -> Self {
        Self {
            sums: Sums::new(),
            lanes: Lanes::new(),
            terms: [[E::Term::default(); MAX_BLOCK]; 3],
            extras: options.any().then(Extras::new),
        }
    }
}

/// Starts the sums of a step with the input's products and the biases.
pub(super) struct StartSums<'a, C> {
    pub(super) sums: &'a Sums,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) width: usize,
    /// By sum.
    pub(super) bias: &'a [f32],
    /// By sum.
    pub(super) to: &'a mut [f32],
    pub(super) cell: PhantomData<C>,
}

impl<C: Step> Kernel for StartSums<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        with_units!(W, C::GATES, U => self.start::<U>());
    }
}

impl<C: Step> StartSums<'_, C> {
    #[inline(always)]
    fn start<const U: usize>(self) {
        let block_len = self.to.len() / C::SUMS;
        for (sum, bias) in self.bias.as_chunks::<U>().0.iter().enumerate() {
            let to = &mut self.to[sum * block_len..(sum + 1) * block_len];
            for (r, to) in to.as_chunks_mut::<U>().0.iter_mut().enumerate().take(self.rows) {
                *to = if sum < C::GATES {
                    sum_of(*bias, *self.sums.part::<U>(self.first_row + r, self.width, sum * U))
                } else {
                    *bias
                };
            }
        }
    }
}

/// Adds the recurrent products to the sums, makes the step and stores it.
///
/// Whoever makes one promises that `hidden` and `output` are good for its rows and units and no other thread's.
pub(super) struct FinishStep<'a, C, E: Encode, F> {
    pub(super) plan: &'a Plan,
    pub(super) batch: &'a Batch,
    pub(super) options: &'a SequenceOptions<'a>,
    pub(super) step: usize,
    pub(super) work: &'a mut Work<E>,
    pub(super) first_place: usize,
    pub(super) rows: usize,
    /// Units of the panel that are there.
    pub(super) present: usize,
    pub(super) first_unit: usize,
    /// By sum.
    pub(super) kept: &'a mut [f32],
    pub(super) before: &'a [f32],
    pub(super) after: &'a mut [f32],
    /// The hidden state, where zoneout reads it.
    pub(super) zoned: &'a mut [f32],
    /// The row block's hidden states after the step.
    pub(super) hidden: *mut u32,
    /// Where that of a row after it goes as an output: a `*mut f32`.
    pub(super) output: Option<F>,
    pub(super) cell: PhantomData<(C, E)>,
}

impl<C: Step, E: Encode, F: Fn(usize) -> *mut f32> Kernel for FinishStep<'_, C, E, F> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        with_units!(W, C::GATES, U => self.finish::<W, U, O>());
    }
}

impl<C: Step, E: Encode, F: Fn(usize) -> *mut f32> FinishStep<'_, C, E, F> {
    #[inline(always)]
    fn finish<const W: usize, const U: usize, O: MulAdd>(self) {
        let Self { plan, batch, options, work, rows, kept, before, after, zoned, .. } = self;
        let (block_len, lanes) = (plan.block_len(), &mut work.lanes);
        let recurrent = |sum: usize| C::RECURRENT_SUMS.iter().position(|&of| of == sum);
        for (sum, (from, to)) in kept.chunks_exact(block_len).zip(&mut lanes.sums).enumerate() {
            let (from, to) = (from.as_chunks::<U>().0, to.as_chunks_mut::<U>().0);
            for (r, (from, to)) in from.iter().zip(to).enumerate().take(rows) {
                *to = match recurrent(sum) {
                    Some(gate) => sum_of(*from, *work.sums.part::<U>(r, plan.tile.width, gate * U)),
                    None => *from,
                };
            }
        }
        // Whole vectors: blocks have room for them, and what lies beyond the last row is nobody's.
        let count = (rows * U).next_multiple_of(W);
        if C::HAS_STATE {
            lanes.state[..count].copy_from_slice(&before[..count]);
        }
        match &mut work.extras {
            None => lanes.forward::<C, O>(count),
            Some(extras) => {
                let (first_place, first_unit) = (self.first_place, self.first_unit);
                extras.read::<U>(options, Spot { plan, batch, first_place, rows, first_unit, step: self.step });
                if let Some(zoned) = zoned.get(..count) {
                    extras.hidden_before[..count].copy_from_slice(zoned);
                }
                if options.change_steps() {
                    lanes.forward_with::<C, O>(count, extras);
                } else {
                    lanes.forward::<C, O>(count);
                }
            }
        }
        for (from, to) in lanes.sums.iter().zip(kept.chunks_exact_mut(block_len)) {
            to[..count].copy_from_slice(&from[..count]);
        }
        if C::HAS_STATE {
            after[..count].copy_from_slice(&lanes.state[..count]);
        }
        let outputs = self.output.iter().flat_map(|output| (0..rows).map(output));
        for (hidden, to) in work.lanes.hidden.as_chunks::<U>().0.iter().zip(outputs) {
            // SAFETY: promised by the maker.
            unsafe {
                // Twice, so that the common case has a constant length.
                if self.present == U {
                    to.cast::<[f32; U]>().write_unaligned(*hidden);
                } else {
                    hidden.as_ptr().copy_to_nonoverlapping(to, self.present);
                }
            }
        }
        if let Some(zoned) = zoned.get_mut(..count) {
            zoned.copy_from_slice(&work.lanes.hidden[..count]);
        }
        if !C::STATE_ENTERS_PRODUCTS {
            return;
        }
        if self.present < U {
            // What padding makes of an infinite input is not a number, and would spoil the next step.
            for hidden in work.lanes.hidden.as_chunks_mut::<U>().0.iter_mut().take(rows) {
                hidden[self.present..].fill(0.0);
            }
        }
        let hidden = match &mut work.extras {
            Some(extras) if options.hidden_dropout.is_some() => {
                // A block that the way back alone uses otherwise.
                for ((to, hidden), factor) in
                    extras.carry[..count].iter_mut().zip(&work.lanes.hidden).zip(&extras.recall)
                {
                    *to = hidden * factor;
                }
                &extras.carry
            }
            _ => &work.lanes.hidden,
        };
        let left = LeftRows { to: self.hidden, lines: plan.tile.rows };
        // SAFETY: promised by the maker; the terms of the panel's units lie in the packed blocks, which are whole.
        unsafe { left.write::<E, W, U>(hidden, &mut work.terms, rows, self.first_unit) };
    }
}

/// A left factor's packed rows, to be written column by column.
#[derive(Clone, Copy)]
pub(super) struct LeftRows {
    pub(super) to: *mut u32,
    pub(super) lines: usize,
}

impl LeftRows {
    /// Writes the terms from `first` on, `U` of each row: `values[r * U + u]`.
    ///
    /// # Safety
    ///
    /// The packed rows must have these terms, and they be no other thread's.
    #[inline(always)]
    pub(super) unsafe fn write<E: Encode, const W: usize, const U: usize>(
        self,
        values: &Block,
        terms: &mut Terms<E>,
        rows: usize,
        first: usize,
    ) {
        let block_terms = E::FORMAT.block_terms();
        let run = U.min(block_terms);
        // All values are encoded in whole vectors, then copied in runs.
        for (v, values) in values.as_chunks::<W>().0.iter().enumerate().take((rows * U).div_ceil(W)) {
            let mut rest = *values;
            for terms in terms.iter_mut().take(E::PARTS) {
                let bits = take::<E, W>(&mut rest);
                let terms = &mut terms.as_chunks_mut::<W>().0[v];
                for l in 0..W {
                    terms[l] = E::term(bits[l]);
                }
            }
        }
        for start in (0..U).step_by(run) {
            let (block, offset) = ((first + start) / block_terms, (first + start) % block_terms);
            for (part, terms) in terms.iter().enumerate().take(E::PARTS) {
                let to = (block * E::PARTS + part) * self.lines * block_terms + offset;
                for (r, terms) in terms.as_chunks::<U>().0.iter().enumerate().take(rows) {
                    // SAFETY: by contract.
                    unsafe {
                        let to = self.to.cast::<E::Term>().add(to + r * block_terms);
                        terms[start..start + run].as_ptr().copy_to_nonoverlapping(to, run);
                    }
                }
            }
        }
    }
}
