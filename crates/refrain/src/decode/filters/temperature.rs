//! Temperature.

use super::{Filter, FilterKind, Role, TopK};
use crate::decode::History;
use crate::setting::{Allowed, Range};

/// Divides the scores: below 1 safer, above 1 wilder; 0 keeps the likeliest token alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature(pub f64);

pub(super) const KIND: FilterKind = FilterKind {
    name: "temperature",
    value_name: "F",
    help: "Below 1 safer, above 1 wilder; 0 always takes the likeliest token",
    role: Role::Sampling,
    allowed: Allowed::Number(Range::NotNegative),
    // nanoGPT, sample.py
    default: 0.8,
    off: 1.0,
    build: |temperature| Box::new(Temperature(temperature)),
};

impl Filter for Temperature {
    fn apply(&self, scores: &mut [f64], history: &History) {
        if self.0 > 0.0 {
            for score in scores {
                *score /= self.0;
            }
        } else {
            TopK(1).apply(scores, history);
        }
    }
}
