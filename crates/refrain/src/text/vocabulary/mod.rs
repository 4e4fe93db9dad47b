//! Text ↔ ids, by vocabularies of several kinds.

mod bpe;
mod bytes;
mod continuation;
mod stored;
mod subwords;
mod table;
mod tokenization;
mod unigram;
mod unit;

use std::collections::HashMap;

pub use self::continuation::Continuation;
use self::subwords::Subwords;
use self::table::Table;
use self::tokenization::NEW_LINE;
pub use self::tokenization::{Pieces, Segment, Tokenization};
pub use self::unit::Unit;
use super::TextError;
use crate::setting::names;

/// What an unknown character looks like in decoded text.
const UNKNOWN_CHAR: &str = "\u{fffd}";
/// What an unknown word looks like in decoded text, and in texts like the Penn Treebank, where it was put for rare words.
const UNKNOWN_WORD: &str = "<unk>";

names! {
    /// Which texts a vocabulary was made from.
    pub enum Scope {
        /// The training text alone: what another text has besides is unknown.
        #[default]
        Train = "train",
        /// The training and the validation text, a closed vocabulary: for figures to be compared with published ones.
        TrainAndValid = "train-and-valid",
        /// None of them: bytes, or a tokenizer that was there before.
        Given = "given",
    }
}

impl Scope {
    /// The end of a sentence about a vocabulary.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Train => "from the training text alone",
            Self::TrainAndValid => "closed, from the training and the validation text",
            Self::Given => "the same for any text",
        }
    }
}

/// Which tokens of a text a vocabulary takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VocabularyLimits {
    /// Tokens that occur less often are unknown.
    pub min_count: usize,
    /// At most this many ids, `<unk>` included: the most frequent tokens.
    pub max_size: Option<usize>,
}

/// The tokens that a model knows, as ids: 0 is `<unk>`.
///
/// Characters follow in the order of their code points; the same set of characters always gives the same ids. Words follow
/// from the most frequent to the rarest, those that occur equally often in the order of their code points, and before them,
/// where it is a token, the end of a line. A word `<unk>` in a text is the unknown token itself. Bytes follow in their order, and
/// the tokens of a tokenizer in that of its own ids; nothing is unknown to bytes, or to a tokenizer of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    scope: Scope,
    /// What people read for the token of id `i` stands at `i - 1`.
    tokens: Vec<String>,
    kind: Kind,
}

/// How a text becomes ids.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Table(Table),
    Bytes,
    Subwords(Subwords),
}

/// A token of a text, and how often it occurs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedToken {
    /// What people read for it.
    pub token: String,
    /// How often it occurs.
    pub count: usize,
    /// Whether the vocabulary knows it.
    pub is_known: bool,
}

/// A token that the vocabulary does not know, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownToken {
    /// The character or word.
    pub token: String,
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
}

/// Names unknown tokens with their places, the first few of them.
pub fn name_unknown(unknown: &[UnknownToken]) -> String {
    const NAMED: usize = 5;
    let name = |UnknownToken { token, line, column }: &UnknownToken| {
        let mut chars = token.chars();
        match (chars.next(), chars.next()) {
            (Some(ch), None) => format!("{ch:?} (U+{:04X}, line {line} column {column})", u32::from(ch)),
            _ => format!("{token:?} (line {line} column {column})"),
        }
    };
    let mut named: Vec<String> = unknown.iter().take(NAMED).map(name).collect();
    if unknown.len() > NAMED {
        named.push(format!("and {} more", unknown.len() - NAMED));
    }
    named.join(", ")
}

impl Vocabulary {
    /// The id of every token that is not in the vocabulary.
    pub const UNKNOWN: u32 = 0;

    /// The characters that occur in `text` at least `min_count` times.
    pub fn chars(text: &str, min_count: usize) -> Self {
        Self::of(&[text], Tokenization::CHARS, VocabularyLimits { min_count, max_size: None }, Scope::Train)
    }

