//! What the data looks like, before a model sees it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Corpus, SourceInfo};
use crate::text::{CountedToken, Scope, Unit, Vocabulary};

/// How many of the most frequent tokens are listed.
const TOP: usize = 10;
/// How many of the unknown tokens are listed.
const EXAMPLES: usize = 5;

/// The size of a corpus and what it is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DataSummary {
    /// The files and how they were read.
    pub sources: Vec<SourceInfo>,
    /// The fingerprint of the corpus.
    pub fingerprint: String,
    /// What its tokens are.
    pub unit: Unit,
    /// Ids of the vocabulary, `<unk>` included.
    pub vocab_size: usize,
    /// Whether the end of a line is one of them, where tokens are words.
    pub end_of_sentence: bool,
    /// Which texts the vocabulary was made from.
    pub scope: Scope,
    /// The training text.
    pub train: TextSummary,
    /// The validation text.
    pub valid: TextSummary,
    /// The most frequent tokens of the training text, the commonest first.
    pub most_frequent: Vec<TokenCount>,
    /// The validation text's most frequent tokens that the vocabulary does not know.
    pub unknown_in_valid: Vec<TokenCount>,
}

/// The size of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TextSummary {
    /// What its tokens are.
    pub unit: Unit,
    /// Its length in tokens.
    pub tokens: usize,
    /// Its length in bytes of UTF-8.
    pub bytes: usize,
    /// Its lines.
    pub lines: usize,
    /// How many different tokens it has.
    pub distinct: usize,
    /// Tokens that the vocabulary does not know.
    pub unknown: usize,
}

/// A token, and how often it occurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TokenCount {
    /// The character or word.
    pub token: String,
    /// How often it occurs.
    pub count: usize,
}

impl TextSummary {
    /// How many bytes of the text a token stands for, on average.
    pub fn bytes_per_token(&self) -> f64 {
        self.bytes as f64 / self.tokens as f64
    }
}

impl DataSummary {
    /// Summarises `corpus` as `vocabulary` sees it, which makes these tokens of the training and of the validation text.
    pub fn new(corpus: &Corpus, vocabulary: &Vocabulary, [train_ids, valid_ids]: [&[u32]; 2]) -> Self {
        let unit = vocabulary.unit();
        let train = counts(&corpus.train_text, train_ids, vocabulary);
        let valid = counts(&corpus.valid_text, valid_ids, vocabulary);
        let listed = |counts: &[CountedToken]| -> Vec<TokenCount> {
            counts.iter().map(|entry| TokenCount { token: entry.token.clone(), count: entry.count }).collect()
        };
        let text = |text: &str, ids: &[u32], counts: &[CountedToken]| TextSummary {
            unit,
            tokens: ids.len(),
            bytes: text.len(),
            lines: text.lines().count(),
            distinct: counts.len(),
            unknown: ids.iter().filter(|&&id| id == Vocabulary::UNKNOWN).count(),
        };
        let unknown: Vec<CountedToken> = valid.iter().filter(|entry| !entry.is_known).cloned().collect();
        Self {
            sources: corpus.sources.clone(),
            fingerprint: corpus.fingerprint.clone(),
            unit,
            vocab_size: vocabulary.len(),
            end_of_sentence: unit == Unit::Word && vocabulary.new_line().is_some(),
            scope: vocabulary.scope(),
            train: text(&corpus.train_text, train_ids, &train),
            valid: text(&corpus.valid_text, valid_ids, &valid),
            most_frequent: listed(&train[..train.len().min(TOP)]),
            unknown_in_valid: listed(&unknown),
        }
    }
}

/// The tokens of a text, the commonest first, equals by code points.
fn counts(text: &str, ids: &[u32], vocabulary: &Vocabulary) -> Vec<CountedToken> {
    let mut counts = vocabulary.count(text, ids);
    counts.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.token.cmp(&b.token)));
    counts
}

