//! The Flex backend's operations: views of its buffers handed to `refrain-kernels`.

use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Shape, TensorData};
use refrain_kernels::{
    DropoutKey, Engine, LinearCrossEntropy, LinearCrossEntropyGradients, MatMut, MatRef, OutputGradients, Precision,
    SequenceGradients, SequenceInputs, SequenceOutputs, SequenceShape, SequenceTrace, dropout, linear_cross_entropy,
    matmul_bias, sequence_backward, sequence_forward, sequence_forward_traced,
};

use super::autodiff::{FusedKernels, HeadGradients, HeadInputs, RecurrentGradients, WantedGradients};
use super::op::{FusedOps, RecurrentSequence};

type Float = FloatTensor<Flex>;

/// A contiguous copy-free view where the layout allows it, else a contiguous copy that the caller keeps alive.
fn contiguous(tensor: &Float) -> Float {
    if tensor.is_contiguous() { tensor.clone() } else { tensor.to_contiguous() }
}

fn slice(tensor: &Float) -> &[f32] {
    tensor.as_slice::<f32>().expect("fused operations take contiguous f32 tensors")
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Float {
    Float::from_data(TensorData::new(values, shape.into()))
}

fn token_ids(targets: &IntTensor<Flex>, vocab_size: usize) -> Vec<u32> {
    let targets = targets.to_contiguous();
    let ids: Vec<i64> = match targets.dtype() {
        DType::I64 => targets.as_slice::<i64>().expect("contiguous").to_vec(),
        DType::I32 => targets.as_slice::<i32>().expect("contiguous").iter().map(|&id| i64::from(id)).collect(),
        other => panic!("targets must be i32 or i64 tokens, not {other:?}"),
    };
    ids.into_iter()
        .map(|id| {
            let token = u32::try_from(id).ok().filter(|&token| (token as usize) < vocab_size);
            token.unwrap_or_else(|| panic!("target {id} is not below the vocabulary's size {vocab_size}"))
        })
        .collect()
}

fn sequence_shape(sequence: &RecurrentSequence<Flex>) -> SequenceShape {
    let [batch_size, seq_len, input_size, hidden_size] = sequence.sizes();
    SequenceShape { cell: sequence.cell, batch_size, seq_len, input_size, hidden_size }
}

fn sequence_inputs(sequence: &RecurrentSequence<Flex>) -> SequenceInputs<'_> {
    SequenceInputs {
        input: slice(&sequence.input),
        weight_ih: slice(&sequence.weight_ih),
        weight_hh: slice(&sequence.weight_hh),
        bias: slice(&sequence.bias),
        hidden: slice(&sequence.hidden),
        cell_state: sequence.cell_state.as_ref().map_or(&[], slice),
    }
}

fn contiguous_sequence(sequence: &RecurrentSequence<Flex>) -> RecurrentSequence<Flex> {
    RecurrentSequence {
        cell: sequence.cell,
        precision: sequence.precision,
        input: contiguous(&sequence.input),
        weight_ih: contiguous(&sequence.weight_ih),
        weight_hh: contiguous(&sequence.weight_hh),
        bias: contiguous(&sequence.bias),
        hidden: contiguous(&sequence.hidden),
        cell_state: sequence.cell_state.as_ref().map(contiguous).into(),
    }
}

/// Runs a forward pass into fresh tensors: `(output, last_cell_state, what `run` gives)`.
fn sequence_outputs<R>(
    sequence: &RecurrentSequence<Flex>,
    run: impl FnOnce(&Engine, Precision, SequenceShape, SequenceInputs, SequenceOutputs) -> R,
) -> (Float, Option<Float>, R) {
    let sequence = contiguous_sequence(sequence);
    let shape = sequence_shape(&sequence);
    let SequenceShape { cell, batch_size, seq_len, hidden_size, .. } = shape;
    let mut output = vec![0.0; batch_size * seq_len * hidden_size];
    let mut last_cell_state = vec![0.0; if cell.has_cell_state() { batch_size * hidden_size } else { 0 }];
    let outputs = SequenceOutputs { output: &mut output, last_cell_state: &mut last_cell_state };
    let result = run(&Engine::current(), sequence.precision, shape, sequence_inputs(&sequence), outputs);
    let last_cell_state = cell.has_cell_state().then(|| tensor(last_cell_state, [batch_size, hidden_size]));
    (tensor(output, [batch_size, seq_len, hidden_size]), last_cell_state, result)
}

impl FusedOps for Flex {
    fn recurrent_sequence(sequence: RecurrentSequence<Self>) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let (output, last_cell_state, ()) = sequence_outputs(&sequence, sequence_forward);
        (output, last_cell_state)
    }

    fn linear(
        precision: Precision,
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [rows, input_size] = input.shape().dims();
        let [output_size] = bias.shape().dims();
        let (input, weight, bias) = (contiguous(&input), contiguous(&weight), contiguous(&bias));
        let mut output = vec![0.0; rows * output_size];
        matmul_bias(
            &Engine::current(),
            precision,
            MatRef::row_major(slice(&input), rows, input_size),
            MatRef::row_major(slice(&weight), output_size, input_size).transposed(),
            slice(&bias),
            MatMut::row_major(&mut output, rows, output_size),
        );
        tensor(output, [rows, output_size])
    }

    fn keyed_dropout(input: FloatTensor<Self>, key: DropoutKey, probability: f32) -> FloatTensor<Self> {
        let input = contiguous(&input);
        let mut output = vec![0.0; input.shape().num_elements()];
        dropout(&Engine::current(), key, probability, slice(&input), &mut output);
        tensor(output, input.shape())
    }

    fn linear_cross_entropy(
        precision: Precision,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let losses = Self::token_losses(precision, hidden, weight, bias, targets);
        tensor(vec![mean(slice(&losses))], [1])
    }

    fn token_losses(
        precision: Precision,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let losses = head_losses(&HeadInputs { precision, hidden, weight, bias, targets }, None);
        let num_tokens = losses.len();
        tensor(losses, [num_tokens])
    }
}

