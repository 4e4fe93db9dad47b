//! The training loop: step, log, evaluate, save, until done.

use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use refrain_kernels::{Bf16Support, Engine};

use super::checkpoint::CheckpointError;
use super::error::TrainError;
use super::events::{EvalRecord, FloorRecord, LogRecord, MetricsLog, TrainRecord};
use super::observer::{BestModel, Finish, Observer, Outcome, Stop};
use super::plan::Plan;
use super::recipe::Recipe;
use super::run_folder::RunFolder;
use super::snapshot::{Averaging, Best, Progress, Snapshot, Unlogged};
use super::step::{Learner, StepReport};
use super::teacher_forcing::TeacherForcing;
use super::tensorboard::EventWriter;
use crate::data::grouped;
use crate::decode::{Constraints, Streams, prompt_tokens};
use crate::files::write_atomic;
use crate::models::{ArtefactError, LanguageModel, LanguageModelStepper, PrecisionKind, Provenance, TrainedModel};
use crate::optim::{Optimizer, OptimizerConfig, OptimizerKind, Schedule, ScheduleState};
use crate::tasks::{LanguageModelData, NGramScore, score_windows, text_score};
use crate::text::name_unknown;

/// A run under way.
pub struct Trainer {
    recipe: Recipe,
    recipe_toml: String,
    data: LanguageModelData,
    folder: RunFolder,
    device: Device,
    plan: Plan,
    schedule: Schedule,
    learner: Learner,
    progress: Progress,
    metrics: MetricsLog,
    tensorboard: EventWriter,
    /// Training time in earlier sittings.
    earlier_seconds: f64,
    notes: Vec<String>,
}

impl Trainer {
    /// A new run in `folder`, which gets the resolved recipe.
    ///
    /// # Errors
    /// When the recipe has a value out of range or the folder cannot be written.
    pub fn start(recipe: Recipe, data: LanguageModelData, folder: RunFolder) -> Result<Self, TrainError> {
        recipe.validate()?;
        write_atomic(&folder.config(), recipe.to_toml().as_bytes())?;
        Self::from_the_beginning(recipe, data, folder, &[])
    }

    /// Goes on with the run in `folder` from its last checkpoint.
    ///
    /// # Errors
    /// When the checkpoints are damaged, or the recipe or corpus is not the run's.
    pub fn resume(recipe: Recipe, data: LanguageModelData, folder: RunFolder) -> Result<Self, TrainError> {
        let loaded = match folder.checkpoints().load() {
            // Stopped before its first checkpoint: the beginning is the state that it was in.
            Err(CheckpointError::NotFound { .. }) => {
                let note = "no checkpoint yet: beginning again from step 0".to_owned();
                return Self::from_the_beginning(recipe, data, folder, &[note]);
            }
            other => other?,
        };
        let device = Device::flex().autodiff();
        let snapshot = Snapshot::from_files(&loaded.files, folder.path(), &device)?;
        let Snapshot { model, optimizer, carry, progress } = snapshot;
        // The folder's config.toml can have been edited; the checkpoint has not.
        let differences = Recipe::parse(&model.recipe, "the checkpoint's recipe")?.difference(&recipe);
        if !differences.is_empty() {
            return Err(TrainError::OtherRecipe { run: folder.path().to_owned(), differences });
        }
        if progress.corpus != data.fingerprint {
            return Err(TrainError::OtherCorpus {
                run: folder.path().to_owned(),
                source_name: recipe.data.train.clone(),
                expected: progress.corpus,
                found: data.fingerprint,
            });
        }
        let optimizer = Optimizer::resume(recipe.optimizer.clone(), progress.step, optimizer)
            .averaging_since(progress.averaging.since);
        let learner = Learner::new(&recipe, &data.train, model.model, optimizer, carry);
        Self::at(recipe, data, folder, learner, progress, &loaded.notes)
    }

    fn from_the_beginning(
        recipe: Recipe,
        data: LanguageModelData,
        folder: RunFolder,
        notes: &[String],
    ) -> Result<Self, TrainError> {
        let device = Device::flex().autodiff();
        let model = recipe.model.init(data.vocabulary.len(), recipe.seed, &device);
        let learner = Learner::new(&recipe, &data.train, model, Optimizer::new(recipe.optimizer.clone()), None);
        let progress = Progress {
            step: 0,
            corpus: data.fingerprint.clone(),
            best: None,
            evaluations_without_improvement: 0,
            schedule: ScheduleState::default(),
            averaging: Averaging::default(),
            unlogged: Unlogged::default(),
            kernel: kernel_name(recipe.model.precision),
        };
        Self::at(recipe, data, folder, learner, progress, notes)
    }

