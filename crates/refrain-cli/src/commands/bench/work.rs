//! The work of a case, by way of what training, scoring and generation themselves use, and how long it takes.

use std::hint::black_box;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use refrain::decode::{Filters, Streams};
use refrain::kernels::WeightFormat;
use refrain::models::{CellKind, LanguageModel, LanguageModelConfig, LanguageModelStepper, PrecisionKind};
use refrain::optim::{GradientSet, Optimizer, OptimizerConfig, OptimizerKind, joint_norm};
use refrain::random::{Purpose, Random};

use super::cases::{Case, Kind, ModelShape, Precision, Subject};
use super::median;
use super::network::{Bidirectional, Network, factors};

const SEED: u64 = 1;
const CLIP_NORM: f64 = 5.0;

/// What a case took, and what that was for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// The median.
    pub(super) seconds: f64,
    pub(super) tokens: usize,
    /// The multiply-adds of the matrix products as two operations each; a backward pass has twice those of its forward.
    pub(super) flops: f64,
    /// Bytes of weights that must be read, where each is needed anew for every token.
    pub(super) bytes: Option<f64>,
    /// The median of the plain layer, in turn with which an option was timed.
    pub(super) seconds_of_plain: Option<f64>,
    /// The most memory that the process held.
    pub(super) peak_bytes: Option<u64>,
}

/// The models in use, made once: their initial weights take longer than many a case.
#[derive(Debug, Default)]
pub(super) struct Models(Vec<((ModelShape, PrecisionKind), LanguageModel)>);

impl Models {
    fn get(&mut self, shape: ModelShape, precision: PrecisionKind) -> LanguageModel {
        if let Some((_, model)) = self.0.iter().find(|(known, _)| *known == (shape, precision)) {
            return model.clone();
        }
        let model = fresh(shape, precision);
        self.0.push(((shape, precision), model.clone()));
        model
    }
}

/// A model of this shape, for training.
fn fresh(shape: ModelShape, precision: PrecisionKind) -> LanguageModel {
    let config = LanguageModelConfig {
        cell: shape.cell,
        precision,
        embedding_size: shape.hidden_size,
        hidden_size: shape.hidden_size.into(),
        num_layers: shape.num_layers,
        // More than any case reads at once, for a transformer.
        context: (shape.cell == CellKind::Transformer).then_some(1024),
        ..LanguageModelConfig::default()
    };
    config.init(shape.vocab_size, SEED, &Device::flex().autodiff())
}

/// Times the median of `repeats`.
pub(super) fn time(subject: &Subject, repeats: usize, models: &mut Models) -> Timing {
    let Subject { kind, ref case, precision } = *subject;
    let computed = precision.computed();
    let tokens = case.batch_size * case.seq_len;
    let (mut step, weights): (Box<dyn FnMut()>, usize) = match (kind, case.model.num_directions) {
        (Kind::Generate, _) => {
            let stepper = stepper(&models.get(case.model, computed), precision);
            let weights = stepper.num_weights();
            (generate(stepper, case), weights)
        }
        (Kind::Layer, _) => {
            let model = models.get(case.model, computed);
            let weights = factors(&model.recurrent);
            (layer(model, case), weights)
        }
        // Kept, its first weights would stay in memory beside those that it is trained to.
        (Kind::Train, 1) => train(fresh(case.model, computed), case),
        (Kind::Train, _) => train(Bidirectional::new(case.model, computed.into(), SEED), case),
        (Kind::Infer, 1) => infer(&models.get(case.model, computed), case),
        (Kind::Infer, _) => infer(&Bidirectional::new(case.model, computed.into(), SEED), case),
        (Kind::Options | Kind::Memory, _) => unreachable!("they are timed by modules of their own"),
    };
    let weights = weights as f64;
    let (passes, warm_up, bytes) = match kind {
        Kind::Infer => (1.0, 2, None),
        Kind::Generate => (1.0, 1, Some(weights * (bytes_of(precision) * case.seq_len) as f64)),
        _ => (3.0, 2, None),
    };
    for _ in 0..warm_up {
        step();
    }
    let mut seconds: Vec<f64> = (0..repeats)
        .map(|_| {
            let start = Instant::now();
            step();
            start.elapsed().as_secs_f64()
        })
        .collect();
    let flops = 2.0 * weights * tokens as f64 * passes;
    Timing { seconds: median(&mut seconds), tokens, flops, bytes, seconds_of_plain: None, peak_bytes: None }
}

/// A training step, and the elements of the matrices that each token is multiplied by.
fn train<N: Network>(model: N, case: &Case) -> (Box<dyn FnMut()>, usize) {
    let device = Device::flex().autodiff();
    let (inputs, targets) = (tokens(case, 0, &device), tokens(case, 1, &device));
    let config = OptimizerConfig { learning_rate: 2e-3, ..OptimizerConfig::of(OptimizerKind::Adam) };
    let learning_rate = config.learning_rate;
    let mut optimizer = Optimizer::new(config);
    let weights = model.factors();
    // `None` only while a step has it.
    let mut model = Some(model);
    let step = move || {
        let before = model.take().expect("a step gives the model back");
        let loss = before.loss(inputs.clone(), targets.clone());
        let mut gradients = GradientSet::collect(&before, loss.backward());
        let norm = joint_norm(&gradients.norms());
        gradients.clip_norm(norm, CLIP_NORM);
        model = Some(optimizer.step(before, &gradients, learning_rate));
    };
    (Box::new(step), weights)
}

