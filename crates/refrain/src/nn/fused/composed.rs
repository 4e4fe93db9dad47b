//! The same operations composed of ordinary Burn operations: the reference that fused kernels are tested against, and
//! what a backend without kernels of its own runs.

use std::sync::Arc;

use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Shape, Slice, TensorData};
use refrain_kernels::{Cell, Direction, DropoutKey, Engine, SequenceOptions, dropout};

use super::op::{DropMask, RecurrentSequence, ZoneoutMask};

/// A recurrent layer step by step: the hidden state after each step, and the last states, as
/// [`FusedOps::recurrent_sequence`](super::FusedOps::recurrent_sequence).
///
/// The equations are those of [`Lstm`](crate::nn::Lstm), [`Gru`](crate::nn::Gru) and [`Rnn`](crate::nn::Rnn).
pub fn recurrent_sequence<B: Backend>(
    sequence: RecurrentSequence<B>,
) -> (FloatTensor<B>, FloatTensor<B>, Option<FloatTensor<B>>) {
    let [batch_size, seq_len, input_size, hidden_size] = sequence.sizes();
    let RecurrentSequence { spec, input, weight_ih, weight_hh, bias, hidden, cell_state, peepholes } = sequence;
    let cell = spec.cell;
    let device = input.device();
    let dtype = input.dtype();
    let whole: Arc<[usize]> = vec![seq_len; batch_size].into();
    let lengths = spec.lengths.as_ref().unwrap_or(&whole);
    let turned = |tensor| match spec.direction {
        Direction::Forward => tensor,
        Direction::Backward => reversed::<B>(tensor, lengths),
    };

    let width = cell.num_gates() * hidden_size;
    let rows = B::float_reshape(turned(input), Shape::new([batch_size * seq_len, input_size]));
    let projected = linear::<B>(rows, weight_ih, B::float_slice(bias.clone(), &[Slice::from(0..width)]));
    let projected = B::float_reshape(projected, Shape::new([batch_size, seq_len, width]));
    let weight_hh = B::float_transpose(weight_hh); // [hidden_size, width]
    let peepholes = peepholes.into_option().map(|peepholes| {
        [0, 1, 2].map(|gate| {
            let of_gate = Slice::from(gate * hidden_size..(gate + 1) * hidden_size);
            B::float_reshape(B::float_slice(peepholes.clone(), &[of_gate]), Shape::new([1, hidden_size]))
        })
    });

    let masks = Masks::<B> { shape: [batch_size, hidden_size], device: device.clone() };
    let mut state = StepState::<B> { hidden, cell_state: cell_state.into_option() };
    let mut outputs = Vec::with_capacity(seq_len);
    for t in 0..seq_len {
        let from_input = B::float_slice(projected.clone(), &[Slice::full(), Slice::from(t..t + 1), Slice::full()]);
        let recalled = match masks.drop(spec.masks.hidden_dropout.as_ref(), 0) {
            Some(factors) => B::float_mul(state.hidden.clone(), factors),
            None => state.hidden.clone(),
        };
        let sums = Sums::<B> {
            from_input: B::float_reshape(from_input, Shape::new([batch_size, width])),
            from_hidden: B::float_matmul(recalled, weight_hh.clone()),
            hidden_size,
            candidate: masks.drop(spec.masks.candidate_dropout.as_ref(), t),
            peepholes: peepholes.clone(),
        };
        let before = state.clone();
        state = match cell {
            Cell::Lstm | Cell::CoupledLstm => lstm_step(cell, &sums, state),
            Cell::Gru => {
                gru_step(&sums, state, B::float_slice(bias.clone(), &[Slice::from(width..width + hidden_size)]))
            }
            Cell::RnnTanh => StepState { hidden: B::float_tanh(sums.whole()), ..state },
            Cell::RnnRelu => StepState { hidden: B::relu(sums.whole()), ..state },
        };
        state.hidden = masks.zone_out(spec.masks.zoneout_hidden.as_ref(), t, before.hidden.clone(), state.hidden);
        state.cell_state = state
            .cell_state
            .zip(before.cell_state.clone())
            .map(|(after, before)| masks.zone_out(spec.masks.zoneout_cell.as_ref(), t, before, after));
        let mut output = state.hidden.clone();
        if spec.lengths.is_some() {
            let runs: Vec<bool> =
                lengths.iter().flat_map(|&length| std::iter::repeat_n(t < length, hidden_size)).collect();
            let runs = B::bool_from_data(TensorData::new(runs, [batch_size, hidden_size]), &device);
            let chosen = |ended, running| B::float_mask_where(ended, runs.clone(), running);
            output = chosen(B::float_zeros(output.shape(), &device, dtype.into()), output);
            state.hidden = chosen(before.hidden, state.hidden);
            state.cell_state = state.cell_state.zip(before.cell_state).map(|(after, before)| chosen(before, after));
        }
        outputs.push(B::float_reshape(output, Shape::new([batch_size, 1, hidden_size])));
    }
    let output = if outputs.is_empty() {
        B::float_zeros(Shape::new([batch_size, 0, hidden_size]), &device, dtype.into())
    } else {
        turned(B::float_cat(outputs, 1))
    };
    (output, state.hidden, state.cell_state)
}

