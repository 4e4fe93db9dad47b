//! One command a file: its arguments beside what it does.

pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod evaluate;
pub(crate) mod gates;
pub(crate) mod generate;
pub(crate) mod info;
pub(crate) mod man;
pub(crate) mod ngram;
pub(crate) mod quantize;
pub(crate) mod score;
pub(crate) mod train;
