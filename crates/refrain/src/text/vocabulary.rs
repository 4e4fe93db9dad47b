//! Characters ↔ ids.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::TextError;

/// What an unknown token looks like in decoded text.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// The characters a model knows, as ids: 0 is `<unk>`, then the characters in the order of their code points.
///
/// A character is a Unicode scalar value. The same set of characters always gives the same ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// Strictly ascending; the character of id `i` stands at `i - 1`.
    chars: Vec<char>,
}

/// A character that the vocabulary does not know, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownChar {
    /// The character.
    pub ch: char,
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
}

/// Names unknown characters with their places, the first few of them.
pub fn name_unknown(unknown: &[UnknownChar]) -> String {
    const NAMED: usize = 5;
    let mut named: Vec<String> = unknown
        .iter()
        .take(NAMED)
        .map(|found| {
            format!("{:?} (U+{:04X}, line {} column {})", found.ch, u32::from(found.ch), found.line, found.column)
        })
        .collect();
    if unknown.len() > NAMED {
        named.push(format!("and {} more", unknown.len() - NAMED));
    }
    named.join(", ")
}

/// The form on disk: a string holds every character exactly once and in order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    unit: Unit,
    chars: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Unit {
    Char,
}

impl Vocabulary {
    /// The id of every character that is not in the vocabulary.
    pub const UNKNOWN: u32 = 0;

    /// The characters that occur in `text` at least `min_count` times.
    pub fn chars(text: &str, min_count: usize) -> Self {
        let mut counts: HashMap<char, usize> = HashMap::new();
        for ch in text.chars() {
            *counts.entry(ch).or_default() += 1;
        }
        let mut chars: Vec<char> =
            counts.into_iter().filter(|(_, count)| *count >= min_count).map(|(ch, _)| ch).collect();
        chars.sort_unstable();
        Self { chars }
    }

    /// The number of ids, `<unk>` included.
    #[expect(clippy::len_without_is_empty, reason = "`<unk>` is always there")]
    pub fn len(&self) -> usize {
        self.chars.len() + 1
    }

    /// The id of a character; [`Self::UNKNOWN`] if it has none.
    pub fn id(&self, ch: char) -> u32 {
        self.chars.binary_search(&ch).map_or(Self::UNKNOWN, |at| at as u32 + 1)
    }

    /// The character of an id; none for `<unk>` and for an id beyond the last.
    pub fn token(&self, id: u32) -> Option<char> {
        self.chars.get((id as usize).checked_sub(1)?).copied()
    }

    /// The text as ids, one a character; unknown characters are [`Self::UNKNOWN`].
    pub fn encode(&self, text: &str) -> Vec<u32> {
        text.chars().map(|ch| self.id(ch)).collect()
    }

    /// Every occurrence of a character that the vocabulary does not know, in order.
    pub fn unknown_chars(&self, text: &str) -> Vec<UnknownChar> {
        let mut unknown = Vec::new();
        let (mut line, mut column) = (1, 1);
        for ch in text.chars() {
            if self.id(ch) == Self::UNKNOWN {
                unknown.push(UnknownChar { ch, line, column });
            }
            if ch == '\n' {
                line += 1;
                column = 1;
            } else {
                column += 1;
            }
        }
        unknown
    }

    /// The text of `ids`; U+FFFD stands for `<unk>` and for an id beyond the last.
    pub fn decode(&self, ids: &[u32]) -> String {
        ids.iter().map(|id| self.token(*id).unwrap_or(REPLACEMENT)).collect()
    }

