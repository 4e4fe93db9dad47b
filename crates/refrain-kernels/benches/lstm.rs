//! Speed of products and LSTM layers, one line per case: `cargo bench -p refrain-kernels -- [--threads N] [--kernel ISA] [FILTER]`.
//!
//! Every case runs for half a second after a warm-up, at least five times; the median counts. The fraction is of the
//! multiply-add peak that the same instruction set and threads reach on registers alone.
#![expect(clippy::print_stdout, reason = "a benchmark reports on stdout")]

use std::hint::black_box;
use std::time::Instant;

use refrain_kernels::{
    AdamStep, Beta, DropoutKey, Engine, Isa, LinearCrossEntropy, LinearCrossEntropyGradients, LstmGradients,
    LstmInputs, LstmOutputGradients, LstmOutputs, LstmShape, MatMut, MatRef, adam, dropout, keep_freed_memory,
    linear_cross_entropy, lstm_backward, lstm_forward, lstm_forward_traced, matmul,
};

/// Seconds spent on a case, and the fewest runs of it.
const SECONDS_PER_CASE: f64 = 0.5;
const FEWEST_RUNS: usize = 5;

struct Bench {
    engine: Engine,
    filter: String,
    peak: f64,
}

impl Bench {
    /// Whether any case whose name starts so is wanted: what it needs is big.
    fn wants(&self, names: &str) -> bool {
        names.contains(&self.filter) || self.filter.starts_with(names)
    }

    /// Runs a case and prints its median time and rate.
    fn case(&self, name: &str, flops: f64, mut work: impl FnMut(&Engine)) {
        if !name.contains(&self.filter) {
            return;
        }
        let seconds = median_seconds(|| work(&self.engine));
        let rate = flops / seconds / 1e9;
        println!(
            "{name:<44} {:>10.3} ms {rate:>8.1} GFLOP/s  {:>3.0} % of peak  {} threads {}",
            seconds * 1e3,
            100.0 * rate / self.peak,
            self.engine.num_threads(),
            self.engine.isa(),
        );
    }
}

fn median_seconds(mut work: impl FnMut()) -> f64 {
    work();
    let begin = Instant::now();
    let mut seconds = Vec::new();
    while seconds.len() < FEWEST_RUNS || begin.elapsed().as_secs_f64() < SECONDS_PER_CASE {
        let start = Instant::now();
        work();
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() {
    keep_freed_memory();
    let mut threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut isa = Isa::detect();
    let mut filter = String::new();
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let mut value = || args.next().expect("an option has a value");
        match arg.as_str() {
            "--threads" => threads = value().parse().expect("--threads takes a number"),
            "--kernel" => isa = value().parse().expect("--kernel takes an instruction set"),
            _ => filter = arg,
        }
    }
    let engine = Engine::new(isa, threads).expect("the engine can be made here");
    let peak = peak_gflops(isa, threads);
    println!("peak of {threads} threads on {isa}: {peak:.1} GFLOP/s");
    let bench = Bench { engine, filter, peak };
    products(&bench);
    for (hidden_size, batch_size, seq_len) in
        [(128, 32, 64), (256, 64, 100), (512, 64, 128), (650, 20, 35), (1024, 16, 100)]
    {
        layer(&bench, LstmShape { batch_size, seq_len, input_size: hidden_size, hidden_size });
    }
    for (hidden_size, batch_size) in [(512, 1), (1024, 1), (512, 4), (512, 8), (512, 16), (512, 64)] {
        one_step(&bench, LstmShape { batch_size, seq_len: 1, input_size: hidden_size, hidden_size });
    }
    head(&bench, 700, 650, 10_000);
    head(&bench, 2048, 512, 33_000);
    elementwise(&bench);
}

fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 * 0.2 - 0.1
    };
    (0..len).map(|_| next()).collect()
}

