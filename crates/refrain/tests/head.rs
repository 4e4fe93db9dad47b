//! The fused linear head, its loss and keyed dropout against the composed ones, gradients included.

mod support;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Dispatch, Flex, backend_extension};
use burn::module::Param;
use burn::tensor::{Device, Int, Tensor};
use refrain::kernels::DropoutKey;
use refrain::nn::fused::{FusedOps, composed};
use refrain::nn::{Linear, Precision};
use support::{assert_close, numbers, values};

/// `[num_tokens, hidden_size, vocab_size]`
const SIZES: [[usize; 3]; 5] = [[1, 1, 2], [3, 5, 7], [17, 33, 65], [129, 16, 31], [40, 2, 300]];

/// The same operations without an override anywhere, so that every backend runs the composed bodies.
#[backend_extension(Flex, Autodiff)]
trait ComposedHead: burn::backend::Backend {
    fn composed_losses(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        composed::token_losses::<Self>(hidden, weight, bias, targets)
    }

    fn composed_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        label_smoothing: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::linear_cross_entropy::<Self>(hidden, weight, bias, targets, label_smoothing)
    }

    fn composed_linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        composed::linear::<Self>(input, weight, bias)
    }

    fn composed_dropout(input: FloatTensor<Self>, key: DropoutKey, probability: f32) -> FloatTensor<Self> {
        composed::keyed_dropout::<Self>(input, key, probability)
    }
}

impl ComposedHead for Flex {}
impl<C: burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy> ComposedHead for Autodiff<Flex, C> {}

struct Case {
    hidden: Tensor<2>,
    head: Linear,
    targets: Tensor<1, Int>,
}

impl Case {
    fn new([num_tokens, hidden_size, vocab_size]: [usize; 3], device: &Device) -> Self {
        let targets: Vec<i32> = (0..num_tokens).map(|row| (row * 7 % vocab_size) as i32).collect();
        Self {
            hidden: numbers([num_tokens, hidden_size], 1, device),
            head: Linear {
                weight: Param::from_tensor(numbers([vocab_size, hidden_size], 2, device)),
                bias: Param::from_tensor(numbers([vocab_size], 3, device)),
                precision: Precision::F32,
            },
            targets: Tensor::from_data(targets.as_slice(), device),
        }
    }

    fn with_gradients(self) -> Self {
        Self { hidden: self.hidden.require_grad(), ..self }
    }

    fn composed_losses(&self) -> Tensor<1> {
        Tensor::from_dispatch(<Dispatch as ComposedHead>::composed_losses(
            self.hidden.clone().into_dispatch(),
            self.head.weight.val().into_dispatch(),
            self.head.bias.val().into_dispatch(),
            self.targets.clone().into_dispatch(),
        ))
    }

    fn composed_cross_entropy(&self, label_smoothing: f32) -> [Tensor<1>; 2] {
        let (smoothed, plain) = <Dispatch as ComposedHead>::composed_cross_entropy(
            self.hidden.clone().into_dispatch(),
            self.head.weight.val().into_dispatch(),
            self.head.bias.val().into_dispatch(),
            self.targets.clone().into_dispatch(),
            label_smoothing,
        );
        [smoothed, plain].map(Tensor::from_dispatch)
    }

    fn composed_linear(&self) -> Tensor<2> {
        Tensor::from_dispatch(<Dispatch as ComposedHead>::composed_linear(
            self.hidden.clone().into_dispatch(),
            self.head.weight.val().into_dispatch(),
            self.head.bias.val().into_dispatch(),
        ))
    }

    /// The gradients of hidden states, weight and bias.
    fn gradients(&self, objective: &Tensor<1>) -> [Vec<f32>; 3] {
        let gradients = objective.backward();
        [
            values(self.hidden.grad(&gradients).expect("reached")),
            values(self.head.weight.val().grad(&gradients).expect("reached")),
            values(self.head.bias.val().grad(&gradients).expect("reached")),
        ]
    }
}

fn assert_all_close(size: [usize; 3], found: &[Vec<f32>; 3], expected: &[Vec<f32>; 3]) {
    for ((found, expected), name) in found.iter().zip(expected).zip(["hidden", "weight", "bias"]) {
        assert_close(&format!("d_{name} of {size:?}"), found, expected, 1e-5);
    }
}

#[test]
fn the_mean_loss_passes_the_gradient_that_arrives_on() {
    for size in SIZES {
        let case = Case::new(size, &Device::flex().autodiff()).with_gradients();
        let loss = case.head.cross_entropy(case.hidden.clone(), case.targets.clone());
        let composed = case.composed_losses().mean();
        assert_close("loss", &values(loss.clone().inner()), &values(composed.clone().inner()), 1e-5);
        // A scale, as accumulation over windows has, and a curve, whose own gradient is the loss.
        let objective = |loss: Tensor<1>| loss.clone() * 0.37 + loss.clone() * loss;
        assert_all_close(size, &case.gradients(&objective(loss)), &case.gradients(&objective(composed)));
    }
}

