//! The floor beneath a network: n-grams counted on the same tokens.

use super::{LanguageModelData, text_score};
use crate::data::TextSummary;
use crate::metrics::UnitScore;
use crate::models::{NGram, Smoothing};
use crate::text::{Unit, Vocabulary};

/// What counting gives on a validation text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NGramScore {
    /// Tokens of the longest n-gram, the predicted one included.
    pub order: usize,
    /// Mean loss in nats per token.
    pub loss_nats: f64,
    /// The loss in the measure of its tokens.
    pub score: UnitScore,
    /// Tokens that were scored: all of them, the first from the beginning of a line.
    pub tokens: usize,
}

impl NGramScore {
    /// The order of the floor: 5-grams are what word models were held against before networks (Chen and Goodman 1998;
    /// Mikolov 2012).
    pub const FLOOR_ORDER: usize = 5;

    /// Counts on `train` and scores `valid`. The history of a word begins with its line; that of a character does not.
    pub fn of(
        vocabulary: &Vocabulary,
        train: &[u32],
        (valid, summary): (&[u32], &TextSummary),
        order: usize,
        smoothing: Smoothing,
    ) -> Self {
        let unit = vocabulary.unit();
        let line_end = vocabulary.new_line().filter(|_| unit == Unit::Word);
        let model = NGram::new(train, vocabulary.len(), order, smoothing, line_end);
        let losses = model.losses(valid);
        let loss_nats = losses.iter().sum::<f64>() / losses.len() as f64;
        Self { order, loss_nats, score: text_score(summary, loss_nats), tokens: losses.len() }
    }
}

impl LanguageModelData {
    /// The floor that a model of this corpus has to be below: modified Kneser-Ney on its tokens.
    pub fn floor(&self) -> NGramScore {
        let (train, valid) = (self.train.tokens(), (self.valid.tokens(), &self.summary.valid));
        NGramScore::of(&self.vocabulary, train, valid, NGramScore::FLOOR_ORDER, Smoothing::KneserNey)
    }
}
