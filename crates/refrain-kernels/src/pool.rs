//! The thread team: persistent threads that run one function together and meet at a barrier.
//!
//! A recurrence meets at a barrier once per time step, every few microseconds. All waits, at the barrier, for the end of a
//! run and for the next one, are the same: see [`Bell`]. The orders of the atomics are checked by the models in `model.rs`.

mod barrier;
mod bell;
#[cfg(all(loom, test))]
mod model;
mod sync;

use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, PoisonError};

use barrier::{Barrier, LeftBarrier};
use bell::Bell;
use sync::thread::{self, JoinHandle};
use sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering, UnsafeCell};

/// Low bits of [`Shared::ticket`] that hold the number of members.
const COUNT_BITS: u32 = 16;

sync::per_thread! {
    /// Set while this thread is a member: a nested run must not wait for the team it belongs to.
    static IS_MEMBER: Cell<bool> = const { Cell::new(false) };
}

/// A function that every member runs, without its lifetime.
type Task = *const (dyn Fn(Member<'_>) + Sync);
type Panic = Box<dyn Any + Send>;

struct Shared {
    /// Number of the run in the high bits, its number of members in the low ones: a worker that is no member must not
    /// look at `task`, which belongs to the next run by then.
    ticket: AtomicU64,
    task: UnsafeCell<Option<Task>>,
    /// Workers that have not finished the run.
    running: AtomicUsize,
    barrier: Barrier,
    panic: Mutex<Option<Panic>>,
    shutdown: AtomicBool,
    /// Rings for a new ticket and for the end of the team.
    started: Bell,
    /// Rings when `running` reaches 0.
    finished: Bell,
}

// SAFETY: `task` is written by the caller of a run before it publishes the ticket (release) and read by members after they
// saw it (acquire); the caller returns only when all members are done. Everything else is `Sync` by itself.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `task` is only followed during a run, while the function it points to lives and is `Sync`.
unsafe impl Send for Shared {}

/// One of the threads that run a function together.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    /// Which member this is, from 0; the caller of [`Team::run`] is member 0.
    pub(crate) index: usize,
    /// How many members there are.
    pub(crate) count: usize,
    barrier: Option<&'a Barrier>,
}

impl Member<'_> {
    /// Waits until all members have called it; what they wrote before is visible after.
    ///
    /// # Panics
    ///
    /// When another member has panicked, so that the run ends.
    pub(crate) fn barrier(&self) {
        if let Some(barrier) = self.barrier {
            barrier.wait(self.count);
        }
    }

    /// This member's contiguous share of `0..total`.
    pub(crate) fn share(&self, total: usize) -> Range<usize> {
        total * self.index / self.count..total * (self.index + 1) / self.count
    }
}

/// Persistent threads that run one function together; the caller is one of them.
pub(crate) struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One run at a time.
    callers: Mutex<()>,
}

impl Team {
    /// A team of `num_threads`, the caller included: it starts one thread less.
    ///
    /// # Errors
    ///
    /// When the system refuses a thread.
    pub(crate) fn new(num_threads: usize) -> std::io::Result<Self> {
        let num_threads = num_threads.clamp(1, (1 << COUNT_BITS) - 1);
        let shared = Arc::new(Shared {
            ticket: AtomicU64::new(0),
            task: UnsafeCell::new(None),
            running: AtomicUsize::new(0),
            barrier: Barrier::default(),
            panic: Mutex::new(None),
            shutdown: AtomicBool::new(false),
            started: Bell::default(),
            finished: Bell::default(),
        });
        let mut team = Self { shared, workers: Vec::new(), callers: Mutex::new(()) };
        for index in 1..num_threads {
            let shared = Arc::clone(&team.shared);
            let worker = thread::Builder::new().name(format!("refrain-{index}")).spawn(move || work(&shared, index))?;
            team.workers.push(worker);
        }
        Ok(team)
    }