#[test]
fn smoothed_losses_and_their_gradients_are_the_composed_ones_and_the_plain_loss_stays() {
    for size in SIZES {
        for smoothing in [0.0f32, 0.1, 0.7] {
            let case = Case::new(size, &Device::flex().autodiff()).with_gradients();
            let fused = case.head.smoothed_cross_entropy(case.hidden.clone(), case.targets.clone(), smoothing.into());
            let [smoothed, plain] = case.composed_cross_entropy(smoothing);
            let name = format!("{size:?} smoothed by {smoothing}");
            assert_close(&name, &values(fused.smoothed.clone().inner()), &values(smoothed.clone().inner()), 1e-5);
            assert_close(&name, &values(fused.plain.clone().inner()), &values(plain.inner()), 1e-5);
            let own = case.head.cross_entropy(case.hidden.clone(), case.targets.clone());
            assert_eq!(values(own.inner()), values(fused.plain.inner()), "{name}");
            let objective = |loss: Tensor<1>| loss * 0.37;
            assert_all_close(size, &case.gradients(&objective(fused.smoothed)), &case.gradients(&objective(smoothed)));
            // Without gradients the forward pass is another one.
            let case = Case::new(size, &Device::flex());
            let scored = case.head.smoothed_cross_entropy(case.hidden.clone(), case.targets.clone(), smoothing.into());
            let [smoothed, _] = case.composed_cross_entropy(smoothing);
            assert_close(&name, &values(scored.smoothed), &values(smoothed), 1e-5);
        }
    }
}

#[test]
fn the_loss_of_every_token_is_the_composed_one() {
    for size in SIZES {
        let case = Case::new(size, &Device::flex());
        let found = case.head.token_losses(case.hidden.clone(), case.targets.clone());
        assert_close("losses", &values(found), &values(case.composed_losses()), 1e-5);
    }
}

#[test]
fn the_outputs_are_the_composed_ones_with_their_gradients() {
    for size in SIZES {
        let case = Case::new(size, &Device::flex());
        let found = case.head.forward(case.hidden.clone());
        assert_close("outputs", &values(found), &values(case.composed_linear()), 1e-5);
        let case = Case::new(size, &Device::flex().autodiff()).with_gradients();
        let objective = |outputs: Tensor<2>| (outputs.clone() * outputs).sum();
        let found = case.gradients(&objective(case.head.forward(case.hidden.clone())));
        assert_all_close(size, &found, &case.gradients(&objective(case.composed_linear())));
    }
}

#[test]
fn dropout_and_its_gradient_use_one_mask() {
    let device = Device::flex().autodiff();
    let key = DropoutKey { seed: 5, stream: 3 };
    for (rows, columns, probability) in [(1, 1, 0.5), (7, 13, 0.3), (33, 65, 0.9), (4, 100, 0.0)] {
        let input = numbers::<2>([rows, columns], 1, &device).require_grad();
        let gradient_of = |output: Tensor<2>| {
            let gradients = (output.clone() * output.clone()).sum().backward();
            [values(output.inner()), values(input.grad(&gradients).expect("reached"))]
        };
        let fused = <Dispatch as FusedOps>::keyed_dropout(input.clone().into_dispatch(), key, probability);
        let composed = <Dispatch as ComposedHead>::composed_dropout(input.clone().into_dispatch(), key, probability);
        let [fused, composed] = [fused, composed].map(|output| gradient_of(Tensor::from_dispatch(output)));
        assert_close("output", &fused[0], &composed[0], 1e-6);
        assert_close("d_input", &fused[1], &composed[1], 1e-6);
        let dropped = fused[0].iter().filter(|&&value| value == 0.0).count();
        assert!(probability == 0.0 || rows * columns < 50 || dropped > 0, "nothing dropped at {probability}");
    }
}

#[test]
fn rows_and_their_gradients_are_those_of_a_selection() {
    let device = Device::flex().autodiff();
    let often: Vec<i32> = (0..130).map(|at| at * 7 % 65).collect();
    for (matrix_rows, row_size, rows) in [(1, 1, vec![0]), (7, 5, vec![3, 0, 3, 6, 3]), (65, 17, often)] {
        let matrix = numbers::<2>([matrix_rows, row_size], 1, &device).require_grad();
        let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &device);
        let gradient_of = |output: Tensor<2>| {
            let gradients = (output.clone() * output.clone()).sum().backward();
            [values(output.inner()), values(matrix.grad(&gradients).expect("reached"))]
        };
        let found = <Dispatch as FusedOps>::select_rows(matrix.clone().into_dispatch(), rows.clone().into_dispatch());
        let found = gradient_of(Tensor::from_dispatch(found));
        assert_eq!(found, gradient_of(matrix.clone().select(0, rows)), "{matrix_rows} rows");
    }
}
