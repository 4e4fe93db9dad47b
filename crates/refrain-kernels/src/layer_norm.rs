//! Normalised rows, with a gain and a shift for each feature.

use crate::arch::{Kernel, MulAdd};
use crate::column_sums::column_sums;
use crate::engine::Engine;
use crate::gemm::MatRef;
use crate::row_dot::tree_sum;
use crate::shared::SharedSlice;

/// Rows whose gradients of gain and shift are added up before they join the others.
const ROWS: usize = 64;

/// `gain ∘ (x - mean) / sqrt(variance + epsilon) + shift` of each row (Ba et al. 2016), the variance that of the row itself.
///
/// # Shapes
///
/// - `input` and `output`: `[rows, size]`; `gain` and `shift`: `[size]`
///
/// # Panics
///
/// When the lengths do not fit together.
pub fn layer_norm(engine: &Engine, epsilon: f32, input: &[f32], gain: &[f32], shift: &[f32], output: &mut [f32]) {
    let size = check([input, output], gain);
    assert_eq!(shift.len(), size, "a shift of {} for a gain of {size}", shift.len());
    let output = SharedSlice::new(output);
    engine.for_ranges(input.len(), ROWS * size, |elements| {
        // SAFETY: the ranges of different members are disjoint.
        let output = unsafe { output.part_mut(elements.start, elements.len()) };
        engine.kernel(Normalize { epsilon, input: &input[elements], gain, shift, output });
    });
}

/// The gradients of what [`layer_norm`] read.
#[derive(Debug)]
pub struct LayerNormGradients<'a> {
    /// `[rows, size]`
    pub input: &'a mut [f32],
    /// `[size]`
    pub gain: &'a mut [f32],
    /// `[size]`
    pub shift: &'a mut [f32],
}

/// The backward pass of [`layer_norm`]: overwrites `gradients`, given the gradient of its output.
///
/// # Panics
///
/// When the lengths do not fit together.
pub fn layer_norm_backward(
    engine: &Engine,
    epsilon: f32,
    [input, incoming]: [&[f32]; 2],
    gain: &[f32],
    gradients: LayerNormGradients,
) {
    let size = check([input, incoming], gain);
    let LayerNormGradients { input: to_input, gain: to_gain, shift: to_shift } = gradients;
    assert_eq!(to_input.len(), input.len(), "an input of {} and its gradient", input.len());
    let blocks = input.len().div_ceil(ROWS * size);
    // Those of the shift follow those of the gain, a row of both a block.
    let mut partial = engine.scratch(blocks * 2 * size);
    {
        let (to_input, partial) = (SharedSlice::new(to_input), SharedSlice::new(&mut partial));
        engine.for_ranges(input.len(), ROWS * size, |elements| {
            for first in elements.clone().step_by(ROWS * size) {
                let part = first..(first + ROWS * size).min(elements.end);
                // SAFETY: the ranges of different members are disjoint, and cut where blocks are.
                let (to_input, sums) = unsafe {
                    (to_input.part_mut(first, part.len()), partial.part_mut(first / (ROWS * size) * 2 * size, 2 * size))
                };
                let (to_gain, to_shift) = sums.split_at_mut(size);
                let (input, incoming) = (&input[part.clone()], &incoming[part]);
                engine.kernel(NormalizeBack { epsilon, input, incoming, gain, to_input, to_gain, to_shift });
            }
        });
    }
    let mut sums = vec![0.0; 2 * size];
    column_sums(engine, MatRef::row_major(&partial, blocks, 2 * size), &mut sums);
    to_gain.copy_from_slice(&sums[..size]);
    to_shift.copy_from_slice(&sums[size..]);
}

/// Features of a row.
fn check(rows: [&[f32]; 2], gain: &[f32]) -> usize {
    let [first, second] = rows.map(<[f32]>::len);
    assert!(!gain.is_empty(), "rows of no features");
    assert!(
        first == second && first.is_multiple_of(gain.len()),
        "{first} and {second} floats in rows of {}",
        gain.len()
    );
    gain.len()
}

/// Mean and inverse deviation of a row.
#[inline(always)]
fn moments<const W: usize>(row: &[f32], epsilon: f32) -> (f32, f32) {
    let mean = sum::<W>(row, |x| x) / row.len() as f32;
    let variance = sum::<W>(row, |x| (x - mean) * (x - mean)) / row.len() as f32;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// The sum of what `of` makes of each number.
#[inline(always)]
fn sum<const W: usize>(numbers: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (blocks, rest) = numbers.as_chunks::<W>();
    let mut sum = [0.0; W];
    for block in blocks {
        for l in 0..W {
            sum[l] += of(block[l]);
        }
    }
    for (sum, &number) in sum.iter_mut().zip(rest) {
        *sum += of(number);
    }
    tree_sum(sum)
}

struct Normalize<'a> {
    epsilon: f32,
    input: &'a [f32],
    gain: &'a [f32],
    shift: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let size = self.gain.len();
        for (input, output) in self.input.chunks_exact(size).zip(self.output.chunks_exact_mut(size)) {
            let (mean, inverse) = moments::<W>(input, self.epsilon);
            let factors = self.gain.iter().zip(self.shift);
            for ((output, input), (gain, shift)) in output.iter_mut().zip(input).zip(factors) {
                *output = O::mul_add((input - mean) * inverse, *gain, *shift);
            }
        }
    }
}

struct NormalizeBack<'a> {
    epsilon: f32,
    input: &'a [f32],
    incoming: &'a [f32],
    gain: &'a [f32],
    to_input: &'a mut [f32],
    to_gain: &'a mut [f32],
    to_shift: &'a mut [f32],
}

