//! Packing: factors rearranged into the blocks of words that tiles read one after the other (see [`crate::format`]).
//!
//! A line is a row of a left factor or a column of a right one. A left block holds the 16 words of one line after those of
//! another; a right block the first words of all lines, then the second ones. What is missing, of terms or of lines, is zero.

use std::marker::PhantomData;

use crate::arch::{Arch, Kernel, MulAdd};
use crate::format::{BLOCK_WORDS, Encode, Format, with_encoding, words};
use crate::prefetch::{prefetch, prefetch_run};

/// The most lines of a block.
pub(crate) const MAX_LINES: usize = 48;

/// The order of the words in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Line by line.
    Left,
    /// Word by word.
    Right,
}

/// What is to be packed: `lines` lines of `terms` terms.
#[derive(Clone, Copy)]
pub(crate) struct Packing {
    pub(crate) arch: Arch,
    pub(crate) format: Format,
    pub(crate) side: Side,
    pub(crate) lines: usize,
    pub(crate) terms: usize,
}

impl Packing {
    /// Words of the packed lines.
    pub(crate) fn len(&self) -> usize {
        self.format.blocks(self.terms) * self.format.block_len(self.lines)
    }

    /// Packs lines whose terms are contiguous: `line(l)` gives the terms of one, or nothing.
    pub(crate) fn contiguous_terms<'a>(self, to: &mut [u32], line: impl Fn(usize) -> &'a [f32]) {
        debug_assert!(to.len() == self.len() && self.lines <= MAX_LINES);
        with_encoding!(self.format, E => self.arch.run(PackTerms::<E, _> { packing: self, to, line, encode: PhantomData }));
    }

    /// Packs lines that are contiguous: `term(k)` gives term k of the first of them, or of none.
    pub(crate) fn contiguous_lines<'a>(self, to: &mut [u32], term: impl Fn(usize) -> &'a [f32]) {
        debug_assert!(to.len() == self.len() && self.lines <= MAX_LINES);
        with_encoding!(self.format, E => self.arch.run(PackLines::<E, _> { packing: self, to, term, encode: PhantomData }));
    }
}

impl Packing {
    /// Packs one line of a left factor, from its contiguous terms.
    ///
    /// # Safety
    ///
    /// `to` must be good for the packed factor, and the line's words be no other thread's.
    pub(crate) unsafe fn line(self, to: *mut u32, line: usize, from: &[f32]) {
        debug_assert!(self.side == Side::Left && line < self.lines && from.len() == self.terms);
        let lines = self.lines;
        with_encoding!(self.format, E => {
            self.arch.run(PackLine::<E> { to, lines, line, from, encode: PhantomData });
        });
    }
}

/// Words of 16 lines, line by line or word by word.
type Square = [[u32; BLOCK_WORDS]; BLOCK_WORDS];

/// Lines of a square.
const LINES: usize = BLOCK_WORDS;

struct PackTerms<'a, E, F> {
    packing: Packing,
    to: &'a mut [u32],
    line: F,
    encode: PhantomData<E>,
}

impl<'a, E: Encode, F: Fn(usize) -> &'a [f32]> Kernel for PackTerms<'_, E, F> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let Packing { lines, side, .. } = self.packing;
        let block_terms = E::FORMAT.block_terms();
        let from: [&[f32]; MAX_LINES] = std::array::from_fn(|l| if l < lines { (self.line)(l) } else { &[] });
        let mut words_of = [[[0; BLOCK_WORDS]; LINES]; 3];
        for (block, to) in self.to.chunks_exact_mut(E::FORMAT.block_len(lines)).enumerate() {
            let start = block * block_terms;
            for first in (0..lines).step_by(LINES) {
                for l in 0..LINES.min(lines - first) {
                    let from = from[first + l];
                    // The next blocks come from as many places as there are lines: too many to be foreseen.
                    prefetch(from.as_ptr().wrapping_add(start + block_terms));
                    prefetch(from.as_ptr().wrapping_add(start + block_terms * 3 / 2));
                    let (even, odd) = pairs::<E, W>(from.get(start..).unwrap_or(&[]));
                    words::<E, BLOCK_WORDS>(even, odd, |part, words| words_of[part][l] = *words);
                }
                for (part, words) in words_of.iter_mut().enumerate().take(E::PARTS) {
                    let to = &mut to[part * BLOCK_WORDS * lines..(part + 1) * BLOCK_WORDS * lines];
                    if side == Side::Right {
                        transpose::<W>(words);
                    }
                    put(words, side, lines, first, to);
                }
            }
        }
    }
}

