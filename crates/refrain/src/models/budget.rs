//! How many parameters a model has, and a model of as many as another.

use super::config::{CellKind, LanguageModelConfig};

/// The largest that a recipe takes.
const MAX_HIDDEN_SIZE: usize = 16_384;
const MAX_FEED_FORWARD_SIZE: usize = 65_536;

impl LanguageModelConfig {
    /// Numbers that training changes, embedding and head included.
    pub fn num_parameters(&self, vocab_size: usize) -> usize {
        self.shapes(vocab_size)
            .map(|(_, shape)| shape.into_iter().fold(1, usize::saturating_mul))
            .fold(0, usize::saturating_add)
    }

    /// The same model with the `hidden_size` by which its parameters are nearest to `budget`. A transformer's is one that its heads
    /// divide, with four times as many feed-forward units; these are then changed by what is left.
    #[must_use]
    pub fn with_parameters(&self, budget: usize, vocab_size: usize) -> Self {
        if self.cell != CellKind::Transformer {
            let sized = |size: usize| Self { hidden_size: size.into(), ..self.clone() };
            return nearest(MAX_HIDDEN_SIZE, budget, |size| sized(size).num_parameters(vocab_size), sized);
        }
        let unit = 2 * self.num_heads;
        let sized = |parts: usize| {
            let size = parts * unit;
            Self { hidden_size: size.into(), embedding_size: size, feed_forward_size: None, ..self.clone() }
        };
        let stream =
            nearest((MAX_HIDDEN_SIZE / unit).max(1), budget, |parts| sized(parts).num_parameters(vocab_size), sized);
        let filled = |units| Self { feed_forward_size: Some(units), ..stream.clone() };
        nearest(MAX_FEED_FORWARD_SIZE, budget, |units| filled(units).num_parameters(vocab_size), filled)
    }
}

/// What `made` makes of the number from 1 to `max` whose `count`, which grows with it, is nearest to `budget`.
fn nearest<T>(max: usize, budget: usize, count: impl Fn(usize) -> usize, made: impl Fn(usize) -> T) -> T {
    let (mut below, mut above) = (1, max);
    // The count of `below` is at most the budget, unless even that of 1 is more.
    while above - below > 1 {
        let middle = below.midpoint(above);
        if count(middle) <= budget { below = middle } else { above = middle }
    }
    made(if count(above).abs_diff(budget) < count(below).abs_diff(budget) { above } else { below })
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::models::{FeedForwardKind, NormalizationKind, PositionsKind};

    #[test]
    fn as_many_are_counted_as_there_are() {
        for &cell in CellKind::ALL {
            for variant in 0..3 {
                let mut config =
                    LanguageModelConfig { cell, embedding_size: 8, hidden_size: 8.into(), ..Default::default() };
                config.context = Some(9);
                if variant == 1 {
                    config.tied_embeddings = true;
                    config.peepholes = true;
                    config.positions = PositionsKind::Learned;
                }
                if variant == 2 {
                    config.normalization = NormalizationKind::Layer;
                    config.feed_forward = FeedForwardKind::SwiGlu;
                    config.coupled_gates = true;
                }
                let tensors = config.init(13, 1, &Device::flex()).to_tensors();
                let expected: usize = tensors.iter().map(|tensor| tensor.values.len()).sum();
                assert_eq!(config.num_parameters(13), expected, "{cell}, {variant}");
            }
        }
    }

    #[test]
    fn every_cell_comes_near_a_budget() {
        for &cell in CellKind::ALL {
            for num_layers in 1..=4 {
                let config = LanguageModelConfig { cell, num_layers, context: Some(64), ..Default::default() };
                let found = config.with_parameters(200_000, 65);
                let off = found.num_parameters(65).abs_diff(200_000);
                assert!(off < 3_000, "{num_layers} {cell}: {off}");
                let [less, more] = [-1isize, 1].map(|by| {
                    let mut other = found.clone();
                    match &mut other.feed_forward_size {
                        Some(units) => *units = units.saturating_add_signed(by),
                        None => other.hidden_size = other.hidden_size.of(0).saturating_add_signed(by).into(),
                    }
                    other.num_parameters(65).abs_diff(200_000)
                });
                assert!(off <= less && off <= more, "{num_layers} {cell}: {less}, {off}, {more}");
                assert!(found.conflict().is_none(), "{num_layers} {cell}");
            }
        }
    }

    #[test]
    fn a_budget_out_of_reach_gives_the_smallest_or_the_largest() {
        let config = LanguageModelConfig::default();
        assert_eq!(config.with_parameters(1, 65).hidden_size, 1.into());
        assert_eq!(config.with_parameters(usize::MAX, 65).hidden_size, MAX_HIDDEN_SIZE.into());
    }
}
