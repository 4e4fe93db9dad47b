//! CPU kernels for recurrent networks, in f32, bfloat16 and, for single steps, eight bits: slices in, slices out.
//!
//! | module | what it holds |
//! |---|---|
//! | [`arch`] | the instruction sets and the one way to run code compiled for one of them |
//! | `pool` | the thread team and its barrier |
//! | [`engine`] | an instruction set plus a team plus recycled scratch memory: the argument of every kernel |
//! | [`gemm`], [`column_sums`](mod@column_sums) | products of matrices, large and small, and sums of columns |
//! | `format`, `pack`, `tile` | in what factors are kept, how they are rearranged, and the micro-kernels that multiply them |
//! | [`recurrent`] | whole sequences of LSTM, GRU and RNN, forward and backward, and single steps |
//! | [`cross_entropy`] | linear head, softmax and loss over big vocabularies, in chunks of logits |
//! | [`attention`](mod@attention), [`rotation`], [`layer_norm`](mod@layer_norm) | what a transformer has beside its products |
//! | [`dropout`](mod@dropout) | dropout from a counter-based stream |
//! | [`noise`] | normally distributed noise from a counter-based stream |
//! | [`concat`](mod@concat) | features side by side |
//! | [`optimizer`] | fused Adam, SGD and `RMSprop` steps, and sums over gradients |
//! | [`activation`] | vectorised exp, tanh, sigmoid and GELU |
//! | [`allocator`] | keeps freed memory in the process |
//! | [`measure`] | the machine's own peak and memory bandwidth, to hold speeds against |
//!
//! # Same bytes for any number of threads
//!
//! Work is divided over outputs, never over the terms of one sum, and every output element goes through one sequence of
//! operations fixed by the shapes alone. Results may differ between instruction sets (a fused multiply-add rounds once).
//!
//! # Unsafe code
//!
//! This crate is the only one of the project with `unsafe`: calls into code compiled for an instruction set, raw pointers
//! inside the micro-kernels, and slices shared by the members of a team. Each block says why it is sound.

#![expect(
    clippy::inline_always,
    reason = "a micro-kernel only reaches its instruction set when it is inlined into the wrapper that enables it"
)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod activation;
pub mod allocator;
pub mod arch;
pub mod attention;
pub mod column_sums;
pub mod concat;
pub mod cross_entropy;
pub mod dropout;
pub mod engine;
mod format;
pub mod gemm;
pub mod layer_norm;
pub mod measure;
pub mod noise;
pub mod optimizer;
mod pack;
mod pool;
mod prefetch;
pub mod recurrent;
pub mod rotation;
mod row_dot;
mod scratch;
mod shape;
mod shared;
mod tile;

pub use activation::{exp, gelu, gelu_backward, sigmoid, tanh};
pub use allocator::keep_freed_memory;
pub use arch::{Bf16Support, EnvironmentIsaError, Isa, ParseIsaError};
pub use attention::{AttentionGradients, AttentionInputs, AttentionShape, attention, attention_backward};
pub use column_sums::column_sums;
pub use concat::concat_features;
pub use cross_entropy::{
    LabelSmoothing, LinearCrossEntropy, LinearCrossEntropyGradients, linear_cross_entropy,
    smoothed_linear_cross_entropy,
};
pub use dropout::{DropoutKey, dropout, events, variational_dropout};
pub use engine::{Engine, EngineError};
pub use format::Precision;
pub use gemm::{Beta, MatMut, MatRef, matmul, matmul_bias};
pub use layer_norm::{LayerNormGradients, layer_norm, layer_norm_backward};
pub use noise::add_normal_noise;
pub use optimizer::{AdamStep, Nesterov, RmsPropStep, SgdStep, adam, all_finite, rmsprop, sgd, sum_of_squares};
pub use recurrent::{
    Cell, Direction, Dropped, Events, Int8Matrix, Memory, NormGains, OutputGradients, ResetGate, Rows, SequenceGates,
    SequenceGradients, SequenceInputs, SequenceOptions, SequenceOutputs, SequenceShape, SequenceTrace, SequenceVariant,
    StepInput, StepMatrix, StepWeights, WeightFormat, Zoneout, sequence_backward, sequence_forward,
    sequence_forward_traced, sequence_gates,
};
pub use rotation::{Rotation, rotate_heads};
