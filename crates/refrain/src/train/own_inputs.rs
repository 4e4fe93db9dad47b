//! Scheduled sampling: the inputs of a window, mixed from the text and from what the model writes.

use super::teacher_forcing::OwnToken;
use crate::decode::filters::Temperature;
use crate::decode::{Decoder, Filters, History, draw};
use crate::random::{Purpose, Random};

/// Which inputs of a window stay the text's own tokens, and which are the model's.
///
/// A function of seed, window and probability alone, so that a run which is resumed mixes as the whole one did. The first
/// input of a row is always the text's own: what the model would have written there belongs to the window before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mixture {
    /// `[batch_size, seq_len]`, row by row: whether an input stays.
    kept: Vec<bool>,
    seq_len: usize,
    seed: u64,
    window: u64,
}

impl Mixture {
    /// Throws a coin for every input of window `window`, counted from the beginning of the run: it stays with `probability`.
    /// None if all do.
    pub fn new([batch_size, seq_len]: [usize; 2], probability: f64, seed: u64, window: u64) -> Option<Self> {
        if probability >= 1.0 {
            return None;
        }
        let mut coins = Random::new(seed, Purpose::TeacherForcing, window);
        // A coin is thrown for the first one too: what stays does not depend on the rule for it.
        let kept = (0..batch_size * seq_len).map(|place| coins.uniform() < probability || place % seq_len == 0);
        let mixture = Self { kept: kept.collect(), seq_len, seed, window };
        mixture.kept.contains(&false).then_some(mixture)
    }

    /// The inputs with the decoder's choices in place of those that do not stay; each is made after all before it in its row,
    /// chosen ones included.
    ///
    /// # Shapes
    /// - `state`: of `batch_size` streams, before the window
    /// - `inputs`: `[batch_size, seq_len]`, row by row
    ///
    /// # Panics
    /// If there are not as many inputs as coins.
    pub fn inputs<D: Decoder>(&self, decoder: &D, mut state: D::State, inputs: &[u32], choice: OwnToken) -> Vec<u32> {
        assert_eq!(inputs.len(), self.kept.len(), "inputs of another window");
        let mut inputs = inputs.to_vec();
        // As when the model writes: what is drawn by, and that the unknown token never is.
        let filters = match choice {
            OwnToken::Sampled => Filters::new(),
            OwnToken::Best => Filters::new().with(Temperature(0.0)),
        };
        let history = History::new(&[], decoder.vocab_size());
        let mut filtered = Vec::new();
        let mut numbers = Random::new(self.seed, Purpose::OwnTokens, self.window);
        let mut scores: Vec<f32> = Vec::new();
        // The rows still to be read, and how far: to their last input that is chosen.
        let mut reading: Vec<usize> = (0..inputs.len() / self.seq_len).collect();
        let last_chosen = |row| self.row(row).iter().rposition(|kept| !kept).unwrap_or(0);
        let last_chosen: Vec<usize> = reading.iter().map(|&row| last_chosen(row)).collect();
        for place in 0..self.seq_len {
            for (&row, scores) in reading.iter().zip(scores.chunks_exact(decoder.vocab_size())) {
                if !self.row(row)[place] {
                    filters.apply(scores, &history, &mut filtered);
                    inputs[row * self.seq_len + place] = draw(&mut filtered, &mut numbers);
                }
            }
            let left: Vec<usize> = (0..reading.len()).filter(|&index| last_chosen[reading[index]] > place).collect();
            if left.is_empty() {
                break;
            }
            if left.len() < reading.len() {
                decoder.reorder(&left, &mut state);
                reading = left.into_iter().map(|index| reading[index]).collect();
            }
            let tokens: Vec<u32> = reading.iter().map(|row| inputs[row * self.seq_len + place]).collect();
            scores = decoder.advance(&tokens, &mut state);
        }
        inputs
    }