/// Each sequence from its last step back; what follows its end stays.
fn reversed<B: Backend>(tensor: FloatTensor<B>, lengths: &[usize]) -> FloatTensor<B> {
    let [batch_size, seq_len, size] = tensor.shape().dims();
    let step = |length: usize, t: usize| if t < length { length - 1 - t } else { t };
    let steps = lengths.iter().flat_map(|&length| (0..seq_len).map(move |t| step(length, t)));
    let steps: Vec<i64> = steps.flat_map(|t| std::iter::repeat_n(t as i64, size)).collect();
    let steps = B::int_from_data(TensorData::new(steps, [batch_size, seq_len, size]), &tensor.device());
    B::float_gather(1, tensor, steps)
}

/// Masks as tensors.
struct Masks<B: Backend> {
    shape: [usize; 2],
    device: Device<B>,
}

impl<B: Backend> Masks<B> {
    /// The numbers of a step for what happened and for what did not.
    fn numbers(&self, events: &[u32], step: usize, [set, clear]: [f32; 2]) -> FloatTensor<B> {
        let [batch_size, hidden_size] = self.shape;
        let words = SequenceOptions::event_words(hidden_size);
        let rows = events[step * batch_size * words..].chunks_exact(words.max(1)).take(batch_size);
        let is_set = |row: &[u32], unit: usize| row[unit / 32] >> (unit % 32) & 1 == 1;
        let numbers =
            rows.flat_map(|row| (0..hidden_size).map(move |unit| if is_set(row, unit) { set } else { clear }));
        B::float_from_data(TensorData::new(numbers.collect::<Vec<f32>>(), self.shape), &self.device)
    }

    fn drop(&self, mask: Option<&DropMask>, step: usize) -> Option<FloatTensor<B>> {
        mask.map(|mask| self.numbers(&mask.events, step, [0.0, mask.scale]))
    }

    fn zone_out(
        &self,
        mask: Option<&ZoneoutMask>,
        step: usize,
        before: FloatTensor<B>,
        after: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let kept = match mask {
            None => return after,
            Some(ZoneoutMask::Sampled(events)) => self.numbers(events, step, [1.0, 0.0]),
            Some(ZoneoutMask::Expected(part)) => {
                let parts = vec![*part; self.shape[0] * self.shape[1]];
                B::float_from_data(TensorData::new(parts, self.shape), &self.device)
            }
        };
        B::float_add(after.clone(), B::float_mul(kept, B::float_sub(before, after)))
    }
}

#[derive(Clone)]
struct StepState<B: Backend> {
    hidden: FloatTensor<B>,
    cell_state: Option<FloatTensor<B>>,
}

/// What goes into the gates of one step, the biases of the input included: each `[batch_size, num_gates * hidden_size]`.
struct Sums<B: Backend> {
    from_input: FloatTensor<B>,
    from_hidden: FloatTensor<B>,
    hidden_size: usize,
    /// What the candidate is multiplied with.
    candidate: Option<FloatTensor<B>>,
    /// Of the input, forget and output gates, `[1, hidden_size]` each.
    peepholes: Option<[FloatTensor<B>; 3]>,
}

impl<B: Backend> Sums<B> {
    fn whole(&self) -> FloatTensor<B> {
        B::float_add(self.from_input.clone(), self.from_hidden.clone())
    }

    fn dropped(&self, candidate: FloatTensor<B>) -> FloatTensor<B> {
        match &self.candidate {
            Some(factors) => B::float_mul(candidate, factors.clone()),
            None => candidate,
        }
    }

