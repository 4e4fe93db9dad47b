//! Dropout with counter-based masks.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::fused::FusedOps;
use crate::random::dropout_key;

/// Inverted dropout (Srivastava et al. 2014): an element is zero with `probability`, else divided by `1 - probability`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The share of elements that become zero, in `[0, 1)`.
    pub probability: f64,
}

impl Dropout {
    /// Applies the mask that `schedule` names for the place `site` of the model; without a schedule (scoring,
    /// generating) or at probability 0 the input comes back untouched.
    pub fn forward<const D: usize>(self, input: Tensor<D>, schedule: Option<DropoutSchedule>, site: u8) -> Tensor<D> {
        let Some(DropoutSchedule { seed, window }) = schedule.filter(|_| self.probability > 0.0) else {
            return input;
        };
        let key = dropout_key(seed, window, site);
        let output = <Dispatch as FusedOps>::keyed_dropout(input.into_dispatch(), key, self.probability as f32);
        Tensor::from_dispatch(output)
    }
}

/// Which masks a training pass uses: the same seed and window give the same masks on any machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutSchedule {
    /// The run's seed.
    pub seed: u64,
    /// How many windows were trained on before this one.
    pub window: u64,
}
