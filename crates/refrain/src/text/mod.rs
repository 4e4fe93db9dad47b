//! Text → tokens: the encoding of a file is detected, its characters, bytes, words or sub-words become the ids of a vocabulary.

pub mod encoding;
mod gb18030;
mod hanzi;
mod utf16;
pub mod vocabulary;

use thiserror::Error;

pub use self::encoding::{Decoded, Encoding, decode};
pub use self::vocabulary::{
    Continuation, CountedToken, Pieces, Scope, Segment, Tokenization, Unit, UnknownToken, Vocabulary, VocabularyLimits,
    name_unknown,
};

/// Why bytes could not become text, or text could not become tokens.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TextError {
    /// A byte sequence that the encoding does not allow; nothing is ever replaced silently.
    #[error("not valid {encoding}: {problem} at byte offset {offset}")]
    Invalid {
        /// The encoding tried.
        encoding: Encoding,
        /// Offset of the first bad byte, counted from 0 at the start of the file.
        offset: usize,
        /// What stands there.
        problem: String,
        /// What to do about it.
        hint: String,
    },
    /// The byte order mark contradicts the encoding asked for.
    #[error("the text starts with the byte order mark of {found}, but is to be read as {forced}")]
    ByteOrderMark {
        /// The encoding that the mark stands for.
        found: Encoding,
        /// The encoding asked for.
        forced: Encoding,
        /// What to do about it.
        hint: String,
    },
    /// The byte order mark of UTF-32.
    #[error("the text is UTF-32, which is not supported")]
    Utf32,
    /// A name that is no encoding.
    #[error("unknown encoding `{name}`")]
    UnknownEncoding {
        /// The name given.
        name: String,
    },
    /// A vocabulary file that was not written by this program, or was changed since.
    #[error("damaged vocabulary: {problem}")]
    Vocabulary {
        /// What is wrong with it.
        problem: String,
    },
    /// A tokenizer that cannot be read, or not be trained.
    #[error("no tokenizer that can be used: {problem}")]
    Tokenizer {
        /// What is wrong with it.
        problem: String,
    },
}

impl TextError {
    /// What the user can do about it, where we know.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Invalid { hint, .. } | Self::ByteOrderMark { hint, .. } => Some(hint),
            Self::Utf32 => Some("convert it first: iconv -f utf-32 -t utf-8"),
            Self::UnknownEncoding { .. } => Some("known encodings: utf-8, gb18030, utf-16le, utf-16be"),
            Self::Tokenizer { .. } => {
                Some("name a tokenizer.json as Hugging Face's tokenizers or transformers save it")
            }
            Self::Vocabulary { .. } => None,
        }
    }
}
