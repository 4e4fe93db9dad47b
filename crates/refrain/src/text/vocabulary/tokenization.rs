//! Where the tokens of a text begin and end.

use std::borrow::Cow;

use crate::setting::names;

names! {
    /// What a token is.
    pub enum Unit {
        /// A Unicode scalar value, white space included.
        #[default]
        Char = "char",
        /// What stands between white space.
        Word = "word",
    }
}

impl Unit {
    /// More than one of them, in a sentence.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Char => "characters",
            Self::Word => "words",
        }
    }

    /// One of them, in a sentence.
    pub const fn singular(self) -> &'static str {
        match self {
            Self::Char => "character",
            Self::Word => "word",
        }
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
}

impl Tokenization {
    /// Every character is a token, as it stands.
    pub const CHARS: Self = Self { unit: Unit::Char, lower_case: false, end_of_sentence: false };
    /// Every word is a token, as it stands, and so is the end of every line.
    pub const WORDS: Self = Self { unit: Unit::Word, lower_case: false, end_of_sentence: true };

    /// The stretches of a text that its tokens stand for, in order.
    pub fn pieces(self, text: &str) -> Pieces<'_> {
        Pieces { tokenization: self, rest: text }
    }

    /// The token that a stretch of text is.
    pub fn token(self, piece: &str) -> Cow<'_, str> {
        if self.lower_case { Cow::Owned(piece.to_lowercase()) } else { Cow::Borrowed(piece) }
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
            Unit::Char => rest,
            Unit::Word => rest.trim_start_matches(|ch| tokenization.is_space(ch)),
        };
        let first = from.chars().next()?;
        let len = match tokenization.unit {
            Unit::Word if first != '\n' => from.find(char::is_whitespace).unwrap_or(from.len()),
            Unit::Word | Unit::Char => first.len_utf8(),
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
    fn characters_are_all_there() {
        assert_eq!(pieces(Tokenization::CHARS, "a 中\n"), ["a", " ", "中", "\n"]);
    }
}
