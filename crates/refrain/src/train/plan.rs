//! Which windows each step trains on: a function of the step's number, so that a resumed run needs to know nothing else.

use std::ops::Range;

/// Steps, windows and epochs. Windows are counted from the beginning of the run, across epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    windows_per_epoch: u64,
    accumulate: u64,
    /// Steps in the whole run.
    pub(crate) total_steps: u64,
}

impl Plan {
    pub(crate) fn new(windows_per_epoch: usize, accumulate: usize, epochs: u64, max_steps: Option<u64>) -> Self {
        let plan = Self { windows_per_epoch: windows_per_epoch as u64, accumulate: accumulate as u64, total_steps: 0 };
        let total_steps = epochs.saturating_mul(plan.steps_per_epoch()).min(max_steps.unwrap_or(u64::MAX));
        Self { total_steps, ..plan }
    }

    /// The last step of an epoch takes the windows that are left.
    pub(crate) fn steps_per_epoch(&self) -> u64 {
        self.windows_per_epoch.div_ceil(self.accumulate)
    }

    /// The windows of step `step`, counted from 0.
    pub(crate) fn windows_of(&self, step: u64) -> Range<u64> {
        let steps = self.steps_per_epoch();
        let epoch_begin = step / steps * self.windows_per_epoch;
        let first = step % steps * self.accumulate;
        epoch_begin + first..epoch_begin + (first + self.accumulate).min(self.windows_per_epoch)
    }

    /// A window's place in its epoch.
    pub(crate) fn window_of_epoch(&self, window: u64) -> usize {
        (window % self.windows_per_epoch) as usize
    }

    /// The epoch, counted from 1, that the last of the first `steps` steps belongs to.
    pub(crate) fn epoch_after(&self, steps: u64) -> u64 {
        steps.div_ceil(self.steps_per_epoch()).max(1)
    }

    /// Passes over the text after `steps` steps, whole and part.
    pub(crate) fn epochs_after(&self, steps: u64) -> f64 {
        steps as f64 / self.steps_per_epoch() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_of_every_epoch_is_trained_on_once() {
        for (windows, accumulate) in [(1, 1), (7, 1), (7, 3), (6, 3), (2, 5)] {
            let plan = Plan::new(windows, accumulate, 3, None);
            let all: Vec<u64> = (0..plan.total_steps).flat_map(|step| plan.windows_of(step)).collect();
            assert_eq!(all, (0..3 * windows as u64).collect::<Vec<_>>(), "{windows} windows, {accumulate} a step");
        }
    }

    #[test]
    fn steps_stop_at_the_limit() {
        assert_eq!(Plan::new(10, 1, 3, Some(7)).total_steps, 7);
        assert_eq!(Plan::new(10, 1, 3, Some(70)).total_steps, 30);
    }

    #[test]
    fn an_epoch_ends_with_its_last_step() {
        let plan = Plan::new(10, 1, 3, None);
        assert_eq!([0, 1, 10, 11, 30].map(|steps| plan.epoch_after(steps)), [1, 1, 1, 2, 3]);
    }
}