fn products(bench: &Bench) {
    if !bench.wants("product") && !bench.wants("weight gradient") {
        return;
    }
    // K hidden units, N = 4 K.
    for (k, m) in [(128, 64), (512, 1), (512, 20), (512, 64), (512, 8192), (650, 20), (1024, 64)] {
        let n = 4 * k;
        let (a, b) = (noise(m * k), noise(n * k));
        let mut out = vec![0.0; m * n];
        bench.case(&format!("product k {k} m {m} weight [n, k]"), (2 * m * n * k) as f64, |engine| {
            let b = MatRef::row_major(&b, n, k).transposed();
            matmul(engine, MatRef::row_major(&a, m, k), b, Beta::Overwrite, MatMut::row_major(&mut out, m, n));
        });
        bench.case(&format!("product k {k} m {m} weight [k, n]"), (2 * m * n * k) as f64, |engine| {
            let b = MatRef::row_major(&b, k, n);
            matmul(engine, MatRef::row_major(&a, m, k), b, Beta::Overwrite, MatMut::row_major(&mut out, m, n));
        });
    }
    for (m, k, n) in [(2048, 8192, 512), (2600, 700, 650)] {
        let (a, b) = (noise(m * k), noise(n * k));
        let mut out = vec![0.0; m * n];
        bench.case(&format!("weight gradient [{m}, {k}] · [{k}, {n}]"), (2 * m * n * k) as f64, |engine| {
            let a = MatRef::row_major(&a, k, m).transposed();
            matmul(engine, a, MatRef::row_major(&b, k, n), Beta::Overwrite, MatMut::row_major(&mut out, m, n));
        });
    }
}

struct Layer {
    shape: LstmShape,
    input: Vec<f32>,
    weight_ih: Vec<f32>,
    weight_hh: Vec<f32>,
    bias: Vec<f32>,
    state: Vec<f32>,
}

impl Layer {
    fn new(shape: LstmShape) -> Self {
        let LstmShape { batch_size, seq_len, input_size, hidden_size } = shape;
        Self {
            shape,
            input: noise(batch_size * seq_len * input_size),
            weight_ih: noise(4 * hidden_size * input_size),
            weight_hh: noise(4 * hidden_size * hidden_size),
            bias: noise(4 * hidden_size),
            state: noise(batch_size * hidden_size),
        }
    }

    fn inputs(&self) -> LstmInputs<'_> {
        LstmInputs {
            input: &self.input,
            weight_ih: &self.weight_ih,
            weight_hh: &self.weight_hh,
            bias: &self.bias,
            hidden: &self.state,
            cell_state: &self.state,
        }
    }

    fn forward_flops(&self) -> f64 {
        let LstmShape { batch_size, seq_len, input_size, hidden_size } = self.shape;
        (8 * batch_size * seq_len * hidden_size * (input_size + hidden_size)) as f64
    }
}

fn layer(bench: &Bench, shape: LstmShape) {
    if !bench.wants("lstm h") {
        return;
    }
    let layer = Layer::new(shape);
    let name = format!("lstm h {} b {} t {}", shape.hidden_size, shape.batch_size, shape.seq_len);
    let mut output = vec![0.0; shape.batch_size * shape.seq_len * shape.hidden_size];
    let mut last_cell_state = layer.state.clone();
    let grad_output = noise(output.len());
    let mut gradients = [
        vec![0.0; layer.input.len()],
        vec![0.0; layer.weight_ih.len()],
        vec![0.0; layer.weight_hh.len()],
        vec![0.0; layer.bias.len()],
        vec![0.0; layer.state.len()],
        vec![0.0; layer.state.len()],
    ];
    bench.case(&format!("{name} forward"), layer.forward_flops(), |engine| {
        let outputs = LstmOutputs { output: &mut output, last_cell_state: &mut last_cell_state };
        lstm_forward(engine, shape, layer.inputs(), outputs);
    });
    bench.case(&format!("{name} forward + backward"), 3.0 * layer.forward_flops(), |engine| {
        let outputs = LstmOutputs { output: &mut output, last_cell_state: &mut last_cell_state };
        let trace = lstm_forward_traced(engine, shape, layer.inputs(), outputs);
        let [input, weight_ih, weight_hh, bias, hidden, cell_state] = gradients.each_mut();
        let out = LstmGradients {
            input: Some(input),
            weight_ih: Some(weight_ih),
            weight_hh: Some(weight_hh),
            bias: Some(bias),
            hidden: Some(hidden),
            cell_state: Some(cell_state),
        };
        let grad = LstmOutputGradients { output: Some(&grad_output), last_cell_state: None };
        lstm_backward(engine, shape, layer.inputs(), &output, &trace, grad, out);
    });
}

fn one_step(bench: &Bench, shape: LstmShape) {
    let layer = Layer::new(shape);
    let mut output = layer.state.clone();
    let mut last_cell_state = layer.state.clone();
    let name = format!("lstm step h {} b {}", shape.hidden_size, shape.batch_size);
    bench.case(&name, layer.forward_flops(), |engine| {
        let outputs = LstmOutputs { output: &mut output, last_cell_state: &mut last_cell_state };
        lstm_forward(engine, shape, layer.inputs(), outputs);
    });
}

