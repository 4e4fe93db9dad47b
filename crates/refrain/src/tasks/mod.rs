//! A task binds data, model, loss and metrics.

mod language_model;
mod ngram;

pub(crate) use language_model::window_tensors;
pub use language_model::{LanguageModelData, score_sequences, score_stream, score_windows, text_score};
pub use ngram::NGramScore;
