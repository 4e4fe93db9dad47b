//! A vocabulary on disk, as one line of JSON.

use serde::{Deserialize, Serialize};

use super::super::TextError;
use super::tokenization::{NEW_LINE, Segment, Tokenization};
use super::{Kind, Scope, UNKNOWN_WORD, Unit, Vocabulary};

/// The form on disk: every token exactly once and in order, words with a space between them; a tokenizer as its own file.
#[derive(Serialize, Deserialize)]
#[serde(tag = "unit", rename_all = "kebab-case", deny_unknown_fields)]
enum Stored {
    Char {
        chars: String,
        #[serde(default, skip_serializing_if = "is_open")]
        scope: Scope,
    },
    #[serde(rename_all = "kebab-case")]
    Word {
        words: String,
        #[serde(default, skip_serializing_if = "is_open")]
        scope: Scope,
        lower_case: bool,
        end_of_sentence: bool,
        #[serde(default, skip_serializing_if = "is_whitespace")]
        segment: Segment,
    },
    Byte {},
    Bpe {
        tokenizer: String,
    },
    Unigram {
        tokenizer: String,
    },
    Tokenizer {
        tokenizer: String,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_open(scope: &Scope) -> bool {
    *scope == Scope::Train
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_whitespace(segment: &Segment) -> bool {
    *segment == Segment::Whitespace
}

impl Vocabulary {
    /// The vocabulary as one line of JSON, which [`Self::from_json`] reads back exactly.
    ///
    /// # Panics
    ///
    /// Never: a string always has a JSON form.
    pub fn to_json(&self) -> String {
        let scope = self.scope;
        let stored = match &self.kind {
            Kind::Table(table) => {
                let Tokenization { unit, lower_case, end_of_sentence, segment } = table.tokenization;
                if unit == Unit::Word {
                    let words = if end_of_sentence { &self.tokens[1..] } else { &self.tokens };
                    Stored::Word { words: words.join(" "), scope, lower_case, end_of_sentence, segment }
                } else {
                    Stored::Char { chars: self.tokens.concat(), scope }
                }
            }
            Kind::Bytes => Stored::Byte {},
            Kind::Subwords(subwords) => {
                let tokenizer = subwords.json().to_owned();
                match subwords.unit {
                    Unit::Bpe => Stored::Bpe { tokenizer },
                    Unit::Unigram => Stored::Unigram { tokenizer },
                    _ => Stored::Tokenizer { tokenizer },
                }
            }
        };
        serde_json::to_string(&stored).expect("a string always has a JSON form")
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    ///
    /// [`TextError::Vocabulary`] if it is no such JSON, if a token is there twice, if characters are out of order, or if
    /// something is no word; [`TextError::Tokenizer`] if its tokenizer is none.
    pub fn from_json(json: &str) -> Result<Self, TextError> {
        let damaged = |problem: String| TextError::Vocabulary { problem };
        let stored: Stored = serde_json::from_str(json).map_err(|error| damaged(error.to_string()))?;
        let (vocabulary, ascending) = match stored {
            Stored::Char { chars, scope } => {
                let tokens = chars.chars().map(String::from).collect();
                (Self::indexed(Tokenization::CHARS, tokens, scope), true)
            }
            Stored::Byte {} => return Ok(Self::bytes()),
            Stored::Bpe { tokenizer } => return Self::tokenizer(Unit::Bpe, &tokenizer),
            Stored::Unigram { tokenizer } => return Self::tokenizer(Unit::Unigram, &tokenizer),
            Stored::Tokenizer { tokenizer } => return Self::tokenizer(Unit::Tokenizer, &tokenizer),
            Stored::Word { words, scope, lower_case, end_of_sentence, segment } => {
                let tokenization = Tokenization { unit: Unit::Word, lower_case, end_of_sentence, segment };
                let ends = end_of_sentence.then(|| NEW_LINE.to_owned());
                let words = words.split(' ').filter(|_| !words.is_empty());
                let tokens: Vec<String> = ends.into_iter().chain(words.map(str::to_owned)).collect();
                let no_word =
                    |token: &&String| token.is_empty() || *token == UNKNOWN_WORD || token.contains(char::is_whitespace);
                if let Some(token) = tokens.iter().skip(usize::from(end_of_sentence)).find(no_word) {
                    return Err(damaged(format!("{token:?} is no word")));
                }
                (Self::indexed(tokenization, tokens, scope), false)
            }
        };
        let shown = |token: &str| match (vocabulary.unit(), token.chars().next()) {
            (Unit::Char, Some(ch)) => format!("{ch:?}"),
            _ => format!("{token:?}"),
        };
        let tokens = &vocabulary.tokens;
        if let Some((_, token)) = tokens.iter().enumerate().find(|(at, token)| vocabulary.id(token) != *at as u32 + 1) {
            return Err(damaged(format!("{} is there twice", shown(token))));
        }
        match tokens.windows(2).find(|pair| ascending && pair[0] >= pair[1]) {
            Some(pair) => Err(damaged(format!("{} is out of order", shown(&pair[1])))),
            None => Ok(vocabulary),
        }
    }
}
