//! The learning rate of each step.

use serde::{Deserialize, Serialize};

use super::config::{ScheduleConfig, ScheduleKind, StepUnit};

/// The learning rate as a function of the step, for a learning rate η, W warm-up steps and T steps in all.
///
/// Step t counts from 0, epoch e = ⌊t / steps per epoch⌋ too. The rate is
///
/// ```text
/// rate(t) = η · min(1, (t + 1) / W) · f(t)
/// ```
///
/// with
///
/// | schedule | f(t) |
/// |---|---|
/// | constant | 1 |
/// | exponential | γ^max(0, e + 2 − start-epoch) |
/// | step | γ^⌊e / step-size⌋, or γ^⌊t / step-size⌋ if the unit is steps |
/// | cosine | m + (1 − m) · ½ · (1 + cos(π · (t − W) / (T − W))) from step W on, 1 before; m is min-factor |
/// | cyclical | m + (1 − m) · (1 − abs(t / s − 2k − 1)), s being step-size in steps and k = ⌊t / 2s⌋; m is min-factor |
/// | inverse-square-root | √(W / (t + 1)) from step W on, 1 before; W is at least 1 |
/// | plateau | starts at 1; multiplied by factor, but not below m, at each loss that exhausts the patience |
///
/// Exponential with γ = 0.97 and start-epoch = 11 is char-rnn's decay after epoch 10 (`train.lua`); with γ = 0.5 and
/// start-epoch = 5 it is the small Penn Treebank model's (Zaremba et al. 2014, section 4.1). Step is `StepLR` of
/// `torch.optim`, plateau its `ReduceLROnPlateau` with a relative threshold, cosine Loshchilov & Hutter 2017, equation 5,
/// without restarts, cyclical the triangular policy of Smith 2017, section 3.1; inverse-square-root is Vaswani et al. 2017, equation 3, scaled to reach η at the end of the warm-up.
#[derive(Debug, Clone)]
pub struct Schedule {
    config: ScheduleConfig,
    learning_rate: f64,
    total_steps: u64,
    steps_per_epoch: u64,
    state: ScheduleState,
}

/// What a plateau schedule has seen so far; the others leave it as it is.
///
/// To resume exactly, write the numbers so that they read back to the same bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ScheduleState {
    /// What the learning rate is multiplied by now.
    pub factor: f64,
    /// The lowest validation loss so far.
    pub best_loss: Option<f64>,
    /// Evaluations since it fell.
    pub evaluations_without_improvement: u64,
}

impl Default for ScheduleState {
    fn default() -> Self {
        Self { factor: 1.0, best_loss: None, evaluations_without_improvement: 0 }
    }
}

impl Schedule {
    /// A schedule at its beginning; `learning_rate` is η, the highest rate it gives.
    pub fn new(config: &ScheduleConfig, learning_rate: f64, total_steps: u64, steps_per_epoch: u64) -> Self {
        Self {
            config: config.clone(),
            learning_rate,
            total_steps,
            steps_per_epoch: steps_per_epoch.max(1),
            state: ScheduleState::default(),
        }
    }

    /// The same schedule, going on from `state`.
    #[must_use]
    pub fn resume(self, state: ScheduleState) -> Self {
        Self { state, ..self }
    }

    /// What has to be kept to go on later.
    pub fn state(&self) -> &ScheduleState {
        &self.state
    }

    /// The learning rate of step `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        let warmup = self.config.warmup_steps;
        let rise = if step < warmup { (step + 1) as f64 / warmup as f64 } else { 1.0 };
        self.learning_rate * rise * self.factor(step)
    }

    /// Takes note of a validation loss, which may lower the rate of a plateau schedule. NaN is no improvement.
    pub fn observe(&mut self, valid_loss: f64) {
        if self.config.name != ScheduleKind::Plateau {
            return;
        }
        let state = &mut self.state;
        if state.best_loss.is_none_or(|best| valid_loss < best - best.abs() * self.config.threshold) {
            // A first loss of NaN must not stand for the best.
            state.best_loss = Some(valid_loss).filter(|loss| !loss.is_nan());
            state.evaluations_without_improvement = 0;
            return;
        }
        state.evaluations_without_improvement += 1;
        if state.evaluations_without_improvement > self.config.patience {
            state.evaluations_without_improvement = 0;
            state.factor = (state.factor * self.config.factor).max(self.config.min_factor);
        }
    }

    fn factor(&self, step: u64) -> f64 {
        let ScheduleConfig { warmup_steps: warmup, gamma, step_size, min_factor, .. } = self.config;
        let epoch = step / self.steps_per_epoch;
        match self.config.name {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Exponential => power(gamma, (epoch + 2).saturating_sub(self.config.start_epoch)),
            ScheduleKind::Cyclical => {
                let half = match self.config.unit {
                    StepUnit::Epochs => step_size.saturating_mul(self.steps_per_epoch),
                    StepUnit::Steps => step_size,
                };
                let half = half.max(1);
                let within = (step % half.saturating_mul(2)) as f64 / half as f64;
                min_factor + (1.0 - min_factor) * (1.0 - (within - 1.0).abs())
            }
            ScheduleKind::Step => {
                let elapsed = match self.config.unit {
                    StepUnit::Epochs => epoch,
                    StepUnit::Steps => step,
                };
                power(gamma, elapsed / step_size.max(1))
            }
            ScheduleKind::Cosine => {
                let length = self.total_steps.saturating_sub(warmup).max(1) as f64;
                let elapsed = step.saturating_sub(warmup) as f64;
                let angle = std::f64::consts::PI * (elapsed / length).min(1.0);
                min_factor + (1.0 - min_factor) * 0.5 * (1.0 + angle.cos())
            }
            ScheduleKind::InverseSquareRoot => {
                let warmup = warmup.max(1) as f64;
                (warmup / (step as f64 + 1.0).max(warmup)).sqrt()
            }
            ScheduleKind::Plateau => self.state.factor,
        }
    }
}

