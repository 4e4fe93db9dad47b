//! Layers whose step is more than a product that ends with its gates: [`SequenceVariant`](super::SequenceVariant).
//!
//! A step has phases, between which the team meets. In some the members share out the panels of a product, whose sums go to
//! rows; in the others they share out the sequences, and do with a row what needs all of it. What a row's step has to remember lies
//! side by side in one record. Products that need no state are taken of chunks of steps at once: those of the input before
//! the steps, those for the gradients of weights and input after them.

mod back_rows;
mod backward;
mod forward;
mod forward_rows;
mod gradients;
mod layout;
mod norm;
mod product;
mod reset_rows;
mod work;

pub(super) use backward::backward;
pub(super) use forward::forward;

use super::batch::Batch;
use super::cell::Step;
use super::gates::Kept;
use super::{SequenceInputs, SequenceShape};
use crate::engine::Engine;
use crate::format::Precision;

/// Floats of the records of a whole pass.
pub(super) fn kept_len<C: Step>(
    engine: &Engine,
    precision: Precision,
    shape: SequenceShape,
    inputs: &SequenceInputs,
) -> usize {
    let batch = Batch::new(shape, inputs.direction, inputs.lengths);
    layout::Rows::new(&batch).len() * layout::len(&layout::Layout::new::<C>(engine, precision, shape, inputs).kept())
}

/// Gives what the records of a pass hold: of a place and step, all units.
pub(super) fn records<C: Step>(
    engine: &Engine,
    (precision, shape, batch): (Precision, SequenceShape, &Batch),
    inputs: &SequenceInputs,
    records: &[f32],
    put: &mut impl FnMut((usize, usize), usize, Kept, &[f32]),
) {
    let sizes = layout::Layout::new::<C>(engine, precision, shape, inputs).kept();
    let rows = layout::Rows::new(batch);
    for (row, record) in records.chunks_exact(layout::len(&sizes)).enumerate() {
        let at = rows.find(row);
        for (gate, values) in record[layout::part(&sizes, layout::GATES)].chunks_exact(shape.hidden_size).enumerate() {
            put(at, 0, Kept::Gate(gate), values);
        }
        if shape.cell.has_cell_state() {
            put(at, 0, Kept::CellState, &record[layout::part(&sizes, layout::STATE)]);
        }
    }
}
