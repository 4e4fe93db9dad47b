//! The system allocator's habit of returning big buffers to the kernel, switched off; and big pages.

use std::mem::MaybeUninit;

/// Tells glibc to keep big freed buffers for the next allocation instead of unmapping them.
///
/// A training step frees and allocates the same tensors again and again; unmapped, each page faults anew. Call it once,
/// early in `main`. Elsewhere than on Linux with glibc it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const GIB: libc::c_int = 1 << 30;
        // glibc before 2.35 refuses thresholds over half an arena.
        const HALF_AN_ARENA: libc::c_int = 32 << 20;
        // SAFETY: mallopt only sets the allocator's parameters and takes its lock; any values are allowed.
        unsafe {
            if libc::mallopt(libc::M_MMAP_THRESHOLD, GIB) == 0 {
                libc::mallopt(libc::M_MMAP_THRESHOLD, HALF_AN_ARENA);
            }
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        }
    }
}

/// Asks for big pages under a buffer of many of them: strided access to packed panels otherwise spends its time in page
/// tables. A hint that may be refused; nothing elsewhere than on Linux with glibc.
pub(crate) fn advise_huge_pages(buffer: &mut [MaybeUninit<f32>]) {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    {
        const HUGE_PAGE: usize = 2 << 20;
        let start = buffer.as_mut_ptr_range().start as usize;
        let first = start.next_multiple_of(HUGE_PAGE);
        let end = (start + size_of_val(buffer)) / HUGE_PAGE * HUGE_PAGE;
        if first < end {
            let address = buffer.as_mut_ptr().cast::<u8>().wrapping_add(first - start);
            // SAFETY: the range lies inside the buffer, and the advice changes no contents.
            unsafe { libc::madvise(address.cast(), end - first, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu", not(miri))))]
    let _ = buffer;
}
