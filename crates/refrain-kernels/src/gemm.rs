//! Products of matrices over packed factors.
//!
//! The loops: blocks of columns, blocks of terms; of each block the right factor is packed once, shared by the team; then
//! chunks of rows, packed by who works on them; then tiles, shared out by rows and panels. Terms are never divided among
//! threads.

use std::ops::Range;

use crate::arch::{Kernel, MulAdd, Tiles};
use crate::engine::Engine;
use crate::format::{Format, Precision};
use crate::pack::{Packing, Side};
use crate::pool::Member;
use crate::prefetch::prefetch_run;
use crate::row_dot::{MAX_INPUT_ROWS, RowDot, WEIGHT_ROWS};
use crate::shape::elements;
use crate::shared::SharedSlice;
use crate::tile::{Sums, TileProduct, TileShape, load, store};

/// Terms per block: a panel of them fills a part of the second cache.
const K_BLOCK: usize = 512;
/// The same of factors of half the size.
const K_BLOCK_BF16: usize = 1024;
/// Columns per block, which bounds the packed copy of the right factor.
const COLUMN_BLOCK: usize = 4096;
/// Rows of the left factor that stay in the second cache while the panels pass.
const ROW_CHUNK: usize = 240;
/// Up to so many rows a product with transposed right factor reads it in place.
const ROW_DOT_ROWS: usize = 16;

/// A matrix to read.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> MatRef<'a> {
    /// `data` as `[rows, cols]`.
    ///
    /// # Panics
    ///
    /// When `data` does not hold `rows * cols` floats.
    pub fn row_major(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), elements(&[rows, cols]), "a matrix [{rows}, {cols}] over {} floats", data.len());
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transposed matrix, over the same data.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Some columns of a matrix with contiguous rows.
    pub(crate) fn columns(self, range: Range<usize>) -> Self {
        debug_assert!(self.has_contiguous_rows() && range.end <= self.cols);
        Self { data: &self.data[range.start.min(self.data.len())..], cols: range.len(), ..self }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether rows, rather than columns, are contiguous.
    pub(crate) fn has_contiguous_rows(&self) -> bool {
        self.col_stride == 1
    }

    /// Contiguous part `range` of row `row`.
    pub(crate) fn row(&self, row: usize, range: Range<usize>) -> &'a [f32] {
        debug_assert!(self.has_contiguous_rows());
        &self.data[row * self.row_stride + range.start..row * self.row_stride + range.end]
    }
}

/// A matrix to write, with contiguous rows.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
}

impl<'a> MatMut<'a> {
    /// `data` as `[rows, cols]`.
    ///
    /// # Panics
    ///
    /// When `data` does not hold `rows * cols` floats.
    pub fn row_major(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), elements(&[rows, cols]), "a matrix [{rows}, {cols}] over {} floats", data.len());
        Self { data, rows, cols }
    }
}

/// What becomes of the output's old values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beta {
    /// They are overwritten.
    Overwrite,
    /// The product is added to them.
    Accumulate,
}

/// `out = a · b`, or `out += a · b`.
///
/// Few rows with a transposed `b` are multiplied in f32 whatever the precision: reading `b` is all their work.
///
/// # Shapes
///
/// `a` `[m, k]`, `b` `[k, n]`, `out` `[m, n]`.
///
/// # Panics
///
/// When the shapes do not fit together.
pub fn matmul(engine: &Engine, precision: Precision, a: MatRef, b: MatRef, beta: Beta, out: MatMut) {
    let start = match beta {
        Beta::Overwrite => Start::Zero,
        Beta::Accumulate => Start::Output,
    };
    product(engine, precision, a, b, start, out);
}

