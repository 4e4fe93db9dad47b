//! Instruction sets, and the one way to run code compiled for one of them.
//!
//! Element-wise code is written once over plain arrays (see `Kernel`) and instantiated inside one `#[target_feature]` wrapper per
//! instruction set. Adding an instruction set is one file beside these, its arms here (lanes, rows of a tile), and the vectors
//! of its sums in `tile::dot` with their arms in `tile`.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::{Parts, multiply as amx_multiply};

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512 with the tile registers of AMX: products of bfloat16, of which f32 factors are three each.
    Amx,
    /// AVX-512 F, BW, DQ and VL: 16 lanes; bfloat16 by its instruction where there is one.
    Avx512,
    /// AVX2 with FMA: 8 lanes.
    Avx2,
    /// Whatever the target always has, without fused multiply-add.
    Portable,
}

/// A name that is no instruction set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set `{name}`; one of amx, avx512, avx2, portable is expected")]
pub struct ParseIsaError {
    name: String,
}

/// `REFRAIN_ISA` names what cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentIsaError {
    /// It is no instruction set.
    #[error("REFRAIN_ISA: {0}")]
    Unknown(#[from] ParseIsaError),
    /// The machine lacks it.
    #[error("REFRAIN_ISA: this machine does not have {isa}")]
    Unsupported {
        /// The instruction set.
        isa: Isa,
    },
}

impl Isa {
    /// All instruction sets, best first.
    const ALL: [Self; 4] = [Self::Amx, Self::Avx512, Self::Avx2, Self::Portable];

    /// The best instruction set that this machine can run.
    pub fn detect() -> Self {
        Self::ALL.into_iter().find(|isa| isa.is_supported()).unwrap_or(Self::Portable)
    }

    /// The instruction set named by the environment variable `REFRAIN_ISA`, by which tests and users choose one for a whole
    /// process; the best one where it is not set.
    ///
    /// # Errors
    ///
    /// When it names no instruction set, or one that this machine lacks.
    pub fn from_environment() -> Result<Self, EnvironmentIsaError> {
        let Ok(name) = std::env::var("REFRAIN_ISA") else { return Ok(Self::detect()) };
        let isa: Self = name.parse()?;
        if isa.is_supported() { Ok(isa) } else { Err(EnvironmentIsaError::Unsupported { isa }) }
    }

    /// The instruction sets that this machine can run, best first.
    pub fn supported() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_supported()).collect()
    }

    /// Whether this machine can run the instruction set.
    pub fn is_supported(self) -> bool {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
            Self::Amx => Self::Avx512.is_supported() && amx::is_allowed(),
            #[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
            Self::Amx => false,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// The name used on the command line: `amx`, `avx512`, `avx2` or `portable`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = ParseIsaError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| ParseIsaError { name: name.to_owned() })
    }
}

/// How `a * b + c` is rounded.
pub(crate) trait MulAdd: 'static {
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// One rounding, where the instruction exists.
pub(crate) struct Fused;

/// Two roundings: without the instruction `f32::mul_add` is a library call.
pub(crate) struct Separate;

impl MulAdd for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl MulAdd for Separate {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// Code to be compiled for an instruction set. `run` must be `#[inline(always)]`, and so must all it calls in hot loops.
pub(crate) trait Kernel {
    type Output;

    /// `W` lanes of a vector.
    fn run<const W: usize, O: MulAdd>(self) -> Self::Output;
}

/// How bfloat16 products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Support {
    /// By the tile registers.
    Amx,
    /// By the AVX-512 instruction.
    Avx512,
    /// By f32 instructions, of rounded factors: no faster than f32, but for steps of few sequences.
    Emulated,
}

/// An instruction set that was found on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arch {
    isa: Isa,
    bf16: Bf16Support,
    has_vnni: bool,
}

