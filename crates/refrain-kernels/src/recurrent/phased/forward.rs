//! The forward pass of a layer of several phases.

use std::ops::Range;

use super::super::batch::Batch;
use super::super::cell::Step;
use super::super::segments::steps_of;
use super::super::{Memory, ResetGate, SequenceInputs, SequenceOutputs, SequenceShape, SequenceTrace};
use super::forward_rows::{At, Gates, Projected, pack_row};
use super::gradients::CHUNK_ROWS;
use super::layout::{INPUT, Kind, Layout, Rows, len, part};
use super::product::{Panels, Target, panels_len, rows_len};
use super::reset_rows::{Candidate, Reset};
use super::work::{EachRow, Phase, Work};
use crate::arch::Tiles;
use crate::engine::Engine;
use crate::format::Precision;
use crate::gemm::MatRef;
use crate::pool::Member;
use crate::scratch::Scratch;
use crate::shared::SharedSlice;

/// Rows of the input whose packed copy stays in the second cache while the panels pass.
const INPUT_ROWS: usize = 256;

/// The forward pass; `trace` is filled when there is one.
pub(in super::super) fn forward<C: Step>(
    engine: &Engine,
    precision: Precision,
    shape: SequenceShape,
    inputs: &SequenceInputs,
    outputs: SequenceOutputs,
    trace: Option<&mut SequenceTrace>,
) {
    let SequenceOutputs { output, last_hidden: hidden, last_cell_state: cell_state } = outputs;
    let batch = Batch::new(shape, inputs.direction, inputs.lengths);
    hidden.copy_from_slice(inputs.hidden);
    cell_state.copy_from_slice(inputs.cell_state);
    if inputs.lengths.is_some() {
        output.fill(0.0);
    }
    if batch.steps() == 0 || shape.states() == 0 {
        return;
    }
    let layout = Layout::new::<C>(engine, precision, shape, inputs);
    let rows = Rows::new(&batch);
    let mut packed = Packed::new(engine, &layout);
    let mut pass = Pass { engine, layout, batch: &batch, rows: &rows, inputs };
    let Some(trace) = trace else {
        let states = States { output: Some(output), hidden, cell_state };
        pass.run::<C>(0..batch.steps(), (&mut packed, true), states, None);
        return;
    };
    let chunks = rows.chunks(0..batch.steps(), CHUNK_ROWS);
    let whole = trace.memory == Memory::All;
    for (index, segment) in trace.memory.segments(&chunks).iter().enumerate() {
        if !whole {
            trace.cell_states.extend_from_slice(cell_state);
        }
        let kept = whole.then_some(&mut trace.blocks.kept[..]);
        let states = States { output: Some(&mut *output), hidden: &mut *hidden, cell_state: &mut *cell_state };
        pass.run::<C>(steps_of(&chunks, segment), (&mut packed, index == 0), states, kept);
    }
}

/// What a pass runs over.
pub(super) struct Pass<'a> {
    pub(super) engine: &'a Engine,
    pub(super) layout: Layout,
    pub(super) batch: &'a Batch,
    pub(super) rows: &'a Rows,
    pub(super) inputs: &'a SequenceInputs<'a>,
}

/// What a pass writes; the states are those before it, then those after it or after a sequence's end.
pub(super) struct States<'a> {
    /// `[batch_size, seq_len, state_size]`
    pub(super) output: Option<&'a mut [f32]>,
    /// `[batch_size, state_size]`
    pub(super) hidden: &'a mut [f32],
    /// `[batch_size, hidden_size]`, or empty
    pub(super) cell_state: &'a mut [f32],
}

/// Room for the packed weights.
pub(super) struct Packed {
    input: Scratch,
    recurrent: Scratch,
    second: Scratch,
}

impl Packed {
    pub(super) fn new(engine: &Engine, layout: &Layout) -> Self {
        let (state_size, hidden_size) = (layout.state_size, layout.shape.hidden_size);
        let second = match layout.kind {
            Kind::Gates => 0,
            Kind::Projected => panels_len(layout, hidden_size, state_size),
            Kind::ResetBefore => panels_len(layout, hidden_size, hidden_size),
        };
        Self {
            input: engine.scratch(panels_len(layout, layout.shape.input_size, layout.input_cols())),
            recurrent: engine.scratch(panels_len(layout, state_size, layout.recurrent_cols())),
            second: engine.scratch(second),
        }
    }
}

