//! The transformer against PyTorch, against finite differences and against itself.

mod support;

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::nn::LayerNorm;
use burn::tensor::{Device, Tensor, TensorData};
use refrain::nn::{
    DropoutSchedule, FeedForward, Initializer, Linear, Positions, Precision, Transformer, TransformerConfig,
    TransformerState, Visibility,
};
use support::{Golden, assert_close, assert_same_bits, numbers, values};

const ROTARY: Positions = Positions::Rotary { base: 10_000.0 };
const LEARNED: Positions = Positions::Learned { max_len: 9 };
const SCHEDULE: DropoutSchedule = DropoutSchedule::new(5, 3);

/// The cases of the fixture, as its `make.py` lists them.
fn golden_cases() -> [(&'static str, TransformerConfig); 6] {
    let config = |sizes: [usize; 4], feed_forward, positions, visibility| {
        let [hidden_size, num_heads, num_layers, feed_forward_size] = sizes;
        let default = TransformerConfig::new(hidden_size, num_heads, num_layers);
        TransformerConfig { feed_forward_size, feed_forward, positions, visibility, ..default }
    };
    let (gelu, swiglu) = (FeedForward::Gelu, FeedForward::SwiGlu);
    let (causal, full) = (Visibility::Causal, Visibility::Full);
    [
        ("one", config([2, 1, 1, 1], gelu, ROTARY, causal)),
        ("causal", config([12, 3, 2, 19], gelu, ROTARY, causal)),
        ("full", config([8, 2, 2, 11], swiglu, ROTARY, full)),
        ("learned", config([10, 5, 2, 17], gelu, LEARNED, causal)),
        ("learned-full", config([34, 2, 1, 33], gelu, LEARNED, full)),
        ("swiglu", config([6, 1, 1, 9], swiglu, LEARNED, causal)),
    ]
}

/// One of each kind, two layers of eight features.
fn kinds() -> impl Iterator<Item = (String, TransformerConfig)> {
    let feed_forwards = [FeedForward::Gelu, FeedForward::SwiGlu];
    feed_forwards.into_iter().flat_map(|feed_forward| {
        [ROTARY, Positions::Learned { max_len: 64 }].into_iter().flat_map(move |positions| {
            [Visibility::Causal, Visibility::Full].into_iter().map(move |visibility| {
                let default = TransformerConfig::new(8, 2, 2);
                let config = TransformerConfig { feed_forward, positions, visibility, ..default };
                (format!("{feed_forward:?} {positions:?} {visibility:?}"), config)
            })
        })
    })
}

fn init(config: &TransformerConfig, device: &Device) -> Transformer {
    let mut transformer = config.init(&mut Initializer::new(7, device));
    // Numbers in the biases too, which start at zero, and in the norms.
    let shift = |bias: &Param<Tensor<1>>, seed| {
        let value = bias.val();
        Param::from_tensor(Tensor::from_data(
            (value.inner() + numbers(bias.dims(), seed, &bias.device().inner()) * 0.3).into_data(),
            device,
        ))
    };
    for (index, layer) in transformer.layers.iter_mut().enumerate() {
        let linears = [
            &mut layer.attention_input,
            &mut layer.attention_output,
            &mut layer.feed_forward_input,
            &mut layer.feed_forward_output,
        ];
        for (place, linear) in linears.into_iter().enumerate() {
            linear.bias = shift(&linear.bias, (10 * index + place) as u32);
        }
        layer.attention_norm.gamma = shift(&layer.attention_norm.gamma, 50);
        layer.feed_forward_norm.gamma = shift(&layer.feed_forward_norm.gamma, 51);
    }
    transformer
}

fn run(transformer: &Transformer, input: Tensor<3>, lengths: Option<&[usize]>) -> Tensor<3> {
    transformer.forward(input, lengths, None, None).0
}

type Load<'a> = &'a mut dyn FnMut(&str, &mut Param<Tensor<1>>);
type LoadMatrix<'a> = &'a mut dyn FnMut(&str, &mut Param<Tensor<2>>);

/// Every parameter under the fixture's name for it.
fn parameters(transformer: &mut Transformer, vector: Load<'_>, matrix: LoadMatrix<'_>) {
    fn norm(name: &str, norm: &mut LayerNorm, vector: Load<'_>) {
        vector(&format!("{name}.weight"), &mut norm.gamma);
        vector(&format!("{name}.bias"), norm.beta.as_mut().expect("it has a bias"));
    }
    fn linear(name: &str, linear: &mut Linear, vector: Load<'_>, matrix: LoadMatrix<'_>) {
        matrix(&format!("{name}.weight"), &mut linear.weight);
        vector(&format!("{name}.bias"), &mut linear.bias);
    }
    if let Some(positions) = &mut transformer.positions {
        matrix("positions", &mut positions.weight);
    }
    for (index, layer) in transformer.layers.iter_mut().enumerate() {
        norm(&format!("{index}.attention_norm"), &mut layer.attention_norm, vector);
        norm(&format!("{index}.feed_forward_norm"), &mut layer.feed_forward_norm, vector);
        linear(&format!("{index}.attention_input"), &mut layer.attention_input, vector, matrix);
        linear(&format!("{index}.attention_output"), &mut layer.attention_output, vector, matrix);
        linear(&format!("{index}.feed_forward_input"), &mut layer.feed_forward_input, vector, matrix);
        linear(&format!("{index}.feed_forward_output"), &mut layer.feed_forward_output, vector, matrix);
    }
    norm("norm", &mut transformer.norm, vector);
}

#[test]
fn outputs_and_gradients_are_pytorchs() {
    let golden = Golden::read("transformer");
    let device = Device::flex().autodiff();
    for (name, config) in golden_cases() {
        let key = |part: &str| format!("{name}.{part}");
        let mut transformer = config.init(&mut Initializer::new(1, &device));
        parameters(
            &mut transformer,
            &mut |part, parameter| {
                let given = golden.tensor::<1>(&key(part), &device);
                assert_eq!(parameter.dims(), given.dims(), "{name} {part}");
                *parameter = Param::from_tensor(given);
            },
            &mut |part, parameter| {
                let given = golden.tensor::<2>(&key(part), &device);
                assert_eq!(parameter.dims(), given.dims(), "{name} {part}");
                *parameter = Param::from_tensor(given);
            },
        );
        let input: Tensor<3> = golden.tensor(&key("input"), &device).require_grad();
        let lengths: Vec<usize> = golden.values(&key("lengths")).iter().map(|&length| length as usize).collect();
        let output = run(&transformer, input.clone(), Some(&lengths));
        assert_close(&key("output"), &values(output.clone().inner()), golden.values(&key("output")), 1e-5);

        let gradients = (output * golden.tensor::<3>(&key("grad_output"), &device)).sum().backward();
        let mut found = BTreeMap::from([("input".to_owned(), values(input.grad(&gradients).expect("reached")))]);
        let mut found_too = BTreeMap::new();
        parameters(
            &mut transformer,
            &mut |part, parameter| {
                found.insert(part.to_owned(), values(parameter.val().grad(&gradients).expect("reached")));
            },
            &mut |part, parameter| {
                found_too.insert(part.to_owned(), values(parameter.val().grad(&gradients).expect("reached")));
            },
        );
        for (part, found) in found.into_iter().chain(found_too) {
            let key = key(&format!("d_{part}"));
            let expected = golden.values(&key);
            if name == "one" {
                // Two features that a norm makes +1 and −1 hardly change: differences of nearly equal numbers.
                let worst = found.iter().zip(expected).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
                assert!(worst < 1e-4, "{key}: {worst}");
            } else {
                assert_close(&key, &found, expected, 2e-5);
            }
        }
    }
}

#[test]
fn gradients_are_finite_differences_dropout_included() {
    let device = Device::flex().autodiff();
    for (name, config) in kinds() {
        let config = TransformerConfig { dropout: 0.3, ..config };
        let transformer = init(&config, &device);
        let objective = |input: Tensor<3>| {
            let (output, _) = transformer.forward(input, Some(&[4, 2, 0]), None, Some(SCHEDULE));
            (output * numbers([3, 4, 8], 2, &device)).sum()
        };
        let input: Tensor<3> = numbers([3, 4, 8], 1, &device).require_grad();
        let found = values(input.grad(&objective(input.clone()).backward()).expect("reached"));
        let plain = values(input.clone().inner());
        for (index, &gradient) in found.iter().enumerate() {
            let by = |step: f32| {
                let mut bumped = plain.clone();
                bumped[index] += step;
                f64::from(
                    objective(Tensor::from_data(TensorData::new(bumped, [3, 4, 8]), &device)).into_scalar::<f32>(),
                )
            };
            let error = (by(4e-3) - by(-4e-3)) / 8e-3 - f64::from(gradient);
            let bound = 5e-3 * f64::from(gradient.abs().max(1.0));
            assert!(error.abs() < bound, "{name} input[{index}]: {gradient} is off by {error}");
        }
        let padding = found[32 + 16..].iter().all(|&value| value == 0.0);
        assert!(padding, "{name}: padding received a gradient: {found:?}");
    }
}

#[test]
fn what_lies_in_padding_changes_no_bit() {
    const LENGTHS: [usize; 4] = [3, 7, 0, 1];
    let device = Device::flex();
    for (name, config) in kinds() {
        let transformer = init(&config, &device);
        let with = |padding: f32| {
            let mut input = values(numbers::<3>([4, 7, 8], 1, &device));
            for (row, &length) in input.chunks_mut(56).zip(&LENGTHS) {
                row[8 * length..].fill(padding);
            }
            values(run(&transformer, Tensor::from_data(TensorData::new(input, [4, 7, 8]), &device), Some(&LENGTHS)))
        };
        let expected = with(0.0);
        for padding in [1.0, f32::INFINITY, f32::NAN] {
            assert_same_bits(&format!("{name} with {padding}"), &with(padding), &expected);
        }
        for (row, &length) in expected.chunks(56).zip(&LENGTHS) {
            assert!(row[..8 * length].iter().all(|&value| value != 0.0 && value.is_finite()), "{name}: {row:?}");
            assert!(row[8 * length..].iter().all(|&value| value == 0.0), "{name}: {row:?}");
        }
    }
}

#[test]
fn a_sequence_beside_longer_ones_is_as_alone() {
    let device = Device::flex();
    for (name, config) in kinds() {
        let transformer = init(&config, &device);
        let input: Tensor<3> = numbers([3, 37, 8], 1, &device);
        let lengths = [19, 37, 2];
        let together = run(&transformer, input.clone(), Some(&lengths));
        for (row, &length) in lengths.iter().enumerate() {
            let part = |of: &Tensor<3>| of.clone().narrow(0, row, 1).narrow(1, 0, length);
            let alone = run(&transformer, part(&input), None);
            // Products of other shapes add up in another order.
            assert_close(&format!("{name}, length {length}"), &values(part(&together)), &values(alone), 2e-6);
        }
    }
}

#[test]
fn a_later_step_changes_an_earlier_one_only_where_all_is_visible() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        for (name, config) in kinds() {
            let transformer = init(&config, &device);
            let input: Tensor<3> = numbers([2, 9, 8], 1, &device);
            let changed = Tensor::cat(vec![input.clone().narrow(1, 0, 5), numbers([2, 4, 8], 9, &device)], 1);
            let [first, second] = [input, changed].map(|input| run(&transformer, input, None));
            let early = |output: &Tensor<3>| values(output.clone().narrow(1, 0, 5));
            match config.visibility {
                Visibility::Causal => assert_same_bits(&name, &early(&first), &early(&second)),
                Visibility::Full => assert_ne!(early(&first), early(&second), "{name}"),
            }
            assert_ne!(values(first), values(second), "{name}: the change went nowhere");
        }
    }
}

