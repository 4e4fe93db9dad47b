//! The backward pass: chunk by chunk of steps, from the last, a time loop for the gradients of the sums before the activations,
//! then the products that need them.
//!
//! A tile of a step is a product of the later step's gradients with `weight_hh` that ends with this step's. It writes them in
//! the two packings in which they are factors: as rows for the next step and for the gradient of the input, as columns for
//! those of the weights, which are added up transposed, chunk by chunk.

mod finish;
mod products;

use std::marker::PhantomData;
use std::ops::Range;

use super::backward_plan::{BackwardPlan, Chunk};
use super::batch::Batch;
use super::cell::Step;
use super::plan::Plan;
use super::segments::{Recompute, Segment};
use super::step::LeftRows;
use super::step_back::{StepBack, StepWork, Sub};
use super::{OutputGradients, SequenceGradients, SequenceInputs, SequenceShape, SequenceTrace};
use crate::arch::Tiles;
use crate::engine::Engine;
use crate::format::{Encode, Precision, with_encoding};
use crate::pool::Member;
use crate::prefetch::prefetch_run;
use crate::shared::SharedSlice;
use crate::tile::{Sums, TileProduct};

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
    let recall_factors = inputs.options.recall_factors([shape.batch_size, shape.hidden_size]);
    let source = Source { inputs, output, recall_factors, grad };
    let plan = BackwardPlan::new::<C>(Plan::new::<C>(engine, precision, shape));
    with_encoding!(plan.forward.format, E => TimeLoop::<C, E>::run(engine, plan, batch, &source, trace, out));
}

/// What the pass reads.
pub(super) struct Source<'a> {
    pub(super) inputs: &'a SequenceInputs<'a>,
    pub(super) output: &'a [f32],
    /// What the recurrent products read hidden states with, `[batch_size, hidden_size]`, where that is not as they are.
    recall_factors: Option<Vec<f32>>,
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
    batch: &'a Batch,
    chunks: &'a [Chunk],
    source: &'a Source<'a>,
    /// By panel.
    packed_hh: SharedSlice<'a, u32>,
    packed_ih: SharedSlice<'a, u32>,
    /// The first steps of an even and of an odd chunk, by row block, which the chunk before reads; then the other row blocks
    /// of a chunk.
    rows: SharedSlice<'a, u32>,
    /// By panel of gradients.
    columns: SharedSlice<'a, u32>,
    /// δ of the state, by tile and forward panel.
    state: SharedSlice<'a, f32>,
    /// By tile and forward panel: δ of the hidden state where a step kept it, and those of the peepholes.
    carry: SharedSlice<'a, f32>,
    peepholes: SharedSlice<'a, f32>,
    /// By row block and gradient: the sums over sequences and steps.
    bias: SharedSlice<'a, f32>,
    weights: [Option<WeightGradient<'a>>; 2],
    out_input: Option<SharedSlice<'a, f32>>,
    out_bias: Option<SharedSlice<'a, f32>>,
    out_hidden: Option<SharedSlice<'a, f32>>,
    out_cell_state: Option<SharedSlice<'a, f32>>,
    out_peepholes: Option<SharedSlice<'a, f32>>,
    cell: PhantomData<(C, E)>,
}

/// What a member works in.
struct Work<E: Encode> {
    sums: Sums,
    step: StepWork<E>,
    /// Features of a tile, by term, as the recurrent products read them.
    recalled: Vec<f32>,
}