/// `weight_hh` for the first recurrent product, and the weight of the second.
pub(super) fn recurrent_weights<'a>(layout: &Layout, inputs: &SequenceInputs<'a>) -> [MatRef<'a>; 2] {
    let (state_size, hidden_size) = (layout.state_size, layout.shape.hidden_size);
    let (first, rest) = inputs.weight_hh.split_at(layout.recurrent_cols() * state_size);
    let second = match inputs.variant.reset {
        ResetGate::BeforeProduct => (rest, hidden_size),
        ResetGate::AfterProduct => (inputs.variant.projection.unwrap_or(&[]), state_size),
    };
    let second_rows = if second.0.is_empty() { 0 } else { second.1 };
    [
        MatRef::row_major(first, layout.recurrent_cols(), state_size),
        MatRef::row_major(second.0, second_rows, hidden_size),
    ]
}

impl Pass<'_> {
    /// Runs some steps, with weights that are packed already or are yet to be. `kept` holds the records of these steps; without it
    /// they are overwritten.
    pub(super) fn run<C: Step>(
        &mut self,
        steps: Range<usize>,
        (packed, pack): (&mut Packed, bool),
        states: States,
        kept: Option<&mut [f32]>,
    ) {
        let Self { engine, layout, batch, rows, inputs } = *self;
        let (batch_size, state_size, hidden_size) =
            (layout.shape.batch_size, layout.state_size, layout.shape.hidden_size);
        let input_size = layout.shape.input_size;
        let chunks = rows.chunks(steps.clone(), INPUT_ROWS);
        let most_rows = chunks.iter().map(|steps| rows.of(steps).len()).max().unwrap_or(0);
        let traced = kept.is_some();
        let width = len(&layout.kept());
        let mut own = engine.scratch(if traced { 0 } else { most_rows * width });
        let kept = kept.unwrap_or(&mut own);
        let [first, second] = recurrent_weights(&layout, inputs);
        let mut input = engine.scratch(rows_len(&layout, most_rows, input_size));
        let mut hidden = engine.scratch(rows_len(&layout, batch_size, state_size));
        let mut inner = engine.scratch(rows_len(&layout, batch_size, hidden_size));
        let mut recurrent = engine.scratch(batch_size * layout.recurrent_cols());
        let mut second_sums = engine.scratch(batch_size * second.rows());
        let panels = |matrix, words| Panels { matrix, words };
        let weight_ih = MatRef::row_major(inputs.weight_ih, layout.input_cols(), input_size);
        let forward = Forward {
            layout,
            batch,
            rows,
            inputs,
            steps: steps.clone(),
            chunks: &chunks,
            traced,
            pack,
            weight_ih: panels(weight_ih.transposed(), SharedSlice::new(packed.input.words_mut())),
            weight_hh: panels(first.transposed(), SharedSlice::new(packed.recurrent.words_mut())),
            second: panels(second.transposed(), SharedSlice::new(packed.second.words_mut())),
            left_input: SharedSlice::new(input.words_mut()),
            left_hidden: SharedSlice::new(hidden.words_mut()),
            left_inner: SharedSlice::new(inner.words_mut()),
            recurrent: SharedSlice::new(&mut recurrent),
            second_sums: SharedSlice::new(&mut second_sums),
            kept: SharedSlice::new(kept),
            hidden: SharedSlice::new(states.hidden),
            cell_state: SharedSlice::new(states.cell_state),
            output: states.output.map(SharedSlice::new),
        };
        let flops = 2 * batch_size * (layout.recurrent_cols() * state_size + layout.input_cols() * input_size);
        let members = engine.members_for_flops(flops);
        engine.run(members, |member| forward.member::<C>(member));
    }
}

/// The forward pass as the members share it.
pub(super) struct Forward<'a> {
    pub(super) layout: Layout,
    pub(super) batch: &'a Batch,
    pub(super) rows: &'a Rows,
    pub(super) inputs: &'a SequenceInputs<'a>,
    pub(super) steps: Range<usize>,
    /// The steps whose inputs are multiplied at once.
    chunks: &'a [Range<usize>],
    traced: bool,
    pack: bool,
    weight_ih: Panels<'a>,
    weight_hh: Panels<'a>,
    /// The projection, or the candidate's part of `weight_hh`.
    second: Panels<'a>,
    /// The input of a chunk as packed rows.
    pub(super) left_input: SharedSlice<'a, u32>,
    /// The hidden state as the products read it, by place; and what the second product reads.
    pub(super) left_hidden: SharedSlice<'a, u32>,
    pub(super) left_inner: SharedSlice<'a, u32>,
    /// The sums of the two recurrent products, by place.
    pub(super) recurrent: SharedSlice<'a, f32>,
    pub(super) second_sums: SharedSlice<'a, f32>,
    /// Records, by row.
    kept: SharedSlice<'a, f32>,
    /// The states so far, by sequence.
    pub(super) hidden: SharedSlice<'a, f32>,
    pub(super) cell_state: SharedSlice<'a, f32>,
    pub(super) output: Option<SharedSlice<'a, f32>>,
}

