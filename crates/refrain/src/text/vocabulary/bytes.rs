//! The vocabulary of all bytes: any text, nothing unknown.

use std::fmt::Write as _;

/// How many bytes there are.
const COUNT: usize = 256;

/// The id of a byte: 0 is `<unk>`, as in every vocabulary, and occurs in no text.
pub(super) fn id(byte: u8) -> u32 {
    u32::from(byte) + 1
}

/// The byte of an id; none for `<unk>` and for an id beyond the last.
pub(super) fn byte(id: u32) -> Option<u8> {
    u8::try_from(id.checked_sub(1)?).ok()
}

/// What people read for each byte, in the order of ids.
pub(super) fn names() -> Vec<String> {
    (0..COUNT).map(|byte| shown(&[byte as u8])).collect()
}

/// Bytes as text; those that are none by themselves as `<0xE4>`, as `SentencePiece` writes them.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        shown += chunk.valid();
        for byte in chunk.invalid() {
            write!(shown, "<0x{byte:02X}>").expect("a string takes all that is written to it");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_an_id_of_its_own_and_a_name() {
        let names = names();
        assert_eq!(names.len(), 256);
        for number in 0..=255u8 {
            assert_eq!(byte(id(number)), Some(number));
        }
        assert_eq!((byte(0), byte(257)), (None, None));
        assert_eq!([names[0x61].as_str(), &names[0x0A], &names[0xE4]], ["a", "\n", "<0xE4>"]);
        assert_eq!(shown("中b\u{e9}".as_bytes().split_last().expect("bytes").1), "中b<0xC3>");
    }
}
