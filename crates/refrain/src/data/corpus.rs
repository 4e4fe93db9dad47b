//! The text to train on and the text to validate on.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{DataConfig, DataError};
use crate::files::{FileError, sha256};
use crate::text::{Decoded, Encoding, Scope, TextError, Unit, Vocabulary, VocabularyLimits, decode};

/// What the name of a text that comes with the program starts with.
pub const BUILTIN_PREFIX: &str = "builtin:";

/// The texts that come with the program, the first of which is the default.
pub(super) const BUILTINS: &[(&str, &str)] = &[
    ("shakespeare", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/shakespeare.txt"))),
    ("tang", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/tang.txt"))),
];

/// The texts of a run, decoded.
#[derive(Debug, Clone)]
pub struct Corpus {
    /// The text to train on.
    pub train_text: String,
    /// The text to validate on.
    pub valid_text: String,
    /// The files read, the training file first.
    pub sources: Vec<SourceInfo>,
    /// The `tokenizer.json` that the configuration names.
    pub tokenizer: Option<TokenizerFile>,
    /// SHA-256 in hexadecimal over the training text, one byte 0xFF, which no text contains, and the validation text; then of another
    /// such byte and the tokenizer, where there is one.
    pub fingerprint: String,
}

/// A `tokenizer.json`, not read yet.
#[derive(Debug, Clone)]
pub struct TokenizerFile {
    /// The path as it was opened.
    pub path: String,
    /// Its text.
    pub json: String,
}

/// A file, and how it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceInfo {
    /// The path as it was opened, or the `builtin:` name.
    pub path: String,
    /// Its length in bytes.
    pub bytes: usize,
    /// Its length in characters.
    pub chars: usize,
    /// The encoding it was read in.
    pub encoding: Encoding,
    /// Why in that one.
    pub reason: String,
}

impl Corpus {
    /// Reads the texts that `config` names; relative paths start at `base_dir`.
    ///
    /// Without a validation file, the first ⌊(1 − valid-fraction) · characters⌋ characters of the training file are
    /// trained on and the rest is for validation.
    ///
    /// # Errors
    ///
    /// [`DataError`] if a file cannot be read, is a folder, empty, or not valid in its encoding, or if the split leaves
    /// nothing on one side.
    pub fn load(config: &DataConfig, base_dir: &Path) -> Result<Self, DataError> {
        let fraction = config.valid_fraction;
        if !(fraction > 0.0 && fraction < 1.0) {
            return Err(DataError::ValidFraction { fraction });
        }
        let (mut train_text, source) = read("data.train", &config.train, config.encoding, base_dir)?;
        let mut sources = vec![source];
        let valid_text = if let Some(valid) = &config.valid {
            let (text, source) = read("data.valid", valid, config.encoding, base_dir)?;
            sources.push(source);
            text
        } else {
            let SourceInfo { path, chars, .. } = &sources[0];
            // A millionth of a character: (1 − 0.9) · 10 is 0.999…, and means 1.
            let train = ((1.0 - fraction) * *chars as f64 + 1e-6).floor() as usize;
            if train == 0 || train == *chars {
                let (path, chars, valid) = (path.clone(), *chars, chars - train);
                return Err(DataError::Split { path, chars, fraction, train, valid });
            }
            let at = train_text.char_indices().nth(train).map_or(train_text.len(), |(at, _)| at);
            train_text.split_off(at)
        };
        let tokenizer = match config.tokens {
            Unit::Tokenizer => Some(read_tokenizer(&config.tokenizer, base_dir)?),
            _ => None,
        };
        let texts = [Some(&train_text), Some(&valid_text), tokenizer.as_ref().map(|file| &file.json)];
        let fingerprint = fingerprint(texts.into_iter().flatten());
        Ok(Self { train_text, valid_text, sources, tokenizer, fingerprint })
    }

    /// The vocabulary that `config` asks for.
    ///
    /// # Errors
    ///
    /// [`DataError::NothingKnown`] if it holds no token at all; [`DataError::Encoding`] if the file is no tokenizer.
    pub fn vocabulary(&self, config: &DataConfig) -> Result<Vocabulary, DataError> {
        let trained = |vocabulary: Result<Vocabulary, _>| {
            vocabulary.map_err(|error| DataError::text(&self.sources[0].path, error))
        };
        match config.tokens {
            Unit::Char | Unit::Word => self.table(config),
            Unit::Byte => Ok(Vocabulary::bytes()),
            Unit::Bpe => trained(Vocabulary::bpe(&self.train_text, config.vocab_size)),
            Unit::Unigram => trained(Vocabulary::unigram(&self.train_text, config.vocab_size)),
            Unit::Tokenizer => {
                let file = self.tokenizer.as_ref().ok_or(DataError::NoTokenizer)?;
                Vocabulary::from_tokenizer(&file.json).map_err(|error| DataError::text(&file.path, error))
            }
        }
    }

    fn table(&self, config: &DataConfig) -> Result<Vocabulary, DataError> {
        let texts = [self.train_text.as_str(), self.valid_text.as_str()];
        let (texts, scope) =
            if config.closed_vocabulary { (&texts[..], Scope::TrainAndValid) } else { (&texts[..1], Scope::Train) };
        let DataConfig { min_count, max_vocab_size: max_size, .. } = *config;
        let limits = VocabularyLimits { min_count, max_size };
        let vocabulary = Vocabulary::of(texts, config.tokenization(), limits, scope);
        if vocabulary.len() == 1 + usize::from(vocabulary.unit() == Unit::Word && vocabulary.new_line().is_some()) {
            return Err(DataError::NothingKnown { unit: vocabulary.unit(), min_count, max_size });
        }
        Ok(vocabulary)
    }
}

fn read_tokenizer(name: &str, base_dir: &Path) -> Result<TokenizerFile, DataError> {
    let key = "data.tokenizer";
    let path = base_dir.join(name);
    let bytes = fs::read(&path).map_err(|error| unreadable(key, name, base_dir, error))?;
    let path = path.display().to_string();
    match decode(&bytes, Some(Encoding::Utf8)) {
        Ok(decoded) => Ok(TokenizerFile { path, json: decoded.text }),
        Err(error) => Err(DataError::text(&path, TextError::Tokenizer { problem: error.to_string() })),
    }
}

fn read(
    key: &'static str,
    name: &str,
    encoding: Option<Encoding>,
    base_dir: &Path,
) -> Result<(String, SourceInfo), DataError> {
    let (path, bytes, decoded) = if let Some(builtin) = name.strip_prefix(BUILTIN_PREFIX) {
        let text = builtin_text(key, builtin)?;
        let decoded =
            Decoded { text: text.to_owned(), encoding: Encoding::Utf8, reason: "comes with the program".to_owned() };
        (name.to_owned(), text.len(), decoded)
    } else {
        let path = base_dir.join(name);
        let bytes = fs::read(&path).map_err(|error| unreadable(key, name, base_dir, error))?;
        let path = path.display().to_string();
        match decode(&bytes, encoding) {
            Ok(decoded) => (path, bytes.len(), decoded),
            Err(error) => return Err(DataError::text(&path, error)),
        }
    };
    let chars = decoded.text.chars().count();
    if chars == 0 {
        return Err(DataError::Empty { key, path });
    }
    let source = SourceInfo { path, bytes, chars, encoding: decoded.encoding, reason: decoded.reason };
    Ok((decoded.text, source))
}

fn builtin_text(key: &'static str, name: &str) -> Result<&'static str, DataError> {
    BUILTINS.iter().find(|(builtin, _)| *builtin == name).map(|(_, text)| *text).ok_or_else(|| {
        let known: Vec<String> = BUILTINS.iter().map(|(name, _)| format!("`{BUILTIN_PREFIX}{name}`")).collect();
        DataError::UnknownBuiltin { key, name: name.to_owned(), hint: format!("there is {}", known.join(", ")) }
    })
}

fn unreadable(key: &'static str, name: &str, base_dir: &Path, error: std::io::Error) -> DataError {
    let path = base_dir.join(name);
    if path.is_dir() {
        let hint = "name one file; several can be joined with `cat`".to_owned();
        return DataError::Folder { key, path, hint };
    }
    let kind = error.kind();
    let error = FileError::new("read", path, error);
    let hint = if kind == ErrorKind::NotFound && Path::new(name).is_relative() {
        match base_dir.to_str() {
            Some("") => format!("`{key}` is relative to the current folder"),
            _ => format!("`{key}` is relative to {}", base_dir.display()),
        }
    } else {
        error.hint().unwrap_or_else(|| format!("check `{key}`"))
    };
    DataError::File { key, error, hint }
}

fn fingerprint<'a>(texts: impl Iterator<Item = &'a String>) -> String {
    let parts: Vec<&[u8]> = texts.flat_map(|text| [&[0xFF][..], text.as_bytes()]).skip(1).collect();
    sha256(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    fn config(train: &str) -> DataConfig {
        DataConfig { train: train.to_owned(), ..DataConfig::default() }
    }

    #[test]
    fn the_bundled_text_splits_as_nanogpt_splits_it() {
        let corpus = Corpus::load(&DataConfig::default(), Path::new("")).unwrap();
        assert_eq!((corpus.train_text.len(), corpus.valid_text.len()), (1_003_854, 111_540));
        assert_eq!(corpus.sources[0].path, "builtin:shakespeare");
        assert!(corpus.train_text.starts_with("First Citizen:\nBefore we proceed"));
    }

    #[test]
    fn the_split_counts_characters_and_loses_none() {
        let folder = folder(&[("a.txt", "一二三四五六七八九十".as_bytes())]);
        for (fraction, train) in [(0.1, 9), (0.3, 7), (0.9, 1), (0.25, 7)] {
            let config = DataConfig { valid_fraction: fraction, ..config("a.txt") };
            let corpus = Corpus::load(&config, folder.path()).unwrap();
            assert_eq!(corpus.train_text.chars().count(), train, "{fraction}");
            assert_eq!(corpus.train_text + &corpus.valid_text, "一二三四五六七八九十");
        }
    }

    #[test]
    fn a_validation_file_is_kept_apart() {
        let (gb, _, _) = encoding_rs::GB18030.encode("验证用的文本，很短。");
        let folder = folder(&[("train.txt", b"abc"), ("valid.txt", &gb)]);
        let config = DataConfig { valid: Some("valid.txt".to_owned()), ..config("train.txt") };
        let corpus = Corpus::load(&config, folder.path()).unwrap();
        assert_eq!((corpus.train_text.as_str(), corpus.valid_text.as_str()), ("abc", "验证用的文本，很短。"));
        let source = &corpus.sources[1];
        assert_eq!((source.bytes, source.chars, source.encoding), (20, 10, Encoding::Gb18030));
    }

    #[test]
    fn the_fingerprint_depends_on_the_texts_and_on_where_they_part() {
        let of = |texts: &[&str]| fingerprint(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>().iter());
        assert_eq!(of(&["", ""]), "a8100ae6aa1940d0b663bb31cd466142ebbdbd5187131b92d93818987832eb89");
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["a", "b"]), of(&["a", "b", "{}"]));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_key() {
        let folder =
            folder(&[("empty.txt", b""), ("bom.txt", b"\xEF\xBB\xBF"), ("one.txt", b"x"), ("bad.txt", b"ab\xFFcd")]);
        let base = folder.path().display().to_string();
        fs::create_dir(folder.path().join("sub")).unwrap();
        for (name, message, hint) in [
            (
                "gone.txt",
                format!("cannot read {base}/gone.txt: no such file or folder (`data.train`)"),
                Some(format!("`data.train` is relative to {base}")),
            ),
            (
                "sub",
                format!("{base}/sub is a folder, not a text file (`data.train`)"),
                Some("name one file; several can be joined with `cat`".into()),
            ),
            ("empty.txt", format!("{base}/empty.txt is empty (`data.train`)"), None),
            ("bom.txt", format!("{base}/bom.txt is empty (`data.train`)"), None),
            (
                "one.txt",
                format!(
                    "{base}/one.txt has 1 characters: with `data.valid-fraction` 0.1, 0 are left to train on and 1 to validate on"
                ),
                Some("name a longer text, or a file of its own in `data.valid`".into()),
            ),
            (
                "bad.txt",
                format!("{base}/bad.txt: not valid utf-8: byte 0xFF at byte offset 2"),
                Some("repair the file, or name its encoding: --set data.encoding=gb18030|utf-16le|utf-16be".into()),
            ),
            (
                "builtin:hamlet",
                "there is no built-in text `hamlet` (`data.train`)".into(),
                Some("there is `builtin:shakespeare`, `builtin:tang`".into()),
            ),
        ] {
            let error = Corpus::load(&config(name), folder.path()).unwrap_err();
            assert_eq!((error.to_string(), error.hint().map(str::to_owned)), (message, hint));
        }
    }

    #[test]
    fn a_closed_vocabulary_knows_the_validation_text_and_says_so() {
        let folder = folder(&[("train.txt", b"the cat\nthe hat"), ("valid.txt", b"The bat\nthe cat\n")]);
        let base = DataConfig { valid: Some("valid.txt".to_owned()), tokens: Unit::Word, ..config("train.txt") };
        let corpus = Corpus::load(&base, folder.path()).unwrap();
        let tokens = |config: &DataConfig| {
            let vocabulary = corpus.vocabulary(config).unwrap();
            (vocabulary.tokens().join(" "), vocabulary.scope())
        };
        assert_eq!(tokens(&base), ("\n the cat hat".to_owned(), Scope::Train));
        let closed = DataConfig { closed_vocabulary: true, ..base.clone() };
        assert_eq!(tokens(&closed), ("\n the cat The bat hat".to_owned(), Scope::TrainAndValid));
        let small = DataConfig { lower_case: true, end_of_sentence: false, max_vocab_size: Some(3), ..closed };
        assert_eq!(tokens(&small), ("the cat".to_owned(), Scope::TrainAndValid));
        let chars = DataConfig { tokens: Unit::Char, lower_case: true, ..base.clone() };
        assert_eq!(tokens(&chars), ("\n   a c e h t".to_owned(), Scope::Train));
        for (config, message, hint) in [
            (
                DataConfig { min_count: 9, ..base.clone() },
                "no word of the training text occurs `data.min-count` = 9 times",
                "lower data.min-count; 1 keeps every word",
            ),
            (
                DataConfig { max_vocab_size: Some(2), ..base },
                "`data.max-vocab-size` = 2 leaves no word in the vocabulary",
                "raise data.max-vocab-size; 0 keeps every word",
            ),
        ] {
            let error = corpus.vocabulary(&config).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.hint()), (message, Some(hint)));
        }
    }

    #[test]
    fn a_fraction_out_of_range_is_refused() {
        for fraction in [0.0, 1.0, -0.1, f64::NAN] {
            let config = DataConfig { valid_fraction: fraction, ..DataConfig::default() };
            let error = Corpus::load(&config, Path::new("")).unwrap_err();
            assert!(error.to_string().starts_with("`data.valid-fraction` must be above 0 and below 1"));
        }
    }
}
