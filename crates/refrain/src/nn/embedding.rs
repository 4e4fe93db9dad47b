//! Tokens to vectors.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, module::embedding};

use super::Initializer;

/// Configuration of an [`Embedding`].
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingConfig {
    /// How many tokens there are.
    pub vocab_size: usize,
    /// The length of each token's vector.
    pub embedding_size: usize,
}

impl EmbeddingConfig {
    /// Standard normal vectors, PyTorch's default.
    pub fn init(&self, init: &mut Initializer<'_>) -> Embedding {
        Embedding { weight: init.normal([self.vocab_size, self.embedding_size], 1.0) }
    }
}

/// A table with one learned vector a token.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocab_size, embedding_size]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Looks tokens up.
    ///
    /// # Shapes
    /// - `tokens`: `[batch_size, seq_len]`
    /// - output: `[batch_size, seq_len, embedding_size]`
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        embedding(self.weight.val(), tokens)
    }
}
