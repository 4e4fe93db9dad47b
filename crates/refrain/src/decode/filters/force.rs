//! A forced beginning.

use super::Filter;
use crate::decode::History;

/// Excludes all but one token as long as a text is to begin with these, whatever the scores are.
#[derive(Clone, Debug, PartialEq)]
pub struct Force(pub Vec<u32>);

impl Filter for Force {
    fn apply(&self, scores: &mut [f64], history: &History) {
        if let Some(&token) = self.0.get(history.written().len()) {
            scores.fill(f64::NEG_INFINITY);
            scores[token as usize] = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_begins_with_what_is_forced_even_if_it_is_excluded() {
        let mut scores = [0.0, f64::NEG_INFINITY, 3.0];
        let mut history = History::new(&[2], 3);
        Force(vec![1]).apply(&mut scores, &history);
        assert_eq!(scores.to_vec(), vec![f64::NEG_INFINITY, 0.0, f64::NEG_INFINITY]);
        history.push(1);
        let mut scores = [0.0, 1.0, 2.0];
        Force(vec![1]).apply(&mut scores, &history);
        assert_eq!(scores.to_vec(), vec![0.0, 1.0, 2.0]);
    }
}