    fn at(
        recipe: Recipe,
        data: LanguageModelData,
        folder: RunFolder,
        learner: Learner,
        mut progress: Progress,
        notes: &[String],
    ) -> Result<Self, TrainError> {
        let mut notes = [folder.notes(), notes].concat();
        let unknown = data.vocabulary.unknown(&recipe.sample.prompt);
        if !unknown.is_empty() {
            let (named, tokens) = (name_unknown(&unknown), data.vocabulary.unit().plural());
            notes.push(format!(
                "the text does not have these {tokens} of `sample.prompt`: {named}; each is read as the unknown token"
            ));
        }
        let kernel = kernel_name(recipe.model.precision);
        if progress.kernel != kernel {
            let began = std::mem::replace(&mut progress.kernel, kernel);
            let kernel = &progress.kernel;
            notes.push(format!("trained with kernel {began} so far, {kernel} from here: it rounds differently"));
        }
        let train = &recipe.train;
        if let Some(samples) = train.softmax_samples {
            notes.push(format!(
                "losses of training are over about {} tokens at a time and too low to compare; those of validation are over all {}",
                grouped(samples as u64),
                grouped(data.vocabulary.len() as u64)
            ));
        }
        let plan = Plan::new(data.train.len(), train.accumulate, train.epochs, train.max_steps);
        let rate = recipe.optimizer.learning_rate;
        let schedule = Schedule::new(&recipe.schedule, rate, plan.total_steps, plan.steps_per_epoch())
            .resume(progress.schedule.clone());
        let metrics = MetricsLog::resume(&folder.metrics(), progress.step)?;
        notes.extend_from_slice(metrics.notes());
        let earlier_seconds = metrics.seconds();
        let tensorboard = EventWriter::create(&folder.tensorboard_dir(), progress.step)?;
        Ok(Self {
            recipe_toml: recipe.to_toml(),
            recipe,
            data,
            folder,
            device: Device::flex().autodiff(),
            plan,
            schedule,
            learner,
            progress,
            metrics,
            tensorboard,
            earlier_seconds,
            notes,
        })
    }

    /// The folder of the run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The corpus.
    pub fn data(&self) -> &LanguageModelData {
        &self.data
    }

    /// The model as it is.
    pub fn model(&self) -> &LanguageModel {
        self.learner.model()
    }

    /// Steps taken, and steps in the whole run.
    pub fn steps(&self) -> (u64, u64) {
        (self.progress.step, self.plan.total_steps)
    }

