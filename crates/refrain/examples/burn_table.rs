//! Burn's recurrent layers and ours, in turn, as a table: forward and backward, the gradient of the input included.
//!
//! ```console
//! $ cargo run --release -p refrain --example burn_table            # some minutes: Burn's layers take seconds at 512 units
//! $ cargo run --release -p refrain --example burn_table -- h128    # only rows with this in their name
//! ```
//!
//! Each layer is run once to warm up, then they take turns of three passes, and the medians of all passes are compared: Burn's in f32,
//! ours in f32, ours with the factors of products in bf16. All have biases; both GRUs reset after the recurrent product, as PyTorch's. Threads, kernel and the machine's measure, as of `refrain bench`, go to stderr.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use refrain::kernels::Engine;
use refrain::kernels::measure::{fma_peak, read_bandwidth};
use refrain::nn::{
    Bidirectional, BidirectionalConfig, GruConfig, Initializer, LayerConfig, LstmConfig, Precision, RnnConfig,
    StackConfig,
};

/// Passes of a layer, one after another, as in training.
const PASSES: usize = 3;
/// Hidden units, sequences, steps, turns.
const SIZES: [[usize; 4]; 2] = [[128, 32, 64, 5], [512, 64, 128, 3]];

/// From `[batch_size, seq_len, hidden_size]` to the output.
type Forward = Box<dyn Fn(Tensor<3>) -> Tensor<3>>;

fn main() {
    refrain::kernels::keep_freed_memory();
    let only = std::env::args().nth(1).unwrap_or_default();
    let device = Device::flex().autodiff();
    let engine = Engine::current();
    let (threads, isa) = (engine.num_threads(), engine.isa());
    eprintln!("computing   ours with {threads} threads, kernel {isa}; Burn with as many as it chooses");
    let (peak, bandwidth) = (fma_peak(&engine) / 1e9, read_bandwidth(&engine) / 1e9);
    eprintln!("machine     peak {peak:.1} GFLOP/s, memory {bandwidth:.1} GB/s");
    println!("| layer | Burn, ms | Refrain, ms | Burn / Refrain | Refrain in bf16, ms | Burn / Refrain in bf16 |");
    println!("|---|---|---|---|---|---|");
    for [hidden_size, batch_size, seq_len, turns] in SIZES {
        for (name, theirs, [ours, ours_in_bf16]) in layers(hidden_size, &device) {
            let name = format!("{name}-h{hidden_size}-b{batch_size}-t{seq_len}");
            if !name.contains(&only) {
                continue;
            }
            let shape = [batch_size, seq_len, hidden_size];
            let input = Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device).require_grad();
            let [theirs, ours, bf16] =
                in_turn([&theirs, &ours, &ours_in_bf16], &input, turns).map(|seconds| 1e3 * seconds);
            let [ratio, bf16_ratio] = [ours, bf16].map(|ours| theirs / ours);
            println!("| {name} | {theirs:.1} | {ours:.1} | {ratio:.1} | {bf16:.1} | {bf16_ratio:.1} |");
        }
    }
}

/// Each of Burn's layers, by name, beside ours, in f32 and in bf16.
fn layers(size: usize, device: &Device) -> [(&'static str, Forward, [Forward; 2]); 6] {
    let init = &mut Initializer::new(1, device);
    let precisions = [Precision::F32, Precision::Bf16];
    let lstm = precisions.map(|precision| LstmConfig { precision, ..LstmConfig::new(size, size) }.into());
    let gru = precisions.map(|precision| GruConfig { precision, ..GruConfig::new(size, size) }.into());
    let rnn = precisions.map(|precision| RnnConfig { precision, ..RnnConfig::new(size, size) }.into());
    let theirs = burn::nn::LstmConfig::new(size, size, true).init(device);
    let lstms = ("lstm", forward(move |input| theirs.forward(input, None).0), one(&lstm, init));
    let theirs = burn::nn::GruConfig::new(size, size, true).init(device);
    let grus = ("gru", forward(move |input| theirs.forward(input, None)), one(&gru, init));
    let theirs = burn::nn::RnnConfig::new(size, size, true).init(device);
    let rnns = ("rnn", forward(move |input| theirs.forward(input, None).0), one(&rnn, init));
    let theirs = burn::nn::BiLstmConfig::new(size, size, true).init(device);
    let bilstms = ("bilstm", forward(move |input| theirs.forward(input, None).0), both(&lstm, init));
    let theirs = burn::nn::BiGruConfig::new(size, size, true).init(device);
    let bigrus = ("bigru", forward(move |input| theirs.forward(input, None).0), both(&gru, init));
    let theirs = burn::nn::BiRnnConfig::new(size, size, true).init(device);
    let birnns = ("birnn", forward(move |input| theirs.forward(input, None).0), both(&rnn, init));
    [lstms, grus, rnns, bilstms, bigrus, birnns]
}

fn forward(forward: impl Fn(Tensor<3>) -> Tensor<3> + 'static) -> Forward {
    Box::new(forward)
}

fn one(layers: &[LayerConfig; 2], init: &mut Initializer<'_>) -> [Forward; 2] {
    layers.each_ref().map(|layer| {
        let layer = layer.init(init);
        forward(move |input| layer.forward(input, None, None, None).0)
    })
}

fn both(layers: &[LayerConfig; 2], init: &mut Initializer<'_>) -> [Forward; 2] {
    layers.each_ref().map(|layer| {
        let layers: Bidirectional = BidirectionalConfig::new(StackConfig::uniform(*layer, 1)).init(init);
        forward(move |input| layers.forward(input, None, None, None).0)
    })
}

/// The median seconds of each layer over the same input.
fn in_turn<const LAYERS: usize>(layers: [&Forward; LAYERS], input: &Tensor<3>, turns: usize) -> [f64; LAYERS] {
    let pass = |forward: &Forward| {
        let start = Instant::now();
        black_box(forward(input.clone()).backward());
        start.elapsed().as_secs_f64()
    };
    for layer in layers {
        pass(layer);
    }
    let mut seconds = [const { Vec::new() }; LAYERS];
    for _ in 0..turns {
        for (seconds, layer) in seconds.iter_mut().zip(layers) {
            seconds.extend((0..PASSES).map(|_| pass(layer)));
        }
    }
    seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    })
}
