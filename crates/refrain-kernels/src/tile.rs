//! The micro-kernel: one tile of a product of packed factors, its sums held in registers.

use std::hint::black_box;
use std::marker::PhantomData;

use crate::arch::{Arch, Bf16Support, Isa, Kernel, MulAdd, Tiles};
#[cfg(target_arch = "x86_64")]
use crate::arch::{Parts, amx_multiply};
use crate::format::{BLOCK_WORDS, Format};
use crate::pack::MAX_LINES;

mod dot;

use dot::Dot;

/// The most rows that a tile has.
pub(crate) const MAX_ROWS: usize = 32;

/// The sums of a tile, row by row.
#[repr(C, align(64))]
pub(crate) struct Sums([f32; MAX_ROWS * MAX_LINES]);

impl Sums {
    pub(crate) fn new() -> Self {
        Self([0.0; MAX_ROWS * MAX_LINES])
    }

    /// `N` sums of row `row` of sums of `width` columns, from column `start` on.
    #[inline(always)]
    pub(crate) fn part<const N: usize>(&self, row: usize, width: usize, start: usize) -> &[f32; N] {
        self.0[row * width + start..].first_chunk().expect("columns of the tile")
    }

    /// Row `row` of sums of `width` columns.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize, width: usize) -> &[f32] {
        &self.0[row * width..(row + 1) * width]
    }

    /// The same, to write.
    pub(crate) fn row_mut(&mut self, row: usize, width: usize) -> &mut [f32] {
        &mut self.0[row * width..(row + 1) * width]
    }
}

/// The cut of products into tiles: so many rows of so many columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileShape {
    pub(crate) rows: usize,
    /// Vectors of a row: 2 or 3.
    pub(crate) vectors: usize,
    /// Columns of a row.
    pub(crate) width: usize,
}

impl TileShape {
    pub(crate) fn new(arch: Arch, vectors: usize) -> Self {
        Self { rows: arch.rows(vectors), vectors, width: vectors * arch.lanes() }
    }
}

/// A tile of a product of packed factors: `sums[r, c] = Σ left[r, k] · right[k, c]`.
#[derive(Clone, Copy)]
pub(crate) struct TileProduct {
    pub(crate) format: Format,
    pub(crate) shape: TileShape,
    /// Rows to compute, at most those of the shape.
    pub(crate) rows: usize,
    /// Blocks of terms.
    pub(crate) blocks: usize,
    /// Blocks of the shape's rows.
    pub(crate) left: *const u32,
    /// Blocks of the shape's width.
    pub(crate) right: *const u32,
}

impl Tiles {
    /// Computes the sums of a tile. Those of rows beyond the product's may change as well.
    ///
    /// # Safety
    ///
    /// The factors must be readable for the product's blocks, the left one for the rows of its shape, and be packed in the
    /// product's format, which must be one of this instruction set.
    pub(crate) unsafe fn multiply(&self, product: &TileProduct, sums: &mut Sums) {
        let arch = self.arch();
        debug_assert!(product.rows <= product.shape.rows && product.shape.rows <= MAX_ROWS);
        match (arch.isa(), product.format) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: having `Tiles` means that this thread's are configured; the rest by contract.
            (Isa::Amx, Format::Bf16 | Format::Split) => unsafe { amx(arch, product, sums) },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Format::Bf16) if arch.bf16() == Bf16Support::Avx512 => {
                arch.run_bf16(Multiply::<dot::Avx512Bf16>::new(product, sums));
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Format::Bf16) => arch.run(Multiply::<dot::Avx512Emulated>::new(product, sums)),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Format::F32 | Format::Rounded) => arch.run(Multiply::<dot::Avx512F32>::new(product, sums)),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Format::Bf16) => arch.run(Multiply::<dot::Avx2Emulated>::new(product, sums)),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Format::F32 | Format::Rounded) => arch.run(Multiply::<dot::Avx2F32>::new(product, sums)),
            (Isa::Portable, Format::Bf16) => arch.run(Multiply::<dot::PortableEmulated>::new(product, sums)),
            (Isa::Portable, Format::F32 | Format::Rounded) => {
                arch.run(Multiply::<dot::PortableF32>::new(product, sums));
            }
            (isa, format) => unreachable!("{isa} does not multiply factors in {format:?}"),
        }
    }
}

