//! How long to train, on what batches, and how often to look.

use serde::{Deserialize, Serialize};

use crate::models::CellKind;
use crate::setting::{Allowed, Range, Setting, names, zero_is_none};

names! {
    /// What becomes of the hidden state between one window of the text and the next.
    pub enum StateMode {
        /// Each of the parallel streams goes on reading where it stopped: the next window starts from the state in which
        /// the last one ended, so the model can use more text than `seq-len`. Gradients stop at the window's edge
        /// (truncated backpropagation through time). The state is 0 at the start of each epoch.
        #[default]
        Carry = "carry",
        /// Every window starts from a state of 0, as if nothing came before it.
        Reset = "reset",
    }
}

/// `[train]`: batches, length, clipping and the rhythm of evaluations, samples and checkpoints.
///
/// A step is one update of the weights. An evaluation goes over the whole validation text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrainConfig {
    /// Streams of text read in parallel.
    pub batch_size: usize,
    /// Tokens of a window: how far back gradients reach.
    pub seq_len: usize,
    /// Passes over the training text.
    pub epochs: u64,
    /// Stop after this many steps, if that is sooner; 0 in a recipe: no limit.
    #[serde(with = "zero_is_none")]
    pub max_steps: Option<u64>,
    /// What becomes of the hidden state between windows.
    pub state: StateMode,
    /// Windows whose gradients are added up for one step.
    pub accumulate: usize,
    /// Scale the gradient down to this norm over all weights, if it is longer; 0 in a recipe: off.
    #[serde(with = "zero_is_none")]
    pub clip_norm: Option<f64>,
    /// Clamp each entry of the gradient to plus or minus this, before `clip-norm`; 0 in a recipe: off.
    #[serde(with = "zero_is_none")]
    pub clip_value: Option<f64>,
    /// How much the mean square of the last layer's outputs, after dropout, adds to what is made smaller: activation
    /// regularisation (Merity et al. 2018). The losses that are shown are without it.
    pub activation_regularisation: f64,
    /// The same of the mean square of the changes of these outputs from step to step, before dropout: temporal activation
    /// regularisation.
    pub temporal_activation_regularisation: f64,
    /// Of the probability of each target, what is spread over all words alike: label smoothing (Szegedy et al. 2016). The losses
    /// that are shown, and those that are validated, are without it.
    pub label_smoothing: f64,
    /// About how many tokens of the vocabulary the softmax of a window is over, besides its targets: sampled softmax (Jean et al.
    /// 2015), for big vocabularies; 0 in a recipe: over all. The losses of training that are shown are then of these tokens alone,
    /// those that are validated of all.
    #[serde(with = "zero_is_none")]
    pub softmax_samples: Option<usize>,
    /// η: normally distributed noise of variance η / (1 + t)^γ is added to every element of the gradient of step t, counted from
    /// 0, after clipping (Neelakantan et al. 2015); 0: off. The paper tries 0.01, 0.3 and 1.
    pub gradient_noise: f64,
    /// γ, how fast the noise fades.
    pub gradient_noise_gamma: f64,
    /// Steps between evaluations; 0: one at the end of each epoch.
    pub eval_every: u64,
    /// Streams of the validation text read in parallel; each starts from a state of 0, so fewer are more exact.
    pub eval_batch_size: usize,
    /// Steps between lines of progress.
    pub log_every: u64,
    /// Steps between samples of generated text; 0: one at each evaluation.
    pub sample_every: u64,
    /// Steps between checkpoints; 0: one at each evaluation.
    pub checkpoint_every: u64,
    /// Evaluations without a lower validation loss after which training stops; 0: never.
    pub patience: u64,
    /// At the end, score n-grams counted on the same tokens, to stand beside the model: a second for a million characters.
    pub floor: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            // nanoGPT, config/train_shakespeare_char.py
            batch_size: 64,
            // char-rnn's 50, raised: the fused layers make longer windows cheap
            seq_len: 128,
            // enough for a text of a megabyte; a recipe sets its own
            epochs: 20,
            max_steps: None,
            // char-rnn, train.lua
            state: StateMode::Carry,
            accumulate: 1,
            // nanoGPT, train.py
            clip_norm: Some(1.0),
            clip_value: None,
            activation_regularisation: 0.0,
            temporal_activation_regularisation: 0.0,
            label_smoothing: 0.0,
            softmax_samples: None,
            gradient_noise: 0.0,
            // Neelakantan et al. 2015, section 3
            gradient_noise_gamma: 0.55,
            eval_every: 0,
            // few enough that starting each stream cold does not show in the loss
            eval_batch_size: 16,
            log_every: 10,
            sample_every: 0,
            checkpoint_every: 0,
            patience: 0,
            floor: true,
        }
    }
}

impl TrainConfig {
    /// The defaults for a cell: a transformer has no state of one size to carry.
    pub fn of(cell: CellKind) -> Self {
        let state = if cell == CellKind::Transformer { StateMode::Reset } else { StateMode::Carry };
        Self { state, ..Self::default() }
    }

    pub(crate) const SETTINGS: &'static [Setting] = &[
        Setting::new("batch-size", Allowed::Size(65_536)),
        Setting::new("seq-len", Allowed::Size(1_048_576)),
        Setting::new("epochs", Allowed::Size(1_000_000)),
        Setting::new("max-steps", Allowed::Integer(0)),
        Setting::new("state", Allowed::OneOf(StateMode::NAMES)),
        Setting::new("accumulate", Allowed::Size(65_536)),
        Setting::new("clip-norm", Allowed::Number(Range::NotNegative)),
        Setting::new("clip-value", Allowed::Number(Range::NotNegative)),
        Setting::new("activation-regularisation", Allowed::Number(Range::NotNegative)),
        Setting::new("temporal-activation-regularisation", Allowed::Number(Range::NotNegative)),
        Setting::new("label-smoothing", Allowed::Number(Range::BelowOne)),
        Setting::new("softmax-samples", Allowed::SizeOrNone(16_777_216)),
        Setting::new("gradient-noise", Allowed::Number(Range::NotNegative)),
        Setting::new("gradient-noise-gamma", Allowed::Number(Range::NotNegative)),
        Setting::new("eval-every", Allowed::Integer(0)),
        Setting::new("eval-batch-size", Allowed::Size(65_536)),
        Setting::new("log-every", Allowed::Integer(1)),
        Setting::new("sample-every", Allowed::Integer(0)),
        Setting::new("checkpoint-every", Allowed::Integer(0)),
        Setting::new("patience", Allowed::Integer(0)),
        Setting::new("floor", Allowed::Boolean),
    ];
}
