//! The backward passes, for any backend that has the raw kernels.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, TensorMetadata};
use refrain_kernels::{DropoutKey, Precision};

use super::op::{FusedOps, RecurrentSequence};

/// The gradient of each tensor of a [`RecurrentSequence`], where it was wanted.
#[derive(Debug)]
pub struct RecurrentGradients<B: Backend> {
    /// `[batch_size, seq_len, input_size]`
    pub input: Option<FloatTensor<B>>,
    /// `[num_gates * hidden_size, input_size]`
    pub weight_ih: Option<FloatTensor<B>>,
    /// `[num_gates * hidden_size, hidden_size]`
    pub weight_hh: Option<FloatTensor<B>>,
    /// `[num_biases * hidden_size]`
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
    /// Of `cell_state`; never of a cell that has none.
    pub cell_state: bool,
}

/// What the linear head with cross entropy reads; shapes as [`FusedOps::linear_cross_entropy`].
#[derive(Clone, Debug)]
pub struct HeadInputs<B: Backend> {
    /// In what the factors of the products may be kept.
    pub precision: Precision,
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
    /// What the backward pass of a recurrent layer needs of its forward pass.
    type RecurrentTrace: Clone + Debug + Send + Sync + 'static;

    /// As [`FusedOps::recurrent_sequence`], with the trace as the third.
    fn recurrent_sequence_traced(
        sequence: &RecurrentSequence<Self>,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>, Self::RecurrentTrace);

    /// The wanted gradients; an absent incoming gradient is zero.
    fn recurrent_sequence_backward(
        sequence: &RecurrentSequence<Self>,
        output: &FloatTensor<Self>,
        trace: &Self::RecurrentTrace,
        grad_output: Option<FloatTensor<Self>>,
        grad_last_cell_state: Option<FloatTensor<Self>>,
        wanted: WantedGradients,
    ) -> RecurrentGradients<Self>;

    /// The mean loss and, in the same pass over the logits, its gradients: the logits are never kept.
    fn linear_cross_entropy_with_gradients(inputs: &HeadInputs<Self>) -> (FloatTensor<Self>, HeadGradients<Self>);

    /// A gradient times a number, `[1]`, which is nearly always 1: a loss is where a backward pass begins. Then a large
    /// gradient need not be read and written once more.
    fn scaled(gradient: FloatTensor<Self>, factor: &FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The gradient of the last cell state on its way to the sequence's backward step: a step of Burn's graph has one output
/// node, so the cell state is a second node whose parent is the first, and leaves its gradient here.
type CellGradientSlot<B> = Arc<Mutex<Option<FloatTensor<B>>>>;

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[derive(Clone, Debug)]
struct SequenceState<B: FusedKernels> {
    sequence: RecurrentSequence<B>,
    output: FloatTensor<B>,
    trace: B::RecurrentTrace,
    grad_last_cell_state: CellGradientSlot<B>,
}

/// Its parents are the tensors of a [`RecurrentSequence`] in order: six, or five of a cell without a cell state.
#[derive(Debug)]
struct SequenceBackward;

impl<B: FusedKernels, const PARENTS: usize> Backward<B, PARENTS> for SequenceBackward {
    type State = SequenceState<B>;

    fn backward(self, ops: Ops<Self::State, PARENTS>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad_output = grads.consume::<B>(&ops.node);
        let SequenceState { sequence, output, trace, grad_last_cell_state } = ops.state;
        let wants = |parent: usize| ops.parents.get(parent).is_some_and(Option::is_some);
        let wanted = WantedGradients {
            input: wants(0),
            weight_ih: wants(1),
            weight_hh: wants(2),
            bias: wants(3),
            hidden: wants(4),
            cell_state: wants(5),
        };
        let grad_cell = take(&grad_last_cell_state);
        let found = B::recurrent_sequence_backward(&sequence, &output, &trace, Some(grad_output), grad_cell, wanted);
        let RecurrentGradients { input, weight_ih, weight_hh, bias, hidden, cell_state } = found;
        let found = [input, weight_ih, weight_hh, bias, hidden, cell_state];
        for (node, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Clone, Debug)]
struct LastCellState<B: Backend> {
    /// Shares the sequence's output, for its shape and device.
    output: FloatTensor<B>,
    grad_last_cell_state: CellGradientSlot<B>,
}

#[derive(Debug)]
struct LastCellBackward;

impl<B: FusedKernels> Backward<B, 1> for LastCellBackward {
    type State = LastCellState<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let LastCellState { output, grad_last_cell_state } = ops.state;
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
                grads.register::<B>(node.id, B::scaled(gradient, &scale));
            }
        }
    }
}

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// Runs a layer whose tensors have these nodes, with a trace where a gradient may be asked for.
fn recurrent_sequence<B: FusedKernels, C: CheckpointStrategy, const PARENTS: usize>(
    parents: [NodeGuard; PARENTS],
    sequence: RecurrentSequence<B>,
) -> (Tracked<B, C>, Option<Tracked<B, C>>) {
    match SequenceBackward.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (output, last_cell_state, trace) = B::recurrent_sequence_traced(&sequence);
            let slot = CellGradientSlot::<B>::default();
            let state =
                SequenceState { sequence, output: output.clone(), trace, grad_last_cell_state: Arc::clone(&slot) };
            let tracked = prep.finish(state, output.clone());
            let last_cell_state = last_cell_state.map(|last_cell_state| {
                match LastCellBackward.prepare::<C>([tracked.node()]).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => {
                        prep.finish(LastCellState { output, grad_last_cell_state: slot }, last_cell_state)
                    }
                    OpsKind::UnTracked(prep) => prep.finish(last_cell_state),
                }
            });
            (tracked, last_cell_state)
        }
        OpsKind::UnTracked(prep) => {
            let (output, last_cell_state) = B::recurrent_sequence(sequence);
            (prep.finish(output), last_cell_state.map(Tracked::<B, C>::new))
        }
    }
}

impl<B: FusedKernels, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn recurrent_sequence(sequence: RecurrentSequence<Self>) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let RecurrentSequence { cell, precision, input, weight_ih, weight_hh, bias, hidden, cell_state } = sequence;
        let parents = [&input, &weight_ih, &weight_hh, &bias, &hidden].map(Tracked::<B, C>::node);
        let sixth = cell_state.as_ref().map(Tracked::<B, C>::node);
        let sequence = RecurrentSequence {
            cell,
            precision,
            input: input.into_primitive(),
            weight_ih: weight_ih.into_primitive(),
            weight_hh: weight_hh.into_primitive(),
            bias: bias.into_primitive(),
            hidden: hidden.into_primitive(),
            cell_state: cell_state.map(Tracked::<B, C>::into_primitive),
        };
        match (parents, sixth) {
            (parents, None) => recurrent_sequence::<B, C, _>(parents, sequence),
            ([a, b, c, d, e], Some(f)) => recurrent_sequence::<B, C, _>([a, b, c, d, e, f], sequence),
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
        precision: Precision,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [hidden.node(), weight.node(), bias.node()];
        let inputs = HeadInputs {
            precision,
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
                let HeadInputs { precision, hidden, weight, bias, targets } = inputs;
                prep.finish(B::linear_cross_entropy(precision, hidden, weight, bias, targets))
            }
        }
    }
}
