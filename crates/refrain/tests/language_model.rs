//! The language model against PyTorch: loss, states and every gradient.

mod support;

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use refrain::models::{Artefact, CellKind, LanguageModelConfig, LanguageModelStepper, NamedTensor, PositionsKind};
use refrain::nn::RecurrentState;
use refrain::optim::GradientSet;
use support::{Golden, assert_close, values};

/// Our parameter paths and the fixture's names.
const NAMES: [(&str, &str, &str); 9] = [
    ("embedding.weight", "embedding", "d_embedding"),
    ("recurrent.layers.0.weight_ih", "layer0.weight_ih", "layer0.d_weight_ih"),
    ("recurrent.layers.0.weight_hh", "layer0.weight_hh", "layer0.d_weight_hh"),
    ("recurrent.layers.0.bias", "layer0.bias", "layer0.d_bias"),
    ("recurrent.layers.1.weight_ih", "layer1.weight_ih", "layer1.d_weight_ih"),
    ("recurrent.layers.1.weight_hh", "layer1.weight_hh", "layer1.d_weight_hh"),
    ("recurrent.layers.1.bias", "layer1.bias", "layer1.d_bias"),
    ("head.weight", "head.weight", "head.d_weight"),
    ("head.bias", "head.bias", "head.d_bias"),
];
const BATCH_SIZE: usize = 3;
const SEQ_LEN: usize = 11;
const VOCAB_SIZE: usize = 13;
const EMBEDDING_SIZE: usize = 6;
const HIDDEN_SIZE: usize = 10;

fn config() -> LanguageModelConfig {
    LanguageModelConfig {
        embedding_size: EMBEDDING_SIZE,
        hidden_size: HIDDEN_SIZE.into(),
        ..LanguageModelConfig::default()
    }
}

#[test]
fn loss_states_and_gradients_are_pytorchs() {
    let golden = Golden::read("language_model");
    let device = Device::flex().autodiff();
    let initial = config().init(VOCAB_SIZE, 1, &device);
    let shapes = initial.to_tensors();
    let tensors = NAMES.map(|(ours, theirs, _)| {
        let shape = shapes.iter().find(|tensor| tensor.name == ours).expect("a parameter").shape.clone();
        NamedTensor::new(ours, shape, golden.values(theirs).to_vec())
    });
    assert_eq!(tensors.len(), shapes.len());
    let model = initial.with_tensors(&Artefact::new(tensors.to_vec(), BTreeMap::new())).expect("the same shapes");
    let tokens = |name: &str| -> Tensor<2, Int> { golden.tensor::<2>(name, &device).int() };
    let states: Vec<RecurrentState> = (0..2)
        .map(|layer| RecurrentState {
            hidden: golden.tensor::<2>(&format!("layer{layer}.hidden"), &device).require_grad(),
            cell_state: Some(golden.tensor::<2>(&format!("layer{layer}.cell_state"), &device).require_grad()),
        })
        .collect();

    let (loss, last) = model.loss(tokens("tokens"), tokens("targets"), Some(states.clone().into()), None);
    assert_close("loss", &values(loss.clone().inner()), golden.values("loss"), 1e-5);
    for (layer, state) in last.recurrent().iter().enumerate() {
        let key = |part: &str| format!("layer{layer}.last_{part}");
        assert_close("hidden", &values(state.hidden.clone().inner()), golden.values(&key("hidden")), 1e-5);
        let cell_state = state.cell_state.clone().expect("an LSTM");
        assert_close("cell", &values(cell_state.inner()), golden.values(&key("cell_state")), 1e-5);
    }
    let gradients = loss.backward();
    for (layer, state) in states.iter().enumerate() {
        let hidden = state.hidden.grad(&gradients).expect("reached");
        let cell_state = state.cell_state.as_ref().and_then(|state| state.grad(&gradients)).expect("reached");
        assert_close("d_hidden", &values(hidden), golden.values(&format!("layer{layer}.d_hidden")), 1e-5);
        assert_close("d_cell", &values(cell_state), golden.values(&format!("layer{layer}.d_cell_state")), 1e-5);
    }
    let found = GradientSet::collect(&model, gradients);
    for ((ours, _, theirs), gradient) in NAMES.iter().zip(&found.parameters) {
        assert_eq!(gradient.name, *ours);
        assert_close(ours, &gradient.values, golden.values(theirs), 1e-5);
    }
}

