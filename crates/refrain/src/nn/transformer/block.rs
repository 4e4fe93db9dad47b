//! One block: self-attention, then a feed-forward layer, each on a normalised copy of the stream.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

use super::positions::Rotations;
use super::state::KeyValues;
use super::{EPSILON, FeedForward, TransformerConfig, Visibility, normalized};
use crate::nn::fused::transformer::{AttentionSpec, TransformerOps};
use crate::nn::{Initializer, Linear};

impl FeedForward {
    /// How many vectors of `feed_forward_size` the first product gives.
    pub(super) fn widths(self) -> usize {
        match self {
            Self::Gelu => 1,
            Self::SwiGlu => 2,
        }
    }
}

/// One block of a [`Transformer`](super::Transformer).
#[derive(Module, Debug)]
pub struct TransformerBlock {
    /// Before the attention.
    pub attention_norm: LayerNorm,
    /// Queries, keys and values of all heads, one below the other as in PyTorch: `[3 * hidden_size, hidden_size]`.
    pub attention_input: Linear,
    /// `W_o`: `[hidden_size, hidden_size]`.
    pub attention_output: Linear,
    /// Before the feed-forward layer.
    pub feed_forward_norm: LayerNorm,
    /// `W_1`: `[feed_forward_size, hidden_size]`; of [`FeedForward::SwiGlu`] `W_3` stands below it.
    pub feed_forward_input: Linear,
    /// `W_2`: `[hidden_size, feed_forward_size]`.
    pub feed_forward_output: Linear,
}

/// What the steps of one pass share in all blocks.
#[derive(Debug)]
pub(super) struct Steps {
    pub(super) num_heads: usize,
    pub(super) visibility: Visibility,
    pub(super) rotations: Option<Rotations>,
    /// Keys that no query may see: `[batch_size, key_len]`.
    pub(super) hidden: Option<Arc<[bool]>>,
}

impl TransformerBlock {
    pub(super) fn new(config: &TransformerConfig, init: &mut Initializer<'_>) -> Self {
        let TransformerConfig { hidden_size, feed_forward_size, num_layers, feed_forward, precision, .. } = *config;
        // Xavier for each of the matrices that lie one below the other: its fan-out is `output_size`, not that of all.
        let mut linear = |input_size: usize, output_size: usize, blocks: usize, scale: f64| Linear {
            weight: init
                .uniform([blocks * output_size, input_size], (6.0 / (input_size + output_size) as f64).sqrt() * scale),
            bias: init.constant(vec![0.0; blocks * output_size]),
            precision,
        };
        // Each block adds to the stream twice; so its variance at the top does not grow with their number.
        let added = 1.0 / ((2 * num_layers) as f64).sqrt();
        let attention_input = linear(hidden_size, hidden_size, 3, 1.0);
        let attention_output = linear(hidden_size, hidden_size, 1, added);
        let feed_forward_input = linear(hidden_size, feed_forward_size, feed_forward.widths(), 1.0);
        let feed_forward_output = linear(feed_forward_size, hidden_size, 1, added);
        let norm = LayerNormConfig::new(hidden_size).with_epsilon(EPSILON);
        Self {
            attention_norm: norm.init(init.device()),
            attention_input,
            attention_output,
            feed_forward_norm: norm.init(init.device()),
            feed_forward_input,
            feed_forward_output,
        }
    }

    pub(super) fn linears(&self) -> [&Linear; 4] {
        [&self.attention_input, &self.attention_output, &self.feed_forward_input, &self.feed_forward_output]
    }

    /// What attention adds to the stream, and, of a causal one, the keys and values for steps to come.
    ///
    /// # Shapes
    /// - `stream` and what is added: `[batch_size, seq_len, hidden_size]`
    pub(super) fn attend(
        &self,
        stream: Tensor<3>,
        steps: &Steps,
        past: Option<KeyValues>,
    ) -> (Tensor<3>, Option<KeyValues>) {
        let [batch_size, seq_len, hidden_size] = stream.dims();
        let num_heads = steps.num_heads;
        let head_size = hidden_size / num_heads;
        let projected = self.attention_input.forward_steps(normalized(&self.attention_norm, stream));
        let projected = match &steps.rotations {
            Some(rotations) => rotations.turn(projected, num_heads),
            None => projected,
        };
        let is_causal = steps.visibility == Visibility::Causal;
        let device = projected.device();
        let past = past.unwrap_or_else(|| KeyValues::none([batch_size, num_heads, head_size], &device));
        let context = <Dispatch as TransformerOps>::self_attention(
            AttentionSpec { num_heads, is_causal, hidden: steps.hidden.clone() },
            projected.clone().into_dispatch(),
            past.keys.clone().into_dispatch(),
            past.values.clone().into_dispatch(),
        );
        let memory = is_causal.then(|| {
            let heads = projected.reshape([batch_size, seq_len, 3 * num_heads, head_size]).swap_dims(1, 2);
            let [keys, values] = [1, 2].map(|part| heads.clone().narrow(1, part * num_heads, num_heads));
            past.and(keys, values)
        });
        (self.attention_output.forward_steps(Tensor::from_dispatch(context)), memory)
    }

    /// What the feed-forward layer adds to the stream; shapes as [`attend`](Self::attend).
    pub(super) fn feed_forward(&self, stream: Tensor<3>, kind: FeedForward) -> Tensor<3> {
        let units = self.feed_forward_input.forward_steps(normalized(&self.feed_forward_norm, stream));
        let units = match kind {
            FeedForward::Gelu => Tensor::from_dispatch(<Dispatch as TransformerOps>::exact_gelu(units.into_dispatch())),
            FeedForward::SwiGlu => {
                let [_, _, width] = units.dims();
                silu(units.clone().narrow(2, 0, width / 2)) * units.narrow(2, width / 2, width / 2)
            }
        };
        self.feed_forward_output.forward_steps(units)
    }
}