/// `out = a · b + bias` on each row.
///
/// # Shapes
///
/// `a` `[m, k]`, `b` `[k, n]`, `bias` `[n]`, `out` `[m, n]`.
///
/// # Panics
///
/// When the shapes do not fit together.
pub fn matmul_bias(engine: &Engine, precision: Precision, a: MatRef, b: MatRef, bias: &[f32], out: MatMut) {
    assert_eq!(bias.len(), out.cols, "a bias of {} for {} columns", bias.len(), out.cols);
    product(engine, precision, a, b, Start::Bias(bias), out);
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    Output,
    Bias(&'a [f32]),
}

/// The general product: chooses a path by shapes and layouts alone.
fn product(engine: &Engine, precision: Precision, a: MatRef, b: MatRef, start: Start, out: MatMut) {
    assert!(
        a.cols == b.rows && out.rows == a.rows && out.cols == b.cols,
        "[{}, {}] · [{}, {}] into [{}, {}]",
        a.rows,
        a.cols,
        b.rows,
        b.cols,
        out.rows,
        out.cols
    );
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    let MatMut { data, cols: stride, .. } = out;
    let out = Output { data: SharedSlice::new(data), stride };
    if a.rows <= ROW_DOT_ROWS && a.has_contiguous_rows() && !b.has_contiguous_rows() {
        row_dot_product(engine, a, b.transposed(), start, out);
    } else {
        packed_product(engine, Format::new(engine.arch(), precision), a, b, start, out);
    }
}

/// The panels of a block of columns: all of one width, the last one padded.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    pub(crate) cols: usize,
    pub(crate) width: usize,
}

impl Panels {
    pub(crate) fn count(self) -> usize {
        self.cols.div_ceil(self.width)
    }

    pub(crate) fn cols(self, panel: usize) -> Range<usize> {
        panel * self.width..((panel + 1) * self.width).min(self.cols)
    }
}

fn packed_product(engine: &Engine, format: Format, a: MatRef, b: MatRef, start: Start, out: Output) {
    let arch = engine.arch();
    let shape = TileShape::new(arch, 2);
    let (k, n) = (b.rows, b.cols);
    let row_blocks = a.rows.div_ceil(shape.rows);
    let members = engine.members_for_flops(2 * a.rows * k.max(1) * n).min(row_blocks * n.div_ceil(shape.width));
    let k_block = if format == Format::Bf16 { K_BLOCK_BF16 } else { K_BLOCK };
    let panel = |terms| Packing { arch, format, side: Side::Right, lines: shape.width, terms };
    let block_words = n.min(COLUMN_BLOCK).div_ceil(shape.width) * panel(k.min(k_block)).len();
    let mut packed = [engine.scratch(block_words), engine.scratch(block_words)];
    let packed = packed.each_mut().map(|buffer| SharedSlice::new(buffer.words_mut()));
    engine.run(members, |member| {
        let tiles = arch.tiles();
        let mut sums = Sums::new();
        let mut parity = 0;
        for first_col in (0..n).step_by(COLUMN_BLOCK) {
            let cols = first_col..(first_col + COLUMN_BLOCK).min(n);
            let panels = Panels { cols: cols.len(), width: shape.width };
            // A product of no terms still writes its start.
            for first_term in (0..k.max(1)).step_by(k_block) {
                let terms = first_term..(first_term + k_block).min(k);
                let packed = packed[parity];
                parity ^= 1;
                let packing = panel(terms.len());
                for panel in member.share(panels.count()) {
                    let cols = panels.cols(panel);
                    let cols = first_col + cols.start..first_col + cols.end;
                    // SAFETY: each panel is packed by one member, and who read this buffer two blocks ago has since
                    // passed the barrier of the last block.
                    let to = unsafe { packed.part_mut(panel * packing.len(), packing.len()) };
                    pack_right(packing, to, b, &terms, &cols);
                }
                member.barrier();
                let start = if first_term == 0 { start } else { Start::Output };
                let block = Block { engine, format, shape, a, terms, first_col, panels, packed, start, out };
                block.compute(member, &tiles, &mut sums);
            }
        }
    });
}

/// Packs some terms of some columns of a matrix.
pub(crate) fn pack_right(packing: Packing, to: &mut [u32], b: MatRef, terms: &Range<usize>, cols: &Range<usize>) {
    if b.has_contiguous_rows() {
        packing.contiguous_lines(to, |k| b.row(terms.start + k, cols.clone()));
    } else {
        let columns = b.transposed();
        packing.contiguous_terms(to, |c| if c < cols.len() { columns.row(cols.start + c, terms.clone()) } else { &[] });
    }
}

