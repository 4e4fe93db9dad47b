//! The linear head with softmax and cross entropy against plain loops in f64.

mod common;

use common::{Noise, PRECISIONS, assert_close, engines, tolerance};
use refrain_kernels::{
    Engine, Isa, LabelSmoothing, LinearCrossEntropy, LinearCrossEntropyGradients, Precision, linear_cross_entropy,
    smoothed_linear_cross_entropy,
};

struct Problem {
    rows: usize,
    hidden_size: usize,
    vocab_size: usize,
    hidden: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    targets: Vec<u32>,
}

#[derive(Default)]
struct Expected {
    losses: Vec<f64>,
    uniform_losses: Vec<f64>,
    hidden: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
}

impl Problem {
    fn new(rows: usize, hidden_size: usize, vocab_size: usize) -> Self {
        let mut noise = Noise::new((rows * 31 + hidden_size * 7 + vocab_size) as u64);
        Self {
            rows,
            hidden_size,
            vocab_size,
            hidden: noise.floats(rows * hidden_size),
            weight: noise.floats(vocab_size * hidden_size),
            bias: noise.scaled(vocab_size, 3.0),
            targets: (0..rows).map(|_| (noise.bits() % vocab_size as u64) as u32).collect(),
        }
    }

    fn args(&self) -> LinearCrossEntropy<'_> {
        LinearCrossEntropy {
            hidden: &self.hidden,
            weight: &self.weight,
            bias: &self.bias,
            targets: &self.targets,
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
        }
    }

    fn expected(&self, share: f64) -> Expected {
        let mut expected = Expected {
            losses: Vec::new(),
            uniform_losses: Vec::new(),
            hidden: vec![0.0; self.hidden.len()],
            weight: vec![0.0; self.weight.len()],
            bias: vec![0.0; self.bias.len()],
        };
        for r in 0..self.rows {
            let hidden = &self.hidden[r * self.hidden_size..(r + 1) * self.hidden_size];
            let logit = |v: usize| {
                let weight = &self.weight[v * self.hidden_size..(v + 1) * self.hidden_size];
                let dot = weight.iter().zip(hidden).map(|(w, h)| f64::from(*w) * f64::from(*h)).sum::<f64>();
                dot + f64::from(self.bias[v])
            };
            let logits: Vec<f64> = (0..self.vocab_size).map(logit).collect();
            let maximum = logits.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let log_sum = maximum + logits.iter().map(|z| (z - maximum).exp()).sum::<f64>().ln();
            let target = self.targets[r] as usize;
            expected.losses.push(log_sum - logits[target]);
            expected.uniform_losses.push(log_sum - logits.iter().sum::<f64>() / self.vocab_size as f64);
            for (v, z) in logits.iter().enumerate() {
                let wanted = (1.0 - share) * f64::from(u8::from(v == target)) + share / self.vocab_size as f64;
                let d = ((z - log_sum).exp() - wanted) / self.rows as f64;
                expected.bias[v] += d;
                for (p, &h) in hidden.iter().enumerate() {
                    expected.hidden[r * self.hidden_size + p] += d * f64::from(self.weight[v * self.hidden_size + p]);
                    expected.weight[v * self.hidden_size + p] += d * f64::from(h);
                }
            }
        }
        expected
    }

    fn check(&self, engine: &Engine) {
        for share in [0.0, 0.3] {
            let expected = self.expected(f64::from(share));
            for precision in PRECISIONS {
                self.check_in(engine, precision, share, &expected);
            }
        }
    }

    fn check_in(&self, engine: &Engine, precision: Precision, share: f32, expected: &Expected) {
        let Self { rows, hidden_size, vocab_size, .. } = self;
        let name = format!(
            "{rows} rows, {hidden_size} units, {vocab_size} words in {precision:?} on {}, {share}",
            engine.isa()
        );
        let tolerance = tolerance(precision);
        let mut losses = vec![f32::NAN; self.rows];
        linear_cross_entropy(engine, precision, self.args(), &mut losses, None);
        assert_close(&name, &losses, &expected.losses, tolerance);
        let mut hidden = vec![f32::NAN; self.hidden.len()];
        let mut weight = vec![f32::NAN; self.weight.len()];
        let mut bias = vec![f32::NAN; self.bias.len()];
        let gradients = LinearCrossEntropyGradients { hidden: &mut hidden, weight: &mut weight, bias: &mut bias };
        let mut uniform_losses = vec![f32::NAN; self.rows];
        let smoothing = (share > 0.0).then_some(LabelSmoothing { share, uniform_losses: &mut uniform_losses });
        smoothed_linear_cross_entropy(engine, precision, self.args(), &mut losses, smoothing, Some(gradients));
        assert_close(&name, &losses, &expected.losses, tolerance);
        if share > 0.0 {
            assert_close(&name, &uniform_losses, &expected.uniform_losses, tolerance);
        }
        for (actual, expected) in [(hidden, &expected.hidden), (weight, &expected.weight), (bias, &expected.bias)] {
            // Of the sum rather than the mean, so that many rows do not hide an error.
            let actual: Vec<f32> = actual.iter().map(|value| value * self.rows as f32).collect();
            let expected: Vec<f64> = expected.iter().map(|value| value * self.rows as f64).collect();
            assert_close(&name, &actual, &expected, tolerance);
        }
    }
}

#[test]
fn losses_and_gradients_match_plain_loops() {
    for engine in engines(2) {
        for rows in [1, 2, 5, 16, 17, 33, 130] {
            for (hidden_size, vocab_size) in [(1, 1), (3, 2), (7, 13), (33, 65), (64, 300)] {
                Problem::new(rows, hidden_size, vocab_size).check(&engine);
            }
        }
    }
}

