//! What the backward pass reads of the forward pass: all of it, or states from time to time, from which the rest is computed again.

use std::ops::Range;

use super::backward::Source;
use super::backward_plan::Chunk;
use super::batch::Batch;
use super::cell::Step;
use super::forward::{Given, Span, TimeLoop, Written};
use super::packed_layer::{Layer, PackedLayer};
use super::plan::Plan;
use super::{Memory, SequenceTrace};
use crate::engine::Engine;
use crate::format::Encode;

/// Consecutive chunks of steps whose trace is there at once.
pub(super) struct Segment<'a> {
    pub(super) chunks: Range<usize>,
    pub(super) blocks: Blocks<'a>,
}

/// A trace, from its first step on.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) first: usize,
    pub(super) kept: &'a [f32],
    pub(super) states: &'a [f32],
}

impl Memory {
    /// The segments of a pass, as ranges of its chunks: whole chunks, so that the sums over steps are the same ones.
    pub(super) fn segments(self, chunks: &[Chunk]) -> Vec<Range<usize>> {
        let steps = chunks.last().map_or(0, |chunk| chunk.steps.end);
        let every = match self {
            Self::All => usize::MAX,
            Self::Every(every) => every.max(1),
            Self::SquareRoot => steps.isqrt().max(1),
        };
        let mut segments: Vec<Range<usize>> = Vec::new();
        let mut first_step = 0;
        for (index, chunk) in chunks.iter().enumerate() {
            match segments.last_mut() {
                Some(segment) if chunk.steps.start - first_step < every => segment.end = index + 1,
                _ => {
                    segments.push(index..index + 1);
                    first_step = chunk.steps.start;
                }
            }
        }
        segments
    }
}

/// The steps of some chunks.
pub(super) fn steps_of(chunks: &[Chunk], segment: &Range<usize>) -> Range<usize> {
    chunks[segment.start].steps.start..chunks[segment.end - 1].steps.end
}

/// The forward pass again, segment by segment.
pub(super) struct Recompute<'a> {
    engine: &'a Engine,
    plan: &'a Plan,
    batch: &'a Batch,
    source: &'a Source<'a>,
    packed: Option<PackedLayer>,
    trace: Option<SequenceTrace>,
    output: Vec<f32>,
}

impl<'a> Recompute<'a> {
    pub(super) fn new(engine: &'a Engine, plan: &'a Plan, batch: &'a Batch, source: &'a Source<'a>) -> Self {
        Self { engine, plan, batch, source, packed: None, trace: None, output: Vec::new() }
    }

    /// What the forward pass `trace` was made by kept of a segment, the number `index`.
    pub(super) fn blocks<'b, C: Step, E: Encode>(
        &'b mut self,
        trace: &'b SequenceTrace,
        chunks: &[Chunk],
        (index, segment): (usize, &Range<usize>),
    ) -> Blocks<'b> {
        if trace.memory == Memory::All {
            return Blocks { first: 0, kept: &trace.kept, states: &trace.states };
        }
        let Self { engine, plan, batch, source, .. } = *self;
        let (inputs, shape) = (source.inputs, plan.shape);
        let layer = Layer { weight_ih: inputs.weight_ih, weight_hh: inputs.weight_hh, bias: inputs.bias };
        let pack = self.packed.is_none().then_some(layer);
        let packed = self.packed.get_or_insert_with(|| PackedLayer::new::<C>(plan, engine.free_list()));
        let steps = steps_of(chunks, segment);
        let hidden = match steps.start {
            0 => inputs.hidden.to_vec(),
            start => {
                let mut hidden = inputs.hidden.to_vec();
                for place in 0..batch.running(start) {
                    let at = batch.at(place, start - 1) * shape.hidden_size;
                    let to = &mut hidden[batch.row(place) * shape.hidden_size..][..shape.hidden_size];
                    to.copy_from_slice(&source.output[at..at + shape.hidden_size]);
                }
                hidden
            }
        };
        let recalled = inputs.options.recalled(engine, [shape.batch_size, shape.hidden_size], &hidden);
        let cells = inputs.cell_state.len();
        let cell_state = &trace.cell_states[index * cells..(index + 1) * cells];
        let given = Given::new(inputs, &hidden, recalled.as_deref(), cell_state);
        if self.trace.as_ref().is_none_or(|blocks| blocks.steps < steps.len()) {
            // Before there is room for more steps, that for fewer goes.
            self.trace = None;
            self.trace = Some(SequenceTrace::blocks::<C>(engine, plan, steps.len(), trace.made_for.clone()));
        }
        let blocks = self.trace.as_mut().expect("made just now");
        self.output.resize(shape.batch_size * steps.len() * shape.hidden_size, 0.0);
        let mut last_cell_state = inputs.cell_state.to_vec();
        let written = Written { output: &mut self.output, last_hidden: None, last_cell_state: &mut last_cell_state };
        let span = Span { steps: steps.clone(), stored: steps.clone() };
        TimeLoop::<C, E>::run(engine, *plan, batch, span, (packed.shared(), pack), given, written, Some(blocks));
        Blocks { first: steps.start, kept: &blocks.kept, states: &blocks.states }
    }
}
