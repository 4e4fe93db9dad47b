//! Products with few rows, straight from row-major weights: one pass over the weights and no packing.

use crate::arch::{Kernel, MulAdd};
use crate::engine::Engine;

/// Weight rows per call.
pub(crate) const WEIGHT_ROWS: usize = 4;
/// The most input rows per call.
pub(crate) const MAX_INPUT_ROWS: usize = 4;

/// What a weight is kept in, where each is read once a product and memory is the limit.
pub(crate) trait Weight: Copy + Default + Sync + 'static {
    fn widen(self) -> f32;
}

impl Weight for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

/// A multiple of the row's step.
impl Weight for i8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
}

/// Dot products of some input rows with four weight rows, all of `len` terms.
pub(crate) struct RowDot<'a, T> {
    pub(crate) inputs: &'a [&'a [f32]],
    pub(crate) weights: [&'a [T]; WEIGHT_ROWS],
}

impl<T: Weight> Kernel for RowDot<'_, T> {
    /// By input row, then weight row.
    type Output = [[f32; WEIGHT_ROWS]; MAX_INPUT_ROWS];

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) -> Self::Output {
        let mut dots = [[0.0; WEIGHT_ROWS]; MAX_INPUT_ROWS];
        // Sixteen sums fit in 32 registers, eight in 16; how rows are grouped does not change a sum.
        let group = if W == 16 { 4 } else { 2 };
        for (inputs, dots) in self.inputs.chunks(group).zip(dots.chunks_mut(group)) {
            match *inputs {
                [a] => dot::<T, W, 1, O>([a], self.weights, dots),
                [a, b] => dot::<T, W, 2, O>([a, b], self.weights, dots),
                [a, b, c] if W == 16 => dot::<T, W, 3, O>([a, b, c], self.weights, dots),
                [a, b, c, d] if W == 16 => dot::<T, W, 4, O>([a, b, c, d], self.weights, dots),
                _ => unreachable!("a group of {} rows", inputs.len()),
            }
        }
        dots
    }
}

/// Shares the products of all input rows with all weight rows out among the team, by groups of weight rows.
///
/// `sizes` are the input rows, their length and the weight rows; `dots(inputs, first)` gives the products of some input rows
/// with the weight rows from `first` on, and `put(row, first, dots)` takes those of one of them that are there.
pub(crate) fn share_dots<'a>(
    engine: &Engine,
    [input_rows, len, weight_rows]: [usize; 3],
    input: impl Fn(usize) -> &'a [f32] + Sync,
    dots: impl Fn(&[&[f32]], usize) -> [[f32; WEIGHT_ROWS]; MAX_INPUT_ROWS] + Sync,
    put: impl Fn(usize, usize, &[f32]) + Sync,
) {
    let members = engine.members_for_flops(2 * input_rows * len.max(1) * weight_rows);
    engine.run(members, |member| {
        for group in member.share(weight_rows.div_ceil(WEIGHT_ROWS)) {
            let first = group * WEIGHT_ROWS;
            let present = WEIGHT_ROWS.min(weight_rows - first);
            for first_row in (0..input_rows).step_by(MAX_INPUT_ROWS) {
                let rows = first_row..(first_row + MAX_INPUT_ROWS).min(input_rows);
                let inputs: [&[f32]; MAX_INPUT_ROWS] =
                    std::array::from_fn(|i| input((first_row + i).min(input_rows - 1)));
                for (row, dots) in rows.clone().zip(dots(&inputs[..rows.len()], first)) {
                    put(row, first, &dots[..present]);
                }
            }
        }
    });
}

#[inline(always)]
fn dot<T: Weight, const W: usize, const N: usize, O: MulAdd>(
    inputs: [&[f32]; N],
    weights: [&[T]; WEIGHT_ROWS],
    dots: &mut [[f32; WEIGHT_ROWS]],
) {
    let len = weights[0].len();
    assert!(inputs.iter().all(|row| row.len() == len) && weights.iter().all(|row| row.len() == len), "rows of {len}");
    let mut sums = [[[0.0f32; W]; WEIGHT_ROWS]; N];
    let whole = len / W * W;
    for start in (0..whole).step_by(W) {
        // SAFETY: all rows hold `len` terms, and start + W ≤ len.
        let (x, weights) = unsafe {
            (
                inputs.map(|row| row.as_ptr().add(start).cast::<[f32; W]>().read()),
                weights.map(|row| row.as_ptr().add(start).cast::<[T; W]>().read()),
            )
        };
        add_terms::<T, W, N, O>(&mut sums, x, weights);
    }
    if whole < len {
        let x = inputs.map(|row| padded::<f32, W>(&row[whole..]));
        add_terms::<T, W, N, O>(&mut sums, x, weights.map(|row| padded::<T, W>(&row[whole..])));
    }
    for n in 0..N {
        for w in 0..WEIGHT_ROWS {
            dots[n][w] = tree_sum(sums[n][w]);
        }
    }
}

/// Fewer than `W` values; the others are zero.
#[inline(always)]
fn padded<T: Weight, const W: usize>(from: &[T]) -> [T; W] {
    let mut values = [T::default(); W];
    values[..from.len()].copy_from_slice(from);
    values
}

/// Adds the products of one vector of every row.
#[inline(always)]
fn add_terms<T: Weight, const W: usize, const N: usize, O: MulAdd>(
    sums: &mut [[[f32; W]; WEIGHT_ROWS]; N],
    inputs: [[f32; W]; N],
    weights: [[T; W]; WEIGHT_ROWS],
) {
    for w in 0..WEIGHT_ROWS {
        let mut weight = [0.0; W];
        for l in 0..W {
            weight[l] = weights[w][l].widen();
        }
        for n in 0..N {
            for l in 0..W {
                sums[n][w][l] = O::mul_add(weight[l], inputs[n][l], sums[n][w][l]);
            }
        }
    }
}

/// The sum of the lanes, halves onto halves.
#[inline(always)]
pub(crate) fn tree_sum<const W: usize>(mut sum: [f32; W]) -> f32 {
    let mut half = W / 2;
    while half > 0 {
        for l in 0..half {
            sum[l] += sum[l + half];
        }
        half /= 2;
    }
    sum[0]
}
