//! Attention and the decoder with it against PyTorch, against finite differences and against themselves.

mod support;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use refrain::nn::{
    Attention, AttentionConfig, AttentionDecoder, AttentionDecoderConfig, AttentionDecoderState, DropoutSchedule,
    Feeding, GruConfig, Initializer, Layer, LayerConfig, LstmConfig, Memory, RecurrentOptions, RecurrentState, Score,
};
use support::{Golden, assert_close, assert_same_bits, numbers, values};

const SCORES: [(&str, Score); 4] = [
    ("additive", Score::Additive { attention_size: 5 }),
    ("dot", Score::Dot),
    ("general", Score::General),
    ("concat", Score::Concat { attention_size: 5 }),
];

const FEEDINGS: [(&str, Feeding); 2] = [("attentional", Feeding::Attentional), ("context", Feeding::Context)];

/// An attention with keys of size 6, queries of size 6 too.
fn attention(score: Score, device: &Device) -> Attention {
    AttentionConfig { query_size: 6, key_size: 6, score }.init(&mut Initializer::new(3, device))
}

fn decoder(cell: &str, feeding: Feeding, device: &Device) -> AttentionDecoder {
    let layer = match cell {
        "lstm" => LstmConfig::new(3, 7).into(),
        _ => GruConfig::new(3, 7).into(),
    };
    decoder_over(layer, feeding, device)
}

fn decoder_with(options: RecurrentOptions, feeding: Feeding, device: &Device) -> AttentionDecoder {
    decoder_over(GruConfig { options, ..GruConfig::new(3, 7) }.into(), feeding, device)
}

fn decoder_over(layer: LayerConfig, feeding: Feeding, device: &Device) -> AttentionDecoder {
    AttentionDecoderConfig { layer, key_size: 4, score: Score::General, feeding }.init(&mut Initializer::new(4, device))
}

fn lengths(golden: &Golden, name: &str) -> Vec<usize> {
    golden.values(&format!("{name}.lengths")).iter().map(|&length| length as usize).collect()
}

#[test]
fn attention_is_pytorchs() {
    let golden = Golden::read("attention");
    let device = Device::flex().autodiff();
    for (name, score) in SCORES {
        for number in 0..3 {
            let case = format!("{name}{number}");
            let key = |part: &str| format!("{case}.{part}");
            let query: Tensor<3> = golden.tensor(&key("query"), &device).require_grad();
            let keys: Tensor<3> = golden.tensor(&key("keys"), &device).require_grad();
            let lengths = lengths(&golden, &case);
            let config = AttentionConfig { query_size: query.dims()[2], key_size: keys.dims()[2], score };
            let mut attention = config.init(&mut Initializer::new(1, &device));
            let weights = [
                ("weight_query", &mut attention.weight_query),
                ("weight_key", &mut attention.weight_key),
                ("weight_score", &mut attention.weight_score),
            ];
            for (part, weight) in weights {
                if let Some(weight) = weight {
                    *weight = Param::from_tensor(golden.tensor(&key(part), &device));
                }
            }

            let memory = attention.memory(keys.clone(), Some(&lengths));
            let (context, weights) = attention.forward(query.clone(), &memory);
            for (part, found) in [("context", &context), ("weights", &weights)] {
                assert_close(&key(part), &values(found.clone().inner()), golden.values(&key(part)), 1e-5);
            }
            let upstream = |part| golden.tensor::<3>(&key(part), &device);
            let objective = (context * upstream("grad_context")).sum() + (weights * upstream("grad_weights")).sum();
            let gradients = objective.backward();
            for (part, input) in [("d_query", query), ("d_keys", keys)] {
                // One key leaves the query nothing to choose: its gradient is the rounding of zero.
                if key(part) != "dot0.d_query" && !(number == 0 && part == "d_query") {
                    let found = values(input.grad(&gradients).expect("reached"));
                    assert_close(&key(part), &found, golden.values(&key(part)), 1e-5);
                }
            }
            let weights = [
                ("d_weight_query", attention.weight_query),
                ("d_weight_key", attention.weight_key),
                ("d_weight_score", attention.weight_score),
            ];
            for (part, weight) in weights.into_iter().filter(|_| number > 0) {
                if let Some(weight) = weight {
                    let found = values(weight.val().grad(&gradients).expect("reached"));
                    assert_close(&key(part), &found, golden.values(&key(part)), 1e-5);
                }
            }
        }
    }
}

