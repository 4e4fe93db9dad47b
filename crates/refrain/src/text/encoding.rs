//! Which encoding a file is in, decided from its bytes, and its text without a single replaced character.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{TextError, gb18030, utf16};

/// How much of a file the statistics look at; the strict decode always covers all of it.
const SAMPLE_BYTES: usize = 1 << 20;

/// A character encoding that text files may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// UTF-8, with or without a byte order mark.
    #[serde(rename = "utf-8")]
    Utf8,
    /// GB18030, the superset of GB2312 and GBK with four-byte forms for the rest of Unicode.
    Gb18030,
    /// UTF-16, low byte first, as Windows writes it.
    #[serde(rename = "utf-16le")]
    Utf16Le,
    /// UTF-16, high byte first.
    #[serde(rename = "utf-16be")]
    Utf16Be,
}

impl Encoding {
    /// Every encoding, in the order in which help texts name them.
    pub const ALL: [Self; 4] = [Self::Utf8, Self::Gb18030, Self::Utf16Le, Self::Utf16Be];

    /// The name used in recipes and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Utf8 => "utf-8",
            Self::Gb18030 => "gb18030",
            Self::Utf16Le => "utf-16le",
            Self::Utf16Be => "utf-16be",
        }
    }

    /// The bytes that mark a file as being in this encoding.
    const fn byte_order_mark(self) -> &'static [u8] {
        match self {
            Self::Utf8 => &[0xEF, 0xBB, 0xBF],
            Self::Gb18030 => &[0x84, 0x31, 0x95, 0x33],
            Self::Utf16Le => &[0xFF, 0xFE],
            Self::Utf16Be => &[0xFE, 0xFF],
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Encoding {
    type Err = TextError;

    fn from_str(name: &str) -> Result<Self, TextError> {
        Self::ALL
            .into_iter()
            .find(|encoding| encoding.as_str() == name)
            .ok_or_else(|| TextError::UnknownEncoding { name: name.to_owned() })
    }
}

/// Text, and how it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The text, without a byte order mark.
    pub text: String,
    /// The encoding it was in.
    pub encoding: Encoding,
    /// Why this encoding was chosen, in a few words.
    pub reason: String,
}

/// Decodes `bytes` exactly: as `forced`, or in the encoding that the bytes themselves give away.
///
/// Without `forced`, in this order:
///
/// 1. A byte order mark decides.
/// 2. Valid UTF-8 without a NUL byte is UTF-8.
/// 3. Bytes that read as plausible UTF-16 are UTF-16: at least nine tenths of the code units are characters of
///    everyday scripts and a twentieth are ASCII, CJK punctuation or the most frequent hanzi, which pairs of unrelated
///    bytes hardly ever are.
/// 4. Valid UTF-8 with NUL bytes is UTF-8.
/// 5. Bytes above 0x7F of which more than half belong to well-formed UTF-8 sequences are damaged UTF-8, and so are bytes
///    that are UTF-8 up to a last character cut short: an error.
/// 6. Bytes that read as plausible GB18030 are GB18030: hardly any is malformed, most characters beyond ASCII are in
///    GB2312 or in four-byte form, and a long text has its share of the most frequent hanzi. So one stray byte in an
///    English file is not taken for a Chinese character.
/// 7. Anything else is reported as invalid UTF-8.
///
/// # Errors
///
/// [`TextError`] with the offset of the first bad byte, if the chosen encoding does not allow the bytes, or with both
/// encodings, if a byte order mark contradicts `forced`.
pub fn decode(bytes: &[u8], forced: Option<Encoding>) -> Result<Decoded, TextError> {
    if bytes.starts_with(&[0xFF, 0xFE, 0, 0]) || bytes.starts_with(&[0, 0, 0xFE, 0xFF]) {
        return Err(TextError::Utf32);
    }
    let marked = Encoding::ALL.into_iter().find(|encoding| bytes.starts_with(encoding.byte_order_mark()));
    let (encoding, reason) = match (marked, forced) {
        (Some(found), Some(forced)) if found != forced => {
            return Err(TextError::ByteOrderMark {
                found,
                forced,
                hint: format!("leave `data.encoding` out, or set it to \"{found}\""),
            });
        }
        (_, Some(forced)) => (forced, "as configured".to_owned()),
        (Some(found), None) => (found, format!("{} BOM", label(found))),
        (None, None) => detect(bytes),
    };
    let mark = if marked.is_some() { encoding.byte_order_mark().len() } else { 0 };
    let text = decode_as(encoding, &bytes[mark..]).map_err(|bad| TextError::Invalid {
        encoding,
        offset: mark + bad.offset,
        problem: bad.problem,
        hint: hint(encoding, forced.is_some()),
    })?;
    Ok(Decoded { text, encoding, reason })
}

