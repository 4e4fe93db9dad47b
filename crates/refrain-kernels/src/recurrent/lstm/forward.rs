//! The forward time loop: each tile is a product with `weight_hh` that ends with the new states of its units.

use std::ops::Range;

use super::gates::{GateBlock, MAX_UNITS};
use super::{LstmInputs, LstmOutputs, LstmShape, LstmTrace, compact_stride, stepwise};
use crate::arch::{Arch, Kernel, MAX_ROWS, MAX_WIDTH, MulAdd};
use crate::engine::Engine;
use crate::gemm::{MatMut, MatRef, matmul_bias};
use crate::pack::pack_columns;
use crate::pool::Member;
use crate::shared::SharedSlice;
use crate::tile::{LeftRows, RightPanel, accumulate, for_rows, load, store};

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
    let mut untraced_gates = engine.scratch(if traced { 0 } else { 4 * shape.states() });
    let (gates, cell_states) = match trace {
        Some(trace) => (&mut trace.gates[..], &mut trace.cell_states[..]),
        None => (&mut untraced_gates[..], &mut [][..]),
    };
    if stepwise::is_better(shape) {
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
    let blocks = Blocks::new(engine.arch(), shape);
    let stride = compact_stride(hidden_size);
    let mut packed = engine.scratch(4 * blocks.units * blocks.panels * hidden_size);
    let mut hidden = engine.scratch(2 * shape.batch_size * stride);
    let mut cell_state = engine.scratch(shape.batch_size * stride);
    let time_loop = TimeLoop {
        arch: engine.arch(),
        shape,
        blocks,
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
    engine.run(engine.members_for_flops(step_flops).min(blocks.tiles()), |member| time_loop.run(member));
}

/// How the units and sequences of a step are cut into tiles.
#[derive(Clone, Copy)]
struct Blocks {
    /// Units of a panel.
    units: usize,
    panels: usize,
    row_blocks: usize,
}

impl Blocks {
    fn new(arch: Arch, shape: LstmShape) -> Self {
        let units = arch.width() / 4;
        Self { units, panels: shape.hidden_size.div_ceil(units), row_blocks: shape.batch_size.div_ceil(arch.rows()) }
    }

    fn tiles(self) -> usize {
        self.panels * self.row_blocks
    }
}

/// Rows of a block, as even as they go.
pub(super) fn block_rows(batch_size: usize, row_blocks: usize, block: usize) -> Range<usize> {
    batch_size * block / row_blocks..batch_size * (block + 1) / row_blocks
}

struct TimeLoop<'a> {
    arch: Arch,
    shape: LstmShape,
    blocks: Blocks,
    /// Row stride of `hidden` and `cell_state`.
    stride: usize,
    inputs: LstmInputs<'a>,
    /// By panel: `[hidden_size, 4, units]`.
    packed: SharedSlice<'a, f32>,
    /// Of the last step and of this one: `[2, batch_size, stride]`.
    hidden: SharedSlice<'a, f32>,
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
        for panel in member.share(self.blocks.panels) {
            self.pack(panel);
        }
        for row in member.share(batch_size) {
            let state = row * hidden_size..(row + 1) * hidden_size;
            // SAFETY: each row belongs to one member until the barrier.
            unsafe {
                self.hidden
                    .part_mut(row * self.stride, hidden_size)
                    .copy_from_slice(&self.inputs.hidden[state.clone()]);
                self.cell_state
                    .part_mut(row * self.stride, hidden_size)
                    .copy_from_slice(&self.inputs.cell_state[state]);
            }
        }
        member.barrier();
        let tiles = member.share(self.blocks.tiles());
        for step in 0..seq_len {
            for offset in 0..tiles.len() {
                // There and back: what the last step used last is still in the cache.
                let tile = if step % 2 == 0 { tiles.start + offset } else { tiles.end - 1 - offset };
                self.tile(step, tile / self.blocks.row_blocks, tile % self.blocks.row_blocks);
            }
            member.barrier();
        }
        for row in member.share(batch_size) {
            // SAFETY: nobody writes the cell state after the last barrier, and each row has one writer.
            unsafe {
                let last = self.cell_state.part(row * self.stride, hidden_size);
                self.last_cell_state.part_mut(row * hidden_size, hidden_size).copy_from_slice(last);
            }
        }
    }

    fn pack(&self, panel: usize) {
        let hidden_size = self.shape.hidden_size;
        let Blocks { units, .. } = self.blocks;
        let floats = 4 * units * hidden_size;
        // SAFETY: each panel is packed by one member, before the barrier.
        let to = unsafe { self.packed.part_mut(panel * floats, floats) };
        pack_columns(to, 4 * units, |column| {
            let unit = panel * units + column % units;
            let row = column / units * hidden_size + unit;
            (unit < hidden_size).then(|| &self.inputs.weight_hh[row * hidden_size..(row + 1) * hidden_size])
        });
    }

    fn tile(&self, step: usize, panel: usize, block: usize) {
        let LstmShape { batch_size, seq_len, hidden_size, .. } = self.shape;
        let rows = block_rows(batch_size, self.blocks.row_blocks, block);
        let unit = panel * self.blocks.units;
        let (before, after) = (step % 2 * batch_size, (step + 1) % 2 * batch_size);
        let state = (rows.start * seq_len + step) * hidden_size + unit;
        self.arch.run(ForwardTile {
            rows: rows.len(),
            units: self.blocks.units.min(hidden_size - unit),
            hidden_size,
            seq_len,
            stride: self.stride,
            left: LeftRows {
                data: self.hidden.pointer((before + rows.start) * self.stride),
                row_stride: self.stride,
                k_stride: 1,
            },
            right: RightPanel {
                data: self.packed.pointer(panel * 4 * self.blocks.units * hidden_size),
                k_stride: 4 * self.blocks.units,
            },
            gates: self.gates.pointer((rows.start * seq_len + step) * 4 * hidden_size + unit),
            cell_state: self.cell_state.pointer(rows.start * self.stride + unit),
            hidden: self.hidden.pointer((after + rows.start) * self.stride + unit),
            output: self.output.pointer(state),
            cell_states: self.cell_states.map(|cell_states| cell_states.pointer(state)),
        });
    }
}

