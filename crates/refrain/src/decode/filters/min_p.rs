//! A share of the likeliest.

use super::{Filter, FilterKind, Role};
use crate::decode::History;
use crate::setting::{Allowed, Range};

/// Keeps the tokens of at least this share of the likeliest one's probability.
///
/// Nguyen et al. 2024.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MinP(pub f64);

pub(super) const KIND: FilterKind = FilterKind {
    name: "min-p",
    value_name: "P",
    help: "Draw among the tokens of at least the share P of the likeliest one's probability; 0: among all",
    role: Role::Sampling,
    allowed: Allowed::Number(Range::Share),
    default: 0.0,
    off: 0.0,
    build: |share| Box::new(MinP(share)),
};

impl Filter for MinP {
    fn apply(&self, scores: &mut [f64], _history: &History) {
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for score in scores.iter_mut().filter(|score| (**score - highest).exp() < self.0) {
            *score = f64::NEG_INFINITY;
        }
    }
}
