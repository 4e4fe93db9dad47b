//! What can be wrong with the data.

use std::path::PathBuf;

use thiserror::Error;

use crate::files::FileError;
use crate::text::{TextError, Unit};

/// Data that cannot be read, or not be trained on.
#[derive(Debug, Error)]
pub enum DataError {
    /// The operating system refused to read a file.
    #[error("{error} (`{key}`)")]
    File {
        /// The key of the recipe that names the file.
        key: &'static str,
        /// What happened.
        error: FileError,
        /// What to do about it.
        hint: String,
    },
    /// A folder where a file is wanted.
    #[error("{} is a folder, not a text file (`{key}`)", path.display())]
    Folder {
        /// The key of the recipe that names it.
        key: &'static str,
        /// The folder.
        path: PathBuf,
        /// What to do about it.
        hint: String,
    },
    /// A `builtin:` name that is none.
    #[error("there is no built-in text `{name}` (`{key}`)")]
    UnknownBuiltin {
        /// The key of the recipe that names it.
        key: &'static str,
        /// The name after `builtin:`.
        name: String,
        /// What to do about it.
        hint: String,
    },
    /// Bytes that are not text in the encoding tried.
    #[error("{path}: {error}")]
    Encoding {
        /// The file.
        path: String,
        /// What is wrong, and at which byte.
        error: TextError,
    },
    /// A file without a character.
    #[error("{path} is empty (`{key}`)")]
    Empty {
        /// The key of the recipe that names the file.
        key: &'static str,
        /// The file.
        path: String,
    },
    /// A validation share that is not between 0 and 1.
    #[error("`data.valid-fraction` must be above 0 and below 1, found {fraction}")]
    ValidFraction {
        /// The value.
        fraction: f64,
    },
    /// A split that leaves one side without a character.
    #[error(
        "{path} has {chars} characters: with `data.valid-fraction` {fraction}, {train} are left to train on and {valid} \
         to validate on"
    )]
    Split {
        /// The file.
        path: String,
        /// Its length.
        chars: usize,
        /// The share asked for.
        fraction: f64,
        /// Characters to train on.
        train: usize,
        /// Characters to validate on.
        valid: usize,
    },
    /// A vocabulary of nothing but the unknown token.
    #[error("{}", nothing_known(*unit, *min_count, *max_size))]
    NothingKnown {
        /// What its tokens would be.
        unit: Unit,
        /// How often a token has to occur.
        min_count: usize,
        /// How many ids there may be.
        max_size: Option<usize>,
    },
    /// Tokens of a tokenizer, and none that is named.
    #[error("`data.tokens` = \"tokenizer\" needs a file in `data.tokenizer`")]
    NoTokenizer,
    /// A text in which nothing can be predicted.
    #[error("the text has {available} tokens; at least 2 are needed, since nothing comes before the first")]
    NothingToPredict {
        /// Tokens there are.
        available: usize,
    },
    /// Fewer tokens than one window of all streams takes.
    #[error(
        "the {text} text has {available} tokens, at least {needed} are needed: batch size × sequence length + 1 = \
         {batch_size} × {seq_len} + 1"
    )]
    TooShort {
        /// Which text: "training" or "validation".
        text: &'static str,
        /// Tokens needed.
        needed: usize,
        /// Tokens there are.
        available: usize,
        /// Streams asked for.
        batch_size: usize,
        /// Tokens of a window asked for.
        seq_len: usize,
        /// What to do about it.
        hint: &'static str,
    },
}

impl DataError {
    /// What the user can do about it, where we know.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::NothingKnown { unit: Unit::Word, max_size: None, .. } => {
                Some("lower data.min-count; 1 keeps every word")
            }
            Self::NothingKnown { unit: Unit::Word, .. } => Some("raise data.max-vocab-size; 0 keeps every word"),
            Self::NothingKnown { max_size: None, .. } => Some("lower data.min-count; 1 keeps every character"),
            Self::NothingKnown { .. } => Some("raise data.max-vocab-size; 0 keeps every character"),
            Self::NoTokenizer => Some("name a tokenizer.json there"),
            Self::File { hint, .. } | Self::Folder { hint, .. } | Self::UnknownBuiltin { hint, .. } => Some(hint),
            Self::Encoding { error, .. } => error.hint(),
            Self::TooShort { hint, .. } => Some(hint),
            Self::Split { .. } => Some("name a longer text, or a file of its own in `data.valid`"),
            Self::Empty { .. } | Self::ValidFraction { .. } | Self::NothingToPredict { .. } => None,
        }
    }

    /// What is wrong with the bytes of the text at `path`.
    pub fn text(path: &str, error: TextError) -> Self {
        Self::Encoding { path: path.to_owned(), error }
    }

    /// The same error about the validation text: names the key that sets its batch size.
    #[must_use]
    pub fn of_validation(self) -> Self {
        match self {
            Self::TooShort { needed, available, batch_size, seq_len, .. } => Self::TooShort {
                text: "validation",
                needed,
                available,
                batch_size,
                seq_len,
                hint: "name a longer text in `data.valid`, or raise `data.valid-fraction`",
            },
            other => other,
        }
    }
}

fn nothing_known(unit: Unit, min_count: usize, max_size: Option<usize>) -> String {
    let unit = unit.singular();
    match max_size {
        None => format!("no {unit} of the training text occurs `data.min-count` = {min_count} times"),
        Some(size) => format!("`data.max-vocab-size` = {size} leaves no {unit} in the vocabulary"),
    }
}