#[test]
fn the_decoder_is_pytorchs() {
    let golden = Golden::read("attention");
    let device = Device::flex().autodiff();
    for (feeding_name, feeding) in FEEDINGS {
        for cell in ["lstm", "gru"] {
            let case = format!("decoder.{feeding_name}.{cell}");
            let key = |part: &str| format!("{case}.{part}");
            let mut decoder = decoder(cell, feeding, &device);
            let matrix = |part| Param::from_tensor(golden.tensor::<2>(&key(part), &device));
            let vector = |part| Param::from_tensor(golden.tensor::<1>(&key(part), &device));
            let (weight_ih, weight_hh, bias) = match &mut decoder.layer {
                Layer::Lstm(layer) => (&mut layer.weight_ih, &mut layer.weight_hh, &mut layer.bias),
                Layer::Gru(layer) => (&mut layer.weight_ih, &mut layer.weight_hh, &mut layer.bias),
                _ => unreachable!("no such case"),
            };
            let parts =
                [("weight_ih", weight_ih), ("weight_hh", weight_hh), ("weight", &mut decoder.projection.weight)];
            for (part, weight) in parts {
                assert_eq!(weight.dims(), matrix(part).dims(), "{case} {part}");
                *weight = matrix(part);
            }
            *bias = vector("bias");
            decoder.projection.bias = vector("projection_bias");
            decoder.attention.weight_key = Some(matrix("weight_key"));

            let input: Tensor<3> = golden.tensor(&key("input"), &device).require_grad();
            let keys: Tensor<3> = golden.tensor(&key("keys"), &device).require_grad();
            let hidden: Tensor<2> = golden.tensor(&key("hidden"), &device).require_grad();
            let cell_state = (cell == "lstm").then(|| golden.tensor(&key("cell_state"), &device));
            let start = RecurrentState { hidden: hidden.clone(), cell_state };
            let memory = decoder.attention.memory(keys.clone(), Some(&lengths(&golden, &case)));
            let (output, weights, state) = decoder.forward(input.clone(), &memory, None, Some(start.into()), None);

            assert_close(&key("output"), &values(output.clone().inner()), golden.values(&key("output")), 1e-5);
            assert_close(&key("weights"), &values(weights.inner()), golden.values(&key("weights")), 1e-5);
            let last_hidden = values(state.recurrent.hidden.inner());
            assert_close(&key("last_hidden"), &last_hidden, golden.values(&key("last_hidden")), 1e-5);
            assert_eq!(state.attentional.is_some(), feeding == Feeding::Attentional);
            let gradients = (output * golden.tensor::<3>(&key("grad_output"), &device)).sum().backward();
            let (weight_ih, weight_hh) = match &decoder.layer {
                Layer::Lstm(layer) => (&layer.weight_ih, &layer.weight_hh),
                Layer::Gru(layer) => (&layer.weight_ih, &layer.weight_hh),
                _ => unreachable!("no such case"),
            };
            let weight_key = decoder.attention.weight_key.as_ref().expect("general");
            let found = [
                ("d_input", values(input.grad(&gradients).expect("reached"))),
                ("d_keys", values(keys.grad(&gradients).expect("reached"))),
                ("d_hidden", values(hidden.grad(&gradients).expect("reached"))),
                ("d_weight_ih", values(weight_ih.val().grad(&gradients).expect("reached"))),
                ("d_weight_hh", values(weight_hh.val().grad(&gradients).expect("reached"))),
                ("d_weight_key", values(weight_key.val().grad(&gradients).expect("reached"))),
                ("d_weight", values(decoder.projection.weight.val().grad(&gradients).expect("reached"))),
            ];
            for (part, found) in found {
                assert_close(&key(part), &found, golden.values(&key(part)), 2e-5);
            }
        }
    }
}

