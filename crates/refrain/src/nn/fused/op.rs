//! The extension trait and what it means.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, TensorMetadata, backend_extension};
use refrain_kernels::{Cell, DropoutKey, Precision};

use super::composed;

/// A recurrent layer over a whole sequence: what it is and what it reads.
///
/// `num_gates` and `num_biases` are those of the [`Cell`].
#[derive(Clone, Debug, ExtensionType)]
pub struct RecurrentSequence<B: Backend> {
    /// Which equations.
    pub cell: Cell,
    /// In what the factors of large products may be kept.
    pub precision: Precision,
    /// `[batch_size, seq_len, input_size]`
    pub input: FloatTensor<B>,
    /// `[num_gates * hidden_size, input_size]`
    pub weight_ih: FloatTensor<B>,
    /// `[num_gates * hidden_size, hidden_size]`
    pub weight_hh: FloatTensor<B>,
    /// `[num_biases * hidden_size]`
    pub bias: FloatTensor<B>,
    /// The hidden state before the first step, `[batch_size, hidden_size]`.
    pub hidden: FloatTensor<B>,
    /// The cell state before the first step.
    #[extension_type]
    pub cell_state: CellState<B>,
}

/// The cell state of a cell that has one; Burn's extensions take no `Option` of a tensor.
#[derive(Clone, Debug, ExtensionType)]
pub enum CellState<B: Backend> {
    /// The cell has none.
    Absent,
    /// `[batch_size, hidden_size]`
    Present(FloatTensor<B>),
}

impl<B: Backend> CellState<B> {
    /// The tensor, if there is one.
    pub fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Self::Absent => None,
            Self::Present(tensor) => Some(tensor),
        }
    }

    /// A reference to the tensor, if there is one.
    pub fn as_ref(&self) -> Option<&FloatTensor<B>> {
        match self {
            Self::Absent => None,
            Self::Present(tensor) => Some(tensor),
        }
    }

    /// The same with another tensor in it, of any backend.
    pub fn map<T: Backend>(self, of: impl FnOnce(FloatTensor<B>) -> FloatTensor<T>) -> CellState<T> {
        self.into_option().map(of).into()
    }
}

impl<B: Backend> From<Option<FloatTensor<B>>> for CellState<B> {
    fn from(tensor: Option<FloatTensor<B>>) -> Self {
        tensor.map_or(Self::Absent, Self::Present)
    }
}

impl<B: Backend> RecurrentSequence<B> {
    /// `[batch_size, seq_len, input_size, hidden_size]`.
    pub fn sizes(&self) -> [usize; 4] {
        let [batch_size, seq_len, input_size] = self.input.shape().dims();
        let [_, hidden_size] = self.hidden.shape().dims();
        [batch_size, seq_len, input_size, hidden_size]
    }
}

/// Operations over whole sequences that a backend may fuse.
///
/// All floats are `f32`. Every default body is the composed reference of [`composed`]; an implementation must agree
/// with it in the result and in every gradient. A [`Precision`] below `F32` allows an implementation to round the factors
/// of large products; it need not, and the reference does not.
// The macro recognises tensors by the literal names `FloatTensor` and `IntTensor`: an alias does not expand.
#[backend_extension(Flex, Autodiff)]
pub trait FusedOps: Backend {
    /// A recurrent layer over a whole sequence: the hidden state after each step, `[batch_size, seq_len, hidden_size]`, and
    /// the cell state after the last, `[batch_size, hidden_size]`, of a cell that has one.
    fn recurrent_sequence(
        #[extension_type] sequence: RecurrentSequence<Self>,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        composed::recurrent_sequence::<Self>(sequence)
    }

    /// `input · weightᵀ + bias`: `[rows, output_size]`.
    ///
    /// # Shapes
    /// - `input`: `[rows, input_size]`, `weight`: `[output_size, input_size]`, `bias`: `[output_size]`
    fn linear(
        precision: Precision,
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let _ = precision; // The reference rounds nothing.
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
        precision: Precision,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::float_mean(Self::token_losses(precision, hidden, weight, bias, targets))
    }

    /// The cross entropy of each token, in nats: shape `[num_tokens]`; shapes as
    /// [`linear_cross_entropy`](FusedOps::linear_cross_entropy). For scoring, on a backend without gradients: with them it
    /// is the composed one, which holds all logits.
    fn token_losses(
        precision: Precision,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let _ = precision; // The reference rounds nothing.
        composed::token_losses::<Self>(hidden, weight, bias, targets)
    }
}
