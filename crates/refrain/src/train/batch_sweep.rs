//! How fast a model trains at batches of different sizes, and what memory that takes.

use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use serde::Serialize;

use super::error::TrainError;
use super::plan::Plan;
use super::recipe::Recipe;
use super::step::Learner;
use crate::data::DataError;
use crate::optim::Optimizer;
use crate::tasks::LanguageModelData;

/// Batches of 1, 2, 4 and so on, each for a while; it says nothing of how well they train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchSweep {
    /// The largest batch.
    pub highest: usize,
    /// How long each is trained with, at the least, after one step that is not timed.
    pub at_least: Duration,
    /// A size is no faster than another that is within this share of it.
    pub same: f64,
}

impl Default for BatchSweep {
    fn default() -> Self {
        Self {
            // beyond this a batch is rather a larger rate's matter
            highest: 4096,
            // a few steps of a middling model
            at_least: Duration::from_secs(1),
            // what two measurements of the same differ by
            same: 0.05,
        }
    }
}

/// What one size does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BatchPoint {
    /// Streams side by side.
    pub batch_size: usize,
    /// Training speed.
    pub tokens_per_second: f64,
    /// Time of one step.
    pub seconds_per_step: f64,
    /// The most memory that the process has held so far, which is at its largest batch so far; where the system says.
    pub peak_bytes: Option<u64>,
}

impl BatchSweep {
    /// Measures one size after the other, until the text is too short for the next, or two doublings in a row were no faster.
    ///
    /// `peak_bytes` says what memory the process has held; `progress` hears of every size.
    ///
    /// # Errors
    /// When the recipe has a value out of range or the corpus cannot be read.
    pub fn run(
        &self,
        recipe: &Recipe,
        peak_bytes: impl Fn() -> Option<u64>,
        mut progress: impl FnMut(&BatchPoint),
    ) -> Result<Vec<BatchPoint>, TrainError> {
        recipe.validate()?;
        let mut points: Vec<BatchPoint> = Vec::new();
        let sizes = std::iter::successors(Some(1), |size| Some(2 * size)).take_while(|&size| size <= self.highest);
        for batch_size in sizes {
            let shape = [batch_size, recipe.train.seq_len];
            let data = match LanguageModelData::load(&recipe.data, Path::new(""), shape, recipe.train.eval_batch_size) {
                Err(DataError::TooShort { .. }) if !points.is_empty() => break,
                data => data?,
            };
            let (tokens_per_second, seconds_per_step) = self.speed(recipe, &data)?;
            let point = BatchPoint { batch_size, tokens_per_second, seconds_per_step, peak_bytes: peak_bytes() };
            progress(&point);
            points.push(point);
            if let [.., before, _, _] = points.as_slice()
                && points[points.len() - 2..]
                    .iter()
                    .all(|point| point.tokens_per_second < (1.0 + self.same) * before.tokens_per_second)
            {
                break;
            }
        }
        Ok(points)
    }

    /// Tokens a second, and seconds a step.
    fn speed(&self, recipe: &Recipe, data: &LanguageModelData) -> Result<(f64, f64), TrainError> {
        let device = Device::flex().autodiff();
        let model = recipe.model.init(data.vocabulary.len(), recipe.seed, &device);
        let mut learner = Learner::new(recipe, &data.train, model, Optimizer::new(recipe.optimizer.clone()), None);
        let plan = Plan::new(data.train.len(), recipe.train.accumulate, u64::MAX, None);
        // At a rate that moves nothing: what is timed cannot diverge.
        let mut step = |step| learner.step(&data.train, &plan, recipe, (step, 0.0), &device);
        step(0)?;
        let begun = Instant::now();
        let (mut steps, mut tokens) = (0, 0);
        while begun.elapsed() < self.at_least {
            steps += 1;
            tokens += step(steps)?.tokens;
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok((tokens as f64 / seconds, seconds / steps as f64))
    }

    /// The smallest size that is as fast as the fastest.
    pub fn smallest_of_the_fastest(&self, points: &[BatchPoint]) -> Option<usize> {
        let fastest = points.iter().map(|point| point.tokens_per_second).fold(0.0, f64::max);
        let is_as_fast = |point: &&BatchPoint| point.tokens_per_second * (1.0 + self.same) >= fastest;
        points.iter().find(is_as_fast).map(|point| point.batch_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_size_that_is_as_fast_as_any_is_named() {
        let point = |(power, &tokens_per_second): (usize, &f64)| BatchPoint {
            batch_size: 1 << power,
            tokens_per_second,
            seconds_per_step: 1.0,
            peak_bytes: None,
        };
        let points: Vec<BatchPoint> = [100.0, 180.0, 290.0, 300.0, 301.0].iter().enumerate().map(point).collect();
        let sweep = BatchSweep::default();
        assert_eq!(sweep.smallest_of_the_fastest(&points), Some(4));
        assert_eq!(sweep.smallest_of_the_fastest(&[]), None);
    }
}
