//! Scores, each with the count that it was divided by.

mod language_model;

pub use language_model::{LanguageModelScore, UnitScore};
