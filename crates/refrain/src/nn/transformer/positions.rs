//! Where steps stand: turned queries and keys, or learned vectors.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::TransformerState;
use crate::nn::Embedding;

/// The angles of one pass, as cosines and sines: each `[batch_size, 1, seq_len, head_size / 2]`, or 1 in place of the batch
/// size where all sequences stand at the same step.
#[derive(Debug)]
pub(super) struct Rotations {
    cosines: Tensor<4>,
    sines: Tensor<4>,
}

impl Rotations {
    /// For steps at these positions, a row a sequence or one row for all.
    pub(super) fn new(base: f64, head_size: usize, positions: &[Vec<usize>], device: &Device) -> Self {
        let half = head_size / 2;
        let frequencies: Vec<f64> = (0..half).map(|pair| base.powf(-2.0 * pair as f64 / head_size as f64)).collect();
        // In f64: an f32 angle of position 10 000 would be off by 5e-4.
        let angles = || positions.iter().flatten().flat_map(|&at| frequencies.iter().map(move |f| at as f64 * f));
        let shape = [positions.len(), 1, positions[0].len(), half];
        let tensor = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, shape), device);
        Self {
            cosines: tensor(angles().map(|angle| angle.cos() as f32).collect()),
            sines: tensor(angles().map(|angle| angle.sin() as f32).collect()),
        }
    }

    /// Turns each pair of features, `i` and `i + head_size / 2` (in Su et al. 2021 neighbours: the same but for the order of
    /// features, which the weights are free to choose).
    ///
    /// # Shapes
    /// - `heads` and output: `[batch_size, num_heads, seq_len, head_size]`
    pub(super) fn turn(&self, heads: Tensor<4>) -> Tensor<4> {
        let half = heads.dims()[3] / 2;
        let (x, y) = (heads.clone().narrow(3, 0, half), heads.narrow(3, half, half));
        let (cosines, sines) = (&self.cosines, &self.sines);
        let turned = [x.clone() * cosines.clone() - y.clone() * sines.clone(), y * cosines.clone() + x * sines.clone()];
        Tensor::cat(turned.into(), 3)
    }
}

/// The vectors of the next `seq_len` positions: `[batch_size, seq_len, hidden_size]`, or 1 in place of the batch size.
///
/// # Panics
/// If a step within `lengths` stands beyond the last vector.
pub(super) fn learned(embedding: &Embedding, state: &TransformerState, lengths: &[usize], seq_len: usize) -> Tensor<3> {
    let [max_len, _] = embedding.weight.dims();
    let longest = state.lengths().iter().zip(lengths).map(|(past, length)| past + length).max().unwrap_or_default();
    assert!(longest <= max_len, "a sequence has {longest} steps but the learned positions are {max_len}");
    let positions = state.positions(seq_len);
    // Padding stands anywhere: what is added to it is not seen.
    let indices: Vec<i64> = positions.iter().flatten().map(|&at| at.min(max_len - 1) as i64).collect();
    let shape = [positions.len(), seq_len];
    embedding.forward(Tensor::<2, Int>::from_data(TensorData::new(indices, shape), &embedding.weight.device()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::values;

    #[test]
    fn a_product_depends_on_the_distance_alone() {
        let device = Device::flex();
        let head = |offset: f32| {
            let values = (0..10).map(|i| (i as f32 * 1.7 + offset).sin()).collect::<Vec<_>>();
            Tensor::<4>::from_data(TensorData::new(values, [1, 1, 1, 10]), &device)
        };
        let product = |query_at: usize, key_at: usize| {
            let turn = |head, at| Rotations::new(10_000.0, 10, &[vec![at]], &device).turn(head);
            values((turn(head(0.3), query_at) * turn(head(2.0), key_at)).sum())[0]
        };
        for distance in [0, 1, 7, 100] {
            let expected = product(distance, 0);
            for shift in [1, 50, 9_000] {
                let found = product(distance + shift, shift);
                assert!(
                    (found - expected).abs() < 1e-4,
                    "{distance} apart from {shift} on: {found} against {expected}"
                );
            }
        }
        assert!((product(1, 0) - product(0, 0)).abs() > 0.1, "the distance makes no difference");
        assert!((product(1, 0) - product(0, 1)).abs() > 0.1, "before and after are the same");
    }
}
