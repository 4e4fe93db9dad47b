//! The forward time loop: each tile is a product with `weight_hh` that ends with the new states of its units.

use std::ops::Range;

use super::gates::{GateBlock, MAX_UNITS, Units};
use super::{LstmInputs, LstmOutputs, LstmShape, LstmTrace, compact_stride, stepwise};
use crate::arch::{Arch, Kernel, MulAdd};
use crate::engine::Engine;
use crate::gemm::{MatMut, MatRef, matmul_bias};
use crate::pack::pack_columns;
use crate::pool::Member;
use crate::prefetch::prefetch;
use crate::shared::SharedSlice;
use crate::tile::{LeftRows, RightPanel, accumulate, for_rows, load};

/// The forward pass; `trace` is filled when there is one.
pub(super) fn forward(
    engine: &Engine,
    shape: LstmShape,
    inputs: LstmInputs,
    outputs: LstmOutputs,
    trace: Option<&mut LstmTrace>,
) {
    let LstmShape { input_size, hidden_size, .. } = shape;
    if shape.states() == 0 {
        outputs.last_cell_state.copy_from_slice(inputs.cell_state);
        return;
    }
    let traced = trace.is_some();
    let stepwise = stepwise::is_better(shape);
    let mut untraced_gates = engine.scratch(if traced || stepwise { 0 } else { 4 * shape.states() });
    let (gates, cell_states) = match trace {
        Some(trace) => (&mut trace.gates[..], &mut trace.cell_states[..]),
        None => (&mut untraced_gates[..], &mut [][..]),
    };
    if stepwise {
        stepwise::forward(engine, shape, inputs, outputs, gates, cell_states);
        return;
    }
    matmul_bias(
        engine,
        MatRef::row_major(inputs.input, shape.rows(), input_size),
        MatRef::row_major(inputs.weight_ih, 4 * hidden_size, input_size).transposed(),
        inputs.bias,
        MatMut::row_major(gates, shape.rows(), 4 * hidden_size),
    );
    let tiling = Tiling::new(engine.arch(), shape);
    let stride = compact_stride(hidden_size);
    let mut packed = engine.scratch(4 * tiling.units * tiling.panels * hidden_size);
    let mut hidden = engine.scratch(2 * shape.batch_size * stride);
    let mut cell_state = engine.scratch(tiling.tiles() * MAX_UNITS);
    let time_loop = TimeLoop {
        arch: engine.arch(),
        shape,
        tiling,
        stride,
        inputs,
        packed: SharedSlice::new(&mut packed),
        hidden: SharedSlice::new(&mut hidden),
        cell_state: SharedSlice::new(&mut cell_state),
        gates: SharedSlice::new(gates),
        cell_states: traced.then(|| SharedSlice::new(cell_states)),
        output: SharedSlice::new(outputs.output),
        last_cell_state: SharedSlice::new(outputs.last_cell_state),
    };
    let step_flops = 8 * shape.batch_size * hidden_size * hidden_size;
    engine.run(engine.members_for_flops(step_flops).min(tiling.tiles()), |member| time_loop.run(member));
}

/// Panels whose tiles of the same rows follow each other: their units share the cache lines of gates and states.
const PANEL_GROUP: usize = 4;

/// How the units and sequences of a step are cut into tiles.
#[derive(Clone, Copy)]
struct Tiling {
    /// Units of a panel.
    units: usize,
    panels: usize,
    row_blocks: usize,
}

impl Tiling {
    fn new(arch: Arch, shape: LstmShape) -> Self {
        let units = arch.width() / 4;
        Self { units, panels: shape.hidden_size.div_ceil(units), row_blocks: shape.batch_size.div_ceil(arch.rows()) }
    }

    fn tiles(self) -> usize {
        self.panels * self.row_blocks
    }

    /// The panel and row block of a tile: groups of panels, then row blocks, then the panels of the group.
    fn position(self, tile: usize) -> (usize, usize) {
        let group = tile / (PANEL_GROUP * self.row_blocks);
        let panels = PANEL_GROUP.min(self.panels - group * PANEL_GROUP);
        let rest = tile % (PANEL_GROUP * self.row_blocks);
        (group * PANEL_GROUP + rest % panels, rest / panels)
    }
}

/// Rows of a block, as even as they go.
pub(super) fn block_rows(batch_size: usize, row_blocks: usize, block: usize) -> Range<usize> {
    batch_size * block / row_blocks..batch_size * (block + 1) / row_blocks
}

