//! Sums of columns: the gradient of a bias.

use crate::arch::{Kernel, MulAdd};
use crate::engine::Engine;
use crate::gemm::{Beta, MatRef};
use crate::row_dot::tree_sum;
use crate::shared::SharedSlice;
use crate::tile::{load, store};

/// Columns per unit of work.
const COLUMNS: usize = 64;
/// Rows that are added up before they join the total, which keeps rounding errors of long columns small.
const ROWS: usize = 64;

/// `out[c] = Σ_r a[r, c]`.
///
/// # Shapes
///
/// `a` `[rows, cols]`, `out` `[cols]`.
///
/// # Panics
///
/// When the shapes do not fit together.
pub fn column_sums(engine: &Engine, a: MatRef, out: &mut [f32]) {
    add_column_sums(engine, a, Beta::Overwrite, out);
}

/// As [`column_sums`], or added to what `out` holds.
pub(crate) fn add_column_sums(engine: &Engine, a: MatRef, beta: Beta, out: &mut [f32]) {
    assert_eq!(out.len(), a.cols(), "column sums of [{}, {}] into {}", a.rows(), a.cols(), out.len());
    let cols = a.cols();
    let members = engine.members_for_flops(4 * a.rows() * cols);
    let out = SharedSlice::new(out);
    engine.run(members, |member| {
        for group in member.share(cols.div_ceil(COLUMNS)) {
            let first = group * COLUMNS;
            // SAFETY: each group of columns belongs to one member.
            let out = unsafe { out.part_mut(first, COLUMNS.min(cols - first)) };
            if beta == Beta::Overwrite {
                out.fill(0.0);
            }
            engine.kernel(SumColumns { a, first, out });
        }
    });
}

/// Adds the sums of the columns from `first` on to `out`.
struct SumColumns<'a> {
    a: MatRef<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for SumColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let count = self.out.len();
        let cols = self.first..self.first + count;
        if !self.a.has_contiguous_rows() {
            let columns = self.a.transposed();
            for (out, col) in self.out.iter_mut().zip(cols) {
                *out += lane_sum::<W>(columns.row(col, 0..columns.cols()));
            }
            return;
        }
        let mut total = [0.0f32; COLUMNS];
        for start in (0..self.a.rows()).step_by(ROWS) {
            let mut sum = [0.0f32; COLUMNS];
            for row in start..(start + ROWS).min(self.a.rows()) {
                // SAFETY: the row holds `count` floats.
                let values = unsafe { load::<COLUMNS>(self.a.row(row, cols.clone()).as_ptr(), count) };
                for (sum, value) in sum.iter_mut().zip(values) {
                    *sum += value;
                }
            }
            for (total, sum) in total.iter_mut().zip(sum) {
                *total += sum;
            }
        }
        for (total, out) in total.iter_mut().zip(self.out.iter()) {
            *total += out;
        }
        // SAFETY: `out` holds `count` floats.
        unsafe { store(&total, self.out.as_mut_ptr(), count) };
    }
}

/// The sum of contiguous floats: one partial sum per lane, then halves onto halves.
#[inline(always)]
fn lane_sum<const W: usize>(values: &[f32]) -> f32 {
    let (blocks, rest) = values.as_chunks::<W>();
    let mut sum = [0.0f32; W];
    for block in blocks {
        for l in 0..W {
            sum[l] += block[l];
        }
    }
    for (sum, value) in sum.iter_mut().zip(rest) {
        *sum += value;
    }
    tree_sum(sum)
}
