//! How many units the layers of a stack have.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Units of the layers: a number for all of them, or one for each, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HiddenSize {
    /// As many in every layer.
    Same(usize),
    /// As many as there are layers, which a recipe is checked for.
    Each(Vec<usize>),
}

impl HiddenSize {
    /// Units of a layer, counted from the lowest. Above the end of a list it is the last one's, so that a file that claims more layers than
    /// sizes still has shapes to be refused by.
    pub fn of(&self, layer: usize) -> usize {
        match self {
            Self::Same(size) => *size,
            Self::Each(sizes) => sizes.get(layer).or(sizes.last()).copied().unwrap_or_default(),
        }
    }

    /// How many sizes a list has; none of a number.
    pub(super) fn listed(&self) -> Option<usize> {
        match self {
            Self::Same(_) => None,
            Self::Each(sizes) => Some(sizes.len()),
        }
    }

    /// The same with another size of the last of `num_layers` layers.
    pub(super) fn with_last(&self, num_layers: usize, last: usize) -> Self {
        let below = (1..num_layers).map(|layer| self.of(layer - 1));
        if num_layers == 1 { Self::Same(last) } else { Self::Each(below.chain([last]).collect()) }
    }
}

impl From<usize> for HiddenSize {
    fn from(size: usize) -> Self {
        Self::Same(size)
    }
}

impl<const NUM_LAYERS: usize> From<[usize; NUM_LAYERS]> for HiddenSize {
    fn from(sizes: [usize; NUM_LAYERS]) -> Self {
        Self::Each(sizes.into())
    }
}

impl fmt::Display for HiddenSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same(size) => write!(f, "{size}"),
            Self::Each(sizes) => write!(f, "{sizes:?}"),
        }
    }
}
