//! The kernels alone: `cargo bench -p refrain-kernels -- [FILTER]`.
//!
//! `REFRAIN_BENCH_THREADS` sets the threads (one by default). Names hold the cell, the precision and the sizes; throughput
//! counts the multiplications and additions of the products.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use refrain_kernels::{
    Beta, Cell, Direction, Engine, Isa, LinearCrossEntropy, LinearCrossEntropyGradients, MatMut, MatRef, Memory,
    OutputGradients, Precision, Rows, SequenceGradients, SequenceInputs, SequenceOptions, SequenceOutputs,
    SequenceShape, SequenceVariant, keep_freed_memory, linear_cross_entropy, matmul, sequence_backward,
    sequence_forward_traced,
};

/// Hidden size, batch size and steps.
const LAYERS: [[usize; 3]; 5] = [[128, 32, 64], [256, 64, 100], [512, 64, 128], [650, 20, 35], [1024, 16, 100]];
/// Rows, terms and columns.
const PRODUCTS: [[usize; 3]; 3] = [[8192, 512, 2048], [2048, 8192, 512], [700, 650, 10_000]];
/// Rows, hidden size and words.
const HEADS: [[usize; 3]; 2] = [[700, 650, 10_000], [2048, 512, 96]];

fn engine() -> Engine {
    keep_freed_memory();
    let threads = std::env::var("REFRAIN_BENCH_THREADS").map_or(1, |text| text.parse().expect("a number of threads"));
    Engine::new(Isa::detect(), threads).expect("the detected instruction set")
}

/// Evenly spread floats in `±scale`, always the same.
fn floats(len: usize, scale: f32) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 65_521) as f32 / 32_760.5 * scale - scale).collect()
}

fn layers(criterion: &mut Criterion) {
    let engine = engine();
    let mut group = criterion.benchmark_group("layer");
    group.sample_size(10);
    for cell in [Cell::Lstm, Cell::Gru, Cell::MinGru, Cell::RnnTanh] {
        for [hidden_size, batch_size, seq_len] in LAYERS {
            let shape = SequenceShape { cell, batch_size, seq_len, input_size: hidden_size, hidden_size };
            let (states, weights) = (batch_size * hidden_size, cell.num_gates() * hidden_size * hidden_size);
            let scale = (hidden_size as f32).sqrt().recip();
            let input = floats(states * seq_len, 1.0);
            let weight = floats(weights, scale);
            // The minimal GRU has none.
            let weight_hh = &weight[..cell.num_recurrent_gates() * hidden_size * hidden_size];
            let bias = floats(cell.num_biases() * hidden_size, scale);
            let state = vec![0.0; states];
            let cell_state = if cell.has_cell_state() { &state[..] } else { &[] };
            let inputs = SequenceInputs {
                input: &input,
                weight_ih: &weight,
                weight_hh,
                bias: &bias,
                hidden: &state,
                cell_state,
                lengths: None,
                direction: Direction::Forward,
                options: SequenceOptions::default(),
                variant: SequenceVariant::default(),
            };
            let mut output = vec![0.0; input.len()];
            let mut last = [state.clone(), cell_state.to_vec()];
            let mut gradients = [input.clone(), weight.clone(), weight_hh.to_vec(), bias.clone()];
            let products = weights + weight_hh.len();
            group.throughput(Throughput::Elements((3 * 2 * products * batch_size * seq_len) as u64));
            for precision in [Precision::F32, Precision::Bf16] {
                let name = format!("{cell:?}-{precision:?}-h{hidden_size}-b{batch_size}-t{seq_len}");
                group.bench_function(name, |bencher| {
                    bencher.iter(|| {
                        let [last_hidden, last_cell_state] = last.each_mut();
                        let outputs = SequenceOutputs { output: &mut output, last_hidden, last_cell_state };
                        let trace = sequence_forward_traced(&engine, precision, shape, Memory::All, inputs, outputs);
                        let grad =
                            OutputGradients { output: Some(Rows::dense(&input, hidden_size)), ..Default::default() };
                        let [input, weight_ih, weight_hh, bias] = gradients.each_mut().map(|slot| Some(&mut slot[..]));
                        let out = SequenceGradients { input, weight_ih, weight_hh, bias, ..Default::default() };
                        sequence_backward(&engine, precision, shape, inputs, &output, &trace, grad, out);
                    });
                });
            }
        }
    }
}

fn products(criterion: &mut Criterion) {
    let engine = engine();
    let mut group = criterion.benchmark_group("product");
    group.sample_size(10);
    for [m, k, n] in PRODUCTS {
        let (a, b, mut out) = (floats(m * k, 1.0), floats(k * n, 1.0), vec![0.0; m * n]);
        group.throughput(Throughput::Elements((2 * m * k * n) as u64));
        for precision in [Precision::F32, Precision::Bf16] {
            group.bench_function(format!("{precision:?}-{m}x{k}x{n}"), |bencher| {
                bencher.iter(|| {
                    let (a, b) = (MatRef::row_major(&a, m, k), MatRef::row_major(&b, n, k).transposed());
                    matmul(&engine, precision, a, b, Beta::Overwrite, MatMut::row_major(black_box(&mut out), m, n));
                });
            });
        }
    }
}

fn heads(criterion: &mut Criterion) {
    let engine = engine();
    let mut group = criterion.benchmark_group("head");
    group.sample_size(10);
    for [rows, hidden_size, vocab_size] in HEADS {
        let (hidden, weight) = (floats(rows * hidden_size, 1.0), floats(vocab_size * hidden_size, 0.1));
        let bias = floats(vocab_size, 0.1);
        let targets: Vec<u32> = (0..rows).map(|row| (row * 31 % vocab_size) as u32).collect();
        let mut gradients = [hidden.clone(), weight.clone(), bias.clone()];
        let mut losses = vec![0.0; rows];
        group.throughput(Throughput::Elements((3 * 2 * rows * hidden_size * vocab_size) as u64));
        for precision in [Precision::F32, Precision::Bf16] {
            group.bench_function(format!("{precision:?}-r{rows}-h{hidden_size}-v{vocab_size}"), |bencher| {
                bencher.iter(|| {
                    let args = LinearCrossEntropy {
                        hidden: &hidden,
                        weight: &weight,
                        bias: &bias,
                        targets: &targets,
                        hidden_size,
                        vocab_size,
                    };
                    let [hidden, weight, bias] = gradients.each_mut();
                    let out = LinearCrossEntropyGradients { hidden, weight, bias };
                    linear_cross_entropy(&engine, precision, args, &mut losses, Some(out));
                });
            });
        }
    }
}

criterion_group!(benches, layers, products, heads);
criterion_main!(benches);
