//! No target features beyond the target's own: two vectors of SSE2, NEON or WASM, and no fused multiply-add.

use super::{Kernel, Separate};

// As the others, which cannot be: inside the time loops it costs the other instruction sets a tenth of their speed.
#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<8, Separate>()
}
