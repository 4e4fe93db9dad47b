//! Optimiser steps against the same formulas in f64, over several steps.

mod common;

use common::{Noise, assert_close, engines, wide};
use refrain_kernels::{
    AdamStep, Engine, Isa, Nesterov, RmsPropStep, SgdStep, adam, all_finite, rmsprop, sgd, sum_of_squares,
};

const LEN: usize = 40_003;
const STEPS: u64 = 4;

#[test]
fn adam_follows_its_formula() {
    for (weight_decay, decoupled_weight_decay) in [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1)] {
        for engine in engines(2) {
            let mut noise = Noise::new(1);
            let mut param = noise.floats(LEN);
            let (mut m, mut v) = (vec![0.0; LEN], vec![0.0; LEN]);
            let mut expected = wide(&param);
            let (mut wide_m, mut wide_v) = (vec![0.0; LEN], vec![0.0; LEN]);
            for step in 1..=STEPS {
                let grad = noise.floats(LEN);
                let step = AdamStep {
                    learning_rate: 0.01,
                    beta1: 0.9,
                    beta2: 0.999,
                    epsilon: 1e-8,
                    weight_decay,
                    decoupled_weight_decay,
                    step,
                };
                adam(&engine, &step, &mut param, &grad, &mut m, &mut v);
                for e in 0..LEN {
                    expected[e] *= 1.0 - 0.01 * decoupled_weight_decay;
                    let g = f64::from(grad[e]) + weight_decay * expected[e];
                    wide_m[e] = 0.9 * wide_m[e] + 0.1 * g;
                    wide_v[e] = 0.999 * wide_v[e] + 0.001 * g * g;
                    let mean = wide_m[e] / (1.0 - 0.9f64.powi(step.step as i32));
                    let root = (wide_v[e] / (1.0 - 0.999f64.powi(step.step as i32))).sqrt();
                    expected[e] -= 0.01 * mean / (root + 1e-8);
                }
            }
            assert_close("param", &param, &expected, 1e-5);
            assert_close("m", &m, &wide_m, 1e-6);
            assert_close("v", &v, &wide_v, 1e-6);
        }
    }
}

#[test]
fn sgd_follows_its_formula() {
    for (momentum, dampening, nesterov) in
        [(0.0, 0.0, Nesterov::Off), (0.9, 0.0, Nesterov::Off), (0.9, 0.5, Nesterov::Off), (0.9, 0.0, Nesterov::On)]
    {
        for engine in engines(2) {
            let mut noise = Noise::new(2);
            let mut param = noise.floats(LEN);
            let mut velocity = vec![f32::NAN; LEN];
            let mut expected = wide(&param);
            let mut wide_velocity = vec![0.0; LEN];
            for step in 0..STEPS {
                let grad = noise.floats(LEN);
                let first = step == 0;
                let step = SgdStep { learning_rate: 0.5, momentum, dampening, nesterov, weight_decay: 0.01, first };
                sgd(&engine, &step, &mut param, &grad, (momentum != 0.0).then_some(&mut velocity[..]));
                for e in 0..LEN {
                    let g = f64::from(grad[e]) + 0.01 * expected[e];
                    wide_velocity[e] = if first { g } else { momentum * wide_velocity[e] + (1.0 - dampening) * g };
                    expected[e] -= 0.5
                        * match nesterov {
                            _ if momentum == 0.0 => g,
                            Nesterov::Off => wide_velocity[e],
                            Nesterov::On => g + momentum * wide_velocity[e],
                        };
                }
            }
            assert_close("param", &param, &expected, 1e-6);
        }
    }
}

#[test]
fn rmsprop_follows_its_formula() {
    for engine in engines(2) {
        let mut noise = Noise::new(3);
        let mut param = noise.floats(LEN);
        let mut square = vec![0.0; LEN];
        let mut expected = wide(&param);
        let mut wide_square = vec![0.0; LEN];
        for _ in 0..STEPS {
            let grad = noise.floats(LEN);
            let step = RmsPropStep { learning_rate: 0.01, alpha: 0.99, epsilon: 1e-8, weight_decay: 0.01 };
            rmsprop(&engine, &step, &mut param, &grad, &mut square);
            for e in 0..LEN {
                let g = f64::from(grad[e]) + 0.01 * expected[e];
                wide_square[e] = 0.99 * wide_square[e] + 0.01 * g * g;
                expected[e] -= 0.01 * g / (wide_square[e].sqrt() + 1e-8);
            }
        }
        assert_close("param", &param, &expected, 1e-5);
    }
}

#[test]
fn squares_are_summed_in_double_precision() {
    for engine in engines(2) {
        for len in [0, 1, 15, 16, 17, 100_003] {
            let values = Noise::new(4).floats(len);
            let expected: f64 = wide(&values).iter().map(|value| value * value).sum();
            assert!((sum_of_squares(&engine, &values) - expected).abs() <= 1e-12 * expected);
        }
    }
}

#[test]
fn one_bad_value_anywhere_is_found() {
    let mut values = Noise::new(5).floats(10_001);
    assert!(all_finite(&values) && all_finite(&[]));
    for index in [0, 4095, 4096, 10_000] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let good = std::mem::replace(&mut values[index], bad);
            assert!(!all_finite(&values), "{bad} at {index}");
            values[index] = good;
        }
    }
}

#[test]
#[should_panic(expected = "needs a velocity")]
fn momentum_without_a_velocity_is_refused() {
    let step = SgdStep {
        learning_rate: 1.0,
        momentum: 0.9,
        dampening: 0.0,
        nesterov: Nesterov::Off,
        weight_decay: 0.0,
        first: true,
    };
    sgd(&Engine::new(Isa::Portable, 1).unwrap(), &step, &mut [0.0], &[0.0], None);
}
