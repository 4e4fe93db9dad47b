//! Which optimiser moves the weights, and how its rate changes.

use serde::{Deserialize, Serialize};

use crate::setting::{Allowed, Range, Setting, names};

names! {
    /// The optimiser.
    pub enum OptimizerKind {
        /// Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).
        #[default]
        Adamw = "adamw",
        /// Adam (Kingma & Ba 2015, algorithm 1), weight decay as an L2 term.
        Adam = "adam",
        /// Gradients over their running root mean square (Tieleman & Hinton 2012, lecture 6e).
        Rmsprop = "rmsprop",
        /// Stochastic gradient descent, with or without momentum.
        Sgd = "sgd",
        /// Stochastic gradient descent whose weights are averaged, for validation and use, from the evaluation on at which the
        /// validation loss has stopped falling (NT-ASGD; Merity et al. 2018, algorithm 1).
        Asgd = "asgd",
    }
}

/// `[optimizer]`: the optimiser and its numbers; a recipe may set only those that the chosen one has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct OptimizerConfig {
    /// The optimiser.
    pub name: OptimizerKind,
    /// The rate that the schedule scales; rates above 1 are usual with plain gradient descent on recurrent models.
    pub learning_rate: f64,
    /// adamw, adam: how much of the running mean of the gradient, and of its square, each step keeps.
    pub betas: [f64; 2],
    /// adamw, adam, rmsprop: added to the denominator.
    pub epsilon: f64,
    /// Pulls the weights towards 0: decoupled for adamw, an L2 term in the gradient for the others.
    pub weight_decay: f64,
    /// rmsprop: how much of the running mean of the squared gradient each step keeps.
    pub alpha: f64,
    /// sgd: how much of its velocity each step keeps.
    pub momentum: f64,
    /// sgd: look ahead along the velocity (Nesterov); needs a momentum.
    pub nesterov: bool,
    /// asgd: averaging begins at a validation loss above the lowest of those at least so many evaluations before it.
    pub non_monotone: u64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::of(OptimizerKind::default())
    }
}

impl OptimizerConfig {
    /// The defaults of one optimiser.
    pub fn of(name: OptimizerKind) -> Self {
        let common = Self {
            name,
            // char-rnn, train.lua
            learning_rate: 2e-3,
            // torch.optim.Adam
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 0.0,
            // char-rnn, train.lua: decay_rate
            alpha: 0.95,
            momentum: 0.0,
            nesterov: false,
            // Merity et al. 2018, section 3: n = 5
            non_monotone: 5,
        };
        match name {
            OptimizerKind::Adamw => Self {
                // nanoGPT, config/train_shakespeare_char.py: small batches want a shorter memory
                betas: [0.9, 0.99],
                // torch.optim.AdamW
                weight_decay: 0.01,
                ..common
            },
            OptimizerKind::Adam | OptimizerKind::Rmsprop => common,
            // Zaremba et al. 2014, section 4.1
            OptimizerKind::Sgd => Self { learning_rate: 1.0, ..common },
            // Merity et al. 2018, section 5
            OptimizerKind::Asgd => Self { learning_rate: 30.0, ..common },
        }
    }

    /// The keys of one optimiser.
    pub(crate) const fn settings(name: OptimizerKind) -> &'static [Setting] {
        const NAME: Setting = Setting::new("name", Allowed::OneOf(OptimizerKind::NAMES));
        const RATE: Setting = Setting::new("learning-rate", Allowed::Number(Range::Positive));
        const BETAS: Setting = Setting::new("betas", Allowed::Pair(Range::BelowOne));
        const EPSILON: Setting = Setting::new("epsilon", Allowed::Number(Range::Positive));
        const DECAY: Setting = Setting::new("weight-decay", Allowed::Number(Range::NotNegative));
        const ALPHA: Setting = Setting::new("alpha", Allowed::Number(Range::BelowOne));
        const MOMENTUM: Setting = Setting::new("momentum", Allowed::Number(Range::BelowOne));
        const NESTEROV: Setting = Setting::new("nesterov", Allowed::Boolean);
        const NON_MONOTONE: Setting = Setting::new("non-monotone", Allowed::Integer(1));
        match name {
            OptimizerKind::Adamw | OptimizerKind::Adam => &[NAME, RATE, BETAS, EPSILON, DECAY],
            OptimizerKind::Rmsprop => &[NAME, RATE, ALPHA, EPSILON, DECAY],
            OptimizerKind::Sgd => &[NAME, RATE, MOMENTUM, NESTEROV, DECAY],
            OptimizerKind::Asgd => &[NAME, RATE, DECAY, NON_MONOTONE],
        }
    }
}

