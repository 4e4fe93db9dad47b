//! What the data looks like, before a model sees it.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::{Corpus, SourceInfo};
use crate::text::Vocabulary;

/// How many of the most frequent characters are listed.
const TOP: usize = 10;
/// How many of the unknown characters are listed.
const EXAMPLES: usize = 5;

/// The size of a corpus and what it is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DataSummary {
    /// The files and how they were read.
    pub sources: Vec<SourceInfo>,
    /// The fingerprint of the corpus.
    pub fingerprint: String,
    /// Ids of the vocabulary, `<unk>` included.
    pub vocab_size: usize,
    /// The training text.
    pub train: TextSummary,
    /// The validation text.
    pub valid: TextSummary,
    /// The most frequent characters of the training text, the commonest first.
    pub most_frequent: Vec<CharCount>,
    /// The validation text's most frequent characters that the vocabulary does not know.
    pub unknown_in_valid: Vec<CharCount>,
}

/// The size of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TextSummary {
    /// Its length in tokens; characters, for a vocabulary of characters.
    pub tokens: usize,
    /// Its length in bytes of UTF-8.
    pub bytes: usize,
    /// Its lines.
    pub lines: usize,
    /// How many different characters it has.
    pub distinct: usize,
    /// Tokens that the vocabulary does not know.
    pub unknown: usize,
}

/// A character, and how often it occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CharCount {
    /// The character.
    pub ch: char,
    /// How often it occurs.
    pub count: usize,
}

impl DataSummary {
    /// Summarises `corpus` as `vocabulary` sees it.
    pub fn new(corpus: &Corpus, vocabulary: &Vocabulary) -> Self {
        let train = counts(&corpus.train_text);
        let valid = counts(&corpus.valid_text);
        let unknown = |counts: &[CharCount]| -> Vec<CharCount> {
            counts.iter().filter(|entry| vocabulary.id(entry.ch) == Vocabulary::UNKNOWN).copied().collect()
        };
        let text = |text: &str, counts: &[CharCount]| TextSummary {
            tokens: counts.iter().map(|entry| entry.count).sum(),
            bytes: text.len(),
            lines: text.lines().count(),
            distinct: counts.len(),
            unknown: unknown(counts).iter().map(|entry| entry.count).sum(),
        };
        Self {
            sources: corpus.sources.clone(),
            fingerprint: corpus.fingerprint.clone(),
            vocab_size: vocabulary.len(),
            train: text(&corpus.train_text, &train),
            valid: text(&corpus.valid_text, &valid),
            most_frequent: train.iter().take(TOP).copied().collect(),
            unknown_in_valid: unknown(&valid),
        }
    }
}

/// The characters of a text, the commonest first, equals by code point.
fn counts(text: &str) -> Vec<CharCount> {
    let mut counts: HashMap<char, usize> = HashMap::new();
    for ch in text.chars() {
        *counts.entry(ch).or_default() += 1;
    }
    let mut counts: Vec<CharCount> = counts.into_iter().map(|(ch, count)| CharCount { ch, count }).collect();
    counts.sort_unstable_by_key(|entry| (std::cmp::Reverse(entry.count), entry.ch));
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
        let unknown_ids = self.vocab_size - 1;
        writeln!(
            f,
            "vocabulary  {} ids: {} characters and <unk>",
            grouped(self.vocab_size as u64),
            grouped(unknown_ids as u64)
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
        let Self { tokens, lines, distinct, unknown, .. } = *self;
        write!(f, "{} characters, {} lines, {distinct} different", grouped(tokens as u64), grouped(lines as u64))?;
        if unknown > 0 {
            let percent = 100.0 * unknown as f64 / tokens as f64;
            write!(f, ", {} unknown ({percent:.2} %)", grouped(unknown as u64))?;
        }
        Ok(())
    }
}

fn listed(counts: &[CharCount]) -> String {
    let entries: Vec<String> =
        counts.iter().map(|entry| format!("{:?} {}", entry.ch, grouped(entry.count as u64))).collect();
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

    #[test]
    fn the_bundled_text_is_summarised_for_reading() {
        let corpus = Corpus::load(&DataConfig::default(), Path::new("")).unwrap();
        let vocabulary = Vocabulary::chars(&corpus.train_text, 1);
        let summary = DataSummary::new(&corpus, &vocabulary);
        assert_eq!(
            summary.to_string(),
            "builtin:shakespeare: 1,115,394 characters, 1,115,394 bytes, utf-8 (comes with the program)\n\
             vocabulary  66 ids: 65 characters and <unk>\n\
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
            fingerprint: String::new(),
        };
        let summary = DataSummary::new(&corpus, &Vocabulary::chars(&corpus.train_text, 1));
        assert_eq!(summary.valid.unknown, 8);
        let text = summary.to_string();
        assert!(text.contains("11 characters, 2 lines, 9 different, 8 unknown (72.73 %)"), "{text}");
        assert!(text.ends_with("unknown in validation  'z' 3, 'u' 1, 'v' 1, 'w' 1, 'x' 1 and 1 more"), "{text}");
        let at = Vocabulary::chars(&corpus.train_text, 2);
        assert_eq!(DataSummary::new(&corpus, &at).train.unknown, 2);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
