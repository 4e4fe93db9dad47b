//! From the records of a chunk to the gradients of weights and input, and from sums over rows to all others.

use std::ops::Range;

use super::super::batch::Batch;
use super::super::{SequenceGradients, SequenceInputs};
use super::layout::{
    BEFORE, FEATURES, INNER, Kind, Layout, OF_BIAS, OF_CELL_BIAS, OF_CELL_GAIN, OF_GAIN_HIDDEN, OF_GAIN_INPUT,
    OF_HIDDEN, OF_INPUT, OF_PEEPHOLES, OF_RECURRENT, RESET, Rows, len, part,
};
use crate::engine::Engine;
use crate::format::Precision;
use crate::gemm::{Beta, MatMut, MatRef, matmul};
use crate::shared::SharedSlice;

/// Rows of a chunk: the terms of one addition to the gradients of weights.
pub(super) const CHUNK_ROWS: usize = 1024;

/// What is added up, chunk by chunk.
pub(super) struct Gradients<'a> {
    layout: Layout,
    precision: Precision,
    beta: Beta,
    pub(super) out: SequenceGradients<'a>,
    /// The gradient of a chunk's input.
    input: Vec<f32>,
}

impl<'a> Gradients<'a> {
    pub(super) fn new(layout: Layout, precision: Precision, out: SequenceGradients<'a>) -> Self {
        Self { layout, precision, beta: Beta::Overwrite, out, input: Vec::new() }
    }

    /// Adds a chunk, given its records of both passes.
    pub(super) fn add(
        &mut self,
        engine: &Engine,
        (batch, rows, chunk): (&Batch, &Rows, &Range<usize>),
        inputs: &SequenceInputs,
        (records, kept): (&[f32], &[f32]),
    ) {
        let Self { layout, precision, beta, .. } = *self;
        let hidden_size = layout.shape.hidden_size;
        let count = rows.of(chunk).len();
        let (sizes, kept_sizes) = (layout.gradients(), layout.kept());
        let records = MatRef::row_major(&records[..count * len(&sizes)], count, len(&sizes));
        let kept = MatRef::row_major(&kept[..count * len(&kept_sizes)], count, len(&kept_sizes));
        let of = |index: usize| records.columns(part(&sizes, index));
        let units = |gates: Range<usize>| gates.start * hidden_size..gates.end * hidden_size;
        let num_gates = layout.shape.cell.num_gates();
        let sums = of(OF_INPUT);
        let of_input = sums.columns(units(0..num_gates));
        let of_recurrent =
            if layout.has_norms { of(OF_RECURRENT) } else { sums.columns(units(0..layout.recurrent_gates)) };
        let product = |a: MatRef, b: MatRef, out: &mut [f32]| {
            let out = MatMut::row_major(out, a.cols(), b.cols());
            matmul(engine, precision, a.transposed(), b, beta, out);
        };
        let out = &mut self.out;
        if let Some(weight_ih) = &mut out.weight_ih {
            product(of_input, of(FEATURES), weight_ih);
        }
        if let Some(weight_hh) = &mut out.weight_hh {
            let (first, rest) = weight_hh.split_at_mut(layout.recurrent_cols() * layout.state_size);
            product(of_recurrent, of(BEFORE), first);
            if layout.kind == Kind::ResetBefore {
                product(sums.columns(units(2..3)), of(RESET), rest);
            }
        }
        if let Some(projection) = &mut out.projection {
            product(of(OF_HIDDEN), kept.columns(part(&kept_sizes, INNER)), projection);
        }
        let size = layout.shape.input_size;
        if let Some(to) = out.input.as_mut().filter(|_| size > 0) {
            self.input.resize(count * size, 0.0);
            let weight = MatRef::row_major(inputs.weight_ih, layout.input_cols(), size);
            let product = MatMut::row_major(&mut self.input, count, size);
            matmul(engine, precision, of_input, weight, Beta::Overwrite, product);
            if beta == Beta::Overwrite && inputs.lengths.is_some() {
                to.fill(0.0);
            }
            let (from, to, first) = (&self.input, SharedSlice::new(to), rows.of(chunk).start);
            engine.for_ranges(from.len(), size, |range| {
                for (index, from) in from[range.clone()].chunks_exact(size).enumerate() {
                    let (place, step) = rows.find(first + range.start / size + index);
                    // SAFETY: each sequence's step has one writer.
                    unsafe { to.part_mut(batch.at(place, step) * size, size) }.copy_from_slice(from);
                }
            });
        }
        self.beta = Beta::Accumulate;
    }

    /// Writes what was added up over rows, given by groups of sequences.
    pub(super) fn finish(self, row_sums: &[f32]) {
        let Self { layout, out, .. } = self;
        let sizes = layout.row_sums();
        let write = |to: &mut [f32], index: usize| {
            to.fill(0.0);
            for group in row_sums.chunks_exact(len(&sizes).max(1)) {
                to.iter_mut().zip(&group[part(&sizes, index)]).for_each(|(to, sum)| *to += sum);
            }
        };
        if let Some(bias) = out.bias {
            write(bias, OF_BIAS);
            if layout.kind == Kind::ResetBefore {
                // Both biases of the candidate join one sum.
                let hidden_size = layout.shape.hidden_size;
                bias.copy_within(2 * hidden_size..3 * hidden_size, 3 * hidden_size);
            }
        }
        for (to, index) in [(out.gain_ih, OF_GAIN_INPUT), (out.gain_hh, OF_GAIN_HIDDEN), (out.peepholes, OF_PEEPHOLES)]
        {
            if let Some(to) = to {
                write(to, index);
            }
        }
        if let Some(gains) = out.norm_cell_state {
            let (gain, bias) = gains.split_at_mut(layout.shape.hidden_size);
            write(gain, OF_CELL_GAIN);
            write(bias, OF_CELL_BIAS);
        }
    }
}
