//! What happens to the scores of some queries: weights of them, and gradients.

use crate::activation::exp_lane;
use crate::arch::{Kernel, MulAdd};
use crate::row_dot::tree_sum;

/// Which keys some queries, one after the other, may see.
#[derive(Clone, Copy)]
pub(super) struct Visible<'a> {
    /// Scores of a query.
    pub(super) keys: usize,
    /// How many keys, from the first on, the first query may see; each further one may see one more.
    pub(super) of_first: usize,
    /// Of those, the ones that no query may see.
    pub(super) hidden: Option<&'a [bool]>,
}

impl Visible<'_> {
    /// Scores of one query, as far as it may see; of hidden keys they become such that no weight is left.
    #[inline(always)]
    fn cover(&self, query: usize, scores: &mut [f32]) -> usize {
        let visible = (self.of_first + query).min(self.keys);
        if let Some(hidden) = self.hidden {
            for (score, &hidden) in scores.iter_mut().zip(hidden) {
                *score = if hidden { f32::NEG_INFINITY } else { *score };
            }
        }
        visible
    }
}

/// Scores `[queries, keys]` become weights, those of a query with sum 1, or 0 where it may see none.
pub(super) struct Softmax<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) visible: Visible<'a>,
    /// The logarithm of each query's divisor; infinite where it may see no key.
    pub(super) log_sums: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let rows = self.scores.chunks_exact_mut(self.visible.keys);
        for (query, (scores, log_sum)) in rows.zip(self.log_sums).enumerate() {
            let visible = self.visible.cover(query, scores);
            let (scores, unseen) = scores.split_at_mut(visible);
            unseen.fill(0.0);
            let highest = highest::<W>(scores);
            let sum = exponentials::<W, O>(scores, highest);
            *log_sum = if sum > 0.0 { highest + sum.ln() } else { f32::INFINITY };
            let inverse = if sum > 0.0 { 1.0 / sum } else { 0.0 };
            for weight in scores {
                *weight *= inverse;
            }
        }
    }
}

/// Scores `[queries, keys]` become the weights of [`Softmax`], whose divisors are known.
pub(super) struct WeightsAgain<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) visible: Visible<'a>,
    pub(super) log_sums: &'a [f32],
}

impl Kernel for WeightsAgain<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let rows = self.scores.chunks_exact_mut(self.visible.keys);
        for (query, (scores, &log_sum)) in rows.zip(self.log_sums).enumerate() {
            let visible = self.visible.cover(query, scores);
            let (scores, unseen) = scores.split_at_mut(visible);
            unseen.fill(0.0);
            for score in scores {
                *score = exp_lane::<O>(*score - log_sum);
            }
        }
    }
}

/// Gradients of one query's weights become those of its scores: `w ∘ (g - Σ w g)`, that sum being the product of the output and its
/// gradient.
pub(super) struct ScoreGradients<'a> {
    pub(super) weights: &'a [f32],
    pub(super) output: &'a [f32],
    pub(super) incoming: &'a [f32],
    pub(super) gradients: &'a mut [f32],
}

impl Kernel for ScoreGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let mean = dot::<W, O>(self.output, self.incoming);
        for (gradient, weight) in self.gradients.iter_mut().zip(self.weights) {
            // What is not seen takes no part, not even by what is no number.
            *gradient = if *weight == 0.0 { 0.0 } else { weight * (*gradient - mean) };
        }
    }
}

/// The highest of some numbers; finite where all are -∞.
#[inline(always)]
fn highest<const W: usize>(numbers: &[f32]) -> f32 {
    let (blocks, rest) = numbers.as_chunks::<W>();
    let mut highest = [f32::MIN; W];
    for block in blocks {
        for l in 0..W {
            highest[l] = if block[l] > highest[l] { block[l] } else { highest[l] };
        }
    }
    rest.iter().chain(&highest).copied().fold(f32::MIN, f32::max)
}

/// Each number becomes the exponential of what it is above `highest`, and the sum of all comes back.
#[inline(always)]
fn exponentials<const W: usize, O: MulAdd>(numbers: &mut [f32], highest: f32) -> f32 {
    let mut sum = [0.0; W];
    let (blocks, rest) = numbers.as_chunks_mut::<W>();
    for block in blocks {
        for l in 0..W {
            block[l] = exp_lane::<O>(block[l] - highest);
            sum[l] += block[l];
        }
    }
    // A vector of the last ones too, for one at a time would take as long as many vectors.
    let mut last = [f32::NEG_INFINITY; W];
    last[..rest.len()].copy_from_slice(rest);
    for l in 0..W {
        last[l] = exp_lane::<O>(last[l] - highest);
        sum[l] += last[l];
    }
    rest.copy_from_slice(&last[..rest.len()]);
    tree_sum(sum)
}

/// The sum of products.
#[inline(always)]
fn dot<const W: usize, O: MulAdd>(a: &[f32], b: &[f32]) -> f32 {
    let ((a_blocks, a_rest), (b_blocks, b_rest)) = (a.as_chunks::<W>(), b.as_chunks::<W>());
    let mut sum = [0.0; W];
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for l in 0..W {
            sum[l] = O::mul_add(a[l], b[l], sum[l]);
        }
    }
    for ((sum, a), b) in sum.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = O::mul_add(*a, *b, *sum);
    }
    tree_sum(sum)
}