struct TimeLoop<'a> {
    arch: Arch,
    shape: LstmShape,
    tiling: Tiling,
    /// Row stride of `hidden`.
    stride: usize,
    inputs: LstmInputs<'a>,
    /// By panel: `[hidden_size, 4, units]`.
    packed: SharedSlice<'a, f32>,
    /// Of the last step and of this one: `[2, batch_size, stride]`.
    hidden: SharedSlice<'a, f32>,
    /// By tile, as its units lie in the gate block.
    cell_state: SharedSlice<'a, f32>,
    /// `[batch_size, seq_len, 4 * hidden_size]`: the input's share before a step, its gates after it.
    gates: SharedSlice<'a, f32>,
    cell_states: Option<SharedSlice<'a, f32>>,
    output: SharedSlice<'a, f32>,
    last_cell_state: SharedSlice<'a, f32>,
}

impl TimeLoop<'_> {
    fn run(&self, member: Member) {
        let LstmShape { batch_size, seq_len, hidden_size, .. } = self.shape;
        for panel in member.share(self.tiling.panels) {
            self.pack(panel);
        }
        for row in member.share(batch_size) {
            let state = row * hidden_size..(row + 1) * hidden_size;
            // SAFETY: each row belongs to one member until the barrier.
            let to = unsafe { self.hidden.part_mut(row * self.stride, hidden_size) };
            to.copy_from_slice(&self.inputs.hidden[state]);
        }
        let tiles = member.share(self.tiling.tiles());
        for tile in tiles.clone() {
            // SAFETY: the tile is this member's, and nothing else of its cell states is borrowed.
            for (row, units, cell_state) in unsafe { self.cell_rows(tile) } {
                cell_state.copy_from_slice(&self.inputs.cell_state[row * hidden_size..][units]);
            }
        }
        member.barrier();
        let mut block = GateBlock::new();
        for step in 0..seq_len {
            for offset in 0..tiles.len() {
                // There and back: what the last step used last is still in the cache.
                let tile = if step % 2 == 0 { tiles.start + offset } else { tiles.end - 1 - offset };
                self.tile(step, tile, &mut block);
            }
            member.barrier();
        }
        for tile in tiles {
            // SAFETY: as above.
            for (row, units, cell_state) in unsafe { self.cell_rows(tile) } {
                // SAFETY: each tile has one writer.
                let to = unsafe { self.last_cell_state.part_mut(row * hidden_size + units.start, units.len()) };
                to.copy_from_slice(cell_state);
            }
        }
    }

    /// The cell states of a tile: the sequence, the units and their cell states.
    ///
    /// # Safety
    ///
    /// The tile must be the calling member's, and none of its cell states be borrowed elsewhere.
    unsafe fn cell_rows(&self, tile: usize) -> impl Iterator<Item = (usize, Range<usize>, &mut [f32])> {
        let (panel, block) = self.tiling.position(tile);
        let rows = block_rows(self.shape.batch_size, self.tiling.row_blocks, block);
        let width = self.tiling.units;
        let units = panel * width..((panel + 1) * width).min(self.shape.hidden_size);
        rows.enumerate().map(move |(r, row)| {
            // SAFETY: by contract; the rows lie apart.
            let cell_state = unsafe { self.cell_state.part_mut(tile * MAX_UNITS + r * width, units.len()) };
            (row, units.clone(), cell_state)
        })
    }

    fn pack(&self, panel: usize) {
        let hidden_size = self.shape.hidden_size;
        let Tiling { units, .. } = self.tiling;
        let floats = 4 * units * hidden_size;
        // SAFETY: each panel is packed by one member, before the barrier.
        let to = unsafe { self.packed.part_mut(panel * floats, floats) };
        pack_columns(to, 4 * units, |column| {
            let unit = panel * units + column % units;
            let row = column / units * hidden_size + unit;
            (unit < hidden_size).then(|| &self.inputs.weight_hh[row * hidden_size..(row + 1) * hidden_size])
        });
    }

    fn tile(&self, step: usize, tile: usize, block: &mut GateBlock) {
        let LstmShape { batch_size, seq_len, hidden_size, .. } = self.shape;
        let (panel, row_block) = self.tiling.position(tile);
        let rows = block_rows(batch_size, self.tiling.row_blocks, row_block);
        let unit = panel * self.tiling.units;
        // SAFETY: the tile belongs to this member.
        let cell_state = unsafe { self.cell_state.part_mut(tile * MAX_UNITS, MAX_UNITS) };
        let (before, after) = (step % 2 * batch_size, (step + 1) % 2 * batch_size);
        let state = (rows.start * seq_len + step) * hidden_size + unit;
        let tile = ForwardTile {
            rows: rows.len(),
            units: self.tiling.units.min(hidden_size - unit),
            hidden_size,
            seq_len,
            stride: self.stride,
            left: LeftRows { data: self.hidden.pointer((before + rows.start) * self.stride), row_stride: self.stride },
            right: RightPanel {
                data: self.packed.pointer(panel * 4 * self.tiling.units * hidden_size),
                k_stride: 4 * self.tiling.units,
            },
            gates: self.gates.pointer((rows.start * seq_len + step) * 4 * hidden_size + unit),
            block,
            cell_state: cell_state.first_chunk_mut().expect("a tile has room for all its units"),
            hidden: self.hidden.pointer((after + rows.start) * self.stride + unit),
            output: self.output.pointer(state),
            cell_states: self.cell_states.map(|cell_states| cell_states.pointer(state)),
        };
        // SAFETY: rows and units of the tile lie inside every buffer, by the shapes that were checked on the way in; the
        // hidden states of the last step are complete since the barrier, those of this one go to the other half, and each
        // tile of a step has one member.
        unsafe { tile.compute(self.arch) };
    }
}