#[test]
fn gradients_are_finite_differences() {
    let device = Device::flex().autodiff();
    for (name, score) in SCORES {
        let attention = attention(score, &device);
        let objective = |query: Tensor<3>, keys: Tensor<3>| {
            let memory = attention.memory(keys, Some(&[4, 0, 2]));
            let (context, weights) = attention.forward(query, &memory);
            (context * numbers([3, 2, 6], 7, &device)).sum() + (weights * numbers([3, 2, 4], 8, &device)).sum()
        };
        let query: Tensor<3> = numbers([3, 2, 6], 1, &device).require_grad();
        let keys: Tensor<3> = numbers([3, 4, 6], 2, &device).require_grad();
        let gradients = objective(query.clone(), keys.clone()).backward();
        let [d_query, d_keys] = [&query, &keys].map(|tensor| values(tensor.grad(&gradients).expect("reached")));
        let bump = |tensor: &Tensor<3>, index: usize, by: f32| {
            let (shape, mut numbers) = (tensor.dims(), values(tensor.clone().inner()));
            numbers[index] += by;
            Tensor::<3>::from_data(TensorData::new(numbers, shape), &device)
        };
        let value = |query: Tensor<3>, keys: Tensor<3>| f64::from(objective(query, keys).into_scalar::<f32>());
        for (index, &gradient) in d_query.iter().enumerate() {
            let by = |step| value(bump(&query, index, step), keys.clone());
            let error = (by(1e-2) - by(-1e-2)) / 2e-2 - f64::from(gradient);
            assert!(error.abs() < 2e-3, "{name} query[{index}]: {gradient} is off by {error}");
        }
        for (index, &gradient) in d_keys.iter().enumerate() {
            let by = |step| value(query.clone(), bump(&keys, index, step));
            let error = (by(1e-2) - by(-1e-2)) / 2e-2 - f64::from(gradient);
            assert!(error.abs() < 2e-3, "{name} keys[{index}]: {gradient} is off by {error}");
        }
        assert!(d_keys[24..48].iter().all(|&value| value == 0.0), "{name}: padding received a gradient");
    }
}

#[test]
fn what_lies_in_padding_changes_no_bit() {
    const LENGTHS: [usize; 3] = [2, 5, 0];
    let device = Device::flex();
    for (name, score) in SCORES {
        let attention = attention(score, &device);
        let query = numbers([3, 2, 6], 1, &device);
        let run = |padding: f32| {
            let mut keys = values(numbers::<3>([3, 5, 6], 2, &device));
            for (row, &length) in keys.chunks_mut(30).zip(&LENGTHS) {
                row[6 * length..].fill(padding);
            }
            let keys = Tensor::from_data(TensorData::new(keys, [3, 5, 6]), &device);
            let (context, weights) = attention.forward(query.clone(), &attention.memory(keys, Some(&LENGTHS)));
            [values(context), values(weights)]
        };
        let expected = run(0.0);
        for padding in [1e30, f32::NEG_INFINITY, f32::NAN] {
            let found = run(padding);
            assert_same_bits(&format!("{name} context with {padding}"), &found[0], &expected[0]);
            assert_same_bits(&format!("{name} weights with {padding}"), &found[1], &expected[1]);
        }
        let [context, weights] = expected;
        assert!(context[24..].iter().chain(&weights[20..]).all(|&value| value == 0.0), "{name}: no keys, but a sum");
        for (row, weights) in weights[..20].chunks(5).enumerate() {
            let length = LENGTHS[row / 2];
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{name}: {weights:?}");
            assert!(weights[..length].iter().all(|&weight| weight > 0.0), "{name}: {weights:?}");
            assert!(weights[length..].iter().all(|&weight| weight == 0.0), "{name}: {weights:?}");
        }
    }
}

#[test]
fn a_sequence_beside_longer_ones_attends_as_alone() {
    let device = Device::flex();
    for (name, score) in SCORES {
        let attention = attention(score, &device);
        let (query, keys) = (numbers::<3>([3, 2, 6], 1, &device), numbers::<3>([3, 41, 6], 2, &device));
        let lengths = [17, 41, 3];
        let (together, _) = attention.forward(query.clone(), &attention.memory(keys.clone(), Some(&lengths)));
        for (row, &length) in lengths.iter().enumerate() {
            let alone = keys.clone().narrow(0, row, 1).narrow(1, 0, length);
            let (alone, _) = attention.forward(query.clone().narrow(0, row, 1), &attention.memory(alone, None));
            let what = format!("{name}, length {length}");
            // Products of other shapes add up in another order.
            assert_close(&what, &values(together.clone().narrow(0, row, 1)), &values(alone), 1e-6);
        }
    }
}

