//! The Flex backend's operations: views of its buffers handed to `refrain-kernels`.

use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Dispatch, Flex, TensorMetadata};
use burn::tensor::{DType, Shape, Tensor, TensorData};
use refrain_kernels::{
    Beta, DropoutKey, Dropped, Engine, LabelSmoothing, LinearCrossEntropy, LinearCrossEntropyGradients, MatMut, MatRef,
    NormGains, OutputGradients, Precision, Rows, SequenceGradients, SequenceInputs, SequenceOptions, SequenceOutputs,
    SequenceShape, SequenceTrace, SequenceVariant, Zoneout, column_sums, concat_features, dropout, matmul, matmul_bias,
    sequence_backward, sequence_forward, sequence_forward_traced, smoothed_linear_cross_entropy, variational_dropout,
};

use super::autodiff::{
    FusedKernels, HeadGradients, HeadInputs, IncomingGradients, LinearInputs, RecurrentGradients, RecurrentOutputs,
    WantedGradients,
};
use super::op::{DropMask, FusedOps, RecurrentSequence, ZoneoutMask};
use crate::nn::values;

type Float = FloatTensor<Flex>;

/// A contiguous copy-free view where the layout allows it, else a contiguous copy that the caller keeps alive.
pub(super) fn contiguous(tensor: &Float) -> Float {
    if tensor.is_contiguous() { tensor.clone() } else { tensor.to_contiguous() }
}

pub(super) fn slice(tensor: &Float) -> &[f32] {
    tensor.as_slice::<f32>().expect("fused operations take contiguous f32 tensors")
}

/// Elements from a row of `[batch_size, seq_len, size]` to the next, where each row lies in one piece and all are as far apart.
fn row_stride(tensor: &Float) -> Option<usize> {
    let [_, seq_len, _] = tensor.shape().dims();
    match *tensor.layout().strides() {
        [sequence, step, 1] if step > 0 && sequence == step * seq_len as isize => Some(step as usize),
        _ => None,
    }
}

/// The rows of a tensor with a [`row_stride`], or in one piece.
fn rows(tensor: &Float) -> Rows<'_> {
    let [batch_size, seq_len, size] = tensor.shape().dims();
    match row_stride(tensor) {
        Some(stride) => {
            let len = (batch_size * seq_len).checked_sub(1).map_or(0, |last| last * stride + size);
            Rows { values: &tensor.storage::<f32>()[tensor.layout().start_offset()..][..len], stride }
        }
        None => Rows::dense(slice(tensor), size),
    }
}

pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Float {
    Float::from_data(TensorData::new(values, shape.into()))
}

fn token_ids(tokens: &IntTensor<Flex>, vocab_size: usize) -> Vec<u32> {
    let tokens = tokens.to_contiguous();
    let ids: Vec<i64> = match tokens.dtype() {
        DType::I64 => tokens.as_slice::<i64>().expect("contiguous").to_vec(),
        DType::I32 => tokens.as_slice::<i32>().expect("contiguous").iter().map(|&id| i64::from(id)).collect(),
        other => panic!("tokens must be i32 or i64, not {other:?}"),
    };
    ids.into_iter()
        .map(|id| {
            let token = u32::try_from(id).ok().filter(|&token| (token as usize) < vocab_size);
            token.unwrap_or_else(|| panic!("token {id} is not below the vocabulary's size {vocab_size}"))
        })
        .collect()
}

fn sequence_shape(sequence: &RecurrentSequence<Flex>) -> SequenceShape {
    let [batch_size, seq_len, input_size, hidden_size] = sequence.sizes();
    SequenceShape { cell: sequence.spec.cell, batch_size, seq_len, input_size, hidden_size }
}

fn sequence_inputs(sequence: &RecurrentSequence<Flex>) -> SequenceInputs<'_> {
    SequenceInputs {
        input: slice(&sequence.input),
        weight_ih: slice(&sequence.weight_ih),
        weight_hh: slice(&sequence.weight_hh),
        bias: slice(&sequence.bias),
        hidden: slice(&sequence.hidden),
        cell_state: sequence.cell_state.as_ref().map_or(&[], slice),
        lengths: sequence.spec.lengths.as_deref(),
        direction: sequence.spec.direction,
        options: sequence_options(sequence),
        variant: sequence_variant(sequence),
    }
}

