//! What the gates did, read from the trace of a forward pass.

use super::batch::Batch;
use super::cell::Step;
use super::forward::forward;
use super::plan::Plan;
use super::{
    Cell, MadeFor, Memory, SequenceInputs, SequenceOutputs, SequenceShape, SequenceTrace, gru, lstm, min_gru, rnn,
    with_cell,
};
use crate::engine::Engine;
use crate::format::Precision;

/// What a layer did at every step, each `[batch_size, seq_len, hidden_size]`, zeros after a sequence's end.
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
    with_cell!(shape.cell, C => read::<C>(engine, precision, shape, inputs))
}

fn read<C: Step>(engine: &Engine, precision: Precision, shape: SequenceShape, inputs: SequenceInputs) -> SequenceGates {
    let mut hidden = vec![0.0; shape.states()];
    let mut last_hidden = inputs.hidden.to_vec();
    let mut last_cell_state = inputs.cell_state.to_vec();
    let outputs =
        SequenceOutputs { output: &mut hidden, last_hidden: &mut last_hidden, last_cell_state: &mut last_cell_state };
    let names = shape.cell.gate_names();
    let empty = || vec![0.0; shape.states()];
    let mut gates: Vec<(&str, Vec<f32>)> = names.iter().map(|&name| (name, empty())).collect();
    let mut cell_state = shape.cell.has_cell_state().then(empty);
    if shape.states() > 0 {
        let plan = Plan::new::<C>(engine, precision, shape);
        let mut trace =
            SequenceTrace::new::<C>(engine, &plan, Memory::All, MadeFor::new(engine, precision, shape, &inputs));
        forward::<C>(engine, precision, shape, inputs, outputs, Some(&mut trace));
        let batch = Batch::new(shape, inputs.direction, inputs.lengths);
        let block_len = plan.block_len();
        for (step, tile) in (0..batch.steps()).flat_map(|step| (0..plan.tiles()).map(move |tile| (step, tile))) {
            let (panel, row_block) = plan.position(tile);
            let (units, places) = (plan.units(panel), plan.rows(row_block));
            let copy = |to: &mut [f32], block: &[f32]| {
                for place in batch.running_of(&places, step) {
                    let from = &block[(place - places.start) * plan.units..][..units.len()];
                    to[batch.at(place, step) * shape.hidden_size + units.start..][..units.len()].copy_from_slice(from);
                }
            };
            let kept = &trace.blocks.kept[step * plan.step_len(C::SUMS) + tile * C::SUMS * block_len..];
            for ((_, gate), block) in gates.iter_mut().zip(kept.chunks_exact(block_len)) {
                copy(gate, block);
            }
            if let Some(cell_state) = &mut cell_state {
                copy(cell_state, &trace.blocks.states[(step + 1) * plan.step_len(1) + tile * block_len..][..block_len]);
            }
        }
    }
    SequenceGates { hidden, cell_state, gates }
}
