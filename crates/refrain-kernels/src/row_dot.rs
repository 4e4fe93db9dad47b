//! Products with few rows, straight from row-major weights: one pass over the weights and no packing.

use crate::arch::{Kernel, MulAdd};
use crate::tile::load;

/// Weight rows per call.
pub(crate) const WEIGHT_ROWS: usize = 4;
/// The most input rows per call.
pub(crate) const MAX_INPUT_ROWS: usize = 4;

/// Dot products of some input rows with four weight rows, all of `len` floats.
pub(crate) struct RowDot<'a> {
    pub(crate) inputs: &'a [&'a [f32]],
    pub(crate) weights: [&'a [f32]; WEIGHT_ROWS],
}

impl Kernel for RowDot<'_> {
    /// By input row, then weight row.
    type Output = [[f32; WEIGHT_ROWS]; MAX_INPUT_ROWS];

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) -> Self::Output {
        let mut dots = [[0.0; WEIGHT_ROWS]; MAX_INPUT_ROWS];
        // Sixteen sums fit in 32 registers, eight in 16; how rows are grouped does not change a sum.
        let group = if W == 16 { 4 } else { 2 };
        for (inputs, dots) in self.inputs.chunks(group).zip(dots.chunks_mut(group)) {
            match *inputs {
                [a] => dot::<W, 1, O>([a], self.weights, dots),
                [a, b] => dot::<W, 2, O>([a, b], self.weights, dots),
                [a, b, c] if W == 16 => dot::<W, 3, O>([a, b, c], self.weights, dots),
                [a, b, c, d] if W == 16 => dot::<W, 4, O>([a, b, c, d], self.weights, dots),
                _ => unreachable!("a group of {} rows", inputs.len()),
            }
        }
        dots
    }
}

#[inline(always)]
fn dot<const W: usize, const N: usize, O: MulAdd>(
    inputs: [&[f32]; N],
    weights: [&[f32]; WEIGHT_ROWS],
    dots: &mut [[f32; WEIGHT_ROWS]],
) {
    let len = weights[0].len();
    for row in inputs.iter().chain(&weights) {
        assert_eq!(row.len(), len, "rows of {} and {len} floats", row.len());
    }
    let inputs = inputs.map(<[f32]>::as_ptr);
    let weights = weights.map(<[f32]>::as_ptr);
    let mut sums = [[[0.0f32; W]; WEIGHT_ROWS]; N];
    for block in 0..len / W {
        let start = block * W;
        add_terms::<W, N, O>(&mut sums, inputs, weights, |row| {
            // SAFETY: all rows hold `len` floats and start + W ≤ len.
            unsafe { row.add(start).cast::<[f32; W]>().read() }
        });
    }
    let rest = len % W;
    if rest > 0 {
        add_terms::<W, N, O>(&mut sums, inputs, weights, |row| {
            // SAFETY: the last `rest` floats of every row.
            unsafe { load::<W>(row.add(len - rest), rest) }
        });
    }
    for n in 0..N {
        for w in 0..WEIGHT_ROWS {
            dots[n][w] = tree_sum(sums[n][w]);
        }
    }
}

/// Adds the products of one vector of every row, as `read` gives it.
#[inline(always)]
fn add_terms<const W: usize, const N: usize, O: MulAdd>(
    sums: &mut [[[f32; W]; WEIGHT_ROWS]; N],
    inputs: [*const f32; N],
    weights: [*const f32; WEIGHT_ROWS],
    read: impl Fn(*const f32) -> [f32; W],
) {
    let weights: [[f32; W]; WEIGHT_ROWS] = std::array::from_fn(|w| read(weights[w]));
    for n in 0..N {
        let input = read(inputs[n]);
        for w in 0..WEIGHT_ROWS {
            for l in 0..W {
                sums[n][w][l] = O::mul_add(weights[w][l], input[l], sums[n][w][l]);
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
