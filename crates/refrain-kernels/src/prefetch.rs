//! Hints to the cache. Tiles touch short pieces of many rows, which no hardware prefetcher foresees; asked for when a tile
//! starts, they are there when it ends.

/// Floats in a cache line.
pub(crate) const LINE: usize = 16;

/// Asks for the cache line of an address, which need not be valid.
#[inline(always)]
pub(crate) fn prefetch(address: *const f32) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch reads nothing and ignores addresses that cannot be read; every x86-64 processor has SSE.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

/// Asks for the lines of `len` floats.
#[inline(always)]
pub(crate) fn prefetch_run(address: *const f32, len: usize) {
    for start in (0..len).step_by(LINE) {
        prefetch(address.wrapping_add(start));
    }
    // The run may end in one line more when it does not start on one.
    prefetch(address.wrapping_add(len.saturating_sub(1)));
}
