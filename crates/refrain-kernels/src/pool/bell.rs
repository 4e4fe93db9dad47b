//! How the threads of a team wait for each other: spin, then yield, then sleep.

use std::cell::Cell;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::sync::{AtomicUsize, Condvar, Mutex, Ordering, per_thread, spin_loop, thread};

/// Loom follows every order of the threads, in which two that yield to each other go on for ever: in its models a wait looks
/// once and then sleeps.
const IS_MODEL: bool = cfg!(all(loom, test));
/// Pauses before the first yield: less than a microsecond.
const SPINS: u32 = if IS_MODEL { 1 } else { 64 };
/// How long a thread yields before it sleeps: between the kernels of a training step little else is done.
pub(super) const PATIENCE: Duration = Duration::from_millis(1);
/// What a yield takes that lets a stranger use up a time slice (milliseconds); one for a step of the team is shorter.
const LONG_YIELD: Duration = Duration::from_micros(300);
/// Naps after the first long yield.
const MIN_NAPS: u32 = 16;
/// Naps after many long yields: enough to make the time slice that the next one may cost a trifle.
const MAX_NAPS: u32 = 1024;

/// Where threads wait for what another thread will do.
///
/// Falling asleep and waking up take longer than most waits of a team, so that a thread with a core of its own, or one that
/// shares it with its own team, yields. Next to a stranger on the same core it must not: the scheduler takes each yield for
/// a time slice given away, hundreds of steps long, but lets a thread that wakes up go first. So a yield that took long
/// makes the next waits of its thread naps, which do not yield first: twice as many each time, half as many when the wait
/// after them had quick yields only.
#[derive(Default)]
pub(super) struct Bell {
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    rung: Condvar,
}

impl Bell {
    /// Waits until it is `done`.
    pub(super) fn wait(&self, done: impl Fn() -> bool) {
        for _ in 0..SPINS {
            if done() {
                return;
            }
            spin_loop();
        }
        if IS_MODEL || !NAPS.with(|naps| naps.yield_until(&done)) {
            self.sleep_until(done);
        }
    }

    /// Wakes who sleeps. To be called after every change that a waiting thread looks for.
    pub(super) fn ring(&self) {
        if self.sleepers.fetch_add(0, Ordering::AcqRel) > 0 {
            // A sleeper that has looked in vain holds the lock until it can be woken.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.rung.notify_all();
        }
    }

    fn sleep_until(&self, done: impl Fn() -> bool) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // It counts itself and then looks once more; who rings has changed something and then looks at the count. One of
        // the two comes second and, because both change the count, sees what the first did.
        self.sleepers.fetch_add(1, Ordering::AcqRel);
        while !done() {
            guard = self.rung.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

per_thread! {
    static NAPS: Naps = const { Naps { left: Cell::new(0), granted: Cell::new(0) } };
}

/// Waits of this thread that are to sleep without a yield.
struct Naps {
    left: Cell<u32>,
    /// How many the last wait that yielded led to.
    granted: Cell<u32>,
}

impl Naps {
    /// Yields until it is `done`; false when it is better to sleep.
    fn yield_until(&self, done: impl Fn() -> bool) -> bool {
        if let Some(left) = self.left.get().checked_sub(1) {
            self.left.set(left);
            return false;
        }
        let start = Instant::now();
        let mut before = start;
        let mut is_crowded = false;
        let is_done = loop {
            thread::yield_now();
            let after = Instant::now();
            is_crowded |= after - before >= LONG_YIELD;
            if done() {
                break true;
            }
            if after - start >= PATIENCE {
                break false;
            }
            before = after;
        };
        let granted = self.granted.get();
        let naps = if is_crowded { (2 * granted).clamp(MIN_NAPS, MAX_NAPS) } else { granted / 2 };
        self.granted.set(naps);
        self.left.set(naps);
        is_done
    }
}
