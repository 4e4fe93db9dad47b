//! Sampling: one token after another, in constant time each.

use super::decoder::{Decoder, select_rows};
use super::filters::Filters;
use super::history::History;
use super::probability::{log_probability, softmax};
use super::texts::TokenStreams;
use crate::random::{Purpose, Random};

/// Endless streams of tokens that continue a prompt, side by side.
///
/// A stream's tokens depend on the model, the prompt, the filters, the seed and the sample's number alone: sample 2 of 5 is
/// sample 2 of 3, and is the same when it is drawn alone. The unknown token is never drawn.
#[derive(Debug)]
pub struct Streams<'a, D: Decoder> {
    decoder: &'a D,
    filters: &'a Filters,
    state: D::State,
    drawn: Vec<Stream>,
    /// The scores that the last tokens were drawn from, or before them the first will be, `[streams, vocab_size]`.
    scores: Vec<f32>,
    /// The last tokens, not yet read.
    pending: Option<Vec<u32>>,
    /// Room for the filtered scores of one stream.
    filtered: Vec<f64>,
}

#[derive(Debug)]
struct Stream {
    random: Random,
    history: History,
}

impl<'a, D: Decoder> Streams<'a, D> {
    /// Continues `prompt` (at least one token) by one stream for each number in `samples`.
    ///
    /// # Panics
    /// If the prompt is empty.
    pub fn new(
        decoder: &'a D,
        prompt: &[u32],
        filters: &'a Filters,
        seed: u64,
        samples: impl IntoIterator<Item = u64>,
    ) -> Self {
        assert!(!prompt.is_empty(), "generation continues a prompt of at least one token");
        let history = History::new(prompt, decoder.vocab_size());
        let stream = |sample| Stream { random: Random::new(seed, Purpose::Sampling, sample), history: history.clone() };
        let streams: Vec<Stream> = samples.into_iter().map(stream).collect();
        let (mut state, scores) = decoder.start(&[prompt]);
        decoder.reorder(&vec![0; streams.len()], &mut state);
        let scores = scores.repeat(streams.len());
        Self { decoder, filters, state, drawn: streams, scores, pending: None, filtered: Vec::new() }
    }
}

impl<D: Decoder> TokenStreams for Streams<'_, D> {
    fn num_streams(&self) -> usize {
        self.drawn.len()
    }

    fn keep(&mut self, kept: &[usize]) {
        self.decoder.reorder(kept, &mut self.state);
        self.scores = select_rows(&self.scores, self.decoder.vocab_size(), kept);
        if let Some(pending) = &mut self.pending {
            *pending = kept.iter().map(|&place| pending[place]).collect();
        }
        let mut place = 0..;
        self.drawn.retain(|_| place.next().is_some_and(|place| kept.binary_search(&place).is_ok()));
    }

    fn log_probabilities(&self) -> Vec<f64> {
        let scores = self.scores.chunks_exact(self.decoder.vocab_size());
        let tokens = self.pending.iter().flatten();
        tokens.zip(scores).map(|(&token, scores)| log_probability(scores, token)).collect()
    }
}

impl<D: Decoder> Iterator for Streams<'_, D> {
    /// The next token of each stream.
    type Item = Vec<u32>;

    fn next(&mut self) -> Option<Vec<u32>> {
        if let Some(pending) = self.pending.take() {
            self.scores = self.decoder.advance(&pending, &mut self.state);
        }
        let scores = self.scores.chunks_exact(self.decoder.vocab_size());
        let tokens: Vec<u32> = scores
            .zip(&mut self.drawn)
            .map(|(scores, stream)| {
                self.filters.apply(scores, &stream.history, &mut self.filtered);
                let token = draw(&mut self.filtered, &mut stream.random);
                stream.history.push(token);
                token
            })
            .collect();
        self.pending = Some(tokens.clone());
        Some(tokens)
    }
}

