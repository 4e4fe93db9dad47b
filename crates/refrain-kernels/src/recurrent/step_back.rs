//! One step back of a tile: from the gradients of what the step gave to those of its sums, in both packings.

use std::marker::PhantomData;

use super::Rows;
use super::backward_plan::BackwardPlan;
use super::batch::Batch;
use super::cell::Step;
use super::lanes::{Block, Lanes, MAX_BLOCK};
use super::options::{Extras, SequenceOptions, Spot};
use super::step::{LeftRows, Terms, with_units};
use crate::arch::{Kernel, MulAdd};
use crate::format::{BLOCK_WORDS, Encode, words};
use crate::tile::{Sums, sum_of};

/// The gradients of a tile.
#[repr(C, align(64))]
pub(super) struct StepWork<E: Encode> {
    /// A forward panel.
    pub(super) lanes: Lanes,
    /// The gradients of the tile, row by row.
    pub(super) rows: [Block; 4],
    pub(super) terms: Terms<E>,
    /// Where there are options.
    pub(super) extras: Option<Box<Extras>>,
}

impl<E: Encode> StepWork<E> {
    #[expect(clippy::large_stack_arrays, reason = "it lives on a member's stack, which has megabytes")]
    pub(super) fn new(options: &SequenceOptions) -> Self {
        let block = [0.0; MAX_BLOCK];
        let extras = options.any().then(Extras::new);
        Self { lanes: Lanes::new(), rows: [block; 4], terms: [[E::Term::default(); MAX_BLOCK]; 3], extras }
    }
}

/// What a forward panel kept of a step.
#[derive(Clone, Copy, Default)]
pub(super) struct Sub<'a> {
    pub(super) kept: &'a [f32],
    pub(super) before: &'a [f32],
    pub(super) after: &'a [f32],
}

/// One step back, for a tile whose recurrent products are in `sums`.
///
/// Whoever makes one promises that `left` and `columns` are good for its rows and units and no other thread's.
pub(super) struct StepBack<'a, C, E: Encode> {
    pub(super) plan: &'a BackwardPlan,
    pub(super) batch: &'a Batch,
    pub(super) options: &'a SequenceOptions<'a>,
    pub(super) step: usize,
    pub(super) sums: &'a Sums,
    /// The rows whose sums are a recurrent product; those of the rest are gradients of last hidden states.
    pub(super) through_product: usize,
    pub(super) work: &'a mut StepWork<E>,
    pub(super) first_place: usize,
    pub(super) rows: usize,
    /// Units of the panel that are there.
    pub(super) present: usize,
    pub(super) first_unit: usize,
    /// From the first unit of the first step on.
    pub(super) grad_output: Option<Rows<'a>>,
    pub(super) subs: &'a [Sub<'a>],
    /// By forward panel.
    pub(super) state: &'a mut [f32],
    /// As `state`, or nothing.
    pub(super) carry: &'a mut [f32],
    /// As `state`, three times, or nothing.
    pub(super) peepholes: &'a mut [f32],
    pub(super) left: LeftRows,
    /// The panel of columns of each gradient.
    pub(super) columns: [*mut u32; 4],
    /// The first row's term in the columns.
    pub(super) first_term: usize,
    pub(super) bias: [&'a mut [f32]; 4],
    pub(super) cell: PhantomData<(C, E)>,
}

impl<C: Step, E: Encode> Kernel for StepBack<'_, C, E> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        with_units!(W, C::GATES, U => {
            // A tile of gradients has two vectors of units.
            if const { W == 16 } {
                self.step_back::<W, U, 32, O>();
            } else {
                self.step_back::<W, U, 16, O>();
            }
        });
    }
}

