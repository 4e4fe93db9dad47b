//! `refrain train`.

mod find;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use refrain::data::{BUILTIN_PREFIX, TextSummary, grouped};
use refrain::files::FileError;
use refrain::tasks::{LanguageModelData, NGramScore, text_score};
use refrain::train::{
    BEST, BUILT_IN, EvalRecord, Finish, Observer, Outcome, Recipe, RunFolder, Stop, TrainError, TrainRecord, Trainer,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use self::find::FindArgs;
use crate::console::{Console, duration};
use crate::engine::{self, EngineArgs};
use crate::failure::Usage;
use crate::output;

/// Train a model: on the bundled Shakespeare, on any text file, or by a recipe
///
/// Without an argument the built-in recipe trains a character model on the bundled Shakespeare. A text file is read as
/// UTF-8, UTF-16 or GB18030, whichever it is; the decision is shown, and --set data.encoding=NAME overrules it. A file
/// ending in .toml is a recipe; --dump-config prints the complete recipe and trains nothing.
///
/// --find-lr and --find-batch-size train nothing that is kept: they tell what a recipe may be given before it is trained.
///
/// Ctrl-C saves, scores the best model and ends; --resume goes on later, to the same bytes. A second Ctrl-C ends at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A recipe (.toml) or a text file [default: the built-in recipe]
    source: Option<PathBuf>,
    /// Set a key of the recipe, such as model.hidden-size=512; may be repeated
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// The run's folder, new or empty [default: runs/NAME-001, or the next free number]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    run_dir: Option<PathBuf>,
    /// Go on with the run in this folder; a recipe or --set given besides must agree with the run's
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
    /// Print the complete recipe that these arguments make, and end
    #[arg(long, conflicts_with = "resume")]
    dump_config: bool,
    #[command(flatten)]
    find: FindArgs,
    /// Print the outcome, or the dumped recipe, as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(folder) = &args.resume else {
        let recipe = resolve(args.source.as_deref(), &args.set)?;
        if args.dump_config {
            if args.json {
                output::json(&recipe.to_json())?;
            } else {
                output::write(recipe.to_toml().as_bytes())?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let engine = args.engine.install()?;
        if args.find.find_batch_size {
            return find::batch_size(&recipe, args.json).map(|()| ExitCode::SUCCESS);
        }
        let data = load_data(&recipe)?;
        let folder = match &args.run_dir {
            Some(dir) => RunFolder::create(dir).map_err(TrainError::from)?,
            None => RunFolder::create_unique(Path::new("runs"), &stem(args.source.as_deref(), &recipe))
                .map_err(TrainError::from)?,
        };
        if args.find.find_lr {
            return find::learning_rate(&recipe, &data, &folder, args.json).map(|()| ExitCode::SUCCESS);
        }
        let trainer = Trainer::start(recipe.clone(), data, folder)?;
        return train(trainer, &recipe, &engine, args.json);
    };
    let folder = RunFolder::open(folder).map_err(TrainError::from)?;
    let config = folder.config();
    let recipe = read_recipe(&config, &[])?;
    if args.source.is_some() || !args.set.is_empty() {
        let wanted = match &args.source {
            Some(source) => resolve(Some(source), &args.set)?,
            None => read_recipe(&config, &args.set)?,
        };
        let differences = recipe.difference(&wanted);
        if !differences.is_empty() {
            return Err(TrainError::OtherRecipe { run: folder.path().to_owned(), differences }.into());
        }
    }
    let engine = args.engine.install()?;
    let data = load_data(&recipe)?;
    let trainer = Trainer::resume(recipe.clone(), data, folder)?;
    train(trainer, &recipe, &engine, args.json)
}

fn toml_string(path: &str) -> String {
    serde_json::to_string(path).expect("text has a JSON form, which is a TOML string")
}

/// How much of a sample is shown while training; all of it is in samples/.
const SAMPLE_LINES: usize = 6;

/// What errors call the recipe that comes with the program.
const BUILT_IN_NAME: &str = "the built-in recipe";

/// The recipe that the arguments make.
pub(super) fn resolve(source: Option<&Path>, set: &[String]) -> anyhow::Result<Recipe> {
    match source {
        Some(path) if path.extension().is_some_and(|extension| extension == "toml") => read_recipe(path, set),
        Some(path) => {
            // Before anything else: a mistyped name is the likeliest mistake.
            std::fs::metadata(path).map_err(|reason| FileError::new("read", path, reason))?;
            let path = path
                .to_str()
                .ok_or_else(|| Usage::error(format!("{}: the name is not UTF-8", path.display()), "rename the file"))?;
            let text = format!("data.train={}", toml_string(path));
            let set: Vec<String> = std::iter::once(text).chain(set.iter().cloned()).collect();
            Ok(Recipe::with_overrides(BUILT_IN, BUILT_IN_NAME, &set)?)
        }
        None => Ok(Recipe::with_overrides(BUILT_IN, BUILT_IN_NAME, set)?),
    }
}

fn read_recipe(path: &Path, set: &[String]) -> anyhow::Result<Recipe> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|reason| FileError::new("read", path, reason))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        Usage::error(format!("{name}: a recipe is UTF-8, this is not at byte offset {offset}"), "save it as UTF-8")
    })?;
    Ok(Recipe::with_overrides(&text, &name, set)?)
}

