//! The backward pass: chunk by chunk of steps, from the last, a time loop for the gradients of the sums before the activations,
//! then the products that need them.
//!
//! A tile of a step is a product of the later step's gradients with `weight_hh` that ends with this step's. It writes them in
//! the two packings in which they are factors: as rows for the next step and for the gradient of the input, as columns for
//! those of the weights, which are added up transposed, chunk by chunk.

use std::marker::PhantomData;
use std::ops::Range;

use super::backward_plan::BackwardPlan;
use super::cell::Step;
use super::plan::Plan;
use super::step::LeftRows;
use super::step_back::{StepBack, StepWork, Sub};
use super::{OutputGradients, SequenceGradients, SequenceInputs, SequenceShape, SequenceTrace};
use crate::arch::Tiles;
use crate::engine::Engine;
use crate::format::{Encode, Precision, with_encoding};
use crate::gemm::{Start, StoreTile};
use crate::pool::Member;
use crate::prefetch::prefetch_run;
use crate::shared::SharedSlice;
use crate::tile::{Sums, TileProduct};

/// Terms of a pass over the gradients for that of the input.
const PASS_TERMS: usize = 512;
/// Tiles of features that stay in the second cache while the columns of gradients pass.
const FEATURE_GROUP: usize = 8;

#[expect(clippy::too_many_arguments, reason = "as `sequence_backward`")]
pub(super) fn backward<C: Step>(
    engine: &Engine,
    precision: Precision,
    shape: SequenceShape,
    inputs: &SequenceInputs,
    output: &[f32],
    trace: &SequenceTrace,
    grad: OutputGradients,
    out: SequenceGradients,
) {
    if shape.states() == 0 {
        no_steps(grad, out);
        return;
    }
    let plan = BackwardPlan::new::<C>(Plan::new::<C>(engine, precision, shape));
    with_encoding!(plan.forward.format, E => {
        TimeLoop::<C, E>::run(engine, plan, &Source { inputs, output, trace, grad }, out);
    });
}

/// Without steps the cell state passes through and nothing else matters.
fn no_steps(grad: OutputGradients, out: SequenceGradients) {
    for zero in [out.input, out.weight_ih, out.weight_hh, out.bias, out.hidden].into_iter().flatten() {
        zero.fill(0.0);
    }
    if let Some(cell_state) = out.cell_state {
        match grad.last_cell_state {
            Some(last_cell_state) => cell_state.copy_from_slice(last_cell_state),
            None => cell_state.fill(0.0),
        }
    }
}

struct Source<'a> {
    inputs: &'a SequenceInputs<'a>,
    output: &'a [f32],
    trace: &'a SequenceTrace,
    grad: OutputGradients<'a>,
}

/// The gradient of one of the weights, while it is added up.
struct WeightGradient<'a> {
    /// Features of a row of the weight.
    size: usize,
    /// The gate of each of its gradients, and the first of these.
    gates: &'static [usize],
    first_gradient: usize,
    /// The features of a chunk, by tile of features.
    features: SharedSlice<'a, u32>,
    /// By tile of features and panel of gradients.
    sums: SharedSlice<'a, f32>,
    /// `[gates * hidden_size, size]`
    out: SharedSlice<'a, f32>,
}

struct TimeLoop<'a, C, E> {
    plan: BackwardPlan,
    source: &'a Source<'a>,
    /// By panel.
    packed_hh: SharedSlice<'a, u32>,
    packed_ih: SharedSlice<'a, u32>,
    /// A ring of one step more than a chunk has, by step and row block.
    rows: SharedSlice<'a, u32>,
    /// By panel of gradients.
    columns: SharedSlice<'a, u32>,
    /// δ of the state, by tile and forward panel.
    state: SharedSlice<'a, f32>,
    /// By row block and gradient: the sums over sequences and steps.
    bias: SharedSlice<'a, f32>,
    weights: [Option<WeightGradient<'a>>; 2],
    out_input: Option<SharedSlice<'a, f32>>,
    out_bias: Option<SharedSlice<'a, f32>>,
    out_hidden: Option<SharedSlice<'a, f32>>,
    out_cell_state: Option<SharedSlice<'a, f32>>,
    cell: PhantomData<(C, E)>,
}

/// What a member works in.
struct Work<E: Encode> {
    sums: Sums,
    step: StepWork<E>,
}

