//! What a step does row by row between its products.

use std::marker::PhantomData;
use std::ops::Range;

use super::super::cell::Step;
use super::super::lanes::{Lanes, MAX_BLOCK, mix};
use super::super::options::Zoneout;
use super::forward::Forward;
use super::layout::{FACTORS, INPUT, Kind, Layout, RECURRENT, split};
use super::norm::normalise;
use super::product::tile_packing;
use super::work::{Phase, Work};
use crate::activation::tanh_lane;
use crate::arch::{Kernel, MulAdd};
use crate::shared::SharedSlice;

/// Units that pass through the lanes at once.
pub(super) const PIECE: usize = 1024;
const _: () = assert!(PIECE <= MAX_BLOCK);

/// The pieces of a row of units.
pub(super) fn pieces(size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..size).step_by(PIECE).map(move |first| first..(first + PIECE).min(size))
}

/// Packs a row as one of the left factor of a product.
///
/// # Safety
///
/// The row must be the calling member's.
pub(super) unsafe fn pack_row(layout: &Layout, to: SharedSlice<u32>, row: usize, from: &[f32]) {
    let packing = tile_packing(layout, from.len());
    // SAFETY: by contract; the tile lies in the factor.
    unsafe {
        packing.line(to.part_pointer(row / packing.lines * packing.len(), packing.len()), row % packing.lines, from);
    };
}

/// Where a pass is.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) chunk: &'a Range<usize>,
    pub(super) step: usize,
}

/// What follows from the first recurrent product of a step.
pub(super) struct Gates<C>(PhantomData<C>);

impl<C: Step> Phase<Forward<'_>, At<'_>> for Gates<C> {
    #[inline(always)]
    unsafe fn row<const W: usize, O: MulAdd>(pass: &Forward, work: &mut Work, at: At, place: usize) {
        // SAFETY: by contract.
        unsafe { pass.gates_row::<C, W, O>(work, at, place) };
    }
}

/// What follows from the product with the projection.
pub(super) struct Projected;

impl Phase<Forward<'_>, At<'_>> for Projected {
    #[inline(always)]
    unsafe fn row<const W: usize, O: MulAdd>(pass: &Forward, work: &mut Work, at: At, place: usize) {
        let size = pass.layout.state_size;
        // SAFETY: by contract.
        unsafe {
            work.hidden[..size].copy_from_slice(pass.second_sums.part(place * size, size));
            pass.finish_row(work, at.step, place);
        }
    }
}

/// What becomes of a hidden state before it is stored.
struct ZoneOut<'a> {
    zoneout: Zoneout<'a>,
    row: usize,
    before: &'a [f32],
    after: &'a mut [f32],
    keep: &'a mut [f32],
}

impl Kernel for ZoneOut<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let size = self.after.len();
        self.zoneout.parts(size, self.row, 0..size, self.keep);
        for ((after, keep), before) in self.after.iter_mut().zip(self.keep).zip(self.before) {
            *after = mix::<O>(*keep, *before, *after);
        }
    }
}

