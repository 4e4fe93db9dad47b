//! Repetition penalty.

use super::{Filter, FilterKind, Role};
use crate::decode::History;
use crate::setting::{Allowed, Range};

/// Makes every token of the history less likely: a positive score is divided by the penalty, a negative one multiplied.
///
/// CTRL: Keskar et al. 2019, section 4.1, in the form that reaches negative scores too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepetitionPenalty(pub f64);

pub(super) const KIND: FilterKind = FilterKind {
    name: "repetition-penalty",
    value_name: "F",
    help: "Above 1, tokens of the prompt and of what is written become less likely: positive scores are divided by it, negative ones multiplied",
    role: Role::Constraint,
    allowed: Allowed::Number(Range::Positive),
    default: 1.0,
    off: 1.0,
    build: |penalty| Box::new(RepetitionPenalty(penalty)),
};

impl Filter for RepetitionPenalty {
    fn apply(&self, scores: &mut [f64], history: &History) {
        for (score, _) in scores.iter_mut().zip(history.counts()).filter(|(_, count)| **count > 0) {
            *score = if *score > 0.0 { *score / self.0 } else { *score * self.0 };
        }
    }
}
