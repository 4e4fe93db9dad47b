//! One layer with each of its options, in turn with the plain one.

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use refrain::models::CellKind;
use refrain::nn::{
    Bidirectional, BidirectionalConfig, Dropout, DropoutSchedule, GruConfig, Initializer, InputGate, Layer,
    LayerConfig, LstmConfig, Normalization, Peepholes, Precision, RecurrentOptions, ResetGate, StackConfig,
};
use refrain::random::{Purpose, Random};

use super::cases::{Case, Extra};
use super::median;
use super::network::factors;
use super::work::Timing;

const SEED: u64 = 1;
/// What Merity et al. 2018 drop of the recurrent weights; of the other shares, none changes the work.
const DROPOUT: f64 = 0.5;
/// Krueger et al. 2017, of the hidden and of the cell state.
const ZONEOUT: [f64; 2] = [0.05, 0.5];
/// Beyond the places of masks of both directions' layers.
const OUTPUT_SITE: u8 = 200;
/// Batches of sentences that are one pass: each is padded to another length.
const SENTENCE_BATCHES: usize = 8;

/// How many of the 29,000 English captions of Multi30k's training part have 4 words, 5, and so on; words and punctuation marks
/// counted one by one, as in `\w+|[^\w\s]`.
const SENTENCES: (usize, [u32; 38]) = (
    4,
    [
        8, 32, 211, 770, 1698, 2417, 3039, 3310, 3189, 2850, 2536, 2116, 1557, 1323, 992, 790, 602, 444, 302, 208, 183,
        115, 91, 54, 42, 34, 22, 12, 12, 10, 8, 9, 3, 1, 5, 2, 2, 1,
    ],
);

/// Times the median of `repeats` passes, each after one of the plain layer over the same input, all of it computed.
pub(super) fn time(case: &Case, precision: Precision, repeats: usize) -> Timing {
    let batches = batches(case);
    let read = batches.iter().map(|batch| match &batch.lengths {
        Some(lengths) => lengths.iter().sum(),
        None => case.batch_size * batch.input.dims()[1],
    });
    let tokens: usize = read.sum();
    let padded = batches.iter().map(|batch| Batch { lengths: None, ..batch.clone() }).collect();
    let mut plain = Pass::new(&Case { extra: Extra::None, ..*case }, precision, padded);
    let mut varied = Pass::new(case, precision, batches);
    let mut seconds = [Vec::with_capacity(repeats), Vec::with_capacity(repeats)];
    for _ in 0..2 {
        plain.run();
        varied.run();
    }
    for _ in 0..repeats {
        for (seconds, pass) in seconds.iter_mut().zip([&mut plain, &mut varied]) {
            seconds.push(pass.run());
        }
    }
    let [seconds_of_plain, seconds] = seconds.each_mut().map(|seconds| median(seconds));
    Timing { seconds_of_plain: Some(seconds_of_plain), ..varied.timing(seconds, tokens) }
}

/// Sequences side by side, and how long each is.
#[derive(Clone, Debug)]
struct Batch {
    /// `[batch_size, seq_len, input_size]`.
    input: Tensor<3>,
    lengths: Option<Vec<usize>>,
}

fn batches(case: &Case) -> Vec<Batch> {
    let mut random = Random::new(SEED, Purpose::Sampling, 0);
    let mut batch = |lengths: Option<Vec<usize>>, seq_len| {
        let shape = [case.batch_size, seq_len, case.model.hidden_size];
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal() as f32).collect();
        let input = Tensor::from_data(TensorData::new(values, shape), &Device::flex().autodiff()).require_grad();
        Batch { input, lengths }
    };
    match case.extra {
        Extra::SentenceLengths => {
            let mut random = Random::new(SEED, Purpose::Sampling, 1);
            let draw = |_| {
                let lengths: Vec<usize> = (0..case.batch_size).map(|_| sentence_length(&mut random)).collect();
                let longest = lengths.iter().copied().max().unwrap_or(0);
                batch(Some(lengths), longest)
            };
            (0..SENTENCE_BATCHES).map(draw).collect()
        }
        Extra::FullLengths => vec![batch(Some(vec![case.seq_len; case.batch_size]), case.seq_len)],
        _ => vec![batch(None, case.seq_len)],
    }
}

/// Words of a sentence, drawn as often as there are such.
fn sentence_length(random: &mut Random) -> usize {
    let (shortest, counts) = SENTENCES;
    let mut left = random.uniform() * f64::from(counts.iter().sum::<u32>());
    let index = counts.iter().position(|&count| {
        left -= f64::from(count);
        left < 0.0
    });
    shortest + index.unwrap_or(counts.len() - 1)
}

#[derive(Debug)]
enum Layers {
    One(Box<Layer>),
    Both(Bidirectional),
}

/// A layer in training, and what it reads forward and backward, the gradient of the input included.
#[derive(Debug)]
pub(super) struct Pass {
    layer: Layers,
    output_dropout: Dropout,
    batches: Vec<Batch>,
    /// How many batches there have been: each has masks of its own.
    window: u64,
}

impl Pass {
    /// Over one batch of random numbers.
    pub(super) fn of(case: &Case, precision: Precision) -> Self {
        Self::new(case, precision, batches(case))
    }

    fn new(case: &Case, precision: Precision, batches: Vec<Batch>) -> Self {
        let device = Device::flex().autodiff();
        let init = &mut Initializer::new(SEED, &device);
        let config = config(case, precision);
        let layer = match case.extra {
            Extra::Bidirectional => Layers::Both(BidirectionalConfig::new(StackConfig::uniform(config, 1)).init(init)),
            _ => Layers::One(Box::new(config.init(init))),
        };
        let probability = if case.extra == Extra::OutputDropout { DROPOUT } else { 0.0 };
        Self { layer, output_dropout: Dropout { probability }, batches, window: 0 }
    }

