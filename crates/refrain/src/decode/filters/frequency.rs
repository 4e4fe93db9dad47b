//! Frequency penalty.

use super::{Filter, FilterKind, Role};
use crate::decode::History;
use crate::setting::{Allowed, Range};

/// Subtracts the penalty from the score of a token once for each time that it occurs in the history.
///
/// As `OpenAI`'s interface defines it, but counting the prompt too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrequencyPenalty(pub f64);

pub(super) const KIND: FilterKind = FilterKind {
    name: "frequency-penalty",
    value_name: "F",
    help: "The same, once for each time that the token occurs there",
    role: Role::Constraint,
    allowed: Allowed::Number(Range::Finite),
    default: 0.0,
    off: 0.0,
    build: |penalty| Box::new(FrequencyPenalty(penalty)),
};

impl Filter for FrequencyPenalty {
    fn apply(&self, scores: &mut [f64], history: &History) {
        for (score, &count) in scores.iter_mut().zip(history.counts()) {
            *score -= self.0 * f64::from(count);
        }
    }
}
