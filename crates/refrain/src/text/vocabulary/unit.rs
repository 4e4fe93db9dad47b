//! The kinds of vocabulary there are.

use crate::setting::names;

names! {
    /// What a token is.
    pub enum Unit {
        /// A Unicode scalar value, white space included.
        #[default]
        Char = "char",
        /// A byte of UTF-8.
        Byte = "byte",
        /// What stands between white space, or what a segmentation makes of it.
        Word = "word",
        /// A stretch of bytes that byte-pair encoding has joined (Sennrich et al. 2016).
        Bpe = "bpe",
        /// A stretch of bytes of a unigram language model (Kudo 2018).
        Unigram = "unigram",
        /// Whatever it is to a tokenizer that was made elsewhere.
        Tokenizer = "tokenizer",
    }
}

impl Unit {
    /// More than one of them, in a sentence.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Char => "characters",
            Self::Byte => "bytes",
            Self::Word => "words",
            Self::Bpe | Self::Unigram => "sub-words",
            Self::Tokenizer => "tokens",
        }
    }

    /// One of them, in a sentence.
    pub const fn singular(self) -> &'static str {
        match self {
            Self::Char => "character",
            Self::Byte => "byte",
            Self::Word => "word",
            Self::Bpe | Self::Unigram => "sub-word",
            Self::Tokenizer => "token",
        }
    }
}
