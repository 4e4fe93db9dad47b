//! Initial weights, drawn from counter-based streams: a parameter's values depend on the seed and its place alone.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use crate::random::{Purpose, Random};

/// How a matrix of weights begins. Where one parameter holds those of several gates, each is a matrix of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InitialWeights {
    /// Uniform in `±sqrt(6 / (rows + columns))` (Glorot and Bengio 2010, equation 16).
    XavierUniform,
    /// Normal of variance `2 / (rows + columns)` (Glorot and Bengio 2010, equation 12).
    XavierNormal,
    /// Uniform in `±sqrt(6 / columns)`, of the variance of [`HeNormal`](Self::HeNormal).
    HeUniform,
    /// Normal of variance `2 / columns` (He et al. 2015, equation 10), for what goes through a rectifier; also called Kaiming.
    HeNormal,
    /// Uniform in `±bound`.
    Uniform {
        /// The largest magnitude.
        bound: f64,
    },
    /// Normal of mean 0.
    Normal {
        /// The standard deviation.
        deviation: f64,
    },
    /// Random and orthogonal (Saxe et al. 2013): of rows and columns, those of which there are fewer have length 1 and no overlap.
    Orthogonal,
    /// Ones on the diagonal: what a rectified layer begins with (the IRNN of Le et al. 2015).
    Identity,
}

/// The forget gate's initial bias in an LSTM: what it remembers before it has learned anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ForgetBias {
    /// The same for each unit.
    Constant(f64),
    /// Each unit forgets at a pace of its own: `ln U(1, max_steps - 1)`, and its negative for the input gate, if it has weights of
    /// its own (Tallec and Ollivier 2018). Such a unit remembers for 2 to `max_steps` steps.
    Chrono {
        /// The longest dependencies to expect, in steps: 2 at least.
        max_steps: usize,
    },
}

impl Default for ForgetBias {
    /// 1 (Jozefowicz et al. 2015).
    fn default() -> Self {
        Self::Constant(1.0)
    }
}

impl From<f64> for ForgetBias {
    fn from(bias: f64) -> Self {
        Self::Constant(bias)
    }
}

/// Draws the parameters of a model one after another.
#[derive(Debug)]
pub struct Initializer<'a> {
    /// None where nothing is drawn.
    seed: Option<u64>,
    next: u64,
    device: &'a Device,
}

impl<'a> Initializer<'a> {
    /// An initializer whose parameters live on `device`.
    pub fn new(seed: u64, device: &'a Device) -> Self {
        Self { seed: Some(seed), next: 0, device }
    }

    /// An initializer that draws nothing: zeros stand in place of random numbers, for a model whose parameters are read from a file.
    pub(crate) fn blank(device: &'a Device) -> Self {
        Self { seed: None, next: 0, device }
    }

