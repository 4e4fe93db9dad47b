//! Refrain: recurrent sequence modelling and text generation on [Burn](burn).
//!
//! The modules in the order that data flows through them:
//! text → tokens ([`text`]) → batches ([`data`]) → layers ([`nn`]) → model ([`models`]) → task ([`tasks`]) →
//! training ([`train`], with [`optim`]) → decoding ([`decode`]).
//! [`experiment`] holds several runs beside each other.
//! [`interop`] brings weights from PyTorch, and takes them there.
//!
//! [`nn`] is usable alone, from any Burn program on the Flex backend: [`nn::Lstm`], [`nn::Gru`] and [`nn::Rnn`] are ordinary
//! Burn modules whose forward and backward passes run fused on the CPU.

pub mod data;
pub mod decode;
pub mod experiment;
pub mod files;
pub mod interop;
pub mod metrics;
pub mod models;
pub mod nn;
pub mod optim;
pub mod random;
pub mod tasks;
pub mod text;
pub mod train;

mod parameter_path;
mod setting;

pub use refrain_kernels as kernels;
