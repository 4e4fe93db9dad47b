//! A language model one token at a time, its weights prepared once.

use refrain_kernels::{Engine, Precision, StepInput, StepMatrix, StepWeights, WeightFormat};

use super::artefact::Dtype;
use super::language_model::LanguageModel;
use crate::nn::{RecurrentState, values};

/// Steps a language model for one stream or many; a stream's scores do not depend on those beside it, not by a bit.
#[derive(Clone, Debug)]
pub struct LanguageModelStepper {
    /// `[vocab_size, embedding_size]`, if the lowest layer's weights are not for tokens.
    embedding: Option<Vec<f32>>,
    /// From the lowest up.
    layers: Vec<StepWeights>,
    head: StepMatrix,
    head_bias: Vec<f32>,
}

/// What a stepper remembers of some streams.
#[derive(Clone, Debug, PartialEq)]
pub struct StepperState {
    /// By layer: hidden and cell state, `[streams, hidden_size]`, the latter empty for cells without.
    layers: Vec<[Vec<f32>; 2]>,
    streams: usize,
}

impl StepperState {
    /// How many streams it is of.
    pub fn streams(&self) -> usize {
        self.streams
    }

    /// The state whose stream `i` is stream `from[i]` of this one. Streams may be repeated, and left out.
    ///
    /// # Panics
    /// If there is no such stream.
    #[must_use]
    pub fn select(&self, from: &[usize]) -> Self {
        let rows = |values: &Vec<f32>| {
            let size = values.len().checked_div(self.streams).unwrap_or(0);
            from.iter().flat_map(|&stream| &values[stream * size..(stream + 1) * size]).copied().collect()
        };
        Self { layers: self.layers.iter().map(|layer| layer.each_ref().map(rows)).collect(), streams: from.len() }
    }

    /// Adds the streams of `other` after those that are there.
    ///
    /// # Panics
    /// If it is not of as many layers.
    pub fn append(&mut self, other: Self) {
        assert_eq!(other.layers.len(), self.layers.len(), "a state of as many layers");
        for (layer, more) in self.layers.iter_mut().zip(other.layers) {
            for (values, more) in layer.iter_mut().zip(more) {
                values.extend(more);
            }
        }
        self.streams += other.streams;
    }
}

impl LanguageModelStepper {
    /// The model's weights as it has them: in eight bits, or in its own precision.
    pub fn new(model: &LanguageModel) -> Self {
        let format = match (model.weights(), model.head.precision) {
            (Dtype::I8, _) => WeightFormat::Int8,
            (Dtype::F32, Precision::F32) => WeightFormat::F32,
            (Dtype::F32, Precision::Bf16) => WeightFormat::Bf16,
        };
        Self::with_format(model, format)
    }

    /// The model's weights in another format. Embeddings stay as they are: a token reads one row of them. Where there are no
    /// more tokens than features, their products with the lowest layer's weights are computed here, once for all steps.
    pub fn with_format(model: &LanguageModel, format: WeightFormat) -> Self {
        let (head, head_bias) = model.head.step_matrix(format);
        let [vocab_size, embedding_size] = model.embedding.weight.dims();
        let embedding = values(model.embedding.weight.val());
        let for_tokens = vocab_size <= embedding_size;
        let layers = model.recurrent.layers.iter().enumerate();
        Self {
            layers: layers
                .map(|(index, layer)| layer.step_weights(format, (for_tokens && index == 0).then_some(&embedding)))
                .collect(),
            embedding: (!for_tokens).then_some(embedding),
            head,
            head_bias,
        }
    }

    /// Weights that every step reads.
    pub fn num_weights(&self) -> usize {
        self.layers.iter().map(StepWeights::num_weights).sum::<usize>() + self.head.rows() * self.head.cols()
    }

    /// Tokens that the model knows.
    pub fn vocab_size(&self) -> usize {
        self.head.rows()
    }

    /// The state of `streams` streams before their first token.
    pub fn state(&self, streams: usize) -> StepperState {
        let layer = |weights: &StepWeights| {
            let hidden = vec![0.0; streams * weights.hidden_size()];
            let cell_state = if weights.cell().has_cell_state() { hidden.clone() } else { Vec::new() };
            [hidden, cell_state]
        };
        StepperState { layers: self.layers.iter().map(layer).collect(), streams }
    }

