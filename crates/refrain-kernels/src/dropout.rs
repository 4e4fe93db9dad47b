//! Dropout from a counter-based stream: element e's fate depends on the key and e alone.

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};

use crate::arch::{Kernel, MulAdd};
use crate::engine::Engine;
use crate::shared::SharedSlice;

/// Random bits per element.
const BITS: u32 = 16;
/// Elements per stretch of the stream: whole blocks of the cipher, small enough for the first cache.
const STRETCH: usize = 4096;
const BYTES: usize = STRETCH * BITS as usize / 8;

/// Names a stream of random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DropoutKey {
    /// The experiment's seed.
    pub seed: u64,
    /// Which mask of the experiment: a number that no other mask has.
    pub stream: u64,
}

impl DropoutKey {
    /// The generator, at the bits of element `element`, of which each has so many.
    fn generator(self, element: usize, bits: u32) -> ChaCha8Rng {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        let mut generator = ChaCha8Rng::from_seed(seed);
        generator.set_stream(self.stream);
        generator.set_word_pos(element as u128 * u128::from(bits) / 32);
        generator
    }
}

/// `output[e] = input[e] / (1 - probability)` where element e is kept, else 0. The backward pass is the same call on the
/// gradient.
///
/// Each element is dropped with `probability` rounded to a multiple of 2⁻¹⁶.
///
/// # Panics
///
/// When the lengths differ or `probability` is not in 0..=1.
pub fn dropout(engine: &Engine, key: DropoutKey, probability: f32, input: &[f32], output: &mut [f32]) {
    assert_eq!(input.len(), output.len(), "input has {} elements, output {}", input.len(), output.len());
    let threshold = threshold(probability);
    let scale = 1.0 / (1.0 - probability);
    let shared = SharedSlice::new(output);
    engine.for_ranges(input.len(), STRETCH, |range| {
        let mut generator = key.generator(range.start, BITS);
        let mut bytes = [0; BYTES];
        // SAFETY: the ranges of different members are disjoint.
        let output = unsafe { shared.part_mut(range.start, range.len()) };
        for (input, output) in input[range].chunks(STRETCH).zip(output.chunks_mut(STRETCH)) {
            generator.fill_bytes(&mut bytes);
            engine.kernel(Mask { bits: bytes.as_chunks().0, threshold, scale, input, output });
        }
    });
}

/// As [`dropout`], with one mask `[batch_size, num_features]` for all steps of `[batch_size, seq_len, num_features]`.
///
/// # Panics
///
/// When the lengths are not of the shape or `probability` is not in 0..=1.
pub fn variational_dropout(
    engine: &Engine,
    key: DropoutKey,
    probability: f32,
    [batch_size, seq_len, num_features]: [usize; 3],
    input: &[f32],
    output: &mut [f32],
) {
    let len = batch_size * seq_len * num_features;
    assert_eq!([input.len(), output.len()], [len; 2], "[{batch_size}, {seq_len}, {num_features}]");
    let mut factors = vec![0.0; batch_size * num_features];
    dropout(engine, key, probability, &vec![1.0; factors.len()], &mut factors);
    scale_sequences(engine, &factors, [batch_size, seq_len, num_features], input, output);
}

/// Sequences `[batch_size, seq_len, num_features]` times a row of factors for each, `[batch_size, num_features]`.
fn scale_sequences(
    engine: &Engine,
    factors: &[f32],
    [batch_size, seq_len, num_features]: [usize; 3],
    input: &[f32],
    output: &mut [f32],
) {
    let shared = SharedSlice::new(output);
    let row_len = num_features.max(1);
    // Whole rows, shared out by how many elements there are.
    engine.for_ranges(batch_size * seq_len * num_features, STRETCH.div_ceil(row_len) * row_len, |elements| {
        let rows = elements.start / row_len..elements.end / row_len;
        // SAFETY: the ranges of different members are disjoint.
        let output = unsafe { shared.part_mut(elements.start, elements.len()) };
        let pairs = input[elements].chunks_exact(row_len).zip(output.chunks_exact_mut(row_len));
        for (row, (input, output)) in rows.zip(pairs) {
            let factors = &factors[row / seq_len * num_features..][..num_features];
            engine.kernel(Product { factors, input, output });
        }
    });
}

