//! What the backward pass reads of the forward pass: all of it, or states from time to time, from which the rest is computed again.

use std::ops::Range;

use super::backward::Source;
use super::backward_plan::BackwardPlan;
use super::batch::Batch;
use super::cell::Step;
use super::forward::{Given, TimeLoop, Written};
use super::packed_layer::{Layer, PackedLayer};
use super::plan::Plan;
use super::{Memory, SequenceTrace};
use crate::engine::Engine;
use crate::format::Encode;
use crate::scratch::FreeList;

/// Consecutive chunks of steps whose trace is there at once.
pub(super) struct Segment<'a> {
    pub(super) chunks: Range<usize>,
    pub(super) blocks: Blocks<'a>,
}

/// The blocks of a trace, from its first step on.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) first: usize,
    pub(super) kept: &'a [f32],
    pub(super) states: &'a [f32],
}

impl Memory {
    /// The segments of a pass, as ranges of its chunks of steps: whole chunks, so that the sums over steps are the same ones.
    pub(super) fn segments(self, chunks: &[Range<usize>]) -> Vec<Range<usize>> {
        let steps = chunks.last().map_or(0, |chunk| chunk.end);
        let every = match self {
            Self::All => usize::MAX,
            Self::Every(every) => every.max(1),
            Self::SquareRoot => steps.isqrt().max(1),
        };
        let mut segments: Vec<Range<usize>> = Vec::new();
        let mut first_step = 0;
        for (index, chunk) in chunks.iter().enumerate() {
            match segments.last_mut() {
                Some(segment) if chunk.start - first_step < every => segment.end = index + 1,
                _ => {
                    segments.push(index..index + 1);
                    first_step = chunk.start;
                }
            }
        }
        segments
    }

    /// The same as ranges of steps.
    pub(super) fn spans<C: Step>(self, plan: Plan, batch: &Batch) -> Vec<Range<usize>> {
        if self == Self::All {
            return std::iter::once(0..batch.steps()).collect();
        }
        let chunks: Vec<_> = BackwardPlan::new::<C>(plan).chunks(batch).into_iter().map(|chunk| chunk.steps).collect();
        self.segments(&chunks).iter().map(|segment| steps_of(&chunks, segment)).collect()
    }
}

/// Room for what consecutive steps keep for the way back. Its memory is used again once it is dropped.
#[derive(Debug)]
pub(super) struct TraceBlocks {
    /// Steps that there is room for.
    steps: usize,
    /// By step and tile: the blocks that the cell keeps.
    pub(super) kept: Vec<f32>,
    /// By step, from the one before the first, and tile: the state beside the products.
    pub(super) states: Vec<f32>,
    home: FreeList,
}

impl TraceBlocks {
    pub(super) fn new<C: Step>(engine: &Engine, plan: &Plan, steps: usize) -> Self {
        let home = engine.free_list().clone();
        let states = if C::HAS_STATE && steps > 0 { (steps + 1) * plan.step_len(1) } else { 0 };
        let (kept, states) = (home.take(steps * plan.step_len(C::SUMS)), home.take(states));
        Self { steps, kept, states, home }
    }

    /// Room for records of so many floats.
    pub(super) fn records(engine: &Engine, len: usize) -> Self {
        let home = engine.free_list().clone();
        Self { steps: 0, kept: home.take(len), states: Vec::new(), home }
    }
}

impl Drop for TraceBlocks {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.kept));
        self.home.give(std::mem::take(&mut self.states));
    }
}

impl SequenceTrace {
    /// Room for all steps that come after a cell state; where not all is kept, there is none, but this state is.
    pub(super) fn room_after(&mut self, cell_state: &[f32]) -> Option<&mut TraceBlocks> {
        if self.memory == Memory::All {
            return Some(&mut self.blocks);
        }
        self.cell_states.extend_from_slice(cell_state);
        None
    }
}

/// The steps of some chunks.
pub(super) fn steps_of(chunks: &[Range<usize>], segment: &Range<usize>) -> Range<usize> {
    chunks[segment.start].start..chunks[segment.end - 1].end
}

/// The forward pass again, segment by segment.
pub(super) struct Recompute<'a> {
    engine: &'a Engine,
    plan: &'a Plan,
    batch: &'a Batch,
    source: &'a Source<'a>,
    packed: Option<PackedLayer>,
    blocks: Option<TraceBlocks>,
}

impl<'a> Recompute<'a> {
    pub(super) fn new(engine: &'a Engine, plan: &'a Plan, batch: &'a Batch, source: &'a Source<'a>) -> Self {
        Self { engine, plan, batch, source, packed: None, blocks: None }
    }

    /// What the forward pass `trace` was made by kept of a segment, the number `index`.
    pub(super) fn blocks<'b, C: Step, E: Encode>(
        &'b mut self,
        trace: &'b SequenceTrace,
        chunks: &[Range<usize>],
        (index, segment): (usize, &Range<usize>),
    ) -> Blocks<'b> {
        if trace.memory == Memory::All {
            return Blocks { first: 0, kept: &trace.blocks.kept, states: &trace.blocks.states };
        }
        let Self { engine, plan, batch, source, .. } = *self;
        let (inputs, shape) = (source.inputs, plan.shape);
        let layer = Layer { weight_ih: inputs.weight_ih, weight_hh: inputs.weight_hh, bias: inputs.bias };
        let pack = self.packed.is_none().then_some(layer);
        let packed = self.packed.get_or_insert_with(|| PackedLayer::new::<C>(plan, engine.free_list()));
        let steps = steps_of(chunks, segment);
        let mut hidden = inputs.hidden.to_vec();
        if let Some(before) = steps.start.checked_sub(1) {
            for place in 0..batch.running(steps.start) {
                let at = batch.at(place, before) * shape.hidden_size;
                let to = &mut hidden[batch.row(place) * shape.hidden_size..][..shape.hidden_size];
                to.copy_from_slice(&source.output[at..at + shape.hidden_size]);
            }
        }
        let recalled = inputs.options.recalled(engine, [shape.batch_size, shape.hidden_size], &hidden);
        let cells = inputs.cell_state.len();
        let cell_state = &trace.cell_states[index * cells..(index + 1) * cells];
        let given = Given::new(inputs, &hidden, recalled.as_deref(), cell_state);
        if self.blocks.as_ref().is_none_or(|blocks| blocks.steps < steps.len()) {
            // Before there is room for more steps, that for fewer goes.
            self.blocks = None;
        }
        let blocks = self.blocks.get_or_insert_with(|| TraceBlocks::new::<C>(engine, plan, steps.len()));
        let mut last_cell_state = inputs.cell_state.to_vec();
        let written = Written { output: None, last_hidden: None, last_cell_state: &mut last_cell_state };
        let first = steps.start;
        TimeLoop::<C, E>::run(engine, *plan, batch, steps, (packed.shared(), pack), given, written, Some(blocks));
        Blocks { first, kept: &blocks.kept, states: &blocks.states }
    }
}
