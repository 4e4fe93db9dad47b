//! Tokenizers in the format of Hugging Face's `tokenizers`, trained here or elsewhere.

use std::fmt;
use std::iter;
use std::str::FromStr as _;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    ModelWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper,
    SplitDelimiterBehavior, Tokenizer,
};

use super::super::TextError;
use super::{Unit, Vocabulary, bytes};

/// No real tokenizer has as many; a file that claims more would take memory for nothing.
const MOST_IDS: usize = 1 << 24;

/// Text of many scripts: what a tokenizer cannot read at all shows here.
const PROBE: &str = "a B\u{301} 中文，\u{1F600}\r\n\t\0\u{10FFFF}";

/// A tokenizer; an id of the vocabulary is its own and 1 more, and its unknown token is `<unk>`.
#[derive(Clone)]
pub(super) struct Subwords {
    pub(super) unit: Unit,
    tokenizer: Arc<Tokenizer>,
    /// The file that it can be read from.
    json: Arc<str>,
    /// Its own id of what it does not know.
    unknown: Option<u32>,
    /// The bytes of each of its tokens, where they are a text whatever stands before them.
    bytes: Option<Arc<[Vec<u8>]>>,
    /// Whether no token reaches beyond the end of a line.
    by_lines: bool,
}

impl Subwords {
    /// Reads a `tokenizer.json`: the tokenizer, and what people read for each of its tokens.
    pub(super) fn parse(unit: Unit, json: &str) -> Result<(Self, Vec<String>), TextError> {
        let refused = |problem: String| TextError::Tokenizer { problem };
        let file: Value = serde_json::from_str(json).map_err(|error| refused(error.to_string()))?;
        if !file.get("model").is_some_and(Value::is_object) {
            return Err(refused("it has no `model`".to_owned()));
        }
        let mut tokenizer = Tokenizer::from_str(json).map_err(|error| refused(error.to_string()))?;
        // They are for batches, and would cut texts off.
        tokenizer.with_truncation(None).map_err(|error| refused(error.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.encode_fast(PROBE, false).map_err(|error| refused(format!("it cannot read every text: {error}")))?;
        let tokens = tokenizer.get_vocab(true);
        let count = tokens.values().max().map_or(0, |&last| last as usize + 1);
        if count == 0 || count > MOST_IDS {
            return Err(refused(format!("it has {count} tokens")));
        }
        let mut names = vec![String::new(); count];
        for (token, id) in tokens {
            names[id as usize] = token;
        }
        let type_of = |part: &str| file[part]["type"].as_str();
        let bytes: Option<Arc<[Vec<u8>]>> =
            (type_of("decoder") == Some("ByteLevel")).then(|| names.iter().map(|name| bytes_of(name)).collect());
        if let Some(bytes) = &bytes {
            names = bytes.iter().map(|bytes| bytes::shown(bytes)).collect();
        }
        let model = &file["model"];
        let unknown = match (&model["unk_token"], &model["unk_id"]) {
            (Value::String(token), _) => tokenizer.token_to_id(token),
            (_, id) => id.as_u64().and_then(|id| u32::try_from(id).ok()),
        };
        let has_added = file["added_tokens"].as_array().is_some_and(|tokens| !tokens.is_empty());
        let by_lines = file["pre_tokenizer"] == by_lines_in_json() && file["normalizer"].is_null() && !has_added;
        let json = tokenizer.to_string(false).map_err(|error| refused(error.to_string()))?.into();
        Ok((Self { unit, tokenizer: Arc::new(tokenizer), json, unknown, bytes, by_lines }, names))
    }

    /// The file that [`Self::parse`] reads back exactly.
    pub(super) fn json(&self) -> &str {
        &self.json
    }

    /// The text as ids of the vocabulary.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        for part in self.parts(text) {
            match self.tokenizer.encode_fast(part, false) {
                Ok(encoding) => ids.extend(encoding.get_ids().iter().map(|&own| self.id(own))),
                // What can go wrong has gone wrong when it read the probe.
                Err(_) => ids.push(Vocabulary::UNKNOWN),
            }
        }
        ids
    }

