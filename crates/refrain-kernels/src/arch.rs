//! Instruction sets, and the one way to run code compiled for one of them.
//!
//! A micro-kernel is written once over plain arrays (see `Kernel`) and instantiated inside one `#[target_feature]`
//! wrapper per instruction set. Adding an instruction set is one file beside these and one arm in `Arch::run`.

use std::fmt;
use std::str::FromStr;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512 F, BW, DQ and VL: 16 lanes, tiles of 12×32.
    Avx512,
    /// AVX2 with FMA: 8 lanes, tiles of 6×16.
    Avx2,
    /// Whatever the target always has, without fused multiply-add: tiles of 3×16.
    Portable,
}

/// A name that is no instruction set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set `{name}`; one of avx512, avx2, portable is expected")]
pub struct ParseIsaError {
    name: String,
}

impl Isa {
    /// All instruction sets, best first.
    const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// The best instruction set that this machine can run.
    pub fn detect() -> Self {
        Self::ALL.into_iter().find(|isa| isa.is_supported()).unwrap_or(Self::Portable)
    }

    /// The instruction sets that this machine can run, best first.
    pub fn supported() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_supported()).collect()
    }

    /// Whether this machine can run the instruction set.
    pub fn is_supported(self) -> bool {
        match self {
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

    /// The name used on the command line: `avx512`, `avx2` or `portable`.
    pub fn name(self) -> &'static str {
        match self {
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

/// The most rows that a tile has on any instruction set.
pub(crate) const MAX_ROWS: usize = 12;
/// The most columns that a tile has on any instruction set.
pub(crate) const MAX_WIDTH: usize = 32;

/// Code to be compiled for an instruction set. `run` must be `#[inline(always)]`, and so must all it calls in hot loops.
pub(crate) trait Kernel {
    type Output;

    /// `W` lanes of a vector; a tile is `M` rows of `V` vectors; a tile of four gates holds `U = V * W / 4` units.
    fn run<const W: usize, const V: usize, const M: usize, const U: usize, O: MulAdd>(self) -> Self::Output;
}

/// An instruction set that was found on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arch {
    isa: Isa,
}

impl Arch {
    pub(crate) fn new(isa: Isa) -> Option<Self> {
        isa.is_supported().then_some(Self { isa })
    }

    pub(crate) fn isa(self) -> Isa {
        self.isa
    }

    /// Lanes of a vector.
    pub(crate) fn lanes(self) -> usize {
        match self.isa {
            Isa::Avx512 => 16,
            Isa::Avx2 => 8,
            Isa::Portable => 4,
        }
    }

    /// Rows of a tile.
    pub(crate) fn rows(self) -> usize {
        match self.isa {
            Isa::Avx512 => 12,
            Isa::Avx2 => 6,
            Isa::Portable => 3,
        }
    }

    /// Columns of a tile.
    pub(crate) fn width(self) -> usize {
        match self.isa {
            Isa::Avx512 => 32,
            Isa::Avx2 | Isa::Portable => 16,
        }
    }

    /// Runs the kernel compiled for this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Arch::new` is the only constructor and has found these features on this machine.
            Isa::Avx512 => unsafe { avx512::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { avx2::run(kernel) },
            _ => portable::run(kernel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