impl Arch {
    pub(crate) fn new(isa: Isa) -> Option<Self> {
        let bf16 = match isa {
            Isa::Amx => Bf16Support::Amx,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if avx512::has_fast_bf16() => Bf16Support::Avx512,
            _ => Bf16Support::Emulated,
        };
        let has_vnni = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512 => is_x86_feature_detected!("avx512vnni"),
            _ => false,
        };
        isa.is_supported().then_some(Self { isa, bf16, has_vnni })
    }

    /// AVX-512 with either way of computing bfloat16 products, where the machine has both, be they fast or not.
    #[cfg(all(test, target_arch = "x86_64"))]
    pub(crate) fn both_ways_of_bf16() -> Option<[Self; 2]> {
        let arch = Self::new(Isa::Avx512).filter(|_| is_x86_feature_detected!("avx512bf16"))?;
        Some([Bf16Support::Avx512, Bf16Support::Emulated].map(|bf16| Self { bf16, ..arch }))
    }

    pub(crate) fn isa(self) -> Isa {
        self.isa
    }

    pub(crate) fn bf16(self) -> Bf16Support {
        self.bf16
    }

    /// Whether it comes with AVX-512's instruction for products of bytes.
    pub(crate) fn has_vnni(self) -> bool {
        self.has_vnni
    }

    /// Lanes of a vector.
    pub(crate) fn lanes(self) -> usize {
        match self.isa {
            Isa::Amx | Isa::Avx512 => 16,
            Isa::Avx2 | Isa::Portable => 8,
        }
    }

    /// Rows of a tile whose columns fill `vectors` vectors.
    ///
    /// As many sums as the registers hold beside one row of the right factor and one element of the left. A tall tile reads
    /// its panel less often than a wide one, and the panels of a recurrence often come from the third cache.
    pub(crate) fn rows(self, vectors: usize) -> usize {
        match (self.isa, vectors) {
            (Isa::Amx, _) => 32,
            (Isa::Avx512, 2) => 12,
            (Isa::Avx512, _) => 8,
            (Isa::Avx2, 2) => 6,
            (Isa::Avx2 | Isa::Portable, _) => 4,
        }
    }

    /// Runs the kernel compiled for this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Arch::new` is the only constructor and has found these features on this machine.
            Isa::Amx | Isa::Avx512 => unsafe { avx512::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { avx2::run(kernel) },
            _ => portable::run(kernel),
        }
    }

    /// Runs the kernel compiled for AVX-512 with its bfloat16 instruction, which this arch must have.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn run_bf16<K: Kernel>(self, kernel: K) -> K::Output {
        assert!(self.bf16 == Bf16Support::Avx512, "no bfloat16 instruction");
        // SAFETY: `Arch::new` is the only constructor and has found the features of AVX-512 and this one.
        unsafe { avx512::run_bf16(kernel) }
    }

    /// Runs the kernel compiled for AVX-512 with its instruction for products of bytes, which this arch must have.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn run_vnni<K: Kernel>(self, kernel: K) -> K::Output {
        assert!(self.has_vnni, "no instruction for products of bytes");
        // SAFETY: `Arch::new` has found the features of AVX-512 and this one.
        unsafe { avx512::run_vnni(kernel) }
    }

    /// Readies the calling thread for tiles, until what comes back is dropped: of these there must be one a thread at a time.
    pub(crate) fn tiles(self) -> Tiles {
        #[cfg(target_arch = "x86_64")]
        if self.isa == Isa::Amx {
            // SAFETY: `Arch::new` has found that the processor has tile registers and the system allows their use.
            unsafe { amx::configure() };
        }
        Tiles { arch: self, this_thread: PhantomData }
    }
}

/// A thread that may compute tiles: where tile registers are used they are configured.
pub(crate) struct Tiles {
    arch: Arch,
    /// The configuration is the thread's.
    this_thread: PhantomData<*const ()>,
}

impl Tiles {
    pub(crate) fn arch(&self) -> Arch {
        self.arch
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.arch.isa == Isa::Amx {
            // SAFETY: as for their configuration. Nothing lives in the tile registers between two tiles.
            unsafe { amx::release() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lanes that a kernel is compiled for.
    struct Lanes;

    impl Kernel for Lanes {
        type Output = usize;

        #[inline(always)]
        fn run<const W: usize, O: MulAdd>(self) -> usize {
            W
        }
    }

    /// Kernels derive the size of panels from the one, plans from the other.
    #[test]
    fn kernels_run_with_the_lanes_of_their_instruction_set() {
        for isa in Isa::supported() {
            let arch = Arch::new(isa).unwrap();
            assert_eq!(arch.run(Lanes), arch.lanes(), "{isa}");
        }
    }

    #[test]
    fn names_round_trip() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert!("sse9".parse::<Isa>().is_err());
    }

    #[test]
    fn the_detected_set_is_the_first_supported_one() {
        assert_eq!(Some(&Isa::detect()), Isa::supported().first());
        assert!(Isa::supported().contains(&Isa::Portable));
    }
}
