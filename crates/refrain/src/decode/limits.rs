//! Where a text ends.

use crate::text::{Continuation, Vocabulary};

/// When a text ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// After this many tokens.
    pub max_tokens: usize,
    /// Stop sequences that are complete before this many tokens do not count.
    pub min_tokens: usize,
    /// A text ends before the first of these. An empty one is never met.
    pub stops: Vec<String>,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has as many tokens as it may have.
    Length,
    /// A stop sequence came, which is not part of the text.
    Stop,
}

/// The end of a text while it is written: what is needed to see whether it is the last.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    continuation: Continuation,
    written: usize,
    /// The last bytes of what was written, as many as a stop sequence may begin in.
    text: String,
}

/// What a token does to a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    /// What it adds: nothing while a character is not whole, all that was held back when the text ends.
    pub(super) text: String,
    /// Whether the text ends with it.
    pub(super) end: Option<End>,
    /// How many bytes at the end of the text are those of a stop sequence, or of what came with it.
    pub(super) cut: usize,
}

impl Tail {
    /// The end of a text that begins after these tokens.
    pub(super) fn after(prompt: &[u32], vocabulary: &Vocabulary) -> Self {
        Self { continuation: Continuation::after(prompt, vocabulary), written: 0, text: String::new() }
    }

    /// Adds a token.
    pub(super) fn push(&mut self, token: u32, vocabulary: &Vocabulary, limits: &Limits) -> Pushed {
        let mut text = self.continuation.push(token, vocabulary);
        self.written += 1;
        let mut cut = 0;
        let mut end = (self.written >= limits.max_tokens).then_some(End::Length);
        if end.is_some() {
            text += &self.continuation.finish(vocabulary);
        }
        if let Some(longest) = limits.stops.iter().map(String::len).max() {
            let before = self.text.len();
            self.text += &text;
            if self.written >= limits.min_tokens
                && let Some(at) =
                    limits.stops.iter().filter_map(|stop| find_ending_after(&self.text, before, stop)).min()
            {
                end = Some(End::Stop);
                cut = self.text.len() - at;
            }
            let spare = self.text.len().saturating_sub(longest);
            self.text.drain(..self.text.ceil_char_boundary(spare));
        }
        Pushed { text, end, cut }
    }

    /// How many bytes at the end of the text may turn out to be the beginning of a stop sequence.
    pub(super) fn uncertain(&self, limits: &Limits) -> usize {
        let begun = |stop: &String| {
            let lengths = stop.char_indices().map(|(at, _)| at).rev();
            lengths.filter(|&length| self.text.ends_with(&stop[..length])).max().unwrap_or(0)
        };
        limits.stops.iter().map(begun).max().unwrap_or(0)
    }
}

