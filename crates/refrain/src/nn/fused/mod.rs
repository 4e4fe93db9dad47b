//! Whole-sequence operations as a Burn backend extension.
//!
//! [`FusedOps`] is the trait that Burn dispatches on; its default bodies compose ordinary Burn operations
//! ([`composed`]), so another backend needs no kernels: an empty `impl` of it and its name in the trait's list. The Flex
//! backend calls `refrain-kernels` instead, and [`Autodiff`](burn::backend::Autodiff) over a backend with
//! [`FusedKernels`] runs the hand-written backward passes. Burn's list names a backend for both, with gradients and
//! without, so training on another backend takes an `impl` of [`FusedKernels`] too.

mod autodiff;
pub mod composed;
mod flex;
mod op;
pub mod transformer;

pub use autodiff::{
    FusedKernels, HeadGradients, HeadInputs, IncomingGradients, LinearInputs, RecurrentGradients, RecurrentOutputs,
    WantedGradients,
};
pub(in crate::nn) use flex::sequence_on_host;
pub use op::{DropMask, FusedOps, OptionalTensor, RecurrentSequence, RecurrentSpec, StepMasks, ZoneoutMask};
