//! The Flex backend's operations: views of its buffers handed to `refrain-kernels`.

use std::sync::Arc;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Shape, TensorData};
use refrain_kernels::{
    DropoutKey, Engine, LinearCrossEntropy, LinearCrossEntropyGradients, LstmGradients, LstmInputs,
    LstmOutputGradients, LstmOutputs, LstmShape, LstmTrace, MatMut, MatRef, dropout, linear_cross_entropy,
    lstm_backward, lstm_forward, lstm_forward_traced, matmul_bias,
};

use super::autodiff::{
    FusedKernels, HeadGradients, HeadInputs, LstmSequenceGradients, LstmSequenceInputs, WantedGradients,
};
use super::op::FusedOps;

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

fn lstm_shape(inputs: &LstmSequenceInputs<Flex>) -> LstmShape {
    let [batch_size, seq_len, input_size] = inputs.input.shape().dims();
    let [_, hidden_size] = inputs.hidden.shape().dims();
    LstmShape { batch_size, seq_len, input_size, hidden_size }
}

fn lstm_inputs(inputs: &LstmSequenceInputs<Flex>) -> LstmInputs<'_> {
    LstmInputs {
        input: slice(&inputs.input),
        weight_ih: slice(&inputs.weight_ih),
        weight_hh: slice(&inputs.weight_hh),
        bias: slice(&inputs.bias),
        hidden: slice(&inputs.hidden),
        cell_state: slice(&inputs.cell_state),
    }
}

fn contiguous_inputs(inputs: &LstmSequenceInputs<Flex>) -> LstmSequenceInputs<Flex> {
    LstmSequenceInputs {
        input: contiguous(&inputs.input),
        weight_ih: contiguous(&inputs.weight_ih),
        weight_hh: contiguous(&inputs.weight_hh),
        bias: contiguous(&inputs.bias),
        hidden: contiguous(&inputs.hidden),
        cell_state: contiguous(&inputs.cell_state),
    }
}

/// Runs a forward pass into fresh tensors.
fn lstm_outputs<R>(shape: LstmShape, run: impl FnOnce(LstmOutputs<'_>) -> R) -> (Float, Float, R) {
    let LstmShape { batch_size, seq_len, hidden_size, .. } = shape;
    let mut output = vec![0.0; batch_size * seq_len * hidden_size];
    let mut last_cell_state = vec![0.0; batch_size * hidden_size];
    let result = run(LstmOutputs { output: &mut output, last_cell_state: &mut last_cell_state });
    let output = tensor(output, [batch_size, seq_len, hidden_size]);
    (output, tensor(last_cell_state, [batch_size, hidden_size]), result)
}

impl FusedOps for Flex {
    fn lstm_sequence(
        input: FloatTensor<Self>,
        weight_ih: FloatTensor<Self>,
        weight_hh: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        cell_state: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = LstmSequenceInputs { input, weight_ih, weight_hh, bias, hidden, cell_state };
        let inputs = contiguous_inputs(&inputs);
        let shape = lstm_shape(&inputs);
        let engine = Engine::current();
        let (output, last_cell_state, ()) =
            lstm_outputs(shape, |outputs| lstm_forward(&engine, shape, lstm_inputs(&inputs), outputs));
        (output, last_cell_state)
    }

    fn linear(input: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let [rows, input_size] = input.shape().dims();
        let [output_size] = bias.shape().dims();
        let (input, weight, bias) = (contiguous(&input), contiguous(&weight), contiguous(&bias));
        let mut output = vec![0.0; rows * output_size];
        matmul_bias(
            &Engine::current(),
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
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let losses = Self::token_losses(hidden, weight, bias, targets);
        tensor(vec![mean(slice(&losses))], [1])
    }

    fn token_losses(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let losses = head_losses(&HeadInputs { hidden, weight, bias, targets }, None);
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
    linear_cross_entropy(&Engine::current(), args, &mut losses, gradients);
    losses
}

impl FusedKernels for Flex {
    type LstmTrace = Arc<LstmTrace>;

    fn lstm_sequence_traced(inputs: &LstmSequenceInputs<Self>) -> (Float, Float, Self::LstmTrace) {
        let inputs = contiguous_inputs(inputs);
        let shape = lstm_shape(&inputs);
        let engine = Engine::current();
        let (output, last_cell_state, trace) =
            lstm_outputs(shape, |outputs| lstm_forward_traced(&engine, shape, lstm_inputs(&inputs), outputs));
        (output, last_cell_state, Arc::new(trace))
    }

    fn lstm_sequence_backward(
        inputs: &LstmSequenceInputs<Self>,
        output: &Float,
        trace: &Self::LstmTrace,
        grad_output: Option<Float>,
        grad_last_cell_state: Option<Float>,
        wanted: WantedGradients,
    ) -> LstmSequenceGradients<Self> {
        let inputs = contiguous_inputs(inputs);
        let shape = lstm_shape(&inputs);
        let LstmShape { batch_size, seq_len, input_size, hidden_size } = shape;
        let grad_output = grad_output.map(|grad| contiguous(&grad));
        let grad_last_cell_state = grad_last_cell_state.map(|grad| contiguous(&grad));
        let buffer = |wanted: bool, len: usize| wanted.then(|| vec![0.0f32; len]);
        let mut input = buffer(wanted.input, batch_size * seq_len * input_size);
        let mut weight_ih = buffer(wanted.weight_ih, 4 * hidden_size * input_size);
        let mut weight_hh = buffer(wanted.weight_hh, 4 * hidden_size * hidden_size);
        let mut bias = buffer(wanted.bias, 4 * hidden_size);
        let mut hidden = buffer(wanted.hidden, batch_size * hidden_size);
        let mut cell_state = buffer(wanted.cell_state, batch_size * hidden_size);
        lstm_backward(
            &Engine::current(),
            shape,
            lstm_inputs(&inputs),
            slice(output),
            trace,
            LstmOutputGradients {
                output: grad_output.as_ref().map(slice),
                last_cell_state: grad_last_cell_state.as_ref().map(slice),
            },
            LstmGradients {
                input: input.as_deref_mut(),
                weight_ih: weight_ih.as_deref_mut(),
                weight_hh: weight_hh.as_deref_mut(),
                bias: bias.as_deref_mut(),
                hidden: hidden.as_deref_mut(),
                cell_state: cell_state.as_deref_mut(),
            },
        );
        LstmSequenceGradients {
            input: input.map(|values| tensor(values, [batch_size, seq_len, input_size])),
            weight_ih: weight_ih.map(|values| tensor(values, [4 * hidden_size, input_size])),
            weight_hh: weight_hh.map(|values| tensor(values, [4 * hidden_size, hidden_size])),
            bias: bias.map(|values| tensor(values, [4 * hidden_size])),
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
}
