//! Products of matrices over packed panels.
//!
//! The loops: blocks of columns, blocks of `K_BLOCK` terms; of each block the right factor is packed once, shared by the
//! team; then tiles, shared out by rows and panels. Terms are never divided among threads.

use std::ops::Range;

use crate::arch::Arch;
use crate::engine::Engine;
use crate::pack::{pack_columns, pack_row_blocks, pack_rows};
use crate::pool::Member;
use crate::prefetch::prefetch_run;
use crate::row_dot::{MAX_INPUT_ROWS, RowDot, WEIGHT_ROWS};
use crate::shape::elements;
use crate::shared::SharedSlice;
use crate::tile::{Left, LeftColumns, LeftRows, ProductTile, RightPanel, TileStart, vectors_for};

/// Terms per block: a panel of them fills a part of the second cache.
const K_BLOCK: usize = 512;
/// Columns per block, which bounds the packed copy of the right factor to 8 MiB.
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

    /// The matrix from an element on, as the left factor of tiles.
    fn left(&self, row: usize, col: usize) -> Left {
        let data = self.data[row * self.row_stride + col * self.col_stride..].as_ptr();
        if self.has_contiguous_rows() {
            Left::Rows(LeftRows { data, row_stride: self.row_stride })
        } else {
            Left::Columns(LeftColumns { data, k_stride: self.col_stride })
        }
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
/// # Shapes
///
/// `a` `[m, k]`, `b` `[k, n]`, `out` `[m, n]`.
///
/// # Panics
///
/// When the shapes do not fit together.
pub fn matmul(engine: &Engine, a: MatRef, b: MatRef, beta: Beta, out: MatMut) {
    let start = match beta {
        Beta::Overwrite => Start::Zero,
        Beta::Accumulate => Start::Output,
    };
    product(engine, a, Right::Matrix(b), start, out);
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
pub fn matmul_bias(engine: &Engine, a: MatRef, b: MatRef, bias: &[f32], out: MatMut) {
    assert_eq!(bias.len(), out.cols, "a bias of {} for {} columns", bias.len(), out.cols);
    product(engine, a, Right::Matrix(b), Start::Bias(bias), out);
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Zero,
    Output,
    Bias(&'a [f32]),
}

/// The right factor of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    Matrix(MatRef<'a>),
    PreviousSteps(PreviousSteps<'a>),
}

/// The states before each step, `[batch_size * seq_len, width]`, without a copy: `first` at step 0, else `steps` one earlier.
#[derive(Clone, Copy)]
pub(crate) struct PreviousSteps<'a> {
    /// `[batch_size, seq_len, width]`
    pub(crate) steps: &'a [f32],
    /// `[batch_size, width]`
    pub(crate) first: &'a [f32],
    pub(crate) batch_size: usize,
    pub(crate) seq_len: usize,
    pub(crate) width: usize,
}

impl Right<'_> {
    fn shape(&self) -> (usize, usize) {
        match self {
            Right::Matrix(matrix) => (matrix.rows, matrix.cols),
            Right::PreviousSteps(previous) => (previous.batch_size * previous.seq_len, previous.width),
        }
    }

    /// Packs some panels of the terms `terms`, whose first panel starts at column `first_col`.
    fn pack(&self, to: &mut [f32], panels: Panels, share: &Range<usize>, terms: &Range<usize>, first_col: usize) {
        let cols = first_col + panels.cols(share.start).start..first_col + panels.cols(share.end - 1).end;
        match self {
            Right::Matrix(matrix) if matrix.has_contiguous_rows() => {
                panels.pack_rows(to, terms.len(), |k| matrix.row(terms.start + k, cols.clone()));
            }
            Right::Matrix(matrix) => {
                let columns = matrix.transposed();
                let panel_floats = (panels.width * terms.len()).max(1);
                for (panel, to) in share.clone().zip(to.chunks_mut(panel_floats)) {
                    let cols = panels.cols(panel);
                    pack_columns(to, panels.packed_width(panel), |c| {
                        (c < cols.len()).then(|| columns.row(first_col + cols.start + c, terms.clone()))
                    });
                }
            }
            Right::PreviousSteps(previous) => panels.pack_rows(to, terms.len(), |k| {
                let row = terms.start + k;
                let (batch, step) = (row / previous.seq_len, row % previous.seq_len);
                let (data, row) = if step == 0 { (previous.first, batch) } else { (previous.steps, row - 1) };
                &data[row * previous.width..][cols.clone()]
            }),
        }
    }
}

/// The general product: chooses a path by shapes and layouts alone.
pub(crate) fn product(engine: &Engine, a: MatRef, b: Right, start: Start, out: MatMut) {
    let (k, n) = b.shape();
    assert!(
        a.cols == k && out.rows == a.rows && out.cols == n,
        "[{}, {}] · [{k}, {n}] into [{}, {}]",
        a.rows,
        a.cols,
        out.rows,
        out.cols
    );
    if out.rows == 0 || n == 0 {
        return;
    }
    let MatMut { data, .. } = out;
    let out = Output { data: SharedSlice::new(data), stride: n };
    match b {
        Right::Matrix(b) if a.rows <= ROW_DOT_ROWS && a.has_contiguous_rows() && !b.has_contiguous_rows() => {
            row_dot_product(engine, a, b.transposed(), start, out);
        }
        Right::Matrix(b) if a.rows <= engine.arch().rows() && b.has_contiguous_rows() && n >= engine.arch().width() => {
            unpacked_product(engine, a, b, start, out);
        }
        _ => packed_product(engine, a, b, start, out),
    }
}

/// The panels of a block of columns.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    cols: usize,
    width: usize,
    lanes: usize,
}