/// The input by chunks of these lengths, the state carried.
fn in_chunks(transformer: &Transformer, input: &Tensor<3>, chunks: &[usize]) -> (Tensor<3>, TransformerState) {
    let (mut state, mut outputs, mut begin) = (None, Vec::new(), 0);
    for &len in chunks {
        let (output, next) = transformer.forward(input.clone().narrow(1, begin, len), None, state, None);
        outputs.push(output);
        state = Some(next);
        begin += len;
    }
    (Tensor::cat(outputs, 1), state.expect("there are chunks"))
}

#[test]
fn chunks_chained_by_their_state_are_one_long_sequence() {
    let device = Device::flex();
    for (name, config) in kinds().filter(|(_, config)| config.visibility == Visibility::Causal) {
        let transformer = init(&config, &device);
        let input: Tensor<3> = numbers([3, 23, 8], 1, &device);
        let whole = values(run(&transformer, input.clone(), None));
        for chunks in [[1; 23].as_slice(), &[4, 4, 7, 8], &[22, 1], &[23]] {
            let (output, state) = in_chunks(&transformer, &input, chunks);
            assert_close(&format!("{name} by {chunks:?}"), &values(output), &whole, 1e-5);
            assert_eq!(state.lengths(), [23; 3]);
        }
        let mut state = None;
        for t in 0..23 {
            let (output, next) = transformer.step(input.clone().narrow(1, t, 1).squeeze_dim(1), state);
            let expected = values(run(&transformer, input.clone(), None).narrow(1, t, 1));
            assert_close(&format!("{name} step {t}"), &values(output), &expected, 1e-5);
            state = Some(next);
        }
    }
}

