//! What a transformer has beside its linear layers: the fused operations against the composed ones, gradients included.

mod support;

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, Flex, backend_extension};
use burn::tensor::{Device, Tensor};
use refrain::nn::fused::transformer::{AttentionInputs, AttentionSpec, RotationAngles, TransformerOps, composed};
use support::{assert_close, numbers, values};

/// The same operations without an override anywhere, so that every backend runs the composed bodies.
#[backend_extension(Flex, Autodiff)]
trait ComposedOps: burn::backend::Backend {
    fn composed_rotation(angles: RotationAngles, projected: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::rotate_heads::<Self>(&angles, projected)
    }

    fn composed_attention(
        spec: AttentionSpec,
        projected: FloatTensor<Self>,
        past_keys: FloatTensor<Self>,
        past_values: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        composed::self_attention::<Self>(AttentionInputs { spec, projected, past_keys, past_values })
    }

    fn composed_norm(
        epsilon: f32,
        input: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        shift: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::layer_norm(input, gain, Some(shift), epsilon.into())
    }

    fn composed_gelu(input: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::exact_gelu::<Self>(input)
    }
}

impl ComposedOps for Flex {}
impl<C: burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy> ComposedOps for Autodiff<Flex, C> {}

type Float = FloatTensor<Dispatch>;