/// The first place that an encoding does not allow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadBytes {
    pub(super) offset: usize,
    pub(super) problem: String,
}

impl BadBytes {
    /// The text stops in the middle of a character.
    pub(super) fn truncated(offset: usize) -> Self {
        Self { offset, problem: "the text ends inside a character".to_owned() }
    }

    /// The bytes from `offset` on begin no character.
    pub(super) fn malformed(bytes: &[u8], offset: usize) -> Self {
        Self { offset, problem: format!("byte 0x{:02X}", bytes[offset]) }
    }
}

fn decode_as(encoding: Encoding, bytes: &[u8]) -> Result<String, BadBytes> {
    match encoding {
        Encoding::Utf8 => decode_utf8(bytes),
        Encoding::Gb18030 => gb18030::decode(bytes),
        Encoding::Utf16Le => utf16::decode(bytes, u16::from_le_bytes),
        Encoding::Utf16Be => utf16::decode(bytes, u16::from_be_bytes),
    }
}

fn decode_utf8(bytes: &[u8]) -> Result<String, BadBytes> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| match error.error_len() {
        None => BadBytes::truncated(error.valid_up_to()),
        Some(_) => BadBytes::malformed(bytes, error.valid_up_to()),
    })
}

/// The most plausible encoding of bytes without a byte order mark, and why.
fn detect(bytes: &[u8]) -> (Encoding, String) {
    let utf8 = std::str::from_utf8(bytes);
    if utf8.is_ok() && !bytes.contains(&0) {
        return (Encoding::Utf8, "valid UTF-8".to_owned());
    }
    // An even length keeps the code units of UTF-16 whole.
    let sample = &bytes[..bytes.len().min(SAMPLE_BYTES)];
    let little = utf16::evidence(sample, u16::from_le_bytes);
    let big = utf16::evidence(sample, u16::from_be_bytes);
    if little.or(big).is_some() {
        let encoding = if little >= big { Encoding::Utf16Le } else { Encoding::Utf16Be };
        return (encoding, format!("reads as {} without a BOM", label(encoding)));
    }
    let Err(error) = utf8 else {
        return (Encoding::Utf8, "valid UTF-8".to_owned());
    };
    let only_cut_short = error.error_len().is_none();
    if !only_cut_short && !is_damaged_utf8(sample) && gb18030::is_plausible(sample) {
        return (Encoding::Gb18030, "not UTF-8; plausible GB18030".to_owned());
    }
    (Encoding::Utf8, "no other encoding is plausible".to_owned())
}

/// Whether more than half of the bytes above 0x7F belong to well-formed UTF-8 sequences.
fn is_damaged_utf8(bytes: &[u8]) -> bool {
    let high = |bytes: &[u8]| bytes.iter().filter(|byte| !byte.is_ascii()).count();
    let well_formed: usize = bytes.utf8_chunks().map(|chunk| high(chunk.valid().as_bytes())).sum();
    2 * well_formed > high(bytes)
}

fn label(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Utf8 => "UTF-8",
        Encoding::Gb18030 => "GB18030",
        Encoding::Utf16Le => "UTF-16LE",
        Encoding::Utf16Be => "UTF-16BE",
    }
}

