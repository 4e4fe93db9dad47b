//! `refrain compare`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use refrain::data::grouped;
use refrain::experiment::{Comparison, ComparisonError, Contender, Plan, Run, Trained};
use refrain::files::FileError;
use refrain::train::{
    CONFIG, EvalRecord, Finish, METRICS, MetricsLog, Observer, Outcome, Recipe, RunFolder, Stop, TrainError,
    TrainRecord, Trainer,
};

use super::train::{Signals, load_data, resolve};
use crate::console::{Console, duration};
use crate::engine::{self, EngineArgs, at_least_one};
use crate::failure::Usage;
use crate::output;

/// Train models of equal parameters by one recipe, and write the table
///
/// For each cell and number of layers, `model.hidden-size` is solved so that the parameters, embedding and head included, come as
/// near --parameters as they can; a transformer's feed-forward units are fitted besides. All are trained alike, with each seed,
/// and stand under the floor of 5-grams counted on the same tokens. What a cell does not have of the recipe is left out for it.
///
/// The folder gets table.md and table.json after each run. The same command goes on where it was stopped: a run that is in the
/// folder is not trained again.
///
/// For example: refrain compare --output runs/table --steps 300
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A recipe (.toml) or a text file [default: the built-in recipe]
    source: Option<PathBuf>,
    /// The folder of the table
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// What to compare: rnn, rnn-relu, lstm, gru, min-gru, rnn-layer-norm, lstm-layer-norm, gru-layer-norm, transformer
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = Contender::DEFAULT)]
    cells: Vec<String>,
    /// Numbers of layers, each for every cell
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "1,2,3,4", value_parser = at_least_one)]
    layers: Vec<NonZeroUsize>,
    /// Seeds, each for every model
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Parameters that each model comes near
    #[arg(long, value_name = "N", default_value = "200000", value_parser = at_least_one)]
    parameters: NonZeroUsize,
    /// Steps of each run [default: as the recipe says]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    steps: Option<NonZeroUsize>,
    /// Set a key of the recipe for all; may be repeated
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// Set a key for one cell, such as transformer:optimizer.learning-rate=0.001; may be repeated
    #[arg(long, value_name = "CELL:KEY.PATH=VALUE")]
    set_for: Vec<String>,
    /// Print the results as one JSON object instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let contenders = args.cells.iter().map(|name| Contender::named(name)).collect::<Result<Vec<_>, _>>()?;
    let own = args.set_for.iter().map(|text| for_one(text, &contenders)).collect::<anyhow::Result<Vec<_>>>()?;
    let steps = args.steps.map(|steps| format!("train.max-steps={steps}"));
    let set: Vec<String> = args.set.iter().cloned().chain(steps).collect();
    let base = resolve(args.source.as_deref(), &set)?;
    let engine = args.engine.install()?;
    let data = load_data(&base)?;
    let plans = plans(args, &base, &contenders, &own, data.vocabulary.len())?;

    std::fs::create_dir_all(&args.output).map_err(|error| FileError::new("create", &args.output, error))?;
    let mut console = Console::new();
    let there = Comparison::read(&args.output, &data.fingerprint, args.parameters.get())?;
    let mut comparison = there.unwrap_or_else(|| {
        console.line("counting 5-grams, the floor");
        let (corpus, valid) = (data.fingerprint.clone(), data.summary.valid);
        Comparison::new(corpus, args.parameters.get(), valid, engine.clone(), data.floor())
    });
    // All of them before the first is trained: a mistake is told at once.
    let mut left = Vec::new();
    for plan in plans {
        if comparison.run_of(&plan, &args.output)?.is_none() {
            left.push(plan);
        }
    }
    comparison.write(&args.output)?;
    console.line(&format!("computing   {engine}{}", engine::products(base.model.precision)));
    console.line(&format!("runs        {} to train, {} there", left.len(), comparison.runs.len()));
    let mut watcher = Watcher { console, signals: Signals::install()?, name: String::new() };
    let begun = Instant::now();
    for (index, plan) in left.iter().enumerate() {
        let number = format!("{}/{}", index + 1, left.len());
        let Some(run) = train(plan, &args.output, &mut watcher)? else {
            watcher.console.line("stopped; the same command goes on");
            return Ok(ExitCode::from(130));
        };
        let outcome = run.trained.map_or_else(
            || "diverged".to_owned(),
            |Trained { best_loss_nats, seconds, tokens_per_second, .. }| {
                let speed = grouped(tokens_per_second.round() as u64);
                format!("valid {best_loss_nats:.4} nats  after {}  {speed} tokens/s", duration(seconds))
            },
        );
        let seconds_left = begun.elapsed().as_secs_f64() / (index + 1) as f64 * (left.len() - index - 1) as f64;
        watcher.console.line(&format!(
            "{number:>7}  {:<26} {:>10} parameters  {outcome}  left {}",
            run.name,
            grouped(run.parameters as u64),
            duration(seconds_left),
        ));
        comparison.add(run, &args.output)?;
    }
    if args.json {
        let mut value = serde_json::to_value(&comparison)?;
        value["rows"] = serde_json::to_value(comparison.rows())?;
        output::json(&value)?;
    } else {
        output::write(comparison.to_markdown().as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A key for one contender.
fn for_one(text: &str, contenders: &[Contender]) -> anyhow::Result<(&'static str, String)> {
    let (name, set) = text.split_once(':').ok_or_else(|| {
        Usage::error(
            format!("--set-for {text}: there is no `:`"),
            "write it as --set-for CELL:table.key=value, such as gru:optimizer.learning-rate=0.002",
        )
    })?;
    let contender = Contender::named(name)?;
    if !contenders.contains(&contender) {
        return Err(Usage::error(format!("--set-for {text}: {name} is not compared"), "add it to --cells"));
    }
    Ok((contender.name, set.to_owned()))
}

/// What to train, seed by seed: after the first of them the table has all its rows.
fn plans(
    args: &Args,
    base: &Recipe,
    contenders: &[Contender],
    own: &[(&'static str, String)],
    vocab_size: usize,
) -> Result<Vec<Plan>, ComparisonError> {
    let mut plans = Vec::new();
    for &seed in &args.seeds {
        for &contender in contenders {
            let overrides = own.iter().filter(|(name, _)| *name == contender.name);
            let overrides: Vec<String> = overrides.map(|(_, set)| set.clone()).collect();
            for layers in &args.layers {
                let (shape, budget) = ((layers.get(), seed), (args.parameters.get(), vocab_size));
                plans.push(Plan::new(base, contender, shape, budget, &overrides)?);
            }
        }
    }
    Ok(plans)
}

/// Trains a model, or goes on with it; none if it was stopped. What the folder of the run leaves is not kept.
fn train(plan: &Plan, folder: &Path, watcher: &mut Watcher) -> anyhow::Result<Option<Run>> {
    let path = folder.join(plan.name());
    let data = load_data(&plan.recipe)?;
    let (targets, windows) = (data.train.targets(), data.train.len());
    let trainer = if path.join(CONFIG).exists() {
        Trainer::resume(plan.recipe.clone(), data, RunFolder::open(&path).map_err(TrainError::from)?)?
    } else {
        Trainer::start(plan.recipe.clone(), data, RunFolder::create(&path).map_err(TrainError::from)?)?
    };
    watcher.name = plan.name();
    let trained = match trainer.run(watcher) {
        Ok(Outcome { reason: Finish::Stopped(_), .. }) => return Ok(None),
        Ok(Outcome { step, best, .. }) => {
            let best = best.context("a run that has ended has a best model")?;
            let seconds = MetricsLog::resume(&path.join(METRICS), step)?.seconds();
            let steps_per_epoch = windows.div_ceil(plan.recipe.train.accumulate);
            let tokens_per_second = step as f64 * targets as f64 / steps_per_epoch as f64 / seconds;
            let (best_loss_nats, best_step) = (best.loss_nats, best.step);
            Some(Trained { steps: step, best_loss_nats, best_step, seconds, tokens_per_second })
        }
        // An answer too: by this recipe the model does not train.
        Err(TrainError::NotFinite(error)) => {
            watcher.note(&error.to_string());
            None
        }
        Err(error) => return Err(error.into()),
    };
    std::fs::remove_dir_all(&path).map_err(|error| FileError::new("remove", &path, error))?;
    let model = &plan.recipe.model;
    Ok(Some(Run {
        name: plan.name(),
        cell: plan.contender.name.to_owned(),
        num_layers: model.num_layers,
        hidden_size: model.hidden_size.of(0),
        parameters: plan.parameters,
        seed: plan.recipe.seed,
        trained,
        recipe: plan.recipe_toml(),
    }))
}

/// Shows which run is under way, and listens for Ctrl-C.
struct Watcher {
    console: Console,
    signals: Signals,
    name: String,
}

impl Observer for Watcher {
    fn trained(&mut self, record: &TrainRecord, seconds_left: f64) {
        self.console.passing(&format!(
            "{}  step {}  loss {:.4} nats  {} tokens/s  left {}",
            self.name,
            record.step,
            record.loss_nats,
            grouped(record.tokens_per_second.round() as u64),
            duration(seconds_left),
        ));
    }

    fn evaluated(&mut self, _record: &EvalRecord, _best: bool) {}

    fn sampled(&mut self, _step: u64, _text: &str) {}

    fn note(&mut self, note: &str) {
        self.console.line(&format!("note: {}: {note}", self.name));
    }

    fn stop(&mut self) -> Option<Stop> {
        self.signals.received()
    }
}