impl Kernel for NormalizeBack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let size = self.gain.len();
        self.to_gain.fill(0.0);
        self.to_shift.fill(0.0);
        let rows = self.input.chunks_exact(size).zip(self.incoming.chunks_exact(size));
        for ((input, incoming), to_input) in rows.zip(self.to_input.chunks_exact_mut(size)) {
            let (mean, inverse) = moments::<W>(input, self.epsilon);
            // What comes to the normalised row, kept where its gradient will be.
            for ((to_input, incoming), gain) in to_input.iter_mut().zip(incoming).zip(self.gain) {
                *to_input = incoming * gain;
            }
            let of_mean = sum::<W>(to_input, |gradient| gradient) / size as f32;
            let mut of_deviation = [0.0; W];
            for (to_input, input) in to_input.chunks(W).zip(input.chunks(W)) {
                for ((sum, gradient), x) in of_deviation.iter_mut().zip(to_input).zip(input) {
                    *sum = O::mul_add(*gradient, (x - mean) * inverse, *sum);
                }
            }
            let of_deviation = tree_sum(of_deviation) / size as f32;
            for i in 0..size {
                let normalized = (input[i] - mean) * inverse;
                to_input[i] = (to_input[i] - of_mean - normalized * of_deviation) * inverse;
                self.to_gain[i] = O::mul_add(incoming[i], normalized, self.to_gain[i]);
                self.to_shift[i] += incoming[i];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Isa;

    const EPSILON: f32 = 1e-5;

    /// Numbers without a pattern.
    fn numbers(len: usize, seed: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * 1.7 + seed).sin() + 0.3).collect()
    }

    /// Output, and gradients of input, gain and shift.
    fn found(engine: &Engine, rows: usize, size: usize) -> [Vec<f32>; 4] {
        let (input, incoming) = (numbers(rows * size, 0.2), numbers(rows * size, 0.8));
        let (gain, shift) = (numbers(size, 0.4), numbers(size, 0.6));
        let mut output = vec![9.0; rows * size];
        layer_norm(engine, EPSILON, &input, &gain, &shift, &mut output);
        let mut gradients = [rows * size, size, size].map(|len| vec![9.0; len]);
        let [to_input, to_gain, to_shift] = &mut gradients;
        let to = LayerNormGradients { input: to_input, gain: to_gain, shift: to_shift };
        layer_norm_backward(engine, EPSILON, [&input, &incoming], &gain, to);
        let [to_input, to_gain, to_shift] = gradients;
        [output, to_input, to_gain, to_shift]
    }

    /// The same by the definition.
    fn expected(rows: usize, size: usize) -> [Vec<f64>; 4] {
        let wide = |numbers: Vec<f32>| numbers.into_iter().map(f64::from).collect::<Vec<_>>();
        let (input, incoming) = (wide(numbers(rows * size, 0.2)), wide(numbers(rows * size, 0.8)));
        let (gain, shift) = (wide(numbers(size, 0.4)), wide(numbers(size, 0.6)));
        let mean = |of: &dyn Fn(usize) -> f64| (0..size).map(of).sum::<f64>() / size as f64;
        let [mut output, mut to_input] = [0; 2].map(|_| vec![0.0; rows * size]);
        let [mut to_gain, mut to_shift] = [0; 2].map(|_| vec![0.0; size]);
        for row in 0..rows {
            let x = |i: usize| input[row * size + i];
            let center = mean(&x);
            let deviation = (mean(&|i| (x(i) - center).powi(2)) + f64::from(EPSILON)).sqrt();
            let normalized = |i: usize| (x(i) - center) / deviation;
            let gradient = |i: usize| incoming[row * size + i] * gain[i];
            let of_deviation = mean(&|i| gradient(i) * normalized(i));
            for i in 0..size {
                output[row * size + i] = normalized(i) * gain[i] + shift[i];
                to_input[row * size + i] = (gradient(i) - mean(&gradient) - normalized(i) * of_deviation) / deviation;
                to_gain[i] += incoming[row * size + i] * normalized(i);
                to_shift[i] += incoming[row * size + i];
            }
        }
        [output, to_input, to_gain, to_shift]
    }

    #[test]
    fn output_and_gradients_are_those_of_the_definition_for_any_number_of_threads() {
        for (rows, size) in [(0, 3), (1, 1), (3, 2), (65, 17), (129, 216), (1000, 33)] {
            let expected = expected(rows, size);
            for isa in Isa::supported() {
                let one = found(&Engine::new(isa, 1).unwrap(), rows, size);
                for (part, (found, expected)) in one.iter().zip(&expected).enumerate() {
                    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                        let error = (f64::from(*found) - expected).abs();
                        let allowed = 2e-5 * expected.abs().max(1.0);
                        let at = format!("{isa} {rows} rows of {size}, part {part} [{i}]");
                        assert!(error <= allowed, "{at}: {found}, expected {expected}");
                    }
                }
                let three = found(&Engine::new(isa, 3).unwrap(), rows, size);
                let bits =
                    |parts: [Vec<f32>; 4]| parts.map(|part| part.into_iter().map(f32::to_bits).collect::<Vec<_>>());
                assert_eq!(bits(one), bits(three), "{isa} {rows} rows of {size}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "7 and 7 floats in rows of 2")]
    fn lengths_must_fit() {
        let engine = Engine::new(Isa::Portable, 1).unwrap();
        layer_norm(&engine, EPSILON, &[0.0; 7], &[1.0; 2], &[0.0; 2], &mut [0.0; 7]);
    }
}
