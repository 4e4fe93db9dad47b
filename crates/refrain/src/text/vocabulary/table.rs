//! Vocabularies of the characters or words of a text.

use std::borrow::Cow;
use std::collections::HashMap;

use super::tokenization::{NEW_LINE, Tokenization};
use super::{CountedToken, UNKNOWN_WORD, Unit, Vocabulary, VocabularyLimits};

/// Each character or word, and its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) tokenization: Tokenization,
    ids: HashMap<String, u32>,
}

impl Table {
    /// Of tokens in the order of their ids; of one that is there twice, the last counts.
    pub(super) fn new(tokenization: Tokenization, tokens: &[String]) -> Self {
        let ids = tokens.iter().enumerate().map(|(at, token)| (token.clone(), at as u32 + 1)).collect();
        Self { tokenization, ids }
    }

    pub(super) fn id(&self, token: &str) -> u32 {
        self.ids.get(token).copied().unwrap_or(Vocabulary::UNKNOWN)
    }

    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        self.tokenization.pieces(text).map(|piece| self.id(&self.tokenization.token(piece))).collect()
    }

    /// The tokens of a text, in no order.
    pub(super) fn count(&self, text: &str) -> Vec<CountedToken> {
        let counts = counts(&[text], self.tokenization).into_iter();
        let counted = |(token, count): (Cow<'_, str>, usize)| {
            let is_known = self.id(&token) != Vocabulary::UNKNOWN;
            CountedToken { token: token.into_owned(), count, is_known }
        };
        counts.map(counted).collect()
    }

    /// What comes after the first token.
    pub(super) fn after_first<'a>(&self, text: &'a str) -> &'a str {
        let mut pieces = self.tokenization.pieces(text);
        pieces.next();
        pieces.rest()
    }

    /// The stretches of a text that are unknown. A word `<unk>` is known for what it is.
    pub(super) fn unknown<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let is_word = self.tokenization.unit == Unit::Word;
        let pieces = self.tokenization.pieces(text);
        let unknown = pieces.filter(|piece| {
            let token = self.tokenization.token(piece);
            self.id(&token) == Vocabulary::UNKNOWN && !(is_word && token == UNKNOWN_WORD)
        });
        unknown.collect()
    }
}

/// The tokens of some texts together, within limits, in the order of their ids.
pub(super) fn tokens(texts: &[&str], tokenization: Tokenization, limits: VocabularyLimits) -> Vec<String> {
    let is_word = tokenization.unit == Unit::Word;
    let fixed = |token: &str| is_word && (token == NEW_LINE || token == UNKNOWN_WORD);
    let ends = tokenization.end_of_sentence.then(|| NEW_LINE.to_owned());
    let mut counts: Vec<(Cow<'_, str>, usize)> = counts(texts, tokenization)
        .into_iter()
        .filter(|(token, count)| *count >= limits.min_count && !fixed(token))
        .collect();
    counts.sort_unstable_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
    let others = 1 + usize::from(ends.is_some());
    counts.truncate(limits.max_size.unwrap_or(usize::MAX).saturating_sub(others));
    if !is_word {
        counts.sort_unstable();
    }
    ends.into_iter().chain(counts.into_iter().map(|(token, _)| token.into_owned())).collect()
}

/// How often each token occurs in some texts together.
fn counts<'a>(texts: &[&'a str], tokenization: Tokenization) -> HashMap<Cow<'a, str>, usize> {
    let mut counts: HashMap<Cow<'_, str>, usize> = HashMap::new();
    for piece in texts.iter().flat_map(|text| tokenization.pieces(text)) {
        *counts.entry(tokenization.token(piece)).or_default() += 1;
    }
    counts
}