/// The name that a run of these arguments goes by.
fn stem(source: Option<&Path>, recipe: &Recipe) -> String {
    let stem = source.and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
    stem.unwrap_or_else(|| recipe.data.train.trim_start_matches(BUILTIN_PREFIX).to_owned())
}

pub(super) fn load_data(recipe: &Recipe) -> anyhow::Result<LanguageModelData> {
    let train = &recipe.train;
    let shape = [train.batch_size, train.seq_len];
    let mut console = Console::new();
    // Seconds pass where it trains a tokenizer.
    console.passing(&format!("reading the text as {}", recipe.data.tokens.plural()));
    let data = LanguageModelData::load(&recipe.data, Path::new(""), shape, train.eval_batch_size);
    console.clear();
    Ok(data.map_err(TrainError::from)?)
}

fn train(trainer: Trainer, recipe: &Recipe, engine: &str, json: bool) -> anyhow::Result<ExitCode> {
    let mut console = Console::new();
    summarise(&mut console, &trainer, recipe, engine);
    let folder = trainer.folder().to_owned();
    let valid = trainer.data().summary.valid;
    let (_, total_steps) = trainer.steps();
    let mut watcher = Watcher { console, signals: Signals::install()?, total_steps };
    let outcome = trainer.run(&mut watcher)?;
    finish(&mut watcher.console, &outcome, &valid, &folder, json)
}

fn summarise(console: &mut Console, trainer: &Trainer, recipe: &Recipe, engine: &str) {
    let data = trainer.data();
    for line in data.summary.to_string().lines() {
        console.line(line);
    }
    let train = &recipe.train;
    console.line(&format!(
        "batches     {} streams of {} tokens, windows of {}; {} targets an epoch; unused at the end: {} tokens, and {} \
         of the validation text",
        train.batch_size,
        grouped((data.train.targets() / train.batch_size) as u64),
        train.seq_len,
        grouped(data.train.targets() as u64),
        data.train.unused_tokens(),
        data.valid.unused_tokens(),
    ));
    let tensors = trainer.model().to_tensors();
    console.line("");
    for tensor in &tensors {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let count = grouped(tensor.values.len() as u64);
        console.line(&format!("{:<29} {:>14} {:>12}", tensor.name, shape.join(" × "), count));
    }
    let parameters: usize = tensors.iter().map(|tensor| tensor.values.len()).sum();
    console.line(&format!(
        "model       {} {} × {}, {} parameters, f32",
        recipe.model.num_layers,
        recipe.model.cell,
        recipe.model.hidden_size,
        grouped(parameters as u64)
    ));
    console.line(&format!("computing   {engine}{}", engine::products(recipe.model.precision)));
    let (step, total) = trainer.steps();
    console.line(&format!("run         {}, step {step} of {}", trainer.folder().display(), grouped(total)));
    console.line("");
}

