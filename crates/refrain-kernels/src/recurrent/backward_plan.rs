//! How the backward pass is cut into tiles, and the sizes of what its products read.

use std::ops::Range;

use super::batch::Batch;
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
}

/// Consecutive steps whose gradients are brought together for the products that need them.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) steps: Range<usize>,
    /// By step: the first of its terms, and the first of its row blocks.
    starts: Vec<(usize, usize)>,
    /// Sequences that run, of all steps, with their padding: whole words of terms.
    pub(super) terms: usize,
    /// The step and row block of all tiles' rows of gradients.
    pub(super) row_blocks: Vec<(usize, usize)>,
}

impl Chunk {
    /// The first term of a step.
    pub(super) fn first_term(&self, step: usize) -> usize {
        self.starts[step - self.steps.start].0
    }

    /// Which of the chunk's row blocks the first of a step is.
    pub(super) fn first_row_block(&self, step: usize) -> usize {
        self.starts[step - self.steps.start].1
    }

    /// The step and the place of a term; it may be beyond the sequences that run.
    pub(super) fn term(&self, term: usize) -> (usize, usize) {
        let step = self.starts.partition_point(|&(first, _)| first <= term) - 1;
        (self.steps.start + step, term - self.starts[step].0)
    }
}

impl BackwardPlan {
    pub(super) fn new<C: Step>(forward: Plan) -> Self {
        let hidden_size = forward.shape.hidden_size;
        let features = TileShape::new(forward.arch, 2);
        let tile = TileShape { rows: forward.tile.rows, ..features };
        let padded = hidden_size.next_multiple_of(tile.width.max(2 * BLOCK_WORDS));
        Self {
            forward,
            tile,
            features,
            panels: padded / tile.width,
            padded,
            gradients: C::GRADIENTS.len(),
            input_gradients: C::INPUT_GATES.len(),
            recurrent_gradients: C::RECURRENT_GATES.len(),
        }
    }

    /// The chunks of a pass, from the first step on: that a batch has more steps, of padding, does not move them.
    pub(super) fn chunks(&self, batch: &Batch) -> Vec<Chunk> {
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut room = 0;
        for step in 0..batch.steps() {
            let terms = batch.running(step).next_multiple_of(self.forward.format.terms_per_word());
            // Few sequences take as much room as half a tile of them.
            let taken = terms.max(self.tile.rows / 2);
            if taken > room {
                chunks.push(Chunk { steps: step..step, starts: vec![], terms: 0, row_blocks: vec![] });
                room = CHUNK_TERMS;
            }
            room = room.saturating_sub(taken);
            let chunk = chunks.last_mut().expect("the first step begins one");
            chunk.steps.end = step + 1;
            chunk.starts.push((chunk.terms, chunk.row_blocks.len()));
            chunk.terms += terms;
            let row_blocks = 0..self.forward.row_blocks;
            let running = |row_block: &usize| self.forward.rows(*row_block).start < batch.running(step);
            chunk.row_blocks.extend(row_blocks.take_while(running).map(|row_block| (step, row_block)));
        }
        chunks
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
    pub(super) fn columns(&self, terms: usize) -> Packing {
        Packing { lines: self.tile.width, ..self.forward.right(terms) }
    }

    /// A tile's features as rows, over the terms of a chunk.
    pub(super) fn feature_rows(&self, terms: usize) -> Packing {
        Packing { side: Side::Left, lines: self.features.rows, ..self.columns(terms) }
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