    /// Where the parameters live.
    pub(super) fn device(&self) -> &'a Device {
        self.device
    }

    /// The numbers that `draw` makes of the next stream, `len` of them.
    fn drawn(&mut self, len: usize, draw: impl FnOnce(&mut Random) -> Vec<f32>) -> Vec<f32> {
        let stream = self.next;
        self.next += 1;
        match self.seed {
            Some(seed) => draw(&mut Random::new(seed, Purpose::Initialisation, stream)),
            None => vec![0.0; len],
        }
    }

    fn param<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    /// Weights of `blocks` matrices of `[rows / blocks, columns]`, one below the other.
    pub fn weights(&mut self, begin: InitialWeights, shape: [usize; 2], blocks: usize) -> Param<Tensor<2>> {
        let [rows, columns] = shape;
        let (fan_in, both) = (columns as f64, (rows / blocks + columns) as f64);
        match begin {
            InitialWeights::XavierUniform => self.xavier_uniform(shape, blocks),
            InitialWeights::XavierNormal => self.normal(shape, (2.0 / both).sqrt()),
            InitialWeights::HeUniform => self.uniform(shape, (6.0 / fan_in).sqrt()),
            InitialWeights::HeNormal => self.normal(shape, (2.0 / fan_in).sqrt()),
            InitialWeights::Uniform { bound } => self.uniform(shape, bound),
            InitialWeights::Normal { deviation } => self.normal(shape, deviation),
            InitialWeights::Orthogonal => self.orthogonal(shape, blocks),
            InitialWeights::Identity => self.identity(shape, blocks),
        }
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
        let len = shape[0] * shape[1];
        let values =
            self.drawn(len, |random| (0..len).map(|_| ((2.0 * random.uniform() - 1.0) * bound) as f32).collect());
        self.param(values, shape)
    }

    /// Standard normal times `deviation`.
    pub fn normal(&mut self, shape: [usize; 2], deviation: f64) -> Param<Tensor<2>> {
        let len = shape[0] * shape[1];
        let values = self.drawn(len, |random| (0..len).map(|_| (random.normal() * deviation) as f32).collect());
        self.param(values, shape)
    }

    /// `blocks` random matrices of `[rows / blocks, columns]`, one below the other, whose rows are orthonormal, or their columns
    /// where there are fewer of them (Saxe et al. 2013).
    pub fn orthogonal(&mut self, [rows, columns]: [usize; 2], blocks: usize) -> Param<Tensor<2>> {
        let values = self.drawn(rows * columns, |random| {
            (0..blocks).flat_map(|_| orthogonal(random, [rows / blocks, columns])).collect()
        });
        self.param(values, [rows, columns])
    }

    /// `blocks` identities of `[rows / blocks, columns]`, one below the other: no number is drawn.
    pub fn identity(&self, [rows, columns]: [usize; 2], blocks: usize) -> Param<Tensor<2>> {
        let ones = (0..rows).map(|row| row % (rows / blocks));
        let values = ones.flat_map(|one| (0..columns).map(move |column| f32::from(u8::from(column == one))));
        self.param(values.collect(), [rows, columns])
    }

    /// The biases of an LSTM's input and forget gate. No number is drawn for a constant.
    ///
    /// # Panics
    /// If dependencies are to be of fewer than two steps.
    pub(super) fn gate_biases(&mut self, begin: ForgetBias, size: usize) -> [Vec<f32>; 2] {
        match begin {
            ForgetBias::Constant(bias) => [vec![0.0; size], vec![bias as f32; size]],
            ForgetBias::Chrono { max_steps } => {
                assert!(max_steps >= 2, "chrono initialisation for {max_steps} steps: dependencies are of 2 at least");
                let forget = self.drawn(size, |random| {
                    let mut draw = || (1.0 + random.uniform() * (max_steps - 2) as f64).ln() as f32;
                    (0..size).map(|_| draw()).collect()
                });
                [forget.iter().map(|bias| -bias).collect(), forget]
            }
        }
    }

    /// A vector of given values: no number is drawn.
    pub fn constant(&self, values: Vec<f32>) -> Param<Tensor<1>> {
        let len = values.len();
        self.param(values, [len])
    }
}

/// A random matrix of orthonormal rows, or columns where those are fewer.
fn orthogonal(random: &mut Random, [rows, columns]: [usize; 2]) -> Vec<f32> {
    let directions = orthonormal(random, rows.min(columns), rows.max(columns));
    if rows <= columns {
        return directions.into_iter().flatten().map(|value| value as f32).collect();
    }
    (0..rows).flat_map(|row| directions.iter().map(move |direction| direction[row] as f32)).collect()
}

