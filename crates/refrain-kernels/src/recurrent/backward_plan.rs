//! How the backward pass is cut into tiles, and the sizes of what its products read.

use super::SequenceShape;
use super::cell::Step;
use super::plan::Plan;
use crate::format::BLOCK_WORDS;
use crate::pack::{Packing, Side};
use crate::tile::TileShape;

/// Sequences times steps of a chunk: the terms of one addition to the gradients of the weights.
const CHUNK_TERMS: usize = 512;

/// The cut of the backward time loop: the forward's row blocks, and panels of as many units as a tile has columns.
#[derive(Clone, Copy)]
pub(super) struct BackwardPlan {
    pub(super) forward: Plan,
    pub(super) tile: TileShape,
    /// Tiles of the products for the gradients of the weights: rows are features.
    pub(super) features: TileShape,
    pub(super) panels: usize,
    /// Units with their padding: whole panels and whole blocks of terms.
    pub(super) padded: usize,
    pub(super) gradients: usize,
    /// Gradients of the sums of the input's products, the first of all.
    pub(super) input_gradients: usize,
    /// Gradients of the sums of the recurrent products, the last of all.
    pub(super) recurrent_gradients: usize,
    pub(super) chunk_steps: usize,
    /// Sequences with their padding: whole words of terms.
    pub(super) padded_batch: usize,
}

impl BackwardPlan {
    pub(super) fn new<C: Step>(forward: Plan) -> Self {
        let SequenceShape { batch_size, seq_len, hidden_size, .. } = forward.shape;
        let features = TileShape::new(forward.arch, 2);
        let tile = TileShape { rows: forward.tile.rows, ..features };
        let padded = hidden_size.next_multiple_of(tile.width.max(2 * BLOCK_WORDS));
        let padded_batch = batch_size.next_multiple_of(forward.format.terms_per_word());
        Self {
            forward,
            tile,
            features,
            panels: padded / tile.width,
            padded,
            gradients: C::GRADIENTS.len(),
            input_gradients: C::INPUT_GATES.len(),
            recurrent_gradients: C::RECURRENT_GATES.len(),
            // Few sequences take as much room as half a tile of them.
            chunk_steps: (CHUNK_TERMS / padded_batch.max(tile.rows / 2)).clamp(1, seq_len),
            padded_batch,
        }
    }

    pub(super) fn tiles(&self) -> usize {
        self.panels * self.forward.row_blocks
    }

    /// Floats of the gradient of a tile's state: the blocks of its forward panels.
    pub(super) fn state_len(&self) -> usize {
        self.tile.width / self.forward.units * self.forward.block_len()
    }

    /// The gradients of a row block as rows.
    pub(super) fn left(&self) -> Packing {
        self.forward.left(self.gradients * self.padded)
    }

    /// A panel of weights whose terms are the gradients of so many sums.
    pub(super) fn right(&self, gradients: usize) -> Packing {
        Packing { lines: self.tile.width, ..self.forward.right(gradients * self.padded) }
    }

    /// A panel of gradients as columns, over the terms of a chunk.
    pub(super) fn columns(&self, steps: usize) -> Packing {
        Packing { lines: self.tile.width, ..self.forward.right(steps * self.padded_batch) }
    }

    /// A tile's features as rows, over the terms of a chunk.
    pub(super) fn feature_rows(&self, steps: usize) -> Packing {
        Packing { side: Side::Left, lines: self.features.rows, ..self.columns(steps) }
    }

    /// Words before the first recurrent gradient of a row block.
    pub(super) fn recurrent_start(&self) -> usize {
        let terms = (self.gradients - self.recurrent_gradients) * self.padded;
        self.forward.format.blocks(terms) * self.forward.format.block_len(self.tile.rows)
    }

    /// The floats of a tile of the gradients of weights.
    pub(super) fn feature_tile(&self) -> usize {
        self.features.rows * self.features.width
    }
}
