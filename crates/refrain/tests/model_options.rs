//! Language models with every option that a recipe can set: they learn, survive their file, and step as they read.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use refrain::models::{
    Artefact, CellKind, FeedForwardKind, LanguageModel, LanguageModelConfig, LanguageModelStepper, NamedTensor,
    NormalizationKind, PositionsKind, Provenance, ResetKind, TrainedModel,
};
use refrain::nn::{DropoutSchedule, Memory};
use refrain::optim::GradientSet;
use refrain::text::Vocabulary;

const VOCAB_SIZE: usize = 37;

/// What a test calls a model, and its shape.
fn variants() -> Vec<(String, LanguageModelConfig)> {
    let sizes = LanguageModelConfig { embedding_size: 3, hidden_size: 5.into(), num_layers: 3, ..Default::default() };
    let of = |cell| match cell {
        // A context that its texts outgrow.
        CellKind::Transformer => LanguageModelConfig {
            cell,
            embedding_size: 4,
            hidden_size: 4.into(),
            num_heads: 2,
            context: Some(5),
            ..sizes.clone()
        },
        cell => LanguageModelConfig { cell, ..sizes.clone() },
    };
    let lstm = || of(CellKind::Lstm);
    let normalization = NormalizationKind::Layer;
    let mut variants: Vec<(String, LanguageModelConfig)> =
        CellKind::ALL.iter().map(|&cell| (cell.to_string(), of(cell))).collect();
    for cell in [CellKind::Lstm, CellKind::Gru, CellKind::Rnn] {
        variants.push((format!("{cell}, normalised"), LanguageModelConfig { normalization, ..of(cell) }));
    }
    let tied = LanguageModelConfig { hidden_size: [5, 2, 3].into(), tied_embeddings: true, ..lstm() };
    let others = [
        ("peepholes", LanguageModelConfig { peepholes: true, ..lstm() }),
        ("coupled", LanguageModelConfig { coupled_gates: true, ..lstm() }),
        ("coupled, peepholes", LanguageModelConfig { coupled_gates: true, peepholes: true, ..lstm() }),
        ("sizes of their own", LanguageModelConfig { hidden_size: [5, 2, 7].into(), ..of(CellKind::Gru) }),
        ("projected", LanguageModelConfig { projection_size: Some(2), hidden_size: [5, 3, 4].into(), ..lstm() }),
        (
            "all at once",
            LanguageModelConfig {
                projection_size: Some(2),
                peepholes: true,
                coupled_gates: true,
                normalization,
                zoneout_cell: 0.2,
                ..lstm()
            },
        ),
        ("reset before", LanguageModelConfig { reset: ResetKind::BeforeProduct, ..of(CellKind::Gru) }),
        ("zoneout", LanguageModelConfig { zoneout_hidden: 0.1, zoneout_cell: 0.2, ..lstm() }),
        (
            "zoneout of a minimal GRU",
            LanguageModelConfig { zoneout_hidden: 0.1, recurrent_dropout: 0.2, ..of(CellKind::MinGru) },
        ),
        ("tied", tied.clone()),
        (
            "awd",
            LanguageModelConfig {
                variational_dropout: true,
                token_dropout: 0.1,
                embedding_dropout: 0.2,
                dropout: 0.2,
                output_dropout: 0.2,
                weight_drop: 0.3,
                memory: Memory::Every(2),
                ..tied
            },
        ),
        (
            "dropped",
            LanguageModelConfig { hidden_dropout: 0.2, recurrent_dropout: 0.3, memory: Memory::SquareRoot, ..lstm() },
        ),
        (
            "swiglu, learned positions, tied",
            LanguageModelConfig {
                feed_forward: FeedForwardKind::SwiGlu,
                feed_forward_size: Some(3),
                positions: PositionsKind::Learned,
                tied_embeddings: true,
                token_dropout: 0.1,
                embedding_dropout: 0.1,
                dropout: 0.2,
                ..of(CellKind::Transformer)
            },
        ),
        (
            "ranges",
            LanguageModelConfig { init_range: Some(0.1), embedding_init_range: Some(0.1), forget_bias: 0.0, ..lstm() },
        ),
    ];
    variants.extend(others.map(|(name, config)| (name.to_owned(), config)));
    variants
}

