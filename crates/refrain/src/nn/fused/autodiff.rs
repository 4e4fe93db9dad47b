//! The backward passes, for any backend that has the raw kernels.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, TensorMetadata};
use burn::tensor::Slice;
use refrain_kernels::{DropoutKey, Precision};

use super::op::{FusedOps, RecurrentSequence};

/// The gradient of each tensor of a [`RecurrentSequence`], where it was wanted.
#[derive(Debug)]
pub struct RecurrentGradients<B: Backend> {
    /// `[batch_size, seq_len, input_size]`
    pub input: Option<FloatTensor<B>>,
    /// `[num_gates * hidden_size, input_size]`
    pub weight_ih: Option<FloatTensor<B>>,
    /// `[num_recurrent_gates * hidden_size, hidden_size]`
    pub weight_hh: Option<FloatTensor<B>>,
    /// `[num_biases * hidden_size]`
    pub bias: Option<FloatTensor<B>>,
    /// `[batch_size, hidden_size]`
    pub hidden: Option<FloatTensor<B>>,
    /// `[batch_size, hidden_size]`
    pub cell_state: Option<FloatTensor<B>>,
    /// `[3 * hidden_size]`
    pub peepholes: Option<FloatTensor<B>>,
    /// `[projection_size, hidden_size]`
    pub projection: Option<FloatTensor<B>>,
    /// `[num_gates * hidden_size]`
    pub gain_ih: Option<FloatTensor<B>>,
    /// `[num_recurrent_gates * hidden_size]`
    pub gain_hh: Option<FloatTensor<B>>,
    /// `[2 * hidden_size]`
    pub norm_cell_state: Option<FloatTensor<B>>,
}

/// Which gradients the graph asks for: a carried state, say, is a constant and costs nothing.
#[expect(clippy::struct_excessive_bools, reason = "one flag for each of the eleven inputs, named after it")]
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
    /// Of `peepholes`; never where there are none, as of all that follow.
    pub peepholes: bool,
    /// Of `projection`.
    pub projection: bool,
    /// Of `gain_ih`.
    pub gain_ih: bool,
    /// Of `gain_hh`.
    pub gain_hh: bool,
    /// Of `norm_cell_state`.
    pub norm_cell_state: bool,
}

/// The gradients that come in; an absent one is zero.
#[derive(Debug)]
pub struct IncomingGradients<B: Backend> {
    /// `[batch_size, seq_len, hidden_size]`; a part of wider rows where both directions are one output.
    pub output: Option<FloatTensor<B>>,
    /// `[batch_size, hidden_size]`
    pub last_hidden: Option<FloatTensor<B>>,
    /// `[batch_size, hidden_size]`
    pub last_cell_state: Option<FloatTensor<B>>,
}

/// What a linear layer reads, beside its bias; shapes as [`FusedOps::linear`].
#[derive(Clone, Debug)]
pub struct LinearInputs<B: Backend> {
    /// In what the factors of the products may be kept.
    pub precision: Precision,
    /// `[rows, input_size]`
    pub input: FloatTensor<B>,
    /// `[output_size, input_size]`
    pub weight: FloatTensor<B>,
}

/// What [`FusedOps::recurrent_sequence`] gives.
pub type RecurrentOutputs<B> = (FloatTensor<B>, FloatTensor<B>, Option<FloatTensor<B>>);

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
    /// Of the probability of a target, what is spread over all words.
    pub label_smoothing: f32,
}