/// An input times factors, of which 0 leaves nothing of it, whatever it is.
pub(crate) struct Product<'a> {
    pub(crate) factors: &'a [f32],
    pub(crate) input: &'a [f32],
    pub(crate) output: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        for ((output, input), factor) in self.output.iter_mut().zip(self.input).zip(self.factors) {
            *output = if *factor == 0.0 { 0.0 } else { input * factor };
        }
    }
}

/// Independent events in bits: `rows` rows of `row_len` bits in whole words, the first in the lowest bit. Each is set with
/// `probability` rounded to a multiple of 2⁻¹⁶; the bits beyond a row's end are clear.
///
/// Which ones happen depends on the key, the probability and their place alone, counted over whole words.
///
/// # Panics
///
/// When `probability` is not in 0..=1.
pub fn events(engine: &Engine, key: DropoutKey, probability: f32, rows: usize, row_len: usize) -> Vec<u32> {
    let threshold = threshold(probability);
    // Last digits of zero decide nothing and are not drawn: a half takes one digit.
    let zeros = threshold.trailing_zeros().min(BITS);
    let (threshold, digits) = (threshold >> zeros, BITS - zeros);
    let words = row_len.div_ceil(WORD);
    let mut events = vec![0; rows * words];
    let shared = SharedSlice::new(&mut events);
    // Shared out by how many events there are.
    engine.for_ranges(rows * words * WORD, STRETCH, |drawn| {
        let range = drawn.start / WORD..drawn.end / WORD;
        let mut generator = key.generator(drawn.start, digits);
        let mut bytes = [0; BYTES];
        let bytes = &mut bytes[..digits as usize * size_of::<[u32; WORDS]>()];
        // SAFETY: the ranges of different members are disjoint.
        let events = unsafe { shared.part_mut(range.start, range.len()) };
        for events in events.chunks_mut(WORDS) {
            generator.fill_bytes(bytes);
            engine.kernel(Draw { digits: bytes.as_chunks().0.as_chunks().0, threshold, events });
        }
    });
    if !row_len.is_multiple_of(WORD) {
        for row in events.chunks_exact_mut(words) {
            row[words - 1] &= (1 << (row_len % WORD)) - 1;
        }
    }
    events
}

/// Events of a word.
const WORD: usize = u32::BITS as usize;
/// Words of a stretch.
const WORDS: usize = STRETCH / WORD;

/// Random bits below this, as a number, are an event.
fn threshold(probability: f32) -> u32 {
    assert!((0.0..=1.0).contains(&probability), "a probability of {probability}");
    (f64::from(probability) * f64::from(1 << BITS)).round() as u32
}

struct Draw<'a> {
    /// The binary digits of a random number for each event of a stretch, a word for a word of events: the last digit of all,
    /// the one before, and so on.
    digits: &'a [[[u8; 4]; WORDS]],
    threshold: u32,
    events: &'a mut [u32],
}

impl Kernel for Draw<'_> {
    type Output = ();

    /// Compares digit by digit, from the last one, the numbers of a whole stretch at once.
    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        // A threshold of more digits than the numbers have is above all of them; that of 0 is above none.
        self.events.fill(if self.digits.is_empty() && self.threshold > 0 { u32::MAX } else { 0 });
        for (place, digits) in self.digits.iter().enumerate() {
            let is_set = if self.threshold >> place & 1 == 1 { u32::MAX } else { 0 };
            for (less, &digits) in self.events.iter_mut().zip(digits) {
                // Less where the digit is 0 and the threshold's is 1, or both are the same and it was less before: a majority.
                let is_zero = !u32::from_le_bytes(digits);
                *less = (is_zero & (is_set | *less)) | (is_set & *less);
            }
        }
    }
}

struct Mask<'a> {
    bits: &'a [[u8; 2]],
    threshold: u32,
    scale: f32,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Mask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        for ((y, &x), &bits) in self.output.iter_mut().zip(self.input).zip(self.bits) {
            *y = if u32::from(u16::from_le_bytes(bits)) >= self.threshold { x * self.scale } else { 0.0 };
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "a kept one becomes exactly the scale")]
mod tests {
    use super::*;
    use crate::arch::Isa;

    const KEY: DropoutKey = DropoutKey { seed: 7, stream: 3 };