fn ids(values: Vec<i32>, shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

fn loss(model: &LanguageModel, schedule: Option<DropoutSchedule>) -> Tensor<1> {
    let tokens =
        |shift: i32| ids((0..120).map(|at| (at * 5 + shift) % VOCAB_SIZE as i32).collect(), [2, 60], &model.device());
    model.loss(tokens(0), tokens(3), None, schedule).0
}

#[test]
fn every_model_learns_and_without_a_schedule_drops_nothing() {
    let device = Device::flex().autodiff();
    for (name, config) in variants() {
        let model = config.init(VOCAB_SIZE, 1, &device);
        assert_eq!(values(loss(&model, None).inner()), values(loss(&model, None).inner()), "{name}");
        let trained = loss(&model, Some(DropoutSchedule::new(1, 0)));
        let gradients = GradientSet::collect(&model, trained.backward());
        for gradient in &gradients.parameters {
            let reached = gradient.values.iter().any(|value| *value != 0.0);
            // A peephole to the input gate that is coupled is nobody's, the others are reached.
            assert!(reached, "{name}: {}", gradient.name);
            assert!(gradient.values.iter().all(|value| value.is_finite()), "{name}: {}", gradient.name);
        }
    }
}

#[test]
fn tied_embeddings_have_the_gradients_of_both_places() {
    let device = Device::flex().autodiff();
    let tied = LanguageModelConfig {
        embedding_size: 5,
        hidden_size: [4, 5].into(),
        tied_embeddings: true,
        ..Default::default()
    };
    let model = tied.init(VOCAB_SIZE, 3, &device);
    let mut tensors = model.to_tensors();
    let embedding = tensors[0].clone();
    tensors.push(NamedTensor { name: "head.weight".to_owned(), ..embedding });
    let separate = LanguageModelConfig { tied_embeddings: false, ..tied }.init(VOCAB_SIZE, 4, &device);
    let separate = separate.with_tensors(&Artefact::new(tensors, BTreeMap::new())).expect("the same shapes");
    let gradients = |model: &LanguageModel| {
        let loss = loss(model, None);
        (values(loss.clone().inner()), GradientSet::collect(model, loss.backward()))
    };
    let ((loss, together), (other_loss, apart)) = (gradients(&model), gradients(&separate));
    assert_eq!(loss, other_loss);
    let of = |set: &GradientSet, name: &str| {
        set.parameters.iter().find(|gradient| gradient.name == name).expect("a parameter").values.clone()
    };
    let sums = of(&apart, "embedding.weight").into_iter().zip(of(&apart, "head.weight")).map(|(a, b)| a + b);
    for (found, expected) in of(&together, "embedding.weight").into_iter().zip(sums) {
        assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
    }
    assert_eq!(of(&together, "recurrent.layers.0.weight_hh"), of(&apart, "recurrent.layers.0.weight_hh"));
}

#[test]
fn every_model_comes_out_of_its_file_quantised_or_not() {
    let text: String = ('!'..).take(VOCAB_SIZE - 1).collect();
    let vocabulary = Vocabulary::chars(&text, 1);
    let provenance =
        Provenance { refrain: "0.0.1".into(), step: 3, epoch: 0.5, valid_loss_nats: None, corpus: String::new() };
    for (name, config) in variants() {
        let model = config.init(VOCAB_SIZE, 4, &Device::flex());
        let (vocabulary, provenance) = (vocabulary.clone(), provenance.clone());
        let original = TrainedModel { model, config, vocabulary, recipe: String::new(), provenance };
        let mut models = vec![original.clone()];
        match original.quantize() {
            Ok(quantized) => models.push(quantized),
            Err(error) => {
                assert_eq!(
                    error.to_string(),
                    "a transformer has no weights in int8; only recurrent models do",
                    "{name}"
                );
            }
        }
        assert_eq!(models.len() == 2, original.config.cell.recurrent().is_some(), "{name}");
        for model in &models {
            let bytes = model.to_artefact().to_bytes().expect("sound");
            let artefact = Artefact::from_bytes(&bytes, std::path::Path::new("m.safetensors")).expect("sound");
            let read = TrainedModel::from_artefact(&artefact, &Device::flex()).expect(&name);
            assert_eq!(read.config, model.config, "{name}");
            assert_eq!(read.to_artefact().to_bytes().expect("sound"), bytes, "{name}");
        }
        // What the file has beside the model's own parameters is refused.
        let mut artefact = original.to_artefact();
        artefact.tensors.push(NamedTensor::new("recurrent.layers.0.odd", [1], vec![0.0]));
        let error = TrainedModel::from_artefact(&artefact, &Device::flex()).expect_err("one too many");
        assert!(error.to_string().contains("it has no tensor `recurrent.layers.0.odd`"), "{name}: {error}");
    }
}

#[test]
fn every_model_steps_as_it_reads_whole_sequences() {
    const WATCHED: i32 = 11;
    let device = Device::flex();
    for (name, config) in variants() {
        let model = config.init(VOCAB_SIZE, 3, &device);
        let stepper = LanguageModelStepper::new(&model);
        let (mut together, mut alone) = (stepper.state(3), stepper.state(1));
        let mut read = Vec::new();
        for step in 0..6 {
            let tokens: Vec<u32> = (0..3).map(|stream| (stream * 7 + step * 5) % VOCAB_SIZE as u32).collect();
            read.push(tokens[1] as i32);
            let scores = stepper.step(&tokens, &mut together);
            let scores = &scores[VOCAB_SIZE..2 * VOCAB_SIZE];
            assert_eq!(scores, stepper.step(&tokens[1..2], &mut alone), "{name}");
            // The loss of a target is the logarithm of the sum of all exponentials, less its score.
            let shape = [1, read.len()];
            let targets = ids(vec![WATCHED; read.len()], shape, &device);
            let (losses, _) = model.token_losses(ids(read.clone(), shape, &device), targets, None);
            let expected = values(losses)[step as usize];
            let sum: f32 = scores.iter().map(|score| score.exp()).sum();
            let found = sum.ln() - scores[WATCHED as usize];
            assert!((found - expected).abs() < 2e-5, "{name}, step {step}: {found} is not {expected}");
        }
    }
}
