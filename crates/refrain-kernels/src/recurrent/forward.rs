//! The forward pass: chunk by chunk of steps, the input's products of the chunk, then its steps.
//!
//! Each tile of a step is a product with `weight_hh` that ends with the new states of its units; one barrier per step. A member
//! owns the same tiles through all steps, and computes their inputs' products itself: what it writes there it reads while it
//! is still in its cache.

use std::marker::PhantomData;
use std::ops::Range;

use super::batch::Batch;
use super::cell::Step;
use super::options::SequenceOptions;
use super::packed_layer::{Layer, PackedLayer, SharedLayer};
use super::plan::Plan;
use super::segments::TraceBlocks;
use super::step::{FinishStep, StartSums, Work};
use super::{Memory, SequenceInputs, SequenceOutputs, SequenceShape, SequenceTrace};
use crate::arch::Tiles;
use crate::engine::Engine;
use crate::format::{Encode, Precision, with_encoding};
use crate::pool::Member;
use crate::prefetch::prefetch_run;
use crate::shared::SharedSlice;
use crate::tile::{Sums, TileProduct};

/// Rows of the input whose packed copy stays in the second cache while the panels pass.
const CHUNK_ROWS: usize = 256;

/// The forward pass; `trace` is filled when there is one.
pub(super) fn forward<C: Step>(
    engine: &Engine,
    precision: Precision,
    (shape, batch): (SequenceShape, &Batch),
    inputs: &SequenceInputs,
    outputs: SequenceOutputs,
    mut trace: Option<&mut SequenceTrace>,
) {
    let SequenceOutputs { output, last_hidden, last_cell_state } = outputs;
    // Those of sequences without a step.
    last_hidden.copy_from_slice(inputs.hidden);
    last_cell_state.copy_from_slice(inputs.cell_state);
    if shape.states() == 0 {
        return;
    }
    if batch.steps() == 0 {
        output.fill(0.0);
        return;
    }
    let plan = Plan::new::<C>(engine, precision, shape);
    let layer = Layer { weight_ih: inputs.weight_ih, weight_hh: inputs.weight_hh, bias: inputs.bias };
    let mut packed = PackedLayer::new::<C>(&plan, engine.free_list());
    let packed = packed.shared();
    let memory = trace.as_ref().map_or(Memory::All, |trace| trace.memory);
    for (index, steps) in memory.spans::<C>(plan, batch).into_iter().enumerate() {
        // The last states so far are those before the segment.
        let (hidden, cell_state) = (last_hidden.to_vec(), last_cell_state.to_vec());
        let recalled = inputs.options.recalled(engine, [shape.batch_size, shape.hidden_size], &hidden);
        let given = Given::new(inputs, &hidden, recalled.as_deref(), &cell_state);
        let written = Written { output: Some(output), last_hidden: Some(last_hidden), last_cell_state };
        let weights = (packed, (index == 0).then_some(layer));
        let blocks = trace.as_deref_mut().and_then(|trace| trace.room_after(&cell_state));
        with_encoding!(plan.format, E => {
            TimeLoop::<C, E>::run(engine, plan, batch, steps, weights, given, written, blocks);
        });
    }
}

/// What a pass writes; the states are those of sequences that end in it or go on after it.
pub(super) struct Written<'a> {
    /// `[batch_size, seq_len, hidden_size]`
    pub(super) output: Option<&'a mut [f32]>,
    /// `[batch_size, hidden_size]`
    pub(super) last_hidden: Option<&'a mut [f32]>,
    /// `[batch_size, hidden_size]`, or empty
    pub(super) last_cell_state: &'a mut [f32],
}

/// What a pass reads at every step.
#[derive(Clone, Copy)]
pub(super) enum Input<'a> {
    /// `[batch_size, seq_len, input_size]`
    Features(&'a [f32]),
    /// For a pass of one step, whose plan has no input: the products themselves, by token, and a token for every sequence.
    Tokens { products: &'a [f32], tokens: &'a [u32] },
}

/// What a pass reads beside the weights, as [`SequenceInputs`].
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) input: Input<'a>,
    pub(super) hidden: &'a [f32],
    /// The hidden state as the products read it.
    pub(super) recalled: &'a [f32],
    pub(super) cell_state: &'a [f32],
    pub(super) options: SequenceOptions<'a>,
}

impl<'a> Given<'a> {
    /// The inputs of a layer, with other states; `recalled` where the products read another hidden state.
    pub(super) fn new(
        inputs: &SequenceInputs<'a>,
        hidden: &'a [f32],
        recalled: Option<&'a [f32]>,
        cell_state: &'a [f32],
    ) -> Self {
        let recalled = recalled.unwrap_or(hidden);
        Self { input: Input::Features(inputs.input), hidden, recalled, cell_state, options: inputs.options }
    }
}

