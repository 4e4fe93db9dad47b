//! The rows of a GRU whose reset gate comes before the product, there and back.

use super::super::lanes::{Lanes, MAX_BLOCK};
use super::back_rows::add;
use super::backward::Back;
use super::forward::Forward;
use super::forward_rows::{At, pack_row, pieces};
use super::layout::{GATES, INPUT, OF_INPUT, split};
use super::work::{Phase, Work};
use crate::activation::{sigmoid_pair, tanh_lane};
use crate::arch::MulAdd;

/// What follows from the product of the gates r and z.
pub(super) struct Reset;

impl Phase<Forward<'_>, At<'_>> for Reset {
    #[inline(always)]
    unsafe fn row<const W: usize, O: MulAdd>(pass: &Forward, work: &mut Work, at: At, place: usize) {
        // SAFETY: by contract.
        unsafe { pass.reset_row::<W, O>(work, at, place) };
    }
}

/// What follows from the product of the candidate.
pub(super) struct Candidate;

impl Phase<Forward<'_>, At<'_>> for Candidate {
    #[inline(always)]
    unsafe fn row<const W: usize, O: MulAdd>(pass: &Forward, work: &mut Work, at: At, place: usize) {
        // SAFETY: by contract.
        unsafe {
            pass.candidate_row::<W, O>(work, at, place);
            pass.finish_row(work, at.step, place);
        }
    }
}

/// The way back, from the product with the later step's gradients,
impl Phase<Back<'_>, usize> for Candidate {
    #[inline(always)]
    unsafe fn row<const W: usize, O: MulAdd>(pass: &Back, work: &mut Work, step: usize, place: usize) {
        // SAFETY: by contract.
        unsafe {
            pass.hidden_row(work, step, place);
            pass.candidate_row::<W, O>(work, step, place);
        }
    }
}

/// and from that with the candidate's.
impl Phase<Back<'_>, usize> for Reset {
    #[inline(always)]
    unsafe fn row<const W: usize, O: MulAdd>(pass: &Back, work: &mut Work, step: usize, place: usize) {
        // SAFETY: by contract.
        unsafe {
            pass.second_row(work, place);
            pass.reset_row(work, step, place);
        }
    }
}

