//! Whole-sequence operations as a Burn backend extension.
//!
//! [`FusedOps`] is the trait that Burn dispatches on; its default bodies compose ordinary Burn operations
//! ([`composed`]), so a backend joins by one empty `impl` and a name in the list. The Flex backend calls
//! `refrain-kernels` instead, and [`Autodiff`](burn::backend::Autodiff) over a backend with [`FusedKernels`] runs the
//! hand-written backward passes.

mod autodiff;
pub mod composed;
mod flex;
mod op;

pub use autodiff::FusedKernels;
pub use op::FusedOps;
