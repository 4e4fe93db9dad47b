//! Layers → models, and models ↔ files.

mod artefact;
mod budget;
pub(crate) mod config;
mod hidden_size;
mod language_model;
mod ngram;
mod objective;
mod quantize;
mod state;
mod stepper;
mod trained;
mod transformer;

pub use artefact::{Artefact, ArtefactError, Dtype, FormatFault, NamedTensor};
pub(crate) use artefact::{Dtypes, RawTensor, raw_tensors};
pub use config::{
    CellKind, FeedForwardKind, LanguageModelConfig, NormalizationKind, PositionsKind, PrecisionKind, ResetKind,
};
pub use hidden_size::HiddenSize;
pub use language_model::{Head, LanguageModel};
pub use ngram::{NGram, Smoothing};
pub use objective::{Candidates, Objective, Regularisation};
pub use quantize::QuantizeError;
pub use state::LanguageModelState;
pub use stepper::{LanguageModelStepper, StepperState};
pub use trained::{Provenance, TrainedModel};
pub use transformer::Seen;