/// [`Tiles::multiply`] by tile registers.
///
/// Of a term that is infinite, or whose products are too great for f32, the parts may have opposite signs: their sum is not a
/// number where f32 would give infinity. There the first parts alone decide.
///
/// # Safety
///
/// As [`Tiles::multiply`], and the thread's tile registers must be configured.
#[cfg(target_arch = "x86_64")]
unsafe fn amx(arch: Arch, product: &TileProduct, sums: &mut Sums) {
    let multiply = |parts, sums: &mut Sums| {
        let size = (product.rows, product.shape.vectors, parts);
        // SAFETY: by contract; the sums have room for 32 rows of 48 columns.
        unsafe { amx_multiply(size, product.blocks, product.left, product.right, sums.0.as_mut_ptr()) };
    };
    if product.format == Format::Bf16 {
        multiply(Parts::One, sums);
        return;
    }
    multiply(Parts::Three, sums);
    let count = product.rows * product.shape.width;
    if arch.run(AnyNan(&sums.0[..count])) {
        let mut of_first = Sums::new();
        multiply(Parts::FirstOfThree, &mut of_first);
        for (sum, of_first) in sums.0[..count].iter_mut().zip(&of_first.0) {
            if sum.is_nan() {
                *sum = *of_first;
            }
        }
    }
}

/// Whether any of some floats, whole vectors of them, is not a number.
#[cfg(target_arch = "x86_64")]
struct AnyNan<'a>(&'a [f32]);

#[cfg(target_arch = "x86_64")]
impl Kernel for AnyNan<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) -> bool {
        // Lane by lane, not one bool: the compiler makes vectors of it.
        let mut any = [0u32; W];
        for values in self.0.as_chunks::<W>().0 {
            for l in 0..W {
                any[l] |= u32::from(values[l].is_nan());
            }
        }
        any.contains(&1)
    }
}

struct Multiply<'a, D> {
    product: &'a TileProduct,
    sums: &'a mut Sums,
    dot: PhantomData<D>,
}

impl<'a, D> Multiply<'a, D> {
    fn new(product: &'a TileProduct, sums: &'a mut Sums) -> Self {
        Self { product, sums, dot: PhantomData }
    }
}

/// Spells out the tile heights, each of which is compiled by itself: a tile at the lower edge does no more work than its
/// rows need.
macro_rules! for_rows {
    ($product:ident, $sums:ident, $vectors:literal, [$($rows:literal),*]) => {
        match $product.rows {
            $($rows => multiply::<D, $vectors, $rows>($product, $sums),)*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}

impl<D: Dot> Kernel for Multiply<'_, D> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let Self { product, sums, .. } = self;
        // SAFETY: promised to `Tiles::multiply`, which is the only way here and chooses the vectors by the instruction set.
        unsafe {
            match (D::LANES, product.shape.vectors) {
                (16, 2) => for_rows!(product, sums, 2, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
                (16, 3) => for_rows!(product, sums, 3, [1, 2, 3, 4, 5, 6, 7, 8]),
                (_, 2) => for_rows!(product, sums, 2, [1, 2, 3, 4, 5, 6]),
                (_, 3) => for_rows!(product, sums, 3, [1, 2, 3, 4]),
                (_, vectors) => unreachable!("tiles of {vectors} vectors"),
            }
        }
    }
}

/// # Safety
///
/// As [`Tiles::multiply`], and the vectors must be of this instruction set.
#[inline(always)]
unsafe fn multiply<D: Dot, const V: usize, const M: usize>(product: &TileProduct, sums: &mut Sums) {
    let mut totals = [[D::zero(); V]; M];
    let (mut left, mut right) = (product.left, product.right);
    for _ in 0..product.blocks {
        for word in 0..BLOCK_WORDS {
            // SAFETY: inside a block of `V` vectors and the shape's rows, by contract.
            unsafe {
                let columns: [D::Vector; V] = std::array::from_fn(|v| D::load(right.add((word * V + v) * D::LANES)));
                for (r, totals) in totals.iter_mut().enumerate() {
                    let x = D::splat(left.add(r * BLOCK_WORDS + word).read());
                    for v in 0..V {
                        totals[v] = D::dot(x, columns[v], totals[v]);
                    }
                }
            }
        }
        left = left.wrapping_add(product.shape.rows * BLOCK_WORDS);
        right = right.wrapping_add(D::LANES * V * BLOCK_WORDS);
    }
    for (to, totals) in sums.0.chunks_exact_mut(V * D::LANES).zip(totals) {
        for (to, total) in to.chunks_exact_mut(D::LANES).zip(totals) {
            // SAFETY: a vector of sums.
            unsafe { D::store(total, to.as_mut_ptr()) };
        }
    }
}

/// Rounds of as many f32 multiply-adds as a tile has vectors, with their operands in registers; the number of floating-point
/// operations.
pub(crate) fn multiply_adds(arch: Arch, rounds: usize) -> f64 {
    match arch.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512 => arch.run(MultiplyAdds::<dot::Avx512F32, 24> { rounds, dot: PhantomData }),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => arch.run(MultiplyAdds::<dot::Avx2F32, 12> { rounds, dot: PhantomData }),
        _ => arch.run(MultiplyAdds::<dot::PortableF32, 4> { rounds, dot: PhantomData }),
    }
}

