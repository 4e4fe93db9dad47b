//! Where steps stand: turned queries and keys, or learned vectors.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor, TensorData};

use super::TransformerState;
use crate::nn::Embedding;
use crate::nn::fused::transformer::{RotationAngles, TransformerOps};

/// The angles of one pass, as cosines and sines: each `[sequences, seq_len, head_size / 2]`, of one sequence where all stand at the
/// same step.
#[derive(Debug)]
pub(super) struct Rotations {
    cosines: Arc<[f32]>,
    sines: Arc<[f32]>,
}

impl Rotations {
    /// For steps at these positions, a row a sequence or one row for all.
    pub(super) fn new(base: f64, head_size: usize, positions: &[Vec<usize>]) -> Self {
        let half = head_size / 2;
        let frequencies: Vec<f64> = (0..half).map(|pair| base.powf(-2.0 * pair as f64 / head_size as f64)).collect();
        // In f64: an f32 angle of position 10 000 would be off by 5e-4.
        let angles = || positions.iter().flatten().flat_map(|&at| frequencies.iter().map(move |f| at as f64 * f));
        Self {
            cosines: angles().map(|angle| angle.cos() as f32).collect(),
            sines: angles().map(|angle| angle.sin() as f32).collect(),
        }
    }

    /// Turns each pair of features of queries and keys, `i` and `i + head_size / 2` (in Su et al. 2021 neighbours: the same but for the
    /// order of features, which the weights are free to choose).
    ///
    /// # Shapes
    /// - `projected`, queries, keys and values of all heads, and output: `[batch_size, seq_len, 3 * num_heads * head_size]`
    pub(super) fn turn(&self, projected: Tensor<3>, num_heads: usize) -> Tensor<3> {
        let angles = RotationAngles { cosines: self.cosines.clone(), sines: self.sines.clone(), num_heads };
        Tensor::from_dispatch(<Dispatch as TransformerOps>::rotate_heads(angles, projected.into_dispatch()))
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
    use burn::tensor::Device;

    use super::*;
    use crate::nn::values;

    #[test]
    fn a_product_depends_on_the_distance_alone() {
        let device = Device::flex();
        let head = |offset: f32| (0..10).map(move |i| (i as f32 * 1.7 + offset).sin());
        let projected = || {
            let values = head(0.3).chain(head(2.0)).chain(head(5.0)).collect();
            Tensor::<3>::from_data(TensorData::new(values, [1, 1, 30]), &device)
        };
        let product = |query_at: usize, key_at: usize| {
            let turned = |at| values(Rotations::new(10_000.0, 10, &[vec![at]]).turn(projected(), 1));
            let (query, key) = (turned(query_at), turned(key_at));
            query[..10].iter().zip(&key[10..20]).map(|(query, key)| query * key).sum::<f32>()
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
