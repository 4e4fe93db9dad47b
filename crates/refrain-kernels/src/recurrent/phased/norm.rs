//! Normalisation of rows (Ba et al. 2016).

use crate::row_dot::tree_sum;

/// What is added to a variance.
const EPSILON: f32 = 1e-5;

/// Takes a row's mean off it and divides it by its deviation. What it was multiplied with comes back.
#[inline(always)]
pub(super) fn normalise<const W: usize>(row: &mut [f32]) -> f32 {
    let count = row.len() as f32;
    let mean = sum::<W>(row, row, |value, _| value) / count;
    for value in &mut *row {
        *value -= mean;
    }
    let factor = 1.0 / (sum::<W>(row, row, |a, b| a * b) / count + EPSILON).sqrt();
    for value in row {
        *value *= factor;
    }
    factor
}

/// The gradient of a row before it was normalised, in the place of that of `normal`, which it became.
#[inline(always)]
pub(super) fn normalise_back<const W: usize>(gradient: &mut [f32], normal: &[f32], factor: f32) {
    let count = normal.len() as f32;
    let mean = sum::<W>(gradient, gradient, |value, _| value) / count;
    let slope = sum::<W>(gradient, normal, |a, b| a * b) / count;
    for (gradient, normal) in gradient.iter_mut().zip(normal) {
        *gradient = factor * (*gradient - mean - slope * normal);
    }
}

/// The sum over two rows: one partial sum a lane, then halves onto halves.
#[inline(always)]
fn sum<const W: usize>(a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    let ((blocks_a, rest_a), (blocks_b, rest_b)) = (a.as_chunks::<W>(), b.as_chunks::<W>());
    let mut sum = [0.0f32; W];
    for (a, b) in blocks_a.iter().zip(blocks_b) {
        for l in 0..W {
            sum[l] += of(a[l], b[l]);
        }
    }
    for (sum, (a, b)) in sum.iter_mut().zip(rest_a.iter().zip(rest_b)) {
        *sum += of(*a, *b);
    }
    tree_sum(sum)
}