/// The gradients of the mean smoothed loss.
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

    /// As [`FusedOps::recurrent_sequence`], and the trace.
    fn recurrent_sequence_traced(sequence: &RecurrentSequence<Self>) -> (RecurrentOutputs<Self>, Self::RecurrentTrace);

    /// The wanted gradients.
    fn recurrent_sequence_backward(
        sequence: &RecurrentSequence<Self>,
        output: &FloatTensor<Self>,
        trace: &Self::RecurrentTrace,
        incoming: IncomingGradients<Self>,
        wanted: WantedGradients,
    ) -> RecurrentGradients<Self>;

    /// The gradients of a linear layer's input, weight and bias, those that are wanted.
    fn linear_backward(
        inputs: &LinearInputs<Self>,
        gradient: FloatTensor<Self>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<Self>>; 3];

    /// The gradient of a matrix of `matrix_rows` rows of which [`FusedOps::select_rows`] gave some: the sums of what came to each,
    /// and zeros.
    fn select_rows_backward(
        matrix_rows: usize,
        rows: &IntTensor<Self>,
        gradient: &FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// The mean loss, smoothed and not, and, in the same pass over the logits, the gradients of the first: the logits are never
    /// kept.
    fn linear_cross_entropy_with_gradients(inputs: &HeadInputs<Self>) -> ([FloatTensor<Self>; 2], HeadGradients<Self>);

    /// A gradient times a number, `[1]`, which is nearly always 1: a loss is where a backward pass begins. Then a large
    /// gradient need not be read and written once more.
    fn scaled(gradient: FloatTensor<Self>, factor: &FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The gradient of a last state on its way to the sequence's backward step: a step of Burn's graph has one output node, so each
/// last state is another node whose parent is the first, and leaves its gradient here.
type GradientSlot<B> = Arc<Mutex<Option<FloatTensor<B>>>>;

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[derive(Clone, Debug)]
struct SequenceState<B: FusedKernels> {
    sequence: RecurrentSequence<B>,
    output: FloatTensor<B>,
    trace: B::RecurrentTrace,
    last_hidden: GradientSlot<B>,
    last_cell_state: GradientSlot<B>,
}

/// Its parents are the tensors of a [`RecurrentSequence`] in order, those that are there.
///
/// Which optional ones those are follows from the sequence itself.
#[derive(Debug)]
struct SequenceBackward;

impl<B: FusedKernels, const PARENTS: usize> Backward<B, PARENTS> for SequenceBackward {
    type State = SequenceState<B>;

    fn backward(self, ops: Ops<Self::State, PARENTS>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad_output = grads.consume::<B>(&ops.node);
        let SequenceState { sequence, output, trace, last_hidden, last_cell_state } = ops.state;
        let mut parents = ops.parents.iter().map(Option::is_some);
        let mut wants = |is_there: bool| is_there && parents.next().unwrap_or(false);
        let wanted = WantedGradients {
            input: wants(true),
            weight_ih: wants(true),
            weight_hh: wants(true),
            bias: wants(true),
            hidden: wants(true),
            cell_state: wants(sequence.cell_state.is_present()),
            peepholes: wants(sequence.peepholes.is_present()),
            projection: wants(sequence.projection.is_present()),
            gain_ih: wants(sequence.gain_ih.is_present()),
            gain_hh: wants(sequence.gain_hh.is_present()),
            norm_cell_state: wants(sequence.norm_cell_state.is_present()),
        };
        let incoming = IncomingGradients {
            output: Some(grad_output),
            last_hidden: take(&last_hidden),
            last_cell_state: take(&last_cell_state),
        };
        let found = B::recurrent_sequence_backward(&sequence, &output, &trace, incoming, wanted);
        let optional = [
            (sequence.cell_state.is_present(), found.cell_state),
            (sequence.peepholes.is_present(), found.peepholes),
            (sequence.projection.is_present(), found.projection),
            (sequence.gain_ih.is_present(), found.gain_ih),
            (sequence.gain_hh.is_present(), found.gain_hh),
            (sequence.norm_cell_state.is_present(), found.norm_cell_state),
        ];
        let always = [found.input, found.weight_ih, found.weight_hh, found.bias, found.hidden];
        let present = optional.into_iter().filter_map(|(is_present, gradient)| is_present.then_some(gradient));
        for (node, gradient) in ops.parents.into_iter().zip(always.into_iter().chain(present)) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Clone, Debug)]
struct LastState<B: Backend> {
    /// Shares the sequence's output, for its shape and device.
    output: FloatTensor<B>,
    slot: GradientSlot<B>,
}

#[derive(Debug)]
struct LastStateBackward;

impl<B: FusedKernels> Backward<B, 1> for LastStateBackward {
    type State = LastState<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let LastState { output, slot } = ops.state;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradient);
        let [parent] = ops.parents;
        if let Some(node) = parent {
            // The sequence's step runs only if its node holds a gradient: give it one even when the loss reads nothing but
            // last states.
            let zeros = B::float_zeros(output.shape(), &output.device(), output.dtype().into());
            grads.register::<B>(node.id, zeros);
        }
    }
}

