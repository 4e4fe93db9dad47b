//! The extension trait and what it means.

use std::sync::Arc;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, TensorMetadata, backend_extension};
use refrain_kernels::{Cell, Direction, DropoutKey, Memory, Precision, ResetGate};

use super::composed;

/// What a recurrent layer is, beside its tensors.
#[derive(Clone, Debug)]
pub struct RecurrentSpec {
    /// Which equations.
    pub cell: Cell,
    /// In what the factors of large products may be kept.
    pub precision: Precision,
    /// Which way it goes over its sequences.
    pub direction: Direction,
    /// How much of the forward pass is kept for the way back.
    pub memory: Memory,
    /// The steps of each sequence; `None` where all are as long as the input.
    pub lengths: Option<Arc<[usize]>>,
    /// What is dropped and what zones out.
    pub masks: StepMasks,
    /// Where the reset gate of a GRU comes.
    pub reset: ResetGate,
}

impl RecurrentSpec {
    /// A plain layer.
    pub fn new(cell: Cell) -> Self {
        Self {
            cell,
            precision: Precision::F32,
            direction: Direction::Forward,
            memory: Memory::All,
            lengths: None,
            masks: StepMasks::default(),
            reset: ResetGate::default(),
        }
    }
}

/// What is dropped and what zones out: [`SequenceOptions`](refrain_kernels::SequenceOptions) says what it means, and in which
/// shapes events lie.
#[derive(Clone, Debug, Default)]
pub struct StepMasks {
    /// Recurrent dropout without memory loss.
    pub candidate_dropout: Option<DropMask>,
    /// Variational dropout of what the recurrent products read.
    pub hidden_dropout: Option<DropMask>,
    /// Zoneout of the hidden state.
    pub zoneout_hidden: Option<ZoneoutMask>,
    /// Zoneout of the cell state.
    pub zoneout_cell: Option<ZoneoutMask>,
}

/// Units that are dropped.
#[derive(Clone, Debug)]
pub struct DropMask {
    /// Which.
    pub events: Arc<[u32]>,
    /// What is left is multiplied with this.
    pub scale: f32,
}

/// Units that keep what they had.
#[derive(Clone, Debug)]
pub enum ZoneoutMask {
    /// Which.
    Sampled(Arc<[u32]>),
    /// All, this part of it.
    Expected(f32),
}

/// A recurrent layer over a whole sequence: what it is and what it reads.
///
/// `num_gates`, `num_recurrent_gates` and `num_biases` are those of the [`Cell`].
#[derive(Clone, Debug, ExtensionType)]
pub struct RecurrentSequence<B: Backend> {
    /// What it is.
    pub spec: RecurrentSpec,
    /// `[batch_size, seq_len, input_size]`
    pub input: FloatTensor<B>,
    /// `[num_gates * hidden_size, input_size]`
    pub weight_ih: FloatTensor<B>,
    /// `[num_recurrent_gates * hidden_size, hidden_size]`
    pub weight_hh: FloatTensor<B>,
    /// `[num_biases * hidden_size]`
    pub bias: FloatTensor<B>,
    /// The hidden state before the first step, `[batch_size, hidden_size]`.
    pub hidden: FloatTensor<B>,
    /// The cell state before the first step, `[batch_size, hidden_size]`, of a cell that has one.
    #[extension_type]
    pub cell_state: OptionalTensor<B>,
    /// Those of the input, forget and output gates, `[3 * hidden_size]`.
    #[extension_type]
    pub peepholes: OptionalTensor<B>,
    /// From the hidden units of an LSTM to its hidden state, `[projection_size, hidden_size]`; `weight_hh` and `hidden` are then of
    /// `projection_size` columns.
    #[extension_type]
    pub projection: OptionalTensor<B>,
    /// Gains of normalised sums of the input, `[num_gates * hidden_size]`: see [`LayerNorms`](crate::nn::LayerNorms).
    #[extension_type]
    pub gain_ih: OptionalTensor<B>,
    /// Gains of normalised sums of the state, `[num_gates * hidden_size]`.
    #[extension_type]
    pub gain_hh: OptionalTensor<B>,
    /// Gain and bias of the normalised cell state, `[2 * hidden_size]`.
    #[extension_type]
    pub norm_cell_state: OptionalTensor<B>,
}

