//! From a trained model to text.

pub(crate) mod config;
mod generate;
mod prompt;
mod sample;

pub use config::SampleConfig;
pub use generate::{Generation, Streams};
pub use prompt::prompt_tokens;
pub use sample::Sampler;
