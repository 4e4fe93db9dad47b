//! Packing: factors rearranged into the blocks of words that tiles read one after the other (see [`crate::format`]).
//!
//! A line is a row of a left factor or a column of a right one. A left block holds the 16 words of one line after those of
//! another; a right block the first words of all lines, then the second ones. What is missing, of terms or of lines, is zero.

use std::marker::PhantomData;

use crate::arch::{Arch, Kernel, MulAdd};
use crate::format::{BLOCK_WORDS, Encode, Format, with_encoding, words};
use crate::prefetch::prefetch;

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
        let lines = self.packing.lines;
        let block_terms = E::FORMAT.block_terms();
        let from: [&[f32]; MAX_LINES] = std::array::from_fn(|l| if l < lines { (self.line)(l) } else { &[] });
        for (block, to) in self.to.chunks_exact_mut(E::FORMAT.block_len(lines)).enumerate() {
            let start = block * block_terms;
            match self.packing.side {
                Side::Left => {
                    for (l, from) in from.iter().enumerate().take(lines) {
                        words_of_terms::<E>(from.get(start..).unwrap_or(&[]), |part, words| {
                            to[(part * lines + l) * BLOCK_WORDS..][..BLOCK_WORDS].copy_from_slice(words);
                        });
                    }
                }
                Side::Right => {
                    for four in (0..lines).step_by(4) {
                        let mut words = [[[0; BLOCK_WORDS]; 3]; 4];
                        for (words, from) in words.iter_mut().zip(&from[four..four + 4]) {
                            // The next blocks come from as many places as there are lines: too many to be foreseen.
                            prefetch(from.as_ptr().wrapping_add(start + block_terms));
                            prefetch(from.as_ptr().wrapping_add(start + block_terms * 3 / 2));
                            words_of_terms::<E>(from.get(start..).unwrap_or(&[]), |part, from| words[part] = *from);
                        }
                        for part in 0..E::PARTS {
                            for square in (0..BLOCK_WORDS).step_by(4) {
                                let rows = words.each_ref().map(|words| four_of(&words[part], square));
                                for (w, column) in transpose_square(rows).iter().enumerate() {
                                    let to = &mut to[(part * BLOCK_WORDS + square + w) * lines + four..];
                                    to[..4].copy_from_slice(column);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Four words from `start` on.
#[inline(always)]
fn four_of(words: &[u32], start: usize) -> [u32; 4] {
    let words = &words[start..start + 4];
    [words[0], words[1], words[2], words[3]]
}

/// The words of a block of one line, part by part.
#[inline(always)]
fn words_of_terms<E: Encode>(from: &[f32], put: impl FnMut(usize, &[u32; BLOCK_WORDS])) {
    let mut terms = [0.0; 2 * BLOCK_WORDS];
    let block_terms = E::FORMAT.block_terms();
    // Twice, so that the common case has a constant length.
    if from.len() >= block_terms {
        terms[..block_terms].copy_from_slice(&from[..block_terms]);
    } else {
        terms[..from.len()].copy_from_slice(from);
    }
    let (mut first, mut second) = ([0.0; BLOCK_WORDS], [0.0; BLOCK_WORDS]);
    for w in 0..BLOCK_WORDS {
        first[w] = terms[w * E::TERMS];
        second[w] = terms[w * E::TERMS + E::TERMS - 1];
    }
    words::<E, BLOCK_WORDS>(first, second, put);
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
        let term = |k: usize| if k < terms { (self.term)(k) } else { &[] };
        let mut words_of_block = [[0; BLOCK_WORDS * MAX_LINES]; 3];
        for (block, to) in self.to.chunks_exact_mut(E::FORMAT.block_len(lines)).enumerate() {
            for w in 0..BLOCK_WORDS {
                let k = block * E::FORMAT.block_terms() + w * E::TERMS;
                let first = padded(term(k), lines);
                let second = if E::TERMS == 2 { padded(term(k + 1), lines) } else { first };
                for group in 0..lines.div_ceil(GROUP) {
                    let lines_left = lines - group * GROUP;
                    words::<E, GROUP>(first[group], second[group], |part, words| {
                        let start = w * lines + group * GROUP;
                        let to = match side {
                            Side::Left => &mut words_of_block[part][start..],
                            Side::Right => &mut to[part * BLOCK_WORDS * lines + start..],
                        };
                        // Twice, so that the common case has a constant length.
                        if lines_left >= GROUP {
                            to[..GROUP].copy_from_slice(words);
                        } else {
                            to[..lines_left].copy_from_slice(&words[..lines_left]);
                        }
                    });
                }
            }
            if side == Side::Left {
                for (words, to) in words_of_block.iter().zip(to.chunks_exact_mut(BLOCK_WORDS * lines)) {
                    transpose_words(words, lines, to);
                }
            }
        }
    }
}

/// Lines that are encoded together.
const GROUP: usize = 16;

/// A term of all lines, in groups.
#[inline(always)]
fn padded(from: &[f32], lines: usize) -> [[f32; GROUP]; MAX_LINES / GROUP] {
    let mut groups = [[0.0; GROUP]; MAX_LINES / GROUP];
    let from = &from[..from.len().min(lines)];
    for (group, from) in groups.iter_mut().zip(from.chunks(GROUP)) {
        // Twice, so that the common case has a constant length.
        if let Some(from) = from.first_chunk::<GROUP>() {
            *group = *from;
        } else {
            group[..from.len()].copy_from_slice(from);
        }
    }
    groups
}

/// `to[line][word] = from[word][line]`.
#[inline(always)]
fn transpose_words(from: &[u32], lines: usize, to: &mut [u32]) {
    let squares = lines / 4 * 4;
    for line in (0..squares).step_by(4) {
        for word in (0..BLOCK_WORDS).step_by(4) {
            let rows = [0, 1, 2, 3].map(|i| four_of(from, (word + i) * lines + line));
            for (i, column) in transpose_square(rows).iter().enumerate() {
                to[(line + i) * BLOCK_WORDS + word..][..4].copy_from_slice(column);
            }
        }
    }
    for line in squares..lines {
        for word in 0..BLOCK_WORDS {
            to[line * BLOCK_WORDS + word] = from[word * lines + line];
        }
    }
}

/// Exchanges rows and columns.
#[inline(always)]
fn transpose_square(rows: [[u32; 4]; 4]) -> [[u32; 4]; 4] {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: every x86-64 processor has SSE2; the loads and stores are of four words each.
    unsafe {
        use std::arch::x86_64::{
            _mm_loadu_si128, _mm_storeu_si128, _mm_unpackhi_epi32, _mm_unpackhi_epi64, _mm_unpacklo_epi32,
            _mm_unpacklo_epi64,
        };
        let [a, b, c, d] = rows.each_ref().map(|row| _mm_loadu_si128(row.as_ptr().cast()));
        let (ab_low, ab_high) = (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
        let mut columns = [[0; 4]; 4];
        let values = [
            _mm_unpacklo_epi64(ab_low, cd_low),
            _mm_unpackhi_epi64(ab_low, cd_low),
            _mm_unpacklo_epi64(ab_high, cd_high),
            _mm_unpackhi_epi64(ab_high, cd_high),
        ];
        for (column, values) in columns.iter_mut().zip(values) {
            _mm_storeu_si128(column.as_mut_ptr().cast(), values);
        }
        columns
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    std::array::from_fn(|column| rows.map(|row| row[column]))
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
                for format in [Format::F32, Format::Bf16, Format::Split] {
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
