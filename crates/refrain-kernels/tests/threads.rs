//! The same bytes for any number of threads, for every public function, over odd shapes; and concurrent callers.

mod common;

use common::sequence::{backward_after, forward, forward_traced, full_gradient, gates, with_options};
use common::sequence_reference::Problem;
use common::{Noise, PRECISIONS, bits};
use refrain_kernels::{
    AdamStep, Beta, Cell, DropoutKey, Engine, Isa, LabelSmoothing, LinearCrossEntropy, LinearCrossEntropyGradients,
    MatMut, MatRef, Nesterov, Precision, RmsPropStep, SgdStep, adam, add_normal_noise, column_sums, dropout, exp,
    matmul, matmul_bias, rmsprop, sgd, sigmoid, smoothed_linear_cross_entropy, sum_of_squares, tanh,
};

/// Runs the work on 1 to 4 threads of every instruction set and compares all the floats that it returns.
fn same_bytes(name: &str, work: impl Fn(&Engine) -> Vec<Vec<f32>>) {
    for isa in Isa::supported() {
        let run = |num_threads| -> Vec<Vec<u32>> {
            work(&Engine::new(isa, num_threads).expect("a supported instruction set"))
                .iter()
                .map(|values| bits(values))
                .collect()
        };
        let expected = run(1);
        for num_threads in 2..=4 {
            assert!(run(num_threads) == expected, "{name} on {num_threads} threads of {isa}");
        }
    }
}

#[test]
fn products() {
    for (m, k, n) in
        [(1, 700, 900), (5, 300, 1111), (8, 515, 333), (13, 1030, 257), (19, 600, 258), (250, 77, 65), (600, 1100, 3)]
    {
        let mut noise = Noise::new(m as u64);
        let (a, b, bias) = (noise.floats(m * k), noise.floats(k * n), noise.floats(n));
        let left = [MatRef::row_major(&a, m, k), MatRef::row_major(&a, k, m).transposed()];
        let right = [MatRef::row_major(&b, k, n), MatRef::row_major(&b, n, k).transposed()];
        for precision in PRECISIONS {
            same_bytes(&format!("[{m}, {k}] · [{k}, {n}] in {precision:?}"), |engine| {
                let mut outputs = Vec::new();
                for left in left {
                    for right in right {
                        let mut out = vec![0.0; m * n];
                        matmul_bias(engine, precision, left, right, &bias, MatMut::row_major(&mut out, m, n));
                        let start = MatMut::row_major(&mut out, m, n);
                        matmul(engine, precision, left, right, Beta::Accumulate, start);
                        outputs.push(out);
                    }
                }
                outputs
            });
        }
        same_bytes(&format!("column sums of [{m}, {k}]"), |engine| {
            let mut sums = vec![vec![0.0; k], vec![0.0; m]];
            column_sums(engine, left[0], &mut sums[0]);
            column_sums(engine, left[0].transposed(), &mut sums[1]);
            sums
        });
    }
}

/// Everything that a layer computes, forward and backward, and what its gates did.
fn layer(engine: &Engine, precision: Precision, problem: &Problem) -> Vec<Vec<f32>> {
    let untraced = forward(engine, precision, problem);
    let (written, trace) = forward_traced(engine, precision, problem);
    let gradients = backward_after(engine, precision, problem, (&written, &trace), full_gradient(problem));
    let mut all = gradients.to_vec();
    for written in [untraced, written] {
        all.extend([written.output, written.last_hidden, written.last_cell_state]);
    }
    all.extend(gates(engine, precision, problem).into_iter().map(|(_, values)| values));
    all
}

#[test]
fn recurrent_layers() {
    for cell in Cell::ALL {
        for (b, t, i, h) in [
            (1, 5, 33, 400),
            (2, 4, 61, 333),
            (4, 1, 65, 333),
            (7, 3, 1, 129),
            (13, 9, 31, 97),
            (33, 5, 17, 65),
            (70, 3, 130, 64),
            (5, 4, 2, 3),
            (2, 400, 5, 20),
        ] {
            let problem = Problem::new(cell, b, t, i, h);
            let every_option = with_options(&problem).pop().expect("all of them").ragged();
            for (problem, precision) in [problem, every_option].iter().flat_map(|p| PRECISIONS.map(|of| (p, of))) {
                let name = format!("{:?} in {precision:?}", problem.shape);
                same_bytes(&name, |engine| layer(engine, precision, problem));
            }
        }
    }
}

