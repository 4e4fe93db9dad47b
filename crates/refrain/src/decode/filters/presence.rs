//! Presence penalty.

use super::{Filter, FilterKind, Role};
use crate::decode::History;
use crate::setting::{Allowed, Range};

/// Subtracts the penalty from the score of every token of the history, however often it occurs there.
///
/// As `OpenAI`'s interface defines it, but counting the prompt too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PresencePenalty(pub f64);

pub(super) const KIND: FilterKind = FilterKind {
    name: "presence-penalty",
    value_name: "F",
    help: "Subtracted from the scores of tokens of the prompt and of what is written",
    role: Role::Constraint,
    allowed: Allowed::Number(Range::Finite),
    default: 0.0,
    off: 0.0,
    build: |penalty| Box::new(PresencePenalty(penalty)),
};

impl Filter for PresencePenalty {
    fn apply(&self, scores: &mut [f64], history: &History) {
        for (score, _) in scores.iter_mut().zip(history.counts()).filter(|(_, count)| **count > 0) {
            *score -= self.0;
        }
    }
}
