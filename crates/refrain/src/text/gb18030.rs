//! GB18030: strict decoding, and how much bytes look like it.

use encoding_rs::{DecoderResult, GB18030};

use super::encoding::BadBytes;
use super::hanzi;

/// Decodes GB18030 exactly, four-byte forms included.
pub(super) fn decode(bytes: &[u8]) -> Result<String, BadBytes> {
    let mut structural = None;
    for (offset, form) in forms(bytes) {
        if form == Form::Bad {
            structural = Some(offset);
            break;
        }
    }
    let mut decoder = GB18030.new_decoder_without_bom_handling();
    let capacity = decoder
        .max_utf8_buffer_length_without_replacement(bytes.len())
        .expect("the length of a slice is far from overflow");
    let mut text = String::with_capacity(capacity);
    let (result, read) = decoder.decode_to_string_without_replacement(bytes, &mut text, true);
    let unmapped = match result {
        DecoderResult::Malformed(bad, after) => Some(read - usize::from(bad) - usize::from(after)),
        DecoderResult::InputEmpty | DecoderResult::OutputFull => None,
    };
    // The web's decoder takes 0x80 for a euro sign, the standard does not: the earlier complaint is the strict one.
    match structural.into_iter().chain(unmapped).min() {
        None => Ok(text),
        Some(offset) if is_cut_short(&bytes[offset..]) => Err(BadBytes::truncated(offset)),
        Some(offset) => Err(BadBytes::malformed(bytes, offset)),
    }
}

/// Whether the bytes are probably GB18030: see rule 6 of [`super::decode`].
pub(super) fn is_plausible(bytes: &[u8]) -> bool {
    let (mut total, mut everyday, mut bad) = (0, 0, 0);
    for (_, form) in forms(bytes) {
        match form {
            Form::Ascii => continue,
            Form::Gb2312 | Form::FourByte => everyday += 1,
            Form::Extension => {}
            Form::Bad => bad += 1,
        }
        total += 1;
    }
    // One malformed place is a truncated or damaged file, to be reported as GB18030.
    if 2 * everyday <= total || bad > 1 + total / 100 {
        return false;
    }
    let (text, _) = GB18030.decode_without_bom_handling(bytes);
    let hanzi = text.chars().filter(|ch| hanzi::is_hanzi(*ch)).count();
    let frequent = text.chars().filter(|ch| hanzi::is_frequent(*ch)).count();
    hanzi < 40 || 10 * frequent >= hanzi
}

/// The shape of one character.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Ascii,
    /// Two bytes, both at least 0xA1: the characters of GB2312 and its neighbours.
    Gb2312,
    /// Any other two-byte form: GBK's additions, traditional characters among them.
    Extension,
    FourByte,
    Bad,
}

/// The characters by shape, with their offsets; one byte is skipped after a bad one.
fn forms(bytes: &[u8]) -> impl Iterator<Item = (usize, Form)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let (form, width) = match rest {
            [..=0x7F, ..] => (Form::Ascii, 1),
            [0xA1..=0xF7, 0xA1..=0xFE, ..] => (Form::Gb2312, 2),
            [0x81..=0xFE, 0x40..=0x7E | 0x80..=0xFE, ..] => (Form::Extension, 2),
            [0x81..=0xFE, b'0'..=b'9', 0x81..=0xFE, b'0'..=b'9', ..] => (Form::FourByte, 4),
            _ => (Form::Bad, 1),
        };
        let offset = at;
        at += width;
        Some((offset, form))
    })
}

/// Whether the bytes are the beginning of a character that the end of the text cut off.
fn is_cut_short(rest: &[u8]) -> bool {
    matches!(rest, [0x81..=0xFE] | [0x81..=0xFE, b'0'..=b'9'] | [0x81..=0xFE, b'0'..=b'9', 0x81..=0xFE])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_byte_forms_decode() {
        assert_eq!(decode(b"\x94\x39\xFC\x36\x95\x34\xB2\x35").unwrap(), "😀𠮷");
    }

    #[test]
    fn the_first_bad_byte_is_named() {
        for (bytes, offset, problem) in [
            (&b"ab\x80c"[..], 2, "byte 0x80"),
            (b"\xC4\xE3\xFFa", 2, "byte 0xFF"),
            (b"\xC4\xE3\xC4\x20", 2, "byte 0xC4"),
            (b"\xC4\xE3\x81\x30\x20", 2, "byte 0x81"),
            (b"\xC4\xE3\xFE\x39\xFE\x39a", 2, "byte 0xFE"),
            (b"\xC4\xE3\xC4", 2, "the text ends inside a character"),
            (b"\xC4\xE3\x94\x39", 2, "the text ends inside a character"),
            (b"\xC4\xE3\x94\x39\xFC", 2, "the text ends inside a character"),
        ] {
            let bad = decode(bytes).unwrap_err();
            assert_eq!((bad.offset, bad.problem.as_str()), (offset, problem), "{bytes:x?}");
        }
    }
}
