//! Packing: a panel holds, term by term, the columns of one tile next to each other, padded with zeros to whole vectors.
//!
//! A zero times a NaN is a NaN, but only in columns that are never stored.

use crate::prefetch::{LINE, prefetch};

/// Terms per block when columns become rows: a cache line of each column.
const BLOCK: usize = LINE;

/// Packs columns whose terms are contiguous: `panel[k * width + column] = columns(column)[k]`.
///
/// `columns` gives `None` for padding; every slice holds one float per term. `width` must be a multiple of four.
pub(crate) fn pack_columns<'a>(panel: &mut [f32], width: usize, columns: impl Fn(usize) -> Option<&'a [f32]>) {
    assert!(width.is_multiple_of(4), "a panel of {width} columns");
    let terms = panel.len() / width;
    for start in (0..terms).step_by(BLOCK) {
        let block = &mut panel[start * width..(start + BLOCK).min(terms) * width];
        for column in (0..width).step_by(4) {
            let four: [&[f32]; 4] = std::array::from_fn(|i| columns(column + i).unwrap_or(&[]));
            // The lines of the next block come from as many places as there are columns: too many to be foreseen.
            for values in four {
                prefetch(values.as_ptr().wrapping_add(start + BLOCK));
            }
            pack_four(block, width, column, four.map(|values| values.get(start..).unwrap_or(&[])));
        }
    }
}

/// Packs four columns, in squares as far as they go.
fn pack_four(block: &mut [f32], width: usize, column: usize, from: [&[f32]; 4]) {
    let shortest = from.map(<[f32]>::len).into_iter().min().unwrap_or(0);
    let terms = block.len() / width;
    let squares = shortest.min(terms) / 4;
    for square in 0..squares {
        let rows = transpose_square(from.map(|values| values[square * 4..].first_chunk().unwrap_or(&[0.0; 4])));
        for (i, row) in rows.iter().enumerate() {
            block[(square * 4 + i) * width + column..][..4].copy_from_slice(row);
        }
    }
    for k in squares * 4..terms {
        for (i, values) in from.iter().enumerate() {
            block[k * width + column + i] = values.get(k).copied().unwrap_or(0.0);
        }
    }
}

/// Exchanges rows and columns.
#[inline(always)]
fn transpose_square(rows: [&[f32; 4]; 4]) -> [[f32; 4]; 4] {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: every x86-64 processor has SSE; the loads and stores are of four floats each.
    unsafe {
        use std::arch::x86_64::{_MM_TRANSPOSE4_PS, _mm_loadu_ps, _mm_storeu_ps};
        let [mut a, mut b, mut c, mut d] = rows.map(|row| _mm_loadu_ps(row.as_ptr()));
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        let mut columns = [[0.0; 4]; 4];
        for (column, values) in columns.iter_mut().zip([a, b, c, d]) {
            _mm_storeu_ps(column.as_mut_ptr(), values);
        }
        columns
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    std::array::from_fn(|column| rows.map(|row| row[column]))
}

/// Packs rows whose columns are contiguous into panels of `W`, the last of which may be narrower:
/// `to[panel * W * terms + k * width + column] = rows(k)[panel * W + column]`.
///
/// All panels advance together, so that each row is read in one run.
pub(crate) fn pack_rows<'a, const W: usize>(to: &mut [f32], terms: usize, rows: impl Fn(usize) -> &'a [f32]) {
    for k in 0..terms {
        for (panel, from) in to.chunks_mut(W * terms).zip(rows(k).chunks(W)) {
            if let Some(from) = from.first_chunk::<W>() {
                panel.as_chunks_mut::<W>().0[k] = *from;
            } else {
                let width = panel.len() / terms;
                let to = &mut panel[k * width..(k + 1) * width];
                to[..from.len()].copy_from_slice(from);
                to[from.len()..].fill(0.0);
            }
        }
    }
}

/// Terms per pass of [`pack_row_blocks`]: few, because sources at power-of-two strides share a cache set.
const ROW_TERMS: usize = 8;

/// Packs rows of a left factor whose columns are contiguous, as blocks of `R` rows:
/// `to[(block * terms + k) * R + r] = column(k)[block * R + r]`.
pub(crate) fn pack_row_blocks<'a, const R: usize>(to: &mut [f32], terms: usize, column: impl Fn(usize) -> &'a [f32]) {
    for start in (0..terms).step_by(ROW_TERMS) {
        let end = (start + ROW_TERMS).min(terms);
        let columns: [&[f32]; ROW_TERMS] = std::array::from_fn(|i| column((start + i).min(end - 1)));
        for (block, to) in to.chunks_exact_mut(R * terms).enumerate() {
            let to = to[start * R..end * R].as_chunks_mut::<R>().0;
            for (to, column) in to.iter_mut().zip(columns) {
                if let Some(from) = column.get(block * R..).and_then(<[f32]>::first_chunk::<R>) {
                    *to = *from;
                } else {
                    for (r, to) in to.iter_mut().enumerate() {
                        *to = column.get(block * R + r).copied().unwrap_or(0.0);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "packing moves floats and changes none")]
mod tests {
    use super::*;

    #[test]
    fn columns_and_rows_give_the_same_panel() {
        let (terms, cols, width) = (37, 5, 8);
        let row_major: Vec<f32> = (0..terms * cols).map(|i| i as f32).collect();
        let columns: Vec<Vec<f32>> = (0..cols).map(|c| (0..terms).map(|k| row_major[k * cols + c]).collect()).collect();
        let mut by_rows = vec![f32::NAN; terms * width];
        let mut by_columns = by_rows.clone();
        pack_rows::<16>(&mut by_rows, terms, |k| &row_major[k * cols..(k + 1) * cols]);
        pack_columns(&mut by_columns, width, |c| columns.get(c).map(Vec::as_slice));
        assert_eq!(by_rows, by_columns);
        assert_eq!(&by_rows[width..width + 6], &[5.0, 6.0, 7.0, 8.0, 9.0, 0.0]);
    }

    #[test]
    fn rows_fill_panels_side_by_side() {
        let data: Vec<f32> = (0..60).map(|i| i as f32).collect();
        let mut packed = vec![f32::NAN; 3 * (16 + 8)];
        pack_rows::<16>(&mut packed, 3, |k| &data[k * 20..(k + 1) * 20]);
        assert_eq!(packed[16..32], data[20..36]);
        assert_eq!(packed[48 + 8..48 + 16], [36.0, 37.0, 38.0, 39.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn row_blocks_are_padded() {
        let (terms, rows) = (11, 8);
        let data: Vec<f32> = (0..terms * rows).map(|i| i as f32).collect();
        let mut packed = vec![f32::NAN; terms * 9];
        pack_row_blocks::<3>(&mut packed, terms, |k| &data[k * rows..(k + 1) * rows]);
        for (block, k, r) in [(0, 0, 0), (1, 10, 2), (2, 5, 1)] {
            assert_eq!(packed[(block * terms + k) * 3 + r], data[k * rows + block * 3 + r]);
        }
        assert_eq!(packed[(2 * terms + 5) * 3 + 2], 0.0);
    }
}
