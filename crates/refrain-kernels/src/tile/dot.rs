//! Vectors of sums, and how the terms of a word are multiplied and added to them.
//!
//! Elsewhere plain arrays serve, of which the compiler makes vectors; of these sums it makes gathers and scatters across the
//! rows of some tiles, at a tenth of the speed.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, __m512bh, _mm256_and_ps, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm512_and_si512,
    _mm512_castps_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps,
};

/// The upper one of two bfloat16 terms, as f32.
const HIGH: u32 = 0xffff_0000;

/// A vector of an instruction set, with its products of a format.
pub(super) trait Dot {
    const LANES: usize;
    type Vector: Copy;

    fn zero() -> Self::Vector;

    /// # Safety
    ///
    /// `from` must be readable for a vector, and the instructions be there.
    unsafe fn load(from: *const u32) -> Self::Vector;

    /// A word in every lane.
    ///
    /// # Safety
    ///
    /// The instructions must be there.
    unsafe fn splat(word: u32) -> Self::Vector;

    /// # Safety
    ///
    /// As [`Dot::splat`].
    unsafe fn dot(left: Self::Vector, right: Self::Vector, sum: Self::Vector) -> Self::Vector;

    /// # Safety
    ///
    /// `to` must be writable for a vector, and the instructions be there.
    unsafe fn store(sum: Self::Vector, to: *mut f32);
}

/// The vectors of an instruction set of x86.
#[cfg(target_arch = "x86_64")]
macro_rules! x86_dot {
    ($(#[$doc:meta])* $dot:ident, $lanes:literal, $vector:ident, $load:ident, $splat:ident, $store:ident, $product:expr) => {
        $(#[$doc])*
        pub(super) struct $dot;

        impl Dot for $dot {
            const LANES: usize = $lanes;
            type Vector = $vector;

            #[inline(always)]
            fn zero() -> $vector {
                // SAFETY: all bits zero are a vector.
                unsafe { std::mem::zeroed() }
            }

            #[inline(always)]
            unsafe fn load(from: *const u32) -> $vector {
                // SAFETY: by contract.
                unsafe { $load(from.cast()) }
            }

            #[inline(always)]
            unsafe fn splat(word: u32) -> $vector {
                // SAFETY: by contract.
                unsafe { $splat(f32::from_bits(word)) }
            }

            #[inline(always)]
            unsafe fn dot(left: $vector, right: $vector, sum: $vector) -> $vector {
                // SAFETY: by contract.
                unsafe { $product(left, right, sum) }
            }

            #[inline(always)]
            unsafe fn store(sum: $vector, to: *mut f32) {
                // SAFETY: by contract.
                unsafe { $store(to, sum) };
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86_dot!(Avx512F32, 16, __m512, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps, _mm512_fmadd_ps);

#[cfg(target_arch = "x86_64")]
x86_dot!(
    /// By the bfloat16 instruction.
    Avx512Bf16, 16, __m512, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    |left: __m512, right: __m512, sum: __m512| {
        let terms = |words| std::mem::transmute::<__m512, __m512bh>(words);
        _mm512_dpbf16_ps(sum, terms(left), terms(right))
    }
);

#[cfg(target_arch = "x86_64")]
x86_dot!(
    /// bfloat16 by f32 instructions.
    Avx512Emulated, 16, __m512, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    |left: __m512, right: __m512, sum: __m512| {
        let low = |words| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(words)));
        let mask = _mm512_set1_epi32(HIGH.cast_signed());
        let high = |words| _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(words), mask));
        _mm512_fmadd_ps(high(left), high(right), _mm512_fmadd_ps(low(left), low(right), sum))
    }
);

#[cfg(target_arch = "x86_64")]
x86_dot!(Avx2F32, 8, __m256, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm256_fmadd_ps);

#[cfg(target_arch = "x86_64")]
x86_dot!(
    /// bfloat16 by f32 instructions.
    Avx2Emulated, 8, __m256, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps,
    |left: __m256, right: __m256, sum: __m256| {
        let low = |words| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(words)));
        let mask = _mm256_castsi256_ps(_mm256_set1_epi32(HIGH.cast_signed()));
        let high = |words| _mm256_and_ps(words, mask);
        _mm256_fmadd_ps(high(left), high(right), _mm256_fmadd_ps(low(left), low(right), sum))
    }
);

/// Lanes of the plain arrays: two vectors of SSE2, NEON or WASM.
const PORTABLE_LANES: usize = 8;

/// Plain arrays, without fused multiply-add.
macro_rules! portable_dot {
    ($(#[$doc:meta])* $dot:ident, |$left:ident, $right:ident, $sum:ident| $product:expr) => {
        $(#[$doc])*
        pub(super) struct $dot;

        impl Dot for $dot {
            const LANES: usize = PORTABLE_LANES;
            type Vector = [f32; PORTABLE_LANES];

            #[inline(always)]
            fn zero() -> Self::Vector {
                [0.0; PORTABLE_LANES]
            }

            #[inline(always)]
            unsafe fn load(from: *const u32) -> Self::Vector {
                // SAFETY: by contract.
                unsafe { from.cast::<Self::Vector>().read() }
            }

            #[inline(always)]
            unsafe fn splat(word: u32) -> Self::Vector {
                [f32::from_bits(word); PORTABLE_LANES]
            }

            #[inline(always)]
            unsafe fn dot(left: Self::Vector, right: Self::Vector, mut sum: Self::Vector) -> Self::Vector {
                for lane in 0..PORTABLE_LANES {
                    let ($left, $right, $sum) = (left[lane], right[lane], sum[lane]);
                    sum[lane] = $product;
                }
                sum
            }

            #[inline(always)]
            unsafe fn store(sum: Self::Vector, to: *mut f32) {
                // SAFETY: by contract.
                unsafe { to.cast::<Self::Vector>().write(sum) };
            }
        }
    };
}

portable_dot!(PortableF32, |left, right, sum| left * right + sum);

portable_dot!(
    /// bfloat16 by f32 instructions.
    PortableEmulated,
    |left, right, sum| {
        let low = |word: f32| f32::from_bits(word.to_bits() << 16);
        let high = |word: f32| f32::from_bits(word.to_bits() & HIGH);
        high(left) * high(right) + (low(left) * low(right) + sum)
    }
);
