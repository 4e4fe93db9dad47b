//! The same operations composed of ordinary Burn operations: the reference that fused kernels are tested against, and
//! what a backend without kernels of its own runs.

use std::sync::Arc;

use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Shape, Slice, TensorData};
use refrain_kernels::{Cell, Direction, DropoutKey, Engine, ResetGate, SequenceOptions, dropout};

use super::op::{DropMask, OptionalTensor, RecurrentSequence, ZoneoutMask};

/// A recurrent layer step by step: the hidden state after each step, and the last states, as
/// [`FusedOps::recurrent_sequence`](super::FusedOps::recurrent_sequence).
///
/// The equations are those of [`Lstm`](crate::nn::Lstm), [`Gru`](crate::nn::Gru) and [`Rnn`](crate::nn::Rnn).
pub fn recurrent_sequence<B: Backend>(
    sequence: RecurrentSequence<B>,
) -> (FloatTensor<B>, FloatTensor<B>, Option<FloatTensor<B>>) {
    let [batch_size, seq_len, input_size, hidden_size] = sequence.sizes();
    let state_size = sequence.state_size();
    let RecurrentSequence { spec, input, weight_ih, weight_hh, bias, hidden, cell_state, peepholes, .. } = sequence;
    let [projection, gain_ih, gain_hh, norm_cell_state] =
        [sequence.projection, sequence.gain_ih, sequence.gain_hh, sequence.norm_cell_state]
            .map(OptionalTensor::into_option);
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
    let projected = B::float_matmul(rows, B::float_transpose(weight_ih));
    let projected = normalized::<B>(projected, gain_ih.as_ref());
    let input_bias = B::float_slice(bias.clone(), &[Slice::from(0..width)]);
    let projected = B::float_add(projected, B::float_reshape(input_bias, Shape::new([1, width])));
    let projected = B::float_reshape(projected, Shape::new([batch_size, seq_len, width]));
    let weight_hh = B::float_transpose(weight_hh); // [state_size, width]
    let peepholes = parts::<B>(peepholes.into_option(), 3);
    let norm_cell_state = parts::<B>(norm_cell_state, 2);

    let masks = |size| Masks::<B> { shape: [batch_size, size], device: device.clone() };
    let (masks, state_masks) = (masks(hidden_size), masks(state_size));
    let mut state = StepState::<B> { hidden, cell_state: cell_state.into_option() };
    let mut outputs = Vec::with_capacity(seq_len);
    for t in 0..seq_len {
        let from_input = B::float_slice(projected.clone(), &[Slice::full(), Slice::from(t..t + 1), Slice::full()]);
        let recalled = match state_masks.drop(spec.masks.hidden_dropout.as_ref(), 0) {
            Some(factors) => B::float_mul(state.hidden.clone(), factors),
            None => state.hidden.clone(),
        };
        let sums = Sums::<B> {
            from_input: B::float_reshape(from_input, Shape::new([batch_size, width])),
            from_hidden: if cell.num_recurrent_gates() > 0 {
                normalized::<B>(B::float_matmul(recalled.clone(), weight_hh.clone()), gain_hh.as_ref())
            } else {
                B::float_zeros(Shape::new([batch_size, width]), &device, dtype.into())
            },
            hidden_size,
            candidate: masks.drop(spec.masks.candidate_dropout.as_ref(), t),
            peepholes: peepholes.clone(),
            norm_cell_state: norm_cell_state.clone(),
        };
        let before = state.clone();
        state = match cell {
            Cell::Lstm | Cell::CoupledLstm => lstm_step(cell, &sums, state),
            Cell::Gru => {
                let bias = B::float_slice(bias.clone(), &[Slice::from(width..width + hidden_size)]);
                let before_product = (spec.reset == ResetGate::BeforeProduct).then(|| {
                    let of_candidate = [Slice::full(), Slice::from(2 * hidden_size..width)];
                    (recalled, B::float_slice(weight_hh.clone(), &of_candidate))
                });
                gru_step(&sums, state, bias, before_product)
            }
            Cell::MinGru => min_gru_step(&sums, state),
            Cell::RnnTanh => StepState { hidden: B::float_tanh(sums.whole()), ..state },
            Cell::RnnRelu => StepState { hidden: B::relu(sums.whole()), ..state },
        };
        if let Some(projection) = &projection {
            state.hidden = B::float_matmul(state.hidden, B::float_transpose(projection.clone()));
        }
        state.hidden = state_masks.zone_out(spec.masks.zoneout_hidden.as_ref(), t, before.hidden.clone(), state.hidden);
        state.cell_state = state
            .cell_state
            .zip(before.cell_state.clone())
            .map(|(after, before)| masks.zone_out(spec.masks.zoneout_cell.as_ref(), t, before, after));
        let mut output = state.hidden.clone();
        if spec.lengths.is_some() {
            let chosen = |ended, running| where_running::<B>(t, lengths, ended, running);
            output = chosen(B::float_zeros(output.shape(), &device, dtype.into()), output);
            state.hidden = chosen(before.hidden, state.hidden);
            state.cell_state = state.cell_state.zip(before.cell_state).map(|(after, before)| chosen(before, after));
        }
        outputs.push(B::float_reshape(output, Shape::new([batch_size, 1, state_size])));
    }
    let output = if outputs.is_empty() {
        B::float_zeros(Shape::new([batch_size, 0, state_size]), &device, dtype.into())
    } else {
        turned(B::float_cat(outputs, 1))
    };
    (output, state.hidden, state.cell_state)
}

