//! AMX: eight registers of 16 rows of 64 bytes, and an instruction that multiplies two of them as bfloat16 and adds to a third.
//!
//! Its intrinsics are not stable in Rust, so the loops are assembly. Six products of three-part factors stand for one of
//! f32 (see [`crate::format`]) and still run at more than twice the speed of f32 instructions.

use std::arch::asm;

/// Whether the processor has bfloat16 tiles and the system lets this process use them.
#[cfg(all(target_os = "linux", not(miri)))]
pub(super) fn is_allowed() -> bool {
    use std::sync::OnceLock;

    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| {
        /// Leaf 7, edx.
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        /// The state component of the tile registers' contents.
        const XTILEDATA: libc::c_ulong = 18;
        let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
        features & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE
            // SAFETY: the call only asks for the permission, for all threads of the process; it fails where it is unknown.
            && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) } == 0
    })
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

/// Palette 1, all eight registers of 16 rows of 64 bytes.
static CONFIGURATION: Configuration = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut register = 0;
    while register < 8 {
        bytes[16 + 2 * register] = 64;
        bytes[48 + register] = 16;
        register += 1;
    }
    Configuration(bytes)
};

/// Configures the calling thread's tile registers.
///
/// # Safety
///
/// The processor must have them and the system allow their use.
pub(super) unsafe fn configure() {
    // SAFETY: by contract; the configuration is 64 readable bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) CONFIGURATION.0.as_ptr(), options(nostack, readonly, preserves_flags)) };
}

/// Gives the calling thread's tile registers back, so that switching threads need not save them.
///
/// # Safety
///
/// As [`configure`].
pub(super) unsafe fn release() {
    // SAFETY: by contract.
    unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
}

/// The left factor's part `$p`: 16 rows, or 32.
macro_rules! left {
    (1, $p:literal) => {
        concat!("tileloadd tmm4, [{a} + {sa} + 2048*", $p, "]\n")
    };
    (2, $p:literal) => {
        concat!("tileloadd tmm4, [{a} + {sa} + 2048*", $p, "]\n tileloadd tmm5, [{a} + {sa} + 2048*", $p, " + 1024]\n")
    };
}

/// The right factor's part `$p`: 32 columns.
macro_rules! right {
    ($p:literal) => {
        concat!("tileloadd tmm6, [{b} + {sb} + 2048*", $p, "]\n tileloadd tmm7, [{b} + {sb} + 2048*", $p, " + 64]\n")
    };
}

/// The products of the loaded parts.
macro_rules! products {
    (1) => {
        "tdpbf16ps tmm0, tmm4, tmm6\n tdpbf16ps tmm1, tmm4, tmm7\n"
    };
    (2) => {
        concat!(products!(1), "tdpbf16ps tmm2, tmm5, tmm6\n tdpbf16ps tmm3, tmm5, tmm7\n")
    };
}

/// A block of terms of a tile of 32 columns.
macro_rules! two_vectors {
    ($rows:tt, 1) => {
        concat!(left!($rows, 0), right!(0), products!($rows))
    };
    // The order keeps as much in registers as it can.
    ($rows:tt, 3) => {
        concat!(
            left!($rows, 0),
            right!(2),
            products!($rows),
            right!(1),
            products!($rows),
            left!($rows, 1),
            products!($rows),
            right!(0),
            products!($rows),
            left!($rows, 2),
            products!($rows),
            left!($rows, 0),
            products!($rows),
        )
    };
}

/// A product of parts `$p` and `$q` of a tile of 48 columns: six sums leave two registers, which is enough.
macro_rules! three_products {
    (1, $p:literal, $q:literal) => {
        concat!(
            "tileloadd tmm6, [{a} + {sa} + 2048*",
            $p,
            "]\n",
            "tileloadd tmm7, [{b} + {sb} + 3072*",
            $q,
            "]\n tdpbf16ps tmm0, tmm6, tmm7\n",
            "tileloadd tmm7, [{b} + {sb} + 3072*",
            $q,
            " + 64]\n tdpbf16ps tmm1, tmm6, tmm7\n",
            "tileloadd tmm7, [{b} + {sb} + 3072*",
            $q,
            " + 128]\n tdpbf16ps tmm2, tmm6, tmm7\n",
        )
    };
    (2, $p:literal, $q:literal) => {
        concat!(
            three_products!(1, $p, $q),
            "tileloadd tmm6, [{a} + {sa} + 2048*",
            $p,
            " + 1024]\n tdpbf16ps tmm5, tmm6, tmm7\n",
            "tileloadd tmm7, [{b} + {sb} + 3072*",
            $q,
            " + 64]\n tdpbf16ps tmm4, tmm6, tmm7\n",
            "tileloadd tmm7, [{b} + {sb} + 3072*",
            $q,
            "]\n tdpbf16ps tmm3, tmm6, tmm7\n",
        )
    };
}