#[test]
fn sequences_of_different_lengths_go_on_from_their_own_ends() {
    let device = Device::flex();
    for (name, config) in kinds().filter(|(_, config)| config.visibility == Visibility::Causal) {
        let transformer = init(&config, &device);
        let input: Tensor<3> = numbers([3, 8, 8], 1, &device);
        let chunks: [(usize, [usize; 3]); 3] = [(3, [3, 0, 1]), (4, [2, 4, 0]), (1, [1, 1, 1])];
        // What each sequence has seen, one step after another, and what came out.
        let (mut seen, mut found) = (vec![Vec::new(); 3], vec![Vec::new(); 3]);
        let (mut state, mut begin) = (None, 0);
        for (len, lengths) in chunks {
            let part = input.clone().narrow(1, begin, len);
            let (output, next) = transformer.forward(part.clone(), Some(&lengths), state, None);
            for (row, &length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
                seen[row].push(part.clone().narrow(0, row, 1).narrow(1, 0, length));
                found[row].push(output.clone().narrow(0, row, 1).narrow(1, 0, length));
            }
            (state, begin) = (Some(next), begin + len);
        }
        assert_eq!(state.expect("three chunks").lengths(), [6, 5, 2], "{name}");
        for (seen, found) in seen.into_iter().zip(found) {
            let alone = run(&transformer, Tensor::cat(seen, 1), None);
            assert_close(&name, &values(Tensor::cat(found, 1)), &values(alone), 1e-5);
        }
    }
}

