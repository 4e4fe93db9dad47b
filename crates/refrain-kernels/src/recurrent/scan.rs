//! Segments of a sequence side by side, for a cell whose state a step only scales and adds to.
//!
//! Where `h[t] = a[t] ∘ h[t-1] + b[t]` and neither `a` nor `b` reads `h`, all that a segment of steps does to the state before it
//! is `P ∘ h + Q`, and `P` and `Q` are known without it. So long sequences are cut into segments, and a pass over them is
//!
//! 1. a survey: `P` and `Q` of every segment, all segments at once;
//! 2. the chain: from each segment's state to the next one's, `S` steps in the place of `T`;
//! 3. the ordinary pass, with the segments as sequences that each begin with their own state.
//!
//! Backward it is the same with gradients: what a segment does to the gradient of its last state is `P ∘ δ + G`, with the same `P`.
//! This is the two-level form of a parallel scan (Blelloch 1990), which Feng et al. 2024 train by; the work is a forward pass more
//! than step by step, whatever the number of threads. It pays where units and sequences are too few to keep the threads at work.
//!
//! The cut depends on the sizes and on the longest sequence alone: the bytes are the same for any number of threads, any amount of
//! padding and any [`Memory`](super::Memory).

use std::marker::PhantomData;
use std::ops::Range;

use super::batch::Batch;
use super::cell::Step;
use super::forward::{Given, TimeLoop, Written};
use super::options::{Extras, SequenceOptions, Spot};
use super::packed_layer::{Layer, PackedLayer};
use super::plan::Plan;
use super::segments::{Blocks, TraceBlocks};
use super::step::with_units;
use super::{
    Memory, OutputGradients, Rows, SequenceGradients, SequenceInputs, SequenceOutputs, SequenceShape, SequenceTrace,
    backward, forward,
};
use crate::arch::{Kernel, MulAdd};
use crate::engine::Engine;
use crate::format::{Precision, with_encoding};
use crate::shared::SharedSlice;

/// Steps of a segment: few enough that a product of as many decays seldom leaves the range of floats.
const SEGMENT: usize = 64;
/// Sequences that are not longer are over before a survey pays.
const LEAST_STEPS: usize = 256;
/// As many tiles of units and sequences keep a usual processor's threads at work by themselves.
const ENOUGH_TILES: usize = 4;
/// Steps that a survey keeps at once.
const SURVEY_STEPS: usize = 8;

/// The segments that a pass works on in the place of its sequences: their shape, and where they lie.
pub(super) fn segments<C: Step>(
    engine: &Engine,
    precision: Precision,
    shape: SequenceShape,
    inputs: &SequenceInputs,
) -> Option<(SequenceShape, Batch)> {
    let longest = inputs.lengths.map_or(shape.seq_len, |lengths| lengths.iter().copied().max().unwrap_or(0));
    let tiles = Plan::new::<C>(engine, precision, shape).tiles();
    if !C::SCANS || longest <= LEAST_STEPS || !(1..ENOUGH_TILES).contains(&tiles) {
        return None;
    }
    let batch = Batch::of_segments(shape, inputs.direction, inputs.lengths, SEGMENT);
    Some((SequenceShape { batch_size: batch.len(), seq_len: SEGMENT, ..shape }, batch))
}

/// As [`forward::forward`], over segments.
pub(super) fn forward<C: Step>(
    engine: &Engine,
    precision: Precision,
    (shape, batch): (SequenceShape, &Batch),
    inputs: &SequenceInputs,
    outputs: SequenceOutputs,
    mut trace: Option<&mut SequenceTrace>,
) {
    let SequenceOutputs { output, last_hidden, last_cell_state } = outputs;
    let plan = Plan::new::<C>(engine, precision, shape);
    let inputs = &without_recall(inputs);
    let survey = Survey::new::<C>(engine, plan, batch, inputs, &Wanted::States);
    // Row by row of segments: all sequences' first ones, second ones, and so on.
    let mut before = vec![0.0; shape.batch_size * shape.hidden_size];
    let (first, rest) = before.split_at_mut(inputs.hidden.len());
    first.copy_from_slice(inputs.hidden);
    let mut last = inputs.hidden;
    for (index, next) in rest.chunks_exact_mut(inputs.hidden.len()).enumerate() {
        survey.apply(index * inputs.hidden.len(), last, next);
        last = next;
    }
    if let Some(trace) = &mut trace {
        trace.before_segments.clone_from(&before);
    }
    let mut after = vec![0.0; before.len()];
    let outputs = SequenceOutputs { output, last_hidden: &mut after, last_cell_state };
    forward::forward::<C>(
        engine,
        precision,
        (shape, batch),
        &SequenceInputs { hidden: &before, ..*inputs },
        outputs,
        trace,
    );
    for (sequence, to) in last_hidden.chunks_exact_mut(shape.hidden_size).enumerate() {
        to.copy_from_slice(&after[batch.last_segment(sequence) * shape.hidden_size..][..shape.hidden_size]);
    }
}