fn layer(model: LanguageModel, case: &Case) -> Box<dyn FnMut()> {
    let shape = [case.batch_size, case.seq_len, case.model.hidden_size];
    let mut random = Random::new(SEED, Purpose::Sampling, 0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal() as f32).collect();
    let device = Device::flex().autodiff();
    let input = Tensor::<3>::from_data(TensorData::new(values, shape), &device).require_grad();
    Box::new(move || {
        let (output, _) = model.recurrent.forward(input.clone(), None, None, None);
        // From a gradient of ones: what it holds changes nothing about the work.
        black_box(output.backward());
    })
}

/// A pass, and the elements of the matrices that each token is multiplied by.
fn infer<N: Network>(model: &N, case: &Case) -> (Box<dyn FnMut()>, usize) {
    let model = model.valid();
    let device = Device::flex();
    let (inputs, targets) = (tokens(case, 0, &device), tokens(case, 1, &device));
    let weights = model.factors();
    let step = move || {
        black_box(model.token_losses(inputs.clone(), targets.clone()).into_data());
    };
    (Box::new(step), weights)
}

/// Bytes of a weight while text is written.
fn bytes_of(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
        Precision::Int8 => 1,
    }
}

fn stepper(model: &LanguageModel, precision: Precision) -> LanguageModelStepper {
    let format = match precision {
        Precision::F32 => WeightFormat::F32,
        Precision::Bf16 => WeightFormat::Bf16,
        Precision::Int8 => WeightFormat::Int8,
    };
    LanguageModelStepper::with_format(&model.valid(), format)
}

fn generate(stepper: LanguageModelStepper, case: &Case) -> Box<dyn FnMut()> {
    let filters = Filters::new();
    let (streams, seq_len) = (case.batch_size as u64, case.seq_len);
    Box::new(move || {
        let written = Streams::new(&stepper, &[0], &filters, SEED, 0..streams).take(seq_len);
        black_box(written.last());
    })
}

/// Random tokens, `[batch_size, seq_len]`.
fn tokens(case: &Case, index: u64, device: &Device) -> Tensor<2, Int> {
    let shape = [case.batch_size, case.seq_len];
    let vocab_size = case.model.vocab_size as f64;
    let mut random = Random::new(SEED, Purpose::Sampling, index);
    let tokens: Vec<i32> = (0..shape.iter().product()).map(|_| (random.uniform() * vocab_size) as i32).collect();
    Tensor::from_data(TensorData::new(tokens, shape), device)
}

#[cfg(test)]
mod tests {

    use super::super::cases::Extra;
    use super::*;

    /// `flops` of `benches/peers/torch_speed.py`, times the passes of a kind; less what generation computes once for all
    /// tokens, as they are fewer than features.
    fn reference_flops(kind: Kind, case: Case) -> f64 {
        let ModelShape { vocab_size, hidden_size, num_layers, num_directions, .. } = case.model;
        let products = if kind == Kind::Generate { 2 * num_layers - 1 } else { 2 * num_layers };
        // Above the first layer the input is as wide as both directions.
        let products = num_directions * (products + (num_layers - 1) * (num_directions - 1));
        let layers = products * 2 * 4 * hidden_size * hidden_size;
        let head = if kind == Kind::Layer { 0 } else { 2 * num_directions * hidden_size * vocab_size };
        let passes = if matches!(kind, Kind::Train | Kind::Layer) { 3 } else { 1 };
        (passes * case.batch_size * case.seq_len * (layers + head)) as f64
    }

    #[test]
    fn operations_are_counted_as_the_peer_counts_them() {
        let model =
            ModelShape { cell: CellKind::Lstm, vocab_size: 7, hidden_size: 12, num_layers: 2, num_directions: 1 };
        let both = ModelShape { num_directions: 2, ..model };
        let mut models = Models::default();
        for (kind, model, batch_size) in [
            (Kind::Train, model, 3),
            (Kind::Train, both, 3),
            (Kind::Layer, model, 3),
            (Kind::Infer, model, 3),
            (Kind::Infer, both, 3),
            (Kind::Generate, model, 1),
        ] {
            let case = Case { name: "tiny", model, batch_size, seq_len: 5, extra: Extra::None };
            let timing = time(&Subject { kind, case, precision: Precision::F32 }, 1, &mut models);
            let expected = reference_flops(kind, case);
            assert!((timing.flops - expected).abs() < 0.5, "{kind:?}: {timing:?} is not {expected}");
            assert_eq!(timing.tokens, batch_size * 5);
        }
        assert_eq!(models.0.len(), 1, "a shape is made once");
    }

    #[test]
    fn generation_alone_reads_its_weights_for_every_token() {
        let case = |vocab_size: usize| {
            let model =
                ModelShape { cell: CellKind::Lstm, vocab_size, hidden_size: 12, num_layers: 1, num_directions: 1 };
            Case { name: "tiny", model, batch_size: 1, seq_len: 5, extra: Extra::None }
        };
        let bytes = |kind, vocab_size| {
            let subject = Subject { kind, case: case(vocab_size), precision: Precision::F32 };
            time(&subject, 1, &mut Models::default()).bytes
        };
        assert_eq!(bytes(Kind::Generate, 13), Some(f64::from(5 * 4 * (4 * 12 * 24 + 13 * 12))));
        // Of no more tokens than features the products are there already.
        assert_eq!(bytes(Kind::Generate, 12), Some(f64::from(5 * 4 * (4 * 12 * 12 + 12 * 12))));
        assert_eq!(bytes(Kind::Infer, 13), None);
    }
}
