//! Initial weights, drawn from counter-based streams: a parameter's values depend on the seed and its place alone.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use crate::random::{Purpose, Random};

/// Draws the parameters of a model one after another.
#[derive(Debug)]
pub struct Initializer<'a> {
    seed: u64,
    next: u64,
    device: &'a Device,
}

impl<'a> Initializer<'a> {
    /// An initializer whose parameters live on `device`.
    pub fn new(seed: u64, device: &'a Device) -> Self {
        Self { seed, next: 0, device }
    }

    /// Where the parameters live.
    pub(super) fn device(&self) -> &'a Device {
        self.device
    }

    fn stream(&mut self) -> Random {
        let random = Random::new(self.seed, Purpose::Initialisation, self.next);
        self.next += 1;
        random
    }

    fn param<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    /// Uniform in `±sqrt(6 / (rows + columns))` for each block of `[rows / blocks, columns]` (Glorot and Bengio 2010).
    ///
    /// An LSTM's `weight_ih` holds four matrices, one a gate: their fan-out is `hidden_size`, not four times that.
    pub fn xavier_uniform(&mut self, [rows, columns]: [usize; 2], blocks: usize) -> Param<Tensor<2>> {
        let bound = (6.0 / (rows / blocks + columns) as f64).sqrt();
        self.uniform([rows, columns], bound)
    }

    /// Uniform in `±bound`.
    pub fn uniform(&mut self, shape: [usize; 2], bound: f64) -> Param<Tensor<2>> {
        let mut random = self.stream();
        let values = (0..shape[0] * shape[1]).map(|_| ((2.0 * random.uniform() - 1.0) * bound) as f32).collect();
        self.param(values, shape)
    }

    /// Standard normal times `deviation`.
    pub fn normal(&mut self, shape: [usize; 2], deviation: f64) -> Param<Tensor<2>> {
        let mut random = self.stream();
        let values = (0..shape[0] * shape[1]).map(|_| (random.normal() * deviation) as f32).collect();
        self.param(values, shape)
    }

    /// `blocks` orthogonal square matrices of `[size, size]`, one below the other (Saxe et al. 2013).
    pub fn orthogonal(&mut self, size: usize, blocks: usize) -> Param<Tensor<2>> {
        let mut random = self.stream();
        let values = (0..blocks).flat_map(|_| orthogonal(&mut random, size)).collect();
        self.param(values, [blocks * size, size])
    }

    /// The identity: no number is drawn.
    pub fn identity(&self, size: usize) -> Param<Tensor<2>> {
        let mut values = vec![0.0; size * size];
        values.iter_mut().step_by(size + 1).for_each(|value| *value = 1.0);
        self.param(values, [size, size])
    }

    /// A vector of given values: no number is drawn.
    pub fn constant(&self, values: Vec<f32>) -> Param<Tensor<1>> {
        let len = values.len();
        self.param(values, [len])
    }
}

/// A random orthogonal matrix: the rows of a normal matrix made orthonormal by modified Gram–Schmidt, in `f64`.
fn orthogonal(random: &mut Random, size: usize) -> Vec<f32> {
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(size);
    while rows.len() < size {
        let mut row: Vec<f64> = (0..size).map(|_| random.normal()).collect();
        // Twice is enough: the second pass removes what rounding left of the first (Kahan, in Parlett 1980).
        for _ in 0..2 {
            for done in &rows {
                let along: f64 = dot(&row, done);
                row.iter_mut().zip(done).for_each(|(value, &direction)| *value -= along * direction);
            }
        }
        let length = dot(&row, &row).sqrt();
        // A draw that lies in the span of the rows before it has no direction left; draw another.
        if length > 1e-6 {
            for value in &mut row {
                *value /= length;
            }
            rows.push(row);
        }
    }
    rows.into_iter().flatten().map(|value| value as f32).collect()
}

/// Eight partial sums, so that the additions need not wait for each other.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orthogonal_rows_have_length_one_and_no_overlap() {
        for size in [1, 2, 7, 33] {
            let values = orthogonal(&mut Random::new(1, Purpose::Initialisation, 0), size);
            for i in 0..size {
                for j in 0..size {
                    let product: f64 =
                        (0..size).map(|k| f64::from(values[i * size + k]) * f64::from(values[j * size + k])).sum();
                    let expected = f64::from(u8::from(i == j));
                    assert!((product - expected).abs() < 1e-5, "size {size}: row {i} · row {j} = {product}");
                }
            }
        }
    }

    #[test]
    fn xavier_counts_one_gates_rows() {
        let device = Device::flex();
        let weight = Initializer::new(1, &device).xavier_uniform([4 * 50, 100], 4);
        let largest = weight.val().into_data().iter::<f64>().map(f64::abs).fold(0.0, f64::max);
        let bound = (6.0f64 / 150.0).sqrt();
        assert!(largest <= bound && largest > 0.99 * bound, "{largest} against {bound}");
    }

    #[test]
    fn parameters_do_not_share_numbers() {
        let device = Device::flex();
        let mut init = Initializer::new(1, &device);
        let (first, second) = (init.normal([3, 3], 1.0), init.normal([3, 3], 1.0));
        assert_ne!(first.val().into_data(), second.val().into_data());
    }
}
