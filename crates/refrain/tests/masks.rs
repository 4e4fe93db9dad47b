//! Masks of stacks and of both directions: each place has one of its own.

mod support;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use refrain::nn::{
    Bidirectional, BidirectionalConfig, BidirectionalState, Dropout, DropoutSchedule, Initializer, Layer, LstmConfig,
    Merge, Nonlinearity, Precision, RecurrentOptions, RecurrentState, Rnn, Stack, StackConfig, VariationalDropout,
    Wiring,
};
use support::{assert_same_bits, numbers, values};

/// Rectified units that pass on what they read, unless a mask is in the way.
fn passing(size: usize, options: RecurrentOptions, device: &Device) -> Layer {
    let mut identity = vec![0.0; size * size];
    identity.iter_mut().step_by(size + 1).for_each(|value| *value = 1.0);
    let identity = Tensor::from_data(TensorData::new(identity, [size, size]), device);
    Layer::Rnn(Rnn {
        weight_ih: Param::from_tensor(identity),
        weight_hh: Param::from_tensor(Tensor::zeros([size, size], device)),
        bias: Param::from_tensor(Tensor::zeros([size], device)),
        norms: None,
        nonlinearity: Nonlinearity::Relu,
        precision: Precision::default(),
        options,
    })
}

fn share(values: &[f32], holds: impl Fn(f32) -> bool) -> f64 {
    values.iter().filter(|&&value| holds(value)).count() as f64 / values.len() as f64
}

#[track_caller]
fn assert_share(what: &str, found: f64, expected: f64) {
    // Shares of 16 384 draws: six standard deviations are below 0.024.
    assert!((found - expected).abs() < 0.024, "{what}: {found} where {expected} was expected");
}

#[test]
fn every_dropout_of_a_stack_drops_on_its_own() {
    let device = Device::flex();
    let schedule = Some(DropoutSchedule::new(3, 5));
    let options = RecurrentOptions { input_dropout: 0.5, ..RecurrentOptions::default() };
    let layers = (0..3).map(|_| passing(64, options, &device)).collect();
    let ones: Tensor<3> = Tensor::ones([256, 1, 64], &device);
    let (output, states) = Stack::from_layers(layers, 0.5).forward(ones.clone(), None, None, schedule);
    // A mask that was there before would drop nothing more.
    for (layer, (state, masks)) in states.iter().zip([1, 3, 5]).enumerate() {
        let left = values(state.hidden.clone());
        assert!(left.iter().all(|&value| value == 0.0 || value.to_bits() == 2f32.powi(masks).to_bits()));
        assert_share(&format!("layer {layer}"), share(&left, |value| value > 0.0), 0.5f64.powi(masks));
    }
    assert_eq!(values(output), values(states[2].hidden.clone()));

    // Between layers the mask is that of the schedule's first places, at each step another.
    let layers = (0..2).map(|_| passing(64, RecurrentOptions::default(), &device)).collect();
    let ones: Tensor<3> = Tensor::ones([16, 8, 64], &device);
    let (output, _) = Stack::from_layers(layers, 0.25).forward(ones.clone(), None, None, schedule);
    let expected = Dropout { probability: 0.25 }.forward(ones.clone(), schedule, 0);
    assert_same_bits("between", &values(output.clone()), &values(expected));
    assert_ne!(values(output.clone().narrow(1, 0, 1)), values(output.narrow(1, 1, 1)));
    // Without a schedule nothing drops.
    let layers = (0..2).map(|_| passing(64, options, &device)).collect();
    let (output, _) = Stack::from_layers(layers, 0.25).forward(ones.clone(), None, None, None);
    assert_eq!(values(output), values(ones));
}

#[test]
fn both_directions_drop_on_their_own() {
    let device = Device::flex();
    let options = RecurrentOptions { input_dropout: 0.5, ..RecurrentOptions::default() };
    let pair = || [passing(64, options, &device), passing(64, options, &device)];
    let module = Bidirectional::from_layers(vec![pair(), pair()], Merge::Sum, 0.5);
    let ones: Tensor<3> = Tensor::ones([256, 1, 64], &device);
    let (_, states) = module.forward(ones, None, None, Some(DropoutSchedule::new(3, 5)));
    let [left, right] = &states[0];
    let both = values(left[0].hidden.clone() * right[0].hidden.clone());
    assert_share("kept by both directions", share(&both, |value| value > 0.0), 0.25);
    // The sum below is there with 3/4, then comes the dropout between layers, then each direction's own.
    let [left, right] = &states[1];
    assert_share("kept ahead", share(&values(left[0].hidden.clone()), |value| value > 0.0), 0.75 * 0.25);
    let both = values(left[0].hidden.clone() * right[0].hidden.clone());
    assert_share("kept by both above", share(&both, |value| value > 0.0), 0.75 * 0.125);
}