fn head(bench: &Bench, rows: usize, hidden_size: usize, vocab_size: usize) {
    if !bench.wants("head") {
        return;
    }
    let (hidden, weight) = (noise(rows * hidden_size), noise(vocab_size * hidden_size));
    let bias = noise(vocab_size);
    let targets: Vec<u32> = (0..rows as u32).map(|row| row * 7919 % vocab_size as u32).collect();
    let args = LinearCrossEntropy {
        hidden: &hidden,
        weight: &weight,
        bias: &bias,
        targets: &targets,
        hidden_size,
        vocab_size,
    };
    let mut losses = vec![0.0; rows];
    let flops = (2 * rows * hidden_size * vocab_size) as f64;
    let name = format!("head {rows} rows h {hidden_size} v {vocab_size}");
    bench.case(&format!("{name} loss"), flops, |engine| linear_cross_entropy(engine, args, &mut losses, None));
    let mut gradients = [hidden.clone(), weight.clone(), bias.clone()];
    bench.case(&format!("{name} loss + gradients"), 3.0 * flops, |engine| {
        let [hidden, weight, bias] = gradients.each_mut();
        let gradients = LinearCrossEntropyGradients { hidden, weight, bias };
        linear_cross_entropy(engine, args, &mut losses, Some(gradients));
    });
}

fn elementwise(bench: &Bench) {
    if !bench.wants("adam") && !bench.wants("dropout") {
        return;
    }
    let len = 20_000_000;
    let step = AdamStep {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        decoupled_weight_decay: 0.01,
        step: 10,
    };
    let (mut param, grad, mut m, mut v) = (noise(len), noise(len), noise(len), vec![1e-3; len]);
    bench.case("adam 20 M parameters (12 flops each)", 12.0 * len as f64, |engine| {
        adam(engine, &step, &mut param, &grad, &mut m, &mut v);
    });
    let len = 4_200_000;
    let (input, mut output) = (noise(len), noise(len));
    bench.case("dropout 4.2 M elements (1 flop each)", len as f64, |engine| {
        dropout(engine, DropoutKey { seed: 1, stream: 2 }, 0.3, &input, &mut output);
    });
    black_box((param, output));
}

/// The multiply-add rate of `threads` at once, with operands in registers.
fn peak_gflops(isa: Isa, threads: usize) -> f64 {
    const ROUNDS: usize = 20_000_000;
    let barrier = std::sync::Barrier::new(threads);
    let run = || {
        let mut best = f64::INFINITY;
        let mut flops = 0.0;
        for _ in 0..5 {
            barrier.wait();
            let start = Instant::now();
            flops = black_box(multiply_adds(isa, ROUNDS));
            best = best.min(start.elapsed().as_secs_f64());
        }
        flops / best / 1e9
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        workers.into_iter().map(|worker| worker.join().expect("the peak loop does not panic")).sum()
    })
}

/// Runs `rounds` of independent multiply-adds and returns how many operations that were.
fn multiply_adds(isa: Isa, rounds: usize) -> f64 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the engine was made for this instruction set before, so it is there.
        Isa::Avx512 => unsafe { x86::avx512(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::avx2(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 processor has SSE2.
        _ => unsafe { x86::sse2(rounds) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => rounds as f64,
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128, _mm_add_ps, _mm_mul_ps, _mm_set1_ps, _mm256_fmadd_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_set1_ps,
    };
    use std::hint::black_box;

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(rounds: usize) -> f64 {
        let (x, y) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
        let mut sums = [y; 16];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums);
        (rounds * 16 * 16 * 2) as f64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(rounds: usize) -> f64 {
        let (x, y) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
        let mut sums = [y; 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums);
        (rounds * 12 * 8 * 2) as f64
    }

    #[target_feature(enable = "sse2")]
    pub(super) fn sse2(rounds: usize) -> f64 {
        let (x, y): (__m128, __m128) = (_mm_set1_ps(black_box(0.5)), _mm_set1_ps(black_box(0.25)));
        let mut sums = [y; 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm_add_ps(_mm_mul_ps(*sum, x), y);
            }
        }
        black_box(sums);
        (rounds * 12 * 4 * 2) as f64
    }
}