fn sequence_variant(sequence: &RecurrentSequence<Flex>) -> SequenceVariant<'_> {
    let gains = sequence.gain_ih.as_ref().zip(sequence.gain_hh.as_ref());
    SequenceVariant {
        norms: gains.map(|(input, hidden)| NormGains {
            input: slice(input),
            hidden: slice(hidden),
            cell_state: sequence.norm_cell_state.as_ref().map(slice),
        }),
        projection: sequence.projection.as_ref().map(slice),
        reset: sequence.spec.reset,
    }
}

fn sequence_options(sequence: &RecurrentSequence<Flex>) -> SequenceOptions<'_> {
    fn dropped(mask: Option<&DropMask>) -> Option<Dropped<'_>> {
        mask.map(|mask| Dropped { events: &mask.events, scale: mask.scale })
    }
    fn zoneout(mask: Option<&ZoneoutMask>) -> Option<Zoneout<'_>> {
        mask.map(|mask| match mask {
            ZoneoutMask::Sampled(events) => Zoneout::Sampled(events),
            ZoneoutMask::Expected(part) => Zoneout::Expected(*part),
        })
    }
    let masks = &sequence.spec.masks;
    SequenceOptions {
        candidate_dropout: dropped(masks.candidate_dropout.as_ref()),
        hidden_dropout: dropped(masks.hidden_dropout.as_ref()),
        zoneout_hidden: zoneout(masks.zoneout_hidden.as_ref()),
        zoneout_cell: zoneout(masks.zoneout_cell.as_ref()),
        peepholes: sequence.peepholes.as_ref().map(slice),
    }
}

fn contiguous_sequence(sequence: &RecurrentSequence<Flex>) -> RecurrentSequence<Flex> {
    RecurrentSequence {
        spec: sequence.spec.clone(),
        input: contiguous(&sequence.input),
        weight_ih: contiguous(&sequence.weight_ih),
        weight_hh: contiguous(&sequence.weight_hh),
        bias: contiguous(&sequence.bias),
        hidden: contiguous(&sequence.hidden),
        cell_state: sequence.cell_state.as_ref().map(contiguous).into(),
        peepholes: sequence.peepholes.as_ref().map(contiguous).into(),
        projection: sequence.projection.as_ref().map(contiguous).into(),
        gain_ih: sequence.gain_ih.as_ref().map(contiguous).into(),
        gain_hh: sequence.gain_hh.as_ref().map(contiguous).into(),
        norm_cell_state: sequence.norm_cell_state.as_ref().map(contiguous).into(),
    }
}

/// Hands a sequence of any backend to `run`, brought to host memory.
pub(in crate::nn) fn sequence_on_host<R>(
    sequence: RecurrentSequence<Dispatch>,
    run: impl FnOnce(SequenceShape, SequenceInputs) -> R,
) -> R {
    let sequence = RecurrentSequence::<Flex> {
        spec: sequence.spec,
        input: host::<3>(sequence.input),
        weight_ih: host::<2>(sequence.weight_ih),
        weight_hh: host::<2>(sequence.weight_hh),
        bias: host::<1>(sequence.bias),
        hidden: host::<2>(sequence.hidden),
        cell_state: sequence.cell_state.map(host::<2>),
        peepholes: sequence.peepholes.map(host::<1>),
        projection: sequence.projection.map(host::<2>),
        gain_ih: sequence.gain_ih.map(host::<1>),
        gain_hh: sequence.gain_hh.map(host::<1>),
        norm_cell_state: sequence.norm_cell_state.map(host::<1>),
    };
    run(sequence_shape(&sequence), sequence_inputs(&sequence))
}

fn host<const D: usize>(of: FloatTensor<Dispatch>) -> Float {
    let of = Tensor::<D>::from_dispatch(of);
    let shape = of.dims();
    tensor(values(of), shape)
}

