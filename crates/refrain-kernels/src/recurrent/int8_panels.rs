//! Products of weights in eight bits with vectors in sixteen.
//!
//! A vector is rounded to multiples of a step of its own, of which its greatest magnitude is 32,767. Multiples of two steps
//! multiply to integers, which add up exactly: in any order, on any processor, alone and beside others to the same sum.

use super::int8::Int8Matrix;
#[cfg(target_arch = "x86_64")]
use crate::arch::Isa;
use crate::arch::{Kernel, MulAdd};
use crate::engine::Engine;
use crate::shared::SharedSlice;

/// Rows of a panel.
pub(super) const ROWS: usize = 16;
/// Terms of a word, which one instruction multiplies and adds up for each row.
const TERMS: usize = 4;
/// The most vectors of a pass over a panel.
pub(super) const VECTORS: usize = 4;
/// The greatest multiple of a vector's step.
const MOST: f32 = 32_767.0;
/// What is added to multiples so that none is negative.
const OFFSET: u32 = 1 << 15;
/// Words whose sums of halves, 255 · 127 for each term, 32 bits hold.
const HALF_WORDS: usize = 65_536 / TERMS;
/// Words whose sums of whole multiples, 32,767 · 127 for each term, 32 bits hold.
const WHOLE_WORDS: usize = 512 / TERMS;

/// Terms of a panel's rows, row by row.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Word([i8; ROWS * TERMS]);

/// A matrix in panels of rows; those of a gate begin with a panel.
#[derive(Clone, Debug)]
pub(super) struct Int8Panels {
    /// Panels of a gate.
    per_gate: usize,
    /// Words of a panel.
    num_words: usize,
    words: Vec<Word>,
    /// The step of each row, and the sum of its multiples.
    rows: Vec<[(f32, i32); ROWS]>,
}

impl Int8Panels {
    /// The panels of a matrix whose rows are those of some gates.
    pub(super) fn new(matrix: &Int8Matrix, gates: usize) -> Self {
        let cols = matrix.multiples().len().checked_div(matrix.steps().len()).unwrap_or(0);
        let units = matrix.steps().len().checked_div(gates).unwrap_or(0);
        let (per_gate, num_words) = (units.div_ceil(ROWS), cols.div_ceil(TERMS));
        let mut words = vec![Word([0; ROWS * TERMS]); gates * per_gate * num_words];
        let mut rows = vec![[(0.0, 0); ROWS]; gates * per_gate];
        for (row, &step) in matrix.steps().iter().enumerate() {
            let multiples = &matrix.multiples()[row * cols..][..cols];
            let (panel, row) = (row / units * per_gate + row % units / ROWS, row % units % ROWS);
            rows[panel][row] = (step, multiples.iter().map(|&multiple| i32::from(multiple)).sum());
            for (multiples, word) in multiples.chunks(TERMS).zip(&mut words[panel * num_words..]) {
                word.0[row * TERMS..][..multiples.len()].copy_from_slice(multiples);
            }
        }
        Self { per_gate, num_words, words, rows }
    }

    /// The products of up to [`VECTORS`] vectors from `first` on with a panel of a gate.
    pub(super) fn dots(
        &self,
        engine: &Engine,
        vectors: &Rounded,
        first: usize,
        (gate, panel): (usize, usize),
    ) -> [[f32; ROWS]; VECTORS] {
        let panel = gate * self.per_gate + panel;
        let product = PanelProduct {
            words: &self.words[panel * self.num_words..][..self.num_words],
            rows: &self.rows[panel],
            vectors: vectors.words.get(first * self.num_words..).unwrap_or(&[]),
            steps: &vectors.steps[first..vectors.steps.len().min(first + VECTORS)],
        };
        #[cfg(target_arch = "x86_64")]
        match engine.isa() {
            _ if engine.arch().has_vnni() => return engine.arch().run_vnni(ByHalves(product)),
            Isa::Portable => {}
            // All others come with AVX2.
            _ => return engine.kernel(ByPairs(product)),
        }
        engine.kernel(product)
    }

    /// As [`StepMatrix::product`](super::StepMatrix::product), of a matrix of one gate.
    pub(super) fn product(&self, engine: &Engine, vectors: &[f32], bias: &[f32], out: &mut [f32]) {
        let (num_rows, count) = (bias.len(), out.len() / bias.len());
        let cols = vectors.len() / count;
        let vectors = Rounded::new(engine, vectors, count);
        let out = SharedSlice::new(out);
        engine.run(engine.members_for_flops(2 * count * num_rows * cols.max(1)), |member| {
            for panel in member.share(self.per_gate) {
                let start = panel * ROWS;
                let rows = start..(start + ROWS).min(num_rows);
                for first in (0..count).step_by(VECTORS) {
                    let dots = self.dots(engine, &vectors, first, (0, panel));
                    for (vector, dots) in (first..count).zip(dots) {
                        // SAFETY: each panel belongs to one member.
                        let out = unsafe { out.part_mut(vector * num_rows + start, rows.len()) };
                        for ((out, dot), bias) in out.iter_mut().zip(dots).zip(&bias[rows.clone()]) {
                            *out = dot + bias;
                        }
                    }
                }
            }
        });
    }
}

