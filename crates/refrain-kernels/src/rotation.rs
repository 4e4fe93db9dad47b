//! Turned pairs of features: where the queries and keys of attention stand.

use crate::engine::Engine;
use crate::shared::SharedSlice;

/// Elements that a member turns at least.
const STRETCH: usize = 4096;

/// The angles of the steps of a batch, and which way to turn by them.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// `[sequences, seq_len, head_size / 2]`, of as many sequences as there are or of one for all.
    pub cosines: &'a [f32],
    /// The same shape.
    pub sines: &'a [f32],
    /// Back, by the negative angle: the gradient's way.
    pub backwards: bool,
}

/// Rotary positions (Su et al. 2021): in the first two thirds of each step's features, queries and keys, turns each head's features `i` and
/// `i + head_size / 2` by their angle. The last third, the values, stays.
///
/// # Shapes
///
/// - `input` and `output`: `[batch_size, seq_len, 3 * num_heads * head_size]`; `sizes` are `[batch_size, seq_len, num_heads,
///   head_size]`
///
/// # Panics
///
/// When a length is not of the sizes, or `head_size` is odd.
pub fn rotate_heads(engine: &Engine, sizes: [usize; 4], rotation: Rotation, input: &[f32], output: &mut [f32]) {
    let [batch_size, seq_len, num_heads, head_size] = sizes;
    let (width, half) = (num_heads * head_size, head_size / 2);
    let Rotation { cosines, sines, backwards } = rotation;
    assert!(head_size.is_multiple_of(2), "heads of {head_size} features have no pairs");
    assert_eq!([input.len(), output.len()], [3 * batch_size * seq_len * width; 2], "heads of {sizes:?}");
    assert_eq!(cosines.len(), sines.len(), "cosines and sines");
    let of_one = seq_len * half;
    assert!([of_one, batch_size * of_one].contains(&cosines.len()), "{} angles of {sizes:?}", cosines.len());
    let rows_of_angles = (cosines.len() / half.max(1)).max(1);
    let row_len = (3 * width).max(1);
    let output = SharedSlice::new(output);
    engine.for_ranges(input.len(), STRETCH.div_ceil(row_len) * row_len, |elements| {
        for row in elements.start / row_len..elements.end / row_len {
            // A step of one sequence stands for all where the angles are of one.
            let angles = row % rows_of_angles * half;
            let (cosines, sines) = (&cosines[angles..][..half], &sines[angles..][..half]);
            // SAFETY: a row belongs to one member.
            let output = unsafe { output.part_mut(row * row_len, row_len) };
            let input = &input[row * row_len..][..row_len];
            output[2 * width..].copy_from_slice(&input[2 * width..]);
            let heads = input[..2 * width].chunks_exact(head_size).zip(output[..2 * width].chunks_exact_mut(head_size));
            for (input, output) in heads {
                let ((x, y), (to_x, to_y)) = (input.split_at(half), output.split_at_mut(half));
                for pair in 0..half {
                    let sine = if backwards { -sines[pair] } else { sines[pair] };
                    to_x[pair] = x[pair] * cosines[pair] - y[pair] * sine;
                    to_y[pair] = y[pair] * cosines[pair] + x[pair] * sine;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Isa;

    /// Numbers without a pattern.
    fn numbers(len: usize, seed: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * 1.7 + seed).sin()).collect()
    }

    #[test]
    fn pairs_turn_by_their_angle_and_back_for_any_number_of_threads() {
        for (sizes, sequences) in [
            ([1, 1, 1, 2], 1),
            ([2, 3, 2, 6], 1),
            ([2, 3, 2, 6], 2),
            ([3, 31, 5, 34], 3),
            ([0, 4, 1, 2], 1),
            ([2, 0, 1, 2], 1),
        ] {
            let [batch_size, seq_len, num_heads, head_size] = sizes;
            let (width, half) = (num_heads * head_size, head_size / 2);
            let input = numbers(3 * batch_size * seq_len * width, 0.5);
            let angles = numbers(sequences * seq_len * half, 0.1);
            let (cosines, sines): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| (angle.cos(), angle.sin())).unzip();
            let mut expected = input.clone();
            for row in 0..batch_size * seq_len {
                let (sequence, step) = (row / seq_len.max(1), row % seq_len.max(1));
                for head in 0..2 * num_heads {
                    for pair in 0..half {
                        let angle = f64::from(angles[(sequence % sequences * seq_len + step) * half + pair]);
                        let at = row * 3 * width + head * head_size + pair;
                        let (x, y) = (f64::from(input[at]), f64::from(input[at + half]));
                        expected[at] = (x * angle.cos() - y * angle.sin()) as f32;
                        expected[at + half] = (y * angle.cos() + x * angle.sin()) as f32;
                    }
                }
            }
            for threads in [1, 3] {
                let engine = Engine::new(Isa::Portable, threads).unwrap();
                let turn = |input: &[f32], backwards| {
                    let mut output = vec![9.0; input.len()];
                    let rotation = Rotation { cosines: &cosines, sines: &sines, backwards };
                    rotate_heads(&engine, sizes, rotation, input, &mut output);
                    output
                };
                let turned = turn(&input, false);
                let close = |found: &[f32], expected: &[f32]| {
                    found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6)
                };
                assert!(close(&turned, &expected), "{sizes:?}: {turned:?} against {expected:?}");
                assert!(close(&turn(&turned, true), &input), "{sizes:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "heads of 3 features have no pairs")]
    fn heads_of_odd_size_are_refused() {
        let engine = Engine::new(Isa::Portable, 1).unwrap();
        let rotation = Rotation { cosines: &[1.0], sines: &[0.0], backwards: false };
        rotate_heads(&engine, [1, 1, 1, 3], rotation, &[0.0; 9], &mut [0.0; 9]);
    }
}
