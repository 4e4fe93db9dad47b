//! The nucleus.

use super::{Filter, FilterKind, Role, exclude, ranked};
use crate::decode::History;
use crate::decode::probability::softmax;
use crate::setting::{Allowed, Range};

/// Keeps the fewest of the likeliest tokens whose probabilities add up to at least this.
///
/// Nucleus sampling: Holtzman et al. 2020, section 3.1. The token that crosses the limit stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopP(pub f64);

pub(super) const KIND: FilterKind = FilterKind {
    name: "top-p",
    value_name: "P",
    help: "Draw among the fewest of the likeliest tokens that have the probability P together; 1: among all",
    role: Role::Sampling,
    allowed: Allowed::Number(Range::Factor),
    default: 1.0,
    off: 1.0,
    build: |p| Box::new(TopP(p)),
};

impl Filter for TopP {
    fn apply(&self, scores: &mut [f64], _history: &History) {
        // The sum of all may be a hair below 1.
        if self.0 >= 1.0 {
            return;
        }
        let mut probabilities = scores.to_vec();
        softmax(&mut probabilities);
        let order = ranked(scores);
        let kept = crossing(order.iter().map(|&token| probabilities[token]), self.0);
        exclude(scores, &order[kept..]);
    }
}

/// How many of some probabilities, from the first on, it takes to reach a sum.
pub(super) fn crossing(probabilities: impl Iterator<Item = f64>, sum: f64) -> usize {
    let mut before = 0.0;
    probabilities
        .take_while(|probability| {
            before < sum && {
                before += probability;
                true
            }
        })
        .count()
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_that_crosses_the_limit_stays_and_one_always_does() {
        let kept = |p: f64| {
            let mut scores = [0.1f64, 0.4, 0.2, 0.3].map(f64::ln);
            TopP(p).apply(&mut scores, &History::new(&[], 4));
            (0..4).filter(|&token| scores[token].is_finite()).collect::<Vec<_>>()
        };
        assert_eq!(kept(1e-9), [1]);
        assert_eq!(kept(0.39), [1]);
        assert_eq!(kept(0.41), [1, 3]);
        assert_eq!(kept(0.75), [1, 2, 3]);
        assert_eq!(kept(0.95), [0, 1, 2, 3]);
    }
}
