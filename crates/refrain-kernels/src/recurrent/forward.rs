//! The forward pass: chunk by chunk of steps, the input's products of the chunk, then its steps.
//!
//! Each tile of a step is a product with `weight_hh` that ends with the new states of its units; one barrier per step. A member
//! owns the same tiles through all steps, and computes their inputs' products itself: what it writes there it reads while it
//! is still in its cache.

use std::marker::PhantomData;
use std::ops::Range;

use super::cell::Step;
use super::plan::Plan;
use super::step::{FinishStep, StartSums, Work};
use super::{SequenceInputs, SequenceOutputs, SequenceShape, SequenceTrace};
use crate::arch::Tiles;
use crate::engine::Engine;
use crate::format::{Encode, Precision, with_encoding};
use crate::pool::Member;
use crate::prefetch::prefetch_run;
use crate::scratch::{FreeList, Scratch};
use crate::shared::SharedSlice;
use crate::tile::{Sums, TileProduct};

/// Rows of the input whose packed copy stays in the second cache while the panels pass.
const CHUNK_ROWS: usize = 256;

/// The forward pass; `trace` is filled when there is one.
pub(super) fn forward<C: Step>(
    engine: &Engine,
    precision: Precision,
    shape: SequenceShape,
    inputs: SequenceInputs,
    outputs: SequenceOutputs,
    trace: Option<&mut SequenceTrace>,
) {
    let SequenceOutputs { output, last_cell_state } = outputs;
    if shape.states() == 0 {
        last_cell_state.copy_from_slice(inputs.cell_state);
        return;
    }
    let plan = Plan::new::<C>(engine, precision, shape);
    let layer = Layer { weight_ih: inputs.weight_ih, weight_hh: inputs.weight_hh, bias: inputs.bias };
    let mut packed = PackedLayer::new::<C>(&plan, engine.free_list());
    let packed = packed.shared();
    let state = Given { input: Input::Features(inputs.input), hidden: inputs.hidden, cell_state: inputs.cell_state };
    with_encoding!(plan.format, E => {
        TimeLoop::<C, E>::run(engine, plan, (packed, Some(layer)), state, [output, last_cell_state], trace);
    });
}

/// A layer's weights as they are.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) weight_ih: &'a [f32],
    pub(super) weight_hh: &'a [f32],
    pub(super) bias: &'a [f32],
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
    pub(super) cell_state: &'a [f32],
}

/// Room for a layer's packed weights.
#[derive(Debug)]
pub(super) struct PackedLayer {
    /// By panel.
    weight_ih: Scratch,
    weight_hh: Scratch,
    /// By panel and sum, one float for each unit of the panel.
    bias: Scratch,
}

impl PackedLayer {
    /// The packed weights, to read.
    pub(super) fn packed(&self) -> SharedLayer<'_> {
        SharedLayer {
            weight_ih: SharedSlice::read_only(self.weight_ih.words()),
            weight_hh: SharedSlice::read_only(self.weight_hh.words()),
            bias: SharedSlice::read_only(&self.bias),
        }
    }

    /// Room for the weights of a plan, not yet packed.
    pub(super) fn new<C: Step>(plan: &Plan, home: &FreeList) -> Self {
        Self {
            weight_ih: home.scratch(plan.panels * plan.right(plan.shape.input_size).len()),
            weight_hh: home.scratch(plan.panels * plan.right(plan.hidden_terms()).len()),
            bias: home.scratch(plan.panels * C::SUMS * plan.units),
        }
    }

    /// The room, to pack into.
    pub(super) fn shared(&mut self) -> SharedLayer<'_> {
        SharedLayer {
            weight_ih: SharedSlice::new(self.weight_ih.words_mut()),
            weight_hh: SharedSlice::new(self.weight_hh.words_mut()),
            bias: SharedSlice::new(&mut self.bias),
        }
    }
}

/// A layer's packed weights, whose panels are shared out while they are packed.
#[derive(Clone, Copy)]
pub(super) struct SharedLayer<'a> {
    weight_ih: SharedSlice<'a, u32>,
    weight_hh: SharedSlice<'a, u32>,
    bias: SharedSlice<'a, f32>,
}

impl SharedLayer<'_> {
    /// Packs one panel.
    ///
    /// # Safety
    ///
    /// The panel must be the calling member's alone.
    pub(super) unsafe fn pack<C: Step>(&self, plan: &Plan, layer: Layer, panel: usize) {
        let SequenceShape { input_size, hidden_size, .. } = plan.shape;
        let units = plan.units(panel);
        let row = |column: usize| {
            let (gate, unit) = (column / plan.units, units.start + column % plan.units);
            (gate < C::GATES && unit < units.end).then_some(gate * hidden_size + unit)
        };
        for (packed, weight, terms, padded) in [
            (self.weight_ih, layer.weight_ih, input_size, input_size),
            (self.weight_hh, layer.weight_hh, hidden_size, plan.hidden_terms()),
        ] {
            let packing = plan.right(padded);
            // SAFETY: by contract.
            let to = unsafe { packed.part_mut(panel * packing.len(), packing.len()) };
            packing.contiguous_terms(to, |column| row(column).map_or(&[], |row| &weight[row * terms..][..terms]));
        }
        for sum in 0..C::SUMS {
            // SAFETY: by contract.
            let to = unsafe { self.bias.part_mut((panel * C::SUMS + sum) * plan.units, plan.units) };
            to[..units.len()].copy_from_slice(&layer.bias[sum * hidden_size..][units.clone()]);
            to[units.len()..].fill(0.0);
        }
    }
}

