//! A language model one token at a time, its weights prepared once.

use std::borrow::Cow;

use burn::tensor::{Device, Int, Tensor, TensorData};
use refrain_kernels::{Engine, Precision, StepInput, StepMatrix, StepWeights, WeightFormat};

use super::artefact::Dtype;
use super::language_model::LanguageModel;
use super::state::LanguageModelState;
use crate::nn::{Layer, RecurrentState, Transformer, values};

/// Steps a language model for one stream or many; a stream's scores do not depend on those beside it, not by a bit.
#[derive(Clone, Debug)]
pub struct LanguageModelStepper {
    /// A transformer, which has no layers below: it reads stream by stream.
    transformer: Option<Box<LanguageModel>>,
    /// `[vocab_size, embedding_size]`, if the lowest layer's weights are not for tokens.
    embedding: Option<Vec<f32>>,
    /// From the lowest up.
    layers: Vec<StepLayer>,
    head: StepMatrix,
    head_bias: Vec<f32>,
}

/// A layer, one step at a time.
#[derive(Clone, Debug)]
enum StepLayer {
    /// Its weights, prepared once.
    Prepared(StepWeights),
    /// The layer itself, over sequences of one step: one whose single steps the kernels do not know.
    Whole(Box<Layer>, Device),
}

impl StepLayer {
    fn num_weights(&self) -> usize {
        match self {
            Self::Prepared(weights) => weights.num_weights(),
            Self::Whole(layer, _) => layer.num_step_weights(),
        }
    }

    /// The state of a number of streams before their first token.
    fn state(&self, streams: usize) -> [Vec<f32>; 2] {
        match self {
            Self::Prepared(weights) => {
                let hidden = vec![0.0; streams * weights.hidden_size()];
                let cell_state = if weights.cell().has_cell_state() { hidden.clone() } else { Vec::new() };
                [hidden, cell_state]
            }
            Self::Whole(layer, device) => host(layer.zero_state(streams, device)),
        }
    }

    fn step(&self, engine: &Engine, input: StepInput<'_>, [hidden, cell_state]: &mut [Vec<f32>; 2], streams: usize) {
        let (layer, device) = match self {
            Self::Prepared(weights) => return weights.step(engine, input, hidden, cell_state),
            Self::Whole(layer, device) => (layer, device),
        };
        let StepInput::Features(input) = input else { unreachable!("weights for tokens are prepared ones") };
        let sizes = [input.len(), hidden.len(), cell_state.len()];
        let [input_size, state_size, cell_size] = sizes.map(|len| len.checked_div(streams).unwrap_or(0));
        // One stream at a time: products of Burn's own may round otherwise in a larger batch.
        for stream in 0..streams {
            let row = |values: &[f32], size: usize| {
                let row = values[stream * size..][..size].to_vec();
                Tensor::<2>::from_data(TensorData::new(row, [1, size]), device)
            };
            let state = RecurrentState {
                hidden: row(hidden, state_size),
                cell_state: (cell_size > 0).then(|| row(cell_state, cell_size)),
            };
            let (_, state) = layer.forward(row(input, input_size).unsqueeze_dim(1), None, Some(state), None);
            let [new_hidden, new_cell_state] = host(state);
            hidden[stream * state_size..][..state_size].copy_from_slice(&new_hidden);
            cell_state[stream * cell_size..][..cell_size].copy_from_slice(&new_cell_state);
        }
    }
}

/// What a transformer remembers of a stream.
#[derive(Clone, Debug)]
struct Seen {
    /// Nothing before its first token.
    state: Option<LanguageModelState>,
    /// What it made of the last token, `[hidden_size]`; zeros before the first.
    hidden: Vec<f32>,
}

impl Seen {
    /// Reads one more token of the stream. A stream at a time: products in a larger batch may round otherwise, and streams of
    /// several lengths have seen different parts of their texts.
    fn read(&mut self, model: &LanguageModel, token: u32) {
        let token = Tensor::<2, Int>::from_data(TensorData::new(vec![token as i32], [1, 1]), &model.device());
        let ([_, features], state) = model.features(token, self.state.take(), None);
        self.state = Some(state);
        self.hidden = values(features);
    }
}

/// Hidden and cell state as numbers, the latter empty for cells without.
fn host(state: RecurrentState) -> [Vec<f32>; 2] {
    [values(state.hidden), state.cell_state.map(values).unwrap_or_default()]
}

/// What a stepper remembers of some streams.
#[derive(Clone, Debug)]
pub struct StepperState {
    /// By layer: hidden and cell state, `[streams, hidden_size]`, the latter empty for cells without.
    layers: Vec<[Vec<f32>; 2]>,
    /// By stream, of a transformer alone.
    seen: Vec<Seen>,
    streams: usize,
}

impl StepperState {
    /// How many streams it is of.
    pub fn streams(&self) -> usize {
        self.streams
    }

