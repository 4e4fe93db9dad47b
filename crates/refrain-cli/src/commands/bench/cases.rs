//! What can be timed: four kinds of work, and the cases of each, named and shaped as in
//! `benches/peers/torch_speed.py`.

use std::fmt;

use clap::ValueEnum;
use refrain::models::CellKind;

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

/// Of [`Kind::Train`] and [`Kind::Infer`].
const MODELS: &[Case] = &[
    case("lstm-h128", LSTM, [96, 128, 2], [32, 64]),
    case("lstm-h512", LSTM, [96, 512, 2], [64, 128]),
    case("lstm-h1024", LSTM, [96, 1024, 1], [64, 128]),
    case("gru-h128", GRU, [96, 128, 2], [32, 64]),
    case("gru-h512", GRU, [96, 512, 2], [64, 128]),
    case("rnn-h128", RNN, [96, 128, 2], [32, 64]),
    case("rnn-h512", RNN, [96, 512, 2], [64, 128]),
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

const fn case(
    name: &'static str,
    cell: CellKind,
    [vocab_size, hidden_size, num_layers]: [usize; 3],
    [batch_size, seq_len]: [usize; 2],
) -> Case {
    let model = ModelShape { cell, vocab_size, hidden_size, num_layers, num_directions: 1 };
    Case { name, model, batch_size, seq_len }
}

const fn both_ways(case: Case) -> Case {
    Case { model: ModelShape { num_directions: 2, ..case.model }, ..case }
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Train, Self::Layer, Self::Infer, Self::Generate];

    /// The name on the command line and in JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Layer => "layer",
            Self::Infer => "infer",
            Self::Generate => "generate",
        }
    }

    pub(super) const fn cases(self) -> &'static [Case] {
        match self {
            Self::Train | Self::Infer => MODELS,
            Self::Layer => LAYERS,
            Self::Generate => TEXTS,
        }
    }
}

impl Precision {
    /// Whether this kind of work can be done so.
    pub(super) fn serves(self, kind: Kind) -> bool {
        self != Self::Int8 || kind == Kind::Generate
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
        for kind in Kind::ALL {
            let names: BTreeSet<&str> = kind.cases().iter().map(|case| case.name).collect();
            assert_eq!(names.len(), kind.cases().len(), "{kind:?}");
        }
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        assert_eq!(Kind::value_variants(), Kind::ALL);
        for kind in Kind::ALL {
            assert_eq!(Kind::from_str(kind.name(), false), Ok(kind));
        }
        for &precision in Precision::value_variants() {
            assert_eq!(Precision::from_str(precision.name(), false), Ok(precision));
        }
    }
}
