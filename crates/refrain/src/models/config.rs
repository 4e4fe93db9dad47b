//! The shape of a language model.

use serde::{Deserialize, Serialize};

use crate::nn::{Cell, Precision};
use crate::setting::{Allowed, Range, Setting, names};

names! {
    /// The recurrent cell.
    pub enum CellKind {
        /// Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).
        #[default]
        Lstm = "lstm",
        /// Gated recurrent unit (Cho et al. 2014).
        Gru = "gru",
        /// Minimal gated recurrent unit (Feng et al. 2024).
        MinGru = "min-gru",
        /// Simple recurrence with tanh (Elman 1990).
        Rnn = "rnn",
        /// Simple recurrence with the rectifier, begun at the identity (Le et al. 2015).
        RnnRelu = "rnn-relu",
    }
}

impl From<CellKind> for Cell {
    fn from(kind: CellKind) -> Self {
        match kind {
            CellKind::Lstm => Self::Lstm,
            CellKind::Gru => Self::Gru,
            CellKind::MinGru => Self::MinGru,
            CellKind::Rnn => Self::RnnTanh,
            CellKind::RnnRelu => Self::RnnRelu,
        }
    }
}

names! {
    /// In what the factors of large products are kept, in training and after. Parameters, states and sums are f32.
    pub enum PrecisionKind {
        /// 24 bits.
        #[default]
        F32 = "f32",
        /// 8 bits: faster on a processor with instructions for it.
        Bf16 = "bf16",
    }
}

impl From<PrecisionKind> for Precision {
    fn from(kind: PrecisionKind) -> Self {
        match kind {
            PrecisionKind::F32 => Self::F32,
            PrecisionKind::Bf16 => Self::Bf16,
        }
    }
}

/// `[model]`: embedding → stacked recurrent layers → linear head over the vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LanguageModelConfig {
    /// The recurrent cell.
    pub cell: CellKind,
    /// Length of the vector that stands for a token.
    pub embedding_size: usize,
    /// Units of each recurrent layer.
    pub hidden_size: usize,
    /// Recurrent layers, one on top of the other.
    pub num_layers: usize,
    /// Share of the units dropped between two recurrent layers.
    pub dropout: f64,
    /// Share of the units dropped between the embedding and the first recurrent layer.
    pub embedding_dropout: f64,
    /// Share of the units dropped between the last recurrent layer and the head.
    pub output_dropout: f64,
    /// In what the factors of large products are kept.
    pub precision: PrecisionKind,
    /// What the bias of the forget gate starts at; the LSTM alone has one.
    pub forget_bias: f64,
}

impl Default for LanguageModelConfig {
    fn default() -> Self {
        Self {
            cell: CellKind::default(),
            // char-rnn feeds one-hot characters; 128 is wide enough for the few thousand characters of Chinese text.
            embedding_size: 128,
            // char-rnn's 128 doubled: its README advises as large as time allows, and 256 is still quick on a laptop.
            hidden_size: 256,
            // char-rnn, train.lua
            num_layers: 2,
            // char-rnn, train.lua
            dropout: 0.0,
            embedding_dropout: 0.0,
            output_dropout: 0.0,
            precision: PrecisionKind::default(),
            // Jozefowicz et al. 2015, section 3.2: "a large bias of 1"
            forget_bias: 1.0,
        }
    }
}

impl LanguageModelConfig {
    /// Those of an LSTM; the last is its alone.
    const SETTINGS: &'static [Setting] = &[
        Setting::new("cell", Allowed::OneOf(CellKind::NAMES)),
        Setting::new("embedding-size", Allowed::Size(16_384)),
        Setting::new("hidden-size", Allowed::Size(16_384)),
        Setting::new("num-layers", Allowed::Size(64)),
        Setting::new("dropout", Allowed::Number(Range::BelowOne)),
        Setting::new("embedding-dropout", Allowed::Number(Range::BelowOne)),
        Setting::new("output-dropout", Allowed::Number(Range::BelowOne)),
        Setting::new("precision", Allowed::OneOf(PrecisionKind::NAMES)),
        Setting::new("forget-bias", Allowed::Number(Range::Finite)),
    ];

    /// The keys of a model of one cell.
    pub(crate) const fn settings(cell: CellKind) -> &'static [Setting] {
        match (cell, Self::SETTINGS) {
            (CellKind::Gru | CellKind::MinGru | CellKind::Rnn | CellKind::RnnRelu, [others @ .., _]) => others,
            (_, all) => all,
        }
    }
}
