//! Tokens → batches: the training and validation texts, and the windows of them that a model reads.

pub mod corpus;
mod error;
pub mod statistics;
pub mod stream;

pub use self::corpus::{BUILTIN_PREFIX, Corpus, DataConfig, SourceInfo};
pub use self::error::DataError;
pub use self::statistics::{DataSummary, grouped};
pub use self::stream::{TokenStream, Window, Windows};