#[test]
fn linear_cross_entropies() {
    for (rows, hidden_size, vocab_size) in [(1, 65, 1000), (37, 129, 1200), (2500, 5, 33)] {
        let mut noise = Noise::new(rows as u64);
        let (hidden, weight) = (noise.floats(rows * hidden_size), noise.floats(vocab_size * hidden_size));
        let bias = noise.floats(vocab_size);
        let targets: Vec<u32> = (0..rows).map(|row| (row * 7 % vocab_size) as u32).collect();
        let args = LinearCrossEntropy {
            hidden: &hidden,
            weight: &weight,
            bias: &bias,
            targets: &targets,
            hidden_size,
            vocab_size,
        };
        for precision in PRECISIONS {
            same_bytes(&format!("linear_cross_entropy in {precision:?}"), |engine| {
                let [losses, uniform] = [vec![0.0; rows], vec![0.0; rows]];
                let mut out = [hidden.clone(), weight.clone(), bias.clone(), losses, uniform];
                let [hidden, weight, bias, losses, uniform_losses] = out.each_mut();
                let gradients = LinearCrossEntropyGradients { hidden, weight, bias };
                let smoothing = Some(LabelSmoothing { share: 0.1, uniform_losses });
                smoothed_linear_cross_entropy(engine, precision, args, losses, smoothing, Some(gradients));
                out.to_vec()
            });
        }
    }
}

#[test]
fn elementwise_functions() {
    let len = 100_003;
    let mut noise = Noise::new(8);
    let (input, grad) = (noise.floats(len), noise.floats(len));
    let state: Vec<f32> = noise.floats(len).iter().map(|value| value.abs()).collect();
    same_bytes("elementwise functions", |engine| {
        let mut out = vec![vec![0.0; len]; 5];
        add_normal_noise(engine, DropoutKey { seed: 1, stream: 3 }, 0.3, &mut out[4]);
        exp(engine, &input, &mut out[0]);
        sigmoid(engine, &input, &mut out[1]);
        tanh(engine, &input, &mut out[2]);
        dropout(engine, DropoutKey { seed: 1, stream: 2 }, 0.3, &input, &mut out[3]);
        let sum = sum_of_squares(engine, &input).to_bits();
        out.push(vec![f32::from_bits(sum as u32), f32::from_bits((sum >> 32) as u32)]);
        out
    });
    same_bytes("optimiser steps", |engine| {
        let (mut param, mut m, mut v) = (input.clone(), grad.clone(), state.clone());
        let step = AdamStep {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.1,
            decoupled_weight_decay: 0.1,
            step: 3,
        };
        adam(engine, &step, &mut param, &grad, &mut m, &mut v);
        let step = SgdStep {
            learning_rate: 0.1,
            momentum: 0.9,
            dampening: 0.1,
            nesterov: Nesterov::On,
            weight_decay: 0.1,
            first: false,
        };
        sgd(engine, &step, &mut param, &grad, Some(&mut m));
        let step = RmsPropStep { learning_rate: 0.1, alpha: 0.9, epsilon: 1e-8, weight_decay: 0.1 };
        rmsprop(engine, &step, &mut param, &grad, &mut v);
        vec![param, m, v]
    });
}

#[test]
fn concurrent_callers_of_one_engine_get_the_same_bytes() {
    for isa in Isa::supported() {
        let engine = Engine::new(isa, 3).unwrap();
        for cell in Cell::ALL {
            let problem = Problem::new(cell, 13, 4, 31, 97);
            let expected = PRECISIONS.map(|precision| layer(&engine, precision, &problem));
            std::thread::scope(|scope| {
                for caller in 0..3 {
                    let (engine, problem, expected) = (&engine, &problem, &expected);
                    scope.spawn(move || {
                        // Callers that start with different precisions.
                        for call in caller..caller + 4 {
                            let found = layer(engine, PRECISIONS[call % 2], problem);
                            assert!(found == expected[call % 2], "{:?} on {isa}", problem.shape);
                        }
                    });
                }
            });
        }
    }
}
