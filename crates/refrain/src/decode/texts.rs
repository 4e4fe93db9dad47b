//! Texts that are written side by side, each until it ends.

use std::collections::VecDeque;

use super::limits::{End, Limits, Tail};
use crate::text::Vocabulary;

/// A token of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The token.
    pub token: u32,
    /// What it adds to the text.
    pub text: String,
    /// `ln P(token)` under the model, whatever the filters made of it, in nats; none unless it was asked for.
    pub log_probability: Option<f64>,
}

/// What has become of a text in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The text's place among those that are written.
    pub text: usize,
    /// What is certain to be part of it, after what was before.
    pub pieces: Vec<Piece>,
    /// Why it ended, if it did.
    pub end: Option<End>,
}

/// Tokens that continue a prompt in some ways at once, without an end: one of each stream at a time.
pub trait TokenStreams: Iterator<Item = Vec<u32>> {
    /// How many streams there are.
    fn num_streams(&self) -> usize;

    /// Goes on with these streams alone, by their places among those that there are, in ascending order.
    fn keep(&mut self, kept: &[usize]);

    /// `ln P` of the last token of each stream under the model, whatever chose it, in nats; empty before the first.
    fn log_probabilities(&self) -> Vec<f64>;
}

/// Texts that continue a prompt, side by side: what each step makes certain of those that have not ended.
///
/// What may turn out to be a stop sequence is held back until it is known. A text that has ended takes no more time.
#[derive(Debug)]
pub struct Texts<'a, S> {
    streams: S,
    vocabulary: &'a Vocabulary,
    limits: &'a Limits,
    open: Vec<Open>,
    log_probabilities: bool,
}

/// A text that has not ended.
#[derive(Debug)]
struct Open {
    text: usize,
    tail: Tail,
    held: VecDeque<Piece>,
}

impl<'a, S: TokenStreams> Texts<'a, S> {
    /// A text of each of `streams`, which continue `prompt` and have not begun.
    pub fn new(streams: S, vocabulary: &'a Vocabulary, prompt: &[u32], limits: &'a Limits) -> Self {
        let open = |text| Open { text, tail: Tail::after(prompt, vocabulary), held: VecDeque::new() };
        let open = (0..streams.num_streams()).map(open).collect();
        Self { streams, vocabulary, limits, open, log_probabilities: false }
    }

    /// The same with the log-probability of every piece.
    #[must_use]
    pub fn with_log_probabilities(self) -> Self {
        Self { log_probabilities: true, ..self }
    }
}

impl<S: TokenStreams> Iterator for Texts<'_, S> {
    /// One for each text that had not ended before the step.
    type Item = Vec<Written>;

    fn next(&mut self) -> Option<Vec<Written>> {
        if self.open.is_empty() {
            return None;
        }
        if self.limits.max_tokens == 0 {
            let ended = |open: Open| Written { text: open.text, pieces: Vec::new(), end: Some(End::Length) };
            return Some(self.open.drain(..).map(ended).collect());
        }
        let tokens = self.streams.next()?;
        let log_probabilities = if self.log_probabilities { self.streams.log_probabilities() } else { Vec::new() };
        let mut written = Vec::with_capacity(tokens.len());
        for (place, (open, token)) in self.open.iter_mut().zip(tokens).enumerate() {
            let pushed = open.tail.push(token, self.vocabulary, self.limits);
            let log_probability = log_probabilities.get(place).copied();
            open.held.push_back(Piece { token, text: pushed.text, log_probability });
            let pieces = match pushed.end {
                Some(_) => {
                    let mut pieces: Vec<Piece> = open.held.drain(..).collect();
                    cut(&mut pieces, pushed.cut);
                    pieces
                }
                None => open.certain(self.limits),
            };
            written.push(Written { text: open.text, pieces, end: pushed.end });
        }
        let kept: Vec<usize> = (0..written.len()).filter(|&place| written[place].end.is_none()).collect();
        if kept.len() < written.len() {
            self.streams.keep(&kept);
            let mut ends = written.iter().map(|written| written.end.is_some());
            self.open.retain(|_| ends.next() == Some(false));
        }
        Some(written)
    }
}

impl Open {
    fn certain(&mut self, limits: &Limits) -> Vec<Piece> {
        let uncertain = self.tail.uncertain(limits);
        let mut held: usize = self.held.iter().map(|piece| piece.text.len()).sum();
        let mut certain = Vec::new();
        while let Some(piece) = self.held.pop_front_if(|piece| held - piece.text.len() >= uncertain) {
            held -= piece.text.len();
            certain.push(piece);
        }
        certain
    }
}

/// Takes the last bytes of a text away, and the pieces of which nothing is left.
pub(super) fn cut(pieces: &mut Vec<Piece>, mut bytes: usize) {
    while bytes > 0
        && let Some(last) = pieces.last_mut()
    {
        let left = last.text.len().saturating_sub(bytes);
        bytes -= last.text.len() - left;
        last.text.truncate(left);
        if left == 0 {
            pieces.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use burn::tensor::Device;

    use super::*;
    use crate::decode::{Filters, Streams};
    use crate::models::{LanguageModelConfig, LanguageModelStepper};

    #[test]
    fn texts_end_each_on_its_own_and_are_those_that_go_on_without_a_stop() {
        let vocabulary = Vocabulary::chars("abcdef\n", 1);
        let config = LanguageModelConfig { embedding_size: 12, hidden_size: 20.into(), ..Default::default() };
        let stepper = LanguageModelStepper::new(&config.init(vocabulary.len(), 5, &Device::flex()));
        let filters = Filters::new();
        let text_of = |limits: &Limits, samples: Range<u64>| {
            let mut texts = vec![(String::new(), None); samples.clone().count()];
            let streams = Streams::new(&stepper, &[1], &filters, 3, samples);
            for step in Texts::new(streams, &vocabulary, &[1], limits) {
                for written in step {
                    assert_eq!(texts[written.text].1, None, "it had ended");
                    texts[written.text].0.extend(written.pieces.iter().map(|piece| piece.text.as_str()));
                    texts[written.text].1 = written.end;
                }
            }
            texts
        };
        let limits = Limits { max_tokens: 60, min_tokens: 0, stops: Vec::new() };
        let whole = text_of(&limits, 0..12);
        let limits = Limits { stops: vec!["ab".to_owned(), "fe".to_owned()], ..limits };
        let stopped = text_of(&limits, 0..12);
        for ((whole, _), (text, end)) in whole.iter().zip(&stopped) {
            let at = [whole.find("ab"), whole.find("fe")].into_iter().flatten().min();
            assert_eq!(text, &whole[..at.unwrap_or(whole.len())]);
            assert_eq!(*end, Some(if at.is_some() { End::Stop } else { End::Length }));
        }
        assert!(stopped.iter().any(|(_, end)| *end == Some(End::Stop)));
        assert_eq!(text_of(&limits, 7..9), stopped[7..9]);
        let nothing = Limits { max_tokens: 0, ..limits };
        assert_eq!(text_of(&nothing, 0..2), vec![(String::new(), Some(End::Length)); 2]);
    }

    #[test]
    fn cutting_takes_bytes_from_the_end() {
        let piece = |text: &str| Piece { token: 1, text: text.to_owned(), log_probability: None };
        let mut pieces = ["ab", "cd", "e"].map(piece).to_vec();
        cut(&mut pieces, 2);
        assert_eq!(pieces, ["ab", "c"].map(piece));
        cut(&mut pieces, 3);
        assert_eq!(pieces, []);
    }
}
