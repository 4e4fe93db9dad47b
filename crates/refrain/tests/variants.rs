//! Projection, normalised sums and the reset gate before the product, against plain loops and finite differences.

mod support;

use burn::tensor::{Device, Tensor};
use refrain::nn::{
    Direction, DropoutSchedule, Gru, GruConfig, Initializer, Layer, LayerConfig, Lstm, LstmConfig, Nonlinearity,
    Normalization, RecurrentOptions, RecurrentState, ResetGate, Rnn, RnnConfig,
};
use support::{assert_close, numbers, values};

const INPUT_SIZE: usize = 3;
const HIDDEN_SIZE: usize = 5;

/// Every variant, by name.
fn variants() -> [(&'static str, LayerConfig); 8] {
    let normalization = Normalization::Layer;
    let lstm = LstmConfig::new(INPUT_SIZE, HIDDEN_SIZE);
    let gru = GruConfig::new(INPUT_SIZE, HIDDEN_SIZE);
    let rnn = RnnConfig { normalization, ..RnnConfig::new(INPUT_SIZE, HIDDEN_SIZE) };
    [
        ("projected lstm", LstmConfig { projection_size: Some(4), ..lstm }.into()),
        ("normalised lstm", LstmConfig { normalization, ..lstm }.into()),
        ("normalised and projected lstm", LstmConfig { normalization, projection_size: Some(2), ..lstm }.into()),
        ("gru, reset before the product", GruConfig { reset: ResetGate::BeforeProduct, ..gru }.into()),
        ("gru, reset after the product", gru.into()),
        ("normalised gru", GruConfig { normalization, ..gru }.into()),
        ("normalised rnn", rnn.into()),
        ("normalised rectified rnn", RnnConfig { nonlinearity: Nonlinearity::Relu, ..rnn }.into()),
    ]
}

/// A layer whose every parameter is a made-up number.
fn layer(config: &LayerConfig, device: &Device) -> Layer {
    let mut seed = 100;
    let mut layer = config.init(&mut Initializer::new(1, device));
    macro_rules! replace {
        ($($param:expr),*) => {$(
            seed += 1;
            let shape = $param.val().dims();
            $param = burn::module::Param::from_tensor(numbers(shape, seed, device));
        )*};
    }
    let norms = match &mut layer {
        Layer::Lstm(Lstm { weight_ih, weight_hh, bias, projection, norms, .. }) => {
            replace!(*weight_ih, *weight_hh, *bias);
            if let Some(projection) = projection {
                replace!(*projection);
            }
            norms
        }
        Layer::Gru(Gru { weight_ih, weight_hh, bias, norms, .. })
        | Layer::Rnn(Rnn { weight_ih, weight_hh, bias, norms, .. }) => {
            replace!(*weight_ih, *weight_hh, *bias);
            norms
        }
        Layer::MinGru(_) => unreachable!("no variant"),
    };
    if let Some(norms) = norms {
        replace!(norms.gain_ih, norms.gain_hh);
        if let Some(cell_state) = &mut norms.cell_state {
            replace!(*cell_state);
        }
    }
    layer
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn wide_param<const D: usize>(param: &burn::module::Param<Tensor<D>>) -> Vec<f64> {
    wide(&values(param.val()))
}

fn product(weight: &[f64], vector: &[f64]) -> Vec<f64> {
    weight.chunks(vector.len()).map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum()).collect()
}

fn normalised(sums: &[f64], gain: &[f64]) -> Vec<f64> {
    let mean = sums.iter().sum::<f64>() / sums.len() as f64;
    let variance = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / sums.len() as f64;
    sums.iter().zip(gain).map(|(x, gain)| gain * (x - mean) / (variance + 1e-5).sqrt()).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The outputs of one sequence, from a state of zeros, by the equations of the layers' documentation.
fn reference(layer: &Layer, input: &[f64]) -> Vec<f64> {
    let (weight_ih, weight_hh, bias, norms) = match layer {
        Layer::Lstm(layer) => (&layer.weight_ih, &layer.weight_hh, &layer.bias, &layer.norms),
        Layer::Gru(layer) => (&layer.weight_ih, &layer.weight_hh, &layer.bias, &layer.norms),
        Layer::Rnn(layer) => (&layer.weight_ih, &layer.weight_hh, &layer.bias, &layer.norms),
        Layer::MinGru(_) => unreachable!("no variant"),
    };
    let (weight_ih, weight_hh, bias) = (wide_param(weight_ih), wide_param(weight_hh), wide_param(bias));
    let (mut h, mut c) = (vec![0.0; layer.hidden_size()], vec![0.0; HIDDEN_SIZE]);
    let mut outputs = Vec::new();
    for x in input.chunks(INPUT_SIZE) {
        let (mut of_input, mut of_state) = (product(&weight_ih, x), product(&weight_hh, &h));
        if let Some(norms) = norms {
            of_input = normalised(&of_input, &wide_param(&norms.gain_ih));
            of_state = normalised(&of_state, &wide_param(&norms.gain_hh));
        }
        of_input.iter_mut().zip(&bias).for_each(|(sum, bias)| *sum += bias);
        let sum = |gate: usize, u: usize| of_input[gate * HIDDEN_SIZE + u] + of_state[gate * HIDDEN_SIZE + u];
        let units = 0..HIDDEN_SIZE;
        h = match layer {
            Layer::Lstm(lstm) => {
                for u in units.clone() {
                    c[u] = sigmoid(sum(1, u)) * c[u] + sigmoid(sum(0, u)) * sum(2, u).tanh();
                }
                let mut shown = c.clone();
                if let Some(cell_state) = norms.as_ref().and_then(|norms| norms.cell_state.as_ref()) {
                    let parameters = wide_param(cell_state);
                    shown = normalised(&c, &parameters[..HIDDEN_SIZE]);
                    shown.iter_mut().zip(&parameters[HIDDEN_SIZE..]).for_each(|(x, bias)| *x += bias);
                }
                let hidden: Vec<f64> = units.map(|u| sigmoid(sum(3, u)) * shown[u].tanh()).collect();
                match &lstm.projection {
                    Some(projection) => product(&wide_param(projection), &hidden),
                    None => hidden,
                }
            }
            Layer::Gru(gru) => {
                let r: Vec<f64> = units.clone().map(|u| sigmoid(sum(0, u))).collect();
                let scaled: Vec<f64> = r.iter().zip(&h).map(|(r, h)| r * h).collect();
                let before = product(&weight_hh[2 * HIDDEN_SIZE * HIDDEN_SIZE..], &scaled);
                let candidate = |u: usize| {
                    let (of_input, of_state) = (of_input[2 * HIDDEN_SIZE + u], of_state[2 * HIDDEN_SIZE + u]);
                    let bias = bias[3 * HIDDEN_SIZE + u];
                    match gru.reset {
                        ResetGate::AfterProduct => (of_input + r[u] * (of_state + bias)).tanh(),
                        ResetGate::BeforeProduct => (of_input + before[u] + bias).tanh(),
                    }
                };
                units.map(|u| (1.0 - sigmoid(sum(1, u))) * candidate(u) + sigmoid(sum(1, u)) * h[u]).collect()
            }
            Layer::Rnn(rnn) => units
                .map(|u| match rnn.nonlinearity {
                    Nonlinearity::Tanh => sum(0, u).tanh(),
                    Nonlinearity::Relu => sum(0, u).max(0.0),
                })
                .collect(),
            Layer::MinGru(_) => unreachable!("no variant"),
        };
        outputs.extend(&h);
    }
    outputs
}

#[test]
fn outputs_are_those_of_plain_loops() {
    let device = Device::flex();
    for (name, config) in variants() {
        let layer = layer(&config, &device);
        let input: Tensor<3> = numbers([2, 6, INPUT_SIZE], 1, &device);
        let expected: Vec<f32> = wide(&values(input.clone()))
            .chunks(6 * INPUT_SIZE)
            .flat_map(|sequence| reference(&layer, sequence))
            .map(|value| value as f32)
            .collect();
        let (output, state) = layer.forward(input.clone(), None, None, None);
        assert_close(name, &values(output.clone()), &expected, 1e-5);
        assert_eq!(values(output.narrow(1, 5, 1)), values(state.hidden), "{name}");
        let traced = layer.forward(input.autodiff(), None, None, None).0;
        assert_close(&format!("{name} with gradients"), &values(traced.inner()), &expected, 1e-5);
    }
}

#[test]
fn zoneout_keeps_a_part_of_what_is_shown() {
    let device = Device::flex();
    for (name, config) in variants().into_iter().filter(|(name, _)| !name.contains("gru")) {
        let options = RecurrentOptions { zoneout_hidden: 0.25, ..RecurrentOptions::default() };
        let mut layer = layer(&config, &device);
        let input: Tensor<3> = numbers([2, 1, INPUT_SIZE], 1, &device);
        let state =
            RecurrentState { hidden: numbers([2, config.hidden_size()], 3, &device), ..layer.zero_state(2, &device) };
        let (_, plain) = layer.forward(input.clone(), None, Some(state.clone()), None);
        match &mut layer {
            Layer::Lstm(layer) => layer.options = options,
            Layer::Rnn(layer) => layer.options = options,
            Layer::Gru(_) | Layer::MinGru(_) => unreachable!("left out above"),
        }
        let (_, kept) = layer.forward(input, None, Some(state.clone()), None);
        assert_close(name, &values(kept.hidden), &values(state.hidden * 0.25 + plain.hidden * 0.75), 1e-6);
    }
}

#[test]
fn gradients_are_finite_differences() {
    let device = Device::flex().autodiff();
    for (name, config) in variants().into_iter().filter(|(name, _)| !name.contains("rectified")) {
        let layer = layer(&config, &device);
        let of_output: Tensor<3> = numbers([2, 4, config.hidden_size()], 9, &device);
        let objective = |input: Tensor<3>| {
            let lengths = [4, 2];
            let (output, state) = layer.forward(input, Some(&lengths), None, Some(DropoutSchedule::new(1, 2)));
            (output * of_output.clone()).sum() + state.hidden.sum()
        };
        let input: Tensor<3> = numbers([2, 4, INPUT_SIZE], 2, &device).require_grad();
        let gradients = objective(input.clone()).backward();
        let found = values(input.grad(&gradients).expect("reached"));
        for (index, found) in found.iter().enumerate() {
            let bumped = |by: f32| {
                let mut numbers = values(input.clone().inner());
                numbers[index] += by;
                let data = burn::tensor::TensorData::new(numbers, input.dims());
                f64::from(objective(Tensor::from_data(data, &device)).into_scalar::<f32>())
            };
            let difference = (bumped(1e-2) - bumped(-1e-2)) / 2e-2;
            let tolerance = 3e-3 * difference.abs().max(1.0);
            assert!((difference - f64::from(*found)).abs() < tolerance, "{name} [{index}]: {difference} for {found}");
        }
    }
}

#[test]
fn they_take_lengths_directions_and_masks_like_any_layer() {
    let device = Device::flex();
    for (name, config) in variants() {
        let options = RecurrentOptions { zoneout_hidden: 0.3, hidden_dropout: 0.2, ..RecurrentOptions::default() };
        let mut layer = layer(&config, &device);
        match &mut layer {
            Layer::Lstm(layer) => layer.options = options,
            Layer::Gru(layer) => layer.options = options,
            Layer::Rnn(layer) => layer.options = options,
            Layer::MinGru(_) => unreachable!("no variant"),
        }
        let input: Tensor<3> = numbers([3, 6, INPUT_SIZE], 1, &device);
        let garbage = input.clone().slice_assign([1..2, 4..6, 0..INPUT_SIZE], Tensor::full([1, 2, 3], 1e30, &device));
        for direction in [Direction::Forward, Direction::Backward] {
            let run = |input: Tensor<3>| {
                let schedule = Some(DropoutSchedule::new(4, 5));
                let (output, state) = layer.forward_in(direction, input, Some(&[6, 4, 0]), None, schedule);
                (values(output), values(state.hidden))
            };
            let found = run(input.clone());
            // A whole sequence backward is its mirror image forward.
            let plain = |input: Tensor<3>, way| layer.forward_in(way, input, None, None, None).0;
            let there = values(plain(input.clone(), Direction::Backward));
            assert_eq!(there, values(plain(input.clone().flip([1]), Direction::Forward).flip([1])), "{name}");
            assert_ne!(there, values(plain(input.clone(), Direction::Forward)), "{name}");
            // And masks change something.
            let undrawn = layer.forward_in(direction, input.clone(), Some(&[6, 4, 0]), None, None).0;
            assert_ne!(found.0, values(undrawn), "{name} {direction:?}");
            assert_eq!(found, run(garbage.clone()), "{name} {direction:?}");
            let size = config.hidden_size();
            assert!(found.0[(6 + 4) * size..].iter().all(|&value| value == 0.0), "{name} {direction:?}");
            assert!(found.1[2 * size..].iter().all(|&value| value == 0.0), "{name} {direction:?}: no step, no change");
        }
    }
}

#[test]
#[should_panic(expected = "BeforeProduct does not go with Layer normalisation")]
fn a_reset_gate_before_the_product_is_not_normalised() {
    let gru = GruConfig::new(2, 3);
    GruConfig { reset: ResetGate::BeforeProduct, normalization: Normalization::Layer, ..gru }
        .init(&mut Initializer::new(1, &Device::flex()));
}

#[test]
fn the_gates_are_those_of_the_equations() {
    let device = Device::flex();
    for (name, config) in variants() {
        let layer = layer(&config, &device);
        let input = numbers([3, 4, INPUT_SIZE], 40, &device);
        let lengths = Some(&[4, 0, 2][..]);
        let (output, _) = layer.forward(input.clone(), lengths, None, None);
        let trace = layer.gates(input, lengths, None);
        assert_eq!(values(trace.hidden.clone()), values(output.clone()), "{name}");
        let gate = |gate: &str| trace.gate(gate).unwrap_or_else(|| panic!("{name} has a gate {gate}")).clone();
        let shown = match &layer {
            Layer::Lstm(lstm) if lstm.norms.is_none() => {
                gate("output") * trace.cell_state.clone().expect("an LSTM has a cell state").tanh()
            }
            Layer::Gru(_) => {
                // The state before: the output, a step later, after a state of zeros.
                let before =
                    Tensor::cat(vec![output.clone().slice([0..3, 0..1]).zeros_like(), output.slice([0..3, 0..3])], 1);
                let update = gate("update");
                let valid = update.clone().greater_elem(0.0).float();
                (update.clone() * before + gate("candidate") * (update.neg() + 1.0)) * valid
            }
            _ => continue,
        };
        let shown = match &layer {
            Layer::Lstm(Lstm { projection: Some(projection), .. }) => {
                let weight: Tensor<3> = projection.val().transpose().unsqueeze();
                shown.matmul(weight.repeat_dim(0, 3))
            }
            _ => shown,
        };
        assert_close(name, &values(shown), &values(trace.hidden), 1e-6);
    }
}
