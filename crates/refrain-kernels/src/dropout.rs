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
    /// The generator, at the bits of element `element`.
    fn generator(self, element: usize) -> ChaCha8Rng {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        let mut generator = ChaCha8Rng::from_seed(seed);
        generator.set_stream(self.stream);
        generator.set_word_pos(element as u128 * u128::from(BITS) / 32);
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
    assert!((0.0..=1.0).contains(&probability), "a probability of {probability}");
    let threshold = (f64::from(probability) * f64::from(1 << BITS)).round() as u32;
    let scale = 1.0 / (1.0 - probability);
    let shared = SharedSlice::new(output);
    engine.for_ranges(input.len(), STRETCH, |range| {
        let mut generator = key.generator(range.start);
        let mut bytes = [0; BYTES];
        // SAFETY: the ranges of different members are disjoint.
        let output = unsafe { shared.part_mut(range.start, range.len()) };
        for (input, output) in input[range].chunks(STRETCH).zip(output.chunks_mut(STRETCH)) {
            generator.fill_bytes(&mut bytes);
            engine.kernel(Mask { bits: bytes.as_chunks().0, threshold, scale, input, output });
        }
    });
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
}
