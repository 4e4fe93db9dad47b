//! Generation: one token after another, in constant time and memory each.

use super::sample::Sampler;
use crate::models::{LanguageModelStepper, StepperState};
use crate::random::{Purpose, Random};
use crate::text::Vocabulary;

/// Endless streams of tokens that continue a prompt, side by side.
///
/// A stream's tokens depend on the model, the prompt, the sampler, the seed and the sample's number alone: sample 2 of 5 is
/// sample 2 of 3, and is the same when it is drawn alone. The unknown token is never drawn.
#[derive(Debug)]
pub struct Streams<'a> {
    stepper: &'a LanguageModelStepper,
    state: StepperState,
    sampler: Sampler,
    randoms: Vec<Random>,
    /// The scores that the next tokens are drawn from, `[streams, vocab_size]`.
    scores: Vec<f32>,
    /// The last tokens, not yet read.
    pending: Option<Vec<u32>>,
}

impl<'a> Streams<'a> {
    /// Continues `prompt` (at least one token) by one stream for each number in `samples`.
    ///
    /// # Panics
    /// If the prompt is empty.
    pub fn new(
        stepper: &'a LanguageModelStepper,
        prompt: &[u32],
        sampler: Sampler,
        seed: u64,
        samples: impl IntoIterator<Item = u64>,
    ) -> Self {
        assert!(!prompt.is_empty(), "generation continues a prompt of at least one token");
        let randoms: Vec<Random> =
            samples.into_iter().map(|sample| Random::new(seed, Purpose::Sampling, sample)).collect();
        let mut state = stepper.state(randoms.len());
        let mut scores = Vec::new();
        for &token in prompt {
            scores = stepper.step(&vec![token; randoms.len()], &mut state);
        }
        Self { stepper, state, sampler, randoms, scores, pending: None }
    }
}

impl Iterator for Streams<'_> {
    /// The next token of each stream.
    type Item = Vec<u32>;

    fn next(&mut self) -> Option<Vec<u32>> {
        if let Some(pending) = self.pending.take() {
            self.scores = self.stepper.step(&pending, &mut self.state);
        }
        let scores = self.scores.chunks_exact(self.stepper.vocab_size());
        let tokens: Vec<u32> = scores
            .zip(&mut self.randoms)
            .map(|(scores, random)| self.sampler.draw(scores, &[Vocabulary::UNKNOWN], random))
            .collect();
        self.pending = Some(tokens.clone());
        Some(tokens)
    }
}

/// One endless stream of tokens that continue a prompt: see [`Streams`].
#[derive(Debug)]
pub struct Generation<'a>(Streams<'a>);

impl<'a> Generation<'a> {
    /// Continues `prompt` (at least one token).
    ///
    /// # Panics
    /// If the prompt is empty.
    pub fn new(stepper: &'a LanguageModelStepper, prompt: &[u32], sampler: Sampler, seed: u64, sample: u64) -> Self {
        Self(Streams::new(stepper, prompt, sampler, seed, [sample]))
    }
}

impl Iterator for Generation<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.0.next()?.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::models::LanguageModelConfig;

    #[test]
    fn a_sample_is_the_same_alone_and_beside_others() {
        let config = LanguageModelConfig { embedding_size: 12, hidden_size: 40, ..Default::default() };
        let stepper = LanguageModelStepper::new(&config.init(30, 5, &Device::flex()));
        let sampler = Sampler { temperature: 1.0, top_k: None };
        let together: Vec<Vec<u32>> = Streams::new(&stepper, &[3, 4], sampler, 9, 0..21).take(30).collect();
        for sample in [0, 5, 20] {
            let alone: Vec<u32> = Generation::new(&stepper, &[3, 4], sampler, 9, sample).take(30).collect();
            let beside: Vec<u32> = together.iter().map(|tokens| tokens[sample as usize]).collect();
            assert_eq!(alone, beside, "sample {sample}");
        }
    }
}