/// One line of a left factor, from its contiguous terms.
struct PackLine<'a, E> {
    to: *mut u32,
    lines: usize,
    line: usize,
    from: &'a [f32],
    encode: PhantomData<E>,
}

impl<E: Encode> Kernel for PackLine<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        for (block, from) in self.from.chunks(E::FORMAT.block_terms()).enumerate() {
            let (even, odd) = pairs::<E, W>(from);
            words::<E, BLOCK_WORDS>(even, odd, |part, words| {
                // SAFETY: promised by who calls `Packing::line`, the only way here.
                unsafe {
                    let to = self.to.add(((block * E::PARTS + part) * self.lines + self.line) * BLOCK_WORDS);
                    to.cast::<[u32; BLOCK_WORDS]>().write(*words);
                }
            });
        }
    }
}

struct PackLines<'a, E, F> {
    packing: Packing,
    to: &'a mut [u32],
    term: F,
    encode: PhantomData<E>,
}

impl<'a, E: Encode, F: Fn(usize) -> &'a [f32]> Kernel for PackLines<'_, E, F> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let Packing { lines, terms, side, .. } = self.packing;
        let mut words_of = [[[0; LINES]; BLOCK_WORDS]; 3];
        let block_terms = E::FORMAT.block_terms();
        let term = |k: usize| if k < terms { (self.term)(k) } else { &[] };
        let block_of = |start: usize| -> [&[f32]; 2 * BLOCK_WORDS] {
            std::array::from_fn(|k| if k < block_terms { term(start + k) } else { &[] })
        };
        let mut next = block_of(0);
        for (block, to) in self.to.chunks_exact_mut(E::FORMAT.block_len(lines)).enumerate() {
            let from = next;
            next = block_of((block + 1) * block_terms);
            // They come from as many places as there are terms: too many to be foreseen.
            for next in next {
                prefetch_run(next.as_ptr(), next.len().min(lines));
            }
            for first in (0..lines).step_by(LINES) {
                for (w, from) in from.chunks(E::TERMS).enumerate().take(BLOCK_WORDS) {
                    let term = |k: usize| some::<W>(from[k].get(first..from[k].len().min(lines)).unwrap_or(&[]));
                    let even = term(0);
                    let odd = if E::TERMS == 2 { term(1) } else { even };
                    words::<E, LINES>(even, odd, |part, words| words_of[part][w] = *words);
                }
                for (part, words) in words_of.iter_mut().enumerate().take(E::PARTS) {
                    let to = &mut to[part * BLOCK_WORDS * lines..(part + 1) * BLOCK_WORDS * lines];
                    if side == Side::Left {
                        transpose::<W>(words);
                    }
                    put(words, side, lines, first, to);
                }
            }
        }
    }
}

/// Puts a square, in the order of its side, where its lines belong among those of a part of a block.
#[inline(always)]
fn put(square: &Square, side: Side, lines: usize, first: usize, to: &mut [u32]) {
    match side {
        Side::Left => {
            let to = to[first * BLOCK_WORDS..].as_chunks_mut::<BLOCK_WORDS>().0;
            for (to, words) in to.iter_mut().zip(square) {
                *to = *words;
            }
        }
        Side::Right => {
            for (to, words) in to.chunks_exact_mut(lines).zip(square) {
                let to = &mut to[first..];
                // Twice, so that the common case has a constant length.
                if let Some(to) = to.first_chunk_mut::<LINES>() {
                    *to = *words;
                } else {
                    to.copy_from_slice(&words[..to.len()]);
                }
            }
        }
    }
}

