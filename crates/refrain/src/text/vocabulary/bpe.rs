//! Byte-pair encoding: the pair that occurs most often is joined, again and again (Sennrich et al. 2016), from bytes on.

use std::collections::HashSet;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Tokenizer, Trainer as _};

use super::super::TextError;
use super::subwords::{of_bytes, on_one_thread, stretches};

/// A tokenizer of at most `size` tokens for texts like this one.
pub(super) fn train(text: &str, size: usize) -> Result<Tokenizer, TextError> {
    let alphabet: HashSet<char> = ByteLevel::alphabet().into_iter().collect();
    let mut trainer = BpeTrainer::builder().vocab_size(size).initial_alphabet(alphabet).show_progress(false).build();
    on_one_thread(move || {
        trainer.feed(text.split_inclusive('\n'), stretches)?;
        let mut model = BPE::default();
        trainer.train(&mut model)?;
        Ok(of_bytes(model))
    })
}