impl fmt::Display for DataSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for source in &self.sources {
            let SourceInfo { path, bytes, chars, encoding, reason } = source;
            writeln!(
                f,
                "{path}: {} characters, {} bytes, {encoding} ({reason})",
                grouped(*chars as u64),
                grouped(*bytes as u64)
            )?;
        }
        let known = self.vocab_size - 1 - usize::from(self.end_of_sentence);
        let others = if self.end_of_sentence { ", the end of a line and <unk>" } else { " and <unk>" };
        writeln!(
            f,
            "vocabulary  {} ids: {} {}{others}; {}",
            grouped(self.vocab_size as u64),
            grouped(known as u64),
            self.unit.plural(),
            self.scope.description(),
        )?;
        writeln!(f, "training    {}", self.train)?;
        writeln!(f, "validation  {}", self.valid)?;
        write!(f, "frequent    {}", listed(&self.most_frequent))?;
        if !self.unknown_in_valid.is_empty() {
            let shown = self.unknown_in_valid.len().min(EXAMPLES);
            write!(f, "\nunknown in validation  {}", listed(&self.unknown_in_valid[..shown]))?;
            if self.unknown_in_valid.len() > shown {
                write!(f, " and {} more", self.unknown_in_valid.len() - shown)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for TextSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unit, tokens, lines, distinct, unknown, .. } = *self;
        let [tokens_shown, lines, distinct] = [tokens, lines, distinct].map(|count| grouped(count as u64));
        let tokens_are = match unit {
            Unit::Char | Unit::Byte => unit.plural(),
            _ => "tokens",
        };
        write!(f, "{tokens_shown} {tokens_are}, {lines} lines, {distinct} different")?;
        if unknown > 0 {
            let percent = 100.0 * unknown as f64 / tokens as f64;
            write!(f, ", {} unknown ({percent:.2} %)", grouped(unknown as u64))?;
        }
        Ok(())
    }
}

fn listed(counts: &[TokenCount]) -> String {
    let shown = |token: &str| {
        let mut chars = token.chars();
        match (chars.next(), chars.next()) {
            (Some(ch), None) => format!("{ch:?}"),
            _ => format!("{token:?}"),
        }
    };
    let entries: Vec<String> =
        counts.iter().map(|entry| format!("{} {}", shown(&entry.token), grouped(entry.count as u64))).collect();
    entries.join(", ")
}

/// A number with a comma before every three digits: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::DataConfig;

    fn summarised(corpus: &Corpus, vocabulary: &Vocabulary) -> DataSummary {
        let ids = [&corpus.train_text, &corpus.valid_text].map(|text| vocabulary.encode(text));
        DataSummary::new(corpus, vocabulary, [&ids[0], &ids[1]])
    }

    #[test]
    fn the_bundled_text_is_summarised_for_reading() {
        let corpus = Corpus::load(&DataConfig::default(), Path::new("")).unwrap();
        let vocabulary = Vocabulary::chars(&corpus.train_text, 1);
        let summary = summarised(&corpus, &vocabulary);
        assert_eq!(
            summary.to_string(),
            "builtin:shakespeare: 1,115,394 characters, 1,115,394 bytes, utf-8 (comes with the program)\n\
             vocabulary  66 ids: 65 characters and <unk>; from the training text alone\n\
             training    1,003,854 characters, 35,526 lines, 65 different\n\
             validation  111,540 characters, 4,475 lines, 61 different\n\
             frequent    ' ' 153,275, 'e' 85,496, 't' 60,384, 'o' 59,521, 'a' 49,718, 'h' 46,390, 's' 44,820, \
             'r' 44,271, 'n' 43,817, 'i' 40,984"
        );
    }

    #[test]
    fn unknown_characters_are_counted_and_shown() {
        let corpus = Corpus {
            train_text: "aab\n".to_owned(),
            valid_text: "abz\nzxyzuvw".to_owned(),
            sources: Vec::new(),
            tokenizer: None,
            fingerprint: String::new(),
        };
        let summary = summarised(&corpus, &Vocabulary::chars(&corpus.train_text, 1));
        assert_eq!(summary.valid.unknown, 8);
        let text = summary.to_string();
        assert!(text.contains("11 characters, 2 lines, 9 different, 8 unknown (72.73 %)"), "{text}");
        assert!(text.ends_with("unknown in validation  'z' 3, 'u' 1, 'v' 1, 'w' 1, 'x' 1 and 1 more"), "{text}");
        let at = Vocabulary::chars(&corpus.train_text, 2);
        assert_eq!(summarised(&corpus, &at).train.unknown, 2);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