fn hint(tried: Encoding, forced: bool) -> String {
    if forced {
        return "leave `data.encoding` out to have it detected, or repair the file".to_owned();
    }
    let others: Vec<&str> =
        Encoding::ALL.into_iter().filter(|encoding| *encoding != tried).map(Encoding::as_str).collect();
    format!("repair the file, or name its encoding: --set data.encoding={}", others.join("|"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn utf16(text: &str, bytes_of: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes_of).collect()
    }

    fn gb18030(text: &str) -> Vec<u8> {
        encoding_rs::GB18030.encode(text).0.into_owned()
    }

    fn encode(text: &str, encoding: Encoding) -> Vec<u8> {
        match encoding {
            Encoding::Utf8 => text.as_bytes().to_vec(),
            Encoding::Gb18030 => gb18030(text),
            Encoding::Utf16Le => utf16(text, u16::to_le_bytes),
            Encoding::Utf16Be => utf16(text, u16::to_be_bytes),
        }
    }

    fn offset(bytes: &[u8], forced: Option<Encoding>) -> (Encoding, usize) {
        match decode(bytes, forced) {
            Err(TextError::Invalid { encoding, offset, .. }) => (encoding, offset),
            other => panic!("expected invalid bytes, got {other:?}"),
        }
    }

    const ENGLISH: &str = "Before we proceed any further, hear me speak.\nSpeak, speak.\n";
    const CHINESE: &str = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n";
    const TRADITIONAL: &str = "國破山河在，城春草木深。\n感時花濺淚，恨別鳥驚心。\n烽火連三月，家書抵萬金。\n";
    const PROSE: &str = "循环神经网络的状态在每一步都会更新，所以它能记住前面的内容。我们用一个简单的例子来说明：\r\n输入是一句话，输出是下一个字。\r\n";

    #[test]
    fn every_encoding_is_detected_without_a_mark() {
        for text in [ENGLISH, CHINESE, TRADITIONAL, PROSE, "中文𠮷😀，四字节。"] {
            for encoding in Encoding::ALL {
                let decoded = decode(&encode(text, encoding), None).unwrap();
                // ASCII is the same bytes in UTF-8 and GB18030.
                let expected = if text.is_ascii() && encoding == Encoding::Gb18030 { Encoding::Utf8 } else { encoding };
                assert_eq!(decoded.encoding, expected, "{text}");
                assert_eq!(decoded.text, text);
            }
        }
    }

    #[test]
    fn a_mark_decides_and_is_removed() {
        for encoding in Encoding::ALL {
            let mut bytes = encoding.byte_order_mark().to_vec();
            bytes.extend(encode("a你", encoding));
            let decoded = decode(&bytes, None).unwrap();
            assert_eq!(decoded.text, "a你");
            assert_eq!(decoded.encoding, encoding);
            assert!(decoded.reason.ends_with("BOM"));
            assert_eq!(decode(&bytes, Some(encoding)).unwrap().text, "a你");
        }
    }

    #[test]
    fn a_mark_that_contradicts_the_configuration_is_refused() {
        let error = decode(b"\xEF\xBB\xBFabc", Some(Encoding::Gb18030)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the text starts with the byte order mark of utf-8, but is to be read as gb18030"
        );
        assert!(error.hint().unwrap().contains("data.encoding"));
        assert_eq!(decode(b"\xFF\xFE\0\0a\0\0\0", None), Err(TextError::Utf32));
    }

    #[test]
    fn a_bad_byte_in_utf8_is_reported_at_its_offset() {
        for text in [ENGLISH.repeat(50), CHINESE.repeat(50), "né à l'été\n".repeat(50)] {
            for bad in [0x80, 0x93, 0xC0, 0xE9, 0xFF] {
                for parity in 0..2 {
                    let at = text.floor_char_boundary(text.len() / 2 + 1);
                    let mut bytes = text.clone().into_bytes();
                    bytes.insert(at, bad);
                    bytes.extend(std::iter::repeat_n(b'.', parity));
                    assert_eq!(offset(&bytes, None), (Encoding::Utf8, at), "{bad:x} in {text}");
                }
            }
        }
    }

    #[test]
    fn a_truncated_file_is_reported_in_its_own_encoding() {
        assert_eq!(offset("ab中".as_bytes().split_last().unwrap().1, None), (Encoding::Utf8, 2));
        for (encoding, width) in [(Encoding::Gb18030, 2), (Encoding::Utf16Le, 2), (Encoding::Utf16Be, 2)] {
            let whole = encode(CHINESE.trim_end(), encoding);
            let cut = &whole[..whole.len() - 1];
            assert_eq!(offset(cut, None), (encoding, whole.len() - width));
            assert_eq!(offset(cut, Some(encoding)), (encoding, whole.len() - width));
        }
        let error = decode(b"a\0b\0c", None).unwrap_err();
        assert_eq!(error.to_string(), "not valid utf-16le: the text ends inside a character at byte offset 4");
    }

    #[test]
    fn unpaired_surrogates_are_errors() {
        let mut bytes = utf16("ab", u16::to_le_bytes);
        bytes.extend(0xD800_u16.to_le_bytes());
        bytes.extend(utf16("cdefghijkl", u16::to_le_bytes));
        assert_eq!(offset(&bytes, None), (Encoding::Utf16Le, 4));
        assert_eq!(offset(b"\xFE\xFF\xDC\x00", None), (Encoding::Utf16Be, 2));
    }

    #[test]
    fn western_single_byte_text_is_not_taken_for_chinese() {
        let latin1: Vec<u8> =
            "Déjà vu, ça m'a étonné. Où êtes-vous allée cet été ?\n".repeat(20).chars().map(|ch| ch as u8).collect();
        assert_eq!(offset(&latin1, None), (Encoding::Utf8, 1));
        let big5 = encoding_rs::BIG5.encode(&TRADITIONAL.repeat(5)).0.into_owned();
        assert!(decode(&big5, None).is_err());
    }

    #[test]
    fn an_even_run_of_letters_is_not_taken_for_utf16() {
        for text in ["Bush hid the facts", "this app can break", "aa", ""] {
            assert_eq!(decode(text.as_bytes(), None).unwrap().text, text);
        }
    }

    #[test]
    fn a_nul_does_not_make_utf8_utf16() {
        for text in ["a,b\0\0\0c,d;efgh\0 the end of it", "中文\0中文", "\0"] {
            let decoded = decode(text.as_bytes(), None).unwrap();
            assert_eq!((decoded.encoding, decoded.text.as_str()), (Encoding::Utf8, text));
        }
    }

    #[test]
    fn names_round_trip() {
        for encoding in Encoding::ALL {
            assert_eq!(encoding.to_string().parse(), Ok(encoding));
            let json = serde_json::to_string(&encoding).unwrap();
            assert_eq!(json, format!("\"{encoding}\""));
            assert_eq!(serde_json::from_str::<Encoding>(&json).unwrap(), encoding);
        }
        assert!("latin-1".parse::<Encoding>().unwrap_err().hint().is_some());
    }

    proptest! {
        #[test]
        fn any_text_survives_its_encoding(text in "[^\u{feff}]{0,40}", which in 0_usize..4) {
            let encoding = Encoding::ALL[which];
            // WHATWG maps U+E5E5 nowhere; private-use characters have no portable GB18030 form.
            prop_assume!(encoding != Encoding::Gb18030 || !text.contains(|c| matches!(c, '\u{e000}'..='\u{f8ff}')));
            let bytes = encode(&text, encoding);
            prop_assert_eq!(decode(&bytes, Some(encoding)).unwrap().text, text);
        }

        #[test]
        fn any_utf8_without_nul_is_read_as_utf8(text in "[^\0\u{feff}]{0,40}") {
            let decoded = decode(text.as_bytes(), None).unwrap();
            prop_assert_eq!(decoded.encoding, Encoding::Utf8);
            prop_assert_eq!(decoded.text, text);
        }

        #[test]
        fn any_bytes_decode_or_name_an_offset_inside(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for forced in [None, Some(Encoding::Utf8), Some(Encoding::Gb18030), Some(Encoding::Utf16Le)] {
                if let Err(TextError::Invalid { offset, .. }) = decode(&bytes, forced) {
                    prop_assert!(offset < bytes.len());
                }
            }
        }
    }
}
