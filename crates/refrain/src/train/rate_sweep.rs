//! The learning-rate range test: what the loss does while the rate rises (Smith 2017, section 3.3).

use burn::tensor::Device;
use serde::Serialize;

use super::error::TrainError;
use super::plan::Plan;
use super::recipe::Recipe;
use super::step::Learner;
use crate::optim::Optimizer;
use crate::tasks::LanguageModelData;

/// A sweep of learning rates from mini-batch to mini-batch, each the same factor above the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateSweep {
    /// The first learning rate.
    pub lowest: f64,
    /// The last.
    pub highest: f64,
    /// Mini-batches.
    pub steps: u64,
    /// How much of the running mean of the loss each step keeps.
    pub smoothing: f64,
    /// The sweep ends where the smoothed loss is this many times its lowest value.
    pub divergence: f64,
}

impl Default for RateSweep {
    fn default() -> Self {
        Self {
            // from where no optimiser moves to above the 20 to 30 of plain gradient descent on recurrent models
            lowest: 1e-6,
            highest: 100.0,
            // twenty a decade
            steps: 161,
            // a memory of five steps, a quarter of a decade: a longer one shifts the curve to the right
            smoothing: 0.8,
            // fastai, LRFinder
            divergence: 4.0,
        }
    }
}

/// One mini-batch of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SweepPoint {
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The mean loss before the step, in nats a token.
    pub loss_nats: f64,
    /// Its running mean.
    pub smoothed_nats: f64,
}

/// How a sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SweepEnd {
    /// At the highest rate.
    Completed,
    /// Before it: the loss had left all bounds.
    Diverged,
}

/// The loss by the learning rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RateCurve {
    /// In the order of the sweep.
    pub points: Vec<SweepPoint>,
    /// How it ended.
    pub end: SweepEnd,
}

impl RateSweep {
    /// The learning rate of step `step`, counted from 0.
    fn rate(&self, step: u64) -> f64 {
        let share = step as f64 / (self.steps - 1).max(1) as f64;
        self.lowest * (self.highest / self.lowest).powf(share)
    }

    /// Trains a model of the recipe's first weights, which is thrown away; `progress` hears of every step.
    ///
    /// The recipe's optimiser, clipping and all else of a step are as in training; its learning rate and schedule are not used.
    ///
    /// # Errors
    /// When the recipe has a value out of range.
    pub fn run(
        &self,
        recipe: &Recipe,
        data: &LanguageModelData,
        mut progress: impl FnMut(&SweepPoint),
    ) -> Result<RateCurve, TrainError> {
        recipe.validate()?;
        let device = Device::flex().autodiff();
        let model = recipe.model.init(data.vocabulary.len(), recipe.seed, &device);
        let mut learner = Learner::new(recipe, &data.train, model, Optimizer::new(recipe.optimizer.clone()), None);
        let plan = Plan::new(data.train.len(), recipe.train.accumulate, u64::MAX, Some(self.steps));
        let mut curve = RateCurve { points: Vec::new(), end: SweepEnd::Completed };
        let (mut mean, mut lowest) = (0.0, f64::INFINITY);
        for step in 0..self.steps {
            let learning_rate = self.rate(step);
            let report = match learner.step(&data.train, &plan, recipe, (step, learning_rate), &device) {
                // Here this is no failure but what the sweep looks for.
                Err(TrainError::NotFinite(_)) => {
                    curve.end = SweepEnd::Diverged;
                    break;
                }
                report => report?,
            };
            let loss_nats = report.total_nats / report.tokens as f64;
            mean = self.smoothing * mean + (1.0 - self.smoothing) * loss_nats;
            // Divided by the weights so far: the mean begins at 0, which no loss was.
            let smoothed_nats = mean / (1.0 - self.smoothing.powf((step + 1) as f64));
            lowest = smoothed_nats.min(lowest);
            let point = SweepPoint { learning_rate, loss_nats, smoothed_nats };
            progress(&point);
            curve.points.push(point);
            if smoothed_nats > self.divergence * lowest {
                curve.end = SweepEnd::Diverged;
                break;
            }
        }
        Ok(curve)
    }
}

impl RateCurve {
    /// Points on either side that a slope is taken over.
    const REACH: usize = 2;

    /// Where the smoothed loss is lowest.
    fn lowest(&self) -> Option<usize> {
        let by_loss = |a: &usize, b: &usize| self.points[*a].smoothed_nats.total_cmp(&self.points[*b].smoothed_nats);
        (0..self.points.len()).min_by(by_loss)
    }

    /// The rate at which the smoothed loss falls fastest, by the logarithm of the rate, before it is lowest: the one to begin with.
    /// None if it never falls.
    pub fn steepest(&self) -> Option<f64> {
        let lowest = self.lowest()?;
        let fall = |&middle: &usize| {
            self.points[middle + Self::REACH].smoothed_nats - self.points[middle - Self::REACH].smoothed_nats
        };
        let last = (lowest + 1).min(self.points.len().saturating_sub(Self::REACH));
        let middle = (Self::REACH..last).min_by(|a, b| fall(a).total_cmp(&fall(b)))?;
        (fall(&middle) < 0.0).then(|| self.points[middle].learning_rate)
    }

    /// The rate at which the smoothed loss is lowest: already too high to train with.
    pub fn rate_of_lowest(&self) -> Option<f64> {
        self.lowest().map(|lowest| self.points[lowest].learning_rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(losses: &[f64]) -> RateCurve {
        let point = |(place, &loss): (usize, &f64)| SweepPoint {
            learning_rate: 10f64.powi(place as i32),
            loss_nats: loss,
            smoothed_nats: loss,
        };
        RateCurve { points: losses.iter().enumerate().map(point).collect(), end: SweepEnd::Completed }
    }

    #[test]
    fn rates_rise_by_the_same_factor_from_the_lowest_to_the_highest() {
        let sweep = RateSweep { lowest: 1e-3, highest: 10.0, steps: 5, ..RateSweep::default() };
        for (step, expected) in [1e-3, 1e-2, 1e-1, 1.0, 10.0].into_iter().enumerate() {
            let rate = sweep.rate(step as u64);
            assert!((rate / expected - 1.0).abs() < 1e-12, "{rate}");
        }
    }

    #[test]
    fn the_steepest_fall_is_suggested() {
        let found = curve(&[4.0, 4.0, 4.0, 3.9, 3.5, 2.6, 2.3, 2.2, 2.3, 4.0, 9.0]);
        assert_eq!(found.steepest(), Some(1e4));
        assert_eq!(found.rate_of_lowest(), Some(1e7));
    }

    #[test]
    fn a_loss_that_never_falls_suggests_nothing() {
        assert_eq!(curve(&[4.0, 4.1, 4.2, 4.3, 4.4, 4.5]).steepest(), None);
        assert_eq!(curve(&[]).steepest(), None);
        assert_eq!(curve(&[]).rate_of_lowest(), None);
        assert_eq!(curve(&[4.0, 3.0]).steepest(), None, "two points are no curve");
    }
}