/// As [`backward::backward`], over segments.
#[expect(clippy::too_many_arguments, reason = "as `sequence_backward`")]
pub(super) fn backward<C: Step>(
    engine: &Engine,
    precision: Precision,
    (shape, batch): (SequenceShape, &Batch),
    inputs: &SequenceInputs,
    output: &[f32],
    trace: &SequenceTrace,
    grad: OutputGradients,
    out: SequenceGradients,
) {
    let plan = Plan::new::<C>(engine, precision, shape);
    let inputs = &without_recall(inputs);
    let wanted = Wanted::Gradients { output: grad.output, trace };
    let survey = Survey::new::<C>(engine, plan, batch, inputs, &wanted);
    let (hidden_size, states) = (shape.hidden_size, inputs.hidden.len());
    // The gradient of the state after each segment, from the last segment on.
    let mut after = vec![0.0; shape.batch_size * hidden_size];
    for index in (0..after.len() / states).rev() {
        let (own, later) = after[index * states..].split_at_mut(states);
        if !later.is_empty() {
            survey.apply((index + 1) * states, &later[..states], own);
        }
        for (sequence, own) in own.chunks_exact_mut(hidden_size).enumerate() {
            // Where a sequence ends the loss enters; segments after that have no step, and hand on a gradient of zero.
            if batch.last_segment(sequence) == index * states / hidden_size + sequence {
                match grad.last_hidden {
                    Some(grad) => own.copy_from_slice(&grad[sequence * hidden_size..][..hidden_size]),
                    None => own.fill(0.0),
                }
            }
        }
    }
    let SequenceGradients { hidden, .. } = out;
    let mut before = vec![0.0; if hidden.is_some() { after.len() } else { 0 }];
    let of_segments = SequenceGradients { hidden: hidden.is_some().then_some(&mut before[..]), ..out };
    let grad = OutputGradients { last_hidden: Some(&after), ..grad };
    let inputs = SequenceInputs { hidden: &trace.before_segments, ..*inputs };
    backward::backward::<C>(engine, precision, (shape, batch), &inputs, output, trace, grad, of_segments);
    if let Some(hidden) = hidden {
        hidden.copy_from_slice(&before[..states]);
    }
}

/// The same without what would drop factors of recurrent products, by sequence: there are none.
fn without_recall<'a>(inputs: &SequenceInputs<'a>) -> SequenceInputs<'a> {
    SequenceInputs { options: SequenceOptions { hidden_dropout: None, ..inputs.options }, ..*inputs }
}

/// What is to be known of segments.
enum Wanted<'a> {
    /// What they add to the state before them.
    States,
    /// What they add to the gradient of the state after them.
    Gradients { output: Option<Rows<'a>>, trace: &'a SequenceTrace },
}

/// `P` and `Q` or `G` of every segment, as rows `[segments, hidden_size]`.
struct Survey {
    scale: Vec<f32>,
    add: Vec<f32>,
}

impl Survey {
    fn new<C: Step>(engine: &Engine, plan: Plan, batch: &Batch, inputs: &SequenceInputs, wanted: &Wanted) -> Self {
        let (tiles, block_len) = (plan.tiles(), plan.block_len());
        let mut blocks = vec![0.0; 2 * tiles * block_len];
        let (scale, add) = blocks.split_at_mut(tiles * block_len);
        scale.fill(1.0);
        let added = match wanted {
            Wanted::States => Added::States,
            Wanted::Gradients { output, .. } => Added::Gradients(*output),
        };
        let mut sweep = |steps: Range<usize>, kept: Blocks| {
            let (scale, add) = (SharedSlice::new(scale), SharedSlice::new(add));
            // Some six operations a unit and step, of which the memory is what counts.
            let flops = 6 * steps.len() * plan.shape.batch_size * plan.shape.hidden_size;
            engine.run(engine.members_for_flops(flops).min(tiles), |member| {
                let mut extras = Extras::new();
                for tile in member.share(tiles) {
                    plan.arch.run(Sweep::<C> {
                        plan: &plan,
                        batch,
                        options: &inputs.options,
                        extras: &mut extras,
                        tile,
                        steps: steps.clone(),
                        kept,
                        added,
                        // SAFETY: each tile is one member's.
                        scale: unsafe { scale.part_mut(tile * block_len, block_len) },
                        // SAFETY: as above.
                        add: unsafe { add.part_mut(tile * block_len, block_len) },
                        cell: PhantomData,
                    });
                }
            });
        };
        let steps = batch.steps();
        match wanted {
            Wanted::Gradients { trace, .. } if trace.memory == Memory::All => {
                sweep(0..steps, Blocks { first: 0, kept: &trace.blocks.kept, states: &trace.blocks.states });
            }
            _ => gates::<C>(engine, plan, batch, inputs, &mut sweep),
        }
        let [scale, add] = [&blocks[..tiles * block_len], &blocks[tiles * block_len..]];
        Self { scale: rows(&plan, batch, scale), add: rows(&plan, batch, add) }
    }

