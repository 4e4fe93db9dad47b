//! AVX2 with FMA: 16 registers of 8 lanes. Twelve accumulate: a wider tile spills and runs at half the speed.

use super::{Fused, Kernel};

#[target_feature(enable = "avx2,fma")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<8, Fused>()
}
