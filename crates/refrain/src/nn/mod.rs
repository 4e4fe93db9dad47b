//! Layers: tensors in, `(output, state)` out. Usable from any Burn program.

mod activation_regularisation;
mod attention;
mod attention_decoder;
mod bidirectional;
mod detach;
mod dropout;
mod embedding;
pub mod fused;
mod gate_trace;
mod gru;
mod init;
mod layer;
mod linear;
mod lstm;
mod min_gru;
mod normalization;
mod options;
mod padding;
mod recurrent;
mod rnn;
mod stack;
mod transformer;

pub use activation_regularisation::{activation_regularisation, temporal_activation_regularisation};
pub use attention::{Attention, AttentionConfig, AttentionMemory, Score};
pub use attention_decoder::{AttentionDecoder, AttentionDecoderConfig, AttentionDecoderState, Feeding};
pub use bidirectional::{Bidirectional, BidirectionalConfig, BidirectionalState, Directions, Merge, Wiring};
pub use detach::Detach;
pub use dropout::{Dropout, DropoutSchedule, VariationalDropout};
pub(crate) use embedding::select_rows;
pub use embedding::{Embedding, EmbeddingConfig};
pub use gate_trace::GateTrace;
pub use gru::{Gru, GruConfig};
pub use init::{ForgetBias, InitialWeights, Initializer};
pub use layer::{Layer, LayerConfig};
pub(crate) use linear::smoothed_cross_entropy;
pub use linear::{Linear, LinearConfig, SmoothedCrossEntropy};
pub use lstm::{InputGate, Lstm, LstmConfig, Peepholes};
pub use min_gru::{MinGru, MinGruConfig};
pub use normalization::{LayerNorms, Normalization};
pub use options::RecurrentOptions;
pub use recurrent::RecurrentState;
pub(crate) use recurrent::values;
pub use refrain_kernels::{Cell, Direction, Memory, Precision, ResetGate};
pub use rnn::{Nonlinearity, Rnn, RnnConfig};
pub use stack::{Connection, Stack, StackConfig};
pub use transformer::{
    FeedForward, Positions, Transformer, TransformerBlock, TransformerConfig, TransformerState, Visibility,
};
