//! One optimiser step, straight down.

use burn::module::Module as _;
use burn::tensor::Device;

use super::candidates::CandidateSampler;
use super::config::StateMode;
use super::error::{NotFinite, TrainError};
use super::own_inputs::Mixture;
use super::plan::Plan;
use super::recipe::Recipe;
use super::watch::GradientWatch;
use crate::data::{Window, Windows};
use crate::models::{LanguageModel, LanguageModelState, LanguageModelStepper, Regularisation};
use crate::nn::{Detach, DropoutSchedule};
use crate::optim::{GradientSet, Optimizer, joint_norm};
use crate::tasks::window_tensors;

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepReport {
    /// Summed loss of the step's tokens, in nats.
    pub(crate) total_nats: f64,
    /// Tokens predicted.
    pub(crate) tokens: u64,
    /// The joint norm of the gradients before clipping and noise.
    pub(crate) gradient_norm: f64,
}

/// What changes from step to step.
#[derive(Debug)]
pub(crate) struct Learner {
    /// `None` only while a step has it.
    model: Option<LanguageModel>,
    pub(crate) optimizer: Optimizer,
    /// The recurrent state that the next window begins with, where it is carried.
    pub(crate) carry: Option<LanguageModelState>,
    /// Where the softmax is not over all tokens.
    candidates: Option<CandidateSampler>,
    pub(crate) watch: GradientWatch,
}

impl Learner {
    pub(crate) fn new(
        recipe: &Recipe,
        windows: &Windows,
        model: LanguageModel,
        optimizer: Optimizer,
        carry: Option<LanguageModelState>,
    ) -> Self {
        let [vocab_size, _] = model.embedding.weight.dims();
        let samples = recipe.train.softmax_samples;
        let candidates = samples.map(|samples| CandidateSampler::new(windows.tokens(), vocab_size, samples));
        Self { model: Some(model), optimizer, carry, candidates, watch: GradientWatch::default() }
    }

    pub(crate) fn model(&self) -> &LanguageModel {
        self.model.as_ref().expect("a step gives the model back")
    }

    /// Takes step number `step` (counted from 0).
    pub(crate) fn step(
        &mut self,
        windows: &Windows,
        plan: &Plan,
        recipe: &Recipe,
        (step, learning_rate): (u64, f64),
        device: &Device,
    ) -> Result<StepReport, TrainError> {
        let (config, seed) = (&recipe.train, recipe.seed);
        let forcing = &recipe.teacher_forcing;
        let probability = forcing.probability(step);
        let mut stepper: Option<LanguageModelStepper> = None;
        let group: Vec<(u64, Window)> =
            plan.windows_of(step).map(|index| (index, windows.get(plan.window_of_epoch(index)))).collect();
        let tokens: usize = group.iter().map(|(_, window)| window.targets.len()).sum();
        let mut gradients: Option<GradientSet> = None;
        let mut total_nats = 0.0;

        for (index, mut window) in group {
            let carried = match config.state {
                StateMode::Carry if plan.window_of_epoch(index) > 0 => self.carry.take(),
                StateMode::Carry | StateMode::Reset => None,
            };
            if let Some(mixture) = Mixture::new([window.batch_size, window.seq_len], probability, seed, index) {
                let stepper = stepper.get_or_insert_with(|| LanguageModelStepper::new(&self.model().valid()));
                let state = match &carried {
                    Some(state) => stepper.state_of(state.recurrent()),
                    None => stepper.state(window.batch_size),
                };
                window.inputs = mixture.inputs(stepper, state, &window.inputs, forcing.choice);
            }
            let count = window.targets.len();
            let candidates = self.candidates.as_ref().map(|sampler| sampler.draw(&window.targets, seed, index));
            if let Some(candidates) = &candidates {
                window.targets = candidates.places(&window.targets);
            }
            let (inputs, targets) = window_tensors(window, device);
            let schedule = Some(DropoutSchedule::new(seed, index));

            let regularisation = Regularisation {
                activation: config.activation_regularisation,
                temporal: config.temporal_activation_regularisation,
                label_smoothing: config.label_smoothing,
            };
            let (objective, state) =
                self.model().objective(inputs, targets, carried, schedule, regularisation, candidates.as_ref());
            self.carry = (config.state == StateMode::Carry).then(|| state.detach());
            let mean_nats = f64::from(objective.cross_entropy.into_scalar::<f32>());
            if !mean_nats.is_finite() {
                return Err(self.not_finite(step, "loss", None));
            }
            total_nats += mean_nats * count as f64;

            let whole = match objective.penalty {
                Some(penalty) => objective.loss + penalty,
                None => objective.loss,
            };
            let backward = (whole * (count as f64 / tokens as f64)).backward();
            let found = GradientSet::collect(self.model(), backward);
            match &mut gradients {
                Some(sum) => sum.add(&found),
                None => gradients = Some(found),
            }
        }

        let mut gradients = gradients.expect("a step has at least one window");
        let norms = gradients.norms();
        let gradient_norm = joint_norm(&norms);
        self.watch.observe(step, &norms);
        if !gradient_norm.is_finite() {
            return Err(self.not_finite(step, "gradient", gradients.first_not_finite()));
        }
        if let Some(limit) = config.clip_value {
            gradients.clip_value(limit);
        }
        if let Some(limit) = config.clip_norm {
            let norm = if config.clip_value.is_some() { joint_norm(&gradients.norms()) } else { gradient_norm };
            gradients.clip_norm(norm, limit);
        }
        if config.gradient_noise > 0.0 {
            let variance = config.gradient_noise / (1.0 + step as f64).powf(config.gradient_noise_gamma);
            gradients.add_noise(variance.sqrt(), seed, step);
        }
        let model = self.model.take().expect("a step gives the model back");
        self.model = Some(self.optimizer.step(model, &gradients, learning_rate));
        Ok(StepReport { total_nats, tokens: tokens as u64, gradient_norm })
    }

    /// The error for step number `step` (counted from 0).
    pub(crate) fn not_finite(&self, step: u64, what: &'static str, broken: Option<&str>) -> TrainError {
        let names: Vec<String> = self.model().to_tensors().into_iter().map(|tensor| tensor.name).collect();
        let surge = self.watch.first().map(|surge| (names[surge.parameter].clone(), surge.since + 1, surge.ratio));
        TrainError::NotFinite(NotFinite { what, step: step + 1, broken: broken.map(str::to_owned), surge })
    }
}