#[test]
fn scores_of_the_next_token_are_pytorchs_last_logits() {
    let golden = Golden::read("language_model");
    let device = Device::flex();
    let shapes = config().init(VOCAB_SIZE, 1, &device).to_tensors();
    let tensors = NAMES.iter().zip(shapes).map(|((ours, theirs, _), shape)| {
        assert_eq!(shape.name, *ours);
        NamedTensor::new(*ours, shape.shape, golden.values(theirs).to_vec())
    });
    let artefact = Artefact::new(tensors.collect(), BTreeMap::new());
    let model = config().init(VOCAB_SIZE, 2, &device).with_tensors(&artefact).expect("the same shapes");
    let state: Vec<RecurrentState> = (0..2)
        .map(|layer| RecurrentState {
            hidden: golden.tensor(&format!("layer{layer}.hidden"), &device),
            cell_state: Some(golden.tensor(&format!("layer{layer}.cell_state"), &device)),
        })
        .collect();
    let tokens: Vec<u32> = golden.values("tokens").iter().map(|&token| token as u32).collect();
    let logits = golden.tensor::<3>("logits", &device);
    // One token at a time, as generation does.
    let stepper = LanguageModelStepper::new(&model);
    let mut state = stepper.state_of(&state);
    for step in 0..SEQ_LEN {
        let tokens: Vec<u32> = (0..BATCH_SIZE).map(|row| tokens[row * SEQ_LEN + step]).collect();
        let found = stepper.step(&tokens, &mut state);
        let expected = values(logits.clone().narrow(1, step, 1).reshape([BATCH_SIZE, VOCAB_SIZE]));
        assert_close("logits", &found, &expected, 1e-5);
    }
}

#[test]
fn a_model_survives_its_file() {
    let device = Device::flex();
    let model = config().init(VOCAB_SIZE, 1, &device);
    let artefact = Artefact::new(model.to_tensors(), BTreeMap::new());
    let bytes = artefact.to_bytes().expect("sound");
    let read = Artefact::from_bytes(&bytes, std::path::Path::new("model.safetensors")).expect("sound");
    let other = config().init(VOCAB_SIZE, 2, &device);
    assert_ne!(other.to_tensors(), model.to_tensors());
    assert_eq!(other.with_tensors(&read).expect("the same shapes").to_tensors(), model.to_tensors());
}

#[test]
fn a_transformer_reads_on_from_the_newer_half_of_its_context() {
    const CONTEXT: usize = 8;
    let device = Device::flex();
    for positions in [PositionsKind::Rotary, PositionsKind::Learned] {
        let config = LanguageModelConfig {
            cell: CellKind::Transformer,
            embedding_size: 12,
            hidden_size: 12.into(),
            num_heads: 2,
            context: Some(CONTEXT),
            positions,
            ..LanguageModelConfig::default()
        };
        let model = config.init(VOCAB_SIZE, 1, &device);
        let ids: Vec<i32> = (0..21).map(|at| (at * at + 3 * at) % VOCAB_SIZE as i32).collect();
        let tokens = |from: usize, to: usize| {
            Tensor::<2, Int>::from_data(TensorData::new(ids[from..to].to_vec(), [1, to - from]), &device)
        };
        let losses = |from: usize, to: usize, state| {
            let (losses, state) = model.token_losses(tokens(from, to), tokens(from + 1, to + 1), state);
            (values(losses), state)
        };
        let (whole, _) = losses(0, 20, None);
        let half = CONTEXT / 2;
        let mut by_hand = losses(0, CONTEXT, None).0;
        for begin in [4, 8, 12] {
            by_hand.extend_from_slice(&losses(begin, begin + CONTEXT, None).0[half..]);
        }
        assert_close("windows", &whole, &by_hand, 1e-5);
        let (mut in_parts, mut state) = (Vec::new(), None);
        for (from, to) in [(0, 3), (3, 4), (4, 13), (13, 20)] {
            let (part, next) = losses(from, to, state);
            in_parts.extend(part);
            state = Some(next);
        }
        assert_close("parts", &whole, &in_parts, 1e-5);
    }
}