    /// The stretches of a text that are unknown to it.
    pub(super) fn unknown<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let encoding = self.unknown.and_then(|unknown| Some((unknown, self.tokenizer.encode(text, false).ok()?)));
        let Some((unknown, encoding)) = encoding else { return Vec::new() };
        let places = iter::zip(encoding.get_ids(), encoding.get_offsets());
        places.filter(|(id, _)| **id == unknown).filter_map(|(_, &(begin, end))| text.get(begin..end)).collect()
    }

    /// The length of a text's first token, in bytes.
    pub(super) fn first_len(&self, text: &str) -> usize {
        let line = text.split_inclusive('\n').next().unwrap_or_default();
        let encoding = self.tokenizer.encode(line, false).ok();
        encoding.and_then(|encoding| encoding.get_offsets().first().copied()).map_or(0, |(_, end)| end.min(line.len()))
    }

    /// Whether each token stands for bytes, whatever is around it.
    pub(super) fn has_bytes(&self) -> bool {
        self.bytes.is_some()
    }

    /// The bytes of a token; none for `<unk>` and for an id beyond the last.
    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.as_ref()?.get((id as usize).checked_sub(1)?).map(Vec::as_slice)
    }

    /// The text of ids.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        let own: Vec<u32> = ids.iter().filter_map(|id| id.checked_sub(1).or(self.unknown)).collect();
        self.tokenizer.decode(&own, false).unwrap_or_default()
    }

    fn id(&self, own: u32) -> u32 {
        if self.unknown == Some(own) { Vocabulary::UNKNOWN } else { own + 1 }
    }

    /// The text in parts that are read apart: less memory for the same tokens.
    fn parts<'a>(&self, text: &'a str) -> Box<dyn Iterator<Item = &'a str> + 'a> {
        if self.by_lines { Box::new(text.split_inclusive('\n')) } else { Box::new(iter::once(text)) }
    }
}

impl PartialEq for Subwords {
    fn eq(&self, other: &Self) -> bool {
        self.unit == other.unit && self.json == other.json
    }
}

impl Eq for Subwords {}

impl fmt::Debug for Subwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subwords").field("unit", &self.unit).field("unknown", &self.unknown).finish_non_exhaustive()
    }
}

/// A tokenizer of bytes around a model: nothing is unknown to it, and no text is changed. The end of a line is a token of its own,
/// and within a line words are divided as GPT-2 divides them.
pub(super) fn of_bytes(model: impl Into<ModelWrapper>) -> Tokenizer {
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(by_lines()));
    tokenizer.with_decoder(Some(byte_level()));
    tokenizer.with_normalizer(None::<NormalizerWrapper>).expect("no normalizer has no tokens to normalize");
    tokenizer
}

/// The stretches of a line that a tokenizer of bytes looks for tokens in.
pub(super) fn stretches(line: &str) -> Result<Vec<String>, tokenizers::Error> {
    let mut text = PreTokenizedString::from(line);
    by_lines().pre_tokenize(&mut text)?;
    let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(splits.into_iter().map(|(stretch, ..)| stretch.to_owned()).collect())
}

/// What `train` returns when it runs on one thread, however many there are: sums are then taken in one order.
pub(super) fn on_one_thread<T: Send>(
    train: impl FnOnce() -> Result<T, tokenizers::Error> + Send,
) -> Result<T, TextError> {
    let refused = |problem: String| TextError::Tokenizer { problem };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|error| refused(error.to_string()))?;
    pool.install(|| train().map_err(|error| refused(error.to_string())))
}

fn by_lines() -> PreTokenizerWrapper {
    let lines = Split::new(SplitPattern::String("\n".to_owned()), SplitDelimiterBehavior::Isolated, false);
    let lines = lines.expect("a new line is a pattern");
    Sequence::new(vec![lines.into(), byte_level().into()]).into()
}

fn byte_level() -> ByteLevel {
    ByteLevel::new(false, true, true)
}

fn by_lines_in_json() -> Value {
    serde_json::to_value(by_lines()).expect("a pre-tokenizer has a JSON form")
}

/// The bytes that a token of a byte-level tokenizer stands for; those of its own text, where it is not made of characters that
/// stand for bytes.
fn bytes_of(token: &str) -> Vec<u8> {
    token.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte that a character stands for, as in GPT-2 (`bytes_to_unicode` of its `encoder.py`): those that print are themselves,
/// the others follow one another from U+0100 on.
fn byte_of(ch: char) -> Option<u8> {
    match u32::from(ch) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let bytes: BTreeSet<u8> = ByteLevel::alphabet().into_iter().filter_map(byte_of).collect();
        assert_eq!(bytes.len(), 256);
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        let text = stretches("中 é\u{7f}\u{ad}\n").expect("a text");
        assert_eq!(String::from_utf8(bytes_of(&text.concat())).expect("UTF-8"), "中 é\u{7f}\u{ad}\n");
    }
}