/// `gamma` to a whole power that may be beyond `i32`.
fn power(gamma: f64, exponent: u64) -> f64 {
    gamma.powi(i32::try_from(exponent).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "the hand values are exact in binary")]

    use proptest::prelude::*;

    use super::*;

    fn config(name: ScheduleKind) -> ScheduleConfig {
        ScheduleConfig { name, ..ScheduleConfig::default() }
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1e-3), "{found} is not {expected}");
    }

    /// The rates at the start of the epochs numbered from 1, at 100 steps each.
    fn epochs(config: &ScheduleConfig, learning_rate: f64, epochs: &[u64]) -> Vec<f64> {
        let schedule = Schedule::new(config, learning_rate, 5000, 100);
        epochs.iter().map(|epoch| schedule.rate((epoch - 1) * 100)).collect()
    }

    #[test]
    fn char_rnn_decays_after_epoch_10() {
        let rates = epochs(&config(ScheduleKind::Exponential), 2e-3, &[1, 10, 11, 12, 50]);
        for (found, expected) in
            rates.iter().zip([2e-3, 2e-3, 2e-3 * 0.97, 2e-3 * 0.97 * 0.97, 2e-3 * 0.97_f64.powi(40)])
        {
            close(*found, expected);
        }
    }

    #[test]
    fn penn_treebank_halves_from_epoch_5() {
        // ptb_word_lm.py: lr_decay ** max(i + 1 - max_epoch, 0) with max_epoch = 4 and i from 0.
        let config = ScheduleConfig { gamma: 0.5, start_epoch: 5, ..config(ScheduleKind::Exponential) };
        assert_eq!(epochs(&config, 1.0, &[1, 4, 5, 6, 13]), [1.0, 1.0, 0.5, 0.25, 0.5_f64.powi(9)]);
        let schedule = Schedule::new(&config, 1.0, 1300, 100);
        assert_eq!((schedule.rate(399), schedule.rate(400), schedule.rate(499)), (1.0, 0.5, 0.5));
    }

    #[test]
    fn step_counts_epochs_or_steps() {
        let by_epoch = ScheduleConfig { gamma: 0.1, step_size: 2, ..config(ScheduleKind::Step) };
        for (found, expected) in epochs(&by_epoch, 1.0, &[1, 2, 3, 4, 5]).iter().zip([1.0, 1.0, 0.1, 0.1, 0.01]) {
            close(*found, expected);
        }
        let by_step = ScheduleConfig { unit: StepUnit::Steps, step_size: 30, gamma: 0.5, ..by_epoch };
        let schedule = Schedule::new(&by_step, 1.0, 100, 10);
        assert_eq!([0, 29, 30, 59, 60].map(|step| schedule.rate(step)), [1.0, 1.0, 0.5, 0.5, 0.25]);
    }

    #[test]
    fn cosine_falls_from_the_end_of_the_warmup_to_the_last_step() {
        let config = ScheduleConfig { warmup_steps: 10, min_factor: 0.1, ..config(ScheduleKind::Cosine) };
        let schedule = Schedule::new(&config, 2.0, 110, 10);
        for (step, expected) in [(0, 0.2), (4, 1.0), (9, 2.0), (10, 2.0), (60, 1.1), (110, 0.2), (500, 0.2)] {
            close(schedule.rate(step), expected);
        }
        close(schedule.rate(35), 2.0 * (0.1 + 0.9 * 0.5 * (1.0 + std::f64::consts::FRAC_PI_4.cos())));
    }

    #[test]
    fn cyclical_rises_and_falls_by_steps_or_epochs() {
        let by_step =
            ScheduleConfig { unit: StepUnit::Steps, step_size: 4, min_factor: 0.5, ..config(ScheduleKind::Cyclical) };
        let schedule = Schedule::new(&by_step, 2.0, 100, 10);
        assert_eq!([0, 2, 4, 6, 8, 12].map(|step| schedule.rate(step)), [1.0, 1.5, 2.0, 1.5, 1.0, 2.0]);
        let by_epoch = ScheduleConfig { unit: StepUnit::Epochs, step_size: 2, ..by_step };
        let schedule = Schedule::new(&by_epoch, 2.0, 1000, 10);
        assert_eq!([0, 10, 20, 40, 60].map(|step| schedule.rate(step)), [1.0, 1.5, 2.0, 1.0, 2.0]);
    }

    #[test]
    fn inverse_square_root_peaks_at_the_end_of_the_warmup() {
        let config = ScheduleConfig { warmup_steps: 4, ..config(ScheduleKind::InverseSquareRoot) };
        let schedule = Schedule::new(&config, 1.0, 100, 10);
        assert_eq!([0, 1, 2, 3, 15, 63].map(|step| schedule.rate(step)), [0.25, 0.5, 0.75, 1.0, 0.5, 0.25]);
        let cold = Schedule::new(&self::config(ScheduleKind::InverseSquareRoot), 1.0, 100, 10);
        assert_eq!([0, 3, 8].map(|step| cold.rate(step)), [1.0, 0.5, 1.0 / 3.0]);
    }

    #[test]
    fn plateau_waits_for_its_patience_and_stops_at_its_least() {
        let config = ScheduleConfig {
            factor: 0.5,
            patience: 1,
            threshold: 0.1,
            min_factor: 0.2,
            ..config(ScheduleKind::Plateau)
        };
        let mut schedule = Schedule::new(&config, 20.0, 100, 10);
        let mut rates = Vec::new();
        // 9.5 is not a tenth below 10; 8 is.
        for loss in [10.0, 9.5, 8.0, 8.0, f64::NAN, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0] {
            schedule.observe(loss);
            rates.push(schedule.rate(7));
        }
        assert_eq!(rates, [20.0, 20.0, 20.0, 20.0, 10.0, 10.0, 5.0, 5.0, 4.0, 4.0, 4.0]);
    }

    #[test]
    fn plateau_by_default_divides_by_4_at_the_first_loss_that_is_no_better() {
        let mut schedule = Schedule::new(&config(ScheduleKind::Plateau), 20.0, 100, 10);
        let rates = [5.0, 4.0, 4.0, 3.0, 3.5].map(|loss| {
            schedule.observe(loss);
            schedule.rate(0)
        });
        assert_eq!(rates, [20.0, 20.0, 5.0, 5.0, 1.25]);
    }

    #[test]
    fn a_first_loss_of_nan_is_not_the_best() {
        let mut schedule = Schedule::new(&config(ScheduleKind::Plateau), 1.0, 100, 10);
        schedule.observe(f64::NAN);
        schedule.observe(3.0);
        assert_eq!((schedule.state().best_loss, schedule.rate(0)), (Some(3.0), 1.0));
    }

    proptest! {
        #[test]
        fn a_resumed_schedule_is_the_one_that_was_stopped(
            losses in proptest::collection::vec(0.0..10.0_f64, 1..30), cut in 0_usize..30, kind in 0_usize..ScheduleKind::ALL.len(),
        ) {
            let config = ScheduleConfig { patience: 2, ..config(ScheduleKind::ALL[kind]) };
            let new = || Schedule::new(&config, 2e-3, 1000, 7);
            let mut whole = new();
            let mut stopped = new();
            for (step, loss) in losses.iter().enumerate() {
                if step == cut {
                    let json = serde_json::to_string(stopped.state()).unwrap();
                    stopped = new().resume(serde_json::from_str(&json).unwrap());
                }
                whole.observe(*loss);
                stopped.observe(*loss);
                prop_assert_eq!(whole.rate(step as u64).to_bits(), stopped.rate(step as u64).to_bits());
            }
        }

        #[test]
        fn rates_stay_between_zero_and_the_learning_rate(step in 0_u64..u64::MAX / 2, kind in 0_usize..ScheduleKind::ALL.len(), warmup in 0_u64..50) {
            let config = ScheduleConfig { warmup_steps: warmup, ..config(ScheduleKind::ALL[kind]) };
            let rate = Schedule::new(&config, 30.0, 1000, 7).rate(step);
            prop_assert!((0.0..=30.0).contains(&rate));
        }
    }
}