impl<C: Step, E: Encode> StepBack<'_, C, E> {
    /// `U` units of a forward panel, `N` of this one.
    #[inline(always)]
    fn step_back<const W: usize, const U: usize, const N: usize, O: MulAdd>(self) {
        let block_len = self.plan.forward.block_len();
        for (sub, state) in self.state.chunks_exact_mut(block_len).enumerate() {
            let Some(kept) = self.subs.get(sub) else {
                for rows in &mut self.work.rows[..C::GRADIENTS.len()] {
                    for row in &mut rows.as_chunks_mut::<N>().0[..self.rows] {
                        row[sub * U..(sub + 1) * U].fill(0.0);
                    }
                }
                continue;
            };
            let lanes = &mut self.work.lanes;
            let spot = Spot {
                plan: &self.plan.forward,
                batch: self.batch,
                first_place: self.first_place,
                rows: self.rows,
                first_unit: self.first_unit + sub * U,
                step: self.step,
            };
            let extras = &mut self.work.extras;
            if let Some(extras) = extras {
                extras.read::<U>(self.options, spot);
            }
            let recall = extras.as_ref().filter(|_| self.options.hidden_dropout.is_some());
            let recall = recall.map(|extras| (&extras.recall, self.through_product));
            let sums = (self.sums, self.present.saturating_sub(sub * U).min(U), sub);
            hidden_gradient::<U, N>(sums, self.grad_output, recall, spot, &mut lanes.hidden);
            // Whole vectors: blocks have room for them, and what lies beyond the last row is nobody's.
            let count = (self.rows * U).next_multiple_of(W);
            for (from, to) in kept.kept.chunks_exact(block_len).zip(&mut lanes.sums) {
                to[..count].copy_from_slice(&from[..count]);
            }
            if C::HAS_STATE {
                lanes.state_before[..count].copy_from_slice(&kept.before[..count]);
                lanes.state_after[..count].copy_from_slice(&kept.after[..count]);
                lanes.state[..count].copy_from_slice(&state[..count]);
            }
            match extras {
                Some(extras) if self.options.change_steps() => {
                    let len = self.plan.state_len();
                    let start = sub * block_len;
                    match self.carry.get(start..start + count) {
                        Some(carry) => extras.carry[..count].copy_from_slice(carry),
                        // What another tile left there must not reach this one, not even times zero.
                        None => extras.carry[..count].fill(0.0),
                    }
                    extras.load_peepholes(self.peepholes, (start, len), count);
                    lanes.backward_with::<C, O>(count, extras);
                    if let Some(carry) = self.carry.get_mut(start..start + count) {
                        carry.copy_from_slice(&extras.carry[..count]);
                    }
                    extras.store_peepholes(self.peepholes, (start, len), self.rows * U);
                }
                _ => lanes.backward::<C, O>(count),
            }
            if C::HAS_STATE {
                state[..count].copy_from_slice(&lanes.state[..count]);
            }
            for (blocks, rows) in lanes.sums.iter().zip(&mut self.work.rows).take(C::GRADIENTS.len()) {
                let rows = rows.as_chunks_mut::<N>().0;
                for (row, units) in rows.iter_mut().zip(blocks.as_chunks::<U>().0).take(self.rows) {
                    if let Some(row) = row[sub * U..].first_chunk_mut::<U>() {
                        *row = *units;
                    }
                }
            }
        }
        for gradient in 0..C::GRADIENTS.len() {
            if self.present < N {
                // As in the forward pass.
                for row in self.work.rows[gradient].as_chunks_mut::<N>().0.iter_mut().take(self.rows) {
                    row[self.present..].fill(0.0);
                }
            }
            let rows = &self.work.rows[gradient];
            let mut sum = [0.0; N];
            for row in &rows.as_chunks::<N>().0[..self.rows] {
                sum = sum_of(sum, *row);
            }
            if let Some(bias) = self.bias[gradient].first_chunk_mut::<N>() {
                *bias = sum_of(*bias, sum);
            }
            let term = gradient * self.plan.padded + self.first_unit;
            // SAFETY: promised by the maker.
            unsafe {
                self.left.write::<E, W, N>(rows, &mut self.work.terms, self.rows, term);
                write_columns::<E, N>(rows, self.rows, self.columns[gradient], self.first_term);
            }
        }
    }
}

/// δh of a forward panel as a block: the recurrent products, through what dropped their factors, and the gradient of the output.
#[inline(always)]
fn hidden_gradient<const U: usize, const N: usize>(
    (sums, present, sub): (&Sums, usize, usize),
    grad_output: Option<Rows>,
    recall: Option<(&Block, usize)>,
    spot: Spot,
    hidden: &mut Block,
) {
    for (r, hidden) in hidden.as_chunks_mut::<U>().0.iter_mut().enumerate().take(spot.rows) {
        *hidden = *sums.part::<U>(r, N, sub * U);
        if let Some((recall, _)) = recall.filter(|&(_, through_product)| r < through_product) {
            for (hidden, factor) in hidden.iter_mut().zip(&recall.as_chunks::<U>().0[r]) {
                *hidden *= factor;
            }
        }
        if let Some(grad) = grad_output {
            let at = spot.batch.at(spot.first_place + r, spot.step);
            let grad = &grad.row(at, sub * U + present)[sub * U..];
            // Twice, so that the common case has a constant length.
            if let Some(grad) = grad.first_chunk::<U>() {
                *hidden = sum_of(*hidden, *grad);
            } else {
                for (hidden, grad) in hidden.iter_mut().zip(grad) {
                    *hidden += grad;
                }
            }
        }
    }
}

/// Writes rows of gradients as terms of packed columns, from `first_term` on, the last one of an odd number beside a zero.
///
/// # Safety
///
/// The packed columns must have these terms, and they be no other thread's.
#[inline(always)]
unsafe fn write_columns<E: Encode, const N: usize>(rows: &[f32], count: usize, columns: *mut u32, first_term: usize) {
    let rows = &rows.as_chunks::<N>().0[..count];
    for (index, pair) in rows.chunks(E::TERMS).enumerate() {
        let (first, second) = (&pair[0], if pair.len() == 2 { &pair[1] } else { &[0.0; N] });
        let word = first_term / E::TERMS + index;
        let (block, word) = (word / BLOCK_WORDS, word % BLOCK_WORDS);
        words::<E, N>(*first, *second, |part, words| {
            // SAFETY: by contract.
            unsafe {
                let to = columns.add(((block * E::PARTS + part) * BLOCK_WORDS + word) * N);
                to.cast::<[u32; N]>().write_unaligned(*words);
            }
        });
    }
}