    /// Trains until the run is complete, out of patience or stopped, then scores the best model from its file.
    ///
    /// # Errors
    /// When a file cannot be written, or the loss is no longer finite; the last checkpoint stays as it was.
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        for note in std::mem::take(&mut self.notes) {
            observer.note(&note);
        }
        let reason = self.train(observer)?;
        let best = match reason {
            Finish::Stopped(Stop::Terminate) => None,
            _ => Some(self.score_best()?),
        };
        let floor = match reason {
            Finish::Completed | Finish::OutOfPatience if self.recipe.train.floor => Some(self.floor(observer)?),
            _ => None,
        };
        Ok(Outcome { step: self.progress.step, reason, best, floor })
    }

    /// What stands beside the model.
    fn floor(&mut self, observer: &mut dyn Observer) -> Result<NGramScore, TrainError> {
        let order = NGramScore::FLOOR_ORDER;
        observer.note(&format!("counting {order}-grams on the same tokens; train.floor = false leaves this out"));
        let floor = self.data.floor();
        let NGramScore { loss_nats, score, .. } = floor;
        self.metrics.write(&LogRecord::Floor(FloorRecord { step: self.progress.step, order, loss_nats, score }))?;
        Ok(floor)
    }

    fn train(&mut self, observer: &mut dyn Observer) -> Result<Finish, TrainError> {
        let config = self.recipe.train.clone();
        let eval_every = if config.eval_every == 0 { self.plan.steps_per_epoch() } else { config.eval_every };
        let mut clock = Clock::new(self.earlier_seconds);
        if self.progress.step == 0 {
            // So that there is a state to go back to, whatever the first epoch brings.
            self.save()?;
        }
        loop {
            let step = self.progress.step;
            if step >= self.plan.total_steps {
                return Ok(Finish::Completed);
            }
            if config.patience > 0 && self.progress.evaluations_without_improvement >= config.patience {
                return Ok(Finish::OutOfPatience);
            }
            if let Some(stop) = observer.stop() {
                self.save()?;
                return Ok(Finish::Stopped(stop));
            }

            clock.start();
            let rate = self.schedule.rate(step);
            let report = self.learner.step(&self.data.train, &self.plan, &self.recipe, (step, rate), &self.device)?;
            self.progress.step += 1;
            clock.stop(report.tokens);

            let step = self.progress.step;
            let last = step == self.plan.total_steps;
            self.progress.unlogged.nats += report.total_nats;
            self.progress.unlogged.tokens += report.tokens;
            if step.is_multiple_of(config.log_every) || last {
                self.log(&report, rate, &mut clock, observer)?;
            }
            let evaluate = step.is_multiple_of(eval_every) || last;
            if evaluate {
                self.evaluate(clock.seconds, observer)?;
            }
            let sample = if config.sample_every == 0 { evaluate } else { step.is_multiple_of(config.sample_every) };
            if sample {
                self.sample(observer)?;
            }
            if evaluate || (config.checkpoint_every > 0 && step.is_multiple_of(config.checkpoint_every)) {
                self.save()?;
            }
        }
    }

    fn log(
        &mut self,
        report: &StepReport,
        learning_rate: f64,
        clock: &mut Clock,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let Unlogged { nats, tokens } = std::mem::take(&mut self.progress.unlogged);
        let step = self.progress.step;
        let loss_nats = nats / tokens as f64;
        let tokens_per_second = clock.tokens_per_second();
        let forcing = &self.recipe.teacher_forcing;
        let teacher_forcing =
            (*forcing != TeacherForcing::default()).then(|| forcing.probability(step.saturating_sub(1)));
        let record = TrainRecord {
            step,
            epoch: self.plan.epoch_after(step),
            loss_nats,
            score: text_score(&self.data.summary.train, loss_nats),
            learning_rate,
            teacher_forcing,
            gradient_norm: report.gradient_norm,
            tokens_per_second,
            seconds: clock.seconds,
        };
        self.metrics.write(&LogRecord::Train(record.clone()))?;
        for (tag, value) in [
            ("train/loss_nats", record.loss_nats),
            (&format!("train/{}", record.score.name()), record.score.value()),
            ("train/learning_rate", record.learning_rate),
            ("train/gradient_norm", record.gradient_norm),
            ("train/tokens_per_second", record.tokens_per_second),
        ] {
            self.tensorboard.scalar(tag, step, value)?;
        }
        if let Some(probability) = teacher_forcing {
            self.tensorboard.scalar("train/teacher_forcing", step, probability)?;
        }
        let steps_left = (self.plan.total_steps - step) as f64;
        let tokens_per_step = self.data.train.targets() as f64 / self.plan.steps_per_epoch() as f64;
        observer.trained(&record, steps_left * tokens_per_step / tokens_per_second);
        Ok(())
    }

    fn evaluate(&mut self, seconds: f64, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let step = self.progress.step;
        let model = self.judged_model();
        let loss_nats = score_windows(&model.valid(), &self.data.valid);
        if !loss_nats.is_finite() {
            return Err(self.learner.not_finite(step - 1, "validation loss", None));
        }
        let record = EvalRecord {
            step,
            epoch: self.plan.epoch_after(step),
            loss_nats,
            score: text_score(&self.data.summary.valid, loss_nats),
            seconds,
        };
        self.metrics.write(&LogRecord::Eval(record.clone()))?;
        self.tensorboard.scalar("valid/loss_nats", step, loss_nats)?;
        self.tensorboard.scalar(&format!("valid/{}", record.score.name()), step, record.score.value())?;
        self.schedule.observe(loss_nats);
        let best = self.progress.best.is_none_or(|best| loss_nats < best.loss_nats);
        if best {
            self.progress.best = Some(Best { step, loss_nats });
            self.progress.evaluations_without_improvement = 0;
            self.trained_model(model, Some(loss_nats)).to_artefact().write(&self.folder.best())?;
        } else {
            self.progress.evaluations_without_improvement += 1;
        }
        observer.evaluated(&record, best);
        let OptimizerConfig { name, non_monotone, .. } = self.recipe.optimizer;
        if name == OptimizerKind::Asgd && self.progress.averaging.observe(loss_nats, non_monotone, step) {
            self.learner.optimizer.begin_averaging();
            observer.note("the validation loss has stopped falling: weights are averaged from here on");
        }
        Ok(())
    }

    fn sample(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let text = self.sample_text(&self.judged_model().valid());
        let step = self.progress.step;
        self.folder.write_sample(step, &text)?;
        self.tensorboard.text("sample", step, &text)?;
        observer.sampled(step, &text);
        Ok(())
    }

    /// A sample by the recipe's settings. A prompt's unknown tokens stand as the unknown token.
    fn sample_text(&self, model: &LanguageModel) -> String {
        let config = &self.recipe.sample;
        let vocabulary = &self.data.vocabulary;
        let prompt = prompt_tokens(vocabulary, &config.prompt);
        let filters = config.filters.filters(Constraints::default());
        let stepper = LanguageModelStepper::new(model);
        let tokens: Vec<u32> =
            Streams::new(&stepper, &prompt, &filters, self.recipe.seed, [0]).take(config.tokens).flatten().collect();
        format!("{}{}", config.prompt, vocabulary.continuation(&config.prompt, &tokens))
    }

    /// The model that is validated and kept: of averaged weights, where they are averaged.
    fn judged_model(&self) -> LanguageModel {
        let model = self.learner.model().clone();
        self.learner.optimizer.averaged(model.clone()).unwrap_or(model)
    }

    fn trained_model(&self, model: LanguageModel, valid_loss_nats: Option<f64>) -> TrainedModel {
        TrainedModel {
            model,
            config: self.recipe.model.clone(),
            vocabulary: self.data.vocabulary.clone(),
            recipe: self.recipe_toml.clone(),
            provenance: Provenance {
                refrain: env!("CARGO_PKG_VERSION").to_owned(),
                step: self.progress.step,
                epoch: self.plan.epochs_after(self.progress.step),
                valid_loss_nats,
                corpus: self.progress.corpus.clone(),
            },
        }
    }

    fn save(&mut self) -> Result<(), TrainError> {
        self.progress.schedule = self.schedule.state().clone();
        let model = self.trained_model(self.learner.model().clone(), None);
        if let Err(ArtefactError::NotFinite { name, .. }) = model.to_artefact().require_finite() {
            // The last update broke it, which the next loss would show: what is in last/ is the last good state.
            return Err(self.learner.not_finite(self.progress.step.saturating_sub(1), "updated weight", Some(&name)));
        }
        let snapshot = Snapshot {
            model,
            optimizer: self.learner.optimizer.slots().clone(),
            carry: self.learner.carry.clone(),
            progress: self.progress.clone(),
        };
        let files = snapshot.to_files()?;
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        Ok(self.folder.checkpoints().save(&files)?)
    }

    /// Scores `best.safetensors` as a user would find it, and lets it write.
    fn score_best(&self) -> Result<BestModel, TrainError> {
        if self.progress.best.is_none() {
            // Stopped before the first evaluation: the model as it is, is the best there is. Nothing else remembers this
            // file, so a resumed run writes it anew at its first evaluation, as it would have without the stop.
            let model = self.learner.model().clone();
            let loss_nats = score_windows(&model.valid(), &self.data.valid);
            self.trained_model(model, Some(loss_nats)).to_artefact().write(&self.folder.best())?;
        }
        let best = TrainedModel::read(&self.folder.best(), &Device::flex())?;
        Ok(BestModel {
            step: best.provenance.step,
            loss_nats: score_windows(&best.model, &self.data.valid),
            sample: self.sample_text(&best.model),
        })
    }
}

