//! What a transformer has beside its linear layers, as a Burn backend extension: as [`FusedOps`](super::FusedOps), in a trait of its
//! own.

mod autodiff;
pub mod composed;
mod flex;

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata, backend_extension};

pub use autodiff::{LayerNormInputs, TransformerKernels};

/// The angles by which the queries and keys of each step are turned.
#[derive(Clone, Debug)]
pub struct RotationAngles {
    /// `[sequences, seq_len, head_size / 2]`, of as many sequences as there are or of one for all.
    pub cosines: Arc<[f32]>,
    /// The same shape.
    pub sines: Arc<[f32]>,
    /// Parts of a step's vector.
    pub num_heads: usize,
}

/// What attention is, beside its tensors.
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// Parts of a step's vector, each of which attends by itself.
    pub num_heads: usize,
    /// Whether a step sees itself and what came before alone.
    pub is_causal: bool,
    /// Keys that no query may see, if there are any: `[batch_size, past_len + seq_len]`. Each query sees at least one.
    pub hidden: Option<Arc<[bool]>>,
}

/// Attention of a sequence to itself: what it is and what it reads.
#[derive(Clone, Debug)]
pub struct AttentionInputs<B: Backend> {
    /// What it is.
    pub spec: AttentionSpec,
    /// Queries, keys and values of all heads, side by side: `[batch_size, seq_len, 3 * num_heads * head_size]`.
    pub projected: FloatTensor<B>,
    /// The keys of the steps before: `[batch_size, num_heads, past_len, head_size]`.
    pub past_keys: FloatTensor<B>,
    /// Their values, of the same shape.
    pub past_values: FloatTensor<B>,
}

impl<B: Backend> AttentionInputs<B> {
    /// `[batch_size, num_heads, seq_len, past_len, head_size]`.
    pub fn sizes(&self) -> [usize; 5] {
        let [batch_size, seq_len, width] = self.projected.shape().dims();
        let [_, _, past_len, _] = self.past_keys.shape().dims();
        let num_heads = self.spec.num_heads;
        [batch_size, num_heads, seq_len, past_len, width / (3 * num_heads)]
    }
}

/// Operations of a transformer that a backend may fuse.
///
/// All floats are `f32`. Every default body is the reference of [`composed`]; an implementation must agree with it in the result
/// and in every gradient.
// The macro recognises tensors by the literal name `FloatTensor`: an alias does not expand.
#[backend_extension(Flex, Autodiff)]
pub trait TransformerOps: Backend {
    /// Rotary positions: each head's features `i` and `i + head_size / 2` of queries and keys turned by their angle; values stay.
    ///
    /// # Shapes
    /// - `projected` and output: `[batch_size, seq_len, 3 * num_heads * head_size]`
    fn rotate_heads(angles: RotationAngles, projected: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::rotate_heads::<Self>(&angles, projected)
    }

    /// `softmax(q kᵀ / sqrt(head_size)) v` of each head, the heads side by side: `[batch_size, seq_len, num_heads * head_size]`;
    /// shapes as [`AttentionInputs`].
    fn self_attention(
        spec: AttentionSpec,
        projected: FloatTensor<Self>,
        past_keys: FloatTensor<Self>,
        past_values: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        composed::self_attention::<Self>(AttentionInputs { spec, projected, past_keys, past_values })
    }

    /// `gain ∘ (x - mean) / sqrt(variance + epsilon) + shift` of each row.
    ///
    /// # Shapes
    /// - `input` and output: `[rows, size]`, `gain` and `shift`: `[size]`
    fn normalize_rows(
        epsilon: f32,
        input: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        shift: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::layer_norm(input, gain, Some(shift), epsilon.into())
    }

    /// `x Φ(x)` of each element, Φ being the normal distribution function, with the gradient of just that, as not all of Burn's backends have it. Any shape.
    fn exact_gelu(input: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::exact_gelu::<Self>(input)
    }
}
