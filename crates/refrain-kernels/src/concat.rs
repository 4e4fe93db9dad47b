//! Features of two tensors side by side, and apart again.

use crate::engine::Engine;
use crate::shared::SharedSlice;

/// Floats that a member copies at least.
const STRETCH: usize = 4096;

/// Rows of `output` are those of `left` and then of `right`.
///
/// # Shapes
///
/// `left` `[rows, left_size]`, `right` `[rows, right_size]`, `output` `[rows, left_size + right_size]`; `sizes` are the first two.
///
/// # Panics
///
/// When the shapes do not fit together.
pub fn concat_features(engine: &Engine, [left, right]: [&[f32]; 2], sizes: [usize; 2], output: &mut [f32]) {
    check(sizes, [left.len(), right.len(), output.len()]);
    let [left_size, right_size] = sizes;
    let shared = SharedSlice::new(output);
    for_rows(engine, sizes, left.len() + right.len(), |row| {
        let start = row * (left_size + right_size);
        // SAFETY: a row belongs to one member.
        let (to_left, to_right) =
            unsafe { (shared.part_mut(start, left_size), shared.part_mut(start + left_size, right_size)) };
        to_left.copy_from_slice(&left[row * left_size..][..left_size]);
        to_right.copy_from_slice(&right[row * right_size..][..right_size]);
    });
}

/// Takes apart what [`concat_features`] put together: its gradient.
///
/// # Panics
///
/// When the shapes do not fit together.
pub fn split_features(engine: &Engine, input: &[f32], sizes: [usize; 2], [left, right]: [&mut [f32]; 2]) {
    check(sizes, [left.len(), right.len(), input.len()]);
    let [left_size, right_size] = sizes;
    let shared = [SharedSlice::new(left), SharedSlice::new(right)];
    for_rows(engine, sizes, input.len(), |row| {
        let (from_left, from_right) =
            input[row * (left_size + right_size)..][..left_size + right_size].split_at(left_size);
        // SAFETY: a row belongs to one member.
        let (left, right) = unsafe {
            (shared[0].part_mut(row * left_size, left_size), shared[1].part_mut(row * right_size, right_size))
        };
        left.copy_from_slice(from_left);
        right.copy_from_slice(from_right);
    });
}

fn check([left_size, right_size]: [usize; 2], [left, right, both]: [usize; 3]) {
    let rows = both / (left_size + right_size).max(1);
    let fits = [left, right, both] == [rows * left_size, rows * right_size, rows * (left_size + right_size)];
    assert!(fits, "{left} floats in rows of {left_size} and {right} in rows of {right_size} are not {both}");
}

/// Calls `copy` for all rows of `len` floats together, shared out among the members.
fn for_rows(engine: &Engine, [left_size, right_size]: [usize; 2], len: usize, copy: impl Fn(usize) + Sync) {
    let row_len = (left_size + right_size).max(1);
    engine.for_ranges(len, STRETCH.div_ceil(row_len) * row_len, |floats| {
        (floats.start / row_len..floats.end / row_len).for_each(&copy);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Isa;

    #[test]
    fn what_is_put_together_comes_apart_again_for_any_number_of_threads() {
        for (rows, sizes) in [(0, [2, 3]), (1, [1, 1]), (7, [0, 3]), (3, [5, 0]), (700, [64, 33])] {
            let number = |size: usize, i: usize| (i * 7 % 1000) as f32 + size as f32 / 100.0;
            let [left, right] = sizes.map(|size| (0..rows * size).map(|i| number(size, i)).collect::<Vec<_>>());
            for threads in [1, 3] {
                let engine = Engine::new(Isa::Portable, threads).unwrap();
                let mut both = vec![f32::NAN; rows * (sizes[0] + sizes[1])];
                concat_features(&engine, [&left, &right], sizes, &mut both);
                for row in 0..rows {
                    let of = |from: &[f32], size: usize| from[row * size..][..size].to_vec();
                    let expected = [of(&left, sizes[0]), of(&right, sizes[1])].concat();
                    assert_eq!(both[row * expected.len()..][..expected.len()], expected, "row {row} of {sizes:?}");
                }
                let [mut a, mut b] = [vec![f32::NAN; left.len()], vec![f32::NAN; right.len()]];
                split_features(&engine, &both, sizes, [&mut a, &mut b]);
                assert_eq!((a, b), (left.clone(), right.clone()), "{rows} rows of {sizes:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "6 floats in rows of 2 and 8 in rows of 3 are not 15")]
    fn shapes_must_fit() {
        let engine = Engine::new(Isa::Portable, 1).unwrap();
        concat_features(&engine, [&[0.0; 6], &[0.0; 8]], [2, 3], &mut [0.0; 15]);
    }
}