fn mean(losses: &[f32]) -> f32 {
    (losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64) as f32
}

fn head_losses(inputs: &HeadInputs<Flex>, gradients: Option<LinearCrossEntropyGradients<'_>>) -> Vec<f32> {
    let [num_tokens, hidden_size] = inputs.hidden.shape().dims();
    let [vocab_size] = inputs.bias.shape().dims();
    let (hidden, weight) = (contiguous(&inputs.hidden), contiguous(&inputs.weight));
    let bias = contiguous(&inputs.bias);
    let targets = token_ids(&inputs.targets, vocab_size);
    let args = LinearCrossEntropy {
        hidden: slice(&hidden),
        weight: slice(&weight),
        bias: slice(&bias),
        targets: &targets,
        hidden_size,
        vocab_size,
    };
    let mut losses = vec![0.0; num_tokens];
    linear_cross_entropy(&Engine::current(), inputs.precision, args, &mut losses, gradients);
    losses
}

impl FusedKernels for Flex {
    type RecurrentTrace = Arc<SequenceTrace>;

    fn recurrent_sequence_traced(sequence: &RecurrentSequence<Self>) -> (Float, Option<Float>, Self::RecurrentTrace) {
        let (output, last_cell_state, trace) = sequence_outputs(sequence, sequence_forward_traced);
        (output, last_cell_state, Arc::new(trace))
    }

    fn recurrent_sequence_backward(
        sequence: &RecurrentSequence<Self>,
        output: &Float,
        trace: &Self::RecurrentTrace,
        grad_output: Option<Float>,
        grad_last_cell_state: Option<Float>,
        wanted: WantedGradients,
    ) -> RecurrentGradients<Self> {
        let sequence = contiguous_sequence(sequence);
        let shape = sequence_shape(&sequence);
        let SequenceShape { cell, batch_size, seq_len, input_size, hidden_size } = shape;
        let (gates, biases) = (cell.num_gates() * hidden_size, cell.num_biases() * hidden_size);
        let grad_output = grad_output.map(|grad| contiguous(&grad));
        let grad_last_cell_state = grad_last_cell_state.map(|grad| contiguous(&grad));
        let buffer = |wanted: bool, len: usize| wanted.then(|| vec![0.0f32; len]);
        let mut input = buffer(wanted.input, batch_size * seq_len * input_size);
        let mut weight_ih = buffer(wanted.weight_ih, gates * input_size);
        let mut weight_hh = buffer(wanted.weight_hh, gates * hidden_size);
        let mut bias = buffer(wanted.bias, biases);
        let mut hidden = buffer(wanted.hidden, batch_size * hidden_size);
        let mut cell_state = buffer(wanted.cell_state, batch_size * hidden_size);
        sequence_backward(
            &Engine::current(),
            sequence.precision,
            shape,
            sequence_inputs(&sequence),
            slice(output),
            trace,
            OutputGradients {
                output: grad_output.as_ref().map(slice),
                last_cell_state: grad_last_cell_state.as_ref().map(slice),
            },
            SequenceGradients {
                input: input.as_deref_mut(),
                weight_ih: weight_ih.as_deref_mut(),
                weight_hh: weight_hh.as_deref_mut(),
                bias: bias.as_deref_mut(),
                hidden: hidden.as_deref_mut(),
                cell_state: cell_state.as_deref_mut(),
            },
        );
        RecurrentGradients {
            input: input.map(|values| tensor(values, [batch_size, seq_len, input_size])),
            weight_ih: weight_ih.map(|values| tensor(values, [gates, input_size])),
            weight_hh: weight_hh.map(|values| tensor(values, [gates, hidden_size])),
            bias: bias.map(|values| tensor(values, [biases])),
            hidden: hidden.map(|values| tensor(values, [batch_size, hidden_size])),
            cell_state: cell_state.map(|values| tensor(values, [batch_size, hidden_size])),
        }
    }

    fn linear_cross_entropy_with_gradients(inputs: &HeadInputs<Self>) -> (Float, HeadGradients<Self>) {
        let [num_tokens, hidden_size] = inputs.hidden.shape().dims();
        let [vocab_size] = inputs.bias.shape().dims();
        let mut hidden = vec![0.0; num_tokens * hidden_size];
        let mut weight = vec![0.0; vocab_size * hidden_size];
        let mut bias = vec![0.0; vocab_size];
        let gradients = LinearCrossEntropyGradients { hidden: &mut hidden, weight: &mut weight, bias: &mut bias };
        let losses = head_losses(inputs, Some(gradients));
        let gradients = HeadGradients {
            hidden: tensor(hidden, [num_tokens, hidden_size]),
            weight: tensor(weight, [vocab_size, hidden_size]),
            bias: tensor(bias, [vocab_size]),
        };
        (tensor(vec![mean(&losses)], [1]), gradients)
    }

    fn scaled(gradient: Float, factor: &Float) -> Float {
        let factor = contiguous(factor);
        match slice(&factor) {
            &[1.0] => gradient,
            factor => Self::float_mul_scalar(gradient, factor[0].into()),
        }
    }
}