impl<C: Step, E: Encode> TimeLoop<'_, C, E> {
    fn run(
        engine: &Engine,
        plan: BackwardPlan,
        batch: &Batch,
        source: &Source,
        trace: &SequenceTrace,
        out: SequenceGradients,
    ) {
        let SequenceShape { batch_size, input_size, hidden_size, .. } = plan.forward.shape;
        let options = &source.inputs.options;
        let chunks = plan.chunks(batch);
        let most = |of: fn(&Chunk) -> usize| chunks.iter().map(of).max().unwrap_or(0);
        let (most_terms, most_row_blocks) = (most(|chunk| chunk.terms), most(|chunk| chunk.row_blocks.len()));
        let mut packed_hh = engine.scratch(plan.panels * plan.right(plan.recurrent_gradients).len());
        let input_panels = if out.input.is_some() { input_size.div_ceil(plan.tile.width) } else { 0 };
        let mut packed_ih = engine.scratch(input_panels * plan.right(plan.input_gradients).len());
        let mut rows = engine.scratch((2 * plan.forward.row_blocks + most_row_blocks) * plan.left().len());
        let mut columns = engine.scratch(plan.gradients * plan.panels * plan.columns(most_terms).len());
        let mut state = engine.scratch(plan.tiles() * plan.state_len());
        let carries = options.zoneout_hidden.is_some() && !C::STATE_IS_HIDDEN;
        let mut carry = engine.scratch(usize::from(carries) * state.len());
        let mut peepholes = engine.scratch(usize::from(options.peepholes.is_some()) * 3 * state.len());
        let mut bias = engine.scratch(plan.forward.row_blocks * plan.gradients * plan.padded);
        let sizes = [(out.weight_ih, input_size), (out.weight_hh, hidden_size)];
        let gradients = [plan.input_gradients, plan.recurrent_gradients];
        let mut scratch: [_; 2] = std::array::from_fn(|i| {
            let wanted = usize::from(sizes[i].0.is_some() && gradients[i] > 0);
            let tiles = wanted * sizes[i].1.div_ceil(plan.features.rows);
            let features = engine.scratch(tiles * plan.feature_rows(most_terms).len());
            let sums = engine.scratch(tiles * gradients[i] * plan.panels * plan.feature_tile());
            (features, sums)
        });
        let gates = [C::INPUT_GATES, C::RECURRENT_GATES];
        let first = [0, plan.gradients - plan.recurrent_gradients];
        let mut parts = scratch.iter_mut().zip(sizes).enumerate().map(|(i, ((features, sums), (out, size)))| {
            out.filter(|_| !gates[i].is_empty()).map(|out| WeightGradient {
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
            batch,
            chunks: &chunks,
            source,
            packed_hh: SharedSlice::new(packed_hh.words_mut()),
            packed_ih: SharedSlice::new(packed_ih.words_mut()),
            rows: SharedSlice::new(rows.words_mut()),
            columns: SharedSlice::new(columns.words_mut()),
            state: SharedSlice::new(&mut state),
            carry: SharedSlice::new(&mut carry),
            peepholes: SharedSlice::new(&mut peepholes),
            bias: SharedSlice::new(&mut bias),
            weights,
            out_input: out.input.map(SharedSlice::new),
            out_bias: out.bias.map(SharedSlice::new),
            out_hidden: out.hidden.map(SharedSlice::new),
            out_cell_state: out.cell_state.map(SharedSlice::new),
            out_peepholes: out.peepholes.map(SharedSlice::new),
            cell: PhantomData,
        };
        let step_flops = 4 * C::GATES * batch_size * hidden_size * (input_size + hidden_size);
        // As in the forward pass.
        let steps = if C::STATE_ENTERS_PRODUCTS { 1 } else { most(|chunk| chunk.steps.len()) };
        let members = engine.members_for_flops(step_flops * steps).min(plan.tiles());
        let mut recompute = Recompute::new(engine, &plan.forward, batch, source);
        let steps: Vec<Range<usize>> = chunks.iter().map(|chunk| chunk.steps.clone()).collect();
        for (index, segment) in trace.memory.segments(&steps).into_iter().enumerate().rev() {
            let blocks = recompute.blocks::<C, E>(trace, &steps, (index, &segment));
            let segment = Segment { chunks: segment, blocks };
            engine.run(members, |member| time_loop.member(member, &segment));
        }
    }

    fn member(&self, member: Member, segment: &Segment) {
        let plan = &self.plan;
        let tiles = plan.forward.arch.tiles();
        let mut work =
            Work::<E> { sums: Sums::new(), step: StepWork::new(&self.source.inputs.options), recalled: Vec::new() };
        let own = member.share(plan.tiles());
        if segment.chunks.end == self.chunks.len() {
            self.pack_weights(member);
            for tile in own.clone() {
                self.start_tile(tile);
            }
        }
        for index in segment.chunks.clone().rev() {
            let chunk = &self.chunks[index];
            self.pack_features(member, &mut work.recalled, chunk);
            self.pad_columns(member, chunk);
            member.barrier();
            for step in chunk.steps.clone().rev() {
                for offset in 0..own.len() {
                    // There and back: what the last step used last is still in the cache.
                    let tile = if step % 2 == 0 { own.start + offset } else { own.end - 1 - offset };
                    self.tile(&tiles, &mut work, segment, index, step, tile);
                }
                if C::STATE_ENTERS_PRODUCTS {
                    member.barrier();
                }
            }
            if !C::STATE_ENTERS_PRODUCTS {
                member.barrier();
            }
            self.input_gradient(member, &tiles, &mut work.sums, index);
            self.weight_gradients(member, &tiles, &mut work.sums, index);
            // The next chunk's features and columns take the place of this one's.
            member.barrier();
        }
        if segment.chunks.start == 0 {
            self.finish(member, &tiles, &mut work.sums, &own);
        }
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
        if !C::RECURRENT_GATES.is_empty() {
            pack(self.packed_hh, source.inputs.weight_hh, hidden_size, C::RECURRENT_GATES);
        }
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

    /// What else is carried from step to step for a tile: `count` numbers for each one of its state, or none.
    ///
    /// # Safety
    ///
    /// As [`TimeLoop::state_blocks`].
    unsafe fn carried_blocks<'b>(&self, of: SharedSlice<'b, f32>, count: usize, tile: usize) -> &'b mut [f32] {
        let len = if of.is_empty() { 0 } else { count * self.plan.state_len() };
        // SAFETY: by contract.
        unsafe { of.part_mut(tile * len, len) }
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
        let plan = &self.plan;
        let (panel, row_block) = plan.forward.position(tile);
        // SAFETY: the tile is this member's.
        unsafe {
            self.state_blocks(tile).fill(0.0);
            self.carried_blocks(self.carry, 1, tile).fill(0.0);
            self.carried_blocks(self.peepholes, 3, tile).fill(0.0);
        }
        for gradient in 0..plan.gradients {
            // SAFETY: as above.
            unsafe { self.bias_part(gradient, panel, row_block) }.fill(0.0);
        }
    }

    /// Begins the sequences of a tile that end with the coming step: nothing comes from after it but the gradients of the last
    /// states. That of the hidden state takes the place of the recurrent product.
    fn start_sequences(&self, sums: &mut Sums, tile: usize, ending: &Range<usize>) {
        let Self { plan, source, batch, .. } = self;
        let (panel, row_block) = plan.forward.position(tile);
        let first = plan.forward.rows(row_block).start;
        let (units, hidden_size) = (self.units(panel), plan.forward.shape.hidden_size);
        let forward_units = plan.forward.units;
        // SAFETY: the tile is this member's.
        let (state, carry) = unsafe { (self.state_blocks(tile), self.carried_blocks(self.carry, 1, tile)) };
        let has_cell_state = plan.forward.shape.cell.has_cell_state();
        for place in ending.clone() {
            let (r, row) = (place - first, batch.row(place));
            let of = |grad: Option<&'_ [f32]>, unit: usize| grad.map_or(0.0, |grad| grad[row * hidden_size + unit]);
            sums.row_mut(r, plan.tile.width).fill(0.0);
            for (sub, unit) in (0..plan.tile.width).map(|u| (u / forward_units, u)) {
                let at = sub * plan.forward.block_len() + r * forward_units + unit % forward_units;
                let cell_state = if has_cell_state && unit < units.len() {
                    of(source.grad.last_cell_state, units.start + unit)
                } else {
                    0.0
                };
                // A panel of gradients may be wider than its forward panels together.
                if let Some(state) = state.get_mut(at) {
                    *state = cell_state;
                }
                if let Some(carry) = carry.get_mut(at) {
                    *carry = 0.0;
                }
            }
            for (sum, unit) in sums.row_mut(r, plan.tile.width).iter_mut().zip(units.clone()) {
                *sum = of(source.grad.last_hidden, unit);
            }
        }
    }

    /// The rows of gradients of a step of a chunk and of a row block.
    fn rows_of(&self, index: usize, step: usize, row_block: usize) -> *mut u32 {
        let (plan, chunk) = (&self.plan, &self.chunks[index]);
        let slot = match chunk.first_row_block(step) {
            0 => index % 2 * plan.forward.row_blocks,
            first => 2 * plan.forward.row_blocks + first,
        };
        self.rows.pointer((slot + row_block) * plan.left().len())
    }

    /// The product of the gradients of a step of a chunk with `weight_hh`, for some rows of a tile; of none, zeros.
    fn recurrent_product(&self, (index, step): (usize, usize), tile: usize, rows: usize) -> TileProduct {
        let plan = &self.plan;
        let (panel, row_block) = plan.forward.position(tile);
        let terms = plan.recurrent_gradients * plan.padded;
        TileProduct {
            format: plan.forward.format,
            shape: plan.tile,
            rows,
            // A panel of padding is not even packed.
            blocks: if self.units(panel).is_empty() { 0 } else { plan.forward.format.blocks(terms) },
            left: self.rows_of(index, step, row_block).wrapping_add(plan.recurrent_start()),
            right: self.packed_hh.pointer(panel * plan.right(plan.recurrent_gradients).len()),
        }
    }

    /// One step back of a tile.
    fn tile(&self, tiles: &Tiles, work: &mut Work<E>, segment: &Segment, index: usize, step: usize, tile: usize) {
        let Self { plan, source, batch, .. } = self;
        let chunk = &self.chunks[index];
        let (panel, row_block) = self.plan.forward.position(tile);
        let (places, units) = (plan.forward.rows(row_block), self.units(panel));
        let (running, later) = (batch.running_of(&places, step), batch.running_of(&places, step + 1));
        if running.is_empty() {
            return;
        }
        let subpanels = plan.tile.width / plan.forward.units;
        let block_len = plan.forward.block_len();
        // Blocks of consecutive forward panels lie a whole panel apart.
        let block = |step: usize, sub: usize, count: usize| {
            let tile = (panel * subpanels + sub) * plan.forward.row_blocks + row_block;
            let start = (step - segment.blocks.first) * plan.forward.step_len(count) + tile * count * block_len;
            start..start + count * block_len
        };
        let present = units.len().div_ceil(plan.forward.units);
        let subs: [Sub; 4] = std::array::from_fn(|sub| {
            if sub >= present {
                return Sub::default();
            }
            let states = |step| if C::HAS_STATE { &segment.blocks.states[block(step, sub, 1)] } else { &[][..] };
            let kept = &segment.blocks.kept[block(step, sub, C::SUMS)];
            Sub { kept, before: states(step), after: states(step + 1) }
        });
        for sub in &subs[..present] {
            prefetch_run(sub.kept.as_ptr(), sub.kept.len());
            prefetch_run(sub.before.as_ptr(), sub.before.len());
        }
        if !later.is_empty() {
            let from = if step + 1 < chunk.steps.end { index } else { index + 1 };
            // SAFETY: the weights are packed, and the gradients of the later step complete, since the barrier.
            unsafe { tiles.multiply(&self.recurrent_product((from, step + 1), tile, later.len()), &mut work.sums) };
        }
        self.start_sequences(&mut work.sums, tile, &(later.end..running.end));
        let columns = plan.columns(chunk.terms);
        plan.forward.arch.run(StepBack::<C, E> {
            plan,
            batch,
            options: &source.inputs.options,
            step,
            sums: &work.sums,
            // Gradients that came through a dropped-out product; those of last states did not.
            through_product: later.len(),
            work: &mut work.step,
            first_place: running.start,
            rows: running.len(),
            present: units.len(),
            first_unit: panel * plan.tile.width,
            grad_output: source.grad.output.map(|grad| grad.from(units.start)),
            subs: &subs[..present],
            // SAFETY: the tile is this member's.
            state: unsafe { self.state_blocks(tile) },
            // SAFETY: as above.
            carry: unsafe { self.carried_blocks(self.carry, 1, tile) },
            // SAFETY: as above.
            peepholes: unsafe { self.carried_blocks(self.peepholes, 3, tile) },
            left: LeftRows { to: self.rows_of(index, step, row_block), lines: plan.tile.rows },
            columns: std::array::from_fn(|gradient| {
                let panel = gradient.min(plan.gradients - 1) * plan.panels + panel;
                self.columns.pointer(panel * columns.len())
            }),
            first_term: chunk.first_term(step) + running.start,
            bias: std::array::from_fn(|gradient| {
                // SAFETY: as above.
                let part = (gradient < plan.gradients).then(|| unsafe { self.bias_part(gradient, panel, row_block) });
                part.unwrap_or_default()
            }),
            cell: PhantomData,
        });
    }
}