#[test]
fn without_any_keys_context_and_gradient_are_zero() {
    let device = Device::flex().autodiff();
    for (name, score) in SCORES {
        let attention = attention(score, &device);
        let none = attention.memory(Tensor::zeros([2, 0, 6], &device), None);
        let (context, weights) = attention.forward(numbers([2, 3, 6], 1, &device), &none);
        assert_eq!((values(context.inner()), weights.dims()), (vec![0.0; 36], [2, 3, 0]), "{name}");

        let query: Tensor<3> = numbers([2, 3, 6], 1, &device).require_grad();
        let keys: Tensor<3> = numbers([2, 4, 6], 2, &device).require_grad();
        let (context, _) = attention.forward(query.clone(), &attention.memory(keys.clone(), Some(&[0, 0])));
        let gradients = (context * numbers([2, 3, 6], 3, &device)).sum().backward();
        for tensor in [query, keys] {
            let gradient = values(tensor.grad(&gradients).expect("reached"));
            assert!(gradient.iter().all(|&value| value == 0.0), "{name}: {gradient:?}");
        }
    }
}

#[test]
fn concat_is_additive_with_the_halves_of_its_matrix() {
    let device = Device::flex();
    let concat = attention(Score::Concat { attention_size: 5 }, &device);
    let mut additive = attention(Score::Additive { attention_size: 5 }, &device);
    let bound = |weight: &Option<Param<Tensor<2>>>| {
        values(weight.as_ref().expect("both have it").val()).iter().fold(0.0f32, |bound, value| bound.max(value.abs()))
    };
    // The drawn bounds differ, sqrt(6 / 17) against sqrt(6 / 11); the function does not.
    assert!(bound(&concat.weight_query) < 0.595 && bound(&additive.weight_query) > 0.595);
    additive.clone_from(&concat);
    let (query, keys) = (numbers::<3>([2, 3, 6], 1, &device), numbers::<3>([2, 4, 6], 2, &device));
    let run = |attention: &Attention| {
        let memory = attention.memory(keys.clone(), None);
        values(attention.forward(query.clone(), &memory).0)
    };
    assert_same_bits("context", &run(&additive), &run(&concat));
}

#[test]
fn steps_of_the_decoder_are_its_whole_pass() {
    let device = Device::flex();
    for (name, feeding) in FEEDINGS {
        for cell in ["lstm", "gru"] {
            let decoder = decoder(cell, feeding, &device);
            let memory = decoder.attention.memory(numbers([3, 5, 4], 1, &device), Some(&[5, 0, 2]));
            let input: Tensor<3> = numbers([3, 9, 3], 2, &device);
            let (whole, whole_weights, end) = decoder.forward(input.clone(), &memory, None, None, None);
            let mut state = None;
            for t in 0..9 {
                let step = input.clone().narrow(1, t, 1).squeeze_dim(1);
                let (output, weights, next) = decoder.step(step, &memory, state);
                assert_same_bits(&format!("{name} {cell}"), &values(output), &values(whole.clone().narrow(1, t, 1)));
                let expected = values(whole_weights.clone().narrow(1, t, 1));
                assert_same_bits(&format!("{name} {cell} weights"), &values(weights), &expected);
                state = Some(next);
            }
            let hidden = values(state.expect("nine steps").recurrent.hidden);
            assert_same_bits(&format!("{name} {cell} state"), &hidden, &values(end.recurrent.hidden));
        }
    }
}

