//! Packing: a panel holds, term by term, the columns of one tile next to each other, padded with zeros to whole vectors.
//!
//! A zero times a NaN is a NaN, but only in columns that are never stored.

/// Terms per block when columns become rows, so that the lines being written stay in the first cache.
const BLOCK: usize = 16;

/// Packs columns whose terms are contiguous: `panel[k * width + column] = columns(column)[k]`.
///
/// `columns` gives `None` for padding; every slice holds one float per term.
pub(crate) fn pack_columns<'a>(panel: &mut [f32], width: usize, columns: impl Fn(usize) -> Option<&'a [f32]>) {
    let terms = panel.len() / width;
    for start in (0..terms).step_by(BLOCK) {
        let block = &mut panel[start * width..(start + BLOCK).min(terms) * width];
        for column in 0..width {
            match columns(column) {
                Some(values) => {
                    for (row, &value) in block.chunks_exact_mut(width).zip(&values[start..]) {
                        row[column] = value;
                    }
                }
                None => block.chunks_exact_mut(width).for_each(|row| row[column] = 0.0),
            }
        }
    }
}

/// Packs rows whose columns are contiguous: `panel[k * width + column] = rows(k)[column]`.
///
/// Rows may be shorter than the panel is wide.
pub(crate) fn pack_rows<'a>(panel: &mut [f32], width: usize, rows: impl Fn(usize) -> &'a [f32]) {
    for (k, to) in panel.chunks_exact_mut(width).enumerate() {
        let from = rows(k);
        to[..from.len()].copy_from_slice(from);
        to[from.len()..].fill(0.0);
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
                match column.get(block * R..).and_then(<[f32]>::first_chunk::<R>) {
                    Some(from) => *to = *from,
                    None => {
                        for (r, to) in to.iter_mut().enumerate() {
                            *to = column.get(block * R + r).copied().unwrap_or(0.0);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_rows_give_the_same_panel() {
        let (terms, cols, width) = (37, 5, 8);
        let row_major: Vec<f32> = (0..terms * cols).map(|i| i as f32).collect();
        let columns: Vec<Vec<f32>> = (0..cols).map(|c| (0..terms).map(|k| row_major[k * cols + c]).collect()).collect();
        let mut by_rows = vec![f32::NAN; terms * width];
        let mut by_columns = by_rows.clone();
        pack_rows(&mut by_rows, width, |k| &row_major[k * cols..(k + 1) * cols]);
        pack_columns(&mut by_columns, width, |c| columns.get(c).map(Vec::as_slice));
        assert_eq!(by_rows, by_columns);
        assert_eq!(&by_rows[width..width + 6], &[5.0, 6.0, 7.0, 8.0, 9.0, 0.0]);
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
