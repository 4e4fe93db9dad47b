//! How well a language model predicts a text.

use std::f64::consts::LN_2;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::text::Unit;

/// A loss in the measure in which models of such tokens are compared, its unit in its name.
///
/// A number that is not finite is `null` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitScore {
    /// The loss in bits, for each character of the text.
    BitsPerChar(#[serde(deserialize_with = "nan_if_null")] f64),
    /// The loss in bits, for each byte of the text in UTF-8.
    BitsPerByte(#[serde(deserialize_with = "nan_if_null")] f64),
    /// `exp` of the loss in nats, for each word and each end of a line.
    PerplexityPerWord(#[serde(deserialize_with = "nan_if_null")] f64),
}

impl UnitScore {
    /// From the loss in nats per token, and how many bytes of the text a token stands for, on average.
    pub fn of(unit: Unit, loss_nats: f64, bytes_per_token: f64) -> Self {
        match unit {
            Unit::Char => Self::BitsPerChar(loss_nats / LN_2),
            Unit::Word => Self::PerplexityPerWord(loss_nats.exp()),
            Unit::Byte => Self::BitsPerByte(loss_nats / LN_2),
            Unit::Bpe | Unit::Unigram | Unit::Tokenizer => Self::BitsPerByte(loss_nats / LN_2 / bytes_per_token),
        }
    }

    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::BitsPerChar(_) => "bits_per_char",
            Self::BitsPerByte(_) => "bits_per_byte",
            Self::PerplexityPerWord(_) => "perplexity_per_word",
        }
    }

    /// The number itself.
    pub fn value(self) -> f64 {
        let (Self::BitsPerChar(value) | Self::BitsPerByte(value) | Self::PerplexityPerWord(value)) = self;
        value
    }
}

impl fmt::Display for UnitScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BitsPerChar(bits) => write!(f, "{bits:.4} bits/char"),
            Self::BitsPerByte(bits) => write!(f, "{bits:.4} bits/byte"),
            Self::PerplexityPerWord(perplexity) => write!(f, "{perplexity:.2} perplexity/word"),
        }
    }
}

/// JSON has no NaN and no infinity: they are written as `null` and read as NaN.
fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The cross entropy of a text, and what it can be divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LanguageModelScore {
    /// `-Σ ln P(token | tokens before)`, in nats.
    pub total_nats: f64,
    /// Tokens that were predicted: all but the first of each stream.
    pub tokens: u64,
    /// Characters of the text after the first token; where tokens are words, white space between them included;
    /// where one is a part of a character, those that end after it.
    pub chars: u64,
    /// Bytes of these characters in UTF-8.
    pub bytes: u64,
}

impl LanguageModelScore {
    /// Mean loss in nats per token.
    pub fn loss_nats(&self) -> f64 {
        self.total_nats / self.tokens as f64
    }

    /// `exp(loss_nats)`, per token.
    pub fn perplexity(&self) -> f64 {
        self.loss_nats().exp()
    }

    /// Bits per character.
    pub fn bits_per_char(&self) -> f64 {
        self.total_nats / LN_2 / self.chars as f64
    }

    /// Bits per byte of UTF-8.
    pub fn bits_per_byte(&self) -> f64 {
        self.total_nats / LN_2 / self.bytes as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_in_the_measure_of_its_tokens() {
        let units = [Unit::Char, Unit::Word, Unit::Byte, Unit::Bpe];
        let [bits, perplexity, of_bytes, of_subwords] = units.map(|unit| UnitScore::of(unit, 3.0 * LN_2, 4.0));
        assert_eq!(bits.to_string(), "3.0000 bits/char");
        assert_eq!((of_bytes, of_subwords), (UnitScore::BitsPerByte(3.0), UnitScore::BitsPerByte(0.75)));
        assert_eq!(perplexity.to_string(), "8.00 perplexity/word");
        let json = serde_json::to_string(&UnitScore::BitsPerChar(1.5)).expect("JSON");
        assert_eq!(json, "{\"bits_per_char\":1.5}");
        let null = serde_json::from_str("{\"perplexity_per_word\":null}").expect("a score");
        assert!(matches!(null, UnitScore::PerplexityPerWord(value) if value.is_nan()));
    }

    #[test]
    fn a_fair_coin_costs_one_bit_and_has_perplexity_two() {
        let score = LanguageModelScore { total_nats: 10.0 * LN_2, tokens: 10, chars: 10, bytes: 30 };
        assert!((score.perplexity() - 2.0).abs() < 1e-12);
        assert!((score.bits_per_char() - 1.0).abs() < 1e-12);
        assert!((score.bits_per_byte() - 1.0 / 3.0).abs() < 1e-12);
    }
}
