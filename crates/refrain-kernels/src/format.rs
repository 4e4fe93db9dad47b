//! In what packed factors are kept: words of 32 bits that hold one f32 term or two neighbouring bfloat16 terms.
//!
//! A block is 16 words of every row or column, one part after the other. A bfloat16 factor has one part; where there are no
//! fast products of it, its terms are kept as f32, rounded, and multiplied at the speed of f32. Where products of
//! bfloat16 are more than six times as fast as those of f32, an f32 factor is split into three parts, `x = x₁ + x₂ + x₃` with
//! each a bfloat16 nearest to what is left: eight bits each, all 24. Of the nine products of two such factors the six that
//! matter are summed in f32; the others are below 2⁻²⁵ of the term, less than what f32 rounds away.

use crate::arch::{Arch, Bf16Support, Isa};

/// In what the factors of products are kept. States, gates, gradients and sums are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 24 bits.
    #[default]
    F32,
    /// bfloat16: 8 bits. Products are summed in f32.
    Bf16,
}

/// Words of a block.
pub(crate) const BLOCK_WORDS: usize = 16;

/// The format of packed factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    Bf16,
    /// bfloat16 terms in words of f32.
    Rounded,
    /// f32 as three parts of bfloat16.
    Split,
}

impl Format {
    /// The format in which an instruction set is fastest at products of packed factors of a precision.
    pub(crate) fn new(arch: Arch, precision: Precision) -> Self {
        match (precision, arch.isa()) {
            (Precision::Bf16, _) if arch.bf16() == Bf16Support::Emulated => Self::Rounded,
            (Precision::Bf16, _) => Self::Bf16,
            (Precision::F32, Isa::Amx) => Self::Split,
            (Precision::F32, _) => Self::F32,
        }
    }

    pub(crate) const fn parts(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::Rounded => 1,
            Self::Split => 3,
        }
    }

    pub(crate) const fn terms_per_word(self) -> usize {
        match self {
            Self::F32 | Self::Rounded => 1,
            Self::Bf16 | Self::Split => 2,
        }
    }

    /// Terms of a block.
    pub(crate) const fn block_terms(self) -> usize {
        BLOCK_WORDS * self.terms_per_word()
    }

    /// Blocks of some terms.
    pub(crate) const fn blocks(self, terms: usize) -> usize {
        terms.div_ceil(self.block_terms())
    }

    /// Words of all parts of a block of so many rows or columns.
    pub(crate) const fn block_len(self, rows: usize) -> usize {
        self.parts() * BLOCK_WORDS * rows
    }
}

/// How terms become the parts of a format. All of it is lane by lane, over arrays, for the compiler to make vectors of.
pub(crate) trait Encode: Sync + 'static {
    const FORMAT: Format;
    const PARTS: usize = Self::FORMAT.parts();
    const TERMS: usize = Self::FORMAT.terms_per_word();

    /// What holds one term of one part.
    type Term: Copy + Default + 'static;

    /// Takes the next part off what is left of a term, and gives its bits.
    fn take(rest: &mut f32) -> u32;

    fn term(bits: u32) -> Self::Term;

    /// The word of two terms that are neighbours; of one term where a word holds one.
    fn word(first: u32, second: u32) -> u32;
}

pub(crate) struct EncodeF32;
pub(crate) struct EncodeBf16;
pub(crate) struct EncodeRounded;
pub(crate) struct EncodeSplit;

/// The two formats of one term a word, which differ in what they keep of it.
macro_rules! encode_f32 {
    ($encode:ty, $format:expr, $bits:expr) => {
        impl Encode for $encode {
            const FORMAT: Format = $format;
            type Term = u32;

            #[inline(always)]
            fn take(rest: &mut f32) -> u32 {
                $bits(*rest)
            }

            #[inline(always)]
            fn term(bits: u32) -> u32 {
                bits
            }

            #[inline(always)]
            fn word(first: u32, _second: u32) -> u32 {
                first
            }
        }
    };
}

encode_f32!(EncodeF32, Format::F32, f32::to_bits);
encode_f32!(EncodeRounded, Format::Rounded, rounded);

/// The two formats of bfloat16, which differ in the number of parts and in what becomes of the greatest floats.
macro_rules! encode_bf16 {
    ($encode:ty, $format:expr, $rounded:ident) => {
        impl Encode for $encode {
            const FORMAT: Format = $format;
            type Term = u16;

            #[inline(always)]
            fn take(rest: &mut f32) -> u32 {
                let bits = $rounded(*rest);
                *rest -= f32::from_bits(bits);
                bits
            }

            #[inline(always)]
            fn term(bits: u32) -> u16 {
                (bits >> 16) as u16
            }

            #[inline(always)]
            fn word(first: u32, second: u32) -> u32 {
                first >> 16 | second
            }
        }
    };
}

