//! What a step back does row by row between its products.

use super::super::cell::Step;
use super::super::lanes::{Lanes, MAX_BLOCK};
use super::backward::Back;
use super::forward_rows::{Gates, Projected, pack_row, pieces};
use super::layout::{
    BEFORE, CELL, FACTORS, FEATURES, GATES, GROUP, INPUT, Kind, OF_HIDDEN, RECURRENT, STATE, len, part, split,
};
use super::norm::{normalise, normalise_back};
use super::work::{Phase, Work};
use crate::activation::tanh_lane;
use crate::arch::MulAdd;
use crate::pool::Member;
use crate::shared::SharedSlice;

/// What follows from the product with the later step's gradients where there is a projection.
impl Phase<Back<'_>, usize> for Projected {
    #[inline(always)]
    unsafe fn row<const W: usize, O: MulAdd>(pass: &Back, work: &mut Work, step: usize, place: usize) {
        let size = pass.layout.state_size;
        // SAFETY: by contract.
        unsafe {
            pass.hidden_row(work, step, place);
            let record = split(pass.record(pass.rows.at(place, step)), pass.layout.gradients());
            record[OF_HIDDEN].copy_from_slice(&work.hidden[..size]);
            pack_row(&pass.layout, pass.left_second, place, record[OF_HIDDEN]);
        }
    }
}

/// What follows from the last product of a step: the gradients of its sums.
impl<C: Step> Phase<Back<'_>, usize> for Gates<C> {
    #[inline(always)]
    unsafe fn row<const W: usize, O: MulAdd>(pass: &Back, work: &mut Work, step: usize, place: usize) {
        // SAFETY: by contract.
        unsafe {
            if pass.layout.kind == Kind::Projected {
                pass.second_row(work, place);
            } else {
                pass.hidden_row(work, step, place);
            }
            pass.gates_row::<C, W, O>(work, step, place);
        }
    }
}

