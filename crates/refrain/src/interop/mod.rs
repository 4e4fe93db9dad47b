//! Weights of PyTorch in and out: `nn.RNN`, `nn.LSTM` and `nn.GRU` in `.pt` files and safetensors.
//!
//! file ↔ [`StateDict`], tensors by name ↔ [`PyTorchRnn`], the weights of one module as plain numbers ↔ the layers of
//! [`nn`](crate::nn).

mod convert;
mod cursor;
mod element;
mod error;
mod pickle;
mod rnn;
mod state_dict;
mod torch_file;
mod zip;

pub use error::{ArchiveFault, ContentsFault, InteropError, PickleFault};
pub use rnn::{PyTorchRnn, RnnBias, RnnDirection, RnnKind, RnnLayer};
pub use state_dict::StateDict;
