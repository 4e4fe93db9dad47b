//! The micro-kernel: one tile of a product, held in registers.

use std::hint::black_box;

use crate::arch::{Arch, Kernel, MAX_ROWS, MAX_WIDTH, MulAdd};
use crate::prefetch::prefetch_run;

/// A left factor whose terms lie side by side: element (row, k) at `row * row_stride + k`.
#[derive(Clone, Copy)]
pub(crate) struct LeftRows {
    pub(crate) data: *const f32,
    pub(crate) row_stride: usize,
}

/// A left factor whose rows lie side by side: element (row, k) at `row + k * k_stride`.
#[derive(Clone, Copy)]
pub(crate) struct LeftColumns {
    pub(crate) data: *const f32,
    pub(crate) k_stride: usize,
}

/// A left factor in either layout.
#[derive(Clone, Copy)]
pub(crate) enum Left {
    Rows(LeftRows),
    Columns(LeftColumns),
}

/// A walk over the terms of a left factor. Each layout has its own, so that an address costs no instruction of its own.
pub(crate) trait Walk: Copy {
    /// The element of `row`, `ahead` terms from here.
    fn at(&self, row: usize, ahead: usize) -> *const f32;

    /// Goes on by `terms`, past the last one too, where the pointer is not followed.
    fn advance(&mut self, terms: usize);
}

impl Walk for LeftColumns {
    #[inline(always)]
    fn at(&self, row: usize, ahead: usize) -> *const f32 {
        self.data.wrapping_add(ahead * self.k_stride + row)
    }

    #[inline(always)]
    fn advance(&mut self, terms: usize) {
        self.data = self.data.wrapping_add(terms * self.k_stride);
    }
}

/// The walk over [`LeftRows`].
#[derive(Clone, Copy)]
pub(crate) struct RowWalk {
    data: *const f32,
    /// 1, 3, 5 … times the distance of two rows: an address takes each of them times 1, 2, 4 or 8 for free.
    odd_strides: [usize; MAX_ROWS / 2],
}

impl LeftRows {
    #[inline(always)]
    pub(crate) fn walk(self) -> RowWalk {
        let stride = self.row_stride * size_of::<f32>();
        // Left to itself the compiler sees the multiples and adds from row to row, on the ports of the multiply-adds.
        let odd_strides = std::array::from_fn(|i| black_box(stride * (2 * i + 1)));
        RowWalk { data: self.data, odd_strides }
    }
}

impl Walk for RowWalk {
    #[inline(always)]
    fn at(&self, row: usize, ahead: usize) -> *const f32 {
        let first = self.data.wrapping_add(ahead);
        if row == 0 {
            return first;
        }
        let twos = row.trailing_zeros();
        first.wrapping_byte_add(self.odd_strides[(row >> twos) / 2] << twos)
    }

    #[inline(always)]
    fn advance(&mut self, terms: usize) {
        self.data = self.data.wrapping_add(terms);
    }
}

/// The right factor of a tile: the columns of row k lie from `k * k_stride` on.
#[derive(Clone, Copy)]
pub(crate) struct RightPanel {
    pub(crate) data: *const f32,
    pub(crate) k_stride: usize,
}

/// `left · right` over `k_len` terms, in ascending order of k, each element in one chain of multiply-adds from zero.
///
/// # Safety
///
/// `left` must be readable for `M` rows and `right` for `V * W` columns, over `k_len` terms.
#[inline(always)]
pub(crate) unsafe fn accumulate<const W: usize, const V: usize, const M: usize, O: MulAdd>(
    k_len: usize,
    mut left: impl Walk,
    right: RightPanel,
) -> [[[f32; W]; V]; M] {
    let mut sums = [[[0.0; W]; V]; M];
    let mut b = right.data;
    // Two terms per round: the loop's own instructions would take the place of multiply-adds.
    for _ in 0..k_len / 2 {
        for ahead in 0..2 {
            // SAFETY: within the bounds promised by the caller.
            unsafe { add_term::<W, V, M, O>(&mut sums, left, ahead, b) };
            // Past the last term the pointers may leave their buffers, where they are not followed.
            b = b.wrapping_add(right.k_stride);
        }
        left.advance(2);
    }
    if k_len % 2 == 1 {
        // SAFETY: as above.
        unsafe { add_term::<W, V, M, O>(&mut sums, left, 0, b) };
    }
    sums
}

/// Adds one term to a tile's sums.
///
/// # Safety
///
/// `left` must be readable for `M` rows, `ahead` terms from where it is, and `b` for `V * W` columns.
#[inline(always)]
unsafe fn add_term<const W: usize, const V: usize, const M: usize, O: MulAdd>(
    sums: &mut [[[f32; W]; V]; M],
    left: impl Walk,
    ahead: usize,
    b: *const f32,
) {
    // SAFETY: within the bounds promised by the caller.
    let columns: [[f32; W]; V] = std::array::from_fn(|v| unsafe { b.add(v * W).cast::<[f32; W]>().read() });
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as above.
        let x = unsafe { left.at(r, ahead).read() };
        for v in 0..V {
            for l in 0..W {
                sums[v][l] = O::mul_add(x, columns[v][l], sums[v][l]);
            }
        }
    }
}