    fn row(&self, row: usize) -> &[bool] {
        &self.kept[row * self.seq_len..][..self.seq_len]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::decode::Streams;
    use crate::models::{LanguageModelConfig, LanguageModelStepper};

    /// Writes the number after the sum of all that it has read, and never anything else.
    struct Summing;

    const WORDS: usize = 1000;

    impl Decoder for Summing {
        type State = Vec<u32>;

        fn vocab_size(&self) -> usize {
            WORDS
        }

        fn start(&self, _prompts: &[&[u32]]) -> (Vec<u32>, Vec<f32>) {
            unreachable!("a window goes on from a state")
        }

        fn advance(&self, tokens: &[u32], state: &mut Vec<u32>) -> Vec<f32> {
            state.iter_mut().zip(tokens).for_each(|(sum, token)| *sum += token);
            let one_hot =
                |sum: u32| (0..WORDS as u32).map(move |word| if word == sum + 1 { 0.0 } else { f32::NEG_INFINITY });
            state.iter().flat_map(|&sum| one_hot(sum)).collect()
        }

        fn reorder(&self, from: &[usize], state: &mut Vec<u32>) {
            *state = from.iter().map(|&place| state[place]).collect();
        }
    }

    /// What [`Mixture::inputs`] should be, a row at a time.
    fn by_hand(mixture: &Mixture, inputs: &[u32], state: &[u32]) -> Vec<u32> {
        let mut mixed = inputs.to_vec();
        for (row, inputs) in mixed.chunks_exact_mut(mixture.seq_len).enumerate() {
            let mut sum = state[row];
            for (input, kept) in inputs.iter_mut().zip(mixture.row(row)) {
                if !kept {
                    *input = sum + 1;
                }
                sum += *input;
            }
        }
        mixed
    }

    #[test]
    fn own_tokens_follow_from_all_that_was_read_before_them() {
        let inputs: Vec<u32> = (0..60).map(|place| place % 7).collect();
        let state: Vec<u32> = (0..12).collect();
        for probability in [0.0, 0.2, 0.5, 0.9, 0.99] {
            for window in 0..10 {
                let Some(mixture) = Mixture::new([12, 5], probability, 3, window) else {
                    continue;
                };
                for choice in [OwnToken::Sampled, OwnToken::Best] {
                    let mixed = mixture.inputs(&Summing, state.clone(), &inputs, choice);
                    assert_eq!(mixed, by_hand(&mixture, &inputs, &state), "{probability}, window {window}");
                }
            }
        }
    }

    #[test]
    fn as_many_inputs_stay_as_the_probability_says_and_the_first_of_a_row_always_does() {
        let mixture = Mixture::new([200, 101], 0.3, 1, 0).expect("some are chosen");
        assert!(mixture.kept.iter().step_by(101).all(|kept| *kept));
        let kept = mixture.kept.iter().filter(|kept| **kept).count() - 200;
        assert!((kept as f64 / 20_000.0 - 0.3).abs() < 0.015, "{kept}");
        assert_ne!(Mixture::new([200, 101], 0.3, 1, 1), Some(mixture));
        let free = Mixture::new([2, 3], 0.0, 1, 0).expect("all are chosen");
        assert_eq!(free.kept, [true, false, false, true, false, false]);
        assert_eq!(Mixture::new([2, 3], 1.0, 1, 0), None);
        assert_eq!(Mixture::new([2, 1], 0.0, 1, 0), None, "a window of one token has its first alone");
    }

    #[test]
    fn a_model_that_runs_free_reads_what_it_writes() {
        let config = LanguageModelConfig { embedding_size: 12, hidden_size: 21.into(), ..Default::default() };
        let stepper = LanguageModelStepper::new(&config.init(30, 5, &Device::flex()));
        let greedy = Filters::new().with(Temperature(0.0));
        let mixture = Mixture::new([3, 20], 0.0, 1, 0).expect("all are chosen");
        let text: Vec<u32> = (0..60).map(|place| 1 + place % 29).collect();
        let mixed = mixture.inputs(&stepper, stepper.state(3), &text, OwnToken::Best);
        for row in mixed.chunks_exact(20) {
            let written = Streams::new(&stepper, &row[..1], &greedy, 1, [0]).take(19).flatten();
            assert_eq!(row[1..], written.collect::<Vec<_>>());
        }
        let sampled = mixture.inputs(&stepper, stepper.state(3), &text, OwnToken::Sampled);
        assert_ne!(sampled, mixed);
        assert_eq!(sampled, mixture.inputs(&stepper, stepper.state(3), &text, OwnToken::Sampled));
    }
}
