//! No target features beyond the target's own: 4 lanes, which SSE2, NEON and WASM have, and no fused multiply-add.

use super::{Kernel, Separate};

pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<4, 4, 3, 4, Separate>()
}
