//! The backward passes, for any backend that has the raw kernels.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, TensorMetadata};
use refrain_kernels::DropoutKey;

use super::op::FusedOps;

/// What an LSTM layer reads; shapes as [`FusedOps::lstm_sequence`].
#[derive(Clone, Debug)]
pub struct LstmSequenceInputs<B: Backend> {
    /// `[batch_size, seq_len, input_size]`
    pub input: FloatTensor<B>,
    /// `[4 * hidden_size, input_size]`
    pub weight_ih: FloatTensor<B>,
    /// `[4 * hidden_size, hidden_size]`
    pub weight_hh: FloatTensor<B>,
    /// `[4 * hidden_size]`
    pub bias: FloatTensor<B>,
    /// `[batch_size, hidden_size]`
    pub hidden: FloatTensor<B>,
    /// `[batch_size, hidden_size]`
    pub cell_state: FloatTensor<B>,
}

/// The gradient of each of [`LstmSequenceInputs`], where it was wanted.
#[derive(Debug)]
pub struct LstmSequenceGradients<B: Backend> {
    /// `[batch_size, seq_len, input_size]`
    pub input: Option<FloatTensor<B>>,
    /// `[4 * hidden_size, input_size]`
    pub weight_ih: Option<FloatTensor<B>>,
    /// `[4 * hidden_size, hidden_size]`
    pub weight_hh: Option<FloatTensor<B>>,
    /// `[4 * hidden_size]`
    pub bias: Option<FloatTensor<B>>,
    /// `[batch_size, hidden_size]`
    pub hidden: Option<FloatTensor<B>>,
    /// `[batch_size, hidden_size]`
    pub cell_state: Option<FloatTensor<B>>,
}

/// Which gradients the graph asks for: a carried state, say, is a constant and costs nothing.
#[expect(clippy::struct_excessive_bools, reason = "one flag for each of the six inputs, named after it")]
#[derive(Clone, Copy, Debug)]
pub struct WantedGradients {
    /// Of `input`.
    pub input: bool,
    /// Of `weight_ih`.
    pub weight_ih: bool,
    /// Of `weight_hh`.
    pub weight_hh: bool,
    /// Of `bias`.
    pub bias: bool,
    /// Of `hidden`.
    pub hidden: bool,
    /// Of `cell_state`.
    pub cell_state: bool,
}

/// What the linear head with cross entropy reads; shapes as [`FusedOps::linear_cross_entropy`].
#[derive(Clone, Debug)]
pub struct HeadInputs<B: Backend> {
    /// `[num_tokens, hidden_size]`
    pub hidden: FloatTensor<B>,
    /// `[vocab_size, hidden_size]`
    pub weight: FloatTensor<B>,
    /// `[vocab_size]`
    pub bias: FloatTensor<B>,
    /// `[num_tokens]`
    pub targets: IntTensor<B>,
}

/// The gradients of the mean loss.
#[derive(Clone, Debug)]
pub struct HeadGradients<B: Backend> {
    /// `[num_tokens, hidden_size]`
    pub hidden: FloatTensor<B>,
    /// `[vocab_size, hidden_size]`
    pub weight: FloatTensor<B>,
    /// `[vocab_size]`
    pub bias: FloatTensor<B>,
}

/// The raw kernels, forward with a trace and backward from it, that [`Autodiff`] needs of a concrete backend.
pub trait FusedKernels: FusedOps {
    /// What the LSTM's backward pass needs of its forward pass.
    type LstmTrace: Clone + Debug + Send + Sync + 'static;

    /// `(output, last_cell_state, trace)`.
    fn lstm_sequence_traced(
        inputs: &LstmSequenceInputs<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, Self::LstmTrace);

    /// The wanted gradients; an absent incoming gradient is zero.
    fn lstm_sequence_backward(
        inputs: &LstmSequenceInputs<Self>,
        output: &FloatTensor<Self>,
        trace: &Self::LstmTrace,
        grad_output: Option<FloatTensor<Self>>,
        grad_last_cell_state: Option<FloatTensor<Self>>,
        wanted: WantedGradients,
    ) -> LstmSequenceGradients<Self>;

    /// The mean loss and, in the same pass over the logits, its gradients: the logits are never kept.
    fn linear_cross_entropy_with_gradients(inputs: &HeadInputs<Self>) -> (FloatTensor<Self>, HeadGradients<Self>);
}

/// The gradient of the last cell state on its way to the sequence's backward step: a step of Burn's graph has one output
/// node, so the cell state is a second node whose parent is the first, and leaves its gradient here.
type CellGradientSlot<B> = Arc<Mutex<Option<FloatTensor<B>>>>;

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[derive(Clone, Debug)]
struct LstmState<B: FusedKernels> {
    inputs: LstmSequenceInputs<B>,
    output: FloatTensor<B>,
    trace: B::LstmTrace,
    grad_last_cell_state: CellGradientSlot<B>,
}

#[derive(Debug)]
struct LstmBackward;

impl<B: FusedKernels> Backward<B, 6> for LstmBackward {
    type State = LstmState<B>;