    /// The vocabulary as one line of JSON, which [`Self::from_json`] reads back exactly.
    ///
    /// # Panics
    ///
    /// Never: a string always has a JSON form.
    pub fn to_json(&self) -> String {
        let stored = Stored { unit: Unit::Char, chars: self.chars.iter().collect() };
        serde_json::to_string(&stored).expect("a string always has a JSON form")
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    ///
    /// [`TextError::Vocabulary`] if it is no such JSON, or if a character is there twice or out of order.
    pub fn from_json(json: &str) -> Result<Self, TextError> {
        let stored: Stored =
            serde_json::from_str(json).map_err(|error| TextError::Vocabulary { problem: error.to_string() })?;
        let chars: Vec<char> = stored.chars.chars().collect();
        for pair in chars.windows(2) {
            if pair[0] >= pair[1] {
                let fault =
                    if chars.iter().filter(|ch| **ch == pair[1]).count() > 1 { "there twice" } else { "out of order" };
                return Err(TextError::Vocabulary { problem: format!("{:?} is {fault}", pair[1]) });
            }
        }
        Ok(Self { chars })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_follow_code_points_after_unk() {
        let vocabulary = Vocabulary::chars("banana\n", 1);
        assert_eq!(vocabulary.len(), 5);
        assert_eq!(vocabulary.encode("\nabn"), [1, 2, 3, 4]);
        assert_eq!(vocabulary.token(0), None);
        assert_eq!(vocabulary.token(4), Some('n'));
        assert_eq!(vocabulary.token(5), None);
    }

    #[test]
    fn rare_characters_are_unknown() {
        let vocabulary = Vocabulary::chars("banana", 2);
        let ids = vocabulary.encode("banana");
        assert_eq!(ids, [0, 1, 2, 1, 2, 1]);
        assert_eq!(vocabulary.decode(&ids), "\u{fffd}anana");
    }

    #[test]
    fn unknown_characters_are_located() {
        let vocabulary = Vocabulary::chars("abc\n", 1);
        let unknown = vocabulary.unknown_chars("ab\nc😀c\n!");
        let places: Vec<_> = unknown.iter().map(|at| (at.ch, (at.line, at.column))).collect();
        assert_eq!(places, [('😀', (2, 2)), ('!', (3, 1))]);
    }

    #[test]
    fn an_empty_text_leaves_unk_alone() {
        let vocabulary = Vocabulary::chars("", 1);
        assert_eq!(vocabulary.len(), 1);
        assert_eq!(Vocabulary::from_json(&vocabulary.to_json()), Ok(vocabulary));
    }

    #[test]
    fn json_is_compact_and_keeps_awkward_characters() {
        let vocabulary = Vocabulary::chars("a\"\\\n\0\u{2028}😀", 1);
        let json = vocabulary.to_json();
        assert_eq!(json, "{\"unit\":\"char\",\"chars\":\"\\u0000\\n\\\"\\\\a\u{2028}😀\"}");
        assert_eq!(Vocabulary::from_json(&json), Ok(vocabulary));
    }

    #[test]
    fn damaged_json_is_refused() {
        for (json, problem) in [
            ("", "EOF"),
            (r#"{"unit":"char","chars":"aab"}"#, "'a' is there twice"),
            (r#"{"unit":"char","chars":"aba"}"#, "'a' is there twice"),
            (r#"{"unit":"char","chars":"acb"}"#, "'b' is out of order"),
            (r#"{"unit":"word","chars":"ab"}"#, "unknown variant"),
            (r#"{"unit":"char","chars":"ab","x":1}"#, "unknown field"),
            (r#"{"unit":"char","chars":"\ud800"}"#, "hex escape"),
            (r#"{"unit":"char"}"#, "missing field"),
        ] {
            let error = Vocabulary::from_json(json).unwrap_err().to_string();
            assert!(error.contains(problem), "{json}: {error}");
        }
    }

    proptest! {
        #[test]
        fn known_text_round_trips(text in "\\PC*[\n\t\"]?") {
            let vocabulary = Vocabulary::chars(&text, 1);
            let ids = vocabulary.encode(&text);
            prop_assert!(!ids.contains(&Vocabulary::UNKNOWN));
            prop_assert_eq!(vocabulary.decode(&ids), text);
        }

        #[test]
        fn json_round_trips(chars in proptest::collection::vec(any::<char>(), 0..200)) {
            let text: String = chars.into_iter().collect();
            let vocabulary = Vocabulary::chars(&text, 1);
            prop_assert_eq!(Vocabulary::from_json(&vocabulary.to_json()), Ok(vocabulary));
        }

        #[test]
        fn every_unknown_character_is_counted_and_located(known in "[a-e]*", text in "[a-j\n]*") {
            let vocabulary = Vocabulary::chars(&known, 1);
            let located = vocabulary.unknown_chars(&text);
            prop_assert_eq!(located.len(), text.chars().filter(|ch| !known.contains(*ch)).count());
            for place in located {
                let line = text.split('\n').nth(place.line - 1).unwrap();
                prop_assert_eq!(line.chars().nth(place.column - 1).unwrap_or('\n'), place.ch);
            }
        }
    }
}
