//! AVX-512: 32 registers of 16 lanes; 24 of them accumulate. A tall tile reads its panel less often than a wide one, and the
//! panels of a recurrence often come from the third cache: there 6×64 runs at 60 to 80 % of the speed of 12×32.

use super::{Fused, Kernel};

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<16, 2, 12, 8, Fused>()
}
