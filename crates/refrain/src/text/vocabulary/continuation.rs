//! What tokens add to a text, one after another.

use super::bytes;
use super::{Kind, UNKNOWN_CHAR, Vocabulary};

/// More bytes than a character has are none, whatever follows.
const LONGEST_CHAR: usize = 4;

/// The end of a text while tokens are added to it.
///
/// A token may be part of a character. Nothing of the character comes before its last byte, and U+FFFD stands for what no byte
/// that may follow can make one.
#[derive(Clone, Debug, Default)]
pub struct Continuation {
    /// The last character of the text.
    last: Option<char>,
    /// The bytes of a character that has begun.
    begun: Vec<u8>,
    /// The last tokens, where those before decide what one looks like; the first `shown` of them are part of the text.
    window: Vec<u32>,
    shown: usize,
}

impl Continuation {
    /// After a text of these tokens.
    pub fn after(tokens: &[u32], vocabulary: &Vocabulary) -> Self {
        /// Enough for a character of the prompt to be whole.
        const CONTEXT: usize = 2 * LONGEST_CHAR;
        let context = &tokens[tokens.len().saturating_sub(CONTEXT)..];
        let last = vocabulary.decode(&context[context.len().saturating_sub(1)..]).chars().next_back();
        let mut continuation = Self { last, ..Self::default() };
        if matches!(&vocabulary.kind, Kind::Subwords(subwords) if !subwords.has_bytes()) {
            continuation.window = context.to_vec();
            continuation.shown = context.len();
        }
        continuation
    }

    /// After a text, whatever its tokens.
    pub(super) fn after_text(text: &str, vocabulary: &Vocabulary) -> Self {
        match &vocabulary.kind {
            Kind::Subwords(subwords) if !subwords.has_bytes() => Self::after(&subwords.encode(text), vocabulary),
            _ => Self { last: text.chars().next_back(), ..Self::default() },
        }
    }

    /// What a token adds, as far as it is certain.
    pub fn push(&mut self, token: u32, vocabulary: &Vocabulary) -> String {
        let added = match &vocabulary.kind {
            Kind::Table(table) => table.tokenization.spaced(self.last, vocabulary.name(token)),
            Kind::Bytes => match bytes::byte(token) {
                Some(byte) => self.complete(&[byte]),
                None => self.finish(vocabulary) + UNKNOWN_CHAR,
            },
            Kind::Subwords(subwords) if subwords.has_bytes() => match subwords.bytes(token) {
                Some(bytes) => self.complete(bytes),
                None => self.finish(vocabulary) + UNKNOWN_CHAR,
            },
            Kind::Subwords(_) => {
                self.window.push(token);
                let added = self.held(vocabulary);
                if added.ends_with(UNKNOWN_CHAR) && self.window.len() - self.shown < LONGEST_CHAR {
                    return String::new();
                }
                self.window.drain(..self.shown);
                self.shown = self.window.len();
                added
            }
        };
        self.last = added.chars().next_back().or(self.last);
        added
    }

    /// What is left of the text when no token follows: U+FFFD for a character that has not become whole.
    pub fn finish(&mut self, vocabulary: &Vocabulary) -> String {
        let held = self.held(vocabulary);
        self.shown = self.window.len();
        let begun = std::mem::take(&mut self.begun);
        held + &String::from_utf8_lossy(&begun)
    }

    /// The text that has become certain with these bytes.
    fn complete(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let mut added = String::new();
        let mut left = 0;
        let mut chunks = self.begun.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            added += chunk.valid();
            let invalid = chunk.invalid();
            // At the end of the bytes it may be the beginning of a character.
            let is_begun = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if is_begun && chunks.peek().is_none() {
                left = invalid.len();
            } else if !invalid.is_empty() {
                added += UNKNOWN_CHAR;
            }
        }
        self.begun.drain(..self.begun.len() - left);
        added
    }

    /// What the tokens of the window that are not shown add to those that are.
    fn held(&self, vocabulary: &Vocabulary) -> String {
        if self.shown == self.window.len() {
            return String::new();
        }
        let all = vocabulary.decode(&self.window);
        let shown = vocabulary.decode(&self.window[..self.shown]);
        // Where the tokens change what was before them, each is as it is alone.
        all.strip_prefix(&shown).map_or_else(|| vocabulary.decode(&self.window[self.shown..]), str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What each byte adds, and what is left at the end.
    fn added(text: &[u8]) -> (Vec<String>, String) {
        let vocabulary = Vocabulary::bytes();
        let mut continuation = Continuation::default();
        let added = text.iter().map(|&byte| continuation.push(bytes::id(byte), &vocabulary)).collect();
        (added, continuation.finish(&vocabulary))
    }

    #[test]
    fn a_character_comes_with_its_last_byte_and_what_is_none_is_replaced_once_that_is_certain() {
        let of = |added: (Vec<String>, String)| (added.0.join("|"), added.1);
        assert_eq!(of(added("a中".as_bytes())), ("a|||中".to_owned(), String::new()));
        assert_eq!(of(added(b"\xE4\xB8x\xFFy")), ("||\u{fffd}x|\u{fffd}|y".to_owned(), String::new()));
        assert_eq!(of(added(b"a\xE4\xB8")), ("a||".to_owned(), "\u{fffd}".to_owned()));
    }

    proptest! {
        #[test]
        fn bytes_become_the_text_that_they_are_read_as_at_once(text: Vec<u8>) {
            let (added, left) = added(&text);
            prop_assert_eq!(added.concat() + &left, String::from_utf8_lossy(&text).into_owned());
        }
    }
}