impl Panels {
    pub(crate) fn new(arch: Arch, cols: usize) -> Self {
        Self { cols, width: arch.width(), lanes: arch.lanes() }
    }

    pub(crate) fn count(self) -> usize {
        self.cols.div_ceil(self.width)
    }

    pub(crate) fn cols(self, panel: usize) -> Range<usize> {
        panel * self.width..((panel + 1) * self.width).min(self.cols)
    }

    /// Vectors of a panel: the last one may be narrower.
    pub(crate) fn vectors(self, panel: usize) -> usize {
        vectors_for(self.cols(panel).len(), self.lanes)
    }

    /// Columns of some panels with their padding.
    pub(crate) fn packed_widths(self, panels: &Range<usize>) -> usize {
        (panels.len() - 1) * self.width + self.packed_width(panels.end - 1)
    }

    /// Packs contiguous rows into some panels: `rows(k)` gives their columns.
    pub(crate) fn pack_rows<'a>(self, to: &mut [f32], terms: usize, rows: impl Fn(usize) -> &'a [f32]) {
        match self.width {
            32 => pack_rows::<32>(to, terms, rows),
            16 => pack_rows::<16>(to, terms, rows),
            width => unreachable!("panels of {width} columns"),
        }
    }

    /// Columns of a panel with its padding.
    pub(crate) fn packed_width(self, panel: usize) -> usize {
        self.vectors(panel) * self.lanes
    }
}

fn packed_product(engine: &Engine, a: MatRef, b: Right, start: Start, out: Output) {
    let arch = engine.arch();
    let (k, n) = b.shape();
    let row_blocks = a.rows.div_ceil(arch.rows());
    let members = engine.members_for_flops(2 * a.rows * k.max(1) * n).min(row_blocks * n.div_ceil(arch.width()));
    let block_floats = k.min(K_BLOCK) * n.min(COLUMN_BLOCK).next_multiple_of(arch.width());
    let mut packed = [engine.scratch(block_floats), engine.scratch(block_floats)];
    let packed = packed.each_mut().map(|buffer| SharedSlice::new(buffer));
    engine.run(members, |member| {
        let mut parity = 0;
        for first_col in (0..n).step_by(COLUMN_BLOCK) {
            let cols = first_col..(first_col + COLUMN_BLOCK).min(n);
            let panels = Panels::new(arch, cols.len());
            // A product of no terms still writes its start.
            for first_term in (0..k.max(1)).step_by(K_BLOCK) {
                let terms = first_term..(first_term + K_BLOCK).min(k);
                let packed = packed[parity];
                parity ^= 1;
                let share = member.share(panels.count());
                if !share.is_empty() {
                    let first_col = panels.cols(share.start).start;
                    // SAFETY: each panel is packed by one member, and who read this buffer two blocks ago has since
                    // passed the barrier of the last block.
                    let to =
                        unsafe { packed.part_mut(first_col * terms.len(), panels.packed_widths(&share) * terms.len()) };
                    b.pack(to, panels, &share, &terms, cols.start);
                }
                member.barrier();
                let start = if first_term == 0 { start } else { Start::Output };
                Block { engine, a, terms, cols: cols.clone(), panels, packed, start, out }.compute(member);
            }
        }
    });
}

#[derive(Clone, Copy)]
struct Output<'a> {
    data: SharedSlice<'a, f32>,
    stride: usize,
}

/// The tiles of one block of terms and columns.
struct Block<'a> {
    engine: &'a Engine,
    a: MatRef<'a>,
    terms: Range<usize>,
    cols: Range<usize>,
    panels: Panels,
    packed: SharedSlice<'a, f32>,
    start: Start<'a>,
    out: Output<'a>,
}