    fn backward(self, ops: Ops<Self::State, 6>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad_output = grads.consume::<B>(&ops.node);
        let LstmState { inputs, output, trace, grad_last_cell_state } = ops.state;
        let [input, weight_ih, weight_hh, bias, hidden, cell_state] = ops.parents;
        let wanted = WantedGradients {
            input: input.is_some(),
            weight_ih: weight_ih.is_some(),
            weight_hh: weight_hh.is_some(),
            bias: bias.is_some(),
            hidden: hidden.is_some(),
            cell_state: cell_state.is_some(),
        };
        let grad_cell = take(&grad_last_cell_state);
        let found = B::lstm_sequence_backward(&inputs, &output, &trace, Some(grad_output), grad_cell, wanted);
        let pairs = [
            (input, found.input),
            (weight_ih, found.weight_ih),
            (weight_hh, found.weight_hh),
            (bias, found.bias),
            (hidden, found.hidden),
            (cell_state, found.cell_state),
        ];
        for (node, gradient) in pairs {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Clone, Debug)]
struct CellState<B: Backend> {
    /// Shares the sequence's output, for its shape and device.
    output: FloatTensor<B>,
    grad_last_cell_state: CellGradientSlot<B>,
}

#[derive(Debug)]
struct CellBackward;

impl<B: FusedKernels> Backward<B, 1> for CellBackward {
    type State = CellState<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let CellState { output, grad_last_cell_state } = ops.state;
        *grad_last_cell_state.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradient);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            // The sequence's step runs only if its node holds a gradient: give it one even when the loss reads nothing but
            // the cell state.
            let zeros = B::float_zeros(output.shape(), &output.device(), output.dtype().into());
            grads.register::<B>(node.id, zeros);
        }
    }
}

#[derive(Debug)]
struct DropoutBackward;

impl<B: FusedKernels> Backward<B, 1> for DropoutBackward {
    type State = (DropoutKey, f32);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (key, probability) = ops.state;
        let [parent] = ops.parents;
        if let Some(node) = parent {
            // The mask is a function of the key: it is made again instead of kept.
            grads.register::<B>(node.id, B::keyed_dropout(gradient, key, probability));
        }
    }
}

#[derive(Debug)]
struct LinearCrossEntropyBackward;

impl<B: FusedKernels> Backward<B, 3> for LinearCrossEntropyBackward {
    type State = HeadGradients<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let scale = grads.consume::<B>(&ops.node); // [1]
        let [hidden, weight, bias] = ops.parents;
        let found = ops.state;
        for (node, gradient) in [(hidden, found.hidden), (weight, found.weight), (bias, found.bias)] {
            if let Some(node) = node {
                let ones = vec![1; gradient.shape().num_dims()];
                let scale = B::float_reshape(scale.clone(), ones.into());
                grads.register::<B>(node.id, B::float_mul(gradient, scale));
            }
        }
    }
}

impl<B: FusedKernels, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn lstm_sequence(
        input: FloatTensor<Self>,
        weight_ih: FloatTensor<Self>,
        weight_hh: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        cell_state: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [input.node(), weight_ih.node(), weight_hh.node(), bias.node(), hidden.node(), cell_state.node()];
        let inputs = LstmSequenceInputs {
            input: input.into_primitive(),
            weight_ih: weight_ih.into_primitive(),
            weight_hh: weight_hh.into_primitive(),
            bias: bias.into_primitive(),
            hidden: hidden.into_primitive(),
            cell_state: cell_state.into_primitive(),
        };
        match LstmBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (output, last_cell_state, trace) = B::lstm_sequence_traced(&inputs);
                let slot = CellGradientSlot::<B>::default();
                let state =
                    LstmState { inputs, output: output.clone(), trace, grad_last_cell_state: Arc::clone(&slot) };
                let sequence = prep.finish(state, output.clone());
                let cell = match CellBackward.prepare::<C>([sequence.node()]).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => {
                        prep.finish(CellState { output, grad_last_cell_state: slot }, last_cell_state)
                    }
                    OpsKind::UnTracked(prep) => prep.finish(last_cell_state),
                };
                (sequence, cell)
            }
            OpsKind::UnTracked(prep) => {
                let LstmSequenceInputs { input, weight_ih, weight_hh, bias, hidden, cell_state } = inputs;
                let (output, last_cell_state) = B::lstm_sequence(input, weight_ih, weight_hh, bias, hidden, cell_state);
                (prep.finish(output), FloatTensor::<Self>::new(last_cell_state))
            }
        }
    }

    fn keyed_dropout(input: FloatTensor<Self>, key: DropoutKey, probability: f32) -> FloatTensor<Self> {
        let node = input.node();
        let output = B::keyed_dropout(input.into_primitive(), key, probability);
        match DropoutBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((key, probability), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [hidden.node(), weight.node(), bias.node()];
        let inputs = HeadInputs {
            hidden: hidden.into_primitive(),
            weight: weight.into_primitive(),
            bias: bias.into_primitive(),
            targets,
        };
        match LinearCrossEntropyBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (loss, gradients) = B::linear_cross_entropy_with_gradients(&inputs);
                prep.finish(gradients, loss)
            }
            OpsKind::UnTracked(prep) => {
                let HeadInputs { hidden, weight, bias, targets } = inputs;
                prep.finish(B::linear_cross_entropy(hidden, weight, bias, targets))
            }
        }
    }
}
