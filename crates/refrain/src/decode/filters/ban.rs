//! Banned sequences.

use super::{Filter, exclude_if_others_remain};
use crate::decode::History;

/// Excludes every token that would end one of these sequences; one token alone is a sequence too.
///
/// Where nothing would be left, longer ones give way to those of one token, and all of those to each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Ban(pub Vec<Vec<u32>>);

impl Filter for Ban {
    fn apply(&self, scores: &mut [f64], history: &History) {
        let ends = self.0.iter().filter_map(|sequence| sequence.split_last());
        let ends = ends.filter(|(_, begun)| history.tokens().ends_with(begun));
        let (alone, longer): (Vec<_>, Vec<_>) = ends.partition(|(_, begun)| begun.is_empty());
        for ends in [alone, longer] {
            let ends: Vec<u32> = ends.into_iter().map(|(end, _)| *end).collect();
            exclude_if_others_remain(scores, &ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_never_completed() {
        let banned = |history: &[u32]| {
            let mut scores = [0.0; 5];
            Ban(vec![vec![4], vec![1, 2], vec![3, 1, 3]]).apply(&mut scores, &History::new(history, 5));
            (0..5).filter(|&token| scores[token] < 0.0).collect::<Vec<_>>()
        };
        assert_eq!(banned(&[0]), [4]);
        assert_eq!(banned(&[0, 1]), [2, 4]);
        assert_eq!(banned(&[3, 1]), [2, 3, 4]);
    }

    #[test]
    fn longer_sequences_give_way_where_nothing_would_be_left() {
        let mut scores = [0.0; 2];
        Ban(vec![vec![0], vec![1, 1]]).apply(&mut scores, &History::new(&[1], 2));
        assert_eq!(scores.to_vec(), vec![f64::NEG_INFINITY, 0.0]);
    }
}