impl Block<'_> {
    /// Computes a member's share: units of a chunk of rows and a panel, chunk by chunk.
    fn compute(&self, member: Member) {
        let tile_rows = self.engine.arch().rows();
        let chunks = Chunks::new(self.a.rows, tile_rows, self.panels.count(), member.count);
        let units = chunks.count * self.panels.count();
        let direct = self.a.has_contiguous_rows();
        let mut left = (!direct).then(|| self.engine.scratch(chunks.most_rows() * self.terms.len()));
        let mut packed_chunk = None;
        for unit in member.share(units) {
            let (chunk, panel) = (unit / self.panels.count(), unit % self.panels.count());
            let rows = chunks.rows(chunk);
            let next_rows = if chunk + 1 < chunks.count { chunks.rows(chunk + 1) } else { 0..0 };
            if let Some(left) = &mut left
                && packed_chunk != Some(chunk)
            {
                self.pack_left(left, &rows);
                packed_chunk = Some(chunk);
            }
            let chunk_tiles = rows.len().div_ceil(tile_rows) * self.panels.count();
            for (block, row) in rows.clone().step_by(tile_rows).enumerate() {
                self.prefetch_left(&next_rows, panel * rows.len().div_ceil(tile_rows) + block, chunk_tiles);
                let left = match &left {
                    None => self.a.left(row, self.terms.start),
                    Some(left) => Left::Columns(LeftColumns {
                        data: left[(row - rows.start) * self.terms.len()..].as_ptr(),
                        k_stride: tile_rows,
                    }),
                };
                self.tile(left, row..(row + tile_rows).min(rows.end), panel);
            }
        }
    }

    /// Packs rows of the left factor, whose columns are contiguous, as blocks of a tile's rows.
    fn pack_left(&self, to: &mut [f32], rows: &Range<usize>) {
        let tile_rows = self.engine.arch().rows();
        let terms = self.terms.len();
        let to = &mut to[..rows.len().next_multiple_of(tile_rows) * terms];
        let columns = self.a.transposed();
        let column = |k| columns.row(self.terms.start + k, rows.clone());
        match tile_rows {
            12 => pack_row_blocks::<12>(to, terms, column),
            6 => pack_row_blocks::<6>(to, terms, column),
            3 => pack_row_blocks::<3>(to, terms, column),
            _ => unreachable!("tiles of {tile_rows} rows"),
        }
    }

    /// Asks for a share of the next chunk of the left factor, while its predecessor is in work: rows or columns in short
    /// runs are too many streams to be foreseen.
    fn prefetch_left(&self, rows: &Range<usize>, tile: usize, tiles: usize) {
        let runs = match (rows.is_empty(), self.a.has_contiguous_rows()) {
            (true, _) => return,
            (false, true) => rows.len(),
            (false, false) => self.terms.len(),
        };
        for run in runs * tile / tiles..runs * (tile + 1) / tiles {
            let run = if self.a.has_contiguous_rows() {
                self.a.row(rows.start + run, self.terms.clone())
            } else {
                self.a.transposed().row(self.terms.start + run, rows.clone())
            };
            prefetch_run(run.as_ptr(), run.len());
        }
    }

    fn tile(&self, left: Left, rows: Range<usize>, panel: usize) {
        let cols = self.panels.cols(panel);
        let vectors = self.panels.vectors(panel);
        let start = match self.start {
            Start::Zero => TileStart::Zero,
            Start::Output => TileStart::Output,
            Start::Bias(bias) => TileStart::Bias(bias[self.cols.start + cols.start..].as_ptr()),
        };
        let tile = ProductTile {
            k_len: self.terms.len(),
            left,
            right: RightPanel {
                data: self.packed.pointer(cols.start * self.terms.len()),
                k_stride: self.panels.packed_width(panel),
            },
            rows: rows.len(),
            vectors,
            cols: cols.len(),
            start,
            out: self.out.data.pointer(rows.start * self.out.stride + self.cols.start + cols.start),
            out_stride: self.out.stride,
        };
        // SAFETY: the left rows and terms are inside `a` (or its packed copy, padded to whole tiles), the panel was packed
        // before the barrier, and the tile lies inside the output and belongs to one member.
        unsafe { tile.compute(self.engine.arch()) };
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

/// A product of one row of tiles: each panel would be used once, so the right factor is read in place.
fn unpacked_product(engine: &Engine, a: MatRef, b: MatRef, start: Start, out: Output) {
    let arch = engine.arch();
    let panels = Panels::new(arch, b.cols);
    let members = engine.members_for_flops(2 * a.rows * b.rows.max(1) * b.cols).min(panels.count());
    engine.run(members, |member| {
        let mut narrow = Vec::new();
        for panel in member.share(panels.count()) {
            let cols = panels.cols(panel);
            let vectors = panels.vectors(panel);
            let right = if cols.len() == panels.packed_width(panel) {
                RightPanel { data: b.data[cols.start.min(b.data.len())..].as_ptr(), k_stride: b.row_stride }
            } else {
                let width = panels.packed_width(panel);
                narrow.resize(width * b.rows, 0.0);
                panels.pack_rows(&mut narrow, b.rows, |k| b.row(k, cols.clone()));
                RightPanel { data: narrow.as_ptr(), k_stride: width }
            };
            let tile_start = match start {
                Start::Zero => TileStart::Zero,
                Start::Output => TileStart::Output,
                Start::Bias(bias) => TileStart::Bias(bias[cols.start..].as_ptr()),
            };
            let tile = ProductTile {
                k_len: b.rows,
                left: a.left(0, 0),
                right,
                rows: a.rows,
                vectors,
                cols: cols.len(),
                start: tile_start,
                out: out.data.pointer(cols.start),
                out_stride: out.stride,
            };
            // SAFETY: all of `a` and the panel's columns of `b` (or their copy) are read, and each panel of the output
            // belongs to one member.
            unsafe { tile.compute(arch) };
        }
    });
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