pub(super) struct TimeLoop<'a, C, E> {
    plan: Plan,
    batch: &'a Batch,
    steps: Range<usize>,
    chunks: Chunks,
    packed: SharedLayer<'a>,
    /// What is still to be packed.
    layer: Option<Layer<'a>>,
    inputs: Given<'a>,
    /// The input of a chunk, by group of steps and row block.
    input: SharedSlice<'a, u32>,
    /// The hidden states before a step and after it, by row block.
    hidden: SharedSlice<'a, u32>,
    /// By step and tile: the sums before a step, what is kept of it after.
    kept: Ring<'a>,
    /// By step, from the one before the first, and tile.
    states: Ring<'a>,
    /// By tile: the hidden state before a step, where zoneout reads it and it is not that state already.
    zoned: SharedSlice<'a, f32>,
    output: Option<SharedSlice<'a, f32>>,
    last_hidden: Option<SharedSlice<'a, f32>>,
    last_cell_state: SharedSlice<'a, f32>,
    cell: PhantomData<(C, E)>,
}

/// Blocks of consecutive steps, of which the last `steps` are there.
#[derive(Clone, Copy)]
struct Ring<'a> {
    blocks: SharedSlice<'a, f32>,
    first: usize,
    steps: usize,
    step_len: usize,
}

impl Ring<'_> {
    fn start(&self, step: usize) -> usize {
        (step - self.first) % self.steps * self.step_len
    }
}

/// How steps are gathered.
#[derive(Clone, Copy)]
struct Chunks {
    /// Steps of a chunk.
    steps: usize,
    /// Steps whose few rows make one tile of the input's product.
    group: usize,
}

impl Chunks {
    fn new(plan: &Plan, steps: usize) -> Self {
        let batch_size = plan.shape.batch_size;
        let group = (plan.tile.rows / batch_size).max(1);
        let steps = (CHUNK_ROWS / batch_size).max(1).next_multiple_of(group).min(steps.max(1));
        Self { steps, group }
    }
}