encode_bf16!(EncodeBf16, Format::Bf16, rounded);
encode_bf16!(EncodeSplit, Format::Split, near);

/// [`Encode::take`] for an array.
#[inline(always)]
pub(crate) fn take<E: Encode, const N: usize>(rest: &mut [f32; N]) -> [u32; N] {
    let mut bits = [0; N];
    for n in 0..N {
        bits[n] = E::take(&mut rest[n]);
    }
    bits
}

/// The words of two arrays of neighbours, one part after the other to `put(part, words)`.
#[inline(always)]
pub(crate) fn words<E: Encode, const N: usize>(
    mut first: [f32; N],
    mut second: [f32; N],
    mut put: impl FnMut(usize, &[u32; N]),
) {
    for part in 0..E::PARTS {
        let mut words = take::<E, N>(&mut first);
        if E::TERMS == 2 {
            let seconds = take::<E, N>(&mut second);
            for n in 0..N {
                words[n] = E::word(words[n], seconds[n]);
            }
        }
        put(part, &words);
    }
}

/// The bits of the nearest bfloat16, in the upper half; of two equally near ones the even one. NaN stays NaN.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    const QUIET: u32 = 0x0040_0000;
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    (if x.is_nan() { bits | QUIET } else { nearest }) & 0xffff_0000
}

/// A bfloat16 that is no farther than the nearest, and finite if `x` is. What is left has parts of its own, so that of two
/// equally near ones either will do.
#[inline(always)]
fn near(x: f32) -> u32 {
    const HALF: u32 = 0x8000;
    /// From there on the nearest is infinity. NaN and infinity are among them.
    const GREAT: u32 = 0x7f7f_8000;
    let bits = x.to_bits();
    (if bits & 0x7fff_ffff < GREAT { bits + HALF } else { bits }) & 0xffff_0000
}

/// Calls a function that is generic over the encoding of a format.
macro_rules! with_encoding {
    ($format:expr, $encode:ident => $call:expr) => {
        match $format {
            $crate::format::Format::F32 => {
                type $encode = $crate::format::EncodeF32;
                $call
            }
            $crate::format::Format::Bf16 => {
                type $encode = $crate::format::EncodeBf16;
                $call
            }
            $crate::format::Format::Rounded => {
                type $encode = $crate::format::EncodeRounded;
                $call
            }
            $crate::format::Format::Split => {
                type $encode = $crate::format::EncodeSplit;
                $call
            }
        }
    };
}
pub(crate) use with_encoding;

#[cfg(test)]
mod tests {
    use super::*;

    fn bf16(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    fn parts<E: Encode<Term = u16>>(mut x: f32) -> Vec<f32> {
        (0..E::PARTS).map(|_| bf16(E::term(E::take(&mut x)))).collect()
    }

    #[test]
    fn rounding_goes_to_the_nearest_and_to_even() {
        for (x, expected) in
            [(1.0, 0x3f80), (1.0 + 1.0 / 256.0, 0x3f80), (1.0 + 3.0 / 256.0, 0x3f82), (-2.5, 0xc020), (0.0, 0)]
        {
            assert_eq!(parts::<EncodeBf16>(x), [bf16(expected)], "{x}");
            words::<EncodeRounded, 1>([x], [x], |_, words| assert_eq!(*words, [bf16(expected).to_bits()], "{x}"));
        }
        assert!(parts::<EncodeBf16>(f32::NAN)[0].is_nan());
        assert!(parts::<EncodeBf16>(f32::from_bits(0x7f80_0001))[0].is_nan());
        words::<EncodeBf16, 1>([1.0], [-2.5], |_, words| assert_eq!(*words, [0xc020_3f80]));
    }

    #[test]
    fn three_parts_are_the_whole() {
        for i in 0..20_000u32 {
            let x = f32::from_bits(0x3000_0000 + i.wrapping_mul(0x9e37_79b9) % 0x1fff_ffff);
            let x = if i == 0 { f32::MAX } else { x };
            let parts = parts::<EncodeSplit>(x);
            assert_eq!((parts[0] + (parts[1] + parts[2])).to_bits(), x.to_bits(), "{x} = {parts:?}");
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for x in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            assert!(!parts::<EncodeSplit>(x).iter().sum::<f32>().is_finite());
        }
    }
}