impl Forward<'_> {
    fn member<C: Step>(&self, member: Member) {
        let Self { layout, batch, .. } = self;
        let tiles = layout.arch.tiles();
        let mut work = Work::new(layout, &self.inputs.options);
        if self.pack {
            self.weight_ih.pack(layout, member);
            self.weight_hh.pack(layout, member);
            self.second.pack(layout, member);
        }
        for place in member.share(batch.running(self.steps.start)) {
            // SAFETY: each sequence belongs to one member until the next barrier.
            unsafe { self.recall(place, self.hidden_row(batch.row(place)), &mut work.factors) };
        }
        for chunk in self.chunks {
            let rows = self.rows.of(chunk);
            for row in member.share(rows.len()) {
                let (place, step) = self.rows.find(rows.start + row);
                let size = layout.shape.input_size;
                let from = &self.inputs.input[batch.at(place, step) * size..][..size];
                // SAFETY: each row is packed by one member, and who read the last chunk's has passed a barrier since.
                unsafe { pack_row(layout, self.left_input, row, from) };
            }
            member.barrier();
            self.input_products(member, &tiles, &mut work, chunk);
            for step in chunk.clone() {
                self.step::<C>(member, &tiles, &mut work, At { chunk, step });
            }
        }
    }

    /// The first row whose record is there.
    pub(super) fn first_row(&self, chunk: &Range<usize>) -> usize {
        self.rows.of(if self.traced { &self.steps } else { chunk }).start
    }

    /// The record of a row.
    ///
    /// # Safety
    ///
    /// The row must be the calling member's, and its record not be borrowed elsewhere.
    #[expect(clippy::mut_from_ref, reason = "a part of what the members share out among them")]
    pub(super) unsafe fn record(&self, chunk: &Range<usize>, row: usize) -> &mut [f32] {
        let width = len(&self.layout.kept());
        // SAFETY: by contract.
        unsafe { self.kept.part_mut((row - self.first_row(chunk)) * width, width) }
    }

    /// The sums of a chunk's input, with the biases where they are not normalised.
    fn input_products(&self, member: Member, tiles: &Tiles, work: &mut Work, chunk: &Range<usize>) {
        let sizes = self.layout.kept();
        let rows = self.rows.of(chunk);
        let bias = (!self.layout.has_norms).then(|| &self.inputs.bias[..self.layout.input_cols()]);
        let stride = len(&sizes);
        let first = (rows.start - self.first_row(chunk)) * stride + part(&sizes, INPUT).start;
        let to = Target { data: self.kept, first, stride };
        // SAFETY: weights and rows are packed since the barrier; who reads the sums passes another one first.
        unsafe {
            let team = (member, tiles, &mut work.sums);
            self.weight_ih.multiply(&self.layout, team, (self.left_input, rows.len()), bias, to);
        }
    }

    fn step<C: Step>(&self, member: Member, tiles: &Tiles, work: &mut Work, at: At) {
        let Self { layout, batch, .. } = self;
        let running = batch.running(at.step);
        let places = member.share(running);
        let sums_to = |data, cols| Target { data, first: 0, stride: cols };
        // SAFETY: the hidden states are packed since the last barrier; who reads the sums passes the next one first.
        unsafe {
            let team = (member, tiles, &mut work.sums);
            let to = sums_to(self.recurrent, layout.recurrent_cols());
            self.weight_hh.multiply(layout, team, (self.left_hidden, running), None, to);
        }
        member.barrier();
        match layout.kind {
            Kind::Gates | Kind::Projected => self.phase::<Gates<C>>(work, at, places.clone()),
            Kind::ResetBefore => self.phase::<Reset>(work, at, places.clone()),
        }
        if layout.kind != Kind::Gates {
            member.barrier();
            // SAFETY: as above.
            unsafe {
                let team = (member, tiles, &mut work.sums);
                let to = sums_to(self.second_sums, self.second.matrix.cols());
                self.second.multiply(layout, team, (self.left_inner, running), None, to);
            }
            member.barrier();
            match layout.kind {
                Kind::ResetBefore => self.phase::<Candidate>(work, at, places),
                _ => self.phase::<Projected>(work, at, places),
            }
        }
        member.barrier();
    }

    /// Runs a phase of a step, after a barrier and before another.
    fn phase<'b, F: Phase<Self, At<'b>>>(&self, work: &mut Work, at: At<'b>, places: Range<usize>) {
        // SAFETY: each sequence that runs belongs to one member between two barriers, and products end with one.
        self.layout.arch.run(unsafe { EachRow::<_, _, F>::new(self, work, at, places) });
    }
}
