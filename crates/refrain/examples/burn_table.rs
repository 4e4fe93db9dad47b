//! Burn's recurrent layers and ours, in turn, as a table: forward and backward, the gradient of the input included.
//!
//! ```console
//! $ cargo run --release -p refrain --example burn_table            # some minutes: Burn's layers take seconds at 512 units
//! $ cargo run --release -p refrain --example burn_table -- h128    # only rows with this in their name
//! ```
//!
//! Each layer is run once to warm up, then both take turns, and the medians are compared. All have biases; both GRUs reset after the
//! recurrent product, as PyTorch's. Threads, kernel and the machine's measure, as of `refrain bench`, go to stderr.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use refrain::kernels::Engine;
use refrain::kernels::measure::{fma_peak, read_bandwidth};
use refrain::nn::{
    Bidirectional, BidirectionalConfig, GruConfig, Initializer, LayerConfig, LstmConfig, RnnConfig, StackConfig,
};

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
    println!("| layer | Burn, ms | Refrain, ms | Burn / Refrain |");
    println!("|---|---|---|---|");
    for [hidden_size, batch_size, seq_len, turns] in SIZES {
        for (name, theirs, ours) in layers(hidden_size, &device) {
            let name = format!("{name}-h{hidden_size}-b{batch_size}-t{seq_len}");
            if !name.contains(&only) {
                continue;
            }
            let shape = [batch_size, seq_len, hidden_size];
            let input = Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device).require_grad();
            let [theirs, ours] = in_turn([&theirs, &ours], &input, turns).map(|seconds| 1e3 * seconds);
            println!("| {name} | {theirs:.1} | {ours:.1} | {:.1} |", theirs / ours);
        }
    }
}

/// Each of Burn's layers, by name, beside ours.
fn layers(size: usize, device: &Device) -> [(&'static str, Forward, Forward); 6] {
    let init = &mut Initializer::new(1, device);
    let [lstm, gru, rnn]: [LayerConfig; 3] =
        [LstmConfig::new(size, size).into(), GruConfig::new(size, size).into(), RnnConfig::new(size, size).into()];
    let theirs = burn::nn::LstmConfig::new(size, size, true).init(device);
    let lstms = ("lstm", forward(move |input| theirs.forward(input, None).0), one(lstm, init));
    let theirs = burn::nn::GruConfig::new(size, size, true).init(device);
    let grus = ("gru", forward(move |input| theirs.forward(input, None)), one(gru, init));
    let theirs = burn::nn::RnnConfig::new(size, size, true).init(device);
    let rnns = ("rnn", forward(move |input| theirs.forward(input, None).0), one(rnn, init));
    let theirs = burn::nn::BiLstmConfig::new(size, size, true).init(device);
    let bilstms = ("bilstm", forward(move |input| theirs.forward(input, None).0), both(lstm, init));
    let theirs = burn::nn::BiGruConfig::new(size, size, true).init(device);
    let bigrus = ("bigru", forward(move |input| theirs.forward(input, None).0), both(gru, init));
    let theirs = burn::nn::BiRnnConfig::new(size, size, true).init(device);
    let birnns = ("birnn", forward(move |input| theirs.forward(input, None).0), both(rnn, init));
    [lstms, grus, rnns, bilstms, bigrus, birnns]
}

fn forward(forward: impl Fn(Tensor<3>) -> Tensor<3> + 'static) -> Forward {
    Box::new(forward)
}

fn one(layer: LayerConfig, init: &mut Initializer<'_>) -> Forward {
    let layer = layer.init(init);
    forward(move |input| layer.forward(input, None, None, None).0)
}

fn both(layer: LayerConfig, init: &mut Initializer<'_>) -> Forward {
    let layers: Bidirectional = BidirectionalConfig::new(StackConfig::uniform(layer, 1)).init(init);
    forward(move |input| layers.forward(input, None, None, None).0)
}

/// The median seconds of each layer over the same input.
fn in_turn(layers: [&Forward; 2], input: &Tensor<3>, turns: usize) -> [f64; 2] {
    let mut seconds = [Vec::new(), Vec::new()];
    for turn in 0..=turns {
        for (seconds, forward) in seconds.iter_mut().zip(layers) {
            let start = Instant::now();
            black_box(forward(input.clone()).backward());
            if turn > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    })
}
