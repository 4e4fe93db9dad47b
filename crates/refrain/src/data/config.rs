//! `[data]` of a recipe.

use serde::{Deserialize, Serialize};

use super::corpus::{BUILTIN_PREFIX, BUILTINS};
use crate::setting::{Allowed, Range, Setting, empty_is_none, zero_is_none};
use crate::text::{Encoding, Segment, Tokenization, Unit};

/// `<unk>`, every byte, and one that is more.
const LEAST_SUBWORDS: i64 = 258;

/// The settings that there are whatever the tokens, and these after them.
macro_rules! of_all {
    ($($own:expr),* $(,)?) => {
        &[
            Setting::new("train", Allowed::NonEmptyText),
            Setting::new("valid", Allowed::Text),
            Setting::new("valid-fraction", Allowed::Number(Range::Fraction)),
            Setting::new("encoding", Allowed::OneOf(&["auto", "utf-8", "gb18030", "utf-16le", "utf-16be"])),
            Setting::new("tokens", Allowed::OneOf(Unit::NAMES)),
            $($own,)*
        ]
    };
}

/// `[data]`: where the text comes from, and what its tokens are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DataConfig {
    /// The file to train on, or `builtin:shakespeare` or `builtin:tang`. `refrain` starts relative paths at the current
    /// folder.
    pub train: String,
    /// The file to validate on; "" in a recipe: the end of the training file.
    #[serde(with = "empty_is_none")]
    pub valid: Option<String>,
    /// The share of the training file that is kept for validation, if no file is.
    pub valid_fraction: f64,
    /// The encoding of the files; "auto" in a recipe: detected.
    #[serde(with = "auto_is_none")]
    pub encoding: Option<Encoding>,
    /// What a token is; that of words has keys of its own.
    pub tokens: Unit,
    /// Tokens that occur less often in the training text are unknown to the model.
    pub min_count: usize,
    /// At most this many ids, `<unk>` included: the most frequent tokens; 0 in a recipe: all.
    #[serde(with = "zero_is_none")]
    pub max_vocab_size: Option<usize>,
    /// The validation text's tokens are in the vocabulary too: for figures to be compared with published ones, most of which
    /// are of such models.
    pub closed_vocabulary: bool,
    /// word: capitals are read as small letters.
    pub lower_case: bool,
    /// word: the end of a line is a token. Otherwise it is white space.
    pub end_of_sentence: bool,
    /// word: what keeps words apart.
    pub segment: Segment,
    /// bpe, unigram: at most this many ids, `<unk>` included; unigram may come to a few less.
    pub vocab_size: usize,
    /// tokenizer: its `tokenizer.json`.
    pub tokenizer: String,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            train: format!("{BUILTIN_PREFIX}{}", BUILTINS[0].0),
            valid: None,
            // nanoGPT, data/shakespeare_char/prepare.py
            valid_fraction: 0.1,
            encoding: None,
            tokens: Unit::default(),
            min_count: 1,
            max_vocab_size: None,
            closed_vocabulary: false,
            lower_case: false,
            // Zaremba et al. 2014 and all who used their data
            end_of_sentence: true,
            segment: Segment::default(),
            // SentencePiece, --vocab_size
            vocab_size: 8000,
            tokenizer: String::new(),
        }
    }
}

impl DataConfig {
    /// Those of words; the last three are theirs alone.
    const OF_WORDS: &'static [Setting] = of_all![
        Setting::new("min-count", Allowed::Integer(1)),
        Setting::new("max-vocab-size", Allowed::Integer(0)),
        Setting::new("closed-vocabulary", Allowed::Boolean),
        Setting::new("lower-case", Allowed::Boolean),
        Setting::new("end-of-sentence", Allowed::Boolean),
        Setting::new("segment", Allowed::OneOf(Segment::NAMES)),
    ];
    const OF_BYTES: &'static [Setting] = of_all![];
    const OF_SUBWORDS: &'static [Setting] = of_all![Setting::new("vocab-size", Allowed::Integer(LEAST_SUBWORDS))];
    const OF_TOKENIZER: &'static [Setting] = of_all![Setting::new("tokenizer", Allowed::NonEmptyText)];

    /// The keys of texts of such tokens.
    pub(crate) const fn settings(tokens: Unit) -> &'static [Setting] {
        match (tokens, Self::OF_WORDS) {
            (Unit::Char, [others @ .., _, _, _]) => others,
            (Unit::Char | Unit::Word, all) => all,
            (Unit::Byte, _) => Self::OF_BYTES,
            (Unit::Bpe | Unit::Unigram, _) => Self::OF_SUBWORDS,
            (Unit::Tokenizer, _) => Self::OF_TOKENIZER,
        }
    }

    /// Keys that do not go together: the key to change, what is wrong with it, and what to do about it.
    pub(crate) fn conflict(&self) -> Option<(&'static str, String, String)> {
        let is_missing = self.tokens == Unit::Tokenizer && self.tokenizer.is_empty();
        is_missing.then(|| {
            let problem = "`data.tokens` = \"tokenizer\" needs a file in `data.tokenizer`".to_owned();
            ("tokens", problem, "name it with --set data.tokenizer=tokenizer.json".to_owned())
        })
    }

    /// How a text becomes characters or words.
    pub(super) fn tokenization(&self) -> Tokenization {
        let Self { lower_case, end_of_sentence, segment, .. } = *self;
        match self.tokens {
            Unit::Word => Tokenization { unit: Unit::Word, lower_case, end_of_sentence, segment },
            _ => Tokenization::CHARS,
        }
    }
}

/// Serde for the encoding, where "auto" stands for none.
mod auto_is_none {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::text::Encoding;

    const AUTO: &str = "auto";

    #[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    pub(super) fn serialize<S: Serializer>(encoding: &Option<Encoding>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(encoding.map_or(AUTO, Encoding::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Encoding>, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name == AUTO {
            return Ok(None);
        }
        name.parse().map(Some).map_err(de::Error::custom)
    }
}