    /// Threads of the team, the caller included.
    pub(crate) fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task` once on each of `num_members` members (at least one, at most the team) and returns when all are done.
    ///
    /// Concurrent callers take turns. Called from inside a run it uses the calling thread alone, so `task` must not rely on
    /// a number of members.
    ///
    /// # Panics
    ///
    /// With the panic of a member, after all have ended.
    pub(crate) fn run(&self, num_members: usize, task: impl Fn(Member<'_>) + Sync) {
        let count = num_members.clamp(1, self.num_threads());
        if count == 1 || IS_MEMBER.with(Cell::get) {
            task(Member { index: 0, count: 1, barrier: None });
            return;
        }
        let turn = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let task: &(dyn Fn(Member<'_>) + Sync) = &task;
        shared.barrier.reset();
        shared.running.store(count - 1, Ordering::Relaxed);
        #[expect(clippy::transmute_ptr_to_ptr, reason = "only the lifetime changes, which a cast does not state")]
        // SAFETY: the lifetime ends when this function returns, and it returns only when no member uses the task any more.
        let erased = unsafe { std::mem::transmute::<*const (dyn Fn(Member<'_>) + Sync), Task>(task) };
        // SAFETY: the last run is over and workers read the cell only after the new ticket, so nobody uses it now.
        shared.task.with_mut(|task| unsafe { *task = Some(erased) });
        let run = (shared.ticket.load(Ordering::Relaxed) >> COUNT_BITS) + 1;
        shared.ticket.store(run << COUNT_BITS | count as u64, Ordering::Release);
        shared.started.ring();
        take_part(shared, task, 0, count);
        shared.finished.wait(|| shared.running.load(Ordering::Acquire) == 0);
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::Relaxed);
        self.shared.started.ring();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so it cannot have panicked.
            let _ = worker.join();
        }
    }
}

/// Runs the task as one member and keeps the first panic.
fn take_part(shared: &Shared, task: &(dyn Fn(Member<'_>) + Sync), index: usize, count: usize) {
    IS_MEMBER.with(|is_member| is_member.set(true));
    let member = Member { index, count, barrier: Some(&shared.barrier) };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(member))) {
        if !panic.is::<LeftBarrier>() {
            let mut first = shared.panic.lock().unwrap_or_else(PoisonError::into_inner);
            if first.is_none() {
                *first = Some(panic);
            } else {
                // Dropping what a panic carries may panic again, and nothing here would catch that.
                std::mem::forget(panic);
            }
        }
        shared.barrier.break_up();
    }
    IS_MEMBER.with(|is_member| is_member.set(false));
}

/// The life of a worker.
fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    while let Some(ticket) = next_ticket(shared, seen) {
        seen = ticket;
        let count = (ticket & ((1 << COUNT_BITS) - 1)) as usize;
        if index < count {
            // SAFETY: this worker is a member of the run of this ticket, which was published after the task was set and
            // cannot end, nor the task be replaced, before `running` is decremented below.
            let task = shared.task.with(|task| unsafe { *task }).expect("a run sets its task before its ticket");
            // SAFETY: as above; the function outlives the run.
            take_part(shared, unsafe { &*task }, index, count);
            if shared.running.fetch_sub(1, Ordering::Release) == 1 {
                shared.finished.ring();
            }
        }
    }
}

/// Waits for a ticket other than the one seen; `None` when the team ends.
fn next_ticket(shared: &Shared, seen: u64) -> Option<u64> {
    let ticket = || shared.ticket.load(Ordering::Acquire);
    let is_shutdown = || shared.shutdown.load(Ordering::Relaxed);
    shared.started.wait(|| ticket() != seen || is_shutdown());
    Some(ticket()).filter(|&ticket| ticket != seen)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::shared::SharedSlice;

    #[test]
    fn every_member_runs_once_and_sees_what_was_written_before_the_barrier() {
        let team = Team::new(4).unwrap();
        for count in [1, 2, 3, 4, 9] {
            let marks: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
            team.run(count, |member| {
                for round in 1..50 {
                    marks[member.index].fetch_add(1, Ordering::Relaxed);
                    member.barrier();
                    assert!(marks[..member.count].iter().all(|mark| mark.load(Ordering::Relaxed) == round));
                    member.barrier();
                }
            });
        }
    }

    #[test]
    fn plain_memory_written_before_the_barrier_is_read_after_it() {
        let team = Team::new(3).unwrap();
        let mut values = [0; 3];
        for start in 0..20 {
            let shared = SharedSlice::new(&mut values);
            team.run(3, |member| {
                for round in start..start + 100 {
                    // SAFETY: each member writes its own element, before the barrier.
                    let own = unsafe { shared.part_mut(member.index, 1) };
                    own[0] = round;
                    member.barrier();
                    // SAFETY: nobody writes between the barriers.
                    let all = unsafe { shared.part(0, 3) };
                    assert!(all.iter().all(|&value| value == round));
                    member.barrier();
                }
            });
            assert_eq!(values, [start + 99; 3]);
        }
    }

    #[test]
    fn a_panic_in_any_member_reaches_the_caller_and_the_team_survives() {
        let team = Team::new(3).unwrap();
        for bad in 0..3 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(3, |member| {
                    member.barrier();
                    assert!(member.index != bad, "member {bad} fails");
                    member.barrier();
                });
            }));
            let message = *caught.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(message, format!("member {bad} fails"));
            let runs = AtomicUsize::new(0);
            team.run(3, |member| {
                member.barrier();
                runs.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(runs.into_inner(), 3);
        }
    }

    #[test]
    fn a_nested_run_uses_the_calling_thread() {
        let team = Team::new(3).unwrap();
        let runs = AtomicUsize::new(0);
        team.run(3, |_| {
            team.run(3, |inner| {
                assert_eq!(inner.count, 1);
                inner.barrier();
                runs.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(runs.into_inner(), 3);
    }

    #[test]
    fn concurrent_callers_take_turns() {
        let team = Team::new(3).unwrap();
        let runs = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        team.run(3, |member| {
                            member.barrier();
                            runs.fetch_add(1, Ordering::Relaxed);
                            member.barrier();
                        });
                    }
                });
            }
        });
        assert_eq!(runs.into_inner(), 4 * 50 * 3);
    }

    #[test]
    fn parked_workers_wake_up() {
        let team = Team::new(2).unwrap();
        for _ in 0..3 {
            let runs = AtomicUsize::new(0);
            team.run(2, |_| {
                runs.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(runs.into_inner(), 2);
            thread::sleep(bell::PATIENCE * 10);
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        for total in 0..20 {
            for count in 1..5 {
                let shares: Vec<usize> =
                    (0..count).flat_map(|index| Member { index, count, barrier: None }.share(total)).collect();
                assert_eq!(shares, (0..total).collect::<Vec<_>>());
            }
        }
    }
}