/// Vectors in sixteen bits.
#[derive(Debug)]
pub(super) struct Rounded {
    /// By vector, four terms each: their multiples or, for the instruction for products of bytes, the upper halves of the
    /// multiples plus [`OFFSET`], then the lower ones.
    words: Vec<u64>,
    /// The step of each vector.
    steps: Vec<f32>,
}

impl Rounded {
    /// `count` vectors, one after the other.
    pub(super) fn new(engine: &Engine, vectors: &[f32], count: usize) -> Self {
        /// Adding it rounds to an integer, which is left in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let in_halves = engine.arch().has_vnni();
        let len = vectors.len().checked_div(count).unwrap_or(0);
        let mut words = Vec::with_capacity(count * len.div_ceil(TERMS));
        let steps = (0..count).map(|vector| {
            let vector = &vectors[vector * len..][..len];
            // What is not a number stays so, in the step.
            let greater = |most: f32, x: &f32| if most.is_nan() || x.abs() <= most { most } else { x.abs() };
            let greatest = vector.iter().fold(0.0, greater);
            // What has no inverse is as good as zero, and of what is not finite the step tells.
            let inverse = MOST / greatest;
            let inverse = if greatest.is_finite() && inverse.is_finite() { inverse } else { 0.0 };
            words.extend(vector.chunks(TERMS).map(|terms| {
                let (mut word, shift) = (0, if in_halves { 8 } else { 16 });
                for (t, term) in terms.iter().enumerate() {
                    let multiple = (term * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits());
                    let multiple = u64::from(multiple.wrapping_add(if in_halves { OFFSET } else { 0 }) & 0xffff);
                    word |= if in_halves { multiple >> 8 | (multiple & 0xff) << 32 } else { multiple } << (t * shift);
                }
                word
            }));
            if greatest.is_finite() { greatest / MOST } else { f32::NAN }
        });
        let steps = steps.collect();
        Self { words, steps }
    }
}

/// The products of some vectors with a panel: in whole multiples, for any instruction set.
struct PanelProduct<'a> {
    words: &'a [Word],
    rows: &'a [(f32, i32); ROWS],
    /// By vector.
    vectors: &'a [u64],
    steps: &'a [f32],
}

impl PanelProduct<'_> {
    /// `N` vectors from `first` on.
    #[inline(always)]
    fn vectors<const N: usize>(&self, first: usize) -> [&[u64]; N] {
        let num_words = self.words.len();
        std::array::from_fn(|n| &self.vectors[(first + n) * num_words..][..num_words])
    }

    /// The products that the sums of multiples of a vector stand for.
    #[inline(always)]
    fn scaled(&self, totals: [i64; ROWS], vector: usize) -> [f32; ROWS] {
        let mut dots = [0.0; ROWS];
        for r in 0..ROWS {
            dots[r] = totals[r] as f32 * (self.rows[r].0 * self.steps[vector]);
        }
        dots
    }
}

impl Kernel for PanelProduct<'_> {
    type Output = [[f32; ROWS]; VECTORS];

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) -> Self::Output {
        let mut dots = [[0.0; ROWS]; VECTORS];
        for (vector, dots) in dots.iter_mut().enumerate().take(self.steps.len()) {
            let [words] = self.vectors::<1>(vector);
            let mut totals = [0i64; ROWS];
            for (panel, words) in self.words.chunks(WHOLE_WORDS).zip(words.chunks(WHOLE_WORDS)) {
                let mut sums = [0i32; ROWS];
                for (rows, word) in panel.iter().zip(words) {
                    let terms = word.to_le_bytes();
                    let terms = [0, 2, 4, 6].map(|t| i32::from(i16::from_le_bytes([terms[t], terms[t + 1]])));
                    for (sum, row) in sums.iter_mut().zip(rows.0.as_chunks::<TERMS>().0) {
                        for (multiple, term) in row.iter().zip(terms) {
                            *sum += i32::from(*multiple) * term;
                        }
                    }
                }
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total += i64::from(sum);
                }
            }
            *dots = self.scaled(totals, vector);
        }
        dots
    }
}

/// The same by AVX2's instruction for pairs of sixteen bits.
#[cfg(target_arch = "x86_64")]
struct ByPairs<'a>(PanelProduct<'a>);

#[cfg(target_arch = "x86_64")]
impl Kernel for ByPairs<'_> {
    type Output = [[f32; ROWS]; VECTORS];

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) -> Self::Output {
        let Self(product) = self;
        let mut dots = [[0.0; ROWS]; VECTORS];
        // Eight sums and a word of either side fit in 16 registers.
        for (first, dots) in (0..product.steps.len()).step_by(2).zip(dots.chunks_mut(2)) {
            // SAFETY: only chosen for instruction sets that come with AVX2.
            unsafe {
                match product.steps.len() - first {
                    1 => dots[..1].copy_from_slice(&by_pairs::<1>(&product, first)),
                    _ => dots.copy_from_slice(&by_pairs::<2>(&product, first)),
                }
            }
        }
        dots
    }
}

