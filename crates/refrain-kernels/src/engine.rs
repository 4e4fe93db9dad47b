//! What every kernel runs on: an instruction set, a thread team and recycled scratch memory.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use crate::arch::{Arch, Bf16Support, Isa, Kernel};
use crate::pool::{Member, Team};
use crate::prefetch::LINE;
use crate::scratch::{FreeList, Scratch};
use crate::shared::SharedSlice;

/// Floating-point operations that are worth one more thread: a microsecond or two, some times a barrier.
const FLOPS_PER_MEMBER: usize = 200_000;
/// Elements of an element-wise pass that are worth one more thread.
const ELEMENTS_PER_MEMBER: usize = 16 * 1024;

static CURRENT: RwLock<Option<Arc<Engine>>> = RwLock::new(None);

/// Why an [`Engine`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The machine lacks the instruction set.
    #[error("this machine does not have {isa}; it has {}", supported_names())]
    UnsupportedIsa {
        /// The instruction set asked for.
        isa: Isa,
    },
    /// A team needs at least the calling thread.
    #[error("the number of threads must be at least 1")]
    NoThreads,
    /// The system refused to start a thread.
    #[error("cannot start {num_threads} threads")]
    Threads {
        /// The number of threads asked for.
        num_threads: usize,
        /// The system's reason.
        source: std::io::Error,
    },
}

fn supported_names() -> String {
    Isa::supported().iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
}

/// An instruction set, a thread team and recycled scratch memory.
///
/// Results depend on the instruction set but not on the number of threads. Kernels may be called from several threads at
/// once; they take turns.
pub struct Engine {
    arch: Arch,
    team: Team,
    free_list: FreeList,
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Engine")
            .field("isa", &self.isa())
            .field("num_threads", &self.num_threads())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine of `num_threads` threads, the calling one included.
    ///
    /// # Errors
    ///
    /// When the machine lacks the instruction set, `num_threads` is 0, or the system refuses a thread.
    pub fn new(isa: Isa, num_threads: usize) -> Result<Self, EngineError> {
        let arch = Arch::new(isa).ok_or(EngineError::UnsupportedIsa { isa })?;
        if num_threads == 0 {
            return Err(EngineError::NoThreads);
        }
        let team = Team::new(num_threads).map_err(|source| EngineError::Threads { num_threads, source })?;
        Ok(Self { arch, team, free_list: FreeList::default() })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.arch.isa()
    }

    /// How products of bfloat16 factors are computed.
    pub fn bf16_support(&self) -> Bf16Support {
        self.arch.bf16()
    }

    /// Threads in use, the calling one included.
    pub fn num_threads(&self) -> usize {
        self.team.num_threads()
    }

    /// The engine of the process, made on first use: the instruction set of [`Isa::from_environment`] and all processors of
    /// the affinity mask.
    ///
    /// # Panics
    ///
    /// When `REFRAIN_ISA` names what cannot be used.
    pub fn current() -> Arc<Self> {
        if let Some(engine) = &*CURRENT.read().unwrap_or_else(PoisonError::into_inner) {
            return Arc::clone(engine);
        }
        let mut current = CURRENT.write().unwrap_or_else(PoisonError::into_inner);
        let engine = current.get_or_insert_with(|| {
            let num_threads = std::thread::available_parallelism().map_or(1, usize::from);
            let isa = Isa::from_environment().unwrap_or_else(|error| panic!("{error}"));
            let engine = Self::new(isa, num_threads).or_else(|_| Self::new(isa, 1));
            Arc::new(engine.expect("a supported instruction set and one thread are always there"))
        });
        Arc::clone(engine)
    }

    /// Replaces the engine of the process. Who holds the old one keeps using it.
    pub fn set_current(engine: Self) {
        *CURRENT.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(engine));
    }

    pub(crate) fn arch(&self) -> Arch {
        self.arch
    }

    /// Runs a kernel compiled for this engine's instruction set, on the calling thread.
    pub(crate) fn kernel<K: Kernel>(&self, kernel: K) -> K::Output {
        self.arch.run(kernel)
    }

    pub(crate) fn free_list(&self) -> &FreeList {
        &self.free_list
    }

    /// An aligned scratch buffer of `len` floats of any value.
    pub(crate) fn scratch(&self, len: usize) -> Scratch {
        self.free_list.scratch(len)
    }

    /// How many members a stretch of `flops` between two barriers is worth.
    pub(crate) fn members_for_flops(&self, flops: usize) -> usize {
        (flops / FLOPS_PER_MEMBER).clamp(1, self.num_threads())
    }

    pub(crate) fn run(&self, num_members: usize, task: impl Fn(Member<'_>) + Sync) {
        self.team.run(num_members, task);
    }

    /// A buffer of zeros, which all threads write: one alone takes as long as they would for copying.
    pub fn zeros(&self, len: usize) -> Vec<f32> {
        let mut buffer = Vec::with_capacity(len);
        let shared = SharedSlice::new(&mut buffer.spare_capacity_mut()[..len]);
        self.for_ranges(len, LINE, |range| {
            // SAFETY: the ranges of different members are disjoint.
            for element in unsafe { shared.part_mut(range.start, range.len()) } {
                element.write(0.0);
            }
        });
        // SAFETY: the ranges of all members cover all elements.
        unsafe { buffer.set_len(len) };
        buffer
    }

    /// Runs `task` on contiguous ranges that cover `0..len`, cut at multiples of `grain`.
    pub(crate) fn for_ranges(&self, len: usize, grain: usize, task: impl Fn(Range<usize>) + Sync) {
        let grains = len.div_ceil(grain);
        let members = (len / ELEMENTS_PER_MEMBER).clamp(1, self.num_threads());
        self.run(members, |member| {
            let share = member.share(grains);
            task((share.start * grain).min(len)..(share.end * grain).min(len));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn an_engine_needs_a_thread() {
        assert!(matches!(Engine::new(Isa::Portable, 0), Err(EngineError::NoThreads)));
    }

    #[test]
    fn the_current_engine_can_be_replaced() {
        let before = Engine::current();
        Engine::set_current(Engine::new(Isa::Portable, 3).unwrap());
        assert_eq!((Engine::current().isa(), Engine::current().num_threads()), (Isa::Portable, 3));
        assert_ne!(before.num_threads(), 0);
    }

    #[test]
    fn zeros_are_as_many_as_asked_for() {
        let engine = Engine::new(Isa::Portable, 3).unwrap();
        for len in [0, 1, 100_001] {
            assert_eq!(engine.zeros(len), vec![0.0; len]);
        }
    }

    #[test]
    fn ranges_cover_everything_once() {
        let engine = Engine::new(Isa::Portable, 3).unwrap();
        for len in [0, 1, 100_000] {
            let visits: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
            engine.for_ranges(len, 64, |range| {
                for visits in &visits[range] {
                    visits.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(visits.iter().all(|visits| visits.load(Ordering::Relaxed) == 1), "{len}");
        }
    }
}
