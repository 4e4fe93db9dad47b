//! Contrastive search: of the likeliest tokens, the one that is least like what is there.

use std::iter;

use refrain_kernels::{Beta, Engine, MatMut, MatRef, Precision, matmul};

use super::decoder::{Decoder, HiddenStates, select_rows};
use super::filters::{Filters, ranked};
use super::history::History;
use super::probability::{log_probability, softmax};
use super::texts::TokenStreams;

/// Contrastive search (Su et al. 2022): nothing is drawn, and yet the text seldom goes in circles.
///
/// Each of the likeliest tokens is read to see what the model makes of it: a vector. The more it is like one of the vectors before
/// it, those of the prompt included, the less the token is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContrastiveSearch {
    /// How many of the likeliest tokens are tried, k.
    pub candidates: usize,
    /// The degeneration penalty α in [0, 1]: how much likeness counts. 0 is greedy decoding; at 1 probability does not count.
    pub penalty: f64,
}

impl Default for ContrastiveSearch {
    fn default() -> Self {
        Self {
            // the example of the Hugging Face library
            candidates: 4,
            penalty: 0.6,
        }
    }
}

impl ContrastiveSearch {
    /// The one stream of tokens that continues `prompt` (at least one token).
    ///
    /// # Panics
    /// If the prompt is empty, or there are no candidates.
    pub fn stream<'a, D: HiddenStates>(
        self,
        decoder: &'a D,
        prompt: &[u32],
        filters: &'a Filters,
    ) -> ContrastiveStream<'a, D> {
        assert!(self.candidates > 0, "a search among no tokens");
        let (first, rest) = prompt.split_first().expect("a prompt has at least one token");
        let (mut state, mut scores) = decoder.start(&[&[*first]]);
        let mut vectors = unit(&decoder.hidden(&state));
        for &token in rest {
            scores = decoder.advance(&[token], &mut state);
            vectors.extend(unit(&decoder.hidden(&state)));
        }
        let history = History::new(prompt, decoder.vocab_size());
        ContrastiveStream {
            search: self,
            decoder,
            filters,
            state,
            history,
            vectors,
            scores,
            last_log_probability: None,
            open: true,
        }
    }
}

/// What [`ContrastiveSearch`] writes: one stream of tokens without an end. The unknown token is never written.
#[derive(Debug)]
pub struct ContrastiveStream<'a, D: Decoder> {
    search: ContrastiveSearch,
    decoder: &'a D,
    filters: &'a Filters,
    /// After all tokens so far.
    state: D::State,
    history: History,
    /// The vector of each token so far, of length 1, `[tokens, hidden_size]`.
    vectors: Vec<f32>,
    /// Of the token to come, `[vocab_size]`.
    scores: Vec<f32>,
    /// `ln P` of the last token.
    last_log_probability: Option<f64>,
    /// Whether the stream is kept.
    open: bool,
}

impl<D: HiddenStates> ContrastiveStream<'_, D> {
    /// The greatest cosine between each of some vectors of length 1, `[vectors, hidden_size]`, and those before.
    fn likeness(&self, vectors: &[f32], count: usize) -> Vec<f32> {
        let hidden_size = vectors.len() / count;
        let tokens = self.history.tokens().len();
        let mut cosines = vec![0.0; count * tokens];
        matmul(
            &Engine::current(),
            Precision::F32,
            MatRef::row_major(vectors, count, hidden_size),
            MatRef::row_major(&self.vectors, tokens, hidden_size).transposed(),
            Beta::Overwrite,
            MatMut::row_major(&mut cosines, count, tokens),
        );
        cosines.chunks_exact(tokens).map(|row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect()
    }
}

