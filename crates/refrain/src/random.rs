//! Counter-based randomness: every draw is a function of the seed, what it is for, and an index.
//!
//! No generator's state outlives a call, so nothing about randomness needs saving: a run resumed at step `n` draws what
//! the uninterrupted run drew at step `n`, with any number of threads. The generator is ChaCha with 8 rounds (Bernstein
//! 2008) of the `chacha20` crate.

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use refrain_kernels::DropoutKey;

/// What a stream of random numbers is for. Two purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Initial weights; the index is the parameter's place in the model.
    Initialisation,
    /// Dropout masks; the index is the step that a pass begins at, the window is in the key.
    Dropout,
    /// Sampling text; the index is the number of the sample.
    Sampling,
    /// Noise on gradients; one index, 0, the rest is in the key.
    GradientNoise,
    /// Which inputs of a window stay the text's own; the index counts the windows trained on.
    TeacherForcing,
    /// The tokens that take the place of the others; the index likewise.
    OwnTokens,
    /// The tokens that a sampled softmax is over; the index likewise.
    Candidates,
}

impl Purpose {
    fn tag(self) -> u64 {
        match self {
            Self::Initialisation => 1,
            Self::Dropout => 2,
            Self::Sampling => 3,
            Self::GradientNoise => 4,
            Self::TeacherForcing => 5,
            Self::OwnTokens => 6,
            Self::Candidates => 7,
        }
    }
}

/// A stream of random numbers.
#[derive(Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream of `purpose` number `index` under `seed`.
    pub fn new(seed: u64, purpose: Purpose, index: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&purpose.tag().to_le_bytes());
        key[16..24].copy_from_slice(&index.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A number from the standard normal distribution (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// The dropout mask of one place in the model (`site`) for one window of training, from its step `step` on.
///
/// At most 256 sites share a window's numbers.
pub fn dropout_key(seed: u64, window: u64, step: u64, site: u8) -> DropoutKey {
    let seed = Random::new(seed, Purpose::Dropout, step).0.next_u64();
    DropoutKey { seed, stream: (window << 8) | u64::from(site) }
}

/// The noise on the gradient of one parameter, by its place in the model, at one step.
///
/// At most 65 536 parameters share a step's numbers.
pub fn gradient_noise_key(seed: u64, step: u64, parameter: u16) -> DropoutKey {
    let seed = Random::new(seed, Purpose::GradientNoise, 0).0.next_u64();
    DropoutKey { seed, stream: (step << 16) | u64::from(parameter) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_function_of_seed_purpose_and_index() {
        let draw = |seed, purpose, index| Random::new(seed, purpose, index).uniform();
        let first = draw(1, Purpose::Sampling, 0);
        assert!((first - draw(1, Purpose::Sampling, 0)).abs() == 0.0);
        for other in [draw(2, Purpose::Sampling, 0), draw(1, Purpose::Initialisation, 0), draw(1, Purpose::Sampling, 1)]
        {
            assert!((first - other).abs() > 0.0);
        }
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let mut random = Random::new(3, Purpose::Initialisation, 0);
        let draws: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn dropout_keys_differ_by_window_step_and_site() {
        assert_ne!(dropout_key(1, 0, 0, 1), dropout_key(1, 1, 0, 0));
        assert_ne!(dropout_key(1, 0, 0, 1), dropout_key(1, 0, 0, 0));
        assert_ne!(dropout_key(1, 0, 0, 0), dropout_key(2, 0, 0, 0));
        assert_ne!(dropout_key(1, 0, 0, 0), dropout_key(1, 0, 1, 0));
    }
}
