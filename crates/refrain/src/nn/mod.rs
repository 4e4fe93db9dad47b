//! Layers: tensors in, `(output, state)` out. Usable from any Burn program.

mod attention;
mod attention_decoder;
mod dropout;
mod embedding;
pub mod fused;
mod gru;
mod init;
mod linear;
mod lstm;
mod padding;
mod recurrent;
mod rnn;
mod stack;
mod transformer;

pub use attention::{Attention, AttentionConfig, AttentionMemory, Score};
pub use attention_decoder::{AttentionDecoder, AttentionDecoderConfig, AttentionDecoderState, Feeding};
pub use dropout::{Dropout, DropoutSchedule};
pub use embedding::{Embedding, EmbeddingConfig};
pub use gru::{Gru, GruConfig};
pub use init::Initializer;
pub use linear::{Linear, LinearConfig};
pub use lstm::{Lstm, LstmConfig};
pub use recurrent::RecurrentState;
pub(crate) use recurrent::values;
pub use refrain_kernels::{Cell, Precision};
pub use rnn::{Nonlinearity, Rnn, RnnConfig};
pub use stack::{Layer, LayerConfig, Stack, StackConfig};
pub use transformer::{
    FeedForward, Positions, Transformer, TransformerBlock, TransformerConfig, TransformerState, Visibility,
};
