//! How the units, sequences and steps of a layer are cut into tiles, and where a tile's numbers lie.

use std::ops::Range;

use super::SequenceShape;
use super::cell::Step;
use crate::arch::Arch;
use crate::engine::Engine;
use crate::format::{Format, Precision};
use crate::pack::{Packing, Side};
use crate::tile::TileShape;

/// The cut of the forward time loop: tiles of some sequences (a row block) and some units (a panel).
///
/// A panel of the weights holds, side by side, the columns of all gates of its units, so that a tile of the product ends with
/// the new state of those units. What a tile reads and writes element by element (sums, gates, states) lies in blocks: the
/// units of its first sequence, of its second, and so on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) arch: Arch,
    pub(super) format: Format,
    pub(super) shape: SequenceShape,
    pub(super) tile: TileShape,
    /// Units of a panel.
    pub(super) units: usize,
    pub(super) panels: usize,
    pub(super) row_blocks: usize,
}

/// Vectors of a panel's columns. Three gates fill three, two of which they would not fill evenly.
const fn vectors(gates: usize) -> usize {
    if gates == 3 { 3 } else { 2 }
}

/// Units whose gates fill the columns of a panel.
pub(super) const fn units(lanes: usize, gates: usize) -> usize {
    vectors(gates) * lanes / gates
}

impl Plan {
    pub(super) fn new<C: Step>(engine: &Engine, precision: Precision, shape: SequenceShape) -> Self {
        Self::with::<C>(engine.arch(), Format::new(engine.arch(), precision), shape)
    }

    pub(super) fn with<C: Step>(arch: Arch, format: Format, shape: SequenceShape) -> Self {
        let tile = TileShape::new(arch, vectors(C::GATES));
        let units = units(arch.lanes(), C::GATES);
        Self {
            arch,
            format,
            shape,
            tile,
            units,
            panels: shape.hidden_size.div_ceil(units),
            row_blocks: shape.batch_size.div_ceil(tile.rows),
        }
    }

    pub(super) fn tiles(&self) -> usize {
        self.panels * self.row_blocks
    }

    /// The panel and the row block of a tile: a panel's tiles follow each other, so that it is read from afar once.
    pub(super) fn position(&self, tile: usize) -> (usize, usize) {
        (tile / self.row_blocks, tile % self.row_blocks)
    }

    /// The sequences of a row block: as even as they go, in pairs, which a word of two terms may hold.
    pub(super) fn rows(&self, row_block: usize) -> Range<usize> {
        let pairs = self.shape.batch_size.div_ceil(2);
        let start = |block: usize| (pairs * block / self.row_blocks * 2).min(self.shape.batch_size);
        start(row_block)..start(row_block + 1)
    }

    /// The units of a panel that are there.
    pub(super) fn units(&self, panel: usize) -> Range<usize> {
        panel * self.units..((panel + 1) * self.units).min(self.shape.hidden_size)
    }

    /// Terms of the recurrent products: the units of all panels.
    pub(super) fn hidden_terms(&self) -> usize {
        self.panels * self.units
    }

    /// Terms of the packed recurrent weights: none where the state enters no gate.
    pub(super) fn recurrent_terms<C: Step>(&self) -> usize {
        if C::RECURRENT_SUMS.is_empty() { 0 } else { self.hidden_terms() }
    }

    /// Floats of a block: one for every unit and sequence of the largest row block, in whole vectors.
    pub(super) fn block_len(&self) -> usize {
        let most_rows = 2 * self.shape.batch_size.div_ceil(2).div_ceil(self.row_blocks.max(1));
        (most_rows.min(self.tile.rows) * self.units).next_multiple_of(self.arch.lanes())
    }

    /// Floats of the blocks of all tiles of a step, `count` for each.
    pub(super) fn step_len(&self, count: usize) -> usize {
        self.tiles() * count * self.block_len()
    }

    /// A left factor of a tile's rows.
    pub(super) fn left(&self, terms: usize) -> Packing {
        Packing { arch: self.arch, format: self.format, side: Side::Left, lines: self.tile.rows, terms }
    }

    /// A panel.
    pub(super) fn right(&self, terms: usize) -> Packing {
        Packing { arch: self.arch, format: self.format, side: Side::Right, lines: self.tile.width, terms }
    }
}