impl<C: Step, E: Encode> TimeLoop<'_, C, E> {
    fn run(engine: &Engine, plan: BackwardPlan, source: &Source, out: SequenceGradients) {
        let SequenceShape { batch_size, input_size, hidden_size, .. } = plan.forward.shape;
        let mut packed_hh = engine.scratch(plan.panels * plan.right(plan.recurrent_gradients).len());
        let input_panels = if out.input.is_some() { input_size.div_ceil(plan.tile.width) } else { 0 };
        let mut packed_ih = engine.scratch(input_panels * plan.right(plan.input_gradients).len());
        let mut rows = engine.scratch((plan.chunk_steps + 1) * plan.forward.row_blocks * plan.left().len());
        let mut columns = engine.scratch(plan.gradients * plan.panels * plan.columns(plan.chunk_steps).len());
        let mut state = engine.scratch(plan.tiles() * plan.state_len());
        let mut bias = engine.scratch(plan.forward.row_blocks * plan.gradients * plan.padded);
        let sizes = [(out.weight_ih, input_size), (out.weight_hh, hidden_size)];
        let gradients = [plan.input_gradients, plan.recurrent_gradients];
        let mut scratch: [_; 2] = std::array::from_fn(|i| {
            let wanted = usize::from(sizes[i].0.is_some());
            let tiles = wanted * sizes[i].1.div_ceil(plan.features.rows);
            let features = engine.scratch(tiles * plan.feature_rows(plan.chunk_steps).len());
            let sums = engine.scratch(tiles * gradients[i] * plan.panels * plan.feature_tile());
            (features, sums)
        });
        let gates = [C::INPUT_GATES, C::RECURRENT_GATES];
        let first = [0, plan.gradients - plan.recurrent_gradients];
        let mut parts = scratch.iter_mut().zip(sizes).enumerate().map(|(i, ((features, sums), (out, size)))| {
            out.map(|out| WeightGradient {
                size,
                gates: gates[i],
                first_gradient: first[i],
                features: SharedSlice::new(features.words_mut()),
                sums: SharedSlice::new(sums),
                out: SharedSlice::new(out),
            })
        });
        let weights = [parts.next().flatten(), parts.next().flatten()];
        let time_loop = TimeLoop::<C, E> {
            plan,
            source,
            packed_hh: SharedSlice::new(packed_hh.words_mut()),
            packed_ih: SharedSlice::new(packed_ih.words_mut()),
            rows: SharedSlice::new(rows.words_mut()),
            columns: SharedSlice::new(columns.words_mut()),
            state: SharedSlice::new(&mut state),
            bias: SharedSlice::new(&mut bias),
            weights,
            out_input: out.input.map(SharedSlice::new),
            out_bias: out.bias.map(SharedSlice::new),
            out_hidden: out.hidden.map(SharedSlice::new),
            out_cell_state: out.cell_state.map(SharedSlice::new),
            cell: PhantomData,
        };
        let step_flops = 4 * C::GATES * batch_size * hidden_size * (input_size + hidden_size);
        engine.run(engine.members_for_flops(step_flops).min(plan.tiles()), |member| time_loop.member(member));
    }

    fn member(&self, member: Member) {
        let plan = &self.plan;
        let seq_len = plan.forward.shape.seq_len;
        let tiles = plan.forward.arch.tiles();
        let mut work = Work::<E> { sums: Sums::new(), step: StepWork::new() };
        self.pack_weights(member);
        let own = member.share(plan.tiles());
        for tile in own.clone() {
            self.start_tile(tile);
        }
        let mut end = seq_len;
        while end > 0 {
            let steps = end.saturating_sub(plan.chunk_steps)..end;
            self.pack_features(member, &steps);
            self.pad_columns(member, &steps);
            member.barrier();
            for step in steps.clone().rev() {
                for offset in 0..own.len() {
                    // There and back: what the last step used last is still in the cache.
                    let tile = if step % 2 == 0 { own.start + offset } else { own.end - 1 - offset };
                    self.tile(&tiles, &mut work, &steps, step, tile);
                }
                member.barrier();
            }
            self.input_gradient(member, &tiles, &mut work.sums, &steps);
            self.weight_gradients(member, &tiles, &mut work.sums, &steps);
            // The next chunk's features and columns take the place of this one's.
            member.barrier();
            end = steps.start;
        }
        self.finish(member, &tiles, &mut work.sums, &own);
    }

    /// Packs a member's share of the weights.
    fn pack_weights(&self, member: Member) {
        let Self { plan, source, .. } = self;
        let SequenceShape { input_size, hidden_size, .. } = plan.forward.shape;
        let pack = |packed: SharedSlice<u32>, weight: &[f32], size: usize, gates: &[usize]| {
            let packing = plan.right(gates.len());
            for panel in member.share(size.div_ceil(plan.tile.width)) {
                let cols = panel * plan.tile.width..((panel + 1) * plan.tile.width).min(size);
                // SAFETY: each panel is packed by one member, before the barrier.
                let to = unsafe { packed.part_mut(panel * packing.len(), packing.len()) };
                packing.contiguous_lines(to, |term| {
                    let (gate, unit) = (gates[term / plan.padded], term % plan.padded);
                    if unit < hidden_size { &weight[(gate * hidden_size + unit) * size..][cols.clone()] } else { &[] }
                });
            }
        };
        pack(self.packed_hh, source.inputs.weight_hh, hidden_size, C::RECURRENT_GATES);
        if self.out_input.is_some() {
            pack(self.packed_ih, source.inputs.weight_ih, input_size, C::INPUT_GATES);
        }
    }

    /// The units of a panel that are there.
    fn units(&self, panel: usize) -> Range<usize> {
        let (width, hidden_size) = (self.plan.tile.width, self.plan.forward.shape.hidden_size);
        (panel * width).min(hidden_size)..((panel + 1) * width).min(hidden_size)
    }

    /// The gradient of the state of a tile, as blocks of its forward panels.
    ///
    /// # Safety
    ///
    /// The tile must be the calling member's, and its blocks not be borrowed elsewhere.
    #[expect(clippy::mut_from_ref, reason = "a part of what the members share out among them")]
    unsafe fn state_blocks(&self, tile: usize) -> &mut [f32] {
        let len = self.plan.state_len();
        // SAFETY: by contract.
        unsafe { self.state.part_mut(tile * len, len) }
    }

    /// The gradient of the bias of a panel's units, for a row block.
    ///
    /// # Safety
    ///
    /// As [`TimeLoop::state_blocks`].
    #[expect(clippy::mut_from_ref, reason = "a part of what the members share out among them")]
    unsafe fn bias_part(&self, gradient: usize, panel: usize, row_block: usize) -> &mut [f32] {
        let plan = &self.plan;
        let start = (row_block * plan.gradients + gradient) * plan.padded + panel * plan.tile.width;
        // SAFETY: by contract.
        unsafe { self.bias.part_mut(start, plan.tile.width) }
    }

    fn start_tile(&self, tile: usize) {
        let Self { plan, source, .. } = self;
        let (panel, row_block) = self.plan.forward.position(tile);
        // SAFETY: the tile is this member's.
        let state = unsafe { self.state_blocks(tile) };
        state.fill(0.0);
        let has_cell_state = plan.forward.shape.cell.has_cell_state();
        if let Some(grad) = source.grad.last_cell_state.filter(|_| has_cell_state) {
            let (units, hidden_size) = (plan.forward.units, plan.forward.shape.hidden_size);
            for unit in self.units(panel) {
                let (sub, u) = ((unit - panel * plan.tile.width) / units, unit % units);
                for (r, row) in plan.forward.rows(row_block).enumerate() {
                    state[sub * plan.forward.block_len() + r * units + u] = grad[row * hidden_size + unit];
                }
            }
        }
        for gradient in 0..plan.gradients {
            // SAFETY: as above.
            unsafe { self.bias_part(gradient, panel, row_block) }.fill(0.0);
        }
    }

    /// Packs a member's share of what the weights were multiplied with in a chunk: the input, and the hidden states before
    /// each step.
    fn pack_features(&self, member: Member, steps: &Range<usize>) {
        let Self { plan, source, .. } = self;
        let SequenceShape { batch_size, seq_len, .. } = plan.forward.shape;
        let packing = plan.feature_rows(steps.len());
        for (index, weight) in self.weights.iter().enumerate() {
            let Some(weight) = weight else { continue };
            let size = weight.size;
            for block in member.share(size.div_ceil(plan.features.rows)) {
                let features = block * plan.features.rows..((block + 1) * plan.features.rows).min(size);
                // SAFETY: each block belongs to one member until the barrier; who read it in the last chunk has since
                // passed the barrier at its end.
                let to = unsafe { weight.features.part_mut(block * packing.len(), packing.len()) };
                packing.contiguous_lines(to, |term| {
                    let (step, row) = (steps.start + term / plan.padded_batch, term % plan.padded_batch);
                    let (from, row) = match (index, step) {
                        _ if row >= batch_size => return &[],
                        (0, _) => (source.inputs.input, row * seq_len + step),
                        (_, 0) => (source.inputs.hidden, row),
                        _ => (source.output, row * seq_len + step - 1),
                    };
                    &from[row * size..][features.clone()]
                });
            }
        }
    }

    /// Clears the last block of a member's share of the columns, where a chunk does not fill it.
    fn pad_columns(&self, member: Member, steps: &Range<usize>) {
        let plan = &self.plan;
        let packing = plan.columns(steps.len());
        let block_len = plan.forward.format.block_len(packing.lines);
        if !packing.terms.is_multiple_of(plan.forward.format.block_terms()) {
            for panel in member.share(plan.gradients * plan.panels) {
                // SAFETY: each panel belongs to one member until the barrier.
                unsafe { self.columns.part_mut((panel + 1) * packing.len() - block_len, block_len) }.fill(0);
            }
        }
    }

    /// The rows of gradients of a step and row block.
    fn rows_of(&self, step: usize, row_block: usize) -> *mut u32 {
        let plan = &self.plan;
        let slot = step % (plan.chunk_steps + 1);
        self.rows.pointer((slot * plan.forward.row_blocks + row_block) * plan.left().len())
    }

    /// The product of the gradients of a step with `weight_hh`, for a tile.
    fn recurrent_product(&self, step: usize, panel: usize, row_block: usize) -> TileProduct {
        let plan = &self.plan;
        let terms = plan.recurrent_gradients * plan.padded;
        TileProduct {
            format: plan.forward.format,
            shape: plan.tile,
            rows: plan.forward.rows(row_block).len(),
            // Nothing comes from after the last step, and a panel of padding is not even packed.
            blocks: if step == plan.forward.shape.seq_len || self.units(panel).is_empty() {
                0
            } else {
                plan.forward.format.blocks(terms)
            },
            left: self.rows_of(step, row_block).wrapping_add(plan.recurrent_start()),
            right: self.packed_hh.pointer(panel * plan.right(plan.recurrent_gradients).len()),
        }
    }

    /// One step back of a tile.
    fn tile(&self, tiles: &Tiles, work: &mut Work<E>, steps: &Range<usize>, step: usize, tile: usize) {
        let Self { plan, source, .. } = self;
        let SequenceShape { seq_len, hidden_size, .. } = plan.forward.shape;
        let (panel, row_block) = self.plan.forward.position(tile);
        let (rows, units) = (plan.forward.rows(row_block), self.units(panel));
        let subpanels = plan.tile.width / plan.forward.units;
        let block_len = plan.forward.block_len();
        // Blocks of consecutive forward panels lie a whole panel apart.
        let block = |step: usize, sub: usize, count: usize| {
            let tile = (panel * subpanels + sub) * plan.forward.row_blocks + row_block;
            let start = step * plan.forward.step_len(count) + tile * count * block_len;
            start..start + count * block_len
        };
        let present = units.len().div_ceil(plan.forward.units);
        let subs: [Sub; 4] = std::array::from_fn(|sub| {
            if sub >= present {
                return Sub::default();
            }
            let states = |step| if C::HAS_STATE { &source.trace.states[block(step, sub, 1)] } else { &[][..] };
            Sub { kept: &source.trace.kept[block(step, sub, C::SUMS)], before: states(step), after: states(step + 1) }
        });
        for sub in &subs[..present] {
            prefetch_run(sub.kept.as_ptr(), sub.kept.len());
            prefetch_run(sub.before.as_ptr(), sub.before.len());
        }
        // SAFETY: the weights are packed, and the gradients of the later step complete, since the barrier.
        unsafe { tiles.multiply(&self.recurrent_product(step + 1, panel, row_block), &mut work.sums) };
        let columns = plan.columns(steps.len());
        plan.forward.arch.run(StepBack::<C, E> {
            plan,
            sums: &work.sums,
            work: &mut work.step,
            rows: rows.len(),
            present: units.len(),
            first_unit: panel * plan.tile.width,
            grad_output: source
                .grad
                .output
                .map(|grad| &grad[(rows.start * seq_len + step) * hidden_size + units.start..]),
            subs: &subs[..present],
            // SAFETY: the tile is this member's.
            state: unsafe { self.state_blocks(tile) },
            left: LeftRows { to: self.rows_of(step, row_block), lines: plan.tile.rows },
            columns: std::array::from_fn(|gradient| {
                let panel = gradient.min(plan.gradients - 1) * plan.panels + panel;
                self.columns.pointer(panel * columns.len())
            }),
            first_term: (step - steps.start) * plan.padded_batch + rows.start,
            bias: std::array::from_fn(|gradient| {
                // SAFETY: as above.
                let part = (gradient < plan.gradients).then(|| unsafe { self.bias_part(gradient, panel, row_block) });
                part.unwrap_or_default()
            }),
            cell: PhantomData,
        });
    }

    /// The gradient of a chunk's input, for a member's share of its rows.
    fn input_gradient(&self, member: Member, tiles: &Tiles, sums: &mut Sums, steps: &Range<usize>) {
        let Some(out) = self.out_input else { return };
        let plan = &self.plan;
        let SequenceShape { seq_len, input_size, .. } = plan.forward.shape;
        let format = plan.forward.format;
        let (blocks, pass) = (format.blocks(plan.input_gradients * plan.padded), format.blocks(PASS_TERMS));
        let packing = plan.right(plan.input_gradients);
        let own = member.share(steps.len() * plan.forward.row_blocks);
        for first in (0..blocks).step_by(pass) {
            for panel in 0..input_size.div_ceil(plan.tile.width) {
                let col = panel * plan.tile.width;
                for place in own.clone() {
                    let (step, row_block) =
                        (steps.start + place / plan.forward.row_blocks, place % plan.forward.row_blocks);
                    let rows = plan.forward.rows(row_block);
                    let product = TileProduct {
                        format,
                        shape: plan.tile,
                        rows: rows.len(),
                        blocks: pass.min(blocks - first),
                        left: self.rows_of(step, row_block).wrapping_add(first * format.block_len(plan.tile.rows)),
                        right: self
                            .packed_ih
                            .pointer(panel * packing.len() + first * format.block_len(plan.tile.width)),
                    };
                    // SAFETY: the weights are packed, and the gradients of the chunk complete, since the last barrier.
                    unsafe { tiles.multiply(&product, sums) };
                    plan.forward.arch.run(StoreTile {
                        sums,
                        width: plan.tile.width,
                        rows: rows.len(),
                        cols: plan.tile.width.min(input_size - col),
                        start: if first == 0 { Start::Zero } else { Start::Output },
                        out: out.pointer((rows.start * seq_len + step) * input_size + col),
                        stride: seq_len * input_size,
                    });
                }
            }
        }
    }

    /// Adds a chunk to the gradients of the weights, for a member's share of the gates.
    fn weight_gradients(&self, member: Member, tiles: &Tiles, sums: &mut Sums, steps: &Range<usize>) {
        let plan = &self.plan;
        let is_first = steps.end == plan.forward.shape.seq_len;
        let (features, columns) = (plan.feature_rows(steps.len()), plan.columns(steps.len()));
        for weight in self.weights.iter().flatten() {
            let panels = weight.gates.len() * plan.panels;
            let own = member.share(panels);
            let feature_tiles = weight.size.div_ceil(plan.features.rows);
            for group in (0..feature_tiles).step_by(FEATURE_GROUP) {
                for panel in own.clone() {
                    for block in group..(group + FEATURE_GROUP).min(feature_tiles) {
                        let product = TileProduct {
                            format: plan.forward.format,
                            shape: plan.features,
                            rows: plan.features.rows.min(weight.size - block * plan.features.rows),
                            blocks: plan.forward.format.blocks(columns.terms),
                            left: weight.features.pointer(block * features.len()),
                            right: self.columns.pointer((weight.first_gradient * plan.panels + panel) * columns.len()),
                        };
                        // SAFETY: features and columns are complete since the last barrier.
                        unsafe { tiles.multiply(&product, sums) };
                        let start = (block * panels + panel) * plan.feature_tile();
                        plan.forward.arch.run(StoreTile {
                            sums,
                            width: plan.features.width,
                            rows: product.rows,
                            cols: plan.features.width,
                            start: if is_first { Start::Zero } else { Start::Output },
                            out: weight.sums.pointer(start),
                            stride: plan.features.width,
                        });
                    }
                }
            }
        }
    }

    /// Writes what has been added up: the gradients of weights and bias, and those of the initial states.
    fn finish(&self, member: Member, tiles: &Tiles, sums: &mut Sums, own: &Range<usize>) {
        let plan = &self.plan;
        let hidden_size = plan.forward.shape.hidden_size;
        for weight in self.weights.iter().flatten() {
            let panels = weight.gates.len() * plan.panels;
            for panel in member.share(panels) {
                let (gate, units) = (weight.gates[panel / plan.panels], self.units(panel % plan.panels));
                for block in 0..weight.size.div_ceil(plan.features.rows) {
                    // SAFETY: the tile has been this member's all along.
                    let from = unsafe {
                        weight.sums.part((block * panels + panel) * plan.feature_tile(), plan.feature_tile())
                    };
                    let features = block * plan.features.rows..((block + 1) * plan.features.rows).min(weight.size);
                    for (c, unit) in units.clone().enumerate() {
                        let start = (gate * hidden_size + unit) * weight.size + features.start;
                        // SAFETY: each row of a gate and each feature has one writer.
                        let to = unsafe { weight.out.part_mut(start, features.len()) };
                        for (r, to) in to.iter_mut().enumerate() {
                            *to = from[r * plan.features.width + c];
                        }
                    }
                }
            }
        }
        if let Some(bias) = self.out_bias {
            for panel in member.share(plan.panels) {
                let units = self.units(panel);
                for (gradient, &sum) in C::GRADIENTS.iter().enumerate() {
                    // SAFETY: nobody writes the sums any more; each unit has one writer.
                    let to = unsafe { bias.part_mut(sum * hidden_size + units.start, units.len()) };
                    to.fill(0.0);
                    for row_block in 0..plan.forward.row_blocks {
                        let start = (row_block * plan.gradients + gradient) * plan.padded + units.start;
                        // SAFETY: as above.
                        for (to, from) in to.iter_mut().zip(unsafe { self.bias.part(start, units.len()) }) {
                            *to += from;
                        }
                    }
                }
            }
        }
        for tile in own.clone() {
            self.initial_states(tiles, sums, tile);
        }
    }

    /// The gradients of a tile's states before the first step.
    fn initial_states(&self, tiles: &Tiles, sums: &mut Sums, tile: usize) {
        let plan = &self.plan;
        let hidden_size = plan.forward.shape.hidden_size;
        let (panel, row_block) = self.plan.forward.position(tile);
        let units = self.units(panel);
        if units.is_empty() {
            return;
        }
        // SAFETY: the tile is this member's.
        let state = unsafe { self.state_blocks(tile) };
        let state = |r: usize, unit: usize| {
            let (sub, u) = ((unit - units.start) / plan.forward.units, unit % plan.forward.units);
            state[sub * plan.forward.block_len() + r * plan.forward.units + u]
        };
        let is_cell_state = plan.forward.shape.cell.has_cell_state();
        if let Some(hidden) = self.out_hidden {
            // SAFETY: the gradients of the first step are complete since the last barrier.
            unsafe { tiles.multiply(&self.recurrent_product(0, panel, row_block), sums) };
            for (r, row) in plan.forward.rows(row_block).enumerate() {
                // SAFETY: each tile has one writer.
                let to = unsafe { hidden.part_mut(row * hidden_size + units.start, units.len()) };
                for ((to, sum), unit) in to.iter_mut().zip(sums.row(r, plan.tile.width)).zip(units.clone()) {
                    *to = if C::HAS_STATE && !is_cell_state { sum + state(r, unit) } else { *sum };
                }
            }
        }
        if let Some(cell_state) = self.out_cell_state.filter(|_| is_cell_state) {
            for (r, row) in plan.forward.rows(row_block).enumerate() {
                // SAFETY: as above.
                let to = unsafe { cell_state.part_mut(row * hidden_size + units.start, units.len()) };
                for (to, unit) in to.iter_mut().zip(units.clone()) {
                    *to = state(r, unit);
                }
            }
        }
    }
}
