//! What to train with: sweeps before a run, of which nothing is trained in the end.

use refrain::files::write_atomic;
use refrain::tasks::LanguageModelData;
use refrain::train::{
    BatchPoint, BatchSweep, RateCurve, RateSweep, Recipe, RunFolder, SweepEnd, SweepPoint, TrainError,
};
use serde_json::json;

use crate::console::Console;
use crate::curve::{Curve, Sample};
use crate::failure::Usage;
use crate::memory::peak_bytes;
use crate::output;

/// What is looked for in the place of training.
#[derive(Debug, clap::Args)]
pub(super) struct FindArgs {
    /// Raise the learning rate from mini-batch to mini-batch, keep the curve of the loss in the run's folder, as
    /// learning-rate.svg and learning-rate.json, print the rate at which the loss falls fastest, and end
    #[arg(long, conflicts_with_all = ["resume", "dump_config"])]
    pub(super) find_lr: bool,
    /// Train for a moment with batches of 1, 2, 4 and so on, print the speed and the memory of each, and end
    #[arg(long, conflicts_with_all = ["resume", "dump_config", "find_lr", "run_dir"])]
    pub(super) find_batch_size: bool,
}

/// Sweeps the learning rate, keeps the curve in the folder and prints the suggestion.
pub(super) fn learning_rate(
    recipe: &Recipe,
    data: &LanguageModelData,
    folder: &RunFolder,
    json: bool,
) -> anyhow::Result<()> {
    let sweep = RateSweep::default();
    let mut console = Console::new();
    let mut step = 0;
    let curve = sweep.run(recipe, data, |point| {
        step += 1;
        console.status(&format!(
            "step {step:>4}/{}  lr {:.2e}  loss {:.4} nats  smoothed {:.4}",
            sweep.steps, point.learning_rate, point.loss_nats, point.smoothed_nats
        ));
    })?;
    let suggestion = curve.steepest().map(two_digits);
    let plot = folder.rate_plot();
    let record = json!({
        "run": folder.path().display().to_string(),
        "learning_rate": suggestion,
        "learning_rate_of_lowest_loss": curve.rate_of_lowest(),
        "end": curve.end,
        "optimizer": recipe.optimizer.name,
        "batch_size": recipe.train.batch_size,
        "seed": recipe.seed,
        "points": curve.points,
    });
    write_atomic(&folder.rate_curve(), format!("{record:#}\n").as_bytes()).map_err(TrainError::from)?;
    write_atomic(&plot, picture(&curve, recipe, suggestion).svg().as_bytes()).map_err(TrainError::from)?;
    let end = match curve.end {
        SweepEnd::Completed => "the highest rate",
        SweepEnd::Diverged => "the loss left all bounds",
    };
    console.line(&format!("swept       {} rates from {:.0e}, until {end}", curve.points.len(), sweep.lowest));
    let Some(suggestion) = suggestion else {
        return Err(Usage::error(
            format!("the loss fell at no learning rate from {:.0e} on", sweep.lowest),
            format!("look at {}, and try other sizes or another optimiser", plot.display()),
        ));
    };
    if let Some(lowest) = curve.rate_of_lowest() {
        console.line(&format!("lowest loss at {}, where a run would soon diverge", two_digits(lowest)));
    }
    console.line(&format!("steepest    at {suggestion}: the rate to begin with; the curve is in {}", plot.display()));
    if json {
        output::json(&record)
    } else {
        output::write(format!("optimizer.learning-rate={suggestion}\n").as_bytes())
    }
}

fn picture(curve: &RateCurve, recipe: &Recipe, suggestion: Option<f64>) -> Curve {
    let sample =
        |point: &SweepPoint| Sample { x: point.learning_rate, value: point.loss_nats, mean: point.smoothed_nats };
    Curve {
        title: "Loss by learning rate".to_owned(),
        subtitle: format!(
            "{}, batches of {}, from the first weights of seed {}; faint: every mini-batch, bold: its running mean",
            recipe.optimizer.name, recipe.train.batch_size, recipe.seed
        ),
        x_label: "learning rate".to_owned(),
        y_label: "loss in nats a token".to_owned(),
        samples: curve.points.iter().map(sample).collect(),
        mark: suggestion.map(|rate| (rate, format!("steepest at {rate}"))),
    }
}

/// A rate as a person would set it.
fn two_digits(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().expect("a number that was just written")
}

/// Measures batches of 1, 2, 4 … streams and prints speed and memory of each.
pub(super) fn batch_size(recipe: &Recipe, json: bool) -> anyhow::Result<()> {
    let sweep = BatchSweep::default();
    let mut console = Console::new();
    let points = sweep.run(recipe, peak_bytes, |point| {
        console.passing(&format!("batches of {}: {:.0} tokens/s", point.batch_size, point.tokens_per_second));
    })?;
    console.clear();
    let smallest = sweep.smallest_of_the_fastest(&points);
    if json {
        return output::json(&json!({ "batch_size": smallest, "points": points }));
    }
    let header = format!("{:>10} {:>12} {:>12} {:>12}\n", "batch-size", "tokens/s", "ms/step", "peak MiB");
    let row = |point: &BatchPoint| {
        let BatchPoint { batch_size, tokens_per_second, seconds_per_step, peak_bytes } = point;
        let memory = peak_bytes.map_or_else(|| "unknown".to_owned(), |bytes| (bytes >> 20).to_string());
        format!("{batch_size:>10} {tokens_per_second:>12.0} {:>12.1} {memory:>12}\n", 1e3 * seconds_per_step)
    };
    let table: String = std::iter::once(header).chain(points.iter().map(row)).collect();
    output::write(table.as_bytes())?;
    if let Some(size) = smallest {
        console
            .line(&format!("{size} is the smallest that is as fast as any; how well a size trains, this does not say"));
    }
    Ok(())
}