impl<D: HiddenStates> Iterator for ContrastiveStream<'_, D> {
    /// The next token of the stream; none once it is not kept.
    type Item = Vec<u32>;

    fn next(&mut self) -> Option<Vec<u32>> {
        if !self.open {
            return Some(Vec::new());
        }
        let mut filtered = Vec::new();
        self.filters.apply(&self.scores, &self.history, &mut filtered);
        let mut order = ranked(&filtered).into_iter();
        // The likeliest is one whatever its score: no number, if penalties were beyond all bounds.
        let likeliest = order.next().expect("a vocabulary has tokens");
        let others = order.filter(|&token| filtered[token] > f64::NEG_INFINITY).take(self.search.candidates - 1);
        let candidates: Vec<u32> = iter::once(likeliest).chain(others).map(|token| token as u32).collect();
        softmax(&mut filtered);
        let probabilities = filtered;

        self.decoder.reorder(&vec![0; candidates.len()], &mut self.state);
        let scores = self.decoder.advance(&candidates, &mut self.state);
        let hidden = self.decoder.hidden(&self.state);
        let hidden_size = hidden.len() / candidates.len();
        let vectors: Vec<f32> = hidden.chunks_exact(hidden_size).flat_map(unit).collect();
        let penalty = self.search.penalty;
        let worth = |(&token, likeness): (&u32, f32)| {
            (1.0 - penalty) * probabilities[token as usize] - penalty * f64::from(likeness)
        };
        let worths = candidates.iter().zip(self.likeness(&vectors, candidates.len())).map(worth);
        // Of equal ones the first, which is the likeliest.
        let best = worths.enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best });
        let (place, _) = best.expect("there is a likeliest token");

        let token = candidates[place];
        self.last_log_probability = Some(log_probability(&self.scores, token));
        self.decoder.reorder(&[place], &mut self.state);
        self.scores = select_rows(&scores, self.decoder.vocab_size(), &[place]);
        self.vectors.extend_from_slice(&vectors[place * hidden_size..][..hidden_size]);
        self.history.push(token);
        Some(vec![token])
    }
}

impl<D: HiddenStates> TokenStreams for ContrastiveStream<'_, D> {
    fn num_streams(&self) -> usize {
        usize::from(self.open)
    }

    fn keep(&mut self, kept: &[usize]) {
        self.open &= !kept.is_empty();
    }

    fn log_probabilities(&self) -> Vec<f64> {
        self.last_log_probability.filter(|_| self.open).into_iter().collect()
    }
}

