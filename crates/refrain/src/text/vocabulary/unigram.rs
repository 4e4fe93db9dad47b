//! Unigram language models of sub-words: of many candidates those remain that the text is likeliest with (Kudo 2018).

use std::collections::BTreeMap;

use tokenizers::Tokenizer;
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::super::TextError;
use super::subwords::{of_bytes, on_one_thread, stretches};

/// Longer stretches are cut for training: the likelihood of one without end is not a number.
const LONGEST: usize = 1000;

/// What the crate adds to the score of each required piece that its training has dropped, above the one before.
const STEP: f64 = 0.0001;

/// A tokenizer of about `size` tokens for texts like this one.
pub(super) fn train(text: &str, size: usize) -> Result<Tokenizer, TextError> {
    on_one_thread(|| {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for line in text.split_inclusive('\n') {
            for stretch in stretches(line)? {
                let chars: Vec<char> = stretch.chars().collect();
                for piece in chars.chunks(LONGEST) {
                    *counts.entry(piece.iter().collect()).or_default() += 1;
                }
            }
        }
        let mut builder = UnigramTrainer::builder();
        builder.vocab_size(u32::try_from(size)?).initial_alphabet(ByteLevel::alphabet()).show_progress(false);
        let mut model = Unigram::default();
        // In the order of the map: the trainer's own has none.
        builder.build()?.do_train(counts.into_iter().collect(), &mut model)?;
        Ok(of_bytes(Unigram::from(settled(model.iter().cloned().collect()), None, false)?))
    })
}

/// The pieces in an order, with scores, that are the same every time.
///
/// The trainer gives the bytes that the text hardly has the lowest score and those just above it, in the order of a hash table. Here
/// the same scores go to the same bytes by the order of their characters.
fn settled(pieces: Vec<(String, f64)>) -> Vec<(String, f64)> {
    let lowest = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    // Added up as the trainer does, so that the same bits come out.
    let mut above = 0.0;
    let given: Vec<f64> = (0..ByteLevel::alphabet().len())
        .map(|_| {
            let score = lowest + above;
            above += STEP;
            score
        })
        .collect();
    let is_given = |(piece, score): &(String, f64)| {
        piece.chars().count() == 1 && given.binary_search_by(|known| known.total_cmp(score)).is_ok()
    };
    let (mut dropped, mut kept): (Vec<_>, Vec<_>) = pieces.into_iter().partition(is_given);
    let mut scores: Vec<f64> = dropped.iter().map(|(_, score)| *score).collect();
    scores.sort_unstable_by(f64::total_cmp);
    dropped.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    kept.extend(dropped.into_iter().map(|(piece, _)| piece).zip(scores));
    kept.sort_unstable_by(|(a, a_score), (b, b_score)| b_score.total_cmp(a_score).then_with(|| a.cmp(b)));
    kept
}