struct MultiplyAdds<D, const N: usize> {
    rounds: usize,
    dot: PhantomData<D>,
}

impl<D: Dot, const N: usize> Kernel for MultiplyAdds<D, N> {
    type Output = f64;

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) -> f64 {
        // The compiler knows neither of the values, so it can neither foresee the sums nor take two for one. They approach
        // 0.5: no processor is slow at that.
        let [factor, term] = black_box([0.5f32, 0.25]).map(f32::to_bits);
        let mut sums = [D::zero(); N];
        // SAFETY: `multiply_adds`, the only way here, chooses the vectors by the instruction set.
        unsafe {
            let (factor, term) = (D::splat(factor), D::splat(term));
            for _ in 0..self.rounds {
                for sum in &mut sums {
                    *sum = D::dot(*sum, factor, term);
                }
            }
        }
        black_box(sums);
        (2 * self.rounds * D::LANES * N) as f64
    }
}

/// The sum of two arrays. By value: of references the compiler would not know that they lie apart, and add one by one.
#[inline(always)]
pub(crate) fn sum_of<const N: usize>(mut a: [f32; N], b: [f32; N]) -> [f32; N] {
    for n in 0..N {
        a[n] += b[n];
    }
    a
}

/// The first `count` of `N` floats; the others are zero.
///
/// # Safety
///
/// `from` must be readable for `count.min(N)` floats.
#[inline(always)]
pub(crate) unsafe fn load<const N: usize>(from: *const f32, count: usize) -> [f32; N] {
    if count >= N {
        // SAFETY: N floats are readable.
        return unsafe { from.cast::<[f32; N]>().read() };
    }
    let mut values = [0.0; N];
    for (i, value) in values.iter_mut().enumerate().take(count) {
        // SAFETY: i < count.
        *value = unsafe { *from.add(i) };
    }
    values
}

/// Stores the first `count` of `N` floats.
///
/// # Safety
///
/// `to` must be writable for `count.min(N)` floats.
#[inline(always)]
pub(crate) unsafe fn store<const N: usize>(values: &[f32; N], to: *mut f32, count: usize) {
    if count >= N {
        // SAFETY: N floats are writable.
        unsafe { to.cast::<[f32; N]>().write(*values) };
        return;
    }
    for (i, value) in values.iter().enumerate().take(count) {
        // SAFETY: i < count.
        unsafe { *to.add(i) = *value };
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use chacha20::ChaCha8Rng;
    use chacha20::rand_core::{Rng, SeedableRng};

    use super::*;

    const BLOCKS: usize = 3;

    /// Row `row` of the sums by their definition, term by term.
    fn sums_of(left: &[u32], right: &[u32], shape: TileShape, row: usize) -> Vec<f32> {
        let terms = |word: u32| [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)];
        let sum = |column| {
            let products = (0..BLOCKS * BLOCK_WORDS).map(|k| {
                let (block, word) = (k / BLOCK_WORDS, k % BLOCK_WORDS);
                let x = terms(left[(block * shape.rows + row) * BLOCK_WORDS + word]);
                let y = terms(right[k * shape.width + column]);
                x[0] * y[0] + x[1] * y[1]
            });
            products.sum()
        };
        (0..shape.width).map(sum).collect()
    }

    /// Where the instruction is slow nothing but this test runs it. The terms are whole numbers of 8 bits, so that every sum is
    /// exact.
    #[test]
    fn both_ways_of_bf16_give_the_sums_of_the_definition() {
        let mut generator = ChaCha8Rng::from_seed([5; 32]);
        let mut words = |len: usize| -> Vec<u32> {
            let mut term = || ((generator.next_u32() % 257) as f32 - 128.0).to_bits();
            (0..len).map(|_| term() >> 16 | term()).collect()
        };
        for arch in Arch::both_ways_of_bf16().into_iter().flatten() {
            for shape in [2, 3].map(|vectors| TileShape::new(arch, vectors)) {
                let left = words(BLOCKS * BLOCK_WORDS * shape.rows);
                let right = words(BLOCKS * BLOCK_WORDS * shape.width);
                for rows in 1..=shape.rows {
                    let product = TileProduct {
                        format: Format::Bf16,
                        shape,
                        rows,
                        blocks: BLOCKS,
                        left: left.as_ptr(),
                        right: right.as_ptr(),
                    };
                    let mut sums = Sums::new();
                    // SAFETY: the factors have the product's blocks, in a format of AVX-512.
                    unsafe { arch.tiles().multiply(&product, &mut sums) };
                    for row in 0..rows {
                        let expected = sums_of(&left, &right, shape, row);
                        assert!(sums.row(row, shape.width) == expected, "{arch:?}, row {row} of {rows}, {shape:?}");
                    }
                }
            }
        }
    }
}
