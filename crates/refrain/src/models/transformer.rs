//! A transformer in the place of the recurrent layers, and how it reads a text longer than its context.

use burn::tensor::{Int, Tensor};

use super::HiddenSize;
use super::config::{CellKind, FeedForwardKind, LanguageModelConfig, PositionsKind};
use crate::nn::{DropoutSchedule, Embedding, Positions, Transformer, TransformerConfig, TransformerState};

impl LanguageModelConfig {
    /// The blocks; none of a recurrent cell.
    pub(super) fn transformer(&self) -> Option<TransformerConfig> {
        (self.cell == CellKind::Transformer).then(|| {
            let defaults = TransformerConfig::new(self.hidden_size.of(0), self.num_heads, self.num_layers);
            TransformerConfig {
                feed_forward_size: self.feed_forward_size.unwrap_or(defaults.feed_forward_size),
                feed_forward: self.feed_forward.into(),
                positions: match self.positions {
                    PositionsKind::Rotary => defaults.positions,
                    PositionsKind::Learned => Positions::Learned { max_len: self.context.unwrap_or_default() },
                },
                dropout: self.dropout,
                precision: self.precision.into(),
                ..defaults
            }
        })
    }

    /// As [`conflict`](Self::conflict), of a transformer.
    pub(super) fn transformer_conflict(&self) -> Option<(&'static str, String, String)> {
        let Self { embedding_size, num_heads, positions, context, .. } = *self;
        let HiddenSize::Same(hidden_size) = self.hidden_size else {
            return Some((
                "hidden-size",
                format!(
                    "the blocks of a transformer are as wide as its stream, and `model.hidden-size` is {}",
                    self.hidden_size
                ),
                format!("set model.hidden-size = {embedding_size}"),
            ));
        };
        if embedding_size != hidden_size {
            return Some((
                "hidden-size",
                format!("a transformer of {hidden_size} features cannot add to embeddings of {embedding_size}"),
                "in code, set embedding_size to hidden_size; a recipe does".to_owned(),
            ));
        }
        // Rotary positions turn pairs of features.
        let unit = if positions == PositionsKind::Rotary { 2 * num_heads } else { num_heads };
        if !hidden_size.is_multiple_of(unit) {
            let pairs = if unit == num_heads { "" } else { " of pairs of features" };
            return Some((
                "num-heads",
                format!(
                    "`model.hidden-size` {hidden_size} cannot be cut into `model.num-heads` {num_heads} heads{pairs}"
                ),
                format!("set model.hidden-size = {}, a multiple of {unit}", hidden_size.next_multiple_of(unit)),
            ));
        }
        context.is_none().then(|| {
            (
                "context",
                "a transformer needs a `model.context` above 0".to_owned(),
                "in code, set it to train.seq_len; a recipe does".to_owned(),
            )
        })
    }

    /// The shapes of a block's parameters.
    pub(super) fn block_shapes(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        let size = self.hidden_size.of(layer);
        let units = self.feed_forward_size.unwrap_or(size.saturating_mul(4));
        let read = match self.feed_forward {
            FeedForwardKind::Gelu => units,
            FeedForwardKind::SwiGlu => units.saturating_mul(2),
        };
        let norms = ["attention_norm", "feed_forward_norm"]
            .into_iter()
            .flat_map(|norm| [(format!("{norm}.gamma"), vec![size]), (format!("{norm}.beta"), vec![size])]);
        let linears = [
            ("attention_input", size.saturating_mul(3), size),
            ("attention_output", size, size),
            ("feed_forward_input", read, size),
            ("feed_forward_output", size, units),
        ];
        let linears = linears.into_iter().flat_map(|(linear, rows, columns)| {
            [(format!("{linear}.weight"), vec![rows, columns]), (format!("{linear}.bias"), vec![rows])]
        });
        norms.chain(linears).map(|(name, shape)| (format!("transformer.layers.{layer}.{name}"), shape)).collect()
    }

    /// The shapes of what a transformer has beside its blocks.
    pub(super) fn shapes_around_blocks(&self) -> Vec<(String, Vec<usize>)> {
        if self.cell != CellKind::Transformer {
            return Vec::new();
        }
        let norm = ["gamma", "beta"].map(|part| (format!("transformer.norm.{part}"), vec![self.hidden_size.of(0)]));
        let places = vec![self.context.unwrap_or_default(), self.hidden_size.of(0)];
        let learned = self.positions == PositionsKind::Learned;
        let positions = learned.then(|| ("transformer.positions.weight".to_owned(), places));
        norm.into_iter().chain(positions).collect()
    }
}

/// What a transformer sees of each sequence: its last tokens, and their keys and values.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `[batch_size, seen]`, at least one and at most `context` of them.
    tokens: Tensor<2, Int>,
    cache: TransformerState,
}

impl Seen {
    pub(super) fn detach(self) -> Self {
        Self { cache: self.cache.detach(), ..self }
    }

    fn len(&self) -> usize {
        self.tokens.dims()[1]
    }
}

/// Reads a text of any length with a transformer that sees `context` tokens at once.
///
/// When it has seen as many, it forgets the older half and reads the newer one again as if the text began there. So a token is
/// predicted from at least half a context, at positions that training has known; what is read, by how much at a time,
/// changes none of it.
pub(super) struct ContextReader<'a> {
    pub(super) embedding: &'a Embedding,
    pub(super) transformer: &'a Transformer,
    pub(super) context: usize,
}

impl ContextReader<'_> {
    /// The outputs for some tokens, at least one, that follow those seen.
    ///
    /// # Shapes
    /// - `tokens`: `[batch_size, seq_len]`
    /// - `embedded`, after dropout, and output: `[batch_size, seq_len, hidden_size]`
    pub(super) fn read(
        &self,
        mut tokens: Tensor<2, Int>,
        mut embedded: Tensor<3>,
        mut seen: Option<Seen>,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<3>, Seen) {
        let mut outputs = Vec::new();
        loop {
            let [_, left] = tokens.dims();
            let past = seen.and_then(|seen| self.with_room(seen));
            let len = (self.context - past.as_ref().map_or(0, Seen::len)).min(left);
            let (before, cache) = past.map(|Seen { tokens, cache }| (tokens, cache)).unzip();
            let (output, cache) = self.transformer.forward(embedded.clone().narrow(1, 0, len), None, cache, schedule);
            outputs.push(output);
            let read = tokens.clone().narrow(1, 0, len);
            let read = match before {
                Some(before) => Tensor::cat(vec![before, read], 1),
                None => read,
            };
            let now = Seen { tokens: read, cache };
            if len == left {
                let output = if outputs.len() == 1 { outputs.remove(0) } else { Tensor::cat(outputs, 1) };
                return (output, now);
            }
            tokens = tokens.narrow(1, len, left - len);
            embedded = embedded.narrow(1, len, left - len);
            seen = Some(now);
        }
    }

    /// What is seen once room is made for one more token, if anything is.
    fn with_room(&self, seen: Seen) -> Option<Seen> {
        if seen.len() < self.context {
            return Some(seen);
        }
        let kept = self.context / 2;
        (kept > 0).then(|| {
            let tokens = seen.tokens.narrow(1, self.context - kept, kept);
            let (_, cache) = self.transformer.forward(self.embedding.forward(tokens.clone()), None, None, None);
            Seen { tokens, cache }
        })
    }
}
