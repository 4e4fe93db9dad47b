//! From scores to probabilities, in `f64`.

/// `ln Σ exp(score)`; the scores may be minus infinity, but not all of them.
pub(super) fn log_sum_exp(scores: impl Iterator<Item = f64> + Clone) -> f64 {
    let highest = scores.clone().fold(f64::NEG_INFINITY, f64::max);
    highest + scores.map(|score| (score - highest).exp()).sum::<f64>().ln()
}

/// `exp(score) / Σ exp(score)`, in place.
pub(super) fn softmax(scores: &mut [f64]) {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for score in scores.iter_mut() {
        *score = (*score - highest).exp();
    }
    let sum: f64 = scores.iter().sum();
    for score in scores.iter_mut() {
        *score /= sum;
    }
}

/// `ln P(token)` under the model's own scores, in nats.
pub(super) fn log_probability(scores: &[f32], token: u32) -> f64 {
    f64::from(scores[token as usize]) - log_sum_exp(scores.iter().map(|&score| f64::from(score)))
}
