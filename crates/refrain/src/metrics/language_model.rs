//! How well a language model predicts a text.

use std::f64::consts::LN_2;

/// The cross entropy of a text, and what it can be divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LanguageModelScore {
    /// `-Σ ln P(token | tokens before)`, in nats.
    pub total_nats: f64,
    /// Tokens that were predicted: all but the first of each stream.
    pub tokens: u64,
    /// Characters that these tokens stand for.
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
    fn a_fair_coin_costs_one_bit_and_has_perplexity_two() {
        let score = LanguageModelScore { total_nats: 10.0 * LN_2, tokens: 10, chars: 10, bytes: 30 };
        assert!((score.perplexity() - 2.0).abs() < 1e-12);
        assert!((score.bits_per_char() - 1.0).abs() < 1e-12);
        assert!((score.bits_per_byte() - 1.0 / 3.0).abs() < 1e-12);
    }
}
