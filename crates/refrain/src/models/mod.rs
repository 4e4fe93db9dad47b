//! Layers → models, and models ↔ files.

mod artefact;
pub(crate) mod config;
mod language_model;
mod ngram;
mod quantize;
mod stepper;
mod trained;

pub use artefact::{Artefact, ArtefactError, Dtype, FormatFault, NamedTensor};
pub(crate) use artefact::{Dtypes, RawTensor, raw_tensors};
pub use config::{CellKind, LanguageModelConfig, MemoryKind, NormalizationKind, PrecisionKind, ResetKind};
pub use language_model::{ActivationPenalties, Head, LanguageModel, LanguageModelState, Objective};
pub use ngram::{NGram, Smoothing};
pub use quantize::QuantizeError;
pub use stepper::{LanguageModelStepper, StepperState};
pub use trained::{Provenance, TrainedModel};