    /// What the scores of the tokens that may follow are computed from: the highest layer's outputs for the last token of each
    /// stream, `[streams, hidden_size]`; zeros before the first.
    pub fn hidden(&self) -> Cow<'_, [f32]> {
        match self.layers.last() {
            Some([hidden, _]) => Cow::Borrowed(hidden),
            None => self.seen.iter().flat_map(|seen| &seen.hidden).copied().collect(),
        }
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
        let seen = if self.seen.is_empty() { &[] } else { from };
        Self {
            layers: self.layers.iter().map(|layer| layer.each_ref().map(rows)).collect(),
            seen: seen.iter().map(|&stream| self.seen[stream].clone()).collect(),
            streams: from.len(),
        }
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
        self.seen.extend(other.seen);
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

    /// The model's weights in another format. Embeddings stay as they are, and with them a head that shares theirs does in place of
    /// eight bits: a token reads one row of them. Where there are no more tokens than features, their products with the lowest
    /// layer's weights are computed here, once for all steps. Layers that have no [prepared weights](Layer::has_step_weights), and
    /// the blocks of a transformer, compute as they do over sequences.
    pub fn with_format(model: &LanguageModel, format: WeightFormat) -> Self {
        let head_format = match format {
            WeightFormat::Int8 if model.head.weight.is_none() => WeightFormat::F32,
            format => format,
        };
        let (head, head_bias) = model.linear().step_matrix(head_format);
        let [vocab_size, embedding_size] = model.embedding.weight.dims();
        let embedding = values(model.embedding.weight.val());
        let lowest = model.recurrent.layers.first().is_some_and(Layer::has_step_weights);
        let for_tokens = lowest && vocab_size <= embedding_size;
        let prepared = |(index, layer): (usize, &Layer)| {
            if layer.has_step_weights() {
                let embedding = (for_tokens && index == 0).then_some(embedding.as_slice());
                StepLayer::Prepared(layer.step_weights(format, embedding))
            } else {
                StepLayer::Whole(Box::new(layer.clone()), model.device())
            }
        };
        Self {
            transformer: model.transformer.is_some().then(|| Box::new(model.clone())),
            layers: model.recurrent.layers.iter().enumerate().map(prepared).collect(),
            embedding: (!for_tokens).then_some(embedding),
            head,
            head_bias,
        }
    }

    /// Weights that every step reads.
    pub fn num_weights(&self) -> usize {
        let blocks = self.transformer.as_ref().and_then(|model| model.transformer.as_ref());
        let blocks = blocks.map_or(0, Transformer::num_step_weights);
        let layers: usize = self.layers.iter().map(StepLayer::num_weights).sum();
        blocks + layers + self.head.rows() * self.head.cols()
    }

    /// Tokens that the model knows.
    pub fn vocab_size(&self) -> usize {
        self.head.rows()
    }

    /// The state of `streams` streams before their first token.
    pub fn state(&self, streams: usize) -> StepperState {
        let unread = Seen { state: None, hidden: vec![0.0; self.head.cols()] };
        StepperState {
            layers: self.layers.iter().map(|layer| layer.state(streams)).collect(),
            seen: if self.transformer.is_some() { vec![unread; streams] } else { Vec::new() },
            streams,
        }
    }

    /// The state that a pass of recurrent layers over whole sequences has come to.
    ///
    /// # Panics
    /// If it is not of as many layers.
    pub fn state_of(&self, state: &[RecurrentState]) -> StepperState {
        assert_eq!(state.len(), self.layers.len(), "a state of as many layers");
        let streams = state.first().map_or(0, |state| state.hidden.dims()[0]);
        StepperState { layers: state.iter().cloned().map(host).collect(), seen: Vec::new(), streams }
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
        let mut scores = vec![0.0; tokens.len() * self.vocab_size()];
        if let Some(model) = &self.transformer {
            tokens.iter().zip(&mut state.seen).for_each(|(&token, seen)| seen.read(model, token));
        } else {
            self.step_layers(&engine, tokens, &mut state.layers);
        }
        self.head.product(&engine, &state.hidden(), &self.head_bias, &mut scores);
        scores
    }

    fn step_layers(&self, engine: &Engine, tokens: &[u32], states: &mut [[Vec<f32>; 2]]) {
        let embedded = self.embedding.as_ref().map(|embedding| {
            let size = embedding.len() / self.vocab_size();
            tokens.iter().flat_map(|&token| &embedding[token as usize * size..][..size]).copied().collect::<Vec<f32>>()
        });
        let mut input = embedded.as_ref().map_or(StepInput::Tokens(tokens), |embedded| StepInput::Features(embedded));
        for (layer, state) in self.layers.iter().zip(states) {
            layer.step(engine, input, state, tokens.len());
            input = StepInput::Features(&state[0]);
        }
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
            let config = LanguageModelConfig { cell, embedding_size: 19, hidden_size: 45.into(), ..Default::default() };
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
        let config = LanguageModelConfig { embedding_size: 32, hidden_size: 64.into(), ..Default::default() };
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