    /// The words that occur in `text` at least `min_count` times, and the end of a line.
    pub fn words(text: &str, min_count: usize) -> Self {
        Self::of(&[text], Tokenization::WORDS, VocabularyLimits { min_count, max_size: None }, Scope::Train)
    }

    /// The characters or words of some texts together, within limits. The end of a line is a token of words however often it
    /// occurs.
    pub fn of(texts: &[&str], tokenization: Tokenization, limits: VocabularyLimits, scope: Scope) -> Self {
        Self::indexed(tokenization, table::tokens(texts, tokenization, limits), scope)
    }

    /// Every byte.
    pub fn bytes() -> Self {
        Self { scope: Scope::Given, tokens: bytes::names(), kind: Kind::Bytes }
    }

    /// At most `size` ids, `<unk>` included, that byte-pair encoding finds in a text. The same text gives the same ids.
    ///
    /// # Errors
    ///
    /// [`TextError::Tokenizer`] if no tokenizer can be trained.
    pub fn bpe(text: &str, size: usize) -> Result<Self, TextError> {
        Self::trained(Unit::Bpe, &bpe::train(text, size.saturating_sub(1))?)
    }

    /// About `size` ids, `<unk>` included, of the unigram model of sub-words that a text is likeliest with. The same text gives the
    /// same ids.
    ///
    /// # Errors
    ///
    /// [`TextError::Tokenizer`] if no tokenizer can be trained.
    pub fn unigram(text: &str, size: usize) -> Result<Self, TextError> {
        Self::trained(Unit::Unigram, &unigram::train(text, size.saturating_sub(1))?)
    }

    /// The tokens of a `tokenizer.json`, whose text this is.
    ///
    /// # Errors
    ///
    /// [`TextError::Tokenizer`] if it is none, or one that cannot read every text.
    pub fn from_tokenizer(json: &str) -> Result<Self, TextError> {
        Self::tokenizer(Unit::Tokenizer, json)
    }

    fn trained(unit: Unit, tokenizer: &tokenizers::Tokenizer) -> Result<Self, TextError> {
        let json = tokenizer.to_string(false).map_err(|error| TextError::Tokenizer { problem: error.to_string() })?;
        Self::tokenizer(unit, &json)
    }

    fn tokenizer(unit: Unit, json: &str) -> Result<Self, TextError> {
        let (subwords, tokens) = Subwords::parse(unit, json)?;
        let scope = if unit == Unit::Tokenizer { Scope::Given } else { Scope::Train };
        Ok(Self { scope, tokens, kind: Kind::Subwords(subwords) })
    }

    /// From the tokens in the order of their ids; of one that is there twice, the last counts.
    fn indexed(tokenization: Tokenization, tokens: Vec<String>, scope: Scope) -> Self {
        let kind = Kind::Table(Table::new(tokenization, &tokens));
        Self { scope, tokens, kind }
    }

    /// What its tokens are.
    pub fn unit(&self) -> Unit {
        match &self.kind {
            Kind::Table(table) => table.tokenization.unit,
            Kind::Bytes => Unit::Byte,
            Kind::Subwords(subwords) => subwords.unit,
        }
    }

    /// Which texts it was made from.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The number of ids, `<unk>` included.
    #[expect(clippy::len_without_is_empty, reason = "`<unk>` is always there")]
    pub fn len(&self) -> usize {
        self.tokens.len() + 1
    }

    /// The id of a token; [`Self::UNKNOWN`] if it has none.
    pub fn id(&self, token: &str) -> u32 {
        match &self.kind {
            Kind::Table(table) => table.id(token),
            _ => self.only(token).unwrap_or(Self::UNKNOWN),
        }
    }

    /// The id of the end of a line, if that is a token.
    pub fn new_line(&self) -> Option<u32> {
        match &self.kind {
            Kind::Table(table) => Some(table.id(NEW_LINE)).filter(|&id| id != Self::UNKNOWN),
            _ => self.only(NEW_LINE),
        }
    }