    fn mask(key: DropoutKey, probability: f32, len: usize) -> Vec<f32> {
        let mut output = vec![9.0; len];
        dropout(&Engine::new(Isa::Portable, 2).unwrap(), key, probability, &vec![1.0; len], &mut output);
        output
    }

    #[test]
    fn the_share_of_dropped_elements_is_the_probability() {
        for probability in [0.1, 0.5, 0.9] {
            let mask = mask(KEY, probability, 200_000);
            let dropped = mask.iter().filter(|&&value| value == 0.0).count() as f32 / mask.len() as f32;
            assert!((dropped - probability).abs() < 0.005, "{dropped} instead of {probability}");
            assert!(mask.iter().all(|&value| value == 0.0 || value == 1.0 / (1.0 - probability)));
        }
    }

    #[test]
    fn the_ends_of_the_range_keep_and_drop_everything() {
        assert!(mask(KEY, 0.0, 5000).iter().all(|&value| value == 1.0));
        assert!(mask(KEY, 1.0, 5000).iter().all(|&value| value == 0.0));
    }

    #[test]
    fn a_longer_tensor_starts_with_the_mask_of_a_shorter_one() {
        assert_eq!(mask(KEY, 0.5, 100_000)[..777], mask(KEY, 0.5, 777));
    }

    #[test]
    fn seeds_and_streams_differ() {
        let base = mask(KEY, 0.5, 1000);
        assert_ne!(base, mask(DropoutKey { seed: 8, ..KEY }, 0.5, 1000));
        assert_ne!(base, mask(DropoutKey { stream: 4, ..KEY }, 0.5, 1000));
    }

    #[test]
    fn events_happen_as_often_as_they_should_and_where_the_key_says() {
        let (rows, len) = (301, 77);
        // Of sixteen binary digits, of one, of four.
        for probability in [0.3, 0.5, 0.1875] {
            let mut all = Vec::new();
            for isa in Isa::supported() {
                for num_threads in [1, 3] {
                    let engine = Engine::new(isa, num_threads).expect("supported");
                    all.push(events(&engine, KEY, probability, rows, len));
                }
            }
            assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
            let count: u32 = all[0].iter().map(|word| word.count_ones()).sum();
            let share = f64::from(count) / (rows * len) as f64;
            assert!((share - f64::from(probability)).abs() < 0.01, "{share} instead of {probability}");
            assert!(all[0].chunks_exact(3).all(|row| row[2] >> 13 == 0), "bits beyond the row are clear");
            let engine = Engine::new(Isa::detect(), 1).expect("supported");
            assert_ne!(all[0], events(&engine, DropoutKey { stream: 4, ..KEY }, probability, rows, len));
            let fewer = events(&engine, KEY, probability, 100, len);
            assert_eq!(fewer, all[0][..fewer.len()], "more rows begin with the events of fewer");
        }
        let engine = Engine::new(Isa::detect(), 1).expect("supported");
        assert!(events(&engine, KEY, 0.0, rows, len).iter().all(|&word| word == 0));
        let always = events(&engine, KEY, 1.0, 2, 33);
        assert_eq!(always, [u32::MAX, 1, u32::MAX, 1]);
    }

    #[test]
    fn variational_dropout_has_one_mask_for_all_steps_of_a_sequence() {
        let shape @ [batch_size, seq_len, size] = [3, 40, 501];
        let input = vec![f32::INFINITY; batch_size * seq_len * size];
        let mut all = Vec::new();
        for num_threads in [1, 3] {
            let engine = Engine::new(Isa::detect(), num_threads).expect("supported");
            let mut output = vec![f32::NAN; input.len()];
            variational_dropout(&engine, KEY, 0.3, shape, &input, &mut output);
            all.push(output);
        }
        assert_eq!(all[0], all[1]);
        let mut factors = vec![0.0; batch_size * size];
        let engine = Engine::new(Isa::detect(), 1).expect("supported");
        dropout(&engine, KEY, 0.3, &vec![1.0; factors.len()], &mut factors);
        for (row, step) in all[0].chunks(size).enumerate() {
            let factors = &factors[row / seq_len * size..][..size];
            assert!(step.iter().zip(factors).all(|(&found, &factor)| (found == 0.0) == (factor == 0.0)), "step {row}");
        }
    }
}
