//! Made-up tensors.

use burn::tensor::{Device, Tensor, TensorData};

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