/// Random vectors of length one without overlap: normal ones by modified Gram–Schmidt, in `f64`.
fn orthonormal(random: &mut Random, count: usize, size: usize) -> Vec<Vec<f64>> {
    let mut vectors: Vec<Vec<f64>> = Vec::with_capacity(count);
    while vectors.len() < count {
        let mut vector: Vec<f64> = (0..size).map(|_| random.normal()).collect();
        // Twice is enough: the second pass removes what rounding left of the first (Kahan, in Parlett 1980).
        for _ in 0..2 {
            for done in &vectors {
                let along: f64 = dot(&vector, done);
                vector.iter_mut().zip(done).for_each(|(value, &direction)| *value -= along * direction);
            }
        }
        let length = dot(&vector, &vector).sqrt();
        // A draw that lies in the span of those before it has no direction left; draw another.
        if length > 1e-6 {
            for value in &mut vector {
                *value /= length;
            }
            vectors.push(vector);
        }
    }
    vectors
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
    fn orthogonal_rows_or_columns_have_length_one_and_no_overlap() {
        for [rows, columns] in [[1, 1], [2, 2], [7, 7], [33, 33], [5, 9], [9, 5], [1, 4], [4, 1]] {
            let values = orthogonal(&mut Random::new(1, Purpose::Initialisation, 0), [rows, columns]);
            let at = |index: usize, along: usize| {
                let place = if rows <= columns { index * columns + along } else { along * columns + index };
                f64::from(values[place])
            };
            for i in 0..rows.min(columns) {
                for j in 0..rows.min(columns) {
                    let product: f64 = (0..rows.max(columns)).map(|k| at(i, k) * at(j, k)).sum();
                    let expected = f64::from(u8::from(i == j));
                    assert!((product - expected).abs() < 1e-5, "[{rows}, {columns}]: {i} · {j} = {product}");
                }
            }
        }
    }

    #[test]
    fn every_block_is_orthogonal_on_its_own() {
        let device = Device::flex();
        let weight = Initializer::new(1, &device).orthogonal([8, 4], 2).val();
        let [first, second] = [0, 4].map(|begin| weight.clone().narrow(0, begin, 4));
        for block in [&first, &second] {
            let product: Vec<f32> = block.clone().matmul(block.clone().transpose()).into_data().try_into_vec().unwrap();
            for (index, value) in product.iter().enumerate() {
                assert!((value - f32::from(u8::from(index % 5 == 0))).abs() < 1e-5, "{product:?}");
            }
        }
        assert_ne!(first.into_data(), second.into_data());
    }

    #[test]
    fn uniform_and_normal_weights_have_the_variance_of_their_paper() {
        let device = Device::flex();
        // Two blocks of 150 rows.
        let shape = [300, 50];
        let cases = [
            (InitialWeights::XavierUniform, 2.0 / 200.0, 3f64.sqrt()),
            (InitialWeights::XavierNormal, 2.0 / 200.0, 3.5),
            (InitialWeights::HeUniform, 2.0 / 50.0, 3f64.sqrt()),
            (InitialWeights::HeNormal, 2.0 / 50.0, 3.5),
            (InitialWeights::Uniform { bound: 0.3 }, 0.03, 3f64.sqrt()),
            (InitialWeights::Normal { deviation: 0.3 }, 0.09, 3.5),
        ];
        for (begin, variance, largest) in cases {
            let values = Initializer::new(1, &device).weights(begin, shape, 2).val().into_data();
            let values: Vec<f64> = values.iter::<f64>().map(|value| value / f64::sqrt(variance)).collect();
            let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / 15_000.0;
            let average = mean(&mut values.iter().copied());
            assert!(average.abs() < 0.04, "{begin:?}: {average}");
            let square = mean(&mut values.iter().map(|value| value * value));
            assert!((square - 1.0).abs() < 0.05, "{begin:?}: {square}");
            // Beyond the end of a uniform distribution there is nothing, beyond 3.5 deviations of a normal one a little.
            let beyond = values.iter().filter(|value| value.abs() > largest * (1.0 + 1e-6)).count();
            assert_eq!(beyond > 0, largest > 2.0, "{begin:?}: {beyond}");
            assert!(beyond < 25, "{begin:?}: {beyond}");
            let fourth = mean(&mut values.iter().map(|value| value.powi(4)));
            let expected = if largest > 2.0 { 3.0 } else { 1.8 };
            assert!((fourth - expected).abs() < 0.25, "{begin:?}: {fourth}");
        }
    }

    #[test]
    fn identities_lie_one_below_the_other() {
        let device = Device::flex();
        let identity = |shape, blocks| -> Vec<f32> {
            Initializer::new(1, &device).identity(shape, blocks).val().into_data().try_into_vec().unwrap()
        };
        assert_eq!(identity([4, 2], 2), [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!(identity([2, 3], 1), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(identity([3, 2], 1), [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
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
    fn a_blank_parameter_has_its_shape_and_no_numbers() {
        let device = Device::flex();
        let mut init = Initializer::blank(&device);
        let blank = [
            init.uniform([4, 3], 1.0),
            init.normal([4, 3], 1.0),
            init.orthogonal([4, 3], 2),
            init.weights(InitialWeights::XavierUniform, [4, 3], 1),
        ];
        for weight in blank {
            assert_eq!(weight.val().into_data(), TensorData::zeros::<f32, _>([4, 3]));
        }
    }

    #[test]
    fn parameters_do_not_share_numbers() {
        let device = Device::flex();
        let mut init = Initializer::new(1, &device);
        let (first, second) = (init.normal([3, 3], 1.0), init.normal([3, 3], 1.0));
        assert_ne!(first.val().into_data(), second.val().into_data());
    }
}