impl Forward<'_> {
    /// The gates r and z of a row, and `r ∘ h` for the second product.
    ///
    /// # Safety
    ///
    /// As [`Forward::gates_row`].
    #[inline(always)]
    unsafe fn reset_row<const W: usize, O: MulAdd>(&self, work: &mut Work, At { chunk, step }: At, place: usize) {
        let Self { layout, inputs, batch, .. } = self;
        let (hidden_size, row) = (layout.shape.hidden_size, batch.row(place));
        let cols = layout.recurrent_cols();
        // SAFETY: by contract.
        let (record, sums, hidden) = unsafe {
            (
                self.record(chunk, self.rows.at(place, step)),
                self.recurrent.part(place * cols, cols),
                self.hidden_row(row),
            )
        };
        let parts = split(record, layout.kept());
        let recall = &mut work.factors[..hidden_size];
        inputs.options.recall_row(row, hidden_size, recall);
        for units in pieces(hidden_size) {
            let lanes = &mut work.lanes;
            let of = |gate: usize| gate * hidden_size + units.start..gate * hidden_size + units.end;
            for (gate, to) in lanes.sums.iter_mut().enumerate().take(2) {
                for ((to, input), sum) in to.iter_mut().zip(&parts[INPUT][of(gate)]).zip(&sums[of(gate)]) {
                    *to = input + sum;
                }
            }
            for ((to, hidden), recall) in
                lanes.hidden.iter_mut().zip(&hidden[units.clone()]).zip(&recall[units.clone()])
            {
                *to = hidden * recall;
            }
            lanes.reset::<O>(units.len().next_multiple_of(W));
            for (gate, from) in lanes.sums.iter().enumerate().take(2) {
                parts[GATES][of(gate)].copy_from_slice(&from[..units.len()]);
            }
            work.hidden[units.clone()].copy_from_slice(&lanes.hidden[..units.len()]);
        }
        // SAFETY: by contract.
        unsafe { pack_row(layout, self.left_inner, place, &work.hidden[..hidden_size]) };
    }

    /// The candidate of a row whose reset gate came before the product, and its new hidden state.
    ///
    /// # Safety
    ///
    /// As [`Forward::gates_row`], for the sums of the second product.
    #[inline(always)]
    unsafe fn candidate_row<const W: usize, O: MulAdd>(&self, work: &mut Work, At { chunk, step }: At, place: usize) {
        let Self { layout, inputs, batch, .. } = self;
        let (hidden_size, row) = (layout.shape.hidden_size, batch.row(place));
        // SAFETY: by contract.
        let (record, sums, hidden) = unsafe {
            (
                self.record(chunk, self.rows.at(place, step)),
                self.second_sums.part(place * hidden_size, hidden_size),
                self.hidden_row(row),
            )
        };
        let parts = split(record, layout.kept());
        for units in pieces(hidden_size) {
            let lanes = &mut work.lanes;
            let of = |gate: usize| gate * hidden_size + units.start..gate * hidden_size + units.end;
            let sums = parts[INPUT][of(2)].iter().zip(&sums[units.clone()]).zip(&inputs.bias[of(3)]);
            for (to, ((input, sum), bias)) in lanes.sums[2].iter_mut().zip(sums) {
                *to = input + (sum + bias);
            }
            lanes.sums[1][..units.len()].copy_from_slice(&parts[GATES][of(1)]);
            lanes.state[..units.len()].copy_from_slice(&hidden[units.clone()]);
            let count = units.len().next_multiple_of(W);
            match &mut work.extras {
                None => lanes.sums[3][..count].fill(1.0),
                Some(extras) => {
                    extras.read_row(&inputs.options, (layout.shape, step, row), units.clone());
                    lanes.sums[3][..count].copy_from_slice(&extras.candidate[..count]);
                }
            }
            lanes.update::<O>(count);
            parts[GATES][of(2)].copy_from_slice(&lanes.sums[2][..units.len()]);
            work.hidden[units.clone()].copy_from_slice(&lanes.hidden[..units.len()]);
        }
    }
}