    /// `scale ∘ from + add` of the segments whose rows begin at `start`.
    fn apply(&self, start: usize, from: &[f32], to: &mut [f32]) {
        let of_segment = self.scale[start..].iter().zip(&self.add[start..]);
        for ((to, from), (scale, add)) in to.iter_mut().zip(from).zip(of_segment) {
            *to = scale * from + add;
        }
    }
}

/// Hands what the gates of all segments keep to `sweep`, some steps at a time.
fn gates<C: Step>(
    engine: &Engine,
    plan: Plan,
    batch: &Batch,
    inputs: &SequenceInputs,
    sweep: &mut impl FnMut(Range<usize>, Blocks),
) {
    let mut packed = PackedLayer::new::<C>(&plan, engine.free_list());
    let mut layer = Some(Layer { weight_ih: inputs.weight_ih, weight_hh: inputs.weight_hh, bias: inputs.bias });
    let mut blocks = TraceBlocks::new::<C>(engine, &plan, SURVEY_STEPS);
    // The gates do not read it.
    let hidden = vec![0.0; plan.shape.batch_size * plan.shape.hidden_size];
    for first in (0..batch.steps()).step_by(SURVEY_STEPS) {
        let steps = first..(first + SURVEY_STEPS).min(batch.steps());
        let given = Given::new(inputs, &hidden, None, &[]);
        let written = Written { output: None, last_hidden: None, last_cell_state: &mut [] };
        let weights = (packed.shared(), layer.take());
        with_encoding!(plan.format, E => {
            TimeLoop::<C, E>::run(engine, plan, batch, steps.clone(), weights, given, written, Some(&mut blocks));
        });
        sweep(steps, Blocks { first, kept: &blocks.kept, states: &blocks.states });
    }
}

/// Blocks of all tiles, one for each, as rows.
fn rows(plan: &Plan, batch: &Batch, blocks: &[f32]) -> Vec<f32> {
    let hidden_size = plan.shape.hidden_size;
    let mut rows = vec![0.0; plan.shape.batch_size * hidden_size];
    for (tile, block) in blocks.chunks_exact(plan.block_len()).enumerate() {
        let (panel, row_block) = plan.position(tile);
        let units = plan.units(panel);
        for (place, from) in plan.rows(row_block).zip(block.chunks_exact(plan.units)) {
            rows[batch.row(place) * hidden_size..][units.clone()].copy_from_slice(&from[..units.len()]);
        }
    }
    rows
}

/// What a step adds.
#[derive(Clone, Copy)]
enum Added<'a> {
    /// What enters the state.
    States,
    /// The gradient of its output; `None` is zero.
    Gradients(Option<Rows<'a>>),
}

/// Takes some steps of a tile into what its segments do.
struct Sweep<'a, C> {
    plan: &'a Plan,
    batch: &'a Batch,
    options: &'a SequenceOptions<'a>,
    /// Those that change nothing, at first.
    extras: &'a mut Extras,
    tile: usize,
    steps: Range<usize>,
    kept: Blocks<'a>,
    added: Added<'a>,
    scale: &'a mut [f32],
    add: &'a mut [f32],
    cell: PhantomData<C>,
}

impl<C: Step> Kernel for Sweep<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        with_units!(W, C::GATES, U => self.sweep::<U, O>());
    }
}

impl<C: Step> Sweep<'_, C> {
    #[inline(always)]
    fn sweep<const U: usize, O: MulAdd>(self) {
        let Self { plan, batch, options, extras, tile, steps, kept, added, scale, add, .. } = self;
        let (panel, row_block) = plan.position(tile);
        let (units, places, block_len) = (plan.units(panel), plan.rows(row_block), plan.block_len());
        let (scale, add) = (scale.as_chunks_mut::<U>().0, add.as_chunks_mut::<U>().0);
        for step in steps {
            let running = batch.running_of(&places, step);
            let start = (step - kept.first) * plan.step_len(C::SUMS) + tile * C::SUMS * block_len;
            let (gate, candidate) = kept.kept[start..start + 2 * block_len].split_at(block_len);
            let (gate, candidate) = (gate.as_chunks::<U>().0, candidate.as_chunks::<U>().0);
            if options.any() {
                let (first_place, first_unit) = (places.start, units.start);
                extras.read::<U>(options, Spot { plan, batch, first_place, rows: running.len(), first_unit, step });
            }
            let [keep, factor] = [&extras.keep_hidden, &extras.candidate].map(|block| block.as_chunks::<U>().0);
            for r in 0..running.len() {
                let entering: [f32; U] = std::array::from_fn(|u| (1.0 - keep[r][u]) * gate[r][u]);
                let mut grads = [0.0; U];
                if let Added::Gradients(Some(grad)) = added {
                    let row = grad.from(units.start).row(batch.at(running.start + r, step), units.len());
                    grads[..units.len()].copy_from_slice(row);
                }
                for u in 0..U {
                    scale[r][u] *= 1.0 - entering[u];
                    add[r][u] = match added {
                        Added::States => O::mul_add(entering[u], factor[r][u] * candidate[r][u] - add[r][u], add[r][u]),
                        Added::Gradients(_) => O::mul_add(scale[r][u], grads[u], add[r][u]),
                    };
                }
            }
        }
    }
}