    /// The id that is all of a text.
    fn only(&self, text: &str) -> Option<u32> {
        let ids = self.encode(text);
        (ids.len() == 1 && self.decode(&ids) == text).then(|| ids[0])
    }

    /// The token of an id, part of a character as `<0xE4>`; none for `<unk>` and for an id beyond the last.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get((id as usize).checked_sub(1)?).map(String::as_str)
    }

    /// What people read for an id: its token, or what stands for one that is unknown.
    pub fn name(&self, id: u32) -> &str {
        self.token(id).unwrap_or(if self.unit() == Unit::Word { UNKNOWN_WORD } else { UNKNOWN_CHAR })
    }

    /// All tokens but `<unk>`, in the order of their ids, as [`Self::token`] gives them.
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }

    /// The `tokenizer.json` that its tokens are those of, where they are.
    pub fn tokenizer_json(&self) -> Option<&str> {
        match &self.kind {
            Kind::Subwords(subwords) => Some(subwords.json()),
            Kind::Table(_) | Kind::Bytes => None,
        }
    }

    /// The text as ids; unknown tokens are [`Self::UNKNOWN`].
    pub fn encode(&self, text: &str) -> Vec<u32> {
        match &self.kind {
            Kind::Table(table) => table.encode(text),
            Kind::Bytes => text.bytes().map(bytes::id).collect(),
            Kind::Subwords(subwords) => subwords.encode(text),
        }
    }

    /// The tokens of a text, of which `ids` are those that [`Self::encode`] gives, in no order.
    pub fn count(&self, text: &str, ids: &[u32]) -> Vec<CountedToken> {
        if let Kind::Table(table) = &self.kind {
            return table.count(text);
        }
        let mut counts = vec![0; self.len()];
        for &id in ids {
            counts[id as usize] += 1;
        }
        let known = self.tokens.iter().zip(&counts[1..]).filter(|(_, count)| **count > 0);
        let known = known.map(|(token, &count)| CountedToken { token: token.clone(), count, is_known: true });
        let mut unknown: HashMap<&str, usize> = HashMap::new();
        let pieces = if counts[0] > 0 { self.unknown_pieces(text) } else { Vec::new() };
        for piece in pieces {
            *unknown.entry(piece).or_default() += 1;
        }
        let unknown = unknown.into_iter();
        known
            .chain(unknown.map(|(token, count)| CountedToken { token: token.to_owned(), count, is_known: false }))
            .collect()
    }

    /// How many characters of a text end after its first token, and how many bytes stand there: what is scored of it.
    pub fn after_first(&self, text: &str) -> (u64, u64) {
        let first = match &self.kind {
            Kind::Table(table) => text.len() - table.after_first(text).len(),
            Kind::Bytes => text.len().min(1),
            Kind::Subwords(subwords) => subwords.first_len(text),
        };
        let chars = text.char_indices().filter(|(at, ch)| at + ch.len_utf8() > first).count();
        (chars as u64, (text.len() - first) as u64)
    }

    /// Every occurrence of a token that the vocabulary does not know, in order. A word `<unk>` is known for what it is.
    pub fn unknown(&self, text: &str) -> Vec<UnknownToken> {
        let mut unknown = Vec::new();
        let (mut line, mut line_begin) = (1, 0);
        let mut seen = 0;
        for piece in self.unknown_pieces(text) {
            // Both are slices of one text.
            let at = piece.as_ptr() as usize - text.as_ptr() as usize;
            let passed = &text[seen..at];
            line += passed.matches('\n').count();
            line_begin = passed.rfind('\n').map_or(line_begin, |end| seen + end + 1);
            seen = at;
            unknown.push(UnknownToken {
                token: piece.to_owned(),
                line,
                column: 1 + text[line_begin..at].chars().count(),
            });
        }
        unknown
    }

    /// The text without the tokens that the vocabulary does not know.
    pub fn without_unknown(&self, text: &str) -> String {
        let mut left = String::with_capacity(text.len());
        let mut begin = 0;
        for piece in self.unknown_pieces(text) {
            let at = piece.as_ptr() as usize - text.as_ptr() as usize;
            left.push_str(&text[begin..at]);
            begin = at + piece.len();
        }
        left.push_str(&text[begin..]);
        left
    }

    fn unknown_pieces<'a>(&self, text: &'a str) -> Vec<&'a str> {
        match &self.kind {
            Kind::Table(table) => table.unknown(text),
            Kind::Bytes => Vec::new(),
            Kind::Subwords(subwords) => subwords.unknown(text),
        }
    }

    /// The text of `ids`. U+FFFD stands for an unknown character and for bytes that are none, `<unk>` for an unknown word; words
    /// have a space between them.
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.kind {
            Kind::Subwords(subwords) if !subwords.has_bytes() => subwords.decode(ids),
            _ => self.continuation("", ids),
        }
    }

    /// What `ids` add to a text that they follow on from: the first word begins with a space, unless `text` ends in white space
    /// or is empty.
    pub fn continuation(&self, text: &str, ids: &[u32]) -> String {
        let mut continuation = Continuation::after_text(text, self);
        let mut added: String = ids.iter().map(|&id| continuation.push(id, self)).collect();
        added += &continuation.finish(self);
        added
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_follow_code_points_after_unk() {
        let vocabulary = Vocabulary::chars("banana\n", 1);
        assert_eq!(vocabulary.len(), 5);
        assert_eq!(vocabulary.encode("\nabn"), [1, 2, 3, 4]);
        assert_eq!(vocabulary.token(0), None);
        assert_eq!(vocabulary.token(4), Some("n"));
        assert_eq!(vocabulary.token(5), None);
    }

    #[test]
    fn rare_characters_are_unknown() {
        let vocabulary = Vocabulary::chars("banana", 2);
        let ids = vocabulary.encode("banana");
        assert_eq!(ids, [0, 1, 2, 1, 2, 1]);
        assert_eq!(vocabulary.decode(&ids), "\u{fffd}anana");
    }

    #[test]
    fn unknown_characters_are_located() {
        let vocabulary = Vocabulary::chars("abc\n", 1);
        let unknown = vocabulary.unknown("ab\nc😀c\n!");
        let places: Vec<_> = unknown.iter().map(|at| (at.token.as_str(), (at.line, at.column))).collect();
        assert_eq!(places, [("😀", (2, 2)), ("!", (3, 1))]);
    }

    #[test]
    fn an_empty_text_leaves_unk_alone() {
        let vocabulary = Vocabulary::chars("", 1);
        assert_eq!(vocabulary.len(), 1);
        assert_eq!(Vocabulary::from_json(&vocabulary.to_json()), Ok(vocabulary));
    }

    #[test]
    fn json_is_compact_and_keeps_awkward_characters() {
        let vocabulary = Vocabulary::chars("a\"\\\n\0\u{2028}😀", 1);
        let json = vocabulary.to_json();
        assert_eq!(json, "{\"unit\":\"char\",\"chars\":\"\\u0000\\n\\\"\\\\a\u{2028}😀\"}");
        assert_eq!(Vocabulary::from_json(&json), Ok(vocabulary));
    }

    #[test]
    fn damaged_json_is_refused() {
        for (json, problem) in [
            ("", "EOF"),
            (r#"{"unit":"char","chars":"aab"}"#, "'a' is there twice"),
            (r#"{"unit":"char","chars":"aba"}"#, "'a' is there twice"),
            (r#"{"unit":"char","chars":"acb"}"#, "'b' is out of order"),
            (r#"{"unit":"byte","chars":"ab"}"#, "unknown field"),
            (r#"{"unit":"syllable","chars":"ab"}"#, "unknown variant"),
            (r#"{"unit":"bpe","tokenizer":"{"}"#, "EOF while parsing an object at line 1 column 1"),
            (r#"{"unit":"bpe","tokenizer":"{}"}"#, "it has no `model`"),
            (r#"{"unit":"unigram","tokenizer":"{\"model\":{}}"}"#, "no tokenizer that can be used: "),
            (r#"{"unit":"word","words":"a b a","lower-case":false,"end-of-sentence":true}"#, "\"a\" is there twice"),
            (r#"{"unit":"word","words":"a  b","lower-case":false,"end-of-sentence":true}"#, "\"\" is no word"),
            (r#"{"unit":"word","words":"a <unk>","lower-case":false,"end-of-sentence":true}"#, "\"<unk>\" is no word"),
            (r#"{"unit":"word","words":"a\tb","lower-case":false,"end-of-sentence":true}"#, "\"a\\tb\" is no word"),
            (r#"{"unit":"word","words":"a b","end-of-sentence":true}"#, "missing field"),
            (r#"{"unit":"word","chars":"ab","lower-case":false,"end-of-sentence":true}"#, "unknown field"),
            (r#"{"unit":"char","chars":"ab","x":1}"#, "unknown field"),
            (r#"{"unit":"char","chars":"\ud800"}"#, "hex escape"),
            (r#"{"unit":"char"}"#, "missing field"),
        ] {
            let error = Vocabulary::from_json(json).unwrap_err().to_string();
            assert!(error.contains(problem), "{json}: {error}");
        }
    }

    #[test]
    fn words_follow_from_the_most_frequent_to_the_rarest_after_the_end_of_a_line() {
        let vocabulary = Vocabulary::words("the cat\nthe hat\n<unk> the", 1);
        assert_eq!(vocabulary.tokens(), ["\n", "the", "cat", "hat"]);
        assert_eq!(vocabulary.encode(" the <unk>\ndog\n"), [2, 0, 1, 0, 1]);
        assert_eq!(vocabulary.decode(&[2, 0, 1, 1, 3]), "the <unk>\n\ncat");
        let frequent = VocabularyLimits { min_count: 2, max_size: None };
        let of = |limits, tokenization| Vocabulary::of(&["The the\n", "dog dog a"], tokenization, limits, Scope::Train);
        assert_eq!(of(frequent, Tokenization::WORDS).tokens(), ["\n", "dog"]);
        let small = Tokenization { lower_case: true, end_of_sentence: false, ..Tokenization::WORDS };
        assert_eq!(of(frequent, small).tokens(), ["dog", "the"]);
        assert_eq!(of(frequent, small).encode("DOG cat The"), [1, 0, 2]);
        let few = VocabularyLimits { min_count: 1, max_size: Some(3) };
        assert_eq!(of(few, Tokenization::WORDS).tokens(), ["\n", "dog"]);
        assert_eq!(
            of(few, Tokenization::CHARS).tokens(),
            [" ", "d"],
            "of those equally frequent, the first code points"
        );
    }

    #[test]
    fn a_word_follows_on_from_a_text_after_a_space() {
        let vocabulary = Vocabulary::words("a b\n", 1);
        for (text, ids, expected) in [
            ("", &[2, 3][..], "a b"),
            ("a", &[3, 1, 2], " b\na"),
            ("a ", &[3], "b"),
            ("a\n", &[3], "b"),
            ("a", &[1], "\n"),
        ] {
            assert_eq!(vocabulary.continuation(text, ids), expected, "{text:?}");
        }
        let chars = Vocabulary::chars("ab", 1);
        assert_eq!(chars.continuation("a", &[2, 1]), "ba");
    }

    #[test]
    fn unknown_words_are_located_and_can_be_left_out() {
        let vocabulary = Vocabulary::words("the cat sat\n", 1);
        let text = "the dög sat\n on  <unk> the möüse\nhat";
        let unknown = vocabulary.unknown(text);
        let places: Vec<_> = unknown.iter().map(|at| (at.token.as_str(), (at.line, at.column))).collect();
        assert_eq!(places, [("dög", (1, 5)), ("on", (2, 2)), ("möüse", (2, 16)), ("hat", (3, 1))]);
        assert_eq!(name_unknown(&unknown[..2]), "\"dög\" (line 1 column 5), \"on\" (line 2 column 2)");
        assert_eq!(vocabulary.without_unknown(text), "the  sat\n   <unk> the \n");
    }

    #[test]
    fn json_says_of_which_texts_a_vocabulary_is() {
        let limits = VocabularyLimits { min_count: 1, max_size: None };
        for tokenization in [Tokenization::CHARS, Tokenization::WORDS] {
            let closed = Vocabulary::of(&["b a", "c"], tokenization, limits, Scope::TrainAndValid);
            assert!(closed.to_json().contains("\"scope\":\"train-and-valid\""));
            assert_eq!(Vocabulary::from_json(&closed.to_json()), Ok(closed));
        }
        assert_eq!(
            Vocabulary::words("b a b\n", 1).to_json(),
            r#"{"unit":"word","words":"b a","lower-case":false,"end-of-sentence":true}"#
        );
    }

    proptest! {
        #[test]
        fn known_words_round_trip(
            lines in proptest::collection::vec(proptest::collection::vec("[^\\s]{1,5}", 0..5), 1..6),
            end_of_sentence: bool, lower_case: bool,
        ) {
            let tokenization = Tokenization { lower_case, end_of_sentence, ..Tokenization::WORDS };
            let limits = VocabularyLimits { min_count: 1, max_size: None };
            let text = lines.iter().map(|words| words.join(" ")).collect::<Vec<_>>().join("\n");
            let vocabulary = Vocabulary::of(&[&text], tokenization, limits, Scope::Train);
            prop_assert!(vocabulary.unknown(&text).is_empty());
            let kept = if lower_case { text.to_lowercase() } else { text.clone() };
            let kept = if end_of_sentence { kept } else { kept.split_whitespace().collect::<Vec<_>>().join(" ") };
            prop_assert_eq!(vocabulary.decode(&vocabulary.encode(&text)), kept);
            prop_assert_eq!(Vocabulary::from_json(&vocabulary.to_json()), Ok(vocabulary));
        }

        #[test]
        fn ids_of_words_round_trip(text in "[a-e \n]{0,60}", ids in proptest::collection::vec(0_u32..9, 0..30)) {
            let vocabulary = Vocabulary::words(&text, 1);
            let ids: Vec<u32> = ids.into_iter().map(|id| id % vocabulary.len() as u32).collect();
            prop_assert_eq!(vocabulary.encode(&vocabulary.decode(&ids)), ids.clone());
            let (before, after) = ids.split_at(ids.len() / 2);
            let begun = vocabulary.decode(before);
            prop_assert_eq!(format!("{begun}{}", vocabulary.continuation(&begun, after)), vocabulary.decode(&ids));
        }

        #[test]
        fn known_text_round_trips(text in "\\PC*[\n\t\"]?") {
            let vocabulary = Vocabulary::chars(&text, 1);
            let ids = vocabulary.encode(&text);
            prop_assert!(!ids.contains(&Vocabulary::UNKNOWN));
            prop_assert_eq!(vocabulary.decode(&ids), text);
        }

        #[test]
        fn json_round_trips(chars in proptest::collection::vec(any::<char>(), 0..200)) {
            let text: String = chars.into_iter().collect();
            let vocabulary = Vocabulary::chars(&text, 1);
            prop_assert_eq!(Vocabulary::from_json(&vocabulary.to_json()), Ok(vocabulary));
        }

        #[test]
        fn every_unknown_character_is_counted_and_located(known in "[a-e]*", text in "[a-j\n]*") {
            let vocabulary = Vocabulary::chars(&known, 1);
            let located = vocabulary.unknown(&text);
            prop_assert_eq!(located.len(), text.chars().filter(|ch| !known.contains(*ch)).count());
            for place in located {
                let line = text.split('\n').nth(place.line - 1).unwrap();
                let found = line.chars().nth(place.column - 1).unwrap_or('\n');
                prop_assert_eq!(found.to_string(), place.token);
            }
        }
    }
}
