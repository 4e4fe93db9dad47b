//! The linear layer, and with it the head of a language model and its loss.

use burn::backend::Dispatch;
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use refrain_kernels::{Engine, Precision, StepMatrix, WeightFormat};

use super::Initializer;
use super::fused::FusedOps;
use super::recurrent::values;

/// Configuration of a [`Linear`] layer.
#[derive(Clone, Copy, Debug)]
pub struct LinearConfig {
    /// Features of the input.
    pub input_size: usize,
    /// Features of the output.
    pub output_size: usize,
    /// In what the factors of large products are kept.
    pub precision: Precision,
}

impl LinearConfig {
    /// A layer in full precision.
    pub fn new(input_size: usize, output_size: usize) -> Self {
        Self { input_size, output_size, precision: Precision::default() }
    }

    /// Weights uniform in `±1 / sqrt(input_size)`, PyTorch's default; bias zero.
    pub fn init(&self, init: &mut Initializer<'_>) -> Linear {
        let bound = 1.0 / (self.input_size as f64).sqrt();
        Linear {
            weight: init.uniform([self.output_size, self.input_size], bound),
            bias: init.constant(vec![0.0; self.output_size]),
            precision: self.precision,
        }
    }
}

/// `input · weightᵀ + bias`, the weight laid out as in PyTorch.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[output_size, input_size]`.
    pub weight: Param<Tensor<2>>,
    /// `[output_size]`.
    pub bias: Param<Tensor<1>>,
    /// In what the factors of large products are kept.
    #[module(skip)]
    pub precision: Precision,
}

/// A mean cross entropy with smoothed targets, and the one that is comparable with others.
#[derive(Clone, Debug)]
pub struct SmoothedCrossEntropy {
    /// What training makes smaller, `[1]`.
    pub smoothed: Tensor<1>,
    /// Without smoothing and without gradients, `[1]`.
    pub plain: Tensor<1>,
}

/// [`Linear::smoothed_cross_entropy`] with a weight and a bias that need be nobody's parameters.
pub(crate) fn smoothed_cross_entropy(
    precision: Precision,
    input: Tensor<2>,
    (weight, bias): (Tensor<2>, Tensor<1>),
    targets: Tensor<1, Int>,
    label_smoothing: f64,
) -> SmoothedCrossEntropy {
    let (smoothed, plain) = <Dispatch as FusedOps>::linear_cross_entropy(
        precision,
        input.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        targets.into_dispatch(),
        label_smoothing as f32,
    );
    SmoothedCrossEntropy { smoothed: Tensor::from_dispatch(smoothed), plain: Tensor::from_dispatch(plain) }
}

impl Linear {
    /// The weight in `format` and the bias, for products with few rows.
    pub fn step_matrix(&self, format: WeightFormat) -> (StepMatrix, Vec<f32>) {
        let [rows, cols] = self.weight.dims();
        let weight = values(self.weight.val());
        (StepMatrix::new(&Engine::current(), format, &weight, rows, cols), values(self.bias.val()))
    }

    /// The outputs themselves.
    ///
    /// # Shapes
    /// - `input`: `[rows, input_size]`
    /// - output: `[rows, output_size]`
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        Tensor::from_dispatch(<Dispatch as FusedOps>::linear(
            self.precision,
            input.into_dispatch(),
            self.weight.val().into_dispatch(),
            self.bias.val().into_dispatch(),
        ))
    }

    /// [`Linear::forward`] at each step of sequences.
    ///
    /// # Shapes
    /// - `input`: `[batch_size, seq_len, input_size]`
    /// - output: `[batch_size, seq_len, output_size]`
    pub fn forward_steps(&self, input: Tensor<3>) -> Tensor<3> {
        let [batch_size, seq_len, input_size] = input.dims();
        let [output_size] = self.bias.dims();
        if batch_size * seq_len == 0 {
            // A size of 0 handed to a reshape means the size as it was.
            return Tensor::zeros([batch_size, seq_len, output_size], &input.device());
        }
        self.forward(input.reshape([batch_size * seq_len, input_size])).reshape([batch_size, seq_len, output_size])
    }

    /// The mean cross entropy of softmax over the outputs, in nats: `[1]`. The outputs are computed in chunks of 128 MiB at
    /// most, which do not outlive it.
    ///
    /// # Shapes
    /// - `input`: `[num_tokens, input_size]`
    /// - `targets`: `[num_tokens]`
    pub fn cross_entropy(&self, input: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        self.smoothed_cross_entropy(input, targets, 0.0).smoothed
    }

    /// [`Linear::cross_entropy`] with smoothed targets: of the probability of each, the share `label_smoothing`, at least 0 and
    /// below 1, is spread over all outputs alike (Szegedy et al. 2016, section 7).
    ///
    /// ```text
    /// smoothed = -Σ_v q[v] log p[v]      q[v] = (1 - ε) [v = target] + ε / V
    /// ```
    pub fn smoothed_cross_entropy(
        &self,
        input: Tensor<2>,
        targets: Tensor<1, Int>,
        label_smoothing: f64,
    ) -> SmoothedCrossEntropy {
        smoothed_cross_entropy(self.precision, input, (self.weight.val(), self.bias.val()), targets, label_smoothing)
    }

    /// The cross entropy of every token, in nats: `[num_tokens]`. Shapes as [`Linear::cross_entropy`].
    pub fn token_losses(&self, input: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        Tensor::from_dispatch(<Dispatch as FusedOps>::token_losses(
            self.precision,
            input.into_dispatch(),
            self.weight.val().into_dispatch(),
            self.bias.val().into_dispatch(),
            targets.into_dispatch(),
        ))
    }
}
