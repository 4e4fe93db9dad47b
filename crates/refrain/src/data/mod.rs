//! Tokens → batches: the training and validation texts, and the windows of them that a model reads.

mod config;
pub mod corpus;
mod error;
pub mod statistics;
pub mod stream;

pub use self::config::DataConfig;
pub use self::corpus::{BUILTIN_PREFIX, Corpus, SourceInfo, TokenizerFile};
pub use self::error::DataError;
pub use self::statistics::{DataSummary, TextSummary, grouped};
pub use self::stream::{TokenStream, Window, Windows};