/// One step of some rows and a panel's units.
///
/// Whoever makes one promises that its pointers are good for its rows and units, that `left` holds the hidden states of the
/// last step, and that no other thread touches its rows and units of the rest.
struct ForwardTile<'a> {
    rows: usize,
    units: usize,
    hidden_size: usize,
    seq_len: usize,
    stride: usize,
    left: LeftRows,
    right: RightPanel,
    gates: *mut f32,
    /// Room for the work.
    block: &'a mut GateBlock,
    /// The cell states of the tile.
    cell_state: &'a mut Units,
    hidden: *mut f32,
    output: *mut f32,
    cell_states: Option<*mut f32>,
}

impl ForwardTile<'_> {
    /// # Safety
    ///
    /// As promised by the maker.
    unsafe fn compute(self, arch: Arch) {
        arch.run(self);
    }
}

impl Kernel for ForwardTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, const V: usize, const M: usize, const U: usize, O: MulAdd>(self) {
        for_rows!(self.rows, M, forward_tile::<O, W, V, U>(self));
    }
}

#[inline(always)]
fn forward_tile<O: MulAdd, const W: usize, const V: usize, const U: usize, const M: usize>(tile: ForwardTile) {
    let gates_stride = tile.seq_len * 4 * tile.hidden_size;
    let states_stride = tile.seq_len * tile.hidden_size;
    for r in 0..M {
        for g in 0..4 {
            prefetch(tile.gates.wrapping_add(r * gates_stride + g * tile.hidden_size));
        }
        prefetch(tile.output.wrapping_add(r * states_stride));
        if let Some(cell_states) = tile.cell_states {
            prefetch(cell_states.wrapping_add(r * states_stride));
        }
    }
    // SAFETY: promised by the maker of the tile.
    let sums = unsafe { accumulate::<W, V, M, O>(tile.hidden_size, tile.left.walk(), tile.right) };
    for (r, sums) in sums.iter().enumerate() {
        for (v, sums) in sums.iter().enumerate() {
            for (part, sums) in sums.as_chunks::<U>().0.iter().enumerate() {
                tile.block.gates[v * W / U + part][r * U..(r + 1) * U].copy_from_slice(sums);
            }
        }
    }
    // Twice, so that the common case has constant lengths.
    // SAFETY: promised by the maker of the tile.
    unsafe {
        if tile.units == U {
            finish_tile::<O, U, M>(tile, U);
        } else {
            let units = tile.units;
            finish_tile::<O, U, M>(tile, units);
        }
    }
}

/// Adds the input's share, makes the step and stores it, for `units` units of each row.
///
/// # Safety
///
/// As promised for the tile.
#[inline(always)]
unsafe fn finish_tile<O: MulAdd, const U: usize, const M: usize>(tile: ForwardTile, units: usize) {
    let gates_stride = tile.seq_len * 4 * tile.hidden_size;
    let states_stride = tile.seq_len * tile.hidden_size;
    let ForwardTile { block, cell_state, .. } = tile;
    // SAFETY: by contract.
    unsafe {
        for r in 0..M {
            for (g, gate) in block.gates.iter_mut().enumerate() {
                let start = load::<U>(tile.gates.add(r * gates_stride + g * tile.hidden_size), units);
                for u in 0..U {
                    gate[r * U + u] += start[u];
                }
            }
        }
        block.step::<O>(cell_state, M * U);
        for r in 0..M {
            store_row::<U>(&block.hidden, r, tile.hidden.add(r * tile.stride), units);
            store_row::<U>(&block.hidden, r, tile.output.add(r * states_stride), units);
            if let Some(cell_states) = tile.cell_states {
                store_row::<U>(cell_state, r, cell_states.add(r * states_stride), units);
                for (g, gate) in block.gates.iter().enumerate() {
                    store_row::<U>(gate, r, tile.gates.add(r * gates_stride + g * tile.hidden_size), units);
                }
            }
        }
    }
}

/// Stores the first `count` of the `U` units of row `r`.
///
/// # Safety
///
/// `to` must be writable for `count` floats, and `count` be at most `U`.
#[inline(always)]
unsafe fn store_row<const U: usize>(units: &Units, r: usize, to: *mut f32, count: usize) {
    // SAFETY: by contract.
    unsafe { units[r * U..(r + 1) * U].as_ptr().copy_to_nonoverlapping(to, count) };
}