/// A block of terms of a tile of 48 columns.
macro_rules! three_vectors {
    ($rows:tt, 1) => {
        three_products!($rows, 0, 0)
    };
    ($rows:tt, 3) => {
        concat!(
            three_products!($rows, 2, 0),
            three_products!($rows, 1, 1),
            three_products!($rows, 0, 2),
            three_products!($rows, 1, 0),
            three_products!($rows, 0, 1),
            three_products!($rows, 0, 0),
        )
    };
}

/// The sums of a tile to memory: one half of its rows or both, of two or three vectors.
macro_rules! stores {
    (1, 2) => {
        "tilestored [{c} + {sb}], tmm0\n tilestored [{c} + {sb} + 64], tmm1\n"
    };
    (2, 2) => {
        concat!(stores!(1, 2), "tilestored [{c} + {sb} + 2048], tmm2\n tilestored [{c} + {sb} + 2112], tmm3\n")
    };
    (1, 3) => {
        concat!(stores!(1, 2), "tilestored [{c} + {sb} + 128], tmm2\n")
    };
    (2, 3) => {
        concat!(
            stores!(1, 3),
            "tilestored [{c} + {sb} + 3072], tmm3\n",
            "tilestored [{c} + {sb} + 3136], tmm4\n tilestored [{c} + {sb} + 3200], tmm5\n",
        )
    };
}

/// The whole tile, by `$used` of `$parts` parts. Rows of right factor and sums are equally long: `$vectors * 64` bytes.
macro_rules! tile {
    ($blocks:ident, $left:ident, $right:ident, $sums:ident, $rows:tt, $vectors:tt, $used:tt of $parts:tt, $block:ident) => {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", "tilezero tmm4", "tilezero tmm5",
            "test {n}, {n}",
            "jz 3f",
            "2:",
            $block!($rows, $used),
            "add {a}, 2048*{parts}",
            "add {b}, 1024*{parts}*{vectors}",
            "dec {n}",
            "jnz 2b",
            "3:",
            stores!($rows, $vectors),
            n = inout(reg) $blocks => _,
            a = inout(reg) $left => _,
            b = inout(reg) $right => _,
            c = in(reg) $sums,
            sa = in(reg) 64usize,
            sb = in(reg) 64usize * $vectors,
            parts = const $parts,
            vectors = const $vectors,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// The parts of factors, and which of them are multiplied.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parts {
    One,
    Three,
    /// Of three parts only the first.
    FirstOfThree,
}

/// `sums[r, c] = Σ left[r, k] · right[k, c]`, over `blocks` blocks of 32 terms.
///
/// Sums are written for 16 rows, or 32 if `rows` exceeds 16, of `vectors` times 16 columns.
///
/// # Safety
///
/// The thread must have [configured](configure) its tiles; `left` and `right` be readable for the blocks, the left ones of 32
/// rows and in the layout of `parts`; `sums` be writable for all that is written.
pub(crate) unsafe fn multiply(
    (rows, vectors, parts): (usize, usize, Parts),
    blocks: usize,
    left: *const u32,
    right: *const u32,
    sums: *mut f32,
) {
    use Parts::{FirstOfThree, One, Three};
    // SAFETY: by contract; the loops stay inside the blocks.
    unsafe {
        match (rows > 16, vectors, parts) {
            (false, 2, One) => tile!(blocks, left, right, sums, 1, 2, 1 of 1, two_vectors),
            (true, 2, One) => tile!(blocks, left, right, sums, 2, 2, 1 of 1, two_vectors),
            (false, 2, Three) => tile!(blocks, left, right, sums, 1, 2, 3 of 3, two_vectors),
            (true, 2, Three) => tile!(blocks, left, right, sums, 2, 2, 3 of 3, two_vectors),
            (false, 2, FirstOfThree) => tile!(blocks, left, right, sums, 1, 2, 1 of 3, two_vectors),
            (true, 2, FirstOfThree) => tile!(blocks, left, right, sums, 2, 2, 1 of 3, two_vectors),
            (false, 3, One) => tile!(blocks, left, right, sums, 1, 3, 1 of 1, three_vectors),
            (true, 3, One) => tile!(blocks, left, right, sums, 2, 3, 1 of 1, three_vectors),
            (false, 3, Three) => tile!(blocks, left, right, sums, 1, 3, 3 of 3, three_vectors),
            (true, 3, Three) => tile!(blocks, left, right, sums, 2, 3, 3 of 3, three_vectors),
            (false, 3, FirstOfThree) => tile!(blocks, left, right, sums, 1, 3, 1 of 3, three_vectors),
            (true, 3, FirstOfThree) => tile!(blocks, left, right, sums, 2, 3, 1 of 3, three_vectors),
            _ => unreachable!("tiles of {vectors} vectors"),
        }
    }
}
