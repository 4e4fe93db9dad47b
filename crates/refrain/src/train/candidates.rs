//! Sampled softmax: which tokens the softmax of a window is over.

use crate::models::Candidates;
use crate::random::{Purpose, Random};

/// Draws the candidates of every window of training.
///
/// The targets of a window are candidates, and every other token is one with a probability of its own, drawn alone: in
/// proportion to how often it is in the training text, and at most 1. A token counts as once more than it is there, so that
/// those which the text does not have are learned to be improbable.
#[derive(Debug)]
pub(crate) struct CandidateSampler {
    /// By id: how likely it is drawn.
    drawn: Vec<f64>,
    /// By id: its share of the training text.
    shares: Vec<f64>,
}

impl CandidateSampler {
    /// For windows of these tokens; about `samples` of the vocabulary are drawn for each.
    pub(crate) fn new(tokens: &[u32], vocab_size: usize, samples: usize) -> Self {
        let mut counts = vec![1.0; vocab_size];
        for &token in tokens {
            counts[token as usize] += 1.0;
        }
        let total = (tokens.len() + vocab_size) as f64;
        let shares: Vec<f64> = counts.into_iter().map(|count| count / total).collect();
        let scale = scale(&shares, samples);
        Self { drawn: shares.iter().map(|share| (scale * share).min(1.0)).collect(), shares }
    }

    /// The candidates of window number `index` of training with these targets.
    ///
    /// The targets of other places are negatives like those that are drawn. Their number is that of draws from the text, so a
    /// token of share p and drawn with probability π is a candidate of each place with 1 − (1 − π) (1 − p)^(n − 1).
    pub(crate) fn draw(&self, targets: &[u32], seed: u64, index: u64) -> Candidates {
        let mut is_target = vec![false; self.shares.len()];
        for &target in targets {
            is_target[target as usize] = true;
        }
        let others = targets.len().saturating_sub(1) as f64;
        let mut random = Random::new(seed, Purpose::Candidates, index);
        let mut candidates = Candidates::default();
        for (id, is_target) in is_target.into_iter().enumerate() {
            // A number for every token, whatever the targets are.
            let is_drawn = random.uniform() < self.drawn[id];
            if is_drawn || is_target {
                let left_out = (1.0 - self.drawn[id]) * (others * (-self.shares[id]).ln_1p()).exp();
                candidates.ids.push(id as u32);
                candidates.corrections.push(-(-left_out).ln_1p() as f32);
            }
        }
        candidates
    }
}

/// What shares are multiplied by so that, none above 1, they sum to `samples`; infinite where all are 1.
fn scale(shares: &[f64], samples: usize) -> f64 {
    let mut sorted = shares.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let mut left: f64 = sorted.iter().sum();
    for (certain, share) in sorted.into_iter().enumerate() {
        let scale = samples.saturating_sub(certain) as f64 / left;
        if scale * share <= 1.0 {
            return scale;
        }
        left -= share;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text of `vocab_size` tokens, the first ones more frequent, and the last ones not there.
    fn text(vocab_size: u32) -> Vec<u32> {
        let present = vocab_size - vocab_size / 10;
        (0..present).flat_map(|token| std::iter::repeat_n(token, (400 / (token + 10)) as usize)).collect()
    }

    #[test]
    fn as_many_are_drawn_as_asked_for() {
        let tokens = text(200);
        for samples in [1, 17, 100, 199] {
            let sampler = CandidateSampler::new(&tokens, 200, samples);
            let sum: f64 = sampler.drawn.iter().sum();
            assert!((sum - samples as f64).abs() < 1e-9, "{sum} is not {samples}");
            assert!(sampler.drawn.iter().all(|drawn| *drawn > 0.0 && *drawn <= 1.0), "{:?}", sampler.drawn);
            assert!(sampler.drawn.is_sorted_by(|a, b| a >= b), "{:?}", sampler.drawn);
        }
    }

    #[test]
    fn with_room_for_all_of_them_nothing_is_drawn_or_corrected() {
        for samples in [200, 1000] {
            let candidates = CandidateSampler::new(&text(200), 200, samples).draw(&[3, 3, 199], 1, 0);
            assert_eq!(candidates.ids, (0..200).collect::<Vec<u32>>());
            assert!(candidates.corrections.iter().all(|correction| *correction == 0.0));
        }
    }

    #[test]
    fn targets_are_candidates_and_found_again() {
        let sampler = CandidateSampler::new(&text(200), 200, 10);
        let targets = [199, 0, 42, 199];
        let candidates = sampler.draw(&targets, 7, 3);
        assert!(candidates.ids.is_sorted_by(|a, b| a < b), "{:?}", candidates.ids);
        let found: Vec<u32> =
            candidates.places(&targets).into_iter().map(|place| candidates.ids[place as usize]).collect();
        assert_eq!(found, targets);
        assert_eq!(sampler.draw(&targets, 7, 3), candidates);
        assert_ne!(sampler.draw(&targets, 7, 4), candidates);
        assert_ne!(sampler.draw(&targets, 8, 3), candidates);
    }

    /// What makes the method right: weighted by what the correction says, the candidates of a place are on average the whole
    /// vocabulary, its own target apart.
    #[test]
    fn corrections_are_how_often_a_token_is_a_candidate() {
        const WINDOWS: u64 = 20_000;
        const VOCAB_SIZE: usize = 60;
        let tokens = text(VOCAB_SIZE as u32);
        let sampler = CandidateSampler::new(&tokens, VOCAB_SIZE, 12);
        let mut weights = [0.0; VOCAB_SIZE];
        let own = VOCAB_SIZE as u32 - 1;
        for index in 0..WINDOWS {
            let mut random = Random::new(5, Purpose::Sampling, index);
            let mut targets = vec![own];
            targets.extend((0..20).map(|_| {
                let mut left = random.uniform();
                let found = sampler.shares.iter().position(|share| {
                    left -= share;
                    left < 0.0
                });
                found.unwrap_or_default() as u32
            }));
            let candidates = sampler.draw(&targets, 5, index);
            for (id, correction) in candidates.ids.into_iter().zip(candidates.corrections) {
                weights[id as usize] += f64::from(correction.exp()) / WINDOWS as f64;
            }
        }
        for (id, weight) in weights[..own as usize].iter().enumerate() {
            assert!((weight - 1.0).abs() < 0.12, "{id}: {weight}");
        }
    }
}
