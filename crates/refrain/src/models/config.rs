//! The shape of a language model.

use serde::{Deserialize, Serialize};

use crate::setting::{Allowed, Range, Setting, names};

names! {
    /// The recurrent cell.
    pub enum CellKind {
        /// Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).
        #[default]
        Lstm = "lstm",
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
    /// What the bias of the forget gate starts at.
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
            // Jozefowicz et al. 2015, section 3.2: "a large bias of 1"
            forget_bias: 1.0,
        }
    }
}

impl LanguageModelConfig {
    pub(crate) const SETTINGS: &'static [Setting] = &[
        Setting::new("cell", Allowed::OneOf(CellKind::NAMES)),
        Setting::new("embedding-size", Allowed::Size(16_384)),
        Setting::new("hidden-size", Allowed::Size(16_384)),
        Setting::new("num-layers", Allowed::Size(64)),
        Setting::new("dropout", Allowed::Number(Range::BelowOne)),
        Setting::new("embedding-dropout", Allowed::Number(Range::BelowOne)),
        Setting::new("output-dropout", Allowed::Number(Range::BelowOne)),
        Setting::new("forget-bias", Allowed::Number(Range::Finite)),
    ];
}
