//! Losses on what a layer gives, against plain sums.

mod support;

use burn::tensor::{Device, Tensor};
use refrain::nn::{activation_regularisation, temporal_activation_regularisation};
use support::{assert_same_bits, numbers, values};

type Regularisation = fn(Tensor<3>, Option<&[usize]>) -> Tensor<1>;

const REGULARISATIONS: [(Regularisation, usize); 2] =
    [(activation_regularisation, 0), (temporal_activation_regularisation, 1)];

const SIZE: [usize; 3] = [5, 6, 3];

/// Mean squares by plain sums: of outputs, or of the differences between those `lag` steps apart.
fn mean_square(output: &[f32], lengths: &[usize], lag: usize) -> f64 {
    let [_, seq_len, hidden_size] = SIZE;
    let at = |row: usize, step: usize, unit: usize| f64::from(output[(row * seq_len + step) * hidden_size + unit]);
    let (mut sum, mut count) = (0.0, 0);
    for (row, &length) in lengths.iter().enumerate() {
        for step in lag..length {
            for unit in 0..hidden_size {
                let before = if lag == 0 { 0.0 } else { at(row, step - lag, unit) };
                sum += (at(row, step, unit) - before).powi(2);
                count += 1;
            }
        }
    }
    sum / f64::from(count.max(1))
}

#[test]
fn activation_regularisations_are_means_of_squares() {
    let device = Device::flex();
    let output: Tensor<3> = numbers(SIZE, 1, &device);
    for (regularisation, lag) in REGULARISATIONS {
        for lengths in [[6; 5], [3, 6, 0, 1, 4], [1, 1, 0, 1, 1], [0; 5]] {
            let given = (lengths != [6; 5]).then_some(&lengths[..]);
            let found = regularisation(output.clone(), given).into_scalar::<f32>();
            let expected = mean_square(&values(output.clone()), &lengths, lag);
            assert!((f64::from(found) - expected).abs() < 1e-6, "{lengths:?}, lag {lag}: {found} against {expected}");
        }
        let all = regularisation(output.clone(), Some(&[6; 5]));
        assert_same_bits("all", &values(all), &values(regularisation(output.clone(), None)));
        for empty in [[0, 6, 3], [5, 0, 3]] {
            let none = regularisation(Tensor::zeros(empty, &device), None);
            assert_eq!(values(none), [0.0]);
        }
    }
}

#[test]
fn their_gradients_are_finite_differences() {
    let device = Device::flex().autodiff();
    let lengths = [3, 6, 0, 1, 4];
    for (regularisation, lag) in REGULARISATIONS {
        let output: Tensor<3> = numbers(SIZE, 1, &device).require_grad();
        let gradients = regularisation(output.clone(), Some(&lengths)).backward();
        let found = values(output.grad(&gradients).expect("tracked"));
        let output = values(output.inner());
        for (index, found) in found.into_iter().enumerate() {
            let bumped = |by: f32| {
                let mut output = output.clone();
                output[index] += by;
                mean_square(&output, &lengths, lag)
            };
            // Squares: the difference is exact but for rounding.
            let expected = (bumped(0.25) - bumped(-0.25)) / 0.5;
            assert!((f64::from(found) - expected).abs() < 1e-6, "lag {lag} [{index}]: {found} against {expected}");
        }
    }
}

#[test]
fn their_padding_matters_in_no_bit() {
    let device = Device::flex().autodiff();
    let lengths = [3, 6, 0, 1, 4];
    let [batch_size, seq_len, hidden_size] = SIZE;
    let clean: Tensor<3> = numbers(SIZE, 1, &device);
    for (regularisation, lag) in REGULARISATIONS {
        let run = |output: Tensor<3>| {
            let output = output.require_grad();
            let loss = regularisation(output.clone(), Some(&lengths));
            let gradient = output.grad(&loss.backward()).expect("tracked");
            let valid = lengths
                .iter()
                .enumerate()
                .filter(|(_, length)| **length > 0)
                .map(|(row, &length)| values(gradient.clone().slice([row..row + 1, 0..length, 0..hidden_size])));
            let valid = valid.flatten().collect::<Vec<_>>();
            let all = values(gradient);
            let count = |values: &[f32]| values.iter().filter(|value| **value != 0.0).count();
            assert_eq!(count(&all), count(&valid), "padding has no gradient, lag {lag}");
            [values(loss), valid].concat()
        };
        let expected = run(clean.clone());
        for garbage in [0.0, 1e30, f32::NAN] {
            for more in [0, 1, 29] {
                let mut padded = Tensor::full([batch_size, seq_len + more, hidden_size], garbage, &device);
                for (row, &length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
                    let valid = [row..row + 1, 0..length, 0..hidden_size];
                    padded = padded.slice_assign(valid.clone(), clean.clone().slice(valid));
                }
                assert_same_bits(&format!("{garbage} and {more} more, lag {lag}"), &run(padded), &expected);
            }
        }
    }
}