impl Back<'_> {
    /// From δ of a row's hidden state, in the work, to the gradients of the sums of z and n, where the reset gate comes before
    /// the product.
    ///
    /// # Safety
    ///
    /// As [`Back::incoming_row`].
    #[inline(always)]
    unsafe fn candidate_row<const W: usize, O: MulAdd>(&self, work: &mut Work, step: usize, place: usize) {
        let Self { layout, inputs, batch, .. } = self;
        let (hidden_size, row) = (layout.shape.hidden_size, self.rows.at(place, step));
        // SAFETY: by contract.
        let (record, state) = unsafe { (self.record(row), self.state.part_mut(place * hidden_size, hidden_size)) };
        let record = split(record, layout.gradients());
        let (gates, before) = (self.kept(row, GATES), self.hidden_before(place, step));
        for units in pieces(hidden_size) {
            let lanes = &mut work.lanes;
            let of = |gate: usize| gate * hidden_size + units.start..gate * hidden_size + units.end;
            for gate in [1, 2] {
                lanes.sums[gate][..units.len()].copy_from_slice(&gates[of(gate)]);
            }
            lanes.state_before[..units.len()].copy_from_slice(&before[units.clone()]);
            lanes.hidden[..units.len()].copy_from_slice(&work.hidden[units.clone()]);
            let count = units.len().next_multiple_of(W);
            match &mut work.extras {
                None => lanes.sums[3][..count].fill(1.0),
                Some(extras) => {
                    extras.read_row(&inputs.options, (layout.shape, step, batch.row(place)), units.clone());
                    lanes.sums[3][..count].copy_from_slice(&extras.candidate[..count]);
                }
            }
            lanes.update_back::<O>(count);
            for gate in [1, 2] {
                record[OF_INPUT][of(gate)].copy_from_slice(&lanes.sums[gate][..units.len()]);
            }
            let direct = &lanes.hidden[..units.len()];
            state[units].iter_mut().zip(direct).for_each(|(state, direct)| *state += direct);
        }
        // SAFETY: by contract; places of one group are one member's.
        let [of_bias, ..] = unsafe { self.row_sums(place) };
        add(&mut of_bias[hidden_size..], &record[OF_INPUT][hidden_size..]);
        // SAFETY: by contract.
        unsafe { pack_row(layout, self.left_second, place, &record[OF_INPUT][2 * hidden_size..]) };
    }

    /// From δ of `r ∘ h`, in the work, to the gradient of the sum of r, and the part of that of the state that passes by r.
    ///
    /// # Safety
    ///
    /// As [`Back::incoming_row`].
    unsafe fn reset_row(&self, work: &mut Work, step: usize, place: usize) {
        let Self { layout, inputs, batch, .. } = self;
        let (hidden_size, row) = (layout.shape.hidden_size, self.rows.at(place, step));
        // SAFETY: by contract.
        let (record, state) = unsafe { (self.record(row), self.state.part_mut(place * hidden_size, hidden_size)) };
        let [of_sums, .., before, reset] = split(record, layout.gradients());
        let recall = &mut work.factors[..hidden_size];
        inputs.options.recall_row(batch.row(place), hidden_size, recall);
        let gate = &self.kept(row, GATES)[..hidden_size];
        let of_inner = work.hidden[..hidden_size].iter().zip(gate);
        for ((((of_inner, r), before), to), inner) in
            of_inner.zip(&*before).zip(&mut of_sums[..hidden_size]).zip(&mut *reset)
        {
            *to = of_inner * before * (r * (1.0 - r));
            *inner = r * before;
        }
        let through = work.hidden[..hidden_size].iter().zip(gate).zip(recall);
        state.iter_mut().zip(through).for_each(|(state, ((of_inner, r), recall))| *state += of_inner * r * *recall);
        // SAFETY: by contract; places of one group are one member's.
        let [of_bias, ..] = unsafe { self.row_sums(place) };
        add(&mut of_bias[..hidden_size], of_sums);
        // SAFETY: by contract.
        unsafe { pack_row(layout, self.left, place, &of_sums[..2 * hidden_size]) };
    }
}

impl Lanes {
    /// The gates r and z of their sums, and the hidden state times r.
    #[inline(always)]
    fn reset<O: MulAdd>(&mut self, count: usize) {
        for i in 0..count.min(MAX_BLOCK) {
            let (r, z) = sigmoid_pair::<O>(self.sums[0][i], self.sums[1][i]);
            (self.sums[0][i], self.sums[1][i]) = (r, z);
            self.hidden[i] *= r;
        }
    }

    /// The candidate of its sum, times a factor, mixed into the state by z.
    #[inline(always)]
    fn update<O: MulAdd>(&mut self, count: usize) {
        for i in 0..count.min(MAX_BLOCK) {
            let n = tanh_lane::<O>(self.sums[2][i]);
            let recalled = self.sums[3][i] * n;
            self.sums[2][i] = n;
            self.hidden[i] = O::mul_add(self.sums[1][i], self.state[i] - recalled, recalled);
        }
    }

    /// The way back through `(1 - z) ∘ m ∘ n + z ∘ h`: the gradients of the sums of z and n, and of h directly.
    #[inline(always)]
    fn update_back<O: MulAdd>(&mut self, count: usize) {
        for i in 0..count.min(MAX_BLOCK) {
            let (z, n, factor, d) = (self.sums[1][i], self.sums[2][i], self.sums[3][i], self.hidden[i]);
            self.sums[1][i] = d * (self.state_before[i] - factor * n) * (z * (1.0 - z));
            self.sums[2][i] = d * (1.0 - z) * factor * O::mul_add(-n, n, 1.0);
            self.hidden[i] = d * z;
        }
    }
}
