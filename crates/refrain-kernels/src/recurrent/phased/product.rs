//! Products of packed rows with panels, shared out by panels.

use crate::arch::Tiles;
use crate::gemm::{MatRef, Start, StoreTile, pack_right};
use crate::pack::{Packing, Side};
use crate::pool::Member;
use crate::prefetch::prefetch_run;
use crate::shared::SharedSlice;
use crate::tile::{Sums, TileProduct};

use super::layout::Layout;

/// The right factor of products, `[terms, cols]`, in panels.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    pub(super) matrix: MatRef<'a>,
    pub(super) words: SharedSlice<'a, u32>,
}

/// Where the rows of a product go.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) data: SharedSlice<'a, f32>,
    /// The first of its floats.
    pub(super) first: usize,
    /// Floats from row to row.
    pub(super) stride: usize,
}

/// A panel of some terms.
fn panel(layout: &Layout, terms: usize) -> Packing {
    Packing { arch: layout.arch, format: layout.format, side: Side::Right, lines: layout.tile.width, terms }
}

/// Words of the panels of a right factor.
pub(super) fn panels_len(layout: &Layout, terms: usize, cols: usize) -> usize {
    cols.div_ceil(layout.tile.width) * panel(layout, terms).len()
}

/// The packed rows of a tile.
pub(super) fn tile_packing(layout: &Layout, terms: usize) -> Packing {
    Packing { side: Side::Left, lines: layout.tile.rows, ..panel(layout, terms) }
}

/// Words of the tiles of some packed rows.
pub(super) fn rows_len(layout: &Layout, rows: usize, terms: usize) -> usize {
    rows.div_ceil(layout.tile.rows) * tile_packing(layout, terms).len()
}

impl Panels<'_> {
    /// Packs a member's share. A barrier must follow before the first product.
    pub(super) fn pack(&self, layout: &Layout, member: Member) {
        let (width, packing) = (layout.tile.width, panel(layout, self.matrix.rows()));
        for panel in member.share(self.matrix.cols().div_ceil(width)) {
            let cols = panel * width..((panel + 1) * width).min(self.matrix.cols());
            // SAFETY: each panel is packed by one member, before the barrier.
            let to = unsafe { self.words.part_mut(panel * packing.len(), packing.len()) };
            pack_right(packing, to, self.matrix, &(0..self.matrix.rows()), &cols);
        }
    }

    /// The product of the first `rows` packed rows, or what `bias` holds more than that, for a member's share of the panels.
    ///
    /// # Safety
    ///
    /// The panels and the rows must be packed and nobody write them, and the target's columns of the share be no other member's.
    pub(super) unsafe fn multiply(
        &self,
        layout: &Layout,
        (member, tiles, sums): (Member, &Tiles, &mut Sums),
        (left, rows): (SharedSlice<u32>, usize),
        bias: Option<&[f32]>,
        to: Target,
    ) {
        let Layout { format, tile, .. } = *layout;
        let (terms, cols) = (self.matrix.rows(), self.matrix.cols());
        let (panel_len, tile_len) = (panel(layout, terms).len(), tile_packing(layout, terms).len());
        for panel in member.share(cols.div_ceil(tile.width)) {
            let col = panel * tile.width;
            let cols = tile.width.min(cols - col);
            for (block, first) in (0..rows).step_by(tile.rows).enumerate() {
                let rows = tile.rows.min(rows - first);
                let out = to.data.pointer(to.first + first * to.stride + col);
                for r in 0..rows {
                    prefetch_run(out.wrapping_add(r * to.stride), cols);
                }
                let product = TileProduct {
                    format,
                    shape: tile,
                    rows,
                    blocks: format.blocks(terms),
                    left: left.pointer(block * tile_len),
                    right: self.words.pointer(panel * panel_len),
                };
                // SAFETY: by contract.
                unsafe { tiles.multiply(&product, sums) };
                layout.arch.run(StoreTile {
                    sums,
                    width: tile.width,
                    rows,
                    cols,
                    start: bias.map_or(Start::Zero, |bias| Start::Bias(&bias[col..col + cols])),
                    out,
                    stride: to.stride,
                    row: |r| r,
                });
            }
        }
    }
}
