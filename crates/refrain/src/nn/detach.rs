//! States of several layers made constants.

use super::RecurrentState;

/// States of one or more layers, as [`Stack`](super::Stack) and [`Bidirectional`](super::Bidirectional) keep them.
pub trait Detach {
    /// The same numbers as constants: no gradient flows into the steps before them.
    #[must_use]
    fn detach(self) -> Self;
}

impl Detach for RecurrentState {
    fn detach(self) -> Self {
        Self::detach(self)
    }
}

impl<S: Detach> Detach for Vec<S> {
    fn detach(self) -> Self {
        self.into_iter().map(S::detach).collect()
    }
}

impl<S: Detach, const N: usize> Detach for [S; N] {
    fn detach(self) -> Self {
        self.map(S::detach)
    }
}