    /// Goes over all batches and says how many seconds that took.
    pub(super) fn run(&mut self) -> f64 {
        let start = Instant::now();
        for Batch { input, lengths } in &self.batches {
            let schedule = Some(DropoutSchedule::new(SEED, self.window));
            self.window += 1;
            let output = match &self.layer {
                Layers::One(layer) => layer.forward(input.clone(), lengths.as_deref(), None, schedule).0,
                Layers::Both(layers) => layers.forward(input.clone(), lengths.as_deref(), None, schedule).0,
            };
            let output = self.output_dropout.forward(output, schedule, OUTPUT_SITE);
            // From a gradient of ones: what it holds changes nothing about the work.
            black_box(output.backward());
        }
        start.elapsed().as_secs_f64()
    }

    /// What `seconds` are for, by the operations that the tokens need; what is computed again is not counted.
    pub(super) fn timing(&self, seconds: f64, tokens: usize) -> Timing {
        let weights = match &self.layer {
            Layers::One(layer) => factors(&**layer),
            Layers::Both(layers) => factors(layers),
        };
        let flops = 3.0 * 2.0 * (weights * tokens) as f64;
        Timing { seconds, tokens, flops, bytes: None, seconds_of_plain: None, peak_bytes: None }
    }
}

fn config(case: &Case, precision: Precision) -> LayerConfig {
    let none = RecurrentOptions::default();
    let [zoneout_hidden, zoneout_cell] = ZONEOUT;
    let options = match case.extra {
        Extra::InputDropout => RecurrentOptions { input_dropout: DROPOUT, ..none },
        Extra::HiddenDropout => RecurrentOptions { hidden_dropout: DROPOUT, ..none },
        Extra::RecurrentDropout => RecurrentOptions { recurrent_dropout: DROPOUT, ..none },
        Extra::ZoneoutHidden => RecurrentOptions { zoneout_hidden, ..none },
        Extra::ZoneoutCell => RecurrentOptions { zoneout_cell, ..none },
        Extra::Zoneout => RecurrentOptions { zoneout_hidden, zoneout_cell, ..none },
        Extra::WeightDrop => RecurrentOptions { weight_drop: DROPOUT, ..none },
        Extra::Memory(memory) => RecurrentOptions { memory, ..none },
        _ => none,
    };
    let hidden_size = case.model.hidden_size;
    if case.model.cell == CellKind::Gru {
        let reset = match case.extra {
            Extra::ResetBefore => ResetGate::BeforeProduct,
            _ => ResetGate::AfterProduct,
        };
        return GruConfig { precision, options, reset, ..GruConfig::new(hidden_size, hidden_size) }.into();
    }
    let plain = LstmConfig { precision, options, ..LstmConfig::new(hidden_size, hidden_size) };
    match case.extra {
        Extra::CoupledGates => LstmConfig { input_gate: InputGate::Coupled, ..plain },
        Extra::Peepholes => LstmConfig { peepholes: Peepholes::Diagonal, ..plain },
        Extra::LayerNorm => LstmConfig { normalization: Normalization::Layer, ..plain },
        Extra::Projection => LstmConfig { projection_size: Some(hidden_size / 2), ..plain },
        _ => plain,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use refrain::nn::Memory;

    use super::super::cases::{Kind, ModelShape};
    use super::*;

    #[test]
    fn every_option_is_timed_beside_the_plain_layer() {
        for case in Kind::Options.cases() {
            let model = ModelShape { hidden_size: 12, ..case.model };
            let timing = time(&Case { model, batch_size: 3, seq_len: 5, ..*case }, Precision::F32, 1);
            let plain = timing.seconds_of_plain.expect("it is measured");
            assert!(timing.seconds > 0.0 && plain > 0.0, "{case:?}: {timing:?}");
            let directions = if case.extra == Extra::Bidirectional { 2 } else { 1 };
            let gates = if matches!(case.extra, Extra::CoupledGates | Extra::ResetBefore) { 3 } else { 4 };
            let weights = match case.extra {
                Extra::Projection => 48 * (12 + 6) + 6 * 12,
                _ => directions * gates * 12 * 24,
            };
            let expected = (6 * timing.tokens * weights) as f64;
            assert!((timing.flops - expected).abs() < 0.5, "{case:?}: {timing:?} is not {expected}");
            assert!(case.extra == Extra::SentenceLengths || timing.tokens == 15, "{case:?}: {timing:?}");
        }
    }

    #[test]
    fn sentences_are_as_long_as_those_counted() {
        let (shortest, counts) = SENTENCES;
        assert_eq!(counts.iter().sum::<u32>(), 29_000);
        let words: usize = counts.iter().zip(shortest..).map(|(&count, length)| count as usize * length).sum();
        let mut random = Random::new(SEED, Purpose::Sampling, 0);
        let drawn: usize = (0..29_000).map(|_| sentence_length(&mut random)).sum();
        assert!((drawn as f64 / words as f64 - 1.0).abs() < 0.01, "{drawn} words drawn of {words}");
    }

    #[test]
    fn memory_is_an_option_of_a_long_layer() {
        let case = Kind::Memory.cases()[0];
        assert_eq!(config(&case, Precision::F32).options().memory, Memory::All);
        assert_eq!(config(&Kind::Memory.cases()[2], Precision::F32).options().memory, Memory::SquareRoot);
    }
}
