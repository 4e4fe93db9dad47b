//! Nothing that is too unlikely.

use super::{Filter, FilterKind, Role, TopK};
use crate::decode::History;
use crate::decode::probability::log_sum_exp;
use crate::setting::{Allowed, Range};

/// Keeps the tokens of at least this probability; where there are none, the likeliest.
///
/// Hewitt et al. 2022.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epsilon(pub f64);

pub(super) const KIND: FilterKind = FilterKind {
    name: "epsilon-cutoff",
    value_name: "P",
    help: "Draw among the tokens of at least the probability P; 0: among all",
    role: Role::Sampling,
    allowed: Allowed::Number(Range::BelowOne),
    default: 0.0,
    off: 0.0,
    build: |probability| Box::new(Epsilon(probability)),
};

impl Filter for Epsilon {
    fn apply(&self, scores: &mut [f64], history: &History) {
        let total = log_sum_exp(scores.iter().copied());
        let likely = |score: f64| (score - total).exp() >= self.0;
        if !scores.iter().any(|&score| likely(score)) {
            return TopK(1).apply(scores, history);
        }
        for score in scores.iter_mut().filter(|score| !likely(**score)) {
            *score = f64::NEG_INFINITY;
        }
    }
}
