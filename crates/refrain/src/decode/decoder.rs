//! What can be decoded.

use std::borrow::Cow;
use std::fmt::Debug;

use crate::models::{LanguageModelStepper, StepperState};

/// A model that writes token by token, for streams side by side: all that sampling and beam search ask of it.
///
/// A stream's scores must not depend on those beside it: this is what makes a text the same alone and in a batch.
pub trait Decoder {
    /// What it remembers of some streams.
    type State: Debug;

    /// Tokens that a score is given to.
    fn vocab_size(&self) -> usize;

    /// Reads prompts, each of at least one token: a stream for each, and the scores of what may follow,
    /// `[streams, vocab_size]`.
    fn start(&self, prompts: &[&[u32]]) -> (Self::State, Vec<f32>);

    /// Reads one token of each stream: the scores of what may follow, `[streams, vocab_size]`.
    fn advance(&self, tokens: &[u32], state: &mut Self::State) -> Vec<f32>;

    /// Makes stream `i` what stream `from[i]` was. Streams may be repeated, and left out.
    fn reorder(&self, from: &[usize], state: &mut Self::State);
}

/// A decoder that shows what it made of what it has read.
pub trait HiddenStates: Decoder {
    /// The vector of the last token read of each stream, `[streams, hidden_size]`: what the scores were computed from.
    fn hidden<'a>(&self, state: &'a Self::State) -> Cow<'a, [f32]>;
}

impl Decoder for LanguageModelStepper {
    type State = StepperState;

    fn vocab_size(&self) -> usize {
        self.vocab_size()
    }

    fn start(&self, prompts: &[&[u32]]) -> (StepperState, Vec<f32>) {
        assert!(prompts.iter().all(|prompt| !prompt.is_empty()), "a prompt has at least one token");
        // The longest first, so that those with tokens left to read are always the first streams.
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(prompts[index].len()));
        let longest = order.first().map_or(0, |&index| prompts[index].len());
        let mut reading = self.state(prompts.len());
        let mut scores: Vec<f32> = Vec::new();
        // Those that have been read, the shortest first.
        let mut read: Vec<(StepperState, Vec<f32>)> = Vec::new();
        for position in 0..longest {
            let left = order.partition_point(|&index| prompts[index].len() > position);
            if left < reading.streams() {
                let done: Vec<usize> = (left..reading.streams()).collect();
                read.push((reading.select(&done), scores.split_off(left * self.vocab_size())));
                reading = reading.select(&(0..left).collect::<Vec<_>>());
            }
            let tokens: Vec<u32> = order[..left].iter().map(|&index| prompts[index][position]).collect();
            scores = self.step(&tokens, &mut reading);
        }
        for (state, more) in read.into_iter().rev() {
            reading.append(state);
            scores.extend(more);
        }
        let mut place = vec![0; prompts.len()];
        for (at, &index) in order.iter().enumerate() {
            place[index] = at;
        }
        (reading.select(&place), select_rows(&scores, self.vocab_size(), &place))
    }

    fn advance(&self, tokens: &[u32], state: &mut StepperState) -> Vec<f32> {
        self.step(tokens, state)
    }

    fn reorder(&self, from: &[usize], state: &mut StepperState) {
        *state = state.select(from);
    }
}

impl HiddenStates for LanguageModelStepper {
    fn hidden<'a>(&self, state: &'a StepperState) -> Cow<'a, [f32]> {
        state.hidden()
    }
}

/// These rows of `[rows, width]`.
pub(super) fn select_rows(values: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|&row| &values[row * width..(row + 1) * width]).copied().collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::models::{CellKind, LanguageModelConfig};

    #[test]
    fn prompts_of_any_lengths_are_read_as_each_is_alone() {
        for cell in [CellKind::Lstm, CellKind::Gru] {
            let config = LanguageModelConfig { cell, embedding_size: 12, hidden_size: 21.into(), ..Default::default() };
            let stepper = LanguageModelStepper::new(&config.init(30, 5, &Device::flex()));
            let prompts: [&[u32]; 5] = [&[3, 4], &[7], &[1, 2, 3, 4, 5], &[9, 9], &[8, 1, 2]];
            let (mut together, scores) = stepper.start(&prompts);
            let next = stepper.advance(&[1, 2, 3, 4, 5], &mut together);
            for (index, prompt) in prompts.iter().enumerate() {
                let (mut alone, expected) = stepper.start(&[prompt]);
                assert_eq!(scores[index * 30..][..30], expected, "prompt {index}");
                let expected = stepper.advance(&[index as u32 + 1], &mut alone);
                assert_eq!(next[index * 30..][..30], expected, "after prompt {index}");
            }
        }
    }

    #[test]
    fn streams_go_where_they_are_sent() {
        let config = LanguageModelConfig { embedding_size: 12, hidden_size: 21.into(), ..Default::default() };
        let stepper = LanguageModelStepper::new(&config.init(30, 5, &Device::flex()));
        let (mut state, _) = stepper.start(&[&[1], &[2, 5], &[3]]);
        let before = stepper.advance(&[7, 7, 7], &mut state.clone());
        stepper.reorder(&[2, 1, 1, 0], &mut state);
        let after = stepper.advance(&[7; 4], &mut state);
        assert_eq!(after, select_rows(&before, 30, &[2, 1, 1, 0]));
        stepper.reorder(&[], &mut state);
        assert!(stepper.advance(&[], &mut state).is_empty());
    }
}
