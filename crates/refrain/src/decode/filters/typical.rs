//! What is as surprising as is to be expected.

use super::top_p::crossing;
use super::{Filter, FilterKind, Role, exclude};
use crate::decode::History;
use crate::decode::probability::log_sum_exp;
use crate::setting::{Allowed, Range};

/// Keeps the fewest tokens whose probabilities add up to at least this, those first whose surprisal is nearest to the entropy
/// of the distribution.
///
/// Locally typical sampling: Meister et al. 2022. The token that crosses the limit stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Typical(pub f64);

pub(super) const KIND: FilterKind = FilterKind {
    name: "typical-p",
    value_name: "P",
    help: "Draw among the fewest tokens that have the probability P together, those first whose surprisal is nearest to the mean; 1: among all",
    role: Role::Sampling,
    allowed: Allowed::Number(Range::Factor),
    default: 1.0,
    off: 1.0,
    build: |p| Box::new(Typical(p)),
};

impl Filter for Typical {
    fn apply(&self, scores: &mut [f64], _history: &History) {
        if self.0 >= 1.0 {
            return;
        }
        let total = log_sum_exp(scores.iter().copied());
        let possible = scores.iter().filter(|score| score.is_finite());
        let entropy: f64 = possible.map(|score| (score - total).exp() * (total - score)).sum();
        let distance = |token: usize| (total - scores[token] - entropy).abs();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_unstable_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(a.cmp(&b)));
        let kept = crossing(order.iter().map(|&token| (scores[token] - total).exp()), self.0);
        exclude(scores, &order[kept..]);
    }
}
