//! What the gates did, read from the trace of a forward pass.

use super::batch::Batch;
use super::cell::Step;
use super::plan::Plan;
use super::{
    Cell, Memory, SequenceInputs, SequenceOutputs, SequenceShape, SequenceTrace, gru, lstm, min_gru, phased, rnn, run,
    scan, with_cell,
};
use crate::engine::Engine;
use crate::format::Precision;

/// What a layer did at every step, each `[batch_size, seq_len, hidden_size]` (the hidden state of a projected layer
/// `[batch_size, seq_len, projection_size]`), zeros after a sequence's end.
#[derive(Clone, Debug)]
pub struct SequenceGates {
    /// The hidden state after the step.
    pub hidden: Vec<f32>,
    /// The cell state after the step, of a cell that has one.
    pub cell_state: Option<Vec<f32>>,
    /// By name, in the order of the weights.
    pub gates: Vec<(&'static str, Vec<f32>)>,
}

impl Cell {
    /// The gates and the candidate that a step keeps, by name.
    const fn gate_names(self) -> &'static [&'static str] {
        match self {
            Self::Lstm => &["input", "forget", "candidate", "output"],
            Self::CoupledLstm => &["forget", "candidate", "output"],
            Self::Gru => &["reset", "update", "candidate"],
            Self::MinGru => &["update", "candidate"],
            Self::RnnTanh | Self::RnnRelu => &[],
        }
    }
}

/// Runs a layer forward and reads its gates.
///
/// # Panics
///
/// When a slice does not have its shape.
pub fn sequence_gates(
    engine: &Engine,
    precision: Precision,
    shape: SequenceShape,
    inputs: SequenceInputs,
) -> SequenceGates {
    shape.check_inputs(&inputs);
    with_cell!(shape.cell, C => read::<C>(engine, precision, shape, &inputs))
}

fn read<C: Step>(
    engine: &Engine,
    precision: Precision,
    shape: SequenceShape,
    inputs: &SequenceInputs,
) -> SequenceGates {
    let SequenceShape { cell, batch_size, seq_len, .. } = shape;
    let mut hidden = vec![0.0; batch_size * seq_len * inputs.variant.state_size(shape.hidden_size)];
    let mut last_hidden = inputs.hidden.to_vec();
    let mut last_cell_state = inputs.cell_state.to_vec();
    let outputs =
        SequenceOutputs { output: &mut hidden, last_hidden: &mut last_hidden, last_cell_state: &mut last_cell_state };
    let empty = || vec![0.0; shape.states()];
    let mut gates: Vec<(&str, Vec<f32>)> = cell.gate_names().iter().map(|&name| (name, empty())).collect();
    let mut cell_state = cell.has_cell_state().then(empty);
    if shape.states() > 0 {
        let mut trace = SequenceTrace::new::<C>(engine, precision, shape, Memory::All, inputs);
        run::<C>(engine, precision, shape, inputs, outputs, Some(&mut trace));
        let (worked_on, batch) = scan::segments::<C>(engine, precision, shape, inputs)
            .unwrap_or_else(|| (shape, Batch::new(shape, inputs.direction, inputs.lengths)));
        let mut put = |(place, step): (usize, usize), unit: usize, kept: Kept, values: &[f32]| {
            let to = match kept {
                Kept::Gate(gate) => gates.get_mut(gate).map(|(_, gate)| gate),
                Kept::CellState => cell_state.as_mut(),
            };
            if let Some(to) = to {
                to[batch.at(place, step) * shape.hidden_size + unit..][..values.len()].copy_from_slice(values);
            }
        };
        if inputs.variant.is_plain() {
            blocks::<C>(&Plan::new::<C>(engine, precision, worked_on), &batch, &trace, &mut put);
        } else {
            phased::records::<C>(engine, (precision, shape, &batch), inputs, &trace.blocks.kept, &mut put);
        }
    }
    SequenceGates { hidden, cell_state, gates }
}

/// What a number of a trace is.
#[derive(Clone, Copy)]
pub(super) enum Kept {
    /// That of a gate, in the order of the weights.
    Gate(usize),
    /// The cell state after the step.
    CellState,
}

/// Gives what the blocks of a trace hold: of a place and step, from a unit on.
fn blocks<C: Step>(
    plan: &Plan,
    batch: &Batch,
    trace: &SequenceTrace,
    put: &mut impl FnMut((usize, usize), usize, Kept, &[f32]),
) {
    let block_len = plan.block_len();
    for (step, tile) in (0..batch.steps()).flat_map(|step| (0..plan.tiles()).map(move |tile| (step, tile))) {
        let (panel, row_block) = plan.position(tile);
        let (units, places) = (plan.units(panel), plan.rows(row_block));
        let mut copy = |kept: Kept, block: &[f32]| {
            for place in batch.running_of(&places, step) {
                let values = &block[(place - places.start) * plan.units..][..units.len()];
                put((place, step), units.start, kept, values);
            }
        };
        let kept =
            &trace.blocks.kept[step * plan.step_len(C::SUMS) + tile * C::SUMS * block_len..][..C::SUMS * block_len];
        for (gate, block) in kept.chunks_exact(block_len).enumerate() {
            copy(Kept::Gate(gate), block);
        }
        if plan.shape.cell.has_cell_state() {
            let start = (step + 1) * plan.step_len(1) + tile * block_len;
            copy(Kept::CellState, &trace.blocks.states[start..start + block_len]);
        }
    }
}
