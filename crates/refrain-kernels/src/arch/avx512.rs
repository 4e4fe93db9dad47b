//! AVX-512: 32 registers of 16 lanes.

use std::arch::x86_64::__cpuid;

use super::{Fused, Kernel};

/// Whether the bfloat16 instruction is there and beats two f32 multiply-adds.
///
/// Emerald Rapids starts one in the time of four: by it a product takes twice as long as in f32. All of Intel's processors with
/// AMX are taken for alike. Where the system hides their tiles, AVX-512 FP16 gives them away: both came with Sapphire Rapids.
pub(super) fn has_fast_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16") && !(is_x86_feature_detected!("avx512fp16") && is_of_intel())
}

fn is_of_intel() -> bool {
    let leaf = __cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

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
