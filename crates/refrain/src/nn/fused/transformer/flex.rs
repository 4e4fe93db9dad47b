//! The Flex backend's operations: views of its buffers handed to `refrain-kernels`.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use refrain_kernels::{
    AttentionGradients, AttentionInputs as KernelInputs, AttentionShape, Engine, LayerNormGradients, Rotation,
    attention, attention_backward, gelu, gelu_backward, layer_norm, layer_norm_backward, rotate_heads,
};

use super::{AttentionInputs, AttentionSpec, LayerNormInputs, RotationAngles, TransformerKernels, TransformerOps};
use crate::nn::fused::flex::{contiguous, slice, tensor};

type Float = FloatTensor<Flex>;

fn contiguous_inputs(inputs: &AttentionInputs<Flex>) -> (AttentionShape, AttentionInputs<Flex>) {
    let [batch_size, num_heads, seq_len, past_len, head_size] = inputs.sizes();
    let inputs = AttentionInputs {
        spec: inputs.spec.clone(),
        projected: contiguous(&inputs.projected),
        past_keys: contiguous(&inputs.past_keys),
        past_values: contiguous(&inputs.past_values),
    };
    (AttentionShape { batch_size, num_heads, head_size, seq_len, past_len }, inputs)
}

fn kernel_inputs(inputs: &AttentionInputs<Flex>) -> KernelInputs<'_> {
    KernelInputs {
        projected: slice(&inputs.projected),
        past: [slice(&inputs.past_keys), slice(&inputs.past_values)],
        hidden: inputs.spec.hidden.as_deref(),
        is_causal: inputs.spec.is_causal,
    }
}

fn rotated(angles: &RotationAngles, backwards: bool, projected: &Float) -> Float {
    let projected = contiguous(projected);
    let [batch_size, seq_len, width] = projected.shape().dims();
    let head_size = width / (3 * angles.num_heads);
    let engine = Engine::current();
    let mut output = engine.zeros(batch_size * seq_len * width);
    let rotation = Rotation { cosines: &angles.cosines, sines: &angles.sines, backwards };
    let sizes = [batch_size, seq_len, angles.num_heads, head_size];
    rotate_heads(&engine, sizes, rotation, slice(&projected), &mut output);
    tensor(output, [batch_size, seq_len, width])
}

impl TransformerOps for Flex {
    fn rotate_heads(angles: RotationAngles, projected: FloatTensor<Self>) -> FloatTensor<Self> {
        rotated(&angles, false, &projected)
    }

    fn self_attention(
        spec: AttentionSpec,
        projected: FloatTensor<Self>,
        past_keys: FloatTensor<Self>,
        past_values: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::self_attention_traced(&AttentionInputs { spec, projected, past_keys, past_values }).0
    }

    fn normalize_rows(
        epsilon: f32,
        input: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        shift: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (input, gain, shift) = (contiguous(&input), contiguous(&gain), contiguous(&shift));
        let engine = Engine::current();
        let mut output = engine.zeros(input.shape().num_elements());
        layer_norm(&engine, epsilon, slice(&input), slice(&gain), slice(&shift), &mut output);
        tensor(output, input.shape())
    }

    fn exact_gelu(input: FloatTensor<Self>) -> FloatTensor<Self> {
        let input = contiguous(&input);
        let engine = Engine::current();
        let mut output = engine.zeros(input.shape().num_elements());
        gelu(&engine, slice(&input), &mut output);
        tensor(output, input.shape())
    }
}

impl TransformerKernels for Flex {
    /// The logarithms of the softmax's divisors.
    type AttentionTrace = Arc<[f32]>;

    fn self_attention_traced(inputs: &AttentionInputs<Self>) -> (Float, Self::AttentionTrace) {
        let (shape, inputs) = contiguous_inputs(inputs);
        let AttentionShape { batch_size, num_heads, head_size, seq_len, .. } = shape;
        let engine = Engine::current();
        let mut output = engine.zeros(batch_size * seq_len * num_heads * head_size);
        let mut log_sums = vec![0.0; batch_size * num_heads * seq_len];
        attention(&engine, shape, kernel_inputs(&inputs), &mut output, &mut log_sums);
        (tensor(output, [batch_size, seq_len, num_heads * head_size]), log_sums.into())
    }

    fn self_attention_backward(
        inputs: &AttentionInputs<Self>,
        output: &Float,
        trace: &Self::AttentionTrace,
        gradient: &Float,
    ) -> [Float; 3] {
        let (shape, inputs) = contiguous_inputs(inputs);
        let (output, gradient) = (contiguous(output), contiguous(gradient));
        let engine = Engine::current();
        let [mut projected, mut keys, mut values] = [&inputs.projected, &inputs.past_keys, &inputs.past_values]
            .map(|of| engine.zeros(of.shape().num_elements()));
        let gradients = AttentionGradients { projected: &mut projected, past: [&mut keys, &mut values] };
        let known = [slice(&output), trace, slice(&gradient)];
        attention_backward(&engine, shape, kernel_inputs(&inputs), known, gradients);
        [
            tensor(projected, inputs.projected.shape()),
            tensor(keys, inputs.past_keys.shape()),
            tensor(values, inputs.past_values.shape()),
        ]
    }

    fn rotate_heads_backward(angles: &RotationAngles, gradient: &Float) -> Float {
        rotated(angles, true, gradient)
    }

    fn normalize_rows_backward(inputs: &LayerNormInputs<Self>, gradient: &Float) -> [Float; 3] {
        let LayerNormInputs { epsilon, input, gain } = inputs;
        let (input, gain, gradient) = (contiguous(input), contiguous(gain), contiguous(gradient));
        let engine = Engine::current();
        let mut to_input = engine.zeros(input.shape().num_elements());
        let [mut to_gain, mut to_shift] = [0; 2].map(|_| vec![0.0; gain.shape().num_elements()]);
        let gradients = LayerNormGradients { input: &mut to_input, gain: &mut to_gain, shift: &mut to_shift };
        layer_norm_backward(&engine, *epsilon, [slice(&input), slice(&gradient)], slice(&gain), gradients);
        [tensor(to_input, input.shape()), tensor(to_gain, gain.shape()), tensor(to_shift, gain.shape())]
    }

    fn exact_gelu_backward(input: &Float, gradient: &Float) -> Float {
        let (input, gradient) = (contiguous(input), contiguous(gradient));
        let engine = Engine::current();
        let mut output = engine.zeros(input.shape().num_elements());
        gelu_backward(&engine, slice(&input), slice(&gradient), &mut output);
        tensor(output, input.shape())
    }
}