/// Packs some terms of the rows of a tile.
pub(crate) fn pack_left(packing: Packing, to: &mut [u32], a: MatRef, terms: &Range<usize>, rows: &Range<usize>) {
    if a.has_contiguous_rows() {
        packing.contiguous_terms(to, |r| if r < rows.len() { a.row(rows.start + r, terms.clone()) } else { &[] });
    } else {
        let columns = a.transposed();
        packing.contiguous_lines(to, |k| columns.row(terms.start + k, rows.clone()));
    }
}

#[derive(Clone, Copy)]
struct Output<'a> {
    data: SharedSlice<'a, f32>,
    stride: usize,
}

/// The tiles of one block of terms and columns.
struct Block<'a> {
    engine: &'a Engine,
    format: Format,
    shape: TileShape,
    a: MatRef<'a>,
    terms: Range<usize>,
    first_col: usize,
    panels: Panels,
    packed: SharedSlice<'a, u32>,
    start: Start<'a>,
    out: Output<'a>,
}

impl Block<'_> {
    /// Computes a member's share: units of a chunk of rows and a panel, chunk by chunk.
    fn compute(&self, member: Member, tiles: &Tiles, sums: &mut Sums) {
        let Self { format, shape, a, .. } = *self;
        let chunks = Chunks::new(a.rows, shape.rows, self.panels.count(), member.count);
        let packing =
            Packing { arch: self.engine.arch(), format, side: Side::Left, lines: shape.rows, terms: self.terms.len() };
        let mut left = self.engine.scratch(chunks.most_rows() / shape.rows * packing.len());
        let left = left.words_mut();
        let mut packed_chunk = None;
        for unit in member.share(chunks.count * self.panels.count()) {
            let (chunk, panel) = (unit / self.panels.count(), unit % self.panels.count());
            let rows = chunks.rows(chunk);
            let blocks = rows.clone().step_by(shape.rows).map(|row| row..(row + shape.rows).min(rows.end));
            if packed_chunk != Some(chunk) {
                for (rows, to) in blocks.clone().zip(left.chunks_exact_mut(packing.len().max(1))) {
                    pack_left(packing, to, a, &self.terms, &rows);
                }
                packed_chunk = Some(chunk);
            }
            for (block, rows) in blocks.enumerate() {
                self.tile(tiles, sums, left[block * packing.len()..].as_ptr(), rows, panel);
            }
        }
    }

    fn tile(&self, tiles: &Tiles, sums: &mut Sums, left: *const u32, rows: Range<usize>, panel: usize) {
        let Self { format, shape, .. } = *self;
        let cols = self.panels.cols(panel);
        let blocks = format.blocks(self.terms.len());
        let out = self.out.data.pointer(rows.start * self.out.stride + self.first_col + cols.start);
        for r in 0..rows.len() {
            prefetch_run(out.wrapping_add(r * self.out.stride), cols.len());
        }
        let product = TileProduct {
            format,
            shape,
            rows: rows.len(),
            blocks,
            left,
            right: self.packed.pointer(panel * blocks * format.block_len(shape.width)),
        };
        // SAFETY: the chunk's rows and the panel are packed for all blocks of terms, the panel before the barrier.
        unsafe { tiles.multiply(&product, sums) };
        let start = match self.start {
            Start::Zero => Start::Zero,
            Start::Output => Start::Output,
            Start::Bias(bias) => Start::Bias(&bias[self.first_col + cols.start..self.first_col + cols.end]),
        };
        let (stride, width) = (self.out.stride, shape.width);
        self.engine.kernel(StoreTile {
            sums,
            width,
            rows: rows.len(),
            cols: cols.len(),
            start,
            out,
            stride,
            row: |r| r,
        });
    }
}

/// Stores the sums of a tile, added to their start.
///
/// Whoever makes one promises that the tile lies inside the output and is no other thread's.
pub(crate) struct StoreTile<'a, R> {
    pub(crate) sums: &'a Sums,
    pub(crate) width: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) start: Start<'a>,
    pub(crate) out: *mut f32,
    pub(crate) stride: usize,
    /// Which row of the output a row of the tile is.
    pub(crate) row: R,
}