/// A vector of the same direction and of length 1; one of zeros stays what it is.
fn unit(vector: &[f32]) -> Vec<f32> {
    // In f64: the squares of what a rectifier lets grow are beyond f32 long before the values are.
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let factor = if length > 0.0 { length.recip() } else { 0.0 };
    vector.iter().map(|value| (f64::from(*value) * factor) as f32).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::decode::Streams;
    use crate::decode::filters::{Ban, FrequencyPenalty, NoRepeat, Temperature};
    use crate::models::{CellKind, LanguageModelConfig, LanguageModelStepper};

    const VOCAB_SIZE: usize = 30;

    fn stepper(cell: CellKind) -> LanguageModelStepper {
        let sizes =
            LanguageModelConfig { embedding_size: 12, hidden_size: 24.into(), num_layers: 2, ..Default::default() };
        let config = match cell {
            CellKind::Transformer => {
                LanguageModelConfig { cell, num_heads: 2, context: Some(8), embedding_size: 24, ..sizes }
            }
            cell => LanguageModelConfig { cell, ..sizes },
        };
        LanguageModelStepper::new(&config.init(VOCAB_SIZE, 5, &Device::flex()))
    }

    fn written(
        stepper: &LanguageModelStepper,
        candidates: usize,
        penalty: f64,
        filters: &Filters,
        tokens: usize,
    ) -> Vec<u32> {
        let search = ContrastiveSearch { candidates, penalty };
        search.stream(stepper, &[3, 4, 7], filters).take(tokens).flatten().collect()
    }

    /// By the definition, every text read from its start.
    fn expected(stepper: &LanguageModelStepper, candidates: usize, penalty: f64, tokens: usize) -> Vec<u32> {
        let mut text = vec![3, 4, 7];
        // The scores after a text, and the vectors of its tokens.
        let read = |text: &[u32]| {
            let mut state = stepper.state(1);
            let mut vectors = Vec::new();
            let mut scores = Vec::new();
            for &token in text {
                scores = stepper.step(&[token], &mut state);
                vectors.push(state.hidden().iter().map(|value| f64::from(*value)).collect::<Vec<f64>>());
            }
            (scores, vectors)
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for _ in 0..tokens {
            let (scores, before) = read(&text);
            let probabilities = Filters::new().probabilities(&scores, &History::new(&text, VOCAB_SIZE));
            let mut order: Vec<u32> = (1..VOCAB_SIZE as u32).collect();
            order.sort_by(|&a, &b| probabilities[b as usize].total_cmp(&probabilities[a as usize]));
            let worth = |token: u32| {
                let (_, vectors) = read(&[text.as_slice(), &[token]].concat());
                let vector = vectors.last().expect("of the token");
                let cosine = |other: &Vec<f64>| dot(vector, other) / (dot(vector, vector) * dot(other, other)).sqrt();
                let likeness = before.iter().map(cosine).fold(f64::NEG_INFINITY, f64::max);
                (1.0 - penalty) * probabilities[token as usize] - penalty * likeness
            };
            let worths = order[..candidates].iter().map(|&token| (token, worth(token)));
            let best = worths.reduce(|best, next| if next.1 > best.1 { next } else { best });
            text.push(best.expect("some candidates").0);
        }
        text.split_off(3)
    }

    #[test]
    fn the_token_of_most_worth_is_taken() {
        for cell in [CellKind::Lstm, CellKind::Gru, CellKind::Transformer] {
            let stepper = stepper(cell);
            assert_eq!(*stepper.state(2).hidden(), [0.0; 48], "of nothing read");
            for (candidates, penalty, tokens) in [(4, 0.6, 40), (2, 0.3, 40), (29, 1.0, 12)] {
                let found = written(&stepper, candidates, penalty, &Filters::new(), tokens);
                let expected = expected(&stepper, candidates, penalty, tokens);
                assert_eq!(found, expected, "{cell:?}, {candidates}, {penalty}");
            }
        }
    }

    #[test]
    fn one_candidate_and_no_penalty_are_greedy_under_any_filter() {
        let stepper = stepper(CellKind::Lstm);
        let filters = || Filters::new().with(NoRepeat(2)).with(Ban(vec![vec![9]]));
        let greedy = filters().with(Temperature(0.0));
        let greedy: Vec<u32> = Streams::new(&stepper, &[3, 4, 7], &greedy, 1, [0]).take(40).flatten().collect();
        assert_eq!(written(&stepper, 1, 0.6, &filters(), 40), greedy);
        assert_eq!(written(&stepper, 5, 0.0, &filters(), 40), greedy);
        assert_ne!(written(&stepper, 5, 0.6, &filters(), 40), greedy);
    }

    #[test]
    fn scores_beyond_all_bounds_still_leave_a_token() {
        let filters = Filters::new().with(FrequencyPenalty(-1e308));
        assert_eq!(written(&stepper(CellKind::Gru), 4, 0.6, &filters, 40).len(), 40);
    }

    #[test]
    fn a_vector_of_any_length_becomes_one_of_length_one() {
        for scale in [1e-30, 1.0, 1e30] {
            let [a, b] = unit(&[3.0 * scale, 4.0 * scale])[..] else { panic!("as many values") };
            assert!((a - 0.6).abs() < 1e-6 && (b - 0.8).abs() < 1e-6, "{scale}: {a}, {b}");
        }
        assert_eq!(unit(&[0.0; 3]), [0.0; 3]);
    }

    #[test]
    fn log_probabilities_are_the_models_own_and_a_stream_that_is_not_kept_has_no_more() {
        let (stepper, filters) = (stepper(CellKind::Lstm), Filters::new());
        let mut streams = ContrastiveSearch::default().stream(&stepper, &[3], &filters);
        assert!(streams.log_probabilities().is_empty());
        let token = streams.next().expect("it has no end")[0];
        let (_, scores) = stepper.start(&[&[3]]);
        assert_eq!(streams.log_probabilities(), [log_probability(&scores, token)]);
        streams.keep(&[0]);
        assert_eq!(streams.num_streams(), 1);
        streams.keep(&[]);
        assert_eq!((streams.num_streams(), streams.next()), (0, Some(Vec::new())));
        assert!(streams.log_probabilities().is_empty());
    }
}
