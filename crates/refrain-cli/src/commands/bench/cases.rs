//! What can be timed: the kinds of work, and the cases of each. Those of the first four are named and shaped as in
//! `benches/peers/torch_speed.py`.

use std::fmt;

use clap::ValueEnum;
use refrain::models::{CellKind, PrecisionKind};
use refrain::nn::Memory;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// A training step of a language model: forward, cross entropy, backward, clipping to norm 5, Adam
    Train,
    /// One recurrent layer alone, forward and backward, the gradient of its input included
    Layer,
    /// A language model forward only, scoring every token
    Infer,
    /// A language model that writes a text, or 64 at once, each token sampled before the next
    Generate,
    /// One layer with each of its options, in turn with the plain one
    Options,
    /// One LSTM layer over long sequences, with all or part of the forward pass kept; a process for each case
    Memory,
}

/// In what the factors of the matrix products are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Precision {
    F32,
    Bf16,
    /// Weights in 8 bits, for `generate`
    Int8,
}

/// What one line of output is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) kind: Kind,
    pub(super) case: Case,
    pub(super) precision: Precision,
}

/// A language model, and how much it reads at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) model: ModelShape,
    pub(super) batch_size: usize,
    pub(super) seq_len: usize,
    pub(super) extra: Extra,
}

/// What a layer does beyond the plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extra {
    None,
    /// It is told that every sequence is as long as the batch.
    FullLengths,
    /// It is told the lengths of sentences, batches padded to their longest.
    SentenceLengths,
    InputDropout,
    HiddenDropout,
    RecurrentDropout,
    OutputDropout,
    ZoneoutHidden,
    ZoneoutCell,
    Zoneout,
    WeightDrop,
    CoupledGates,
    Peepholes,
    LayerNorm,
    /// To half as many units.
    Projection,
    /// A GRU beside the plain one.
    ResetBefore,
    Bidirectional,
    Memory(Memory),
}

/// The shape of a language model whose embedding is as wide as its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ModelShape {
    pub(super) cell: CellKind,
    /// 1 where a layer is timed alone.
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) num_layers: usize,
    /// 2 where each layer reads from both ends.
    pub(super) num_directions: usize,
}

const LSTM: CellKind = CellKind::Lstm;
const GRU: CellKind = CellKind::Gru;
const RNN: CellKind = CellKind::Rnn;
const TRANSFORMER: CellKind = CellKind::Transformer;

/// Of [`Kind::Train`] and [`Kind::Infer`].
const MODELS: &[Case] = &[
    case("lstm-h128", LSTM, [96, 128, 2], [32, 64]),
    case("lstm-h512", LSTM, [96, 512, 2], [64, 128]),
    case("lstm-h1024", LSTM, [96, 1024, 1], [64, 128]),
    case("gru-h128", GRU, [96, 128, 2], [32, 64]),
    case("gru-h512", GRU, [96, 512, 2], [64, 128]),
    case("rnn-h128", RNN, [96, 128, 2], [32, 64]),
    case("rnn-h512", RNN, [96, 512, 2], [64, 128]),
    case("transformer-h256", TRANSFORMER, [96, 256, 6], [32, 128]),
    both_ways(case("bilstm-h256", LSTM, [96, 256, 2], [32, 64])),
    case("ptb-small", LSTM, [10_000, 200, 2], [20, 20]),
    case("ptb-medium", LSTM, [10_000, 650, 2], [20, 35]),
    case("wikitext2-650", LSTM, [33_278, 650, 2], [20, 35]),
];

const LAYERS: &[Case] = &[
    case("lstm-h128-b32-t64", LSTM, [1, 128, 1], [32, 64]),
    case("lstm-h256-b64-t100", LSTM, [1, 256, 1], [64, 100]),
    case("lstm-h512-b64-t128", LSTM, [1, 512, 1], [64, 128]),
    case("lstm-h650-b20-t35", LSTM, [1, 650, 1], [20, 35]),
    case("lstm-h1024-b16-t100", LSTM, [1, 1024, 1], [16, 100]),
    case("gru-h128-b32-t64", GRU, [1, 128, 1], [32, 64]),
    case("gru-h256-b64-t100", GRU, [1, 256, 1], [64, 100]),
    case("gru-h512-b64-t128", GRU, [1, 512, 1], [64, 128]),
    case("gru-h650-b20-t35", GRU, [1, 650, 1], [20, 35]),
    case("gru-h1024-b16-t100", GRU, [1, 1024, 1], [16, 100]),
    case("rnn-h128-b32-t64", RNN, [1, 128, 1], [32, 64]),
    case("rnn-h256-b64-t100", RNN, [1, 256, 1], [64, 100]),
    case("rnn-h512-b64-t128", RNN, [1, 512, 1], [64, 128]),
    case("rnn-h650-b20-t35", RNN, [1, 650, 1], [20, 35]),
    case("rnn-h1024-b16-t100", RNN, [1, 1024, 1], [16, 100]),
];

