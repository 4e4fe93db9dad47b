//! Which sequences still run at a step, and in which order they are worked on.

use std::ops::Range;

use super::{Direction, SequenceShape};

/// The sequences of a pass, longest first: those that still run at a step are the first ones, so that tiles of ended
/// sequences are left out.
///
/// A sequence's *place* is where it is worked on, its *row* where it lies in what the caller gave.
#[derive(Debug)]
pub(super) struct Batch {
    /// How many.
    len: usize,
    seq_len: usize,
    direction: Direction,
    sorted: Option<Sorted>,
}

#[derive(Debug)]
struct Sorted {
    /// By place.
    rows: Vec<usize>,
    /// By place.
    lengths: Vec<usize>,
    /// By step: how many sequences are longer.
    running: Vec<usize>,
}

impl Batch {
    /// Sequences of these lengths, or all of the shape's.
    pub(super) fn new(shape: SequenceShape, direction: Direction, lengths: Option<&[usize]>) -> Self {
        let SequenceShape { batch_size, seq_len, .. } = shape;
        let sorted = lengths.filter(|lengths| lengths.iter().any(|&length| length < seq_len)).map(|lengths| {
            let mut rows: Vec<usize> = (0..batch_size).collect();
            rows.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
            let lengths: Vec<usize> = rows.iter().map(|&row| lengths[row]).collect();
            let longest = lengths.first().copied().unwrap_or(0);
            let running = (0..longest).map(|step| lengths.partition_point(|&length| length > step)).collect();
            Sorted { rows, lengths, running }
        });
        Self { len: batch_size, seq_len, direction, sorted }
    }

    /// Steps of the longest sequence.
    pub(super) fn steps(&self) -> usize {
        self.sorted.as_ref().map_or(self.seq_len, |sorted| sorted.running.len())
    }

    /// How many sequences run at a step; none after the last.
    pub(super) fn running(&self, step: usize) -> usize {
        match &self.sorted {
            Some(sorted) => sorted.running.get(step).copied().unwrap_or(0),
            None if step < self.seq_len => self.len,
            None => 0,
        }
    }

    /// The row of a place.
    pub(super) fn row(&self, place: usize) -> usize {
        self.sorted.as_ref().map_or(place, |sorted| sorted.rows[place])
    }

    /// The steps of the sequence at a place.
    pub(super) fn length(&self, place: usize) -> usize {
        self.sorted.as_ref().map_or(self.seq_len, |sorted| sorted.lengths[place])
    }

    /// Where a running sequence's step lies among the steps `[batch_size, seq_len]` that the caller gave.
    pub(super) fn at(&self, place: usize, step: usize) -> usize {
        let step = match self.direction {
            Direction::Forward => step,
            Direction::Backward => self.length(place) - 1 - step,
        };
        self.row(place) * self.seq_len + step
    }

    /// Those of some places whose sequences run at a step.
    pub(super) fn running_of(&self, places: &Range<usize>, step: usize) -> Range<usize> {
        let end = self.running(step).clamp(places.start, places.end);
        places.start..end
    }

    /// Those of some places whose sequences end with a step.
    pub(super) fn ending_of(&self, places: &Range<usize>, step: usize) -> Range<usize> {
        self.running_of(places, step + 1).end..self.running_of(places, step).end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recurrent::Cell;

    const SHAPE: SequenceShape =
        SequenceShape { cell: Cell::Lstm, batch_size: 4, seq_len: 5, input_size: 1, hidden_size: 1 };

    #[test]
    fn longest_come_first_and_equal_ones_keep_their_order() {
        let batch = Batch::new(SHAPE, Direction::Forward, Some(&[2, 0, 4, 2]));
        assert_eq!([0, 1, 2, 3].map(|place| batch.row(place)), [2, 0, 3, 1]);
        assert_eq!([0, 1, 2, 3].map(|place| batch.length(place)), [4, 2, 2, 0]);
        assert_eq!(batch.steps(), 4);
        assert_eq!([0, 1, 2, 3, 4].map(|step| batch.running(step)), [3, 3, 1, 1, 0]);
        assert_eq!((batch.running_of(&(2..4), 0), batch.running_of(&(2..4), 2)), (2..3, 2..2));
        assert_eq!((batch.ending_of(&(0..4), 1), batch.ending_of(&(0..4), 3)), (1..3, 0..1));
    }

    #[test]
    fn full_sequences_are_as_none_given() {
        for batch in [None, Some(&[5; 4][..])].map(|lengths| Batch::new(SHAPE, Direction::Forward, lengths)) {
            assert!(batch.sorted.is_none());
            assert_eq!((batch.steps(), batch.running(4), batch.running(5)), (5, 4, 0));
            assert_eq!((batch.row(3), batch.length(3), batch.ending_of(&(0..4), 4)), (3, 5, 0..4));
        }
    }

    #[test]
    fn backward_sequences_begin_at_their_own_end() {
        let lengths = [2, 0, 4, 2];
        let batch = Batch::new(SHAPE, Direction::Backward, Some(&lengths));
        assert_eq!([0, 3].map(|step| batch.at(0, step)), [2 * 5 + 3, 2 * 5]);
        assert_eq!([0, 1].map(|step| batch.at(2, step)), [3 * 5 + 1, 3 * 5]);
        assert_eq!(Batch::new(SHAPE, Direction::Forward, Some(&lengths)).at(2, 1), 3 * 5 + 1);
    }
}
