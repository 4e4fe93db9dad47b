//! Refrain's LSTM in a plain Burn program: the same model, the same Burn optimiser and the same task, trained once with Burn's
//! own layer and once with ours in its place.
//!
//! ```console
//! $ cargo run --release -p refrain --example burn_layer                # 20 steps to remember, 600 steps of training
//! $ cargo run --release -p refrain --example burn_layer -- 12 1000     # others
//! ```
//!
//! The task is the adding problem (Hochreiter and Schmidhuber 1997): every step shows a random number and a mark; two steps are
//! marked, one in each half, and wanted after the last is the sum of their numbers. Who always answers 1 has a mean squared
//! error of 1/6.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::time::Instant;

use burn::module::{Module, ModuleDisplay};
use burn::nn::loss::{MseLoss, Reduction};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use refrain::nn::Initializer;
use refrain::random::{Purpose, Random};

const SEED: u64 = 1;
const BATCH_SIZE: usize = 32;
const HIDDEN_SIZE: usize = 64;
const LEARNING_RATE: f64 = 1e-2;

/// Both layers are Burn modules that read `[batch_size, seq_len, 2]` and write `[batch_size, seq_len, HIDDEN_SIZE]`.
trait Recurrent: Module + ModuleDisplay {
    fn outputs(&self, input: Tensor<3>) -> Tensor<3>;
}

impl Recurrent for burn::nn::Lstm {
    fn outputs(&self, input: Tensor<3>) -> Tensor<3> {
        self.forward(input, None).0
    }
}

impl Recurrent for refrain::nn::Lstm {
    fn outputs(&self, input: Tensor<3>) -> Tensor<3> {
        self.forward(input, None, None, None).0
    }
}

#[derive(Module, Debug)]
struct Adder<L: Module> {
    recurrent: L,
    head: Linear,
}

impl<L: Recurrent> Adder<L> {
    /// `[batch_size, seq_len, 2]` to `[batch_size, 1]`.
    fn forward(&self, input: Tensor<3>) -> Tensor<2> {
        let [batch_size, seq_len, _] = input.dims();
        let last = self.recurrent.outputs(input).narrow(1, seq_len - 1, 1);
        self.head.forward(last.reshape([batch_size, HIDDEN_SIZE]))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    refrain::kernels::keep_freed_memory();
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (seq_len, num_steps) = (number(20)?, number(600)?);
    if seq_len < 2 || num_steps == 0 {
        return Err("at least 2 steps are needed to remember, and 1 of training".into());
    }
    let device = Device::flex().autodiff();
    device.seed(SEED);
    println!("adding problem over {seq_len} steps, {num_steps} steps of training, batches of {BATCH_SIZE}");
    let theirs = burn::nn::LstmConfig::new(2, HIDDEN_SIZE, true).init(&device);
    train("burn::nn::Lstm", theirs, [seq_len, num_steps], &device);
    let ours = refrain::nn::LstmConfig::new(2, HIDDEN_SIZE).init(&mut Initializer::new(SEED, &device));
    train("refrain::nn::Lstm", ours, [seq_len, num_steps], &device);
    Ok(())
}

/// Trains a model around the layer, and prints how it goes.
fn train<L: Recurrent>(name: &str, recurrent: L, [seq_len, num_steps]: [usize; 2], device: &Device) {
    let mut model = Adder { recurrent, head: LinearConfig::new(HIDDEN_SIZE, 1).init(device) };
    let mut optimizer = AdamConfig::new().init();
    let mut mean = 0.0;
    let start = Instant::now();
    for step in 1..=num_steps {
        let (input, target) = batch(step as u64, seq_len, device);
        let loss = MseLoss::new().forward(model.forward(input), target, Reduction::Mean);
        mean += loss.clone().into_scalar::<f32>();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(LEARNING_RATE, model, gradients);
        let since = step % 50;
        if since == 0 || step == num_steps {
            let count = if since == 0 { 50 } else { since };
            println!("{name:<18} step {step:>4}  loss {:.4}", mean / count as f32);
            mean = 0.0;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{name:<18} {seconds:.2} s, {:.2} ms a step\n", 1e3 * seconds / num_steps as f64);
}

/// The inputs `[BATCH_SIZE, seq_len, 2]`, each step's number and mark, and the sums `[BATCH_SIZE, 1]`.
fn batch(index: u64, seq_len: usize, device: &Device) -> (Tensor<3>, Tensor<2>) {
    let mut random = Random::new(SEED, Purpose::Sampling, index);
    let mut input = Vec::with_capacity(BATCH_SIZE * seq_len * 2);
    let mut sums = Vec::with_capacity(BATCH_SIZE);
    for _ in 0..BATCH_SIZE {
        let half = seq_len / 2;
        let first = (random.uniform() * half as f64) as usize;
        let second = half + (random.uniform() * (seq_len - half) as f64) as usize;
        let mut sum = 0.0;
        for step in 0..seq_len {
            let number = random.uniform() as f32;
            let mark = f32::from(u8::from(step == first || step == second));
            input.extend([number, mark]);
            sum += number * mark;
        }
        sums.push(sum);
    }
    let input = Tensor::from_data(TensorData::new(input, [BATCH_SIZE, seq_len, 2]), device);
    (input, Tensor::from_data(TensorData::new(sums, [BATCH_SIZE, 1]), device))
}