#[test]
fn the_order_of_the_past_matters_and_its_padding_does_not() {
    let device = Device::flex();
    // One block of one head: nothing but the angles tells the steps of the past apart.
    let config = TransformerConfig::new(8, 1, 1);
    let transformer = init(&config, &device);
    let input: Tensor<3> = numbers([1, 6, 8], 1, &device);
    let swapped = Tensor::cat([1, 0, 2, 3, 4, 5].map(|t| input.clone().narrow(1, t, 1)).into(), 1);
    let last = |input: Tensor<3>| values(run(&transformer, input, None).narrow(1, 5, 1));
    let [there, swapped] = [last(input.clone()), last(swapped)];
    let difference = there.iter().zip(&swapped).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(difference > 1e-4, "the order of the past makes no difference: {difference}");

    // A past of padding alone moves nothing: positions count steps, not places.
    let padded = transformer.forward(numbers([1, 4, 8], 3, &device), Some(&[0]), None, None).1;
    let (after, _) = transformer.forward(input.clone(), None, Some(padded), None);
    assert_close("after padding", &values(after.narrow(1, 5, 1)), &there, 1e-5);
}

#[test]
fn dropout_is_a_function_of_schedule_and_sites() {
    let device = Device::flex();
    let config = TransformerConfig { dropout: 0.4, ..TransformerConfig::new(8, 2, 2) };
    let input: Tensor<3> = numbers([2, 5, 8], 1, &device);
    let run = |config: TransformerConfig, schedule: Option<DropoutSchedule>, first_site| {
        let schedule = schedule.map(|schedule| schedule.at(first_site));
        let (output, _) = init(&config, &device).forward(input.clone(), None, None, schedule);
        values(output)
    };
    let plain = run(config, None, 0);
    assert_same_bits("at probability 0", &run(TransformerConfig { dropout: 0.0, ..config }, Some(SCHEDULE), 0), &plain);
    let dropped = run(config, Some(SCHEDULE), 0);
    assert_same_bits("again", &run(config, Some(SCHEDULE), 0), &dropped);
    let next = DropoutSchedule::new(5, 4);
    for (what, other) in [
        ("none", plain),
        ("the next window", run(config, Some(next), 0)),
        ("other sites", run(config, Some(SCHEDULE), 1)),
    ] {
        assert_ne!(dropped, other, "as with {what}");
    }
    // The last sites that there are: 252, 253, 254 and 255.
    assert_ne!(run(config, Some(SCHEDULE), 252), dropped);
}

