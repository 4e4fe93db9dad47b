//! How samples are drawn while training, and by default afterwards.

use serde::{Deserialize, Serialize};

use crate::setting::{Allowed, Range, Setting, zero_is_none};

/// `[sample]`: the text that is generated from a model to look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SampleConfig {
    /// What the generated text follows on from.
    pub prompt: String,
    /// How many tokens to generate.
    pub tokens: usize,
    /// Divides the scores before the softmax: below 1 safer, above 1 wilder; 0 always takes the likeliest token.
    pub temperature: f64,
    /// Draw among this many of the likeliest tokens; 0 in a recipe: among all.
    #[serde(with = "zero_is_none")]
    pub top_k: Option<usize>,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            // nanoGPT, sample.py: starts at a new line
            prompt: "\n".to_owned(),
            // a screenful
            tokens: 400,
            // nanoGPT, sample.py
            temperature: 0.8,
            top_k: None,
        }
    }
}

impl SampleConfig {
    pub(crate) const SETTINGS: &'static [Setting] = &[
        Setting::new("prompt", Allowed::Text),
        Setting::new("tokens", Allowed::Integer(0)),
        Setting::new("temperature", Allowed::Number(Range::NotNegative)),
        Setting::new("top-k", Allowed::Integer(0)),
    ];
}
