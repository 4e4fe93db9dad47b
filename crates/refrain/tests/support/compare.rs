//! Comparisons.

use burn::tensor::Tensor;

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