pub(super) struct TimeLoop<'a, C, E> {
    plan: Plan,
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
    output: SharedSlice<'a, f32>,
    last_cell_state: SharedSlice<'a, f32>,
    cell: PhantomData<(C, E)>,
}

/// Blocks of consecutive steps, of which the last `steps` are there.
#[derive(Clone, Copy)]
struct Ring<'a> {
    blocks: SharedSlice<'a, f32>,
    steps: usize,
    step_len: usize,
}

impl Ring<'_> {
    fn start(&self, step: usize) -> usize {
        step % self.steps * self.step_len
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
    fn new(plan: &Plan) -> Self {
        let SequenceShape { batch_size, seq_len, .. } = plan.shape;
        let group = (plan.tile.rows / batch_size).max(1);
        let steps = (CHUNK_ROWS / batch_size).max(1).next_multiple_of(group).min(seq_len);
        Self { steps, group }
    }
}

impl<C: Step, E: Encode> TimeLoop<'_, C, E> {
    /// Runs a pass with weights that are packed already, or by `layer` yet to be packed.
    pub(super) fn run(
        engine: &Engine,
        plan: Plan,
        (packed, layer): (SharedLayer, Option<Layer>),
        inputs: Given,
        [output, last_cell_state]: [&mut [f32]; 2],
        trace: Option<&mut SequenceTrace>,
    ) {
        let SequenceShape { batch_size, seq_len, input_size, hidden_size, .. } = plan.shape;
        let chunks = Chunks::new(&plan);
        let groups = chunks.steps.div_ceil(chunks.group);
        let mut input = engine.scratch(groups * plan.row_blocks * plan.left(input_size).len());
        let mut hidden = engine.scratch(2 * plan.row_blocks * plan.left(plan.hidden_terms()).len());
        let (kept_steps, state_steps) = if trace.is_some() { (seq_len, seq_len + 1) } else { (chunks.steps, 2) };
        let untraced = usize::from(trace.is_none());
        let mut untraced_kept = engine.scratch(untraced * kept_steps * plan.step_len(C::SUMS));
        let mut untraced_states = engine.scratch(untraced * state_steps * plan.step_len(1));
        let (kept, states) = match trace {
            Some(trace) => (&mut trace.kept[..], &mut trace.states[..]),
            None => (&mut untraced_kept[..], &mut untraced_states[..]),
        };
        let ring = |blocks, steps, count| Ring { blocks, steps, step_len: plan.step_len(count) };
        let time_loop = TimeLoop::<C, E> {
            plan,
            chunks,
            packed,
            layer,
            inputs,
            input: SharedSlice::new(input.words_mut()),
            hidden: SharedSlice::new(hidden.words_mut()),
            kept: ring(SharedSlice::new(kept), kept_steps, C::SUMS),
            states: ring(SharedSlice::new(states), state_steps, 1),
            output: SharedSlice::new(output),
            last_cell_state: SharedSlice::new(last_cell_state),
            cell: PhantomData,
        };
        let step_flops = 2 * C::GATES * batch_size * hidden_size * (input_size + hidden_size);
        engine.run(engine.members_for_flops(step_flops).min(plan.tiles()), |member| time_loop.member(member));
    }

    fn member(&self, member: Member) {
        let Plan { arch, shape, .. } = self.plan;
        let tiles = arch.tiles();
        let mut work = Work::<E>::new();
        self.prepare(member);
        let own = member.share(self.plan.tiles());
        for tile in own.clone() {
            self.initial_state(tile);
        }
        for first in (0..shape.seq_len).step_by(self.chunks.steps) {
            let steps = first..(first + self.chunks.steps).min(shape.seq_len);
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
                member.barrier();
            }
        }
        if shape.cell.has_cell_state() {
            for tile in own {
                self.last_cell_state(tile);
            }
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
        let packing = plan.left(plan.hidden_terms());
        for row_block in member.share(plan.row_blocks) {
            let rows = plan.rows(row_block);
            // SAFETY: each row block belongs to one member until the barrier.
            let [before, after] = [0, 1].map(|half| unsafe {
                self.hidden.part_mut((half * plan.row_blocks + row_block) * packing.len(), packing.len())
            });
            packing.contiguous_terms(before, |r| {
                if r < rows.len() { &inputs.hidden[(rows.start + r) * hidden_size..][..hidden_size] } else { &[] }
            });
            // Terms beyond the last panel are never written again.
            after.fill(0);
        }
    }

    /// The state of a tile before the first step.
    fn initial_state(&self, tile: usize) {
        if !C::HAS_STATE {
            return;
        }
        let Self { plan, inputs, .. } = self;
        let hidden_size = plan.shape.hidden_size;
        let from = if plan.shape.cell.has_cell_state() { inputs.cell_state } else { inputs.hidden };
        let (panel, row_block) = plan.position(tile);
        let units = plan.units(panel);
        // SAFETY: the tile is this member's.
        let to =
            unsafe { self.states.blocks.part_mut(self.states.start(0) + tile * plan.block_len(), plan.block_len()) };
        to.fill(0.0);
        for (row, to) in plan.rows(row_block).zip(to.chunks_exact_mut(plan.units)) {
            to[..units.len()].copy_from_slice(&from[row * hidden_size..][units.clone()]);
        }
    }

    fn last_cell_state(&self, tile: usize) {
        let Self { plan, .. } = self;
        let SequenceShape { hidden_size, seq_len, .. } = plan.shape;
        let (panel, row_block) = plan.position(tile);
        let units = plan.units(panel);
        let start = self.states.start(seq_len) + tile * plan.block_len();
        // SAFETY: the tile is this member's.
        let from = unsafe { self.states.blocks.part(start, plan.block_len()) };
        for (row, from) in plan.rows(row_block).zip(from.chunks_exact(plan.units)) {
            // SAFETY: each tile has one writer.
            let to = unsafe { self.last_cell_state.part_mut(row * hidden_size + units.start, units.len()) };
            to.copy_from_slice(&from[..units.len()]);
        }
    }

    /// The steps of a group, and where its input is packed.
    fn groups(&self, steps: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<C, E> {
        let (end, group) = (steps.end, self.chunks.group);
        steps.clone().step_by(group).map(move |step| step..(step + group).min(end))
    }

    /// Packs a member's share of a chunk's input.
    fn pack_input(&self, member: Member, input: &[f32], steps: &Range<usize>) {
        let Self { plan, .. } = self;
        let SequenceShape { seq_len, input_size, .. } = plan.shape;
        let packing = plan.left(input_size);
        for (index, group) in self.groups(steps).enumerate() {
            for row_block in 0..plan.row_blocks {
                let place = index * plan.row_blocks + row_block;
                if place % member.count != member.index {
                    continue;
                }
                let rows = plan.rows(row_block);
                // SAFETY: each place belongs to one member until the barrier; who read it in the last chunk has since
                // passed the barriers of its steps.
                let to = unsafe { self.input.part_mut(place * packing.len(), packing.len()) };
                packing.contiguous_terms(to, |line| {
                    let (step, row) = (group.start + line / rows.len(), rows.start + line % rows.len());
                    if step < group.end { &input[(row * seq_len + step) * input_size..][..input_size] } else { &[] }
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
                    let rows = plan.rows(row_block).len();
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
                            rows,
                            width: plan.tile.width,
                            units: plan.units,
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
        let Self { plan, .. } = self;
        let SequenceShape { seq_len, hidden_size, .. } = plan.shape;
        let (panel, row_block) = plan.position(tile);
        let (rows, units) = (plan.rows(row_block), plan.units(panel));
        let (left, right) = (plan.left(plan.hidden_terms()), plan.right(plan.hidden_terms()));
        let hidden = |half: usize| self.hidden.pointer((half * plan.row_blocks + row_block) * left.len());
        let block_len = plan.block_len();
        // SAFETY: the tile is this member's.
        let kept = unsafe { self.kept_blocks(step, tile) };
        prefetch_run(kept.as_ptr(), kept.len());
        let output = self.output.pointer((rows.start * seq_len + step) * hidden_size + units.start);
        for r in 0..rows.len() {
            prefetch_run(output.wrapping_add(r * seq_len * hidden_size), units.len());
        }
        let product = TileProduct {
            format: plan.format,
            shape: plan.tile,
            rows: rows.len(),
            blocks: plan.format.blocks(plan.hidden_terms()),
            left: hidden(step % 2),
            right: self.packed.weight_hh.pointer(panel * right.len()),
        };
        // SAFETY: the weights are packed, and the hidden states of the last step complete, since the barrier.
        unsafe { tiles.multiply(&product, &mut work.sums) };
        let (before, after): (&[f32], &mut [f32]) = if C::HAS_STATE {
            let [before, after] = [step, step + 1].map(|step| self.states.start(step) + tile * block_len);
            // SAFETY: the tile is this member's, and two consecutive steps have different blocks.
            unsafe { (self.states.blocks.part(before, block_len), self.states.blocks.part_mut(after, block_len)) }
        } else {
            (&[], &mut [])
        };
        plan.arch.run(FinishStep::<C, E> {
            plan,
            work,
            rows: rows.len(),
            present: units.len(),
            first_unit: units.start,
            kept,
            before,
            after,
            hidden: hidden((step + 1) % 2),
            output,
            cell: PhantomData,
        });
    }
}
