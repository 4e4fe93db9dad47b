//! The most that this machine does: multiply-adds with operands in registers, and reads from memory. What the speed of a
//! kernel is held against.

use std::hint::black_box;
use std::time::Instant;

use crate::arch::{Kernel, MulAdd};
use crate::engine::Engine;
use crate::tile::multiply_adds;

/// Rounds of one trial of the multiply-adds: half a millisecond, in which all threads may be left alone on a busy machine.
const ROUNDS: usize = 50_000;
/// The best trial of each measurement counts: others were disturbed, or came before the processor had its full clock.
const PEAK_TRIALS: usize = 400;
const BANDWIDTH_TRIALS: usize = 6;
/// Floats read by one trial, 256 MiB: far more than the caches that a core reads through hold.
const BUFFER_LEN: usize = 1 << 26;

/// The multiply-add rate of all threads of `engine` at once with operands in registers, in floating-point operations per
/// second: a multiply-add counts as two.
pub fn fma_peak(engine: &Engine) -> f64 {
    let flops = multiply_adds(engine.arch(), 1) * ROUNDS as f64 * engine.num_threads() as f64;
    let seconds = best_seconds(PEAK_TRIALS, || {
        engine.run(engine.num_threads(), |_| {
            black_box(multiply_adds(engine.arch(), ROUNDS));
        });
    });
    flops / seconds
}

/// The rate at which all threads of `engine` together read 256 MiB of memory, in bytes per second.
pub fn read_bandwidth(engine: &Engine) -> f64 {
    bandwidth_of(engine, BUFFER_LEN)
}

fn bandwidth_of(engine: &Engine, len: usize) -> f64 {
    // Not zeros, which the system would not give memory of their own.
    let buffer = vec![1.0f32; len];
    let seconds = best_seconds(BANDWIDTH_TRIALS, || {
        engine.run(engine.num_threads(), |member| {
            black_box(engine.kernel(Sum { values: &buffer[member.share(len)] }));
        });
    });
    size_of_val(buffer.as_slice()) as f64 / seconds
}

fn best_seconds(trials: usize, trial: impl Fn()) -> f64 {
    let seconds = (0..trials).map(|_| {
        let start = Instant::now();
        trial();
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

/// A sum of many chains, so that reading does not wait for adding. In one loop over all chains: in two, one inside the
/// other, the compiler gathers and scatters them at a tenth of the speed.
struct Sum<'a> {
    values: &'a [f32],
}

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) -> f32 {
        let mut sums = [0.0f32; 32];
        let (blocks, rest) = self.values.as_chunks::<32>();
        for block in blocks {
            for (sum, value) in sums.iter_mut().zip(block) {
                *sum += value;
            }
        }
        sums.iter().chain(rest).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Isa;

    #[test]
    fn the_peak_is_one_that_a_processor_can_have() {
        for isa in Isa::supported() {
            let engine = Engine::new(isa, 1).unwrap();
            let peak = fma_peak(&engine);
            // Two operations in each lane of four units at 8 GHz are more than there is.
            let most = 2.0 * engine.arch().lanes() as f64 * 4.0 * 8e9;
            assert!(peak > 1e8 && peak < most, "{isa}: {peak} operations per second");
        }
    }

    #[test]
    fn the_bandwidth_is_one_that_a_memory_can_have() {
        let engine = Engine::new(Isa::detect(), 2).unwrap();
        let bandwidth = bandwidth_of(&engine, 1 << 22);
        assert!(bandwidth > 1e7 && bandwidth < 1e14, "{bandwidth} bytes per second");
    }

    #[test]
    fn every_value_is_read() {
        let values: Vec<f32> = (0..1000).map(|value| value as f32).collect();
        for isa in Isa::supported() {
            let engine = Engine::new(isa, 1).unwrap();
            for len in [0, 1, 7, 127, 128, 129, 1000] {
                let expected: f32 = values[..len].iter().sum();
                let found = engine.kernel(Sum { values: &values[..len] });
                assert!((found - expected).abs() < 0.5, "{isa}, {len} values: {found} is not {expected}");
            }
        }
    }
}
