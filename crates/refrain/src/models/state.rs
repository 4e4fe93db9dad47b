//! What a language model remembers between two stretches of a text.

use super::transformer::Seen;
use crate::nn::{Detach, RecurrentState};

/// What a model has come to after some tokens of each sequence.
#[derive(Clone, Debug)]
pub enum LanguageModelState {
    /// One state a layer, from the lowest up.
    Recurrent(Vec<RecurrentState>),
    /// The tokens that a transformer sees.
    Transformer(Box<Seen>),
}

impl From<Vec<RecurrentState>> for LanguageModelState {
    fn from(layers: Vec<RecurrentState>) -> Self {
        Self::Recurrent(layers)
    }
}

impl LanguageModelState {
    /// The states of the recurrent layers; none of a transformer.
    pub fn recurrent(&self) -> &[RecurrentState] {
        match self {
            Self::Recurrent(layers) => layers,
            Self::Transformer(_) => &[],
        }
    }

    /// # Panics
    /// If it is of a transformer.
    pub(super) fn into_recurrent(self) -> Vec<RecurrentState> {
        match self {
            Self::Recurrent(layers) => layers,
            Self::Transformer(_) => panic!("the state is of a transformer but the model has recurrent layers"),
        }
    }

    /// # Panics
    /// If it is of recurrent layers.
    pub(super) fn into_seen(self) -> Seen {
        match self {
            Self::Transformer(seen) => *seen,
            Self::Recurrent(_) => panic!("the state is of recurrent layers but the model is a transformer"),
        }
    }
}

impl Detach for LanguageModelState {
    fn detach(self) -> Self {
        match self {
            Self::Recurrent(layers) => Self::Recurrent(layers.detach()),
            Self::Transformer(seen) => Self::Transformer(Box::new(seen.detach())),
        }
    }
}
