//! From a trained model to text.

pub(crate) mod config;
mod generate;
mod sample;

pub use config::SampleConfig;
pub use generate::Generation;
pub use sample::Sampler;
