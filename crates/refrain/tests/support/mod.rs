//! Fixtures, comparisons and made-up tensors that the integration tests share.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

/// A file of golden tensors, made by the `make.py` beside it.
pub(crate) struct Golden {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Golden {
    /// Reads `golden/<folder>/<folder>.safetensors`. Integers become floats: token numbers are small.
    pub(crate) fn read(folder: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../golden/{folder}/{folder}.safetensors"));
        let bytes = std::fs::read(&path).expect("the fixture is in the repository");
        let file = SafeTensors::deserialize(&bytes).expect("a sound fixture");
        let tensors = file.iter().map(|(name, view)| {
            let values = match view.dtype() {
                Dtype::F32 => {
                    view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4"))).collect()
                }
                Dtype::I64 => {
                    view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8")) as f32).collect()
                }
                other => panic!("{name} is {other:?}"),
            };
            (name.to_owned(), (view.shape().to_vec(), values))
        });
        Self { tensors: tensors.collect() }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(crate) fn values(&self, name: &str) -> &[f32] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("no `{name}` in the fixture")).1
    }

    pub(crate) fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let (shape, values) = self.tensors.get(name).unwrap_or_else(|| panic!("no `{name}` in the fixture"));
        Tensor::from_data(TensorData::new(values.clone(), shape.clone()), device)
    }
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().expect("f32")
}

/// Asserts that the largest difference is at most `tolerance` times the largest magnitude of `expected`.
#[track_caller]
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    let scale = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (index, (a, b)) in found.iter().zip(expected).enumerate() {
        let difference = (a - b).abs();
        assert!(
            difference <= tolerance * scale.max(f32::MIN_POSITIVE),
            "{what}[{index}]: {a} against {b}, scale {scale}"
        );
    }
}

/// Asserts the same bits: the sign of zero counts.
#[track_caller]
pub(crate) fn assert_same_bits(what: &str, found: &[f32], expected: &[f32]) {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(found), bits(expected), "{what}");
}

/// Numbers between −1 and 1 that follow no pattern a layer could hide behind.
pub(crate) fn numbers<const D: usize>(shape: [usize; D], seed: u32, device: &Device) -> Tensor<D> {
    let count = shape.iter().product();
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}