impl<C: Step, E: Encode> TimeLoop<'_, C, E> {
    /// Runs a pass with weights that are packed already, or by `layer` yet to be packed.
    #[expect(clippy::too_many_arguments, reason = "what to run, over what, into what")]
    pub(super) fn run(
        engine: &Engine,
        plan: Plan,
        batch: &Batch,
        steps: Range<usize>,
        (packed, layer): (SharedLayer, Option<Layer>),
        inputs: Given,
        written: Written,
        trace: Option<&mut TraceBlocks>,
    ) {
        let SequenceShape { batch_size, input_size, hidden_size, .. } = plan.shape;
        let chunks = Chunks::new(&plan, steps.len());
        let groups = chunks.steps.div_ceil(chunks.group);
        let mut input = engine.scratch(groups * plan.row_blocks * plan.left(input_size).len());
        let mut hidden = engine.scratch(2 * plan.row_blocks * plan.left(plan.recurrent_terms::<C>()).len());
        let (kept_steps, state_steps) =
            if trace.is_some() { (steps.len(), steps.len() + 1) } else { (chunks.steps, 2) };
        let untraced = usize::from(trace.is_none());
        let mut untraced_kept = engine.scratch(untraced * kept_steps * plan.step_len(C::SUMS));
        let mut untraced_states = engine.scratch(untraced * state_steps * plan.step_len(1));
        let (kept, states) = match trace {
            Some(trace) => (&mut trace.kept[..], &mut trace.states[..]),
            None => (&mut untraced_kept[..], &mut untraced_states[..]),
        };
        let zones = inputs.options.zoneout_hidden.is_some() && !C::STATE_IS_HIDDEN;
        let mut zoned = engine.scratch(usize::from(zones) * plan.step_len(1));
        let first = steps.start;
        let ring = |blocks, steps, count| Ring { blocks, first, steps, step_len: plan.step_len(count) };
        let time_loop = TimeLoop::<C, E> {
            plan,
            batch,
            steps,
            chunks,
            packed,
            layer,
            inputs,
            input: SharedSlice::new(input.words_mut()),
            hidden: SharedSlice::new(hidden.words_mut()),
            kept: ring(SharedSlice::new(kept), kept_steps, C::SUMS),
            states: ring(SharedSlice::new(states), state_steps, 1),
            zoned: SharedSlice::new(&mut zoned),
            output: written.output.map(SharedSlice::new),
            last_hidden: written.last_hidden.map(SharedSlice::new),
            last_cell_state: SharedSlice::new(written.last_cell_state),
            cell: PhantomData,
        };
        let step_flops = 2 * C::GATES * batch_size * hidden_size * (input_size + hidden_size);
        // What lies between two barriers.
        let flops = if C::STATE_ENTERS_PRODUCTS { step_flops } else { step_flops * chunks.steps };
        engine.run(engine.members_for_flops(flops).min(plan.tiles()), |member| time_loop.member(member));
    }

    fn member(&self, member: Member) {
        let tiles = self.plan.arch.tiles();
        let mut work = Work::<E>::new(&self.inputs.options);
        self.prepare(member);
        let own = member.share(self.plan.tiles());
        for tile in own.clone() {
            self.initial_states(tile);
        }
        for first in self.steps.clone().step_by(self.chunks.steps) {
            let steps = first..(first + self.chunks.steps).min(self.steps.end);
            match self.inputs.input {
                Input::Features(input) => {
                    self.pack_input(member, input, &steps);
                    member.barrier();
                    self.input_products(&tiles, &mut work.sums, &own, &steps);
                }
                Input::Tokens { products, tokens } => {
                    member.barrier();
                    for tile in own.clone() {
                        self.token_products(products, tokens, tile);
                    }
                }
            }
            for step in steps {
                for offset in 0..own.len() {
                    // There and back: what the last step used last is still in the cache.
                    let tile = if step % 2 == 0 { own.start + offset } else { own.end - 1 - offset };
                    self.tile(&tiles, &mut work, step, tile);
                }
                if C::STATE_ENTERS_PRODUCTS {
                    member.barrier();
                }
            }
            if !C::STATE_ENTERS_PRODUCTS {
                // The next chunk's input takes the place of this one's.
                member.barrier();
            }
        }
        if self.steps.end == self.batch.steps() {
            self.clear_padding(member);
        }
    }

    /// Zeros where sequences have ended, for a member's share of them.
    fn clear_padding(&self, member: Member) {
        let Some(output) = self.output else { return };
        let SequenceShape { batch_size, hidden_size, .. } = self.plan.shape;
        for place in member.share(batch_size) {
            let padding = self.batch.padding(place);
            // SAFETY: no step writes there, and each sequence belongs to one member.
            unsafe { output.part_mut(padding.start * hidden_size, padding.len() * hidden_size) }.fill(0.0);
        }
    }

    /// Packs a member's share of the weights and of the initial hidden states.
    fn prepare(&self, member: Member) {
        let Self { plan, inputs, .. } = self;
        let hidden_size = plan.shape.hidden_size;
        if let Some(layer) = self.layer {
            for panel in member.share(plan.panels) {
                // SAFETY: each panel is packed by one member, before the barrier.
                unsafe { self.packed.pack::<C>(plan, layer, panel) };
            }
        }
        if !C::STATE_ENTERS_PRODUCTS {
            return;
        }
        let packing = plan.left(plan.recurrent_terms::<C>());
        for row_block in member.share(plan.row_blocks) {
            let rows = plan.rows(row_block);
            // SAFETY: each row block belongs to one member until the barrier.
            let [before, after] = [0, 1].map(|half| unsafe {
                self.hidden.part_mut((half * plan.row_blocks + row_block) * packing.len(), packing.len())
            });
            packing.contiguous_terms(before, |r| {
                if r < rows.len() {
                    &inputs.recalled[self.batch.row(rows.start + r) * hidden_size..][..hidden_size]
                } else {
                    &[]
                }
            });
            // Terms beyond the last panel are never written again.
            after.fill(0);
        }
    }

    /// The states of a tile before the first step, as blocks.
    fn initial_states(&self, tile: usize) {
        let Self { plan, inputs, .. } = self;
        let hidden_size = plan.shape.hidden_size;
        let (panel, row_block) = plan.position(tile);
        let units = plan.units(panel);
        let fill = |to: &mut [f32], from: &[f32]| {
            to.fill(0.0);
            for (place, to) in plan.rows(row_block).zip(to.chunks_exact_mut(plan.units)) {
                to[..units.len()].copy_from_slice(&from[self.batch.row(place) * hidden_size..][units.clone()]);
            }
        };
        if C::HAS_STATE {
            let start = self.states.start(self.steps.start) + tile * plan.block_len();
            // SAFETY: the tile is this member's.
            let to = unsafe { self.states.blocks.part_mut(start, plan.block_len()) };
            fill(to, if C::STATE_IS_HIDDEN { inputs.hidden } else { inputs.cell_state });
        }
        // SAFETY: as above.
        fill(unsafe { self.zoned_block(tile) }, inputs.hidden);
    }

    /// The hidden state of a tile for zoneout, or nothing.
    ///
    /// # Safety
    ///
    /// The tile must be the calling member's, and its block not be borrowed elsewhere.
    #[expect(clippy::mut_from_ref, reason = "a part of what the members share out among them")]
    unsafe fn zoned_block(&self, tile: usize) -> &mut [f32] {
        let len = if self.zoned.is_empty() { 0 } else { self.plan.block_len() };
        // SAFETY: by contract.
        unsafe { self.zoned.part_mut(tile * len, len) }
    }

    /// The steps of a group, and where its input is packed.
    fn groups(&self, steps: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<C, E> {
        let (end, group) = (steps.end, self.chunks.group);
        steps.clone().step_by(group).map(move |step| step..(step + group).min(end))
    }

    /// Packs a member's share of a chunk's input.
    fn pack_input(&self, member: Member, input: &[f32], steps: &Range<usize>) {
        let Self { plan, .. } = self;
        let input_size = plan.shape.input_size;
        let packing = plan.left(input_size);
        for (index, group) in self.groups(steps).enumerate() {
            for row_block in 0..plan.row_blocks {
                let place = index * plan.row_blocks + row_block;
                if place % member.count != member.index {
                    continue;
                }
                let rows = plan.rows(row_block);
                if self.batch.running_of(&rows, group.start).is_empty() {
                    continue;
                }
                // SAFETY: each place belongs to one member until the barrier; who read it in the last chunk has since
                // passed the barriers of its steps.
                let to = unsafe { self.input.part_mut(place * packing.len(), packing.len()) };
                packing.contiguous_terms(to, |line| {
                    let (step, place) = (group.start + line / rows.len(), rows.start + line % rows.len());
                    if step < group.end && place < self.batch.running(step) {
                        &input[self.batch.at(place, step) * input_size..][..input_size]
                    } else {
                        &[]
                    }
                });
            }
        }
    }

    /// The input's share of the sums of a chunk, for a member's tiles.
    fn input_products(&self, tiles: &Tiles, sums: &mut Sums, own: &Range<usize>, steps: &Range<usize>) {
        let Self { plan, .. } = self;
        let input_size = plan.shape.input_size;
        let (left, right) = (plan.left(input_size), plan.right(input_size));
        let panels = own.start / plan.row_blocks..(own.end.div_ceil(plan.row_blocks));
        for panel in panels {
            for (index, group) in self.groups(steps).enumerate() {
                for row_block in 0..plan.row_blocks {
                    let tile = panel * plan.row_blocks + row_block;
                    if !own.contains(&tile) {
                        continue;
                    }
                    let places = plan.rows(row_block);
                    let running = |step| self.batch.running_of(&places, step).len();
                    let rows = match group.len() {
                        1 => running(group.start),
                        _ => places.len(),
                    };
                    if running(group.start) == 0 {
                        continue;
                    }
                    let product = TileProduct {
                        format: plan.format,
                        shape: plan.tile,
                        rows: rows * group.len(),
                        blocks: plan.format.blocks(input_size),
                        left: self.input.pointer((index * plan.row_blocks + row_block) * left.len()),
                        right: self.packed.weight_ih.pointer(panel * right.len()),
                    };
                    // SAFETY: the weights and the chunk's input are packed since the barrier.
                    unsafe { tiles.multiply(&product, sums) };
                    for (index, step) in group.clone().enumerate() {
                        plan.arch.run(StartSums::<C> {
                            sums,
                            first_row: index * rows,
                            rows: running(step),
                            width: plan.tile.width,
                            // SAFETY: the biases are complete since the barrier.
                            bias: unsafe { self.packed.bias.part(panel * C::SUMS * plan.units, C::SUMS * plan.units) },
                            // SAFETY: the tile is this member's.
                            to: unsafe { self.kept_blocks(step, tile) },
                            cell: PhantomData,
                        });
                    }
                }
            }
        }
    }

    /// Starts the sums of a tile of the only step from products that are there already.
    fn token_products(&self, products: &[f32], tokens: &[u32], tile: usize) {
        let Self { plan, .. } = self;
        let hidden_size = plan.shape.hidden_size;
        let (panel, row_block) = plan.position(tile);
        let units = plan.units(panel);
        // SAFETY: the biases are complete since the barrier.
        let bias = unsafe { self.packed.bias.part(panel * C::SUMS * plan.units, C::SUMS * plan.units) };
        // SAFETY: the tile is this member's.
        let to = unsafe { self.kept_blocks(0, tile) };
        let blocks = bias.chunks_exact(plan.units).zip(to.chunks_exact_mut(plan.block_len()));
        for (sum, (bias, to)) in blocks.enumerate() {
            for (&token, to) in tokens[plan.rows(row_block)].iter().zip(to.chunks_exact_mut(plan.units)) {
                to.copy_from_slice(bias);
                if sum < C::GATES {
                    let start = (token as usize * C::GATES + sum) * hidden_size;
                    for (to, product) in to.iter_mut().zip(&products[start..][units.clone()]) {
                        *to += product;
                    }
                }
            }
        }
    }

    /// The sums or kept blocks of a tile.
    ///
    /// # Safety
    ///
    /// The tile must be the calling member's, and its blocks not be borrowed elsewhere.
    #[expect(clippy::mut_from_ref, reason = "a part of what the members share out among them")]
    unsafe fn kept_blocks(&self, step: usize, tile: usize) -> &mut [f32] {
        let len = C::SUMS * self.plan.block_len();
        // SAFETY: by contract.
        unsafe { self.kept.blocks.part_mut(self.kept.start(step) + tile * len, len) }
    }

    /// One step of a tile.
    fn tile(&self, tiles: &Tiles, work: &mut Work<E>, step: usize, tile: usize) {
        let Self { plan, batch, steps, inputs, .. } = self;
        let hidden_size = plan.shape.hidden_size;
        let (panel, row_block) = plan.position(tile);
        let (places, units) = (plan.rows(row_block), plan.units(panel));
        let running = batch.running_of(&places, step);
        if running.is_empty() {
            return;
        }
        let terms = plan.recurrent_terms::<C>();
        let (left, right) = (plan.left(terms), plan.right(terms));
        let hidden = |half: usize| self.hidden.pointer((half % 2 * plan.row_blocks + row_block) * left.len());
        let half = step - steps.start;
        let block_len = plan.block_len();
        // SAFETY: the tile is this member's.
        let kept = unsafe { self.kept_blocks(step, tile) };
        prefetch_run(kept.as_ptr(), kept.len());
        let output = self.output.map(|output| {
            move |r: usize| output.pointer(batch.at(running.start + r, step) * hidden_size + units.start)
        });
        if let Some(output) = &output {
            for r in 0..running.len() {
                prefetch_run(output(r), units.len());
            }
        }
        let product = TileProduct {
            format: plan.format,
            shape: plan.tile,
            rows: running.len(),
            blocks: plan.format.blocks(terms),
            left: hidden(half),
            right: self.packed.weight_hh.pointer(panel * right.len()),
        };
        if C::STATE_ENTERS_PRODUCTS {
            // SAFETY: the weights are packed, and the hidden states of the last step complete, since the barrier.
            unsafe { tiles.multiply(&product, &mut work.sums) };
        }
        let (before, after): (&[f32], &mut [f32]) = if C::HAS_STATE {
            let [before, after] = [step, step + 1].map(|step| self.states.start(step) + tile * block_len);
            // SAFETY: the tile is this member's, and two consecutive steps have different blocks.
            unsafe { (self.states.blocks.part(before, block_len), self.states.blocks.part_mut(after, block_len)) }
        } else {
            (&[], &mut [])
        };
        plan.arch.run(FinishStep::<C, E, _> {
            plan,
            batch,
            options: &inputs.options,
            step,
            work,
            first_place: running.start,
            rows: running.len(),
            present: units.len(),
            first_unit: units.start,
            kept,
            before,
            after,
            // SAFETY: the tile is this member's.
            zoned: unsafe { self.zoned_block(tile) },
            hidden: hidden(half + 1),
            output,
            cell: PhantomData,
        });
        let leaving = if step + 1 == steps.end { running.clone() } else { batch.ending_of(&places, step) };
        for place in leaving {
            let r = (place - places.start) * plan.units;
            let to = batch.row(place) * hidden_size + units.start;
            let store = |states: SharedSlice<f32>, from: &[f32]| {
                // SAFETY: each sequence and unit has one writer, its tile's member.
                unsafe { states.part_mut(to, units.len()) }.copy_from_slice(&from[r..r + units.len()]);
            };
            if let Some(last_hidden) = self.last_hidden {
                store(last_hidden, &work.lanes.hidden);
            }
            if plan.shape.cell.has_cell_state() {
                store(self.last_cell_state, after);
            }
        }
    }
}
