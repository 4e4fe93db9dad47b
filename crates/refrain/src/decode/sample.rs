//! From scores to a token: filters one after another, then one draw.

use crate::random::Random;

/// How the next token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Divides the scores: below 1 safer, above 1 wilder, 0 always the likeliest token.
    pub temperature: f64,
    /// Draw among the `k` likeliest tokens only.
    pub top_k: Option<usize>,
}

impl Sampler {
    /// The probabilities that [`Sampler::draw`] draws from: `softmax(top_k(scores / temperature))`, `forbidden` at 0.
    ///
    /// Equal scores are ranked by token, the lower first.
    pub fn probabilities(&self, scores: &[f32], forbidden: &[u32]) -> Vec<f64> {
        let mut scores: Vec<f64> = scores.iter().map(|&score| f64::from(score)).collect();
        for &token in forbidden {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = f64::NEG_INFINITY;
            }
        }
        if self.temperature > 0.0 {
            for score in &mut scores {
                *score /= self.temperature;
            }
            keep_top(&mut scores, self.top_k.unwrap_or(usize::MAX));
        } else {
            keep_top(&mut scores, 1);
        }
        softmax(&mut scores);
        scores
    }

    /// Draws a token; consumes one number of `random`.
    pub fn draw(&self, scores: &[f32], forbidden: &[u32], random: &mut Random) -> u32 {
        let probabilities = self.probabilities(scores, forbidden);
        let mut left = random.uniform();
        let mut drawn = 0;
        for (token, &probability) in probabilities.iter().enumerate() {
            if probability > 0.0 {
                drawn = token;
                if left < probability {
                    break;
                }
                left -= probability;
            }
        }
        // Where rounding leaves the sum a hair below 1, the last possible token stands.
        drawn as u32
    }
}

/// Sets all but the `count` highest scores to minus infinity.
fn keep_top(scores: &mut [f64], count: usize) {
    if count >= scores.len() {
        return;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let by_score = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    order.select_nth_unstable_by(count, by_score);
    for &token in &order[count..] {
        scores[token] = f64::NEG_INFINITY;
    }
}

fn softmax(scores: &mut [f64]) {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for score in scores.iter_mut() {
        *score = (*score - highest).exp();
    }
    let sum: f64 = scores.iter().sum();
    for score in scores.iter_mut() {
        *score /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    const SCORES: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    fn sampler(temperature: f64, top_k: Option<usize>) -> Sampler {
        Sampler { temperature, top_k }
    }

    #[test]
    fn probabilities_sum_to_one_under_every_filter() {
        for temperature in [0.0, 0.1, 0.8, 1.0, 5.0] {
            for top_k in [None, Some(1), Some(3), Some(5), Some(100)] {
                let sum: f64 = sampler(temperature, top_k).probabilities(&SCORES, &[1]).iter().sum();
                assert!((sum - 1.0).abs() < 1e-12, "{temperature} {top_k:?}: {sum}");
            }
        }
    }

    #[test]
    fn temperature_divides_the_scores() {
        let probabilities = sampler(0.5, None).probabilities(&SCORES, &[]);
        assert!((probabilities[1] / probabilities[2] - 2.0f64.exp()).abs() < 1e-9);
    }

    #[test]
    fn top_k_keeps_exactly_k_and_ranks_ties_by_token() {
        let kept = |k| {
            let probabilities = sampler(1.0, Some(k)).probabilities(&SCORES, &[]);
            (0..5).filter(|&token| probabilities[token] > 0.0).collect::<Vec<_>>()
        };
        assert_eq!(kept(1), [1]);
        assert_eq!(kept(2), [1, 3]);
        assert_eq!(kept(3), [1, 2, 3]);
    }

    #[test]
    fn temperature_zero_is_greedy() {
        let mut random = Random::new(1, Purpose::Sampling, 0);
        assert!((0..50).all(|_| sampler(0.0, None).draw(&SCORES, &[], &mut random) == 1));
    }

    #[test]
    fn forbidden_tokens_are_never_drawn_and_frequencies_follow_probabilities() {
        let sampler = sampler(1.0, None);
        let probabilities = sampler.probabilities(&SCORES, &[1]);
        let mut random = Random::new(1, Purpose::Sampling, 0);
        let mut counts = [0.0f64; 5];
        for _ in 0..20_000 {
            counts[sampler.draw(&SCORES, &[1], &mut random) as usize] += 1.0 / 20_000.0;
        }
        assert!(counts[1] == 0.0);
        for (count, probability) in counts.iter().zip(&probabilities) {
            assert!((count - probability).abs() < 0.015, "{counts:?} against {probabilities:?}");
        }
    }
}