/// Training time, evaluations and saving left out.
struct Clock {
    seconds: f64,
    /// Since the last line of the log, in this sitting: the time of an earlier one is not known.
    lap_seconds: f64,
    lap_tokens: u64,
    running: Option<Instant>,
}

impl Clock {
    fn new(seconds: f64) -> Self {
        Self { seconds, lap_seconds: 0.0, lap_tokens: 0, running: None }
    }

    /// The speed since it was last asked for.
    fn tokens_per_second(&mut self) -> f64 {
        let speed = self.lap_tokens as f64 / self.lap_seconds.max(f64::MIN_POSITIVE);
        (self.lap_seconds, self.lap_tokens) = (0.0, 0);
        speed
    }

    fn start(&mut self) {
        self.running = Some(Instant::now());
    }

    fn stop(&mut self, tokens: u64) {
        if let Some(begun) = self.running.take() {
            let seconds = begun.elapsed().as_secs_f64();
            self.seconds += seconds;
            self.lap_seconds += seconds;
            self.lap_tokens += tokens;
        }
    }
}

/// What decides how the numbers of a run are rounded, besides its recipe.
fn kernel_name(precision: PrecisionKind) -> String {
    let engine = Engine::current();
    let bf16 = match (precision, engine.bf16_support()) {
        (PrecisionKind::F32, _) => "",
        (PrecisionKind::Bf16, Bf16Support::Amx) => " with bf16 by amx",
        (PrecisionKind::Bf16, Bf16Support::Avx512) => " with bf16 by avx512",
        (PrecisionKind::Bf16, Bf16Support::Emulated) => " with bf16 emulated",
    };
    format!("{}{bf16}", engine.isa())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_counts_the_tokens_of_its_lap_alone() {
        let mut clock = Clock::new(100.0);
        (clock.lap_seconds, clock.lap_tokens) = (2.0, 600);
        assert_eq!(clock.tokens_per_second().to_bits(), 300f64.to_bits());
        assert_eq!(clock.tokens_per_second().to_bits(), 0f64.to_bits());
        clock.start();
        clock.stop(50);
        assert!(clock.seconds >= 100.0 && clock.lap_tokens == 50);
    }
}