    /// The state that a pass over whole sequences has come to.
    ///
    /// # Panics
    /// If it is not of as many layers.
    pub fn state_of(&self, state: &[RecurrentState]) -> StepperState {
        assert_eq!(state.len(), self.layers.len(), "a state of as many layers");
        let layer = |state: &RecurrentState| {
            [values(state.hidden.clone()), state.cell_state.clone().map(values).unwrap_or_default()]
        };
        let streams = state.first().map_or(0, |state| state.hidden.dims()[0]);
        StepperState { layers: state.iter().map(layer).collect(), streams }
    }

    /// Reads one token of each stream: the scores of those that may follow, `[streams, vocab_size]`.
    ///
    /// # Panics
    /// If there is not one token a stream, or one is none of the vocabulary.
    pub fn step(&self, tokens: &[u32], state: &mut StepperState) -> Vec<f32> {
        assert_eq!(tokens.len(), state.streams, "tokens for {} streams", state.streams);
        let engine = Engine::current();
        for &token in tokens {
            assert!((token as usize) < self.vocab_size(), "token {token} of a vocabulary of {}", self.vocab_size());
        }
        let embedded = self.embedding.as_ref().map(|embedding| {
            let size = embedding.len() / self.vocab_size();
            tokens.iter().flat_map(|&token| &embedding[token as usize * size..][..size]).copied().collect::<Vec<f32>>()
        });
        let mut input = embedded.as_ref().map_or(StepInput::Tokens(tokens), |embedded| StepInput::Features(embedded));
        for (weights, [hidden, cell_state]) in self.layers.iter().zip(&mut state.layers) {
            weights.step(&engine, input, hidden, cell_state);
            input = StepInput::Features(hidden);
        }
        let [features, _] = state.layers.last().expect("a model has layers");
        let mut scores = vec![0.0; tokens.len() * self.vocab_size()];
        self.head.product(&engine, features, &self.head_bias, &mut scores);
        scores
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::models::{CellKind, LanguageModelConfig};

    #[test]
    fn a_stream_has_the_same_scores_alone_and_beside_others() {
        for cell in [CellKind::Lstm, CellKind::Gru, CellKind::Rnn] {
            let config = LanguageModelConfig { cell, embedding_size: 19, hidden_size: 45, ..Default::default() };
            let model = config.init(37, 3, &Device::flex());
            for format in [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Int8] {
                let stepper = LanguageModelStepper::with_format(&model, format);
                let mut together = stepper.state(11);
                let mut alone = stepper.state(1);
                for step in 0..5 {
                    let tokens: Vec<u32> = (0..11).map(|stream| (stream * 7 + step * 5) % 37).collect();
                    let all = stepper.step(&tokens, &mut together);
                    let one = stepper.step(&tokens[6..7], &mut alone);
                    assert_eq!(all[6 * 37..7 * 37], one, "{cell:?} {format:?}");
                }
            }
        }
    }

    #[test]
    fn coarser_weights_give_nearly_the_same_scores() {
        let config = LanguageModelConfig { embedding_size: 32, hidden_size: 64, ..Default::default() };
        let model = config.init(50, 3, &Device::flex());
        let scores = |format| {
            let stepper = LanguageModelStepper::with_format(&model, format);
            let mut state = stepper.state(1);
            (0..20).map(|token| stepper.step(&[token], &mut state)).next_back().expect("some steps")
        };
        let exact = scores(WeightFormat::F32);
        let norm = |values: &[f32]| values.iter().map(|value| value * value).sum::<f32>().sqrt();
        for (format, limit) in [(WeightFormat::Bf16, 0.01), (WeightFormat::Int8, 0.05)] {
            let error: Vec<f32> = scores(format).iter().zip(&exact).map(|(a, b)| a - b).collect();
            let error = norm(&error) / norm(&exact);
            assert!(error > 0.0 && error < limit, "{format:?}: {error}");
        }
    }
}