/// Spells out the tile heights, each of which is compiled by itself: a tile at the lower edge does no more work than its
/// rows need.
macro_rules! for_rows {
    ($rows:expr, $max:expr, $call:ident::<$($generic:tt),*>($($argument:expr),*)) => {
        match $rows {
            1 => $call::<$($generic,)* 1>($($argument),*),
            2 if $max >= 2 => $call::<$($generic,)* 2>($($argument),*),
            3 if $max >= 3 => $call::<$($generic,)* 3>($($argument),*),
            4 if $max >= 4 => $call::<$($generic,)* 4>($($argument),*),
            5 if $max >= 5 => $call::<$($generic,)* 5>($($argument),*),
            6 if $max >= 6 => $call::<$($generic,)* 6>($($argument),*),
            7 if $max >= 7 => $call::<$($generic,)* 7>($($argument),*),
            8 if $max >= 8 => $call::<$($generic,)* 8>($($argument),*),
            9 if $max >= 9 => $call::<$($generic,)* 9>($($argument),*),
            10 if $max >= 10 => $call::<$($generic,)* 10>($($argument),*),
            11 if $max >= 11 => $call::<$($generic,)* 11>($($argument),*),
            12 if $max >= 12 => $call::<$($generic,)* 12>($($argument),*),
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}
pub(crate) use for_rows;

/// What a tile's sums are added to.
#[derive(Clone, Copy)]
pub(crate) enum TileStart {
    Zero,
    /// What the output holds.
    Output,
    /// The same values for every row.
    Bias(*const f32),
}

/// A tile of a plain product, at most `MAX_ROWS` by `MAX_WIDTH`.
pub(crate) struct ProductTile {
    pub(crate) k_len: usize,
    pub(crate) left: Left,
    pub(crate) right: RightPanel,
    pub(crate) rows: usize,
    /// Vectors of the panel: 1, 2 or 4.
    pub(crate) vectors: usize,
    /// Columns to store.
    pub(crate) cols: usize,
    pub(crate) start: TileStart,
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
}

/// Vectors of the narrowest panel of 1, 2 or 4 vectors that holds `cols` columns.
pub(crate) fn vectors_for(cols: usize, lanes: usize) -> usize {
    cols.div_ceil(lanes).next_power_of_two()
}

impl ProductTile {
    /// Computes the tile.
    ///
    /// # Safety
    ///
    /// `left` must be readable for `rows` rows, `right` for `vectors` vectors, the bias and `out` for `cols` columns, `out`
    /// writable and used by no other thread.
    pub(crate) unsafe fn compute(&self, arch: Arch) {
        debug_assert!(self.rows <= MAX_ROWS && self.cols <= MAX_WIDTH && self.cols <= self.vectors * arch.lanes());
        arch.run(Promised(self));
    }

    #[inline(always)]
    fn vectors<O: MulAdd, L: Walk, const W: usize, const V: usize, const MAX: usize>(&self, left: L) {
        match self.vectors {
            1 => for_rows!(self.rows, MAX, tile::<O, L, W, 1>(self, left)),
            2 if V >= 2 => for_rows!(self.rows, MAX, tile::<O, L, W, 2>(self, left)),
            4 if V >= 4 => for_rows!(self.rows, MAX, tile::<O, L, W, 4>(self, left)),
            vectors => unreachable!("a panel of {vectors} vectors"),
        }
    }
}

/// A tile whose pointers were promised to be good.
struct Promised<'a>(&'a ProductTile);

impl Kernel for Promised<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, const V: usize, const M: usize, const U: usize, O: MulAdd>(self) {
        match self.0.left {
            Left::Rows(left) => self.0.vectors::<O, RowWalk, W, V, M>(left.walk()),
            Left::Columns(left) => self.0.vectors::<O, LeftColumns, W, V, M>(left),
        }
    }
}

#[inline(always)]
fn tile<O: MulAdd, L: Walk, const W: usize, const V: usize, const M: usize>(tile: &ProductTile, left: L) {
    for r in 0..M {
        prefetch_run(tile.out.wrapping_add(r * tile.out_stride), V * W);
    }
    // SAFETY: promised to `ProductTile::compute`, which is the only way here.
    let sums = unsafe { accumulate::<W, V, M, O>(tile.k_len, left, tile.right) };
    for (r, sums) in sums.iter().enumerate() {
        for (v, sums) in sums.iter().enumerate() {
            let cols = tile.cols.saturating_sub(v * W).min(W);
            if cols == 0 {
                break;
            }
            // SAFETY: row r and the columns from v * W on are inside the output and the bias, by the same promise.
            unsafe {
                let out = tile.out.add(r * tile.out_stride + v * W);
                let start = match tile.start {
                    TileStart::Zero => [0.0; W],
                    TileStart::Output => load::<W>(out, cols),
                    TileStart::Bias(bias) => load::<W>(bias.add(v * W), cols),
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

/// The first `count` of `N` floats; the others are zero.
///
/// # Safety
///
/// `from` must be readable for `count.min(N)` floats.
#[inline(always)]
pub(crate) unsafe fn load<const N: usize>(from: *const f32, count: usize) -> [f32; N] {
    if count >= N {
        // SAFETY: N floats are readable.
        return unsafe { from.cast::<[f32; N]>().read() };
    }
    let mut values = [0.0; N];
    for (i, value) in values.iter_mut().enumerate().take(count) {
        // SAFETY: i < count.
        *value = unsafe { *from.add(i) };
    }
    values
}

/// Stores the first `count` of `N` floats.
///
/// # Safety
///
/// `to` must be writable for `count.min(N)` floats.
#[inline(always)]
pub(crate) unsafe fn store<const N: usize>(values: &[f32; N], to: *mut f32, count: usize) {
    if count >= N {
        // SAFETY: N floats are writable.
        unsafe { to.cast::<[f32; N]>().write(*values) };
        return;
    }
    for (i, value) in values.iter().enumerate().take(count) {
        // SAFETY: i < count.
        unsafe { *to.add(i) = *value };
    }
}
