//! Tokens to vectors.

use burn::backend::Dispatch;
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use super::Initializer;
use super::fused::FusedOps;

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
        let ([batch_size, seq_len], [_, embedding_size]) = (tokens.dims(), self.weight.dims());
        if batch_size * seq_len == 0 {
            // A size of 0 handed to a reshape means the size as it was.
            return Tensor::zeros([batch_size, seq_len, embedding_size], &tokens.device());
        }
        select_rows(self.weight.val(), tokens.flatten(0, 1)).reshape([batch_size, seq_len, embedding_size])
    }
}

/// Some rows of a matrix: `[num_rows, row_size]`.
///
/// # Shapes
/// - `matrix`: `[matrix_rows, row_size]`
/// - `rows`: `[num_rows]`
pub(crate) fn select_rows(matrix: Tensor<2>, rows: Tensor<1, Int>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::select_rows(matrix.into_dispatch(), rows.into_dispatch()))
}
