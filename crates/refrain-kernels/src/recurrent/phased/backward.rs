//! The backward pass of a layer of several phases: chunk by chunk of steps, from the last.

use std::ops::Range;

use super::super::batch::Batch;
use super::super::cell::Step;
use super::super::segments::steps_of;
use super::super::{Memory, OutputGradients, SequenceGradients, SequenceInputs, SequenceShape, SequenceTrace};
use super::forward::{Packed, Pass, States, recurrent_weights};
use super::forward_rows::{Gates, Projected};
use super::gradients::{CHUNK_ROWS, Gradients};
use super::layout::{GROUP, Kind, Layout, Rows, len};
use super::product::{Panels, Target, panels_len, rows_len};
use super::reset_rows::{Candidate, Reset};
use super::work::{EachRow, Phase, Work};
use crate::arch::Tiles;
use crate::engine::Engine;
use crate::format::Precision;
use crate::pool::Member;
use crate::shared::SharedSlice;

/// As [`sequence_backward`](super::super::sequence_backward).
pub(in super::super) fn backward<C: Step>(
    engine: &Engine,
    (precision, shape, batch): (Precision, SequenceShape, &Batch),
    inputs: &SequenceInputs,
    (output, trace): (&[f32], &SequenceTrace),
    grad: OutputGradients,
    out: SequenceGradients,
) {
    let layout = Layout::new::<C>(engine, precision, shape, inputs);
    let rows = Rows::new(batch);
    let chunks = rows.chunks(0..batch.steps(), CHUNK_ROWS);
    let most_rows = chunks.iter().map(|steps| rows.of(steps).len()).max().unwrap_or(0);
    let (batch_size, state_size, hidden_size) = (layout.shape.batch_size, layout.state_size, layout.shape.hidden_size);
    let [first, second] = recurrent_weights(&layout, inputs);
    let second_terms = if layout.kind == Kind::Gates { 0 } else { second.rows() };
    let mut packed_first = engine.scratch(panels_len(&layout, first.rows(), state_size));
    let mut packed_second = engine.scratch(panels_len(&layout, second_terms, hidden_size));
    let mut left = engine.scratch(rows_len(&layout, batch_size, layout.recurrent_cols()));
    let mut left_second = engine.scratch(rows_len(&layout, batch_size, second_terms));
    let mut product = engine.scratch(batch_size * state_size);
    let mut second_product = engine.scratch(if second_terms > 0 { batch_size * hidden_size } else { 0 });
    let mut state = engine.scratch(batch_size * hidden_size);
    let mut carry = engine.scratch(batch_size * state_size);
    let mut records = engine.scratch(most_rows * len(&layout.gradients()));
    let groups = batch_size.div_ceil(GROUP);
    let mut row_sums = engine.scratch(groups * len(&layout.row_sums()));
    let mut gradients = Gradients::new(layout, precision, out);
    let mut again = Again { packed: None, kept: Vec::new() };
    let whole = trace.memory == Memory::All;
    for (index, segment) in trace.memory.segments(&chunks).into_iter().enumerate().rev() {
        let steps = steps_of(&chunks, &segment);
        let kept = if whole {
            &trace.blocks.kept
        } else {
            let pass = Pass { engine, layout, batch, rows: &rows, inputs };
            again.run::<C>(pass, steps.clone(), (output, trace, index))
        };
        let kept_first = rows.of(&steps).start;
        for chunk in chunks[segment].iter().rev() {
            let back = Back {
                layout,
                batch,
                rows: &rows,
                inputs,
                output,
                grad,
                chunk: chunk.clone(),
                last_step: batch.steps() - 1,
                weight_hh: Panels { matrix: first, words: SharedSlice::new(packed_first.words_mut()) },
                second: Panels { matrix: second, words: SharedSlice::new(packed_second.words_mut()) },
                left: SharedSlice::new(left.words_mut()),
                left_second: SharedSlice::new(left_second.words_mut()),
                product: SharedSlice::new(&mut product),
                second_product: SharedSlice::new(&mut second_product),
                state: SharedSlice::new(&mut state),
                carry: SharedSlice::new(&mut carry),
                kept,
                kept_first,
                cell_before: if whole { inputs.cell_state } else { cell_before(trace, index, inputs) },
                cell_first: if whole { 0 } else { steps.start },
                records: SharedSlice::new(&mut records),
                row_sums: SharedSlice::new(&mut row_sums),
                hidden: gradients.out.hidden.as_deref_mut().map(SharedSlice::new),
                cell_state: gradients.out.cell_state.as_deref_mut().map(SharedSlice::new),
                state_is_hidden: C::STATE_IS_HIDDEN,
            };
            let flops = 2 * batch_size * (first.rows() * state_size + second_terms * hidden_size);
            let members = engine.members_for_flops(flops);
            engine.run(members, |member| back.member::<C>(member));
            let kept_rows = rows.of(chunk).start - kept_first;
            let kept = &kept[kept_rows * len(&layout.kept())..];
            gradients.add(engine, (batch, &rows, chunk), inputs, (&records, kept));
        }
    }
    gradients.finish(&row_sums);
}

/// The forward pass again, segment by segment.
struct Again {
    packed: Option<Packed>,
    kept: Vec<f32>,
}