/// Runs a forward pass into fresh tensors, and gives what `run` gives.
fn sequence_outputs<R>(
    sequence: &RecurrentSequence<Flex>,
    run: impl FnOnce(&Engine, Precision, SequenceShape, SequenceInputs, SequenceOutputs) -> R,
) -> (RecurrentOutputs<Flex>, R) {
    let sequence = contiguous_sequence(sequence);
    let shape = sequence_shape(&sequence);
    let SequenceShape { cell, batch_size, seq_len, hidden_size, .. } = shape;
    let state_size = sequence.state_size();
    let engine = Engine::current();
    let mut output = engine.zeros(batch_size * seq_len * state_size);
    let mut last_hidden = vec![0.0; batch_size * state_size];
    let mut last_cell_state = vec![0.0; if cell.has_cell_state() { batch_size * hidden_size } else { 0 }];
    let outputs =
        SequenceOutputs { output: &mut output, last_hidden: &mut last_hidden, last_cell_state: &mut last_cell_state };
    let result = run(&engine, sequence.spec.precision, shape, sequence_inputs(&sequence), outputs);
    let last_cell_state = cell.has_cell_state().then(|| tensor(last_cell_state, [batch_size, hidden_size]));
    let last_hidden = tensor(last_hidden, [batch_size, state_size]);
    ((tensor(output, [batch_size, seq_len, state_size]), last_hidden, last_cell_state), result)
}

impl FusedOps for Flex {
    fn recurrent_sequence(
        sequence: RecurrentSequence<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, Option<FloatTensor<Self>>) {
        sequence_outputs(&sequence, sequence_forward).0
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
        let engine = Engine::current();
        let mut output = engine.zeros(rows * output_size);
        matmul_bias(
            &engine,
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
        let engine = Engine::current();
        let mut output = engine.zeros(input.shape().num_elements());
        dropout(&engine, key, probability, slice(&input), &mut output);
        tensor(output, input.shape())
    }

    fn variational_dropout(input: FloatTensor<Self>, key: DropoutKey, probability: f32) -> FloatTensor<Self> {
        let input = contiguous(&input);
        let shape = input.shape().dims();
        let engine = Engine::current();
        let mut output = engine.zeros(input.shape().num_elements());
        variational_dropout(&engine, key, probability, shape, slice(&input), &mut output);
        tensor(output, shape)
    }

    fn concat_features(left: FloatTensor<Self>, right: FloatTensor<Self>) -> FloatTensor<Self> {
        let (left, right) = (contiguous(&left), contiguous(&right));
        let [batch_size, seq_len, left_size] = left.shape().dims();
        let [_, _, right_size] = right.shape().dims();
        let output = concat_features(&Engine::current(), [slice(&left), slice(&right)], [left_size, right_size]);
        tensor(output, [batch_size, seq_len, left_size + right_size])
    }

    fn linear_cross_entropy(
        precision: Precision,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        label_smoothing: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = HeadInputs { precision, hidden, weight, bias, targets, label_smoothing };
        let [smoothed, plain] = head_losses(&inputs, None).means(label_smoothing);
        (smoothed, plain)
    }

    fn token_losses(
        precision: Precision,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let inputs = HeadInputs { precision, hidden, weight, bias, targets, label_smoothing: 0.0 };
        let losses = head_losses(&inputs, None).own;
        let num_tokens = losses.len();
        tensor(losses, [num_tokens])
    }
}

fn mean(losses: &[f32]) -> f32 {
    (losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64) as f32
}

/// The losses of every token.
struct HeadLosses {
    own: Vec<f32>,
    /// With all words for targets alike; none without label smoothing.
    uniform: Vec<f32>,
}

impl HeadLosses {
    /// The mean smoothed loss and the plain one.
    fn means(&self, label_smoothing: f32) -> [Float; 2] {
        let plain = mean(&self.own);
        let smoothed = if self.uniform.is_empty() {
            plain
        } else {
            (1.0 - label_smoothing) * plain + label_smoothing * mean(&self.uniform)
        };
        [smoothed, plain].map(|mean| tensor(vec![mean], [1]))
    }
}

fn head_losses(inputs: &HeadInputs<Flex>, gradients: Option<LinearCrossEntropyGradients<'_>>) -> HeadLosses {
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
    let mut own = vec![0.0; num_tokens];
    let share = inputs.label_smoothing;
    let mut uniform = if share > 0.0 { vec![0.0; num_tokens] } else { Vec::new() };
    let smoothing = (share > 0.0).then_some(LabelSmoothing { share, uniform_losses: &mut uniform });
    smoothed_linear_cross_entropy(&Engine::current(), inputs.precision, args, &mut own, smoothing, gradients);
    HeadLosses { own, uniform }
}

impl FusedKernels for Flex {
    type RecurrentTrace = Arc<SequenceTrace>;

