//! Layers → models, and models ↔ files.

mod artefact;
pub(crate) mod config;
mod language_model;
mod stepper;
mod trained;

pub use artefact::{Artefact, ArtefactError, FormatFault, NamedTensor};
pub use config::{CellKind, LanguageModelConfig, PrecisionKind};
pub use language_model::{LanguageModel, LanguageModelState};
pub use stepper::{LanguageModelStepper, StepperState};
pub use trained::{Provenance, TrainedModel};
