//! UTF-16 in either byte order: strict decoding, and how much bytes look like it.

use super::encoding::BadBytes;
use super::hanzi;

/// Decodes UTF-16 exactly; `unit` makes a code unit of two bytes.
pub(super) fn decode(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, BadBytes> {
    let mut text = String::with_capacity(bytes.len());
    let mut units = 0;
    for decoded in char::decode_utf16(units_of(bytes, unit)) {
        match decoded {
            Ok(ch) => {
                text.push(ch);
                units += ch.len_utf16();
            }
            Err(error) => {
                return Err(BadBytes {
                    offset: 2 * units,
                    problem: format!("unpaired surrogate 0x{:04X}", error.unpaired_surrogate()),
                });
            }
        }
    }
    if bytes.len() % 2 == 1 {
        return Err(BadBytes::truncated(bytes.len() - 1));
    }
    Ok(text)
}

/// The share of unmistakable characters, in thousandths, if the bytes are plausible UTF-16 text.
///
/// Malformed units and a last odd byte count against it but do not settle it: a damaged UTF-16 file is to be reported
/// as damaged UTF-16.
pub(super) fn evidence(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<usize> {
    // Chinese as UTF-16 has about half of its bytes among the ASCII letters by chance; a damaged ASCII file has nearly all.
    let printable = bytes.iter().filter(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r')).count();
    if 5 * printable > 4 * bytes.len() {
        return None;
    }
    let (mut total, mut plausible, mut certain) = (0, 0, 0);
    for decoded in char::decode_utf16(units_of(bytes, unit)) {
        total += 1;
        if let Ok(ch) = decoded {
            plausible += usize::from(is_everyday(ch));
            certain += usize::from(is_certain(ch));
        }
    }
    (10 * plausible >= 9 * total && 20 * certain >= total && certain > 0).then(|| 1000 * certain / total)
}

fn units_of(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> impl Iterator<Item = u16> {
    bytes.as_chunks::<2>().0.iter().map(move |pair| unit(*pair))
}

/// Characters of scripts in daily use, as opposed to what two unrelated bytes make.
fn is_everyday(ch: char) -> bool {
    matches!(ch,
        '\t' | '\n' | '\r' | ' '..='~'
        | '\u{a0}'..='\u{52f}'         // Latin, Greek, Cyrillic
        | '\u{2010}'..='\u{203e}'      // dashes, quotation marks
        | '\u{20a0}'..='\u{214f}'      // currency and letter-like signs
        | '\u{3000}'..='\u{30ff}'      // CJK punctuation, kana
        | '\u{4e00}'..='\u{9fff}'      // hanzi
        | '\u{ac00}'..='\u{d7a3}'      // hangul
        | '\u{ff00}'..='\u{ffef}'      // full-width forms
        | '\u{1f300}'..='\u{1faff}'    // emoji
        | '\u{20000}'..='\u{3134f}') // rare hanzi
}

/// Characters that every real text has and that chance rarely makes.
fn is_certain(ch: char) -> bool {
    matches!(ch, '\t' | '\n' | '\r' | ' '..='~' | '\u{3001}' | '\u{3002}' | '\u{ff01}' | '\u{ff0c}' | '\u{ff1a}'..='\u{ff1f}')
        || hanzi::is_frequent(ch)
}