#[test]
fn a_target_beside_longer_ones_is_decoded_as_alone() {
    const LENGTHS: [usize; 4] = [3, 6, 0, 5];
    let device = Device::flex();
    for (name, feeding) in FEEDINGS {
        for cell in ["lstm", "gru"] {
            let decoder = decoder(cell, feeding, &device);
            let keys: Tensor<3> = numbers([4, 5, 4], 1, &device);
            let memory = decoder.attention.memory(keys.clone(), Some(&[5, 1, 3, 2]));
            let start = decoder.forward(numbers([4, 2, 3], 5, &device), &memory, None, None, None).2;
            let input = values(numbers::<3>([4, 6, 3], 2, &device));
            let run = |padding: f32| {
                let mut input = input.clone();
                for (row, &length) in input.chunks_mut(18).zip(&LENGTHS) {
                    row[3 * length..].fill(padding);
                }
                let input = Tensor::<3>::from_data(TensorData::new(input, [4, 6, 3]), &device);
                decoder.forward(input, &memory, Some(&LENGTHS), Some(start.clone()), None)
            };
            let (output, weights, state) = run(0.0);
            for (row, &length) in LENGTHS.iter().enumerate() {
                let what = format!("{name} {cell}, {length} steps");
                let of_row = |tensor: &Tensor<3>, range| values(tensor.clone().slice([row..row + 1, range]));
                let ended = of_row(&output, length..6).into_iter().chain(of_row(&weights, length..6));
                assert!(ended.into_iter().all(|value| value == 0.0), "{what}: something after the end");
                // The whole batch cut at this length: the same products, so the same bits.
                let cut = Tensor::<3>::from_data(TensorData::new(input.clone(), [4, 6, 3]), &device);
                let cut = cut.slice([0..4, 0..length]);
                let (short, short_weights, end) = decoder.forward(cut, &memory, None, Some(start.clone()), None);
                assert_same_bits(&what, &of_row(&output, 0..length), &of_row(&short, 0..length));
                assert_same_bits(&what, &of_row(&weights, 0..length), &of_row(&short_weights, 0..length));
                let [found, expected] = [&state, &end].map(|state| {
                    let fed = state.attentional.clone().unwrap_or_else(|| Tensor::zeros([4, 7], &device));
                    let hidden = state.recurrent.hidden.clone();
                    values(Tensor::cat(vec![hidden, fed], 1).narrow(0, row, 1))
                });
                assert_same_bits(&what, &found, &expected);
            }
            for padding in [1e30, f32::NAN] {
                let (padded, padded_weights, padded_state) = run(padding);
                assert_same_bits("output", &values(padded), &values(output.clone()));
                assert_same_bits("weights", &values(padded_weights), &values(weights.clone()));
                let [found, expected] = [&padded_state, &state].map(|state| values(state.recurrent.hidden.clone()));
                assert_same_bits("state", &found, &expected);
            }
        }
    }
}

#[test]
fn padding_of_a_target_receives_no_gradient_and_changes_none() {
    let device = Device::flex().autodiff();
    for (name, feeding) in FEEDINGS {
        let decoder = decoder("lstm", feeding, &device);
        let run = |padding: f32| {
            let mut input = values(numbers::<3>([2, 4, 3], 2, &device).inner());
            input[6..12].fill(padding);
            let input = Tensor::<3>::from_data(TensorData::new(input, [2, 4, 3]), &device).require_grad();
            let keys: Tensor<3> = numbers([2, 5, 4], 1, &device).require_grad();
            let memory = decoder.attention.memory(keys.clone(), None);
            let (output, _, state) = decoder.forward(input.clone(), &memory, Some(&[2, 4]), None, None);
            let objective = (output * numbers([2, 4, 7], 7, &device)).sum() + state.recurrent.hidden.sum();
            let gradients = objective.backward();
            let Layer::Lstm(layer) = &decoder.layer else { unreachable!("an LSTM") };
            let weight = layer.weight_hh.val().grad(&gradients).expect("reached");
            let [input, keys] = [input, keys].map(|tensor| values(tensor.grad(&gradients).expect("reached")));
            [input, keys, values(weight)]
        };
        let expected = run(0.0);
        assert!(expected[0][6..12].iter().all(|&gradient| gradient == 0.0), "{name}");
        assert!(expected[0][..6].iter().all(|&gradient| gradient != 0.0), "{name}");
        for (found, expected) in run(f32::NAN).iter().zip(&expected) {
            assert_same_bits(name, found, expected);
        }
    }
}