    /// The columns of one gate.
    fn gate(&self, of: &FloatTensor<B>, index: usize) -> FloatTensor<B> {
        let columns = Slice::from(index * self.hidden_size..(index + 1) * self.hidden_size);
        B::float_slice(of.clone(), &[Slice::full(), columns])
    }
}

fn lstm_step<B: Backend>(cell: Cell, sums: &Sums<B>, state: StepState<B>) -> StepState<B> {
    let whole = sums.whole();
    let first = if cell == Cell::CoupledLstm { 0 } else { 1 };
    let gate = |index: usize, peephole: usize, state: &FloatTensor<B>| {
        let sum = sums.gate(&whole, index);
        B::sigmoid(match &sums.peepholes {
            Some(peepholes) => B::float_add(sum, B::float_mul(state.clone(), peepholes[peephole].clone())),
            None => sum,
        })
    };
    let before = state.cell_state.expect("an LSTM has a cell state");
    let f = gate(first, 1, &before);
    let g = sums.dropped(B::float_tanh(sums.gate(&whole, first + 1)));
    let entered = match cell {
        Cell::CoupledLstm => B::float_sub(g.clone(), B::float_mul(f.clone(), g)),
        _ => B::float_mul(gate(0, 0, &before), g),
    };
    let c = B::float_add(B::float_mul(f, before), entered);
    let o = gate(first + 2, 2, &c);
    StepState { hidden: B::float_mul(o, B::float_tanh(c.clone())), cell_state: Some(c) }
}

/// The bias `[hidden_size]` is that of the candidate's recurrent product, which the reset gate scales.
fn gru_step<B: Backend>(sums: &Sums<B>, state: StepState<B>, bias: FloatTensor<B>) -> StepState<B> {
    let gates = sums.whole();
    let r = B::sigmoid(sums.gate(&gates, 0));
    let z = B::sigmoid(sums.gate(&gates, 1));
    let bias = B::float_reshape(bias, Shape::new([1, sums.hidden_size]));
    let recalled = B::float_add(sums.gate(&sums.from_hidden, 2), bias);
    let n = B::float_tanh(B::float_add(sums.gate(&sums.from_input, 2), B::float_mul(r, recalled)));
    let n = sums.dropped(n);
    // (1 - z) ∘ n + z ∘ h, with one product less.
    let hidden = B::float_add(n.clone(), B::float_mul(z, B::float_sub(state.hidden, n)));
    StepState { hidden, ..state }
}

/// A linear layer, its weight laid out as in PyTorch.
pub fn linear<B: Backend>(input: FloatTensor<B>, weight: FloatTensor<B>, bias: FloatTensor<B>) -> FloatTensor<B> {
    let [output_size] = bias.shape().dims();
    let product = B::float_matmul(input, B::float_transpose(weight));
    B::float_add(product, B::float_reshape(bias, Shape::new([1, output_size])))
}

/// Dropout by a mask drawn on the host with the same counter-based stream as the kernels, so that every backend drops the
/// same elements.
pub fn keyed_dropout<B: Backend>(input: FloatTensor<B>, key: DropoutKey, probability: f32) -> FloatTensor<B> {
    let shape = input.shape();
    let ones = vec![1.0f32; shape.num_elements()];
    let mut mask = vec![0.0f32; ones.len()];
    dropout(&Engine::current(), key, probability, &ones, &mut mask);
    let mask = B::float_from_data(TensorData::new(mask, shape), &input.device());
    B::float_mul(input, mask)
}

/// Dropout of features of whole sequences, by a mask drawn as that of [`keyed_dropout`].
pub fn variational_dropout<B: Backend>(input: FloatTensor<B>, key: DropoutKey, probability: f32) -> FloatTensor<B> {
    let [batch_size, _, num_features] = input.shape().dims();
    let ones = B::float_ones(Shape::new([batch_size, 1, num_features]), &input.device(), input.dtype().into());
    B::float_mul(input, keyed_dropout::<B>(ones, key, probability))
}

/// `-log softmax(hidden · weightᵀ + bias)[target]` of each row.
pub fn token_losses<B: Backend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    targets: IntTensor<B>,
) -> FloatTensor<B> {
    let [num_tokens, _] = hidden.shape().dims();
    let log_probabilities = B::log_softmax(linear::<B>(hidden, weight, bias), 1);
    let targets = B::int_reshape(targets, Shape::new([num_tokens, 1]));
    let picked = B::float_gather(1, log_probabilities, targets);
    B::float_reshape(B::float_neg(picked), Shape::new([num_tokens]))
}
