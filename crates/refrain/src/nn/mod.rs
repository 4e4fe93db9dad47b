//! Layers: tensors in, `(output, state)` out. Usable from any Burn program.

mod dropout;
mod embedding;
pub mod fused;
mod init;
mod linear;
mod lstm;
mod stack;

pub use dropout::{Dropout, DropoutSchedule};
pub use embedding::{Embedding, EmbeddingConfig};
pub use init::Initializer;
pub use linear::{Linear, LinearConfig};
pub use lstm::{Lstm, LstmConfig, LstmState};
pub use stack::{LstmStack, LstmStackConfig};