    fn recurrent_sequence_traced(sequence: &RecurrentSequence<Self>) -> (RecurrentOutputs<Self>, Self::RecurrentTrace) {
        let memory = sequence.spec.memory;
        let (outputs, trace) = sequence_outputs(sequence, |engine, precision, shape, inputs, outputs| {
            sequence_forward_traced(engine, precision, shape, memory, inputs, outputs)
        });
        (outputs, Arc::new(trace))
    }

    fn recurrent_sequence_backward(
        sequence: &RecurrentSequence<Self>,
        output: &Float,
        trace: &Self::RecurrentTrace,
        incoming: IncomingGradients<Self>,
        wanted: WantedGradients,
    ) -> RecurrentGradients<Self> {
        let sequence = contiguous_sequence(sequence);
        let shape = sequence_shape(&sequence);
        let SequenceShape { cell, batch_size, seq_len, input_size, hidden_size } = shape;
        let state_size = sequence.state_size();
        let (gates, biases) = (cell.num_gates() * hidden_size, cell.num_biases() * hidden_size);
        let recurrent_gates = cell.num_recurrent_gates() * hidden_size;
        let IncomingGradients { output: grad_output, last_hidden, last_cell_state } = incoming;
        let grad_output = grad_output.map(|grad| if row_stride(&grad).is_some() { grad } else { contiguous(&grad) });
        let incoming = [last_hidden, last_cell_state].map(|grad| grad.map(|grad| contiguous(&grad)));
        let [grad_last_hidden, grad_last_cell_state] = incoming.each_ref().map(|grad| grad.as_ref().map(slice));
        let engine = Engine::current();
        let buffer = |wanted: bool, len: usize| wanted.then(|| engine.zeros(len));
        let mut input = buffer(wanted.input, batch_size * seq_len * input_size);
        let mut weight_ih = buffer(wanted.weight_ih, gates * input_size);
        let mut weight_hh = buffer(wanted.weight_hh, recurrent_gates * state_size);
        let mut bias = buffer(wanted.bias, biases);
        let mut hidden = buffer(wanted.hidden, batch_size * state_size);
        let mut cell_state = buffer(wanted.cell_state, batch_size * hidden_size);
        let mut peepholes = buffer(wanted.peepholes, 3 * hidden_size);
        let mut projection = buffer(wanted.projection, state_size * hidden_size);
        let mut gain_ih = buffer(wanted.gain_ih, gates);
        let mut gain_hh = buffer(wanted.gain_hh, recurrent_gates);
        let mut norm_cell_state = buffer(wanted.norm_cell_state, 2 * hidden_size);
        sequence_backward(
            &engine,
            sequence.spec.precision,
            shape,
            sequence_inputs(&sequence),
            slice(output),
            trace,
            OutputGradients {
                output: grad_output.as_ref().map(rows),
                last_hidden: grad_last_hidden,
                last_cell_state: grad_last_cell_state,
            },
            SequenceGradients {
                input: input.as_deref_mut(),
                weight_ih: weight_ih.as_deref_mut(),
                weight_hh: weight_hh.as_deref_mut(),
                bias: bias.as_deref_mut(),
                hidden: hidden.as_deref_mut(),
                cell_state: cell_state.as_deref_mut(),
                peepholes: peepholes.as_deref_mut(),
                projection: projection.as_deref_mut(),
                gain_ih: gain_ih.as_deref_mut(),
                gain_hh: gain_hh.as_deref_mut(),
                norm_cell_state: norm_cell_state.as_deref_mut(),
            },
        );
        RecurrentGradients {
            input: input.map(|values| tensor(values, [batch_size, seq_len, input_size])),
            weight_ih: weight_ih.map(|values| tensor(values, [gates, input_size])),
            weight_hh: weight_hh.map(|values| tensor(values, [recurrent_gates, state_size])),
            bias: bias.map(|values| tensor(values, [biases])),
            hidden: hidden.map(|values| tensor(values, [batch_size, state_size])),
            cell_state: cell_state.map(|values| tensor(values, [batch_size, hidden_size])),
            peepholes: peepholes.map(|values| tensor(values, [3 * hidden_size])),
            projection: projection.map(|values| tensor(values, [state_size, hidden_size])),
            gain_ih: gain_ih.map(|values| tensor(values, [gates])),
            gain_hh: gain_hh.map(|values| tensor(values, [recurrent_gates])),
            norm_cell_state: norm_cell_state.map(|values| tensor(values, [2 * hidden_size])),
        }
    }

