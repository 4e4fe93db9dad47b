//! The same operations composed of ordinary Burn operations: the reference that fused kernels are tested against, and
//! what a backend without kernels of its own runs.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Shape, Slice, TensorData};
use refrain_kernels::{Cell, DropoutKey, Engine, dropout};

use super::op::RecurrentSequence;

/// A recurrent layer step by step: the hidden state after each step, and the last cell state of a cell that has one.
///
/// The equations are those of [`Lstm`](crate::nn::Lstm), [`Gru`](crate::nn::Gru) and [`Rnn`](crate::nn::Rnn).
pub fn recurrent_sequence<B: Backend>(sequence: RecurrentSequence<B>) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let [batch_size, seq_len, input_size, hidden_size] = sequence.sizes();
    let RecurrentSequence { cell, input, weight_ih, weight_hh, bias, hidden, cell_state, .. } = sequence;
    let device = input.device();
    let dtype = input.dtype();

    let width = cell.num_gates() * hidden_size;
    let rows = B::float_reshape(input, Shape::new([batch_size * seq_len, input_size]));
    let projected = linear::<B>(rows, weight_ih, B::float_slice(bias.clone(), &[Slice::from(0..width)]));
    let projected = B::float_reshape(projected, Shape::new([batch_size, seq_len, width]));
    let weight_hh = B::float_transpose(weight_hh); // [hidden_size, width]

    let mut state = StepState::<B> { hidden, cell_state: cell_state.into_option() };
    let mut outputs = Vec::with_capacity(seq_len);
    for t in 0..seq_len {
        let from_input = B::float_slice(projected.clone(), &[Slice::full(), Slice::from(t..t + 1), Slice::full()]);
        let sums = Sums::<B> {
            from_input: B::float_reshape(from_input, Shape::new([batch_size, width])),
            from_hidden: B::float_matmul(state.hidden.clone(), weight_hh.clone()),
            hidden_size,
        };
        state = match cell {
            Cell::Lstm => lstm_step(&sums, state),
            Cell::Gru => {
                gru_step(&sums, state, B::float_slice(bias.clone(), &[Slice::from(width..width + hidden_size)]))
            }
            Cell::RnnTanh => StepState { hidden: B::float_tanh(sums.whole()), ..state },
            Cell::RnnRelu => StepState { hidden: B::relu(sums.whole()), ..state },
        };
        outputs.push(B::float_reshape(state.hidden.clone(), Shape::new([batch_size, 1, hidden_size])));
    }
    let output = if outputs.is_empty() {
        B::float_zeros(Shape::new([batch_size, 0, hidden_size]), &device, dtype.into())
    } else {
        B::float_cat(outputs, 1)
    };
    (output, state.cell_state)
}

struct StepState<B: Backend> {
    hidden: FloatTensor<B>,
    cell_state: Option<FloatTensor<B>>,
}

/// What goes into the gates of one step, the biases of the input included: each `[batch_size, num_gates * hidden_size]`.
struct Sums<B: Backend> {
    from_input: FloatTensor<B>,
    from_hidden: FloatTensor<B>,
    hidden_size: usize,
}

impl<B: Backend> Sums<B> {
    fn whole(&self) -> FloatTensor<B> {
        B::float_add(self.from_input.clone(), self.from_hidden.clone())
    }

    /// The columns of one gate.
    fn gate(&self, of: &FloatTensor<B>, index: usize) -> FloatTensor<B> {
        let columns = Slice::from(index * self.hidden_size..(index + 1) * self.hidden_size);
        B::float_slice(of.clone(), &[Slice::full(), columns])
    }
}

fn lstm_step<B: Backend>(sums: &Sums<B>, state: StepState<B>) -> StepState<B> {
    let gates = sums.whole();
    let i = B::sigmoid(sums.gate(&gates, 0));
    let f = B::sigmoid(sums.gate(&gates, 1));
    let g = B::float_tanh(sums.gate(&gates, 2));
    let o = B::sigmoid(sums.gate(&gates, 3));
    let c = state.cell_state.expect("an LSTM has a cell state");
    let c = B::float_add(B::float_mul(f, c), B::float_mul(i, g));
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
