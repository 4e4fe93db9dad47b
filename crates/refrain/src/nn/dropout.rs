//! Dropout with counter-based masks.

use burn::backend::Dispatch;
use burn::tensor::Tensor;
use refrain_kernels::DropoutKey;

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
        let Some(schedule) = schedule.filter(|_| self.probability > 0.0) else {
            return input;
        };
        keyed(input, schedule.key(site), self.probability as f32)
    }
}

/// Variational dropout (Gal and Ghahramani 2016), also called locked dropout: a feature of a sequence is zero at every step with
/// `probability`, else divided by `1 - probability`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VariationalDropout {
    /// The share of features that become zero, in `[0, 1)`.
    pub probability: f64,
}

impl VariationalDropout {
    /// Applies the mask that `schedule` names for the place `site` of the model, as [`Dropout::forward`].
    ///
    /// # Shapes
    /// - `input` and output: `[batch_size, seq_len, num_features]`
    pub fn forward(self, input: Tensor<3>, schedule: Option<DropoutSchedule>, site: u8) -> Tensor<3> {
        let Some(schedule) = schedule.filter(|_| self.probability > 0.0) else {
            return input;
        };
        variational(input, schedule.key(site), self.probability as f32)
    }
}

/// Which masks a training pass uses: the same seed and window give the same masks on any machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutSchedule {
    seed: u64,
    window: u64,
    first_step: u64,
    first_site: usize,
}

impl DropoutSchedule {
    /// The masks of the window after `window` others, in a run of some seed.
    pub const fn new(seed: u64, window: u64) -> Self {
        Self { seed, window, first_step: 0, first_site: 0 }
    }

    /// The same for a part of the model, whose places of masks are counted from `site` on.
    #[must_use]
    pub fn at(self, site: usize) -> Self {
        Self { first_site: self.first_site + site, ..self }
    }

    /// The same for a pass that begins `step` steps into the window: masks of single steps are those of that step, a mask that is
    /// the same at every step stays the same.
    pub(super) fn after(self, step: usize) -> Self {
        Self { first_step: self.first_step + step as u64, ..self }
    }

    /// The mask of a whole window.
    pub(super) fn key(self, site: u8) -> DropoutKey {
        Self { first_step: 0, ..self }.step_key(site)
    }

    /// The masks of its steps, from the pass's first one on.
    pub(super) fn step_key(self, site: u8) -> DropoutKey {
        let site = u8::try_from(self.first_site + usize::from(site)).expect("a model has at most 256 places of masks");
        dropout_key(self.seed, self.window, self.first_step, site)
    }
}

/// Dropout by the mask of a key.
pub(super) fn keyed<const D: usize>(input: Tensor<D>, key: DropoutKey, probability: f32) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::keyed_dropout(input.into_dispatch(), key, probability))
}

/// Variational dropout by the mask of a key.
pub(super) fn variational(input: Tensor<3>, key: DropoutKey, probability: f32) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::variational_dropout(input.into_dispatch(), key, probability))
}

/// # Panics
/// If a share of units, called `name`, is not in `[0, 1)`.
pub(super) fn check_share(name: &str, share: f64) {
    assert!((0.0..1.0).contains(&share), "{name} is {share} but must be at least 0 and below 1");
}
