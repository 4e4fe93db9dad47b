//! Where the tokens of a text begin and end.

use std::borrow::Cow;

use super::Unit;
use crate::setting::names;
use crate::text::hanzi::stands_alone;

names! {
    /// What keeps words apart.
    pub enum Segment {
        /// White space alone.
        #[default]
        Whitespace = "whitespace",
        /// White space, and every Chinese character and mark of punctuation is a word of its own.
        Characters = "characters",
    }
}

/// The end of a line, which is a token of words too where lines count.
pub(super) const NEW_LINE: &str = "\n";

/// How a text becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokenization {
    /// What a token is.
    pub unit: Unit,
    /// Words alone: capitals are read as small letters.
    pub lower_case: bool,
    /// Words alone: the end of a line is a token, as `<eos>` is in the Penn Treebank. Otherwise it is white space.
    pub end_of_sentence: bool,
    /// Words alone: what keeps them apart.
    pub segment: Segment,
}

impl Tokenization {
    /// Every character is a token, as it stands.
    pub const CHARS: Self =
        Self { unit: Unit::Char, lower_case: false, end_of_sentence: false, segment: Segment::Whitespace };
    /// Every word is a token, as it stands, and so is the end of every line.
    pub const WORDS: Self = Self { unit: Unit::Word, end_of_sentence: true, ..Self::CHARS };

    /// The stretches of a text that its tokens stand for, in order.
    pub fn pieces(self, text: &str) -> Pieces<'_> {
        Pieces { tokenization: self, rest: text }
    }

    /// The token that a stretch of text is.
    pub fn token(self, piece: &str) -> Cow<'_, str> {
        if self.lower_case { Cow::Owned(piece.to_lowercase()) } else { Cow::Borrowed(piece) }
    }

    /// A token as it stands in a text after `last`: a word has a space before it, unless a line begins with it or it is kept
    /// apart without one.
    pub(super) fn spaced(self, last: Option<char>, token: &str) -> String {
        let Some((last, first)) = last.zip(token.chars().next()).filter(|_| self.unit == Unit::Word) else {
            return token.to_owned();
        };
        let is_apart = last.is_whitespace() || first == '\n' || self.is_word(last) || self.is_word(first);
        if is_apart { token.to_owned() } else { format!(" {token}") }
    }

    /// Whether a character is a word wherever it stands.
    fn is_word(self, ch: char) -> bool {
        self.segment == Segment::Characters && stands_alone(ch)
    }

    /// Whether two words are kept apart by this.
    fn is_space(self, ch: char) -> bool {
        ch.is_whitespace() && !(self.end_of_sentence && ch == '\n')
    }
}

/// The stretches of a text that its tokens stand for: see [`Tokenization::pieces`].
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    tokenization: Tokenization,
    rest: &'a str,
}

impl<'a> Pieces<'a> {
    /// What has not been divided yet.
    pub fn rest(&self) -> &'a str {
        self.rest
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let Self { tokenization, rest } = *self;
        let from = match tokenization.unit {
            Unit::Word => rest.trim_start_matches(|ch| tokenization.is_space(ch)),
            _ => rest,
        };
        let first = from.chars().next()?;
        let len = match tokenization.unit {
            Unit::Word if first != '\n' && !tokenization.is_word(first) => {
                from.find(|ch: char| ch.is_whitespace() || tokenization.is_word(ch)).unwrap_or(from.len())
            }
            _ => first.len_utf8(),
        };
        let (piece, rest) = from.split_at(len);
        self.rest = rest;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(tokenization: Tokenization, text: &str) -> Vec<&str> {
        tokenization.pieces(text).collect()
    }

    #[test]
    fn words_stand_between_white_space_of_any_kind() {
        let text = " no , it\twas n't \r\n\n black\u{a0}monday\u{3000}<unk>";
        let lines = Tokenization { end_of_sentence: true, ..Tokenization::WORDS };
        let expected = ["no", ",", "it", "was", "n't", "\n", "\n", "black", "monday", "<unk>"];
        assert_eq!(pieces(lines, text), expected);
        let running = Tokenization { end_of_sentence: false, ..Tokenization::WORDS };
        let without: Vec<&str> = expected.into_iter().filter(|piece| *piece != "\n").collect();
        assert_eq!(pieces(running, text), without);
        assert_eq!(pieces(lines, " \t"), [""; 0]);
    }

    #[test]
    fn chinese_characters_can_be_words() {
        let by_characters = Tokenization { segment: Segment::Characters, ..Tokenization::WORDS };
        let text = "我爱Rust语言，\u{3000}v2。\n𠮷 ok";
        let expected = ["我", "爱", "Rust", "语", "言", "，", "v2", "。", "\n", "𠮷", "ok"];
        assert_eq!(pieces(by_characters, text), expected);
        assert_eq!(pieces(Tokenization::WORDS, text), ["我爱Rust语言，", "v2。", "\n", "𠮷", "ok"]);
        assert_eq!(by_characters.spaced(Some('爱'), "Rust"), "Rust");
        assert_eq!(by_characters.spaced(Some('t'), "Rust"), " Rust");
        assert_eq!(Tokenization::WORDS.spaced(Some('爱'), "语"), " 语");
    }

    #[test]
    fn characters_are_all_there() {
        assert_eq!(pieces(Tokenization::CHARS, "a 中\n"), ["a", " ", "中", "\n"]);
    }
}
