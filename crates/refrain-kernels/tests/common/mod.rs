//! Inputs and comparisons shared by the tests.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod sequence;
pub mod sequence_reference;

use refrain_kernels::{Engine, Isa, Precision};

pub const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// Evenly distributed floats in -1..1 from a seed.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn float(&mut self) -> f32 {
        (self.bits() % (1 << 24)) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }

    pub fn scaled(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.float() * scale).collect()
    }

    pub fn pick(&mut self, from: &[usize]) -> usize {
        from[self.bits() as usize % from.len()]
    }
}

/// Engines of every instruction set of this machine.
pub fn engines(num_threads: usize) -> Vec<Engine> {
    Isa::supported()
        .into_iter()
        .map(|isa| Engine::new(isa, num_threads).expect("a supported instruction set"))
        .collect()
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// The error allowed a product per largest expected value.
pub fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-5,
        Precision::Bf16 => 1e-2,
    }
}

/// The largest difference must be below `tolerance` times the largest expected value (or one).
#[track_caller]
pub fn assert_close(name: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_close_at_scale(name, actual, expected, tolerance, 1.0);
}

/// The largest difference must be below `tolerance` times the largest expected value (or `least_scale`).
#[track_caller]
pub fn assert_close_at_scale(name: &str, actual: &[f32], expected: &[f64], tolerance: f64, least_scale: f64) {
    assert_eq!(actual.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(least_scale, |scale, value| scale.max(value.abs()));
    for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(actual) - expected).abs();
        assert!(error <= tolerance * scale, "{name}[{index}] = {actual}, expected {expected} (scale {scale})");
    }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The message with which the work panics, as it must.
pub fn refusal(work: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).expect_err("a refusal");
    *panic.downcast::<String>().expect("a formatted message")
}