/// The gradients are those of the loss that the kernel itself gives.
#[test]
fn smoothed_gradients_are_the_differences_of_smoothed_losses() {
    const SHARE: f32 = 0.2;
    const STEP: f32 = 1e-2;
    let mut problem = Problem::new(5, 4, 7);
    let engine = Engine::new(Isa::Portable, 1).unwrap();
    let loss_and_gradient = |problem: &Problem| {
        let (mut own, mut uniform) = ([0.0; 5], [0.0; 5]);
        let [mut hidden, mut weight, mut bias] = [vec![0.0; 20], vec![0.0; 28], vec![0.0; 7]];
        let gradients = LinearCrossEntropyGradients { hidden: &mut hidden, weight: &mut weight, bias: &mut bias };
        let smoothing = Some(LabelSmoothing { share: SHARE, uniform_losses: &mut uniform });
        let args = problem.args();
        smoothed_linear_cross_entropy(&engine, Precision::F32, args, &mut own, smoothing, Some(gradients));
        let rows = own.iter().zip(&uniform).map(|(own, uniform)| f64::from((1.0 - SHARE) * own + SHARE * uniform));
        (rows.sum::<f64>() / 5.0, bias)
    };
    let (_, gradient) = loss_and_gradient(&problem);
    for (word, &gradient) in gradient.iter().enumerate() {
        let before = problem.bias[word];
        let [above, below] = [before + STEP, before - STEP].map(|bias| {
            problem.bias[word] = bias;
            loss_and_gradient(&problem).0
        });
        problem.bias[word] = before;
        let difference = (above - below) / f64::from(2.0 * STEP);
        assert!((difference - f64::from(gradient)).abs() < 1e-4, "word {word}: {difference}, {gradient}");
    }
}

#[test]
fn several_chunks_of_rows_match_plain_loops() {
    for engine in engines(2) {
        Problem::new(4100, 3, 5).check(&engine);
        Problem::new(34, 1, 1_000_000).check(&engine);
    }
}

#[test]
fn huge_logits_neither_overflow_nor_lose_the_loss() {
    for engine in engines(1) {
        for precision in PRECISIONS {
            let mut problem = Problem::new(3, 2, 40);
            problem.bias.fill(-1e4);
            problem.bias[7] = 1e4;
            problem.targets = vec![7, 8, 7];
            let mut losses = vec![f32::NAN; 3];
            linear_cross_entropy(&engine, precision, problem.args(), &mut losses, None);
            assert!(losses[0].abs() < 1e-6 && losses[2].abs() < 1e-6, "{losses:?}");
            assert!((losses[1] - 2e4).abs() < 10.0, "{losses:?}");
        }
    }
}

#[test]
fn a_bias_common_to_all_words_changes_nothing() {
    for engine in engines(1) {
        for precision in PRECISIONS {
            let (weight, bias) = (vec![0.0; 2], vec![1e4; 2]);
            let args = LinearCrossEntropy {
                hidden: &[1.0],
                weight: &weight,
                bias: &bias,
                targets: &[0],
                hidden_size: 1,
                vocab_size: 2,
            };
            let (mut losses, mut gradients) = ([0.0], [vec![0.0; 1], vec![0.0; 2], vec![0.0; 2]]);
            let [hidden, weight, bias] = gradients.each_mut();
            let out = LinearCrossEntropyGradients { hidden, weight, bias };
            linear_cross_entropy(&engine, precision, args, &mut losses, Some(out));
            assert!((losses[0] - std::f32::consts::LN_2).abs() < 1e-6, "{losses:?}");
            assert!((gradients[2][0] + 0.5).abs() < 1e-6 && (gradients[2][1] - 0.5).abs() < 1e-6, "{gradients:?}");
        }
    }
}

#[test]
fn nan_and_impossible_words_come_through() {
    for engine in engines(1) {
        for precision in PRECISIONS {
            let mut problem = Problem::new(4, 3, 50);
            problem.hidden[3] = f32::NAN;
            problem.bias[..20].fill(f32::NEG_INFINITY);
            problem.targets = vec![30, 30, 30, 5];
            let mut losses = vec![0.0; 4];
            linear_cross_entropy(&engine, precision, problem.args(), &mut losses, None);
            assert!(losses[0].is_finite() && losses[1].is_nan() && losses[2].is_finite(), "{losses:?}");
            assert!(losses[3] == f32::INFINITY, "{losses:?}");
        }
    }
}

#[test]
fn no_rows_give_zero_gradients() {
    let problem = Problem::new(0, 3, 4);
    let (mut weight, mut bias) = (vec![1.0; 12], vec![1.0; 4]);
    let gradients = LinearCrossEntropyGradients { hidden: &mut [], weight: &mut weight, bias: &mut bias };
    linear_cross_entropy(
        &Engine::new(Isa::Portable, 1).unwrap(),
        Precision::F32,
        problem.args(),
        &mut [],
        Some(gradients),
    );
    assert!(weight.iter().chain(&bias).all(|&value| value == 0.0));
}

#[test]
#[should_panic(expected = "target 4 in a vocabulary of 4")]
fn a_target_that_is_no_word_is_refused() {
    let mut problem = Problem::new(2, 3, 4);
    problem.targets[1] = 4;
    linear_cross_entropy(&Engine::new(Isa::Portable, 1).unwrap(), Precision::F32, problem.args(), &mut [0.0; 2], None);
}