    fn linear_backward(inputs: &LinearInputs<Self>, gradient: Float, wanted: [bool; 3]) -> [Option<Float>; 3] {
        let LinearInputs { precision, input, weight } = inputs;
        let ([rows, input_size], [output_size, _]) = (input.shape().dims(), weight.shape().dims());
        let (input, weight, gradient) = (contiguous(input), contiguous(weight), contiguous(&gradient));
        let of_output = MatRef::row_major(slice(&gradient), rows, output_size);
        let engine = Engine::current();
        let product = |a: MatRef, b: MatRef| {
            let (rows, cols) = (a.rows(), b.cols());
            let mut output = engine.zeros(rows * cols);
            matmul(&engine, *precision, a, b, Beta::Overwrite, MatMut::row_major(&mut output, rows, cols));
            tensor(output, [rows, cols])
        };
        let input = MatRef::row_major(slice(&input), rows, input_size);
        let weight = MatRef::row_major(slice(&weight), output_size, input_size);
        [
            wanted[0].then(|| product(of_output, weight)),
            wanted[1].then(|| product(of_output.transposed(), input)),
            wanted[2].then(|| {
                let mut sums = vec![0.0; output_size];
                column_sums(&engine, of_output, &mut sums);
                tensor(sums, [output_size])
            }),
        ]
    }

    fn select_rows_backward(matrix_rows: usize, rows: &IntTensor<Self>, gradient: &Float) -> Float {
        let [_, row_size] = gradient.shape().dims();
        let gradient = contiguous(gradient);
        // A buffer of its own, which the optimiser gets as it is.
        let mut sums = Engine::current().zeros(matrix_rows * row_size);
        for (row, values) in token_ids(rows, matrix_rows).into_iter().zip(slice(&gradient).chunks_exact(row_size)) {
            let sums = &mut sums[row as usize * row_size..][..row_size];
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        tensor(sums, [matrix_rows, row_size])
    }

    fn linear_cross_entropy_with_gradients(inputs: &HeadInputs<Self>) -> ([Float; 2], HeadGradients<Self>) {
        let [num_tokens, hidden_size] = inputs.hidden.shape().dims();
        let [vocab_size] = inputs.bias.shape().dims();
        let engine = Engine::current();
        let mut hidden = engine.zeros(num_tokens * hidden_size);
        let mut weight = engine.zeros(vocab_size * hidden_size);
        let mut bias = vec![0.0; vocab_size];
        let gradients = LinearCrossEntropyGradients { hidden: &mut hidden, weight: &mut weight, bias: &mut bias };
        let losses = head_losses(inputs, Some(gradients));
        let gradients = HeadGradients {
            hidden: tensor(hidden, [num_tokens, hidden_size]),
            weight: tensor(weight, [vocab_size, hidden_size]),
            bias: tensor(bias, [vocab_size]),
        };
        (losses.means(inputs.label_smoothing), gradients)
    }

    fn scaled(gradient: Float, factor: &Float) -> Float {
        let factor = contiguous(factor);
        match slice(&factor) {
            &[1.0] => gradient,
            factor => Self::float_mul_scalar(gradient, factor[0].into()),
        }
    }
}