/// A tensor that may not be there; Burn's extensions take no `Option` of one.
#[derive(Clone, Debug, ExtensionType)]
pub enum OptionalTensor<B: Backend> {
    /// There is none.
    Absent,
    /// There is this one.
    Present(FloatTensor<B>),
}

impl<B: Backend> OptionalTensor<B> {
    /// The tensor, if there is one.
    pub fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Self::Absent => None,
            Self::Present(tensor) => Some(tensor),
        }
    }

    /// Whether there is one.
    pub fn is_present(&self) -> bool {
        self.as_ref().is_some()
    }

    /// A reference to the tensor, if there is one.
    pub fn as_ref(&self) -> Option<&FloatTensor<B>> {
        match self {
            Self::Absent => None,
            Self::Present(tensor) => Some(tensor),
        }
    }

    /// The same with another tensor in it, of any backend.
    pub fn map<T: Backend>(self, of: impl FnOnce(FloatTensor<B>) -> FloatTensor<T>) -> OptionalTensor<T> {
        self.into_option().map(of).into()
    }
}

impl<B: Backend> From<Option<FloatTensor<B>>> for OptionalTensor<B> {
    fn from(tensor: Option<FloatTensor<B>>) -> Self {
        tensor.map_or(Self::Absent, Self::Present)
    }
}

impl<B: Backend> RecurrentSequence<B> {
    /// `[batch_size, seq_len, input_size, hidden_size]`.
    pub fn sizes(&self) -> [usize; 4] {
        let [batch_size, seq_len, input_size] = self.input.shape().dims();
        let [biases] = self.bias.shape().dims();
        [batch_size, seq_len, input_size, biases / self.spec.cell.num_biases()]
    }

    /// Units of the hidden state.
    pub fn state_size(&self) -> usize {
        let [_, state_size] = self.hidden.shape().dims();
        state_size
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
    /// A recurrent layer over whole sequences: the hidden state after each step, `[batch_size, seq_len, hidden_size]`, zeros
    /// after a sequence's end; and after its last step the hidden state, `[batch_size, hidden_size]`, and the cell state of
    /// a cell that has one.
    fn recurrent_sequence(
        #[extension_type] sequence: RecurrentSequence<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, Option<FloatTensor<Self>>) {
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

    /// Some rows of a matrix, in any order and as often as they are named: `[num_rows, row_size]`.
    ///
    /// # Shapes
    /// - `matrix`: `[matrix_rows, row_size]`, `rows`: `[num_rows]`
    fn select_rows(matrix: FloatTensor<Self>, rows: IntTensor<Self>) -> FloatTensor<Self> {
        Self::float_select(matrix, 0, rows)
    }

    /// Inverted dropout whose mask depends on `key` and the element's index alone.
    ///
    /// Each element is zero with `probability`, else divided by `1 - probability`. Any shape.
    fn keyed_dropout(input: FloatTensor<Self>, key: DropoutKey, probability: f32) -> FloatTensor<Self> {
        composed::keyed_dropout::<Self>(input, key, probability)
    }

    /// Inverted dropout of whole sequences' features: a mask `[batch_size, num_features]`, the same at every step, which depends
    /// on `key` alone.
    ///
    /// # Shapes
    /// - `input`: `[batch_size, seq_len, num_features]`
    fn variational_dropout(input: FloatTensor<Self>, key: DropoutKey, probability: f32) -> FloatTensor<Self> {
        composed::variational_dropout::<Self>(input, key, probability)
    }

    /// The features of two tensors side by side.
    ///
    /// # Shapes
    /// - `left`: `[batch_size, seq_len, left_size]`, `right`: `[batch_size, seq_len, right_size]`
    /// - output: `[batch_size, seq_len, left_size + right_size]`
    fn concat_features(left: FloatTensor<Self>, right: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_cat(vec![left, right], 2)
    }

    /// The mean cross entropy, in nats, of a linear head with softmax: shape `[1]`. First with targets of which the share
    /// `label_smoothing` of the probability is spread over all words alike, then without; only the first has gradients.
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
        label_smoothing: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let _ = precision; // The reference rounds nothing.
        composed::linear_cross_entropy::<Self>(hidden, weight, bias, targets, label_smoothing)
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
