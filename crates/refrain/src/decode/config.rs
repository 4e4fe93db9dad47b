//! How samples are drawn while training.

use serde::{Deserialize, Serialize};

use super::filters::{FILTERS, FilterSettings};
use crate::setting::{Allowed, Setting};

/// `[sample]`: the text that is generated from a model to look at.
///
/// A key that is none of these is refused by [`FilterSettings`], which takes all others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct SampleConfig {
    /// What the generated text follows on from.
    pub prompt: String,
    /// How many tokens to generate.
    pub tokens: usize,
    /// The number of each filter, by its name.
    #[serde(flatten)]
    pub filters: FilterSettings,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            // nanoGPT, sample.py: starts at a new line
            prompt: "\n".to_owned(),
            // a screenful
            tokens: 400,
            filters: FilterSettings::default(),
        }
    }
}

impl SampleConfig {
    pub(crate) const SETTINGS: &'static [Setting] = &Self::settings();

    const fn settings() -> [Setting; 2 + FILTERS.len()] {
        let mut settings = [Setting::new("prompt", Allowed::Text); 2 + FILTERS.len()];
        settings[1] = Setting::new("tokens", Allowed::Integer(0));
        let mut index = 0;
        while index < FILTERS.len() {
            settings[2 + index] = Setting::new(FILTERS[index].name, FILTERS[index].allowed);
            index += 1;
        }
        settings
    }
}