impl<R: Fn(usize) -> usize> Kernel for StoreTile<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        for r in 0..self.rows {
            for (v, sums) in self.sums.row(r, self.width).as_chunks::<W>().0.iter().enumerate() {
                let cols = self.cols.saturating_sub(v * W).min(W);
                if cols == 0 {
                    break;
                }
                // SAFETY: row r and the columns from v * W on are inside the output and the bias, by the maker's promise.
                unsafe {
                    let out = self.out.add((self.row)(r) * self.stride + v * W);
                    let start = match self.start {
                        Start::Zero => [0.0; W],
                        Start::Output => load::<W>(out, cols),
                        Start::Bias(bias) => load::<W>(bias[v * W..].as_ptr(), cols),
                    };
                    let mut sum = *sums;
                    for l in 0..W {
                        sum[l] += start[l];
                    }
                    store::<W>(&sum, out, cols);
                }
            }
        }
    }
}

/// How the rows of the left factor are cut: chunks of whole tiles, as even as they go.
#[derive(Clone, Copy)]
struct Chunks {
    rows: usize,
    tile_rows: usize,
    count: usize,
}

impl Chunks {
    /// As few chunks as the cache allows, but so many that every member gets some units; of several, the same number for
    /// each member, who then packs none that another packs too.
    fn new(rows: usize, tile_rows: usize, panels: usize, members: usize) -> Self {
        let row_blocks = rows.div_ceil(tile_rows);
        let for_members = if members == 1 { 1 } else { (8 * members).div_ceil(panels) };
        let count = match row_blocks.div_ceil(ROW_CHUNK / tile_rows).max(for_members) {
            1 => 1,
            several => several.next_multiple_of(members).min(row_blocks),
        };
        Self { rows, tile_rows, count }
    }

    fn row_blocks(self) -> usize {
        self.rows.div_ceil(self.tile_rows)
    }

    fn rows(self, chunk: usize) -> Range<usize> {
        let start = |chunk: usize| (self.row_blocks() * chunk / self.count * self.tile_rows).min(self.rows);
        start(chunk)..start(chunk + 1)
    }

    /// Rows of the largest chunk, in whole tiles.
    fn most_rows(self) -> usize {
        self.row_blocks().div_ceil(self.count) * self.tile_rows
    }
}

/// A product of few rows with a transposed factor, `weight` `[n, k]`: dot products of rows.
fn row_dot_product(engine: &Engine, a: MatRef, weight: MatRef, start: Start, out: Output) {
    let n = weight.rows;
    let terms = 0..weight.cols;
    let members = engine.members_for_flops(2 * a.rows * weight.cols.max(1) * n);
    engine.run(members, |member| {
        for group in member.share(n.div_ceil(WEIGHT_ROWS)) {
            let first = group * WEIGHT_ROWS;
            let count = WEIGHT_ROWS.min(n - first);
            let weights = std::array::from_fn(|i| weight.row((first + i).min(n - 1), terms.clone()));
            for first_row in (0..a.rows).step_by(MAX_INPUT_ROWS) {
                let rows = first_row..(first_row + MAX_INPUT_ROWS).min(a.rows);
                let inputs: [&[f32]; MAX_INPUT_ROWS] =
                    std::array::from_fn(|i| a.row((first_row + i).min(a.rows - 1), terms.clone()));
                let dots = engine.kernel(RowDot { inputs: &inputs[..rows.len()], weights });
                for (row, dots) in rows.zip(dots) {
                    // SAFETY: each group of columns belongs to one member.
                    let out = unsafe { out.data.part_mut(row * out.stride + first, count) };
                    for (i, (out, dot)) in out.iter_mut().zip(dots).enumerate() {
                        *out = match start {
                            Start::Zero => dot,
                            Start::Output => *out + dot,
                            Start::Bias(bias) => bias[first + i] + dot,
                        };
                    }
                }
            }
        }
    });
}