/// One step of some rows and a panel's units.
///
/// Whoever makes one promises that its pointers are good for its rows and units, that `left` holds the hidden states of the
/// last step, and that no other thread touches its rows and units of the rest.
struct ForwardTile {
    rows: usize,
    units: usize,
    hidden_size: usize,
    seq_len: usize,
    stride: usize,
    left: LeftRows,
    right: RightPanel,
    gates: *mut f32,
    cell_state: *mut f32,
    hidden: *mut f32,
    output: *mut f32,
    cell_states: Option<*mut f32>,
}

impl Kernel for ForwardTile {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, const V: usize, const M: usize, const U: usize, O: MulAdd>(self) {
        for_rows!(self.rows, M, forward_tile::<O, W, V, U>(&self));
    }
}

#[inline(always)]
fn forward_tile<O: MulAdd, const W: usize, const V: usize, const U: usize, const M: usize>(tile: &ForwardTile) {
    // SAFETY: promised by the maker of the tile.
    let sums = unsafe { accumulate::<W, V, M, O>(tile.hidden_size, tile.left, tile.right) };
    let mut flat = [[0.0; MAX_WIDTH]; MAX_ROWS];
    for (sums, flat) in sums.iter().zip(&mut flat) {
        for (sums, flat) in sums.iter().zip(flat.chunks_exact_mut(W)) {
            flat.copy_from_slice(sums);
        }
    }
    let mut block = GateBlock::new();
    let gates_stride = tile.seq_len * 4 * tile.hidden_size;
    for (r, flat) in flat.iter().enumerate().take(M) {
        // SAFETY: promised by the maker of the tile.
        unsafe {
            let cell_state = load::<U>(tile.cell_state.add(r * tile.stride), tile.units);
            block.cell_state[r * U..(r + 1) * U].copy_from_slice(&cell_state);
            for g in 0..4 {
                let start = load::<U>(tile.gates.add(r * gates_stride + g * tile.hidden_size), tile.units);
                for u in 0..U {
                    block.gates[g][r * U + u] = start[u] + flat[g * U + u];
                }
            }
        }
    }
    block.step::<O>(M * U);
    debug_assert!(M * U <= MAX_UNITS);
    let states_stride = tile.seq_len * tile.hidden_size;
    for r in 0..M {
        let row = |values: &[f32; MAX_UNITS]| -> [f32; U] { std::array::from_fn(|u| values[r * U + u]) };
        // SAFETY: promised by the maker of the tile.
        unsafe {
            let (hidden, cell_state) = (row(&block.hidden), row(&block.cell_state));
            store(&hidden, tile.hidden.add(r * tile.stride), tile.units);
            store(&hidden, tile.output.add(r * states_stride), tile.units);
            store(&cell_state, tile.cell_state.add(r * tile.stride), tile.units);
            if let Some(cell_states) = tile.cell_states {
                store(&cell_state, cell_states.add(r * states_stride), tile.units);
                for (g, gate) in block.gates.iter().enumerate() {
                    store(&row(gate), tile.gates.add(r * gates_stride + g * tile.hidden_size), tile.units);
                }
            }
        }
    }
}