/// Zoneout's masks after one step from random states: of each state, which units kept what they had.
fn zoned_out(before: &[RecurrentState], after: &[RecurrentState]) -> Vec<Vec<bool>> {
    let kept = |before: &Tensor<2>, after: &Tensor<2>| {
        let [before, after] = [before, after].map(|tensor| values(tensor.clone()));
        before.iter().zip(after).map(|(before, after)| before.to_bits() == after.to_bits()).collect()
    };
    let masks = before.iter().zip(after).flat_map(|(before, after)| {
        let cell_states = before.cell_state.iter().zip(&after.cell_state);
        std::iter::once((&before.hidden, &after.hidden)).chain(cell_states).map(|(before, after)| kept(before, after))
    });
    masks.collect()
}

#[track_caller]
fn assert_unrelated(masks: &[Vec<bool>]) {
    for (index, mask) in masks.iter().enumerate() {
        let kept = mask.iter().filter(|&&kept| kept).count() as f64 / mask.len() as f64;
        assert_share(&format!("mask {index}"), kept, 0.5);
        for (other_index, other) in masks.iter().enumerate().skip(index + 1) {
            let agree = mask.iter().zip(other).filter(|(a, b)| a == b).count() as f64 / mask.len() as f64;
            assert_share(&format!("masks {index} and {other_index}"), agree, 0.5);
        }
    }
}

#[test]
fn every_state_zones_out_by_a_mask_of_its_own() {
    let device = Device::flex();
    let options = RecurrentOptions { zoneout_hidden: 0.5, zoneout_cell: 0.5, ..RecurrentOptions::default() };
    let config = StackConfig::uniform(LstmConfig { options, ..LstmConfig::new(64, 64) }, 3);
    let schedule = Some(DropoutSchedule::new(3, 5));
    let input: Tensor<3> = numbers([256, 1, 64], 1, &device);
    let state = |seed| RecurrentState {
        hidden: numbers([256, 64], seed, &device),
        cell_state: Some(numbers([256, 64], seed + 100, &device)),
    };

    let before: Vec<RecurrentState> = (10..13).map(state).collect();
    let stack = config.init(&mut Initializer::new(1, &device));
    let (_, after) = stack.forward(input.clone(), None, Some(before.clone()), schedule);
    let masks = zoned_out(&before, &after);
    assert_eq!(masks.len(), 6);
    assert_unrelated(&masks);
    // Without a schedule every unit is the mean of both.
    let (_, after) = stack.forward(input.clone(), None, Some(before.clone()), None);
    let kept: usize = zoned_out(&before, &after).iter().flatten().filter(|&&kept| kept).count();
    assert_eq!(kept, 0);

    for (wiring, blocks, layers) in [(Wiring::Interleaved, 3, 1), (Wiring::Independent, 1, 3)] {
        let module = BidirectionalConfig { wiring, ..BidirectionalConfig::new(config.clone()) }
            .init(&mut Initializer::new(1, &device));
        let stack_states = |first: u32| (first..first + layers).map(state).collect::<Vec<_>>();
        let before: BidirectionalState =
            (0..blocks).map(|block| [20 + block * 10, 60 + block * 10].map(stack_states)).collect();
        let (_, after) = module.forward(input.clone(), None, Some(before.clone()), schedule);
        let [before, after] = [before, after].map(|states| states.into_iter().flatten().flatten().collect::<Vec<_>>());
        let masks = zoned_out(&before, &after);
        assert_eq!(masks.len(), 12, "{wiring:?}");
        assert_unrelated(&masks);
    }
}

#[test]
#[should_panic(expected = "a model has at most 256 places of masks")]
fn a_stack_too_deep_for_masks_of_its_own_is_refused() {
    let device = Device::flex();
    let options = RecurrentOptions { input_dropout: 0.5, ..RecurrentOptions::default() };
    let layers = (0..33).map(|_| passing(1, options, &device)).collect();
    let schedule = Some(DropoutSchedule::new(3, 5));
    Stack::from_layers(layers, 0.0).forward(Tensor::ones([1, 1, 1], &device), None, None, schedule);
}

#[test]
fn variational_dropout_keeps_the_same_features_at_each_step() {
    let device = Device::flex();
    let schedule = Some(DropoutSchedule::new(3, 5));
    let dropout = VariationalDropout { probability: 0.5 };
    let ones: Tensor<3> = Tensor::ones([256, 4, 64], &device);
    let dropped = dropout.forward(ones.clone(), schedule, 0);
    let first = values(dropped.clone().narrow(1, 0, 1));
    assert_share("kept", share(&first, |value| value.to_bits() == 2f32.to_bits()), 0.5);
    assert_share("dropped", share(&first, |value| value == 0.0), 0.5);
    for step in 1..4 {
        assert_eq!(values(dropped.clone().narrow(1, step, 1)), first, "step {step}");
    }
    // Sequences, places and windows have other features.
    assert_ne!(first[..64], first[64..128]);
    assert_ne!(values(dropout.forward(ones.clone(), schedule, 1)), values(dropped.clone()));
    assert_ne!(values(dropout.forward(ones.clone(), Some(DropoutSchedule::new(3, 6)), 0)), values(dropped));
    assert_eq!(values(dropout.forward(ones.clone(), None, 0)), values(ones));
}
