//! Normally distributed noise from a counter-based stream: element e's depends on the key and e alone.

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};

use crate::dropout::DropoutKey;
use crate::engine::Engine;
use crate::shared::SharedSlice;

/// Elements that one member draws at a time, in pairs.
const STRETCH: usize = 1024;
/// 32-bit words of the stream a pair: 53 random bits, twice.
const WORDS_OF_A_PAIR: u128 = 4;

/// Adds to each value a number from the normal distribution with mean 0 and this standard deviation (Box and Muller 1958).
pub fn add_normal_noise(engine: &Engine, key: DropoutKey, deviation: f64, values: &mut [f32]) {
    let len = values.len();
    let shared = SharedSlice::new(values);
    engine.for_ranges(len, STRETCH, |range| {
        let mut generator = generator(key, range.start / 2);
        // SAFETY: the ranges of different members are disjoint.
        let values = unsafe { shared.part_mut(range.start, range.len()) };
        for pair in values.chunks_mut(2) {
            let radius = deviation * (-2.0 * (1.0 - uniform(&mut generator)).ln()).sqrt();
            let (sine, cosine) = (std::f64::consts::TAU * uniform(&mut generator)).sin_cos();
            for (value, direction) in pair.iter_mut().zip([cosine, sine]) {
                *value += (radius * direction) as f32;
            }
        }
    });
}

/// The generator, at the bits of this pair.
fn generator(key: DropoutKey, pair: usize) -> ChaCha8Rng {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&key.seed.to_le_bytes());
    let mut generator = ChaCha8Rng::from_seed(seed);
    generator.set_stream(key.stream);
    generator.set_word_pos(pair as u128 * WORDS_OF_A_PAIR);
    generator
}

/// A number in `[0, 1)` with 53 random bits.
fn uniform(generator: &mut ChaCha8Rng) -> f64 {
    (generator.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Isa;

    const KEY: DropoutKey = DropoutKey { seed: 7, stream: 3 };

    fn noise(key: DropoutKey, deviation: f64, len: usize, num_threads: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        add_normal_noise(&Engine::new(Isa::Portable, num_threads).unwrap(), key, deviation, &mut values);
        values
    }

    #[test]
    fn noise_is_normal() {
        let drawn = noise(KEY, 0.5, 200_001, 2);
        let moment = |power: i32| {
            drawn.iter().map(|&value| f64::from(2.0 * value).powi(power)).sum::<f64>() / drawn.len() as f64
        };
        let moments = [1, 2, 3, 4].map(moment);
        for (found, expected) in moments.iter().zip([0.0, 1.0, 0.0, 3.0]) {
            assert!((found - expected).abs() < 0.05, "{moments:?}");
        }
        // The two of a pair are independent.
        let product = drawn.chunks_exact(2).map(|pair| f64::from(pair[0] * pair[1])).sum::<f64>() / 1e5;
        assert!(product.abs() < 0.003, "{product}");
    }

    #[test]
    fn noise_depends_on_key_and_place_alone() {
        let base = noise(KEY, 1.0, 50_001, 1);
        assert_eq!(base, noise(KEY, 1.0, 50_001, 3));
        assert_eq!(base[..7777], noise(KEY, 1.0, 7777, 2));
        assert_ne!(base[..9], noise(DropoutKey { seed: 8, ..KEY }, 1.0, 9, 1));
        assert_ne!(base[..9], noise(DropoutKey { stream: 4, ..KEY }, 1.0, 9, 1));
        let mut values = vec![2.0; 3];
        add_normal_noise(&Engine::new(Isa::Portable, 1).unwrap(), KEY, 1.0, &mut values);
        assert_eq!(values, base[..3].iter().map(|value| 2.0 + value).collect::<Vec<_>>());
    }
}
