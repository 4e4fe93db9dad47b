//! From a trained model to text.
//!
//! A [`Decoder`] gives scores; [`Filters`] change them; [`Streams`] draw from them, for any number of texts side by side,
//! [`ContrastiveSearch`] chooses what is likely and yet new, and [`BeamSearch`] looks for the likeliest text. [`Texts`] are such
//! tokens with [`Limits`], as text.

mod beam;
pub(crate) mod config;
mod contrastive;
mod decoder;
pub mod filters;
mod history;
mod limits;
mod probability;
mod prompt;
mod sample;
mod texts;

pub use beam::{BeamSearch, Hypothesis};
pub use config::SampleConfig;
pub use contrastive::{ContrastiveSearch, ContrastiveStream};
pub use decoder::{Decoder, HiddenStates};
pub use filters::{Constraints, FILTERS, FilterError, FilterKind, FilterSettings, Filters};
pub use history::History;
pub use limits::{End, Limits};
pub use prompt::prompt_tokens;
pub use sample::Streams;
pub(crate) use sample::draw;
pub use texts::{Piece, Texts, TokenStreams, Written};
