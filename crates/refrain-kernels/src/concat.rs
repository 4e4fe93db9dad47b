//! Features of two tensors side by side.

use crate::engine::Engine;
use crate::shared::SharedSlice;

/// Floats that a member copies at least.
const STRETCH: usize = 4096;

/// Rows that are those of `left` and then of `right`.
///
/// # Shapes
///
/// `left` `[rows, left_size]`, `right` `[rows, right_size]`, output `[rows, left_size + right_size]`; `sizes` are the first two.
///
/// # Panics
///
/// When the shapes do not fit together.
pub fn concat_features(engine: &Engine, [left, right]: [&[f32]; 2], sizes: [usize; 2]) -> Vec<f32> {
    let [left_size, right_size] = sizes;
    let row_len = (left_size + right_size).max(1);
    let len = left.len() + right.len();
    let rows = len / row_len;
    let fits = [left.len(), right.len()] == [rows * left_size, rows * right_size];
    assert!(fits, "{} floats in rows of {left_size} and {} in rows of {right_size}", left.len(), right.len());
    // Without zeros first: one thread would write them, which takes as long as all threads' copying.
    let mut output = Vec::with_capacity(len);
    let shared = SharedSlice::new(&mut output.spare_capacity_mut()[..len]);
    engine.for_ranges(len, STRETCH.div_ceil(row_len) * row_len, |floats| {
        for row in floats.start / row_len..floats.end / row_len {
            let start = row * row_len;
            // SAFETY: a row belongs to one member.
            let (to_left, to_right) =
                unsafe { (shared.part_mut(start, left_size), shared.part_mut(start + left_size, right_size)) };
            to_left.write_copy_of_slice(&left[row * left_size..][..left_size]);
            to_right.write_copy_of_slice(&right[row * right_size..][..right_size]);
        }
    });
    // SAFETY: the ranges of all members cover all rows, and each row both its parts.
    unsafe { output.set_len(len) };
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Isa;

    #[test]
    fn rows_lie_side_by_side_for_any_number_of_threads() {
        for (rows, sizes) in [(0, [2, 3]), (0, [0, 0]), (1, [1, 1]), (7, [0, 3]), (3, [5, 0]), (700, [64, 33])] {
            let number = |size: usize, i: usize| (i * 7 % 1000) as f32 + size as f32 / 100.0;
            let [left, right] = sizes.map(|size| (0..rows * size).map(|i| number(size, i)).collect::<Vec<_>>());
            let of = |from: &[f32], size: usize, row: usize| from[row * size..][..size].to_vec();
            let expected: Vec<f32> =
                (0..rows).flat_map(|row| [of(&left, sizes[0], row), of(&right, sizes[1], row)].concat()).collect();
            for threads in [1, 3] {
                let engine = Engine::new(Isa::Portable, threads).unwrap();
                assert_eq!(concat_features(&engine, [&left, &right], sizes), expected, "{rows} rows of {sizes:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "6 floats in rows of 2 and 8 in rows of 3")]
    fn shapes_must_fit() {
        let engine = Engine::new(Isa::Portable, 1).unwrap();
        concat_features(&engine, [&[0.0; 6], &[0.0; 8]], [2, 3]);
    }
}