#[test]
fn products_are_rounded_where_that_is_asked_for() {
    let device = Device::flex().autodiff();
    let input: Tensor<3> = numbers([2, 33, 64], 1, &device).require_grad();
    let run = |precision| {
        let config = TransformerConfig { precision, ..TransformerConfig::new(64, 4, 2) };
        let output = run(&init(&config, &device), input.clone(), None);
        let gradients = output.clone().powi_scalar(2).sum().backward();
        [values(output.inner()), values(input.grad(&gradients).expect("reached"))]
    };
    let (exact, rounded) = (run(Precision::F32), run(Precision::Bf16));
    for (what, (exact, rounded)) in ["output", "gradient"].iter().zip(exact.iter().zip(&rounded)) {
        assert_ne!(exact, rounded, "{what}");
        assert_close(what, rounded, exact, 2e-2);
    }
}

#[test]
fn each_sub_layer_drops_by_a_mask_of_its_own() {
    let device = Device::flex();
    let config = TransformerConfig { dropout: 0.5, ..TransformerConfig::new(256, 2, 2) };
    let mut transformer = config.init(&mut Initializer::new(1, &device));
    // What each of the four sub-layers adds is one, or by its mask nothing.
    for layer in &mut transformer.layers {
        for linear in [&mut layer.attention_output, &mut layer.feed_forward_output] {
            linear.weight = Param::from_tensor(linear.weight.val().zeros_like());
            linear.bias = Param::from_tensor(linear.bias.val().ones_like());
        }
    }
    let (output, _) = transformer.forward(Tensor::zeros([1, 1, 256], &device), None, None, Some(SCHEDULE));
    let mut sums = values(output);
    sums.sort_by(f32::total_cmp);
    sums.dedup_by(|a, b| (*a - *b).abs() < 1e-3);
    assert_eq!(sums.len(), 5, "the sums of four independent masks are 0 to 4, here {sums:?}");
}

#[test]
fn no_steps_hand_the_state_through() {
    let device = Device::flex();
    let transformer = init(&TransformerConfig::new(8, 2, 2), &device);
    let input: Tensor<3> = numbers([2, 3, 8], 1, &device);
    let (whole, _) = in_chunks(&transformer, &input, &[2, 1]);
    let (_, state) = transformer.forward(input.clone().narrow(1, 0, 2), None, None, None);
    let (output, state) = transformer.forward(Tensor::zeros([2, 0, 8], &device), Some(&[0, 0]), Some(state), None);
    assert_eq!((output.dims(), state.lengths()), ([2, 0, 8], [2, 2].as_slice()));
    let (last, _) = transformer.forward(input.narrow(1, 2, 1), None, Some(state), None);
    assert_same_bits("the step after", &values(last), &values(whole.narrow(1, 2, 1)));
    let (output, _) = transformer.forward(Tensor::zeros([0, 3, 8], &device), Some(&[]), None, None);
    assert_eq!(output.dims(), [0, 3, 8]);
}

#[test]
fn a_detached_state_ends_the_gradient() {
    let device = Device::flex().autodiff();
    let transformer = init(&TransformerConfig::new(8, 2, 2), &device);
    let early: Tensor<3> = numbers([2, 3, 8], 1, &device).require_grad();
    let (_, state) = transformer.forward(early.clone(), None, None, None);
    let reaches = |state| {
        let (output, _) = transformer.forward(numbers([2, 3, 8], 2, &device), None, Some(state), None);
        early.grad(&(output * numbers([2, 3, 8], 3, &device)).sum().backward()).is_some()
    };
    assert!(reaches(state.clone()));
    assert!(!reaches(state.detach()));
}

