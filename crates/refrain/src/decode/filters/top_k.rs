//! The k likeliest.

use super::{Filter, FilterKind, Role, exclude};
use crate::decode::History;
use crate::setting::Allowed;

/// Keeps this many tokens, the likeliest, of equal ones the lower; 0 keeps all.
///
/// Fan et al. 2018, section 5.4.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopK(pub usize);

pub(super) const KIND: FilterKind = FilterKind {
    name: "top-k",
    value_name: "K",
    help: "Draw among the K likeliest tokens only; 0: among all",
    role: Role::Sampling,
    allowed: Allowed::Integer(0),
    default: 0.0,
    off: 0.0,
    build: |k| Box::new(TopK(k as usize)),
};

impl Filter for TopK {
    fn apply(&self, scores: &mut [f64], _history: &History) {
        if self.0 == 0 || self.0 >= scores.len() {
            return;
        }
        // One pass for the likeliest alone, the case of greedy decoding.
        if self.0 == 1 {
            let higher = |best: usize, token: usize| if scores[token] > scores[best] { token } else { best };
            let best = (1..scores.len()).fold(0, higher);
            let score = scores[best];
            scores.fill(f64::NEG_INFINITY);
            scores[best] = score;
            return;
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.select_nth_unstable_by(self.0, |&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        exclude(scores, &order[self.0..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_k_are_kept_and_ties_are_ranked_by_token() {
        let kept = |k| {
            let mut scores = [0.0, 2.0, 1.0, 2.0, -1.0];
            TopK(k).apply(&mut scores, &History::new(&[], 5));
            (0..5).filter(|&token| scores[token].is_finite()).collect::<Vec<_>>()
        };
        assert_eq!(kept(1), [1]);
        assert_eq!(kept(2), [1, 3]);
        assert_eq!(kept(3), [1, 2, 3]);
        assert_eq!([kept(0), kept(5), kept(9)], [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]);
    }
}