#[test]
fn masks_of_a_whole_sequence_stay_the_same_from_step_to_step() {
    let device = Device::flex();
    let options =
        RecurrentOptions { input_dropout: 0.4, hidden_dropout: 0.3, weight_drop: 0.5, ..RecurrentOptions::default() };
    let decoder = decoder_with(options, Feeding::Context, &device);
    let none = decoder.attention.memory(Tensor::zeros([3, 0, 4], &device), None);
    let input: Tensor<3> = numbers([3, 6, 3], 2, &device);
    let schedule = Some(DropoutSchedule::new(3, 5));
    let (.., state) = decoder.forward(input.clone(), &none, None, None, schedule);
    // Without keys the context is zero, and the decoder its layer over inputs with zeros beside them.
    let input = Tensor::cat(vec![input, Tensor::zeros([3, 6, 4], &device)], 2);
    let (_, expected) = decoder.layer.forward(input.clone(), None, None, schedule);
    assert_close("hidden", &values(state.recurrent.hidden), &values(expected.hidden.clone()), 1e-5);
    let (_, plain) = decoder.layer.forward(input, None, None, None);
    assert_ne!(values(plain.hidden), values(expected.hidden), "nothing was dropped");
}

#[test]
fn masks_of_single_steps_differ_from_step_to_step() {
    let device = Device::flex();
    let options = RecurrentOptions { zoneout_hidden: 0.5, ..RecurrentOptions::default() };
    for (name, feeding) in FEEDINGS {
        let decoder = decoder_with(options, feeding, &device);
        let memory = decoder.attention.memory(numbers([8, 5, 4], 1, &device), None);
        let input: Tensor<3> = numbers([8, 3, 3], 2, &device);
        let after = |steps| {
            let schedule = Some(DropoutSchedule::new(3, 5));
            let input = input.clone().slice([0..8, 0..steps]);
            values(decoder.forward(input, &memory, None, None, schedule).2.recurrent.hidden)
        };
        let states = [after(0), after(1), after(2), after(3)];
        let kept = |t: usize| -> Vec<bool> {
            states[t].iter().zip(&states[t + 1]).map(|(before, after)| before.to_bits() == after.to_bits()).collect()
        };
        for (t, kept) in [kept(0), kept(1), kept(2)].iter().enumerate() {
            let share = kept.iter().filter(|kept| **kept).count();
            assert!((14..=42).contains(&share), "{name}, step {t}: {share} of 56 units kept their state");
        }
        assert_ne!(kept(1), kept(2), "{name}");
    }
}

#[test]
fn a_later_input_changes_no_earlier_output() {
    let device = Device::flex();
    for (name, feeding) in FEEDINGS {
        let decoder = decoder("lstm", feeding, &device);
        let memory = decoder.attention.memory(numbers([2, 5, 4], 1, &device), None);
        let input: Tensor<3> = numbers([2, 8, 3], 2, &device);
        let changed = Tensor::cat(vec![input.clone().narrow(1, 0, 5), numbers([2, 3, 3], 9, &device)], 1);
        let [(first, ..), (second, ..)] =
            [input, changed].map(|input| decoder.forward(input, &memory, None, None, None));
        let early = |output: &Tensor<3>| values(output.clone().narrow(1, 0, 5));
        assert_same_bits(name, &early(&first), &early(&second));
        assert_ne!(values(first), values(second), "{name}: the change went nowhere");
    }
}

#[test]
fn what_is_fed_back_is_the_output_and_makes_a_difference() {
    let device = Device::flex();
    let decoder = decoder("gru", Feeding::Attentional, &device);
    let memory = decoder.attention.memory(numbers([2, 5, 4], 1, &device), None);
    let input: Tensor<2> = numbers([2, 3], 2, &device);
    let (output, _, state) = decoder.step(input.clone(), &memory, None);
    let fed = state.attentional.clone().expect("it feeds its output");
    assert_same_bits("fed back", &values(fed), &values(output));
    let forgotten = AttentionDecoderState { attentional: None, ..state.clone() };
    let [(with, ..), (without, ..)] = [state, forgotten].map(|state| decoder.step(input.clone(), &memory, Some(state)));
    assert_ne!(values(with), values(without));
}

