//! Generation: one token after another, in constant time and memory each.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::sample::Sampler;
use crate::models::{LanguageModel, LanguageModelState};
use crate::random::{Purpose, Random};
use crate::text::Vocabulary;

/// An endless stream of tokens that continue a prompt.
///
/// The tokens depend on the model, the prompt, the sampler, the seed and the sample's number alone: sample 2 of 5 is
/// sample 2 of 3. The unknown token is never drawn.
#[derive(Debug)]
pub struct Generation<'a> {
    model: &'a LanguageModel,
    device: Device,
    sampler: Sampler,
    random: Random,
    state: Option<LanguageModelState>,
    pending: Vec<u32>,
}

impl<'a> Generation<'a> {
    /// Continues `prompt` (at least one token) by `model`, which must not carry autodiff.
    ///
    /// # Panics
    /// If the prompt is empty.
    pub fn new(model: &'a LanguageModel, prompt: Vec<u32>, sampler: Sampler, seed: u64, sample: u64) -> Self {
        assert!(!prompt.is_empty(), "generation continues a prompt of at least one token");
        Self {
            model,
            device: model.head.weight.val().device(),
            sampler,
            random: Random::new(seed, Purpose::Sampling, sample),
            state: None,
            pending: prompt,
        }
    }
}

impl Iterator for Generation<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let tokens: Vec<i32> = self.pending.drain(..).map(|token| token as i32).collect();
        let len = tokens.len();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, len]), &self.device);
        let (logits, state) = self.model.next_logits(tokens, self.state.take());
        self.state = Some(state);
        let scores = logits.into_data().try_into_vec::<f32>().expect("scores are f32");
        let token = self.sampler.draw(&scores, &[Vocabulary::UNKNOWN], &mut self.random);
        self.pending.push(token);
        Some(token)
    }
}