names! {
    /// How the learning rate changes; [`Schedule`](super::Schedule) has the equations.
    pub enum ScheduleKind {
        /// It does not.
        #[default]
        Constant = "constant",
        /// Multiplied by `gamma` at the start of every epoch from `start-epoch` on.
        Exponential = "exponential",
        /// Multiplied by `gamma` after every `step-size` steps or epochs.
        Step = "step",
        /// Half a cosine down to `min-factor` at the last step.
        Cosine = "cosine",
        /// Rises and falls evenly between `min-factor` and 1, half a cycle every `step-size` steps or epochs (Smith 2017).
        Cyclical = "cyclical",
        /// Falls with the square root of the step.
        InverseSquareRoot = "inverse-square-root",
        /// Multiplied by `factor` when the validation loss stops falling.
        Plateau = "plateau",
    }
}

names! {
    /// What `step-size` counts.
    pub enum StepUnit {
        /// Passes over the training text.
        #[default]
        Epochs = "epochs",
        /// Updates of the weights.
        Steps = "steps",
    }
}

/// `[schedule]`: how the learning rate changes; a recipe may set only what the chosen schedule has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ScheduleConfig {
    /// The schedule.
    pub name: ScheduleKind,
    /// Steps over which the rate rises evenly from 0.
    pub warmup_steps: u64,
    /// exponential, step: what the rate is multiplied by.
    pub gamma: f64,
    /// exponential: the first epoch, counted from 1, whose rate is lowered.
    pub start_epoch: u64,
    /// step, cyclical: how many steps or epochs there are between two multiplications, or in half a cycle.
    pub step_size: u64,
    /// step, cyclical: what `step-size` counts.
    pub unit: StepUnit,
    /// cosine, cyclical, plateau: the rate never falls below this share of the learning rate.
    pub min_factor: f64,
    /// plateau: what the rate is multiplied by.
    pub factor: f64,
    /// plateau: evaluations without improvement that are let pass.
    pub patience: u64,
    /// plateau: an improvement is a loss below the best by more than this share of it.
    pub threshold: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            name: ScheduleKind::default(),
            warmup_steps: 0,
            // char-rnn, train.lua: learning_rate_decay
            gamma: 0.97,
            // char-rnn, train.lua: learning_rate_decay_after = 10, and epoch 11 is the first with a lower rate
            start_epoch: 11,
            step_size: 1,
            unit: StepUnit::default(),
            min_factor: 0.0,
            // pytorch/examples, word_language_model/main.py: `lr /= 4.0` at the first loss that is no better
            factor: 0.25,
            patience: 0,
            threshold: 0.0,
        }
    }
}

impl ScheduleConfig {
    /// The keys of one schedule.
    pub(crate) const fn settings(name: ScheduleKind) -> &'static [Setting] {
        const NAME: Setting = Setting::new("name", Allowed::OneOf(ScheduleKind::NAMES));
        const WARMUP: Setting = Setting::new("warmup-steps", Allowed::Integer(0));
        const GAMMA: Setting = Setting::new("gamma", Allowed::Number(Range::Factor));
        const START: Setting = Setting::new("start-epoch", Allowed::Integer(1));
        const SIZE: Setting = Setting::new("step-size", Allowed::Integer(1));
        const UNIT: Setting = Setting::new("unit", Allowed::OneOf(StepUnit::NAMES));
        const LEAST: Setting = Setting::new("min-factor", Allowed::Number(Range::Share));
        const FACTOR: Setting = Setting::new("factor", Allowed::Number(Range::Fraction));
        const PATIENCE: Setting = Setting::new("patience", Allowed::Integer(0));
        const THRESHOLD: Setting = Setting::new("threshold", Allowed::Number(Range::BelowOne));
        match name {
            ScheduleKind::Constant | ScheduleKind::InverseSquareRoot => &[NAME, WARMUP],
            ScheduleKind::Exponential => &[NAME, WARMUP, GAMMA, START],
            ScheduleKind::Step => &[NAME, WARMUP, GAMMA, SIZE, UNIT],
            ScheduleKind::Cosine => &[NAME, WARMUP, LEAST],
            ScheduleKind::Cyclical => &[NAME, WARMUP, SIZE, UNIT, LEAST],
            ScheduleKind::Plateau => &[NAME, WARMUP, FACTOR, PATIENCE, THRESHOLD, LEAST],
        }
    }
}