impl Forward<'_> {
    /// The hidden state of a sequence so far.
    ///
    /// # Safety
    ///
    /// The sequence must be the calling member's, and its state not be borrowed elsewhere.
    #[expect(clippy::mut_from_ref, reason = "a part of what the members share out among them")]
    pub(super) unsafe fn hidden_row(&self, row: usize) -> &mut [f32] {
        let size = self.layout.state_size;
        // SAFETY: by contract.
        unsafe { self.hidden.part_mut(row * size, size) }
    }

    /// Packs a hidden state as the products read it.
    ///
    /// # Safety
    ///
    /// The place must be the calling member's.
    pub(super) unsafe fn recall(&self, place: usize, hidden: &[f32], factors: &mut [f32]) {
        let recalled = &mut factors[..hidden.len()];
        let from = match self.inputs.options.hidden_dropout {
            Some(dropped) => {
                dropped.factors(hidden.len(), self.batch.row(place), 0..hidden.len(), recalled);
                for (factor, hidden) in recalled.iter_mut().zip(hidden) {
                    *factor *= hidden;
                }
                recalled
            }
            None => hidden,
        };
        // SAFETY: by contract.
        unsafe { pack_row(&self.layout, self.left_hidden, place, from) };
    }

    /// From a row's sums to its new state, and to the hidden state or what is projected.
    ///
    /// # Safety
    ///
    /// The place must be the calling member's, and its sums complete.
    #[inline(always)]
    unsafe fn gates_row<C: Step, const W: usize, O: MulAdd>(
        &self,
        work: &mut Work,
        At { chunk, step }: At,
        place: usize,
    ) {
        let Self { layout, inputs, batch, .. } = self;
        let (hidden_size, row) = (layout.shape.hidden_size, batch.row(place));
        let (options, norms) = (&inputs.options, inputs.variant.norms);
        let cols = layout.recurrent_cols();
        // SAFETY: by contract; of all of these each sequence or place has its own part.
        let (record, sums, hidden, cell_state) = unsafe {
            let cell_size = if layout.shape.cell.has_cell_state() { hidden_size } else { 0 };
            (
                self.record(chunk, self.rows.at(place, step)),
                self.recurrent.part_mut(place * cols, cols),
                self.hidden_row(row),
                self.cell_state.part_mut(row * cell_size, cell_size),
            )
        };
        let parts = split(record, layout.kept());
        if norms.is_some() {
            parts[FACTORS][0] = normalise::<W>(parts[INPUT]);
            parts[FACTORS][1] = normalise::<W>(sums);
            parts[RECURRENT].copy_from_slice(sums);
        }
        let [gates, input, _, cell, inner, state, _] = parts;
        for units in pieces(hidden_size) {
            let lanes = &mut work.lanes;
            for (sum, to) in lanes.sums.iter_mut().enumerate().take(C::SUMS) {
                let to = &mut to[..units.len()];
                let of = |gate: usize| gate * hidden_size + units.start..gate * hidden_size + units.end;
                let bias = &inputs.bias[of(sum)];
                match norms {
                    _ if sum >= C::GATES => to.copy_from_slice(bias),
                    None => to.copy_from_slice(&input[of(sum)]),
                    Some(norms) => {
                        let gains = norms.input[of(sum)].iter().zip(&input[of(sum)]);
                        for ((to, (gain, input)), bias) in to.iter_mut().zip(gains).zip(bias) {
                            *to = O::mul_add(*gain, *input, *bias);
                        }
                    }
                }
                let Some(gate) = C::RECURRENT_SUMS.iter().position(|&of| of == sum) else { continue };
                match norms {
                    None => to.iter_mut().zip(&sums[of(gate)]).for_each(|(to, sum)| *to += sum),
                    Some(norms) => {
                        let gains = norms.hidden[of(gate)].iter().zip(&sums[of(gate)]);
                        to.iter_mut().zip(gains).for_each(|(to, (gain, sum))| *to = O::mul_add(*gain, *sum, *to));
                    }
                }
            }
            if C::HAS_STATE {
                let before = if C::STATE_IS_HIDDEN { &*hidden } else { &*cell_state };
                lanes.state[..units.len()].copy_from_slice(&before[units.clone()]);
            }
            let count = units.len().next_multiple_of(W);
            match &mut work.extras {
                None => lanes.forward::<C, O>(count),
                Some(extras) => {
                    extras.read_row(options, (layout.shape, step, row), units.clone());
                    lanes.forward_with::<C, O>(count, extras);
                }
            }
            for (from, to) in lanes.sums.iter().zip(gates.chunks_exact_mut(hidden_size)) {
                to[units.clone()].copy_from_slice(&from[..units.len()]);
            }
            work.hidden[units.clone()].copy_from_slice(&lanes.hidden[..units.len()]);
            if C::HAS_STATE {
                work.state[units.clone()].copy_from_slice(&lanes.state[..units.len()]);
            }
        }
        if let Some(gains) = norms.and_then(|norms| norms.cell_state) {
            cell.copy_from_slice(&work.state[..hidden_size]);
            let normal = &mut work.normal[..hidden_size];
            normal.copy_from_slice(cell);
            normalise::<W>(normal);
            let (gain, bias) = gains.split_at(hidden_size);
            let output = &gates[(C::SUMS - 1) * hidden_size..];
            for units in pieces(hidden_size) {
                let lanes = &mut work.lanes;
                let shown = normal[units.clone()].iter().zip(&gain[units.clone()]).zip(&bias[units.clone()]);
                for (to, ((normal, gain), bias)) in lanes.state.iter_mut().zip(shown) {
                    *to = O::mul_add(*gain, *normal, *bias);
                }
                lanes.sums[0][..units.len()].copy_from_slice(&output[units.clone()]);
                lanes.show::<O>(units.len().next_multiple_of(W));
                work.hidden[units.clone()].copy_from_slice(&lanes.hidden[..units.len()]);
            }
        }
        if !cell_state.is_empty() {
            let after = &mut work.state[..hidden_size];
            if let Some(zoneout) = options.zoneout_cell {
                let (row, keep) = (step * layout.shape.batch_size + row, &mut work.factors[..hidden_size]);
                layout.arch.run(ZoneOut { zoneout, row, before: cell_state, after: &mut *after, keep });
            }
            cell_state.copy_from_slice(after);
            state.copy_from_slice(after);
        }
        if layout.kind == Kind::Projected {
            inner.copy_from_slice(&work.hidden[..hidden_size]);
            // SAFETY: by contract.
            unsafe { pack_row(layout, self.left_inner, place, inner) };
        } else {
            // SAFETY: by contract.
            unsafe { self.finish_row(work, step, place) };
        }
    }

    /// Stores a row's new hidden state, which the work holds.
    ///
    /// # Safety
    ///
    /// The place must be the calling member's.
    pub(super) unsafe fn finish_row(&self, work: &mut Work, step: usize, place: usize) {
        let Self { layout, inputs, batch, .. } = self;
        let (size, row) = (layout.state_size, batch.row(place));
        // SAFETY: by contract.
        let hidden = unsafe { self.hidden_row(row) };
        let after = &mut work.hidden[..size];
        if let Some(zoneout) = inputs.options.zoneout_hidden {
            let (row, keep) = (step * layout.shape.batch_size + row, &mut work.factors[..size]);
            layout.arch.run(ZoneOut { zoneout, row, before: hidden, after: &mut *after, keep });
        }
        hidden.copy_from_slice(after);
        if let Some(output) = self.output {
            // SAFETY: each sequence's step has one writer.
            unsafe { output.part_mut(batch.at(place, step) * size, size) }.copy_from_slice(after);
        }
        // SAFETY: by contract.
        unsafe { self.recall(place, after, &mut work.factors) };
    }
}

impl Lanes {
    /// The hidden state of what the cell state shows, given the output gate.
    #[inline(always)]
    fn show<O: MulAdd>(&mut self, count: usize) {
        for i in 0..count.min(MAX_BLOCK) {
            self.hidden[i] = self.sums[0][i] * tanh_lane::<O>(self.state[i]);
        }
    }
}
