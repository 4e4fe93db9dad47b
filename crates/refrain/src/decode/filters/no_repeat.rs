//! No n-gram twice.

use super::{Filter, FilterKind, Role, exclude_if_others_remain};
use crate::decode::History;
use crate::setting::Allowed;

/// Excludes every token that would end a sequence of this many tokens that the history already has; 0 excludes none.
///
/// Paulus et al. 2017, section 2.5, for trigrams. Where nothing would be left, nothing is excluded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoRepeat(pub usize);

pub(super) const KIND: FilterKind = FilterKind {
    name: "no-repeat-ngram",
    value_name: "N",
    help: "Write no sequence of N tokens that the prompt or what is written has already; 0: any",
    role: Role::Constraint,
    allowed: Allowed::Integer(0),
    default: 0.0,
    off: 0.0,
    build: |size| Box::new(NoRepeat(size as usize)),
};

impl Filter for NoRepeat {
    fn apply(&self, scores: &mut [f64], history: &History) {
        let tokens = history.tokens();
        if self.0 == 0 || tokens.len() < self.0 {
            return;
        }
        let begun = &tokens[tokens.len() - (self.0 - 1)..];
        let ends: Vec<u32> = tokens
            .windows(self.0)
            .filter(|ngram| &ngram[..self.0 - 1] == begun)
            .map(|ngram| ngram[self.0 - 1])
            .collect();
        exclude_if_others_remain(scores, &ends);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_would_be_left_nothing_is_excluded() {
        let mut scores = [0.0; 3];
        NoRepeat(1).apply(&mut scores, &History::new(&[0, 1, 2], 3));
        assert!(scores.iter().all(|score| score.is_finite()));
        NoRepeat(1).apply(&mut scores, &History::new(&[0, 1, 0], 3));
        assert_eq!(scores.to_vec(), vec![f64::NEG_INFINITY, f64::NEG_INFINITY, 0.0]);
    }
}