const TEXTS: &[Case] = &[
    case("lstm-h512", LSTM, [96, 512, 2], [1, 400]),
    case("lstm-h1024", LSTM, [96, 1024, 2], [1, 400]),
    case("gru-h512", GRU, [96, 512, 2], [1, 400]),
    case("lstm-h650-v10k", LSTM, [10_000, 650, 2], [1, 400]),
    case("lstm-h512-b64", LSTM, [96, 512, 2], [64, 400]),
];

const OPTIONS: &[Case] = &[
    // Against itself: how far a ratio is from 1 by chance.
    option("plain", Extra::None),
    option("lengths-full", Extra::FullLengths),
    option("lengths-sentences", Extra::SentenceLengths),
    option("input-dropout", Extra::InputDropout),
    option("hidden-dropout", Extra::HiddenDropout),
    option("recurrent-dropout", Extra::RecurrentDropout),
    option("output-dropout", Extra::OutputDropout),
    option("zoneout-hidden", Extra::ZoneoutHidden),
    option("zoneout-cell", Extra::ZoneoutCell),
    option("zoneout-both", Extra::Zoneout),
    option("weight-drop", Extra::WeightDrop),
    option("coupled-gates", Extra::CoupledGates),
    option("peepholes", Extra::Peepholes),
    option("layer-norm", Extra::LayerNorm),
    option("projection", Extra::Projection),
    Case {
        model: ModelShape { cell: GRU, ..option("", Extra::None).model },
        ..option("reset-before", Extra::ResetBefore)
    },
    option("bidirectional", Extra::Bidirectional),
    option("memory-square-root", Extra::Memory(Memory::SquareRoot)),
];

const MEMORIES: &[Case] = &[
    memory("all-t1k", Memory::All, 1_000),
    memory("every-100-t1k", Memory::Every(100), 1_000),
    memory("square-root-t1k", Memory::SquareRoot, 1_000),
    memory("all-t10k", Memory::All, 10_000),
    memory("every-100-t10k", Memory::Every(100), 10_000),
    memory("square-root-t10k", Memory::SquareRoot, 10_000),
    memory("all-t100k", Memory::All, 100_000),
    memory("every-100-t100k", Memory::Every(100), 100_000),
    memory("square-root-t100k", Memory::SquareRoot, 100_000),
];

const fn option(name: &'static str, extra: Extra) -> Case {
    Case { extra, ..case(name, LSTM, [1, 512, 1], [64, 128]) }
}

const fn memory(name: &'static str, memory: Memory, seq_len: usize) -> Case {
    Case { extra: Extra::Memory(memory), ..case(name, LSTM, [1, 128, 1], [4, seq_len]) }
}

const fn case(
    name: &'static str,
    cell: CellKind,
    [vocab_size, hidden_size, num_layers]: [usize; 3],
    [batch_size, seq_len]: [usize; 2],
) -> Case {
    let model = ModelShape { cell, vocab_size, hidden_size, num_layers, num_directions: 1 };
    Case { name, model, batch_size, seq_len, extra: Extra::None }
}

const fn both_ways(case: Case) -> Case {
    Case { model: ModelShape { num_directions: 2, ..case.model }, ..case }
}

impl Kind {
    /// Those that peers have too, which are timed unless one is named.
    pub(super) const OF_PEERS: [Self; 4] = [Self::Train, Self::Layer, Self::Infer, Self::Generate];

    /// The name on the command line and in JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Layer => "layer",
            Self::Infer => "infer",
            Self::Generate => "generate",
            Self::Options => "options",
            Self::Memory => "memory",
        }
    }

    pub(super) const fn cases(self) -> &'static [Case] {
        match self {
            Self::Train | Self::Infer => MODELS,
            Self::Layer => LAYERS,
            Self::Generate => TEXTS,
            Self::Options => OPTIONS,
            Self::Memory => MEMORIES,
        }
    }
}

impl Precision {
    /// Whether this kind of work can be done so.
    pub(super) fn serves(self, kind: Kind) -> bool {
        self != Self::Int8 || kind == Kind::Generate
    }

    /// In what training and scoring compute.
    pub(super) fn computed(self) -> PrecisionKind {
        match self {
            Self::F32 | Self::Int8 => PrecisionKind::F32,
            Self::Bf16 => PrecisionKind::Bf16,
        }
    }

    /// The name on the command line and in JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind.name(), self.case.name, self.precision.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_name_stands_for_one_case_of_its_kind() {
        for &kind in Kind::value_variants() {
            let names: BTreeSet<&str> = kind.cases().iter().map(|case| case.name).collect();
            assert_eq!(names.len(), kind.cases().len(), "{kind:?}");
        }
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for &kind in Kind::value_variants() {
            assert_eq!(Kind::from_str(kind.name(), false), Ok(kind));
        }
        for &precision in Precision::value_variants() {
            assert_eq!(Precision::from_str(precision.name(), false), Ok(precision));
        }
    }
}