/// # Safety
///
/// The processor must have AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn by_pairs<const N: usize>(product: &PanelProduct, first: usize) -> [[f32; ROWS]; N] {
    use std::arch::x86_64::{
        __m256i, _mm_load_si128, _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_madd_epi16, _mm256_set1_epi64x,
        _mm256_setzero_si256, _mm256_storeu_si256,
    };
    let vectors = product.vectors::<N>(first);
    let mut totals = [[0i64; ROWS]; N];
    for start in (0..product.words.len()).step_by(WHOLE_WORDS) {
        let range = start..(start + WHOLE_WORDS).min(product.words.len());
        // SAFETY: by contract; the quarters of a word are aligned vectors, as are the pairs of sums in size.
        unsafe {
            let mut sums: [[__m256i; 4]; N] = [[_mm256_setzero_si256(); 4]; N];
            for index in range {
                let word = &product.words[index].0;
                for quarter in 0..4 {
                    let rows = _mm256_cvtepi8_epi16(_mm_load_si128(word[quarter * 16..].as_ptr().cast()));
                    for (sums, vector) in sums.iter_mut().zip(vectors) {
                        let terms = _mm256_set1_epi64x(vector[index] as i64);
                        sums[quarter] = _mm256_add_epi32(sums[quarter], _mm256_madd_epi16(rows, terms));
                    }
                }
            }
            for (totals, sums) in totals.iter_mut().zip(sums) {
                let mut pairs = [[0i32; 2]; ROWS];
                for (sums, pairs) in sums.iter().zip(pairs.chunks_exact_mut(4)) {
                    _mm256_storeu_si256(pairs.as_mut_ptr().cast(), *sums);
                }
                for (total, [first, second]) in totals.iter_mut().zip(pairs) {
                    *total += i64::from(first) + i64::from(second);
                }
            }
        }
    }
    std::array::from_fn(|n| product.scaled(totals[n], first + n))
}

/// The same in halves of multiples, which the instruction for products of bytes takes.
#[cfg(target_arch = "x86_64")]
struct ByHalves<'a>(PanelProduct<'a>);

#[cfg(target_arch = "x86_64")]
impl Kernel for ByHalves<'_> {
    type Output = [[f32; ROWS]; VECTORS];

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) -> Self::Output {
        let Self(product) = self;
        let mut dots = [[0.0; ROWS]; VECTORS];
        // SAFETY: `Arch::run_vnni`, the only way here, has found the instruction.
        unsafe {
            match product.steps.len() {
                1 => dots[..1].copy_from_slice(&by_halves::<1>(&product)),
                2 => dots[..2].copy_from_slice(&by_halves::<2>(&product)),
                3 => dots[..3].copy_from_slice(&by_halves::<3>(&product)),
                _ => dots = by_halves(&product),
            }
        }
        dots
    }
}

/// # Safety
///
/// The processor must have AVX-512 VNNI.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn by_halves<const N: usize>(product: &PanelProduct) -> [[f32; ROWS]; N] {
    use std::arch::x86_64::{
        __m512i, _mm512_dpbusd_epi32, _mm512_load_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
    };
    let vectors = product.vectors::<N>(0);
    let mut totals = [[0i64; ROWS]; N];
    for start in (0..product.words.len()).step_by(HALF_WORDS) {
        let range = start..(start + HALF_WORDS).min(product.words.len());
        // SAFETY: by contract; a word is an aligned vector, the sums are vectors, and a vector has as many words as the panel.
        unsafe {
            let mut sums: [[__m512i; 2]; N] = [[_mm512_setzero_si512(); 2]; N];
            for index in range {
                let rows = _mm512_load_si512(product.words[index].0.as_ptr().cast());
                for ([upper, lower], vector) in sums.iter_mut().zip(vectors) {
                    // Two loads: of one, halved in a register, each half would have to be spread from there.
                    let halves = vector.as_ptr().add(index).cast::<i32>();
                    *upper = _mm512_dpbusd_epi32(*upper, _mm512_set1_epi32(*halves), rows);
                    *lower = _mm512_dpbusd_epi32(*lower, _mm512_set1_epi32(*halves.add(1)), rows);
                }
            }
            for (totals, sums) in totals.iter_mut().zip(sums) {
                let [upper, lower] = sums.map(|sums| {
                    let mut lanes = [0i32; ROWS];
                    _mm512_storeu_si512(lanes.as_mut_ptr().cast(), sums);
                    lanes
                });
                for (total, (upper, lower)) in totals.iter_mut().zip(upper.into_iter().zip(lower)) {
                    *total += i64::from(upper) * 256 + i64::from(lower);
                }
            }
        }
    }
    for totals in &mut totals {
        for (total, (_, sum)) in totals.iter_mut().zip(product.rows) {
            *total -= i64::from(*sum) * i64::from(OFFSET);
        }
    }
    std::array::from_fn(|n| product.scaled(totals[n], n))
}
