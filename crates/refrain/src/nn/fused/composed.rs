//! The same operations composed of ordinary Burn operations: the reference that fused kernels are tested against, and
//! what a backend without kernels of its own runs.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Shape, Slice, TensorData};
use refrain_kernels::{DropoutKey, Engine, dropout};

/// An LSTM layer step by step (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).
///
/// Shapes as [`FusedOps::lstm_sequence`](super::FusedOps::lstm_sequence).
pub fn lstm_sequence<B: Backend>(
    input: FloatTensor<B>,
    weight_ih: FloatTensor<B>,
    weight_hh: FloatTensor<B>,
    bias: FloatTensor<B>,
    hidden: FloatTensor<B>,
    cell_state: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let [batch_size, seq_len, input_size] = input.shape().dims();
    let [_, hidden_size] = hidden.shape().dims();
    let device = input.device();
    let dtype = input.dtype();

    let rows = B::float_reshape(input, Shape::new([batch_size * seq_len, input_size]));
    let bias = B::float_reshape(bias, Shape::new([1, 4 * hidden_size]));
    let projected = B::float_add(B::float_matmul(rows, B::float_transpose(weight_ih)), bias);
    let projected = B::float_reshape(projected, Shape::new([batch_size, seq_len, 4 * hidden_size]));
    let weight_hh = B::float_transpose(weight_hh); // [hidden_size, 4 * hidden_size]

    let (mut h, mut c) = (hidden, cell_state);
    let mut outputs = Vec::with_capacity(seq_len);
    for t in 0..seq_len {
        let x = B::float_slice(projected.clone(), &[Slice::full(), step(t), Slice::full()]);
        let x = B::float_reshape(x, Shape::new([batch_size, 4 * hidden_size]));
        let gates = B::float_add(x, B::float_matmul(h, weight_hh.clone()));
        let gate = |index: usize| {
            let columns = Slice::from(index * hidden_size..(index + 1) * hidden_size);
            B::float_slice(gates.clone(), &[Slice::full(), columns])
        };
        let i = B::sigmoid(gate(0));
        let f = B::sigmoid(gate(1));
        let g = B::float_tanh(gate(2));
        let o = B::sigmoid(gate(3));
        c = B::float_add(B::float_mul(f, c), B::float_mul(i, g));
        h = B::float_mul(o, B::float_tanh(c.clone()));
        outputs.push(B::float_reshape(h.clone(), Shape::new([batch_size, 1, hidden_size])));
    }
    let output = if outputs.is_empty() {
        B::float_zeros(Shape::new([batch_size, 0, hidden_size]), &device, dtype.into())
    } else {
        B::float_cat(outputs, 1)
    };
    (output, c)
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

fn step(t: usize) -> Slice {
    Slice::from(t..t + 1)
}
