//! A barrier for threads that meet every few microseconds.

use std::panic::resume_unwind;

use super::bell::Bell;
use super::sync::{AtomicBool, AtomicUsize, Ordering};

/// What a member panics with that leaves a barrier only because another one had panicked.
pub(super) struct LeftBarrier;

#[derive(Default)]
pub(super) struct Barrier {
    arrived: AtomicUsize,
    generation: AtomicUsize,
    /// A member has panicked and will never arrive.
    broken: AtomicBool,
    bell: Bell,
}

impl Barrier {
    /// Makes it fit for a new run, which begins when no member of the last one is left.
    pub(super) fn reset(&self) {
        self.arrived.store(0, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
    }

    /// Waits until `count` threads have called it; what they wrote before is visible after.
    ///
    /// # Panics
    ///
    /// With [`LeftBarrier`] when it breaks.
    pub(super) fn wait(&self, count: usize) {
        // It cannot change before this thread has arrived, and the last change happened before this call.
        let generation = self.generation.load(Ordering::Relaxed);
        // Release: what this thread wrote goes to the last one. Acquire: the last one passes on what all others wrote.
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == count {
            self.arrived.store(0, Ordering::Relaxed);
            self.generation.store(generation.wrapping_add(1), Ordering::Release);
            self.bell.ring();
            return;
        }
        let is_over = || self.generation.load(Ordering::Acquire) != generation;
        self.bell.wait(|| is_over() || self.broken.load(Ordering::Relaxed));
        if !is_over() {
            resume_unwind(Box::new(LeftBarrier));
        }
    }

    /// Sends away all who wait and will wait: somebody will never arrive.
    pub(super) fn break_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
        self.bell.ring();
    }
}