/// The first terms of all words of a block of a line, and the second ones.
#[inline(always)]
fn pairs<E: Encode, const W: usize>(from: &[f32]) -> ([f32; BLOCK_WORDS], [f32; BLOCK_WORDS]) {
    if E::TERMS == 1 {
        let terms = some::<W>(from);
        return (terms, terms);
    }
    let (low, high) = (some::<W>(from), some::<W>(from.get(BLOCK_WORDS..).unwrap_or(&[])));
    let term = |k: usize| if k < BLOCK_WORDS { low[k] } else { high[k - BLOCK_WORDS] };
    (std::array::from_fn(|w| term(2 * w)), std::array::from_fn(|w| term(2 * w + 1)))
}

/// The first 16 floats of a slice, zeros for those that it lacks.
#[inline(always)]
fn some<const W: usize>(from: &[f32]) -> [f32; LINES] {
    if let Some(from) = from.first_chunk::<LINES>() {
        return *from;
    }
    let mut floats = [0.0; LINES];
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if W == 16 {
        use std::arch::x86_64::{_mm512_maskz_loadu_ps, _mm512_storeu_ps};
        // SAFETY: vectors of 16 floats are those of AVX-512; the mask leaves out what lies beyond the slice.
        unsafe {
            _mm512_storeu_ps(floats.as_mut_ptr(), _mm512_maskz_loadu_ps((1 << from.len()) - 1, from.as_ptr()));
        }
        return floats;
    }
    floats[..from.len()].copy_from_slice(from);
    floats
}