/// Draws a token by the softmax of scores, which become probabilities; consumes one number of `random`.
pub(crate) fn draw(scores: &mut [f64], random: &mut Random) -> u32 {
    softmax(scores);
    let mut left = random.uniform();
    let mut drawn = 0;
    for (token, &probability) in scores.iter().enumerate() {
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::decode::filters::{NoRepeat, RepetitionPenalty, Temperature, TopK, TopP};
    use crate::models::{LanguageModelConfig, LanguageModelStepper};

    fn stepper() -> LanguageModelStepper {
        let config = LanguageModelConfig { embedding_size: 12, hidden_size: 40.into(), ..Default::default() };
        LanguageModelStepper::new(&config.init(30, 5, &Device::flex()))
    }

    #[test]
    fn a_sample_is_the_same_alone_and_beside_others_that_end() {
        let stepper = stepper();
        let filters = Filters::new().with(RepetitionPenalty(1.2)).with(NoRepeat(3)).with(TopP(0.9));
        let streams = |samples: Vec<u64>| Streams::new(&stepper, &[3, 4], &filters, 9, samples);
        let mut together = streams((0..21).collect());
        let mut written: Vec<Vec<(u32, u64)>> = vec![Vec::new(); 21];
        let mut kept: Vec<usize> = (0..21).collect();
        for step in 0..30 {
            let tokens = together.next().unwrap();
            let log_probabilities = together.log_probabilities();
            for ((&sample, token), log_probability) in kept.iter().zip(tokens).zip(log_probabilities) {
                written[sample].push((token, log_probability.to_bits()));
            }
            if step % 7 == 3 {
                let places: Vec<usize> = (0..kept.len()).filter(|place| place % 3 != 1).collect();
                together.keep(&places);
                kept = places.iter().map(|&place| kept[place]).collect();
            }
        }
        for sample in [0, 5, 20] {
            let mut alone = streams(vec![sample as u64]);
            for (step, &(token, log_probability)) in written[sample].iter().enumerate() {
                assert_eq!(alone.next(), Some(vec![token]), "sample {sample}, step {step}");
                assert_eq!(alone.log_probabilities()[0].to_bits(), log_probability);
            }
        }
        assert_eq!(written[0].len(), 30);
    }

    #[test]
    fn drawn_tokens_follow_the_distribution() {
        /// The 0.999 quantile of chi-squared with 19 degrees of freedom.
        const LIMIT: f64 = 43.82;
        const DRAWS: usize = 40_000;
        let mut numbers = Random::new(3, Purpose::Initialisation, 0);
        let scores: Vec<f32> = (0..30).map(|_| 1.5 * numbers.normal() as f32).collect();
        let history = History::new(&[1], 30);
        let filters = Filters::new().with(Temperature(0.9)).with(TopK(20));
        let probabilities = filters.probabilities(&scores, &history);
        let mut counts = [0.0f64; 30];
        for sample in 0..DRAWS {
            let mut filtered = Vec::new();
            filters.apply(&scores, &history, &mut filtered);
            // As many streams: neighbouring ones must be independent too.
            counts[draw(&mut filtered, &mut Random::new(1, Purpose::Sampling, sample as u64)) as usize] += 1.0;
        }
        let mut statistic = 0.0;
        for (count, probability) in counts.iter().zip(&probabilities) {
            let expected = probability * DRAWS as f64;
            if expected > 0.0 {
                assert!(expected > 5.0, "enough for the approximation: {expected}");
                statistic += (count - expected).powi(2) / expected;
            } else {
                assert!(*count == 0.0);
            }
        }
        assert!(statistic < LIMIT, "{statistic}");
    }

    #[test]
    fn log_probabilities_are_the_models_own() {
        let stepper = stepper();
        let filters = Filters::new().with(Temperature(0.0));
        let mut streams = Streams::new(&stepper, &[3], &filters, 1, [0]);
        assert!(streams.log_probabilities().is_empty());
        let token = streams.next().unwrap()[0] as usize;
        let (_, scores) = stepper.start(&[&[3]]);
        let sum: f64 = scores.iter().map(|&score| f64::from(score).exp()).sum();
        let expected = f64::from(scores[token]) - sum.ln();
        assert!((streams.log_probabilities()[0] - expected).abs() < 1e-12);
    }
}