/// Where a stop sequence begins that ends after `before` bytes, the first of these.
fn find_ending_after(text: &str, before: usize, stop: &str) -> Option<usize> {
    if stop.is_empty() {
        return None;
    }
    let earliest = text.ceil_char_boundary((before + 1).saturating_sub(stop.len()));
    text[earliest..].find(stop).map(|at| earliest + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text written until it ends, and why it did.
    fn written(text: &str, stops: &[&str], min_tokens: usize) -> (String, Option<End>) {
        let vocabulary = Vocabulary::chars("abcdé\n", 1);
        let limits =
            Limits { max_tokens: 100, min_tokens, stops: stops.iter().map(|stop| (*stop).to_owned()).collect() };
        let mut tail = Tail::after(&[vocabulary.id("\n")], &vocabulary);
        let mut written = String::new();
        for token in vocabulary.encode(text) {
            let pushed = tail.push(token, &vocabulary, &limits);
            written += &pushed.text;
            written.truncate(written.len() - pushed.cut);
            if pushed.end.is_some() {
                return (written, pushed.end);
            }
        }
        (written, None)
    }

    #[test]
    fn a_text_ends_before_the_first_stop_sequence() {
        let stopped = |text: &str| (text.to_owned(), Some(End::Stop));
        assert_eq!(written("abcd", &["c"], 0), stopped("ab"));
        assert_eq!(written("aabab", &["ab"], 0), stopped("a"));
        assert_eq!(written("aabab", &["ba", "bab", "aba"], 0), stopped("a"));
        assert_eq!(written("dédéé", &["éé", "é\n"], 0), stopped("déd"));
        assert_eq!(written("abcd", &["cb", ""], 0), ("abcd".to_owned(), None));
    }

    #[test]
    fn a_stop_sequence_of_words_may_begin_with_the_space_before_one() {
        let vocabulary = Vocabulary::words("the cat sat\n", 1);
        for (stop, left) in [(" cat", "the"), ("cat", "the "), ("e c", "th"), ("\n", "the cat sat")] {
            let limits = Limits { max_tokens: 9, min_tokens: 0, stops: vec![stop.to_owned()] };
            let mut tail = Tail::after(&[vocabulary.id("\n")], &vocabulary);
            let mut text = String::new();
            for token in vocabulary.encode("the cat sat\n") {
                let pushed = tail.push(token, &vocabulary, &limits);
                text += &pushed.text;
                if pushed.end.is_some() {
                    text.truncate(text.len() - pushed.cut);
                    break;
                }
            }
            assert_eq!(text, left, "before {stop:?}");
        }
    }

    #[test]
    fn a_stop_sequence_of_bytes_is_met_with_its_last_byte_and_a_character_cut_off_is_replaced() {
        let vocabulary = Vocabulary::bytes();
        let written = |max_tokens: usize, stop: &str| {
            let limits = Limits { max_tokens, min_tokens: 0, stops: vec![stop.to_owned()] };
            let mut tail = Tail::after(&[vocabulary.id("\n")], &vocabulary);
            let (mut text, mut tokens) = (String::new(), 0);
            for token in vocabulary.encode("天地玄黄") {
                let pushed = tail.push(token, &vocabulary, &limits);
                tokens += 1;
                text += &pushed.text;
                text.truncate(text.len() - pushed.cut);
                if pushed.end.is_some() {
                    break;
                }
            }
            (text, tokens)
        };
        assert_eq!(written(12, "玄"), ("天地".to_owned(), 9));
        assert_eq!(written(8, "玄"), ("天地\u{fffd}".to_owned(), 8));
        assert_eq!(written(12, ""), ("天地玄黄".to_owned(), 12));
    }

    #[test]
    fn a_stop_sequence_counts_from_the_fewest_tokens_on() {
        assert_eq!(written("ababab", &["ab"], 3), ("ab".to_owned(), Some(End::Stop)));
        assert_eq!(written("ababab", &["ab"], 4), ("ab".to_owned(), Some(End::Stop)));
        assert_eq!(written("ababab", &["ab"], 5), ("abab".to_owned(), Some(End::Stop)));
        assert_eq!(written("ababab", &["ab"], 7), ("ababab".to_owned(), None));
    }

    #[test]
    fn what_may_become_a_stop_sequence_is_uncertain() {
        let vocabulary = Vocabulary::chars("abc", 1);
        let limits = Limits { max_tokens: 9, min_tokens: 0, stops: vec!["abac".to_owned(), "bb".to_owned()] };
        let mut tail = Tail::after(&[1], &vocabulary);
        let uncertain: Vec<usize> = vocabulary
            .encode("cabaab")
            .into_iter()
            .map(|token| {
                tail.push(token, &vocabulary, &limits);
                tail.uncertain(&limits)
            })
            .collect();
        assert_eq!(uncertain, [0, 1, 2, 3, 1, 2]);
    }

    #[test]
    fn a_text_has_no_more_tokens_than_it_may() {
        let vocabulary = Vocabulary::chars("ab", 1);
        let limits = Limits { max_tokens: 2, min_tokens: 0, stops: vec!["bb".to_owned()] };
        let mut tail = Tail::after(&[1], &vocabulary);
        assert_eq!(tail.push(2, &vocabulary, &limits).end, None);
        // Both at once: it ended because it stopped.
        assert_eq!(
            tail.clone().push(2, &vocabulary, &limits),
            Pushed { text: "b".to_owned(), end: Some(End::Stop), cut: 2 }
        );
        assert_eq!(tail.push(1, &vocabulary, &limits), Pushed { text: "a".to_owned(), end: Some(End::Length), cut: 0 });
    }
}