fn finish(
    console: &mut Console,
    outcome: &Outcome,
    valid: &TextSummary,
    folder: &Path,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let resume = format!("go on with: refrain train --resume {}", folder.display());
    let (reason, code) = match outcome.reason {
        Finish::Completed => ("completed", ExitCode::SUCCESS),
        Finish::OutOfPatience => ("out of patience", ExitCode::SUCCESS),
        Finish::Stopped(Stop::Interrupt) => ("interrupted", ExitCode::from(130)),
        Finish::Stopped(Stop::Terminate) => ("terminated", ExitCode::from(143)),
    };
    console.line(&format!("{reason} at step {}; saved in {}", grouped(outcome.step), folder.display()));
    if let Some(best) = &outcome.best {
        console.line(&format!(
            "best model  step {}, valid {:.4} nats, {}: {}",
            grouped(best.step),
            best.loss_nats,
            text_score(valid, best.loss_nats),
            folder.join(BEST).display()
        ));
    }
    let beside = outcome.floor.zip(outcome.best.as_ref());
    if let Some((NGramScore { order, score, .. }, best)) = beside {
        let times = score.value() / text_score(valid, best.loss_nats).value();
        console.line(&format!(
            "beside it   {order}-grams, modified Kneser-Ney, on the same tokens: {score} (×{times:.2} of the model's)"
        ));
    }
    if matches!(outcome.reason, Finish::Stopped(_)) {
        console.line(&resume);
    }
    if json {
        let score = text_score(valid, outcome.best.as_ref().map_or(f64::NAN, |best| best.loss_nats));
        output::json(&serde_json::json!({
            "reason": reason,
            "run": folder.display().to_string(),
            "step": outcome.step,
            "best_step": outcome.best.as_ref().map(|best| best.step),
            "best_loss_nats": outcome.best.as_ref().map(|best| best.loss_nats),
            format!("best_{}", score.name()): score.value(),
            "floor_loss_nats": outcome.floor.map(|floor| floor.loss_nats),
            format!("floor_{}", score.name()): outcome.floor.map(|floor| floor.score.value()),
            "sample": outcome.best.as_ref().map(|best| &best.sample),
        }))?;
    } else if let Some(best) = &outcome.best {
        console.line("");
        output::write(format!("{}\n", best.sample).as_bytes())?;
    }
    Ok(code)
}

/// Shows progress, and listens for Ctrl-C.
struct Watcher {
    console: Console,
    signals: Signals,
    total_steps: u64,
}

impl Observer for Watcher {
    fn trained(&mut self, record: &TrainRecord, seconds_left: f64) {
        self.console.status(&format!(
            "step {:>6}/{}  epoch {:>2}  loss {:.4} nats  {}  {:>7} tokens/s  left {:>7}  lr {:.2e}  grad {:.3}",
            record.step,
            self.total_steps,
            record.epoch,
            record.loss_nats,
            record.score,
            grouped(record.tokens_per_second.round() as u64),
            duration(seconds_left),
            record.learning_rate,
            record.gradient_norm,
        ));
    }

    fn evaluated(&mut self, record: &EvalRecord, best: bool) {
        self.console.line(&format!(
            "step {:>6}/{}  epoch {:>2}  valid {:.4} nats  {}  after {}{}",
            record.step,
            self.total_steps,
            record.epoch,
            record.loss_nats,
            record.score,
            duration(record.seconds),
            if best { "  best so far" } else { "" },
        ));
    }

    fn sampled(&mut self, _step: u64, text: &str) {
        for line in text.trim_matches('\n').lines().take(SAMPLE_LINES) {
            self.console.line(&format!("  │ {line}"));
        }
    }

    fn note(&mut self, note: &str) {
        self.console.line(&format!("note: {note}"));
    }

    fn stop(&mut self) -> Option<Stop> {
        self.signals.received()
    }
}

/// The first signal asks the run to end; a second one ends the process at once.
pub(super) struct Signals {
    received: Arc<AtomicUsize>,
}

impl Signals {
    pub(super) fn install() -> anyhow::Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        let armed = Arc::new(AtomicBool::new(false));
        for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
            // In this order: the first signal arms, the second finds it armed.
            flag::register_conditional_shutdown(signal, code, Arc::clone(&armed))?;
            flag::register(signal, Arc::clone(&armed))?;
            flag::register_usize(signal, Arc::clone(&received), signal as usize)?;
        }
        Ok(Self { received })
    }

    pub(super) fn received(&self) -> Option<Stop> {
        match self.received.load(Ordering::SeqCst) as i32 {
            SIGINT => Some(Stop::Interrupt),
            SIGTERM => Some(Stop::Terminate),
            _ => None,
        }
    }
}