impl Back<'_> {
    /// Copies what the products had read of a member's share of the chunk into its records.
    pub(super) fn gather(&self, member: Member) {
        let Self { layout, batch, inputs, .. } = self;
        let (input_size, state_size) = (layout.shape.input_size, layout.state_size);
        let rows = self.rows.of(&self.chunk);
        for row in member.share(rows.len()).map(|row| rows.start + row) {
            let (place, step) = self.rows.find(row);
            // SAFETY: each row belongs to one member until the barrier; who read the last chunk's has finished.
            let record = split(unsafe { self.record(row) }, layout.gradients());
            record[FEATURES].copy_from_slice(&inputs.input[batch.at(place, step) * input_size..][..input_size]);
            inputs.options.recall_row(batch.row(place), state_size, record[BEFORE]);
            for (to, hidden) in record[BEFORE].iter_mut().zip(self.hidden_before(place, step)) {
                *to *= hidden;
            }
        }
    }

    /// The gradients of the states before the first step, of a member's share of the sequences.
    pub(super) fn initial_states(&self, member: Member, work: &mut Work) {
        let (state_size, hidden_size) = (self.layout.state_size, self.layout.shape.hidden_size);
        for place in member.share(self.layout.shape.batch_size) {
            let row = self.batch.row(place);
            // SAFETY: each sequence belongs to one member, and has one writer.
            unsafe {
                // One without a step: its states pass through.
                self.incoming_row(work, place, self.batch.running(0));
                if let Some(hidden) = self.hidden {
                    let to = hidden.part_mut(row * state_size, state_size);
                    to.copy_from_slice(&work.hidden[..state_size]);
                    if let Some(beside) = self.beside() {
                        let beside = beside.part(place * state_size, state_size);
                        to.iter_mut().zip(beside).for_each(|(to, beside)| *to += beside);
                    }
                }
                if let Some(cell_state) = self.cell_state.filter(|_| self.layout.shape.cell.has_cell_state()) {
                    let to = cell_state.part_mut(row * hidden_size, hidden_size);
                    to.copy_from_slice(self.state.part(place * hidden_size, hidden_size));
                }
            }
        }
    }

    /// What of δ of the hidden state goes on beside the products, if anything may.
    fn beside(&self) -> Option<SharedSlice<'_, f32>> {
        if self.state_is_hidden { Some(self.state) } else { self.inputs.options.zoneout_hidden.map(|_| self.carry) }
    }

    /// δ of a row's hidden units, or of what the second product read, into the work.
    ///
    /// # Safety
    ///
    /// The place must be the calling member's, and the product complete.
    pub(super) unsafe fn second_row(&self, work: &mut Work, place: usize) {
        let size = self.layout.shape.hidden_size;
        // SAFETY: by contract.
        work.hidden[..size].copy_from_slice(unsafe { self.second_product.part(place * size, size) });
    }

    /// The record of a row of the chunk.
    ///
    /// # Safety
    ///
    /// The row must be the calling member's, and its record not be borrowed elsewhere.
    #[expect(clippy::mut_from_ref, reason = "a part of what the members share out among them")]
    pub(super) unsafe fn record(&self, row: usize) -> &mut [f32] {
        let len = len(&self.layout.gradients());
        // SAFETY: by contract.
        unsafe { self.records.part_mut((row - self.rows.of(&self.chunk).start) * len, len) }
    }

    /// The parts of what is added up over the rows of a place's group.
    ///
    /// # Safety
    ///
    /// The group must be the calling member's, and its sums not be borrowed elsewhere.
    #[expect(clippy::mut_from_ref, reason = "a part of what the members share out among them")]
    pub(super) unsafe fn row_sums(&self, place: usize) -> [&mut [f32]; 6] {
        let sizes = self.layout.row_sums();
        // SAFETY: by contract.
        split(unsafe { self.row_sums.part_mut(place / GROUP * len(&sizes), len(&sizes)) }, sizes)
    }

    /// A part of the forward pass's record of a row.
    pub(super) fn kept(&self, row: usize, index: usize) -> &[f32] {
        let sizes = self.layout.kept();
        &self.kept[(row - self.kept_first) * len(&sizes)..][part(&sizes, index)]
    }

    /// The hidden state before a step.
    pub(super) fn hidden_before(&self, place: usize, step: usize) -> &[f32] {
        let (from, at) = match step {
            0 => (self.inputs.hidden, self.batch.row(place)),
            _ => (self.output, self.batch.at(place, step - 1)),
        };
        &from[at * self.layout.state_size..][..self.layout.state_size]
    }

    /// The state beside the products before a step.
    fn state_before(&self, place: usize, step: usize) -> &[f32] {
        if self.state_is_hidden {
            self.hidden_before(place, step)
        } else if step == self.cell_first {
            let size = self.layout.shape.hidden_size;
            &self.cell_before[self.batch.row(place) * size..][..size]
        } else {
            self.kept(self.rows.at(place, step - 1), STATE)
        }
    }

    /// Begins δ of a row's hidden state: from the products of the later step, for the first `later` places; the others begin with
    /// the gradients of last states.
    ///
    /// # Safety
    ///
    /// The place must be the calling member's.
    unsafe fn incoming_row(&self, work: &mut Work, place: usize, later: usize) {
        let Self { layout, inputs, batch, grad, .. } = self;
        let (state_size, hidden_size, row) = (layout.state_size, layout.shape.hidden_size, batch.row(place));
        let hidden = &mut work.hidden[..state_size];
        if place < later {
            // SAFETY: the product is complete since the barrier.
            hidden.copy_from_slice(unsafe { self.product.part(place * state_size, state_size) });
            if inputs.options.hidden_dropout.is_some() {
                let recall = &mut work.factors[..state_size];
                inputs.options.recall_row(row, state_size, recall);
                hidden.iter_mut().zip(recall).for_each(|(hidden, recall)| *hidden *= *recall);
            }
            return;
        }
        // SAFETY: by contract.
        let (state, carry) = unsafe {
            (self.state.part_mut(place * hidden_size, hidden_size), self.carry.part_mut(place * state_size, state_size))
        };
        let begin = |to: &mut [f32], grad: Option<&[f32]>| match grad {
            Some(grad) => to.copy_from_slice(&grad[row * to.len()..][..to.len()]),
            None => to.fill(0.0),
        };
        begin(hidden, grad.last_hidden);
        begin(state, grad.last_cell_state.filter(|_| layout.shape.cell.has_cell_state()));
        carry.fill(0.0);
    }

    /// δ of a row's hidden state before what zoned out, in the work; what zoned out goes on.
    ///
    /// # Safety
    ///
    /// As [`Back::incoming_row`].
    pub(super) unsafe fn hidden_row(&self, work: &mut Work, step: usize, place: usize) {
        let Self { layout, inputs, batch, grad, .. } = self;
        // SAFETY: by contract.
        unsafe { self.incoming_row(work, place, batch.running(step + 1)) };
        let size = layout.state_size;
        let hidden = &mut work.hidden[..size];
        if let Some(output) = grad.output {
            let output = output.row(batch.at(place, step), size);
            hidden.iter_mut().zip(output).for_each(|(hidden, output)| *hidden += output);
        }
        let Some(beside) = self.beside() else { return };
        // SAFETY: by contract.
        let beside = unsafe { beside.part_mut(place * size, size) };
        hidden.iter_mut().zip(&*beside).for_each(|(hidden, beside)| *hidden += beside);
        if let Some(zoneout) = inputs.options.zoneout_hidden {
            let keep = &mut work.factors[..size];
            zoneout.parts(size, step * layout.shape.batch_size + batch.row(place), 0..size, keep);
            for ((hidden, beside), keep) in hidden.iter_mut().zip(beside).zip(keep) {
                *beside = *keep * *hidden;
                *hidden *= 1.0 - *keep;
            }
        } else {
            beside.fill(0.0);
        }
    }

    /// From δ of a row's hidden units, in the work, to the gradients of its sums.
    ///
    /// # Safety
    ///
    /// As [`Back::incoming_row`].
    #[inline(always)]
    unsafe fn gates_row<C: Step, const W: usize, O: MulAdd>(&self, work: &mut Work, step: usize, place: usize) {
        // SAFETY: by contract.
        unsafe {
            self.state_row::<C>(work, step, place);
            if self.layout.has_cell_norm {
                self.shown_row::<C, W, O>(work, step, place);
            }
            self.cell_row::<C, W, O>(work, step, place);
            self.sums_row::<C, W>(work, step, place);
        }
    }

    /// δ of a row's state before what zoned out, in the work, and what goes on beside the cell.
    ///
    /// # Safety
    ///
    /// As [`Back::incoming_row`].
    unsafe fn state_row<C: Step>(&self, work: &mut Work, step: usize, place: usize) {
        let Self { layout, inputs, batch, .. } = self;
        let hidden_size = layout.shape.hidden_size;
        // SAFETY: by contract.
        let state = unsafe { self.state.part(place * hidden_size, hidden_size) };
        let (of_state, kept) = (&mut work.state[..hidden_size], &mut work.kept[..hidden_size]);
        if C::STATE_IS_HIDDEN {
            // What of it goes on beside the products; all else has joined the hidden state's.
            kept.copy_from_slice(state);
            of_state.fill(0.0);
            return;
        }
        of_state.copy_from_slice(state);
        kept.fill(0.0);
        if let Some(zoneout) = inputs.options.zoneout_cell {
            let keep = &mut work.factors[..hidden_size];
            zoneout.parts(hidden_size, step * layout.shape.batch_size + batch.row(place), 0..hidden_size, keep);
            for ((of_state, kept), keep) in of_state.iter_mut().zip(kept).zip(keep) {
                *kept = *keep * *of_state;
                *of_state *= 1.0 - *keep;
            }
        }
    }

    /// The way back through what a normalised cell state shows: takes δ of the hidden units, adds to that of the state, and leaves the
    /// gradient of the output gate's sum in the work.
    ///
    /// # Safety
    ///
    /// As [`Back::incoming_row`].
    #[inline(always)]
    unsafe fn shown_row<C: Step, const W: usize, O: MulAdd>(&self, work: &mut Work, step: usize, place: usize) {
        let (hidden_size, row) = (self.layout.shape.hidden_size, self.rows.at(place, step));
        let gains = self.inputs.variant.norms.and_then(|norms| norms.cell_state).unwrap_or_default();
        let (gain, bias) = gains.split_at(hidden_size);
        // SAFETY: by contract; places of one group are one member's.
        let [_, _, _, of_gain, of_bias, of_peepholes] = unsafe { self.row_sums(place) };
        let normal = &mut work.normal[..hidden_size];
        normal.copy_from_slice(self.kept(row, CELL));
        let factor = normalise::<W>(normal);
        let output = &self.kept(row, GATES)[(C::SUMS - 1) * hidden_size..];
        for units in pieces(hidden_size) {
            let lanes = &mut work.lanes;
            let shown = normal[units.clone()].iter().zip(&gain[units.clone()]).zip(&bias[units.clone()]);
            for (to, ((normal, gain), bias)) in lanes.state.iter_mut().zip(shown) {
                *to = O::mul_add(*gain, *normal, *bias);
            }
            lanes.sums[0][..units.len()].copy_from_slice(&output[units.clone()]);
            lanes.hidden[..units.len()].copy_from_slice(&work.hidden[units.clone()]);
            lanes.show_back::<O>(units.len().next_multiple_of(W));
            work.output[units.clone()].copy_from_slice(&lanes.sums[0][..units.len()]);
            work.shown[units.clone()].copy_from_slice(&lanes.state[..units.len()]);
        }
        add(of_bias, &work.shown);
        add_product(of_gain, &work.shown, normal);
        let of_normal = &mut work.hidden[..hidden_size];
        for ((to, of_shown), gain) in of_normal.iter_mut().zip(&work.shown).zip(gain) {
            *to = of_shown * gain;
        }
        normalise_back::<W>(of_normal, normal, factor);
        add(&mut work.state[..hidden_size], of_normal);
        if let Some(peepholes) = self.inputs.options.peepholes {
            add_product(&mut work.state[..hidden_size], &peepholes[2 * hidden_size..], &work.output);
            add_product(&mut of_peepholes[2 * hidden_size..], &work.output, self.kept(row, CELL));
        }
        of_normal.fill(0.0);
    }

    /// The way back through a row's gates: the gradients of its sums, in the work, and of the state before the step.
    ///
    /// # Safety
    ///
    /// As [`Back::incoming_row`].
    #[inline(always)]
    unsafe fn cell_row<C: Step, const W: usize, O: MulAdd>(&self, work: &mut Work, step: usize, place: usize) {
        let Self { layout, inputs, batch, .. } = self;
        let (hidden_size, row) = (layout.shape.hidden_size, self.rows.at(place, step));
        // SAFETY: by contract; places of one group are one member's.
        let (state, [.., of_peepholes]) =
            unsafe { (self.state.part_mut(place * hidden_size, hidden_size), self.row_sums(place)) };
        let gates = self.kept(row, GATES);
        let state_before = if C::HAS_STATE { self.state_before(place, step) } else { &[] };
        for units in pieces(hidden_size) {
            let lanes = &mut work.lanes;
            for (from, to) in gates.chunks_exact(hidden_size).zip(&mut lanes.sums) {
                to[..units.len()].copy_from_slice(&from[units.clone()]);
            }
            if C::HAS_STATE {
                lanes.state[..units.len()].copy_from_slice(&work.state[units.clone()]);
                lanes.state_before[..units.len()].copy_from_slice(&state_before[units.clone()]);
                if !C::STATE_IS_HIDDEN {
                    lanes.state_after[..units.len()].copy_from_slice(&self.kept(row, STATE)[units.clone()]);
                }
            }
            lanes.hidden[..units.len()].copy_from_slice(&work.hidden[units.clone()]);
            let count = units.len().next_multiple_of(W);
            match &mut work.extras {
                None => lanes.backward::<C, O>(count),
                Some(extras) => {
                    extras.read_row(&inputs.options, (layout.shape, step, batch.row(place)), units.clone());
                    extras.carry[..count].fill(0.0);
                    extras.peephole_sums.iter_mut().for_each(|sums| sums[..count].fill(0.0));
                    lanes.backward_with::<C, O>(count, extras);
                    for (to, from) in of_peepholes.chunks_exact_mut(hidden_size).zip(&extras.peephole_sums) {
                        add(&mut to[units.clone()], from);
                    }
                }
            }
            for (from, &sum) in lanes.sums.iter().zip(C::GRADIENTS) {
                work.of_sums[sum * hidden_size..][units.clone()].copy_from_slice(&from[..units.len()]);
            }
            if C::HAS_STATE {
                let after = lanes.state[..units.len()].iter().zip(&work.kept[units.clone()]);
                state[units].iter_mut().zip(after).for_each(|(state, (after, kept))| *state = after + kept);
            }
        }
        if layout.has_cell_norm {
            // The gate's way led over what the cell state shows.
            work.of_sums[(C::SUMS - 1) * hidden_size..].copy_from_slice(&work.output[..hidden_size]);
        }
    }

    /// From the gradients of a row's sums, in the work, to those before they were normalised, which go on to the step before.
    ///
    /// # Safety
    ///
    /// As [`Back::incoming_row`].
    #[inline(always)]
    unsafe fn sums_row<C: Step, const W: usize>(&self, work: &mut Work, step: usize, place: usize) {
        let (layout, row) = (&self.layout, self.rows.at(place, step));
        let hidden_size = layout.shape.hidden_size;
        // SAFETY: by contract; places of one group are one member's.
        let (record, row_sums) = unsafe { (self.record(row), self.row_sums(place)) };
        let [of_input, of_recurrent, ..] = split(record, layout.gradients());
        let [of_bias, of_gain_input, of_gain_hidden, ..] = row_sums;
        add(of_bias, &work.of_sums);
        let Some(norms) = self.inputs.variant.norms else {
            debug_assert_eq!(of_input.len(), layout.recurrent_cols(), "a cell whose recurrent products join all sums");
            of_input.copy_from_slice(&work.of_sums);
            // SAFETY: by contract.
            unsafe { pack_row(layout, self.left, place, of_input) };
            return;
        };
        let (factors, input, recurrent) = (self.kept(row, FACTORS), self.kept(row, INPUT), self.kept(row, RECURRENT));
        add_product(of_gain_input, &work.of_sums, input);
        multiply(of_input, &work.of_sums, norms.input);
        normalise_back::<W>(of_input, input, factors[0]);
        for (gate, &sum) in C::RECURRENT_SUMS.iter().enumerate() {
            let of = |index: usize| index * hidden_size..(index + 1) * hidden_size;
            add_product(&mut of_gain_hidden[of(gate)], &work.of_sums[of(sum)], &recurrent[of(gate)]);
            multiply(&mut of_recurrent[of(gate)], &work.of_sums[of(sum)], &norms.hidden[of(gate)]);
        }
        normalise_back::<W>(of_recurrent, recurrent, factors[1]);
        // SAFETY: by contract.
        unsafe { pack_row(layout, self.left, place, of_recurrent) };
    }
}

/// The products of numbers.
#[inline(always)]
fn multiply(to: &mut [f32], a: &[f32], b: &[f32]) {
    to.iter_mut().zip(a.iter().zip(b)).for_each(|(to, (a, b))| *to = a * b);
}

/// Adds numbers to sums.
#[inline(always)]
pub(super) fn add(sums: &mut [f32], numbers: &[f32]) {
    sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
}

/// Adds products to sums.
#[inline(always)]
fn add_product(sums: &mut [f32], a: &[f32], b: &[f32]) {
    sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
}

impl Lanes {
    /// The way back through `o ∘ tanh(u)`: the gradients of the output gate's sum, and of u in the place of u.
    #[inline(always)]
    fn show_back<O: MulAdd>(&mut self, count: usize) {
        for i in 0..count.min(MAX_BLOCK) {
            let (o, d) = (self.sums[0][i], self.hidden[i]);
            let tanh = tanh_lane::<O>(self.state[i]);
            self.sums[0][i] = d * tanh * (o * (1.0 - o));
            self.state[i] = d * o * O::mul_add(-tanh, tanh, 1.0);
        }
    }
}