#[test]
fn no_steps_hand_the_state_through() {
    let device = Device::flex();
    for (name, feeding) in FEEDINGS {
        let decoder = decoder("lstm", feeding, &device);
        let memory = decoder.attention.memory(numbers([2, 5, 4], 1, &device), None);
        let (_, _, state) = decoder.forward(numbers([2, 3, 3], 2, &device), &memory, None, None, None);
        let (output, weights, after) =
            decoder.forward(Tensor::zeros([2, 0, 3], &device), &memory, None, Some(state.clone()), None);
        assert_eq!((output.dims(), weights.dims()), ([2, 0, 7], [2, 0, 5]), "{name}");
        assert_same_bits(name, &values(after.recurrent.hidden), &values(state.recurrent.hidden));
        assert_eq!(after.attentional.map(values), state.attentional.map(values), "{name}");
    }
}

#[test]
fn a_detached_state_ends_the_gradient() {
    let device = Device::flex().autodiff();
    let decoder = decoder("lstm", Feeding::Attentional, &device);
    let reaches = |carry: fn(AttentionDecoderState) -> AttentionDecoderState| {
        // A backward pass uses a memory up.
        let memory = decoder.attention.memory(numbers([2, 5, 4], 1, &device), None);
        let early: Tensor<3> = numbers([2, 3, 3], 2, &device).require_grad();
        let (_, _, state) = decoder.forward(early.clone(), &memory, None, None, None);
        let (output, _, _) = decoder.forward(numbers([2, 3, 3], 3, &device), &memory, None, Some(carry(state)), None);
        early.grad(&output.sum().backward()).is_some()
    };
    assert!(reaches(|state| state));
    assert!(!reaches(AttentionDecoderState::detach));
}

#[test]
#[should_panic(expected = "query_size is 4 and key_size 6")]
fn dot_scores_need_one_size() {
    AttentionConfig { query_size: 4, key_size: 6, score: Score::Dot }.init(&mut Initializer::new(1, &Device::flex()));
}

#[test]
#[should_panic(expected = "keys are [2, 3, 5] but the attention reads keys of size 6")]
fn keys_of_another_size_are_refused() {
    let device = Device::flex();
    attention(Score::General, &device).memory(Tensor::zeros([2, 3, 5], &device), None);
}

#[test]
#[should_panic(
    expected = "query is [2, 1, 6] but the attention reads queries of size 6 and the memory is of 3 sequences"
)]
fn a_query_for_another_batch_is_refused() {
    let device = Device::flex();
    let attention = attention(Score::General, &device);
    let memory = attention.memory(Tensor::zeros([3, 4, 6], &device), None);
    attention.forward(Tensor::zeros([2, 1, 6], &device), &memory);
}

#[test]
#[should_panic(expected = "is 5 but the sequences have 4 steps")]
fn a_length_beyond_the_keys_is_refused() {
    let device = Device::flex();
    attention(Score::General, &device).memory(Tensor::zeros([2, 4, 6], &device), Some(&[1, 5]));
}

#[test]
#[should_panic(expected = "there are 1 lengths but 2 sequences")]
fn a_missing_length_is_refused() {
    let device = Device::flex();
    attention(Score::General, &device).memory(Tensor::zeros([2, 4, 6], &device), Some(&[1]));
}

#[test]
#[should_panic(expected = "the step's input is [2, 4], its state [2, 7]")]
fn an_input_of_another_size_is_refused() {
    let device = Device::flex();
    let decoder = decoder("lstm", Feeding::Context, &device);
    let memory = decoder.attention.memory(Tensor::zeros([2, 4, 4], &device), None);
    decoder.step(Tensor::zeros([2, 4], &device), &memory, None);
}

#[test]
#[should_panic(expected = "memory is Every(3) but a decoder's layer makes single steps")]
fn a_decoder_does_not_take_an_option_that_it_would_not_apply() {
    let options = RecurrentOptions { memory: Memory::Every(3), ..RecurrentOptions::default() };
    decoder_with(options, Feeding::Context, &Device::flex());
}

#[test]
#[should_panic(expected = "length 1 is 4 but the sequences have 3 steps")]
fn a_length_beyond_the_targets_is_refused() {
    let device = Device::flex();
    let decoder = decoder("gru", Feeding::Context, &device);
    let memory = decoder.attention.memory(Tensor::zeros([2, 4, 4], &device), None);
    decoder.forward(Tensor::zeros([2, 3, 3], &device), &memory, Some(&[3, 4]), None, None);
}