/// A kind of dropout whose mask is a function of a key.
type KeyedDropout<B> = fn(FloatTensor<B>, DropoutKey, f32) -> FloatTensor<B>;

#[derive(Debug)]
struct DropoutBackward<B: FusedKernels>(KeyedDropout<B>);

impl<B: FusedKernels> Backward<B, 1> for DropoutBackward<B> {
    type State = (DropoutKey, f32);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (key, probability) = ops.state;
        let [parent] = ops.parents;
        if let Some(node) = parent {
            // The mask is a function of the key: it is made again instead of kept.
            grads.register::<B>(node.id, self.0(gradient, key, probability));
        }
    }
}

#[derive(Debug)]
struct ConcatBackward;

impl<B: FusedKernels> Backward<B, 2> for ConcatBackward {
    type State = [usize; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let [left_size, right_size] = ops.state;
        for (node, features) in ops.parents.into_iter().zip([0..left_size, left_size..left_size + right_size]) {
            if let Some(node) = node {
                let features = [Slice::full(), Slice::full(), Slice::from(features)];
                grads.register::<B>(node.id, B::float_slice(gradient.clone(), &features));
            }
        }
    }
}

#[derive(Debug)]
struct LinearBackward;

impl<B: FusedKernels> Backward<B, 3> for LinearBackward {
    type State = LinearInputs<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        for (node, gradient) in ops.parents.into_iter().zip(B::linear_backward(&ops.state, gradient, wanted)) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct SelectRowsBackward;

impl<B: FusedKernels> Backward<B, 1> for SelectRowsBackward {
    type State = (usize, IntTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (matrix_rows, rows) = ops.state;
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::select_rows_backward(matrix_rows, &rows, &gradient));
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
) -> RecurrentOutputs<Autodiff<B, C>> {
    match SequenceBackward.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let ((output, hidden, cell_state), trace) = B::recurrent_sequence_traced(&sequence);
            let [last_hidden, last_cell_state] = [GradientSlot::<B>::default(), GradientSlot::<B>::default()];
            let state = SequenceState {
                sequence,
                output: output.clone(),
                trace,
                last_hidden: Arc::clone(&last_hidden),
                last_cell_state: Arc::clone(&last_cell_state),
            };
            let tracked = prep.finish(state, output.clone());
            let last = |state: FloatTensor<B>, slot: GradientSlot<B>| match LastStateBackward
                .prepare::<C>([tracked.node()])
                .compute_bound()
                .stateful()
            {
                OpsKind::Tracked(prep) => prep.finish(LastState { output: output.clone(), slot }, state),
                OpsKind::UnTracked(prep) => prep.finish(state),
            };
            let hidden = last(hidden, last_hidden);
            let cell_state = cell_state.map(|cell_state| last(cell_state, last_cell_state));
            (tracked, hidden, cell_state)
        }
        OpsKind::UnTracked(prep) => {
            let (output, hidden, cell_state) = B::recurrent_sequence(sequence);
            (prep.finish(output), Tracked::<B, C>::new(hidden), cell_state.map(Tracked::<B, C>::new))
        }
    }
}

