//! No target features beyond the target's own: two vectors of SSE2, NEON or WASM, and no fused multiply-add.

use super::{Kernel, Separate};

// Not into its callers, as the others cannot be: there it made them a tenth slower and more, on whatever they run.
#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<8, Separate>()
}
