//! Which sequences still run at a step, and in which order they are worked on.

use std::ops::Range;

use super::{Direction, SequenceShape};

/// The sequences of a pass, longest first: those that still run at a step are the first ones, so that tiles of ended
/// sequences are left out.
///
/// A sequence's *place* is where it is worked on, its *row* where it lies in what the caller gave. They may be segments of the caller's
/// sequences: rows are then all sequences' first segments, all second ones, and so on.
#[derive(Debug)]
pub(super) struct Batch {
    /// How many.
    len: usize,
    seq_len: usize,
    direction: Direction,
    sorted: Option<Sorted>,
    /// What they are segments of, if they are.
    whole: Option<Whole>,
}

/// Sequences that are worked on in segments.
#[derive(Debug)]
struct Whole {
    batch_size: usize,
    seq_len: usize,
    /// By sequence.
    lengths: Vec<usize>,
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
        Self { len: batch_size, seq_len, direction, sorted: Self::sort(batch_size, seq_len, lengths), whole: None }
    }

    /// Segments of `segment` steps of the sequences, the last ones shorter.
    pub(super) fn of_segments(
        shape: SequenceShape,
        direction: Direction,
        lengths: Option<&[usize]>,
        segment: usize,
    ) -> Self {
        let SequenceShape { batch_size, seq_len, .. } = shape;
        let lengths = lengths.map_or_else(|| vec![seq_len; batch_size], <[usize]>::to_vec);
        // As many as the longest has, so that more padding changes nothing.
        let segments = lengths.iter().copied().max().unwrap_or(0).div_ceil(segment);
        let starts = (0..segments).map(|index| index * segment);
        let of_segments: Vec<usize> = starts
            .flat_map(|start| lengths.iter().map(move |length| length.saturating_sub(start).min(segment)))
            .collect();
        let len = of_segments.len();
        let sorted = Self::sort(len, segment, Some(&of_segments));
        Self { len, seq_len: segment, direction, sorted, whole: Some(Whole { batch_size, seq_len, lengths }) }
    }

    fn sort(batch_size: usize, seq_len: usize, lengths: Option<&[usize]>) -> Option<Sorted> {
        lengths.filter(|lengths| lengths.iter().any(|&length| length < seq_len)).map(|lengths| {
            let mut rows: Vec<usize> = (0..batch_size).collect();
            rows.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
            let lengths: Vec<usize> = rows.iter().map(|&row| lengths[row]).collect();
            let longest = lengths.first().copied().unwrap_or(0);
            let running = (0..longest).map(|step| lengths.partition_point(|&length| length > step)).collect();
            Sorted { rows, lengths, running }
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
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
        let row = self.row(place);
        let (sequence, seq_len, length, step) = match &self.whole {
            None => (row, self.seq_len, self.length(place), step),
            Some(whole) => {
                let (segment, sequence) = (row / whole.batch_size, row % whole.batch_size);
                (sequence, whole.seq_len, whole.lengths[sequence], segment * self.seq_len + step)
            }
        };
        let step = match self.direction {
            Direction::Forward => step,
            Direction::Backward => length - 1 - step,
        };
        sequence * seq_len + step
    }

    /// The row of a running sequence's step among those of masks: by step in the order of work, then by the caller's sequence.
    pub(super) fn mask_row(&self, place: usize, step: usize) -> usize {
        let row = self.row(place);
        match &self.whole {
            None => step * self.len + row,
            Some(whole) => (row / whole.batch_size * self.seq_len + step) * whole.batch_size + row % whole.batch_size,
        }
    }

    /// The steps of a place's share of what the caller gave that no sequence has, among `[batch_size, seq_len]`.
    pub(super) fn padding(&self, place: usize) -> Range<usize> {
        let row = self.row(place);
        match &self.whole {
            None => row * self.seq_len + self.length(place)..(row + 1) * self.seq_len,
            Some(whole) => {
                let (segment, sequence) = (row / whole.batch_size, row % whole.batch_size);
                let start = (segment * self.seq_len).max(whole.lengths[sequence]);
                let is_last = row + whole.batch_size >= self.len;
                let end = if is_last { whole.seq_len } else { (segment + 1) * self.seq_len };
                sequence * whole.seq_len + start.min(end)..sequence * whole.seq_len + end
            }
        }
    }

    /// The row of the segment that a sequence of the caller's ends in.
    pub(super) fn last_segment(&self, sequence: usize) -> usize {
        self.whole.as_ref().map_or(sequence, |whole| {
            whole.lengths[sequence].div_ceil(self.seq_len).saturating_sub(1) * whole.batch_size + sequence
        })
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
    fn segments_cover_each_step_once_in_either_direction() {
        let shape = SequenceShape { batch_size: 3, seq_len: 11, ..SHAPE };
        for lengths in [None, Some(&[7, 0, 10][..]), Some(&[4, 8, 8])] {
            for direction in [Direction::Forward, Direction::Backward] {
                let whole = Batch::new(shape, direction, lengths);
                let batch = Batch::of_segments(shape, direction, lengths, 4);
                let mut seen = vec![0; 33];
                for place in 0..batch.len() {
                    let (segment, sequence) = (batch.row(place) / 3, batch.row(place) % 3);
                    let of_whole = (0..3).find(|&place| whole.row(place) == sequence).expect("one of three");
                    for step in 0..batch.length(place) {
                        assert!(place < batch.running(step));
                        assert_eq!(batch.at(place, step), whole.at(of_whole, segment * 4 + step));
                        assert_eq!(batch.mask_row(place, step), whole.mask_row(of_whole, segment * 4 + step));
                        seen[batch.at(place, step)] += 1;
                    }
                    batch.padding(place).for_each(|step| seen[step] += 1);
                }
                assert_eq!(seen, [1; 33], "{lengths:?} {direction:?}");
            }
        }
        let batch = Batch::of_segments(shape, Direction::Forward, Some(&[7, 0, 10]), 4);
        assert_eq!((batch.len(), batch.steps()), (9, 4));
        assert_eq!([0, 1, 2].map(|sequence| batch.last_segment(sequence)), [3, 1, 8]);
        // More padding, no more segments.
        let padded = SequenceShape { seq_len: 40, ..shape };
        assert_eq!(Batch::of_segments(padded, Direction::Forward, Some(&[7, 0, 10]), 4).len(), 9);
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