fn dropout<B: FusedKernels, C: CheckpointStrategy>(
    of: KeyedDropout<B>,
    input: Tracked<B, C>,
    key: DropoutKey,
    probability: f32,
) -> Tracked<B, C> {
    let node = input.node();
    let output = of(input.into_primitive(), key, probability);
    match DropoutBackward(of).prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((key, probability), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

impl<B: FusedKernels, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn recurrent_sequence(
        sequence: RecurrentSequence<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let RecurrentSequence {
            spec,
            input,
            weight_ih,
            weight_hh,
            bias,
            hidden,
            cell_state,
            peepholes,
            projection,
            ..
        } = sequence;
        let (gain_ih, gain_hh, norm_cell_state) = (sequence.gain_ih, sequence.gain_hh, sequence.norm_cell_state);
        let mut parents: Vec<NodeGuard> =
            [&input, &weight_ih, &weight_hh, &bias, &hidden].map(Tracked::<B, C>::node).into();
        let optional = [&cell_state, &peepholes, &projection, &gain_ih, &gain_hh, &norm_cell_state];
        parents.extend(optional.into_iter().filter_map(|tensor| tensor.as_ref().map(Tracked::<B, C>::node)));
        let sequence = RecurrentSequence {
            spec,
            input: input.into_primitive(),
            weight_ih: weight_ih.into_primitive(),
            weight_hh: weight_hh.into_primitive(),
            bias: bias.into_primitive(),
            hidden: hidden.into_primitive(),
            cell_state: cell_state.map(Tracked::<B, C>::into_primitive),
            peepholes: peepholes.map(Tracked::<B, C>::into_primitive),
            projection: projection.map(Tracked::<B, C>::into_primitive),
            gain_ih: gain_ih.map(Tracked::<B, C>::into_primitive),
            gain_hh: gain_hh.map(Tracked::<B, C>::into_primitive),
            norm_cell_state: norm_cell_state.map(Tracked::<B, C>::into_primitive),
        };
        // A step of the graph has a constant number of parents.
        macro_rules! with_parents {
            ($($count:literal),*) => {
                match parents.len() {
                    $($count => {
                        let parents = <[NodeGuard; $count]>::try_from(parents).ok().expect("as many as counted");
                        recurrent_sequence::<B, C, $count>(parents, sequence)
                    })*
                    count => unreachable!("a sequence of {count} tensors"),
                }
            };
        }
        with_parents!(5, 6, 7, 8, 9, 10, 11)
    }

    fn linear(
        precision: Precision,
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [input.node(), weight.node(), bias.node()];
        let (input, weight) = (input.into_primitive(), weight.into_primitive());
        let output = <B as FusedOps>::linear(precision, input.clone(), weight.clone(), bias.into_primitive());
        match LinearBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(LinearInputs { precision, input, weight }, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn select_rows(matrix: FloatTensor<Self>, rows: IntTensor<Self>) -> FloatTensor<Self> {
        let node = matrix.node();
        let matrix = matrix.into_primitive();
        let [matrix_rows, _] = matrix.shape().dims();
        let output = B::select_rows(matrix, rows.clone());
        match SelectRowsBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((matrix_rows, rows), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn keyed_dropout(input: FloatTensor<Self>, key: DropoutKey, probability: f32) -> FloatTensor<Self> {
        dropout::<B, C>(B::keyed_dropout, input, key, probability)
    }

    fn variational_dropout(input: FloatTensor<Self>, key: DropoutKey, probability: f32) -> FloatTensor<Self> {
        dropout::<B, C>(B::variational_dropout, input, key, probability)
    }

    fn concat_features(left: FloatTensor<Self>, right: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [left.node(), right.node()];
        let (left, right) = (left.into_primitive(), right.into_primitive());
        let sizes = [&left, &right].map(|tensor| tensor.shape().dims::<3>()[2]);
        let output = B::concat_features(left, right);
        match ConcatBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(sizes, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn linear_cross_entropy(
        precision: Precision,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        label_smoothing: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [hidden.node(), weight.node(), bias.node()];
        let inputs = HeadInputs {
            precision,
            hidden: hidden.into_primitive(),
            weight: weight.into_primitive(),
            bias: bias.into_primitive(),
            targets,
            label_smoothing,
        };
        match LinearCrossEntropyBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let ([smoothed, plain], gradients) = B::linear_cross_entropy_with_gradients(&inputs);
                (prep.finish(gradients, smoothed), Self::from_inner(plain))
            }
            OpsKind::UnTracked(prep) => {
                let HeadInputs { precision, hidden, weight, bias, targets, label_smoothing } = inputs;
                let (smoothed, plain) =
                    B::linear_cross_entropy(precision, hidden, weight, bias, targets, label_smoothing);
                (prep.finish(smoothed), Self::from_inner(plain))
            }
        }
    }
}
