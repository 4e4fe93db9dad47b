//! AVX-512: 32 registers of 16 lanes.

use super::{Fused, Kernel};

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<16, Fused>()
}

/// The same with the bfloat16 instruction.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub(super) fn run_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<16, Fused>()
}

/// The same with the instruction for products of bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) fn run_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<16, Fused>()
}