#[test]
fn the_number_of_parameters_is_that_of_the_module() {
    let device = Device::flex();
    for (name, config) in kinds().chain(golden_cases().map(|(name, config)| (name.to_owned(), config))) {
        let transformer = config.init(&mut Initializer::new(1, &device));
        assert_eq!(config.num_parameters(), transformer.num_params(), "{name}");
    }
    assert_eq!(TransformerConfig::new(128, 4, 2).num_parameters(), 396_800);
}

#[test]
#[should_panic(expected = "num_heads is 3, which does not divide the hidden_size of 8")]
fn heads_that_do_not_divide_are_refused() {
    TransformerConfig::new(8, 3, 1).init(&mut Initializer::new(1, &Device::flex()));
}

#[test]
#[should_panic(expected = "hidden_size 6 by num_heads 2 is 3")]
fn rotary_heads_of_odd_size_are_refused() {
    TransformerConfig::new(6, 2, 1).init(&mut Initializer::new(1, &Device::flex()));
}

#[test]
#[should_panic(expected = "dropout is 1 but must be at least 0 and below 1")]
fn certain_dropout_is_refused() {
    TransformerConfig { dropout: 1.0, ..TransformerConfig::new(8, 2, 1) }
        .init(&mut Initializer::new(1, &Device::flex()));
}

#[test]
#[should_panic(expected = "input is [2, 3, 7] but the transformer's hidden_size is 8")]
fn an_input_of_another_size_is_refused() {
    let device = Device::flex();
    run(&init(&TransformerConfig::new(8, 2, 1), &device), Tensor::zeros([2, 3, 7], &device), None);
}

#[test]
#[should_panic(expected = "a sequence has 10 steps but the learned positions are 9")]
fn a_sequence_longer_than_learned_positions_is_refused() {
    let device = Device::flex();
    let transformer = init(&TransformerConfig { positions: LEARNED, ..TransformerConfig::new(8, 2, 1) }, &device);
    let (_, state) = transformer.forward(Tensor::zeros([1, 7, 8], &device), None, None, None);
    transformer.forward(Tensor::zeros([1, 3, 8], &device), None, Some(state), None);
}

#[test]
#[should_panic(expected = "the state is of 2 sequences but the input of 3")]
fn a_state_of_another_batch_is_refused() {
    let device = Device::flex();
    let transformer = init(&TransformerConfig::new(8, 2, 1), &device);
    let (_, state) = transformer.forward(Tensor::zeros([2, 3, 8], &device), None, None, None);
    transformer.forward(Tensor::zeros([3, 3, 8], &device), None, Some(state), None);
}

#[test]
#[should_panic(expected = "a transformer of full visibility cannot go on from a state")]
fn a_state_of_full_visibility_is_refused() {
    let device = Device::flex();
    let config = TransformerConfig { visibility: Visibility::Full, ..TransformerConfig::new(8, 2, 1) };
    let transformer = init(&config, &device);
    let (_, state) = transformer.forward(Tensor::zeros([2, 3, 8], &device), None, None, None);
    transformer.forward(Tensor::zeros([2, 3, 8], &device), None, Some(state), None);
}

#[test]
#[should_panic(expected = "a model has at most 256 places of masks")]
fn more_sites_than_there_are_are_refused() {
    let device = Device::flex();
    let config = TransformerConfig { dropout: 0.1, ..TransformerConfig::new(8, 2, 2) };
    let schedule = Some(SCHEDULE.at(253));
    init(&config, &device).forward(Tensor::zeros([1, 1, 8], &device), None, None, schedule);
}

#[test]
#[should_panic(expected = "the state is of 1 blocks but the transformer has 2")]
fn a_state_of_fewer_blocks_is_refused() {
    let device = Device::flex();
    let of_blocks = |num_layers| init(&TransformerConfig::new(8, 2, num_layers), &device);
    let (_, state) = of_blocks(1).forward(Tensor::zeros([2, 3, 8], &device), None, None, None);
    of_blocks(2).forward(Tensor::zeros([2, 3, 8], &device), None, Some(state), None);
}