/// Exchanges lines and words.
#[inline(always)]
fn transpose<const W: usize>(square: &mut Square) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if W == 16 {
        // SAFETY: vectors of 16 floats are those of AVX-512.
        unsafe { x86::transpose_512(square) };
    } else {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { x86::transpose_128(square) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    for line in 1..LINES {
        for word in 0..line {
            (square[line][word], square[word][line]) = (square[word][line], square[line][word]);
        }
    }
}

/// Transposition, of which the compiler makes single words of arrays.
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m512i, _mm_loadu_si128, _mm_storeu_si128, _mm_unpackhi_epi32, _mm_unpackhi_epi64,
        _mm_unpacklo_epi32, _mm_unpacklo_epi64, _mm512_loadu_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    use super::Square;

    /// # Safety
    ///
    /// The processor must have AVX-512.
    #[inline(always)]
    pub(super) unsafe fn transpose_512(square: &mut Square) {
        // SAFETY: by contract; a row of the square is a vector.
        unsafe {
            let mut rows: [__m512i; 16] = std::mem::zeroed();
            for (row, from) in rows.iter_mut().zip(&*square) {
                *row = _mm512_loadu_si512(from.as_ptr().cast());
            }
            // Squares of four inside the quarters of each four rows.
            let mut fours = rows;
            for i in (0..16).step_by(4) {
                let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
                let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
                let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
                fours[i] = _mm512_unpacklo_epi64(ab_low, cd_low);
                fours[i + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
                fours[i + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
                fours[i + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
            }
            // Then the quarters themselves: row 4q + i is quarter q of rows i, 4 + i, 8 + i and 12 + i.
            for i in 0..4 {
                let [a, b, c, d] = [fours[i], fours[4 + i], fours[8 + i], fours[12 + i]];
                let even = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d)];
                let odd = [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d)];
                rows[i] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
                rows[4 + i] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
                rows[8 + i] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
                rows[12 + i] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
            }
            for (row, to) in rows.iter().zip(square) {
                _mm512_storeu_si512(to.as_mut_ptr().cast(), *row);
            }
        }
    }

    /// # Safety
    ///
    /// The processor must have SSE2.
    #[inline(always)]
    pub(super) unsafe fn transpose_128(square: &mut Square) {
        let from = *square;
        for line in (0..16).step_by(4) {
            for word in (0..16).step_by(4) {
                // SAFETY: by contract; four words of each of four rows.
                unsafe {
                    let row = |i: usize| -> __m128i { _mm_loadu_si128(from[word + i][line..].as_ptr().cast()) };
                    let [a, b, c, d] = [row(0), row(1), row(2), row(3)];
                    let (ab_low, ab_high) = (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
                    let (cd_low, cd_high) = (_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
                    let mut put = |i: usize, column| {
                        _mm_storeu_si128(square[line + i][word..].as_mut_ptr().cast(), column);
                    };
                    put(0, _mm_unpacklo_epi64(ab_low, cd_low));
                    put(1, _mm_unpackhi_epi64(ab_low, cd_low));
                    put(2, _mm_unpacklo_epi64(ab_high, cd_high));
                    put(3, _mm_unpackhi_epi64(ab_high, cd_high));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Isa;
    use crate::format::take;

    /// Every word of a packed factor: block, part, line and word, from the definition.
    fn expected<E: Encode>(side: Side, lines: usize, terms: usize, value: impl Fn(usize, usize) -> f32) -> Vec<u32> {
        let blocks = E::FORMAT.blocks(terms);
        let mut to = vec![0; blocks * E::FORMAT.block_len(lines)];
        for block in 0..blocks {
            for part in 0..E::PARTS {
                for line in 0..lines {
                    for w in 0..BLOCK_WORDS {
                        let k = block * E::FORMAT.block_terms() + w * E::TERMS;
                        let mut term = [k, k + 1].map(|k| if k < terms { value(line, k) } else { 0.0 });
                        for _ in 0..part {
                            take::<E, 2>(&mut term);
                        }
                        let place = match side {
                            Side::Left => line * BLOCK_WORDS + w,
                            Side::Right => w * lines + line,
                        };
                        to[(block * E::PARTS + part) * BLOCK_WORDS * lines + place] = {
                            let [first, second] = &mut term;
                            E::word(E::take(first), E::take(second))
                        };
                    }
                }
            }
        }
        to
    }

    #[test]
    fn either_layout_of_the_source_gives_the_same_words() {
        let value = |line: usize, term: usize| (line * 1000 + term) as f32 / 7.0;
        for isa in Isa::supported() {
            let arch = Arch::new(isa).unwrap();
            for (lines, present, terms) in [(6, 5, 37), (8, 8, 64), (12, 12, 1), (32, 31, 70), (48, 48, 33), (4, 0, 16)]
            {
                let by_line: Vec<Vec<f32>> =
                    (0..present).map(|line| (0..terms).map(|term| value(line, term)).collect()).collect();
                let by_term: Vec<Vec<f32>> =
                    (0..terms).map(|term| (0..present).map(|line| value(line, term)).collect()).collect();
                let value = |line, term| if line < present { value(line, term) } else { 0.0 };
                for format in [Format::F32, Format::Bf16, Format::Rounded, Format::Split] {
                    for side in [Side::Left, Side::Right] {
                        if side == Side::Right && lines % 4 != 0 {
                            continue;
                        }
                        let packing = Packing { arch, format, side, lines, terms };
                        let mut to = vec![u32::MAX; packing.len()];
                        let expected = with_encoding!(format, E => expected::<E>(side, lines, terms, value));
                        packing.contiguous_terms(&mut to, |line| by_line.get(line).map_or(&[], Vec::as_slice));
                        assert!(to == expected, "terms, {isa} {format:?} {side:?} {lines}×{terms}");
                        to.fill(u32::MAX);
                        packing.contiguous_lines(&mut to, |term| &by_term[term]);
                        assert!(to == expected, "lines, {isa} {format:?} {side:?} {lines}×{terms}");
                    }
                }
            }
        }
    }
}