/// Holds two functions of some leaves against each other: their outputs, and the gradients of a weighted sum of those.
fn compare<const D: usize>(
    name: &str,
    leaves: &dyn Fn() -> Vec<Leaf>,
    fused: &dyn Fn(Vec<Float>) -> Float,
    composed: &dyn Fn(Vec<Float>) -> Float,
) {
    let run = |of: &dyn Fn(Vec<Float>) -> Float| {
        let leaves = leaves();
        let output = Tensor::<D>::from_dispatch(of(leaves.iter().map(Leaf::dispatch).collect()));
        let weights = numbers(output.dims(), 77, &output.device().inner());
        let found = values(output.clone().inner());
        let weights = Tensor::from_data(weights.into_data(), &output.device());
        let gradients = (output * weights).sum().backward();
        let gradients = leaves.iter().map(|leaf| leaf.gradient(&gradients)).collect::<Vec<_>>();
        (found, gradients)
    };
    let (found, gradients) = run(fused);
    let (expected, expected_gradients) = run(composed);
    assert_close(name, &found, &expected, 1e-5);
    for (leaf, (found, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
        assert_close(&format!("{name}, gradient of leaf {leaf}"), found, expected, 1e-5);
    }
}

/// A tensor that has a gradient.
enum Leaf {
    Vector(Tensor<1>),
    Matrix(Tensor<2>),
    Sequences(Tensor<3>),
    Heads(Tensor<4>),
}

impl Leaf {
    fn dispatch(&self) -> Float {
        match self {
            Self::Vector(tensor) => tensor.clone().into_dispatch(),
            Self::Matrix(tensor) => tensor.clone().into_dispatch(),
            Self::Sequences(tensor) => tensor.clone().into_dispatch(),
            Self::Heads(tensor) => tensor.clone().into_dispatch(),
        }
    }

    fn gradient(&self, gradients: &burn::tensor::Gradients) -> Vec<f32> {
        match self {
            Self::Vector(tensor) => values(tensor.grad(gradients).expect("reached")),
            Self::Matrix(tensor) => values(tensor.grad(gradients).expect("reached")),
            Self::Sequences(tensor) => values(tensor.grad(gradients).expect("reached")),
            Self::Heads(tensor) => values(tensor.grad(gradients).expect("reached")),
        }
    }
}

fn taken<const N: usize>(leaves: Vec<Float>) -> [Float; N] {
    leaves.try_into().expect("as many as were given")
}

#[test]
fn heads_turn_as_composed() {
    let device = Device::flex().autodiff();
    for (sizes @ [batch_size, seq_len, num_heads, head_size], sequences) in
        [([1, 1, 1, 2], 1), ([3, 5, 2, 6], 1), ([3, 5, 2, 6], 3), ([2, 17, 3, 34], 2)]
    {
        let angles: Vec<f32> = (0..sequences * seq_len * head_size / 2).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let angles = RotationAngles {
            cosines: angles.iter().map(|angle| angle.cos()).collect(),
            sines: angles.iter().map(|angle| angle.sin()).collect(),
            num_heads,
        };
        let dims = [batch_size, seq_len, 3 * num_heads * head_size];
        compare::<3>(
            &format!("{sizes:?}"),
            &|| vec![Leaf::Sequences(numbers(dims, 1, &device).require_grad())],
            &|leaves| {
                let [projected] = taken(leaves);
                <Dispatch as TransformerOps>::rotate_heads(angles.clone(), projected)
            },
            &|leaves| {
                let [projected] = taken(leaves);
                <Dispatch as ComposedOps>::composed_rotation(angles.clone(), projected)
            },
        );
    }
}

#[test]
fn attention_is_as_composed() {
    let device = Device::flex().autodiff();
    for [batch_size, num_heads, head_size, seq_len, past_len] in
        [[1, 1, 1, 1, 1], [2, 3, 2, 7, 4], [2, 2, 5, 3, 8], [1, 2, 16, 130, 3], [3, 1, 8, 1, 9]]
    {
        for (is_causal, hides) in [(true, false), (true, true), (false, false), (false, true)] {
            // Never the last of the past, so that each query sees something.
            let hidden = |at: usize| at % (past_len + seq_len) + 1 < past_len && at.is_multiple_of(3);
            let hidden: Option<Arc<[bool]>> =
                hides.then(|| (0..batch_size * (past_len + seq_len)).map(hidden).collect());
            let spec = AttentionSpec { num_heads, is_causal, hidden };
            let past = [batch_size, num_heads, past_len, head_size];
            compare::<3>(
                &format!("{batch_size} {num_heads} {head_size} {seq_len} {past_len} {is_causal} {hides}"),
                &|| {
                    vec![
                        Leaf::Sequences(
                            numbers([batch_size, seq_len, 3 * num_heads * head_size], 1, &device).require_grad(),
                        ),
                        Leaf::Heads(numbers(past, 2, &device).require_grad()),
                        Leaf::Heads(numbers(past, 3, &device).require_grad()),
                    ]
                },
                &|leaves| {
                    let [projected, keys, values] = taken(leaves);
                    <Dispatch as TransformerOps>::self_attention(spec.clone(), projected, keys, values)
                },
                &|leaves| {
                    let [projected, keys, values] = taken(leaves);
                    <Dispatch as ComposedOps>::composed_attention(spec.clone(), projected, keys, values)
                },
            );
        }
    }
}

#[test]
fn rows_are_normalised_as_composed() {
    let device = Device::flex().autodiff();
    for [rows, size] in [[1, 5], [3, 7], [70, 33]] {
        compare::<2>(
            &format!("{rows} rows of {size}"),
            &|| {
                vec![
                    Leaf::Matrix(numbers([rows, size], 1, &device).require_grad()),
                    Leaf::Vector(numbers([size], 2, &device).require_grad()),
                    Leaf::Vector(numbers([size], 3, &device).require_grad()),
                ]
            },
            &|leaves| {
                let [input, gain, shift] = taken(leaves);
                <Dispatch as TransformerOps>::normalize_rows(1e-3, input, gain, shift)
            },
            &|leaves| {
                let [input, gain, shift] = taken(leaves);
                <Dispatch as ComposedOps>::composed_norm(1e-3, input, gain, shift)
            },
        );
    }
}

#[test]
fn gelu_is_as_composed() {
    let device = Device::flex().autodiff();
    for dims in [[1, 1], [7, 33]] {
        compare::<2>(
            &format!("{dims:?}"),
            &|| vec![Leaf::Matrix((numbers(dims, 1, &device) * 3.0).detach().require_grad())],
            &|leaves| {
                let [input] = taken(leaves);
                <Dispatch as TransformerOps>::exact_gelu(input)
            },
            &|leaves| {
                let [input] = taken(leaves);
                <Dispatch as ComposedOps>::composed_gelu(input)
            },
        );
    }
}
