//! The backward passes, for any backend that has the raw kernels.

use std::fmt::Debug;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};

use super::{AttentionInputs, AttentionSpec, RotationAngles, TransformerOps};

/// What the gradients of [`TransformerOps::normalize_rows`] need.
#[derive(Clone, Debug)]
pub struct LayerNormInputs<B: Backend> {
    /// What was added to the variances.
    pub epsilon: f32,
    /// `[rows, size]`
    pub input: FloatTensor<B>,
    /// `[size]`
    pub gain: FloatTensor<B>,
}

/// The raw kernels, forward with a trace and backward, that [`Autodiff`] needs of a concrete backend.
pub trait TransformerKernels: TransformerOps {
    /// What the backward pass of attention needs of its forward pass.
    type AttentionTrace: Clone + Debug + Send + Sync + 'static;

    /// As [`TransformerOps::self_attention`], and the trace.
    fn self_attention_traced(inputs: &AttentionInputs<Self>) -> (FloatTensor<Self>, Self::AttentionTrace);

    /// The gradients of queries, keys and values, of past keys and of past values.
    fn self_attention_backward(
        inputs: &AttentionInputs<Self>,
        output: &FloatTensor<Self>,
        trace: &Self::AttentionTrace,
        gradient: &FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];

    /// The gradient of what [`TransformerOps::rotate_heads`] read.
    fn rotate_heads_backward(angles: &RotationAngles, gradient: &FloatTensor<Self>) -> FloatTensor<Self>;

    /// The gradients of input, gain and shift.
    fn normalize_rows_backward(inputs: &LayerNormInputs<Self>, gradient: &FloatTensor<Self>) -> [FloatTensor<Self>; 3];

    /// The gradient of what [`TransformerOps::exact_gelu`] read.
    fn exact_gelu_backward(input: &FloatTensor<Self>, gradient: &FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Hands each parent that has a node its gradient.
fn register<B: Backend, S, const PARENTS: usize>(
    ops: Ops<S, PARENTS>,
    grads: &mut Gradients,
    found: [FloatTensor<B>; PARENTS],
) {
    for (node, gradient) in ops.parents.into_iter().zip(found) {
        if let Some(node) = node {
            grads.register::<B>(node.id, gradient);
        }
    }
}

#[derive(Debug)]
struct RotateHeadsBackward;

impl<B: TransformerKernels> Backward<B, 1> for RotateHeadsBackward {
    type State = RotationAngles;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let found = B::rotate_heads_backward(&ops.state, &gradient);
        register::<B, _, 1>(ops, grads, [found]);
    }
}

#[derive(Clone, Debug)]
struct AttentionState<B: TransformerKernels> {
    inputs: AttentionInputs<B>,
    output: FloatTensor<B>,
    trace: B::AttentionTrace,
}

#[derive(Debug)]
struct SelfAttentionBackward;

impl<B: TransformerKernels> Backward<B, 3> for SelfAttentionBackward {
    type State = AttentionState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let AttentionState { inputs, output, trace } = &ops.state;
        let found = B::self_attention_backward(inputs, output, trace, &gradient);
        register::<B, _, 3>(ops, grads, found);
    }
}

#[derive(Debug)]
struct NormalizeRowsBackward;

impl<B: TransformerKernels> Backward<B, 3> for NormalizeRowsBackward {
    type State = LayerNormInputs<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let found = B::normalize_rows_backward(&ops.state, &gradient);
        register::<B, _, 3>(ops, grads, found);
    }
}

#[derive(Debug)]
struct ExactGeluBackward;

impl<B: TransformerKernels> Backward<B, 1> for ExactGeluBackward {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let found = B::exact_gelu_backward(&ops.state, &gradient);
        register::<B, _, 1>(ops, grads, [found]);
    }
}

impl<B: TransformerKernels, C: CheckpointStrategy> TransformerOps for Autodiff<B, C> {
    fn rotate_heads(angles: RotationAngles, projected: FloatTensor<Self>) -> FloatTensor<Self> {
        let node = projected.node();
        let output = B::rotate_heads(angles.clone(), projected.into_primitive());
        match RotateHeadsBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(angles, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn self_attention(
        spec: AttentionSpec,
        projected: FloatTensor<Self>,
        past_keys: FloatTensor<Self>,
        past_values: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [projected.node(), past_keys.node(), past_values.node()];
        let [projected, past_keys, past_values] =
            [projected, past_keys, past_values].map(FloatTensor::<Self>::into_primitive);
        let inputs = AttentionInputs { spec, projected, past_keys, past_values };
        let (output, trace) = B::self_attention_traced(&inputs);
        match SelfAttentionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(AttentionState { inputs, output: output.clone(), trace }, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn normalize_rows(
        epsilon: f32,
        input: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        shift: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [input.node(), gain.node(), shift.node()];
        let [input, gain, shift] = [input, gain, shift].map(FloatTensor::<Self>::into_primitive);
        let output = B::normalize_rows(epsilon, input.clone(), gain.clone(), shift);
        match NormalizeRowsBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(LayerNormInputs { epsilon, input, gain }, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn exact_gelu(input: FloatTensor<Self>) -> FloatTensor<Self> {
        let node = input.node();
        let input = input.into_primitive();
        let output = B::exact_gelu(input.clone());
        match ExactGeluBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(input, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}
