//! Loom models of the team: every order in which its threads can take turns, every value that their atomics may read.
//!
//! Built and run by `.ci/sanitize`.

use loom::cell::UnsafeCell;
use loom::model::Builder;

use super::*;

/// Checks all executions with at most so many switches away from a thread that could have gone on. Most mistakes show with
/// two; each model has as many as it can in a few seconds.
fn check(max_preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(max_preemptions);
    builder.check(model);
}

/// Plain memory that the members share: loom fails a model that reads and writes it without an order.
struct Cells(Vec<UnsafeCell<usize>>);

// SAFETY: a model is there to show that the accesses are ordered; loom stops it where they are not.
unsafe impl Sync for Cells {}
// SAFETY: as above.
unsafe impl Send for Cells {}

impl Cells {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| UnsafeCell::new(0)).collect())
    }

    fn set(&self, index: usize, value: usize) {
        // SAFETY: loom has checked that nobody else has access.
        self.0[index].with_mut(|cell| unsafe { *cell = value });
    }

    fn get(&self, index: usize) -> usize {
        // SAFETY: loom has checked that nobody writes.
        self.0[index].with(|cell| unsafe { *cell })
    }
}

/// Each member writes its cell, meets the others, reads all cells and meets them again, `rounds` times.
fn meet(barrier: &Barrier, cells: &Cells, index: usize, count: usize, rounds: usize) {
    for round in 1..=rounds {
        cells.set(index, round);
        barrier.wait(count);
        for other in 0..count {
            assert_eq!(cells.get(other), round);
        }
        barrier.wait(count);
    }
}

fn model_of_meetings(max_preemptions: usize, count: usize, rounds: usize) {
    check(max_preemptions, move || {
        let shared = Arc::new((Barrier::default(), Cells::new(count)));
        let others: Vec<_> = (1..count)
            .map(|index| {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || meet(&shared.0, &shared.1, index, count, rounds))
            })
            .collect();
        meet(&shared.0, &shared.1, 0, count, rounds);
        for other in others {
            other.join().expect("a failed model has ended before");
        }
    });
}

#[test]
fn two_threads_at_a_barrier_see_what_the_other_wrote() {
    model_of_meetings(4, 2, 2);
}

#[test]
fn three_threads_at_a_barrier_see_what_the_others_wrote() {
    model_of_meetings(2, 3, 1);
}

#[test]
fn a_run_orders_its_members_after_the_last_one_and_before_the_next() {
    check(4, || {
        let team = Team::new(2).unwrap();
        let cells = Cells::new(2);
        for run in 1..=2 {
            team.run(2, |member| {
                cells.set(member.index, run);
                member.barrier();
                assert_eq!(cells.get(1 - member.index), run);
            });
            // The caller may use what the members used.
            cells.set(0, 0);
            cells.set(1, 0);
        }
    });
}

#[test]
fn a_worker_that_is_no_member_stays_away_from_the_task() {
    check(2, || {
        let team = Team::new(3).unwrap();
        let cells = Cells::new(3);
        for count in [2, 3] {
            team.run(count, |member| cells.set(member.index, count));
            assert_eq!(cells.get(1), count);
        }
    });
}

#[test]
fn a_panic_sends_the_members_home() {
    check(3, || {
        let team = Team::new(2).unwrap();
        for bad in 0..2 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(2, |member| {
                    if member.index == bad {
                        resume_unwind(Box::new(bad));
                    }
                    member.barrier();
                });
            }));
            assert_eq!(*caught.unwrap_err().downcast::<usize>().unwrap(), bad);
        }
    });
}
