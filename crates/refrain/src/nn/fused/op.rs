//! The extension trait and what it means.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use refrain_kernels::DropoutKey;

use super::composed;

/// Operations over whole sequences that a backend may fuse.
///
/// All floats are `f32`. Every default body is the composed reference of [`composed`]; an implementation must agree
/// with it in the result and in every gradient.
// The macro recognises tensors by the literal names `FloatTensor` and `IntTensor`: an alias does not expand.
#[backend_extension(Flex, Autodiff)]
pub trait FusedOps: Backend {
    /// An LSTM layer over a whole sequence: `(output, last_cell_state)`.
    ///
    /// # Shapes
    /// - `input`: `[batch_size, seq_len, input_size]`
    /// - `weight_ih`: `[4 * hidden_size, input_size]`, `weight_hh`: `[4 * hidden_size, hidden_size]`,
    ///   `bias`: `[4 * hidden_size]`; gates in the order input, forget, candidate, output
    /// - `hidden`, `cell_state`: `[batch_size, hidden_size]`
    /// - output: `[batch_size, seq_len, hidden_size]`; last cell state: `[batch_size, hidden_size]`
    fn lstm_sequence(
        input: FloatTensor<Self>,
        weight_ih: FloatTensor<Self>,
        weight_hh: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        cell_state: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::lstm_sequence::<Self>(input, weight_ih, weight_hh, bias, hidden, cell_state)
    }

    /// `input · weightᵀ + bias`: `[rows, output_size]`.
    ///
    /// # Shapes
    /// - `input`: `[rows, input_size]`, `weight`: `[output_size, input_size]`, `bias`: `[output_size]`
    fn linear(input: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::linear::<Self>(input, weight, bias)
    }

    /// Inverted dropout whose mask depends on `key` and the element's index alone.
    ///
    /// Each element is zero with `probability`, else divided by `1 - probability`. Any shape.
    fn keyed_dropout(input: FloatTensor<Self>, key: DropoutKey, probability: f32) -> FloatTensor<Self> {
        composed::keyed_dropout::<Self>(input, key, probability)
    }

    /// The mean cross entropy, in nats, of a linear head with softmax: shape `[1]`.
    ///
    /// # Shapes
    /// - `hidden`: `[num_tokens, hidden_size]`, `weight`: `[vocab_size, hidden_size]`, `bias`: `[vocab_size]`,
    ///   `targets`: `[num_tokens]`
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::float_mean(composed::token_losses::<Self>(hidden, weight, bias, targets))
    }

    /// The cross entropy of each token, in nats: shape `[num_tokens]`; shapes as
    /// [`linear_cross_entropy`](FusedOps::linear_cross_entropy). For scoring, on a backend without gradients: with them it
    /// is the composed one, which holds all logits.
    fn token_losses(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        composed::token_losses::<Self>(hidden, weight, bias, targets)
    }
}