impl Again {
    /// The records of a segment, the number `index`.
    fn run<C: Step>(
        &mut self,
        mut pass: Pass,
        steps: Range<usize>,
        (output, trace, index): (&[f32], &SequenceTrace, usize),
    ) -> &[f32] {
        let Pass { engine, layout, batch, rows, inputs } = pass;
        let size = layout.state_size;
        let mut hidden = inputs.hidden.to_vec();
        if steps.start > 0 {
            for place in 0..batch.running(steps.start) {
                let from = &output[batch.at(place, steps.start - 1) * size..][..size];
                hidden[batch.row(place) * size..][..size].copy_from_slice(from);
            }
        }
        let mut cell_state = cell_before(trace, index, inputs).to_vec();
        self.kept.resize(rows.of(&steps).len() * len(&layout.kept()), 0.0);
        let pack = self.packed.is_none();
        let packed = self.packed.get_or_insert_with(|| Packed::new(engine, &layout));
        let states = States { output: None, hidden: &mut hidden, cell_state: &mut cell_state };
        pass.run::<C>(steps, (packed, pack), states, Some(&mut self.kept));
        &self.kept
    }
}

/// The cell states before a segment, the number `index`.
fn cell_before<'a>(trace: &'a SequenceTrace, index: usize, inputs: &SequenceInputs) -> &'a [f32] {
    let len = inputs.cell_state.len();
    &trace.cell_states[index * len..(index + 1) * len]
}

/// The way back through a chunk of steps, as the members share it.
pub(super) struct Back<'a> {
    pub(super) layout: Layout,
    pub(super) batch: &'a Batch,
    pub(super) rows: &'a Rows,
    pub(super) inputs: &'a SequenceInputs<'a>,
    pub(super) output: &'a [f32],
    pub(super) grad: OutputGradients<'a>,
    pub(super) chunk: Range<usize>,
    last_step: usize,
    weight_hh: Panels<'a>,
    second: Panels<'a>,
    /// The gradients of the sums of the last step's first product as packed rows, by place; and what the second product reads.
    pub(super) left: SharedSlice<'a, u32>,
    pub(super) left_second: SharedSlice<'a, u32>,
    /// By place.
    pub(super) product: SharedSlice<'a, f32>,
    pub(super) second_product: SharedSlice<'a, f32>,
    /// By place: δ of the state, and of the hidden state where a step kept it.
    pub(super) state: SharedSlice<'a, f32>,
    pub(super) carry: SharedSlice<'a, f32>,
    /// Records of the forward pass, by row from a first one on.
    pub(super) kept: &'a [f32],
    pub(super) kept_first: usize,
    /// The cell states before a step, by sequence.
    pub(super) cell_before: &'a [f32],
    pub(super) cell_first: usize,
    /// Records of the chunk, by row.
    pub(super) records: SharedSlice<'a, f32>,
    /// What is added up over rows, by group of places.
    pub(super) row_sums: SharedSlice<'a, f32>,
    /// The gradients of the initial states.
    pub(super) hidden: Option<SharedSlice<'a, f32>>,
    pub(super) cell_state: Option<SharedSlice<'a, f32>>,
    /// As [`Step::STATE_IS_HIDDEN`].
    pub(super) state_is_hidden: bool,
}

impl Back<'_> {
    fn member<C: Step>(&self, member: Member) {
        let Self { layout, batch, chunk, .. } = self;
        let tiles = layout.arch.tiles();
        let mut work = Work::new(layout, &self.inputs.options);
        if chunk.end > self.last_step {
            self.weight_hh.pack(layout, member);
            self.second.pack(layout, member);
            let len = len(&layout.row_sums());
            for group in member.share(layout.shape.batch_size.div_ceil(GROUP)) {
                // SAFETY: each group belongs to one member until the barrier.
                unsafe { self.row_sums.part_mut(group * len, len) }.fill(0.0);
            }
        }
        self.gather(member);
        member.barrier();
        for step in chunk.clone().rev() {
            let (running, later) = (batch.running(step), batch.running(step + 1));
            self.multiply(member, &tiles, &mut work, later);
            member.barrier();
            let groups = member.share(running.div_ceil(GROUP));
            let places = groups.start * GROUP..(groups.end * GROUP).min(running);
            if layout.kind != Kind::Gates {
                match layout.kind {
                    Kind::ResetBefore => self.phase::<Candidate>(&mut work, step, places.clone()),
                    _ => self.phase::<Projected>(&mut work, step, places.clone()),
                }
                member.barrier();
                let to = Target { data: self.second_product, first: 0, stride: layout.shape.hidden_size };
                // SAFETY: the rows are packed since the barrier; who reads the product passes the next one first.
                unsafe {
                    let team = (member, &tiles, &mut work.sums);
                    self.second.multiply(layout, team, (self.left_second, running), None, to);
                }
                member.barrier();
            }
            match layout.kind {
                Kind::Gates | Kind::Projected => self.phase::<Gates<C>>(&mut work, step, places),
                Kind::ResetBefore => self.phase::<Reset>(&mut work, step, places),
            }
            member.barrier();
        }
        if chunk.start == 0 {
            self.multiply(member, &tiles, &mut work, batch.running(0));
            member.barrier();
            self.initial_states(member, &mut work);
        }
    }

    /// Runs a phase of a step, after a barrier and before another.
    fn phase<F: Phase<Self, usize>>(&self, work: &mut Work, step: usize, places: Range<usize>) {
        // SAFETY: each sequence that runs belongs to one member between two barriers, and products end with one.
        self.layout.arch.run(unsafe { EachRow::<_, _, F>::new(self, work, step, places) });
    }

    /// The product of the last step's gradients with the recurrent weights.
    fn multiply(&self, member: Member, tiles: &Tiles, work: &mut Work, rows: usize) {
        let to = Target { data: self.product, first: 0, stride: self.layout.state_size };
        // SAFETY: the rows are packed since the last barrier; who reads the product passes the next one first.
        unsafe { self.weight_hh.multiply(&self.layout, (member, tiles, &mut work.sums), (self.left, rows), None, to) };
    }
}