/// The blocks of a vector, `[1, size]` each.
fn parts<B: Backend>(of: Option<FloatTensor<B>>, count: usize) -> Option<Vec<FloatTensor<B>>> {
    of.map(|of| {
        let [len] = of.shape().dims();
        let size = len / count;
        let part = |index: usize| {
            let part = B::float_slice(of.clone(), &[Slice::from(index * size..(index + 1) * size)]);
            B::float_reshape(part, Shape::new([1, size]))
        };
        (0..count).map(part).collect()
    })
}

/// The rows of sequences that run at step `t`, and in the place of the others those of `ended`.
fn where_running<B: Backend>(
    t: usize,
    lengths: &[usize],
    ended: FloatTensor<B>,
    running: FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = ended.shape();
    let [_, size] = shape.dims();
    let runs: Vec<bool> = lengths.iter().flat_map(|&length| std::iter::repeat_n(t < length, size)).collect();
    let runs = B::bool_from_data(TensorData::new(runs, shape), &ended.device());
    B::float_mask_where(ended, runs, running)
}

/// What is added to a variance.
const EPSILON: f32 = 1e-5;

/// Rows less their mean, over their deviation, times a gain, if there is one.
fn normalized<B: Backend>(rows: FloatTensor<B>, gain: Option<&FloatTensor<B>>) -> FloatTensor<B> {
    let Some(gain) = gain else { return rows };
    let [size] = gain.shape().dims();
    let centred = B::float_sub(rows.clone(), B::float_mean_dim(rows, 1));
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let deviation = B::float_sqrt(B::float_add_scalar(variance, EPSILON.into()));
    let gain = B::float_reshape(gain.clone(), Shape::new([1, size]));
    B::float_mul(B::float_div(centred, deviation), gain)
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
    peepholes: Option<Vec<FloatTensor<B>>>,
    /// Gain and bias, `[1, hidden_size]` each.
    norm_cell_state: Option<Vec<FloatTensor<B>>>,
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
    // Coupled gates have no first block of their own.
    let first = usize::from(cell != Cell::CoupledLstm);
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
    let out = match sums.norm_cell_state.as_deref() {
        Some([gain, bias]) => {
            let gain = B::float_reshape(gain.clone(), Shape::new([sums.hidden_size]));
            B::float_add(normalized::<B>(c.clone(), Some(&gain)), bias.clone())
        }
        _ => c.clone(),
    };
    StepState { hidden: B::float_mul(o, B::float_tanh(out)), cell_state: Some(c) }
}

/// The bias `[hidden_size]` is that of the candidate's recurrent product, which the reset gate scales; `before_product` are the
/// hidden state and the weights of that product, where the gate scales the state instead.
fn gru_step<B: Backend>(
    sums: &Sums<B>,
    state: StepState<B>,
    bias: FloatTensor<B>,
    before_product: Option<(FloatTensor<B>, FloatTensor<B>)>,
) -> StepState<B> {
    let gates = sums.whole();
    let r = B::sigmoid(sums.gate(&gates, 0));
    let z = B::sigmoid(sums.gate(&gates, 1));
    let bias = B::float_reshape(bias, Shape::new([1, sums.hidden_size]));
    let recalled = match before_product {
        Some((hidden, weight)) => B::float_add(B::float_matmul(B::float_mul(r, hidden), weight), bias),
        None => B::float_mul(r, B::float_add(sums.gate(&sums.from_hidden, 2), bias)),
    };
    let n = sums.dropped(B::float_tanh(B::float_add(sums.gate(&sums.from_input, 2), recalled)));
    // (1 - z) ∘ n + z ∘ h, with one product less.
    let hidden = B::float_add(n.clone(), B::float_mul(z, B::float_sub(state.hidden, n)));
    StepState { hidden, ..state }
}

fn min_gru_step<B: Backend>(sums: &Sums<B>, state: StepState<B>) -> StepState<B> {
    let z = B::sigmoid(sums.gate(&sums.from_input, 0));
    let candidate = sums.dropped(sums.gate(&sums.from_input, 1));
    let entered = B::float_mul(z, B::float_sub(candidate, state.hidden.clone()));
    StepState { hidden: B::float_add(state.hidden, entered), ..state }
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
    losses_of::<B>(B::log_softmax(linear::<B>(hidden, weight, bias), 1), targets)
}

/// The mean over the rows of `-Σ_v q[v] log softmax(hidden · weightᵀ + bias)[v]`, q being the target with the share
/// `label_smoothing` spread over all words alike; and the same without smoothing.
pub fn linear_cross_entropy<B: Backend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    targets: IntTensor<B>,
    label_smoothing: f32,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let log_probabilities = B::log_softmax(linear::<B>(hidden, weight, bias), 1);
    let plain = B::float_mean(losses_of::<B>(log_probabilities.clone(), targets));
    let uniform = B::float_neg(B::float_mean(log_probabilities));
    let smoothed = B::float_add(
        B::float_mul_scalar(plain.clone(), (1.0 - label_smoothing).into()),
        B::float_mul_scalar(uniform, label_smoothing.into()),
    );
    (smoothed, plain)
}

fn losses_of<B: Backend>(log_probabilities: FloatTensor<B>, targets: IntTensor<B>) -> FloatTensor<B> {
    let [num_tokens, _] = log_probabilities.shape().dims();
    let targets = B::int_reshape(targets, Shape::new([num_tokens, 1]));
    let picked = B::float_gather(1, log_probabilities, targets);
    B::float_reshape(B::float_neg(picked), Shape::new([num_tokens]))
}
