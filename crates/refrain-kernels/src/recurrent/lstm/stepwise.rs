//! Few rows, as in generation: the weights are read in place, once per step, by dot products of their rows.

use super::gates::{GateBlock, MAX_UNITS, StepUnits};
use super::{LstmInputs, LstmOutputs, LstmShape, compact_stride};
use crate::engine::Engine;
use crate::row_dot::{MAX_INPUT_ROWS, RowDot};
use crate::shared::SharedSlice;

/// Up to so many rows, packing the weights costs more than it saves.
const ROWS: usize = 8;
/// The same for a single step, whose packed weights would be used only once.
const ROWS_OF_ONE_STEP: usize = 32;
/// Units per block.
const UNITS: usize = 16;

/// Whether this path beats the packed one.
pub(super) fn is_better(shape: LstmShape) -> bool {
    shape.rows() <= if shape.seq_len == 1 { ROWS_OF_ONE_STEP } else { ROWS }
}

/// The forward pass. `gates` is written only together with `cell_states`, which is empty when no trace is wanted.
pub(super) fn forward(
    engine: &Engine,
    shape: LstmShape,
    inputs: LstmInputs,
    outputs: LstmOutputs,
    gates: &mut [f32],
    cell_states: &mut [f32],
) {
    let LstmShape { batch_size, seq_len, input_size, hidden_size } = shape;
    let stride = compact_stride(hidden_size);
    let mut hidden = engine.scratch(2 * batch_size * stride);
    for (to, from) in hidden.chunks_exact_mut(stride).zip(inputs.hidden.chunks_exact(hidden_size)) {
        to[..hidden_size].copy_from_slice(from);
    }
    let traced = !cell_states.is_empty();
    let LstmOutputs { output, last_cell_state } = outputs;
    last_cell_state.copy_from_slice(inputs.cell_state);
    let hidden = SharedSlice::new(&mut hidden);
    let cell_state = SharedSlice::new(last_cell_state);
    let output = SharedSlice::new(output);
    let gates = SharedSlice::new(gates);
    let cell_states = SharedSlice::new(cell_states);
    let step_flops = 8 * batch_size * hidden_size * (input_size + hidden_size);
    let blocks = hidden_size.div_ceil(UNITS);
    engine.run(engine.members_for_flops(step_flops).min(blocks), |member| {
        let mut lanes: [GateBlock; MAX_INPUT_ROWS] = std::array::from_fn(|_| GateBlock::new());
        let mut cell_lanes = [0.0; MAX_UNITS];
        for step in 0..seq_len {
            let before = step % 2 * batch_size;
            let after = (step + 1) % 2 * batch_size;
            for block in member.share(blocks) {
                let units = block * UNITS..((block + 1) * UNITS).min(hidden_size);
                for first_row in (0..batch_size).step_by(MAX_INPUT_ROWS) {
                    let rows = first_row..(first_row + MAX_INPUT_ROWS).min(batch_size);
                    let row = |i: usize| (first_row + i).min(batch_size - 1);
                    let x: [&[f32]; MAX_INPUT_ROWS] =
                        std::array::from_fn(|i| &inputs.input[(row(i) * seq_len + step) * input_size..][..input_size]);
                    // SAFETY: the hidden state of the last step is not written before the next barrier.
                    let h: [&[f32]; MAX_INPUT_ROWS] =
                        std::array::from_fn(|i| unsafe { hidden.part((before + row(i)) * stride, hidden_size) });
                    for unit in units.clone() {
                        let gate_row = |g: usize| g * hidden_size + unit;
                        let from_input = engine.kernel(RowDot {
                            inputs: &x[..rows.len()],
                            weights: std::array::from_fn(|g| {
                                &inputs.weight_ih[gate_row(g) * input_size..][..input_size]
                            }),
                        });
                        let from_hidden = engine.kernel(RowDot {
                            inputs: &h[..rows.len()],
                            weights: std::array::from_fn(|g| {
                                &inputs.weight_hh[gate_row(g) * hidden_size..][..hidden_size]
                            }),
                        });
                        for (i, lanes) in lanes.iter_mut().enumerate().take(rows.len()) {
                            for g in 0..4 {
                                lanes.gates[g][unit - units.start] =
                                    inputs.bias[gate_row(g)] + from_input[i][g] + from_hidden[i][g];
                            }
                        }
                    }
                    for (row, lanes) in rows.zip(&mut lanes) {
                        let state = (row * seq_len + step) * hidden_size + units.start;
                        let count = units.len();
                        // SAFETY: each block of units belongs to one member.
                        unsafe {
                            let cell = cell_state.part_mut(row * hidden_size + units.start, count);
                            cell_lanes[..count].copy_from_slice(cell);
                            engine.kernel(StepUnits { block: lanes, cell_state: &mut cell_lanes, count: UNITS });
                            cell.copy_from_slice(&cell_lanes[..count]);
                            hidden
                                .part_mut((after + row) * stride + units.start, count)
                                .copy_from_slice(&lanes.hidden[..count]);
                            output.part_mut(state, count).copy_from_slice(&lanes.hidden[..count]);
                            if traced {
                                cell_states.part_mut(state, count).copy_from_slice(cell);
                                for (g, gate) in lanes.gates.iter().enumerate() {
                                    let start = ((row * seq_len + step) * 4 + g) * hidden_size + units.start;
                                    gates.part_mut(start, count).copy_from_slice(&gate[..count]);
                                }
                            }
                        }
                    }
                }
            }
            member.barrier();
        }
    });
}
