//! Vocabularies of bytes and of tokenizers: every text comes back, the same text makes the same tokens, and files of others are read.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use refrain::text::{Continuation, Scope, Segment, Tokenization, Unit, Vocabulary, VocabularyLimits};

const SHAKESPEARE: &str = include_str!("../data/shakespeare.txt");
const TANG: &str = include_str!("../data/tang.txt");

/// The beginnings of an English and of a Chinese text.
static TEXT: LazyLock<String> = LazyLock::new(|| {
    let tang: String = TANG.chars().take(4000).collect();
    SHAKESPEARE[..12_000].to_owned() + &tang
});

static BPE: LazyLock<Vocabulary> = LazyLock::new(|| Vocabulary::bpe(&TEXT, 600).expect("trained"));
static UNIGRAM: LazyLock<Vocabulary> = LazyLock::new(|| Vocabulary::unigram(&TEXT, 600).expect("trained"));

fn all() -> [Vocabulary; 3] {
    [Vocabulary::bytes(), BPE.clone(), UNIGRAM.clone()]
}

/// What tokens add one by one, none of them known to be the last.
fn streamed(vocabulary: &Vocabulary, ids: &[u32]) -> String {
    let mut continuation = Continuation::default();
    let text: String = ids.iter().map(|&id| continuation.push(id, vocabulary)).collect();
    text + &continuation.finish(vocabulary)
}

fn assert_comes_back(vocabulary: &Vocabulary, text: &str) {
    let ids = vocabulary.encode(text);
    let unit = vocabulary.unit();
    assert_eq!(vocabulary.decode(&ids), text, "{unit}");
    assert_eq!(streamed(vocabulary, &ids), text, "{unit}");
    assert!(!ids.contains(&Vocabulary::UNKNOWN) && vocabulary.unknown(text).is_empty(), "{unit}: {text:?}");
    assert!(ids.iter().all(|&id| (id as usize) < vocabulary.len()), "{unit}");
}

#[test]
fn every_text_comes_back() {
    for vocabulary in all() {
        for text in [
            "",
            " ",
            "\n\n \n",
            "one\r\ntwo\r\n",
            "床前明月光，疑是地上霜。\n",
            "👩‍👩‍👧‍👦🏳️‍🌈 naïve nai\u{308}ve ﷽",
            "\0\u{1}\u{7f}\u{ad}\u{feff}\u{fffd}\u{10ffff}",
            "<unk> <|endoftext|> <0x41> ĠĊ",
            &TEXT,
        ] {
            assert_comes_back(&vocabulary, text);
        }
    }
}

proptest! {
    #[test]
    fn any_text_comes_back(chars in proptest::collection::vec(any::<char>(), 0..40), words in "[ \\na-e中文的\u{301}]{0,40}") {
        for vocabulary in all() {
            assert_comes_back(&vocabulary, &chars.iter().collect::<String>());
            assert_comes_back(&vocabulary, &words);
        }
    }

    #[test]
    fn any_tokens_are_a_text_the_same_at_once_and_one_by_one(ids in proptest::collection::vec(0u32..257, 0..40)) {
        for vocabulary in all() {
            let text = vocabulary.decode(&ids);
            prop_assert_eq!(&streamed(&vocabulary, &ids), &text);
            let (before, after) = ids.split_at(ids.len() / 2);
            let begun = vocabulary.decode(before);
            if !begun.contains('\u{fffd}') {
                prop_assert_eq!(begun.clone() + &vocabulary.continuation(&begun, after), text);
            }
        }
    }
}

#[test]
fn the_same_text_makes_the_same_tokenizer() {
    for _ in 0..3 {
        assert_eq!(Vocabulary::bpe(&TEXT, 600).expect("trained").to_json(), BPE.to_json());
        assert_eq!(Vocabulary::unigram(&TEXT, 600).expect("trained").to_json(), UNIGRAM.to_json());
    }
}

#[test]
fn a_tokenizer_joins_what_is_frequent_within_lines() {
    for vocabulary in [&*BPE, &*UNIGRAM] {
        let unit = vocabulary.unit();
        assert!(vocabulary.len() <= 600 && vocabulary.len() > 500, "{unit}: {}", vocabulary.len());
        assert_eq!(vocabulary.scope(), Scope::Train);
        let ids = vocabulary.encode("First Citizen:\nSpeak\n\n");
        assert!(ids.len() < 18, "{unit}: {} of 22 bytes", ids.len());
        let new_line = vocabulary.new_line().expect("every byte is known");
        assert_eq!(ids.iter().filter(|&&id| id == new_line).count(), 3, "{unit}");
        assert_eq!(vocabulary.id("\n"), new_line);
        let lines: Vec<u32> = TEXT.split_inclusive('\n').flat_map(|line| vocabulary.encode(line)).collect();
        assert_eq!(lines, vocabulary.encode(&TEXT), "{unit}");
        // What people read for tokens says what they are.
        let names: BTreeSet<&str> = vocabulary.tokens().iter().map(String::as_str).collect();
        assert_eq!(names.len(), vocabulary.tokens().len(), "{unit}");
        assert!(names.contains(" the") && names.contains("<0xE4>"), "{unit}");
    }
}

#[test]
fn what_is_scored_begins_after_the_first_token() {
    let bytes = Vocabulary::bytes();
    assert_eq!(bytes.after_first("ab"), (1, 1));
    // The first byte of 中 is not scored, the character is.
    assert_eq!(bytes.after_first("中a"), (2, 3));
    let text = "the 中";
    let first = BPE.token(BPE.encode(text)[0]).expect("a token").len();
    assert_eq!(BPE.after_first(text).1, (text.len() - first) as u64);
    assert_eq!(Vocabulary::chars("ab", 1).after_first("ab"), (1, 1));
}

#[test]
fn a_vocabulary_is_read_back_as_it_was_written() {
    for vocabulary in all() {
        let read = Vocabulary::from_json(&vocabulary.to_json()).expect("read");
        assert_eq!(read, vocabulary);
        assert_eq!(read.encode(&TEXT), vocabulary.encode(&TEXT));
    }
    assert_eq!(Vocabulary::bytes().to_json(), r#"{"unit":"byte"}"#);
    let limits = VocabularyLimits { min_count: 1, max_size: None };
    let by_characters = Tokenization { segment: Segment::Characters, ..Tokenization::WORDS };
    let words = Vocabulary::of(&["我爱Rust，我"], by_characters, limits, Scope::Train);
    assert!(words.to_json().contains("\"segment\":\"characters\""), "{}", words.to_json());
    assert_eq!(Vocabulary::from_json(&words.to_json()), Ok(words.clone()));
    assert_eq!(words.decode(&words.encode("我爱Rust，我")), "我爱Rust，我");
}

#[test]
fn a_trained_tokenizer_is_the_same_when_it_is_read_from_its_file() {
    for trained in [&*BPE, &*UNIGRAM] {
        let file = trained.tokenizer_json().expect("it has a tokenizer");
        let read = Vocabulary::from_tokenizer(file).expect("read");
        assert_eq!((read.unit(), read.scope()), (Unit::Tokenizer, Scope::Given));
        assert_eq!(read.encode(&TEXT), trained.encode(&TEXT));
        assert_eq!(read.tokenizer_json(), Some(file));
    }
    assert_eq!(Vocabulary::bytes().tokenizer_json(), None);
}

/// Words and pieces of words, as of BERT.
const WORD_PIECES: &str = r###"{
    "version": "1.0",
    "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
    "padding": null,
    "added_tokens": [
        {"id": 0, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
    ],
    "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": null,
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": false},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {"[PAD]": 0, "[UNK]": 1, "play": 2, "##ing": 3, "the": 4, "天": 5}}
}"###;

#[test]
fn word_pieces_of_others_are_read() {
    let vocabulary = Vocabulary::from_tokenizer(WORD_PIECES).expect("a tokenizer");
    assert_eq!(vocabulary.len(), 7);
    // Longer than what the file would cut texts to.
    let ids = vocabulary.encode("Playing the zebra 天 playing");
    assert_eq!(ids, [3, 4, 5, 0, 6, 3, 4]);
    assert_eq!(vocabulary.decode(&ids[..3]), "playing the");
    assert_eq!(vocabulary.continuation("the", &[3, 4]), " playing");
    let unknown = vocabulary.unknown("the\n zebra");
    assert_eq!((unknown[0].token.as_str(), unknown[0].line, unknown[0].column), ("zebra", 2, 2));
    assert_eq!(unknown.len(), 1);
    assert_eq!(vocabulary.new_line(), None);
    assert_eq!(streamed(&vocabulary, &[5, 3, 4]), "the playing");
}

/// Pieces of sentences whose rare characters are bytes, as of Llama.
const WITH_BYTE_FALLBACK: &str = r#"{
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
    "post_processor": null,
    "decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3, "<0xE5>": 4, "<0xA4>": 5, "<0xA9>": 6, "<0x0A>": 7},
        "merges": [["▁", "a"]]}
}"#;

#[test]
fn pieces_of_sentences_with_bytes_are_read_and_written_when_they_are_whole() {
    let vocabulary = Vocabulary::from_tokenizer(WITH_BYTE_FALLBACK).expect("a tokenizer");
    let ids = vocabulary.encode("a a天");
    assert_eq!(vocabulary.decode(&ids), "a a天");
    let mut continuation = Continuation::after(&ids[..1], &vocabulary);
    let added: Vec<String> = ids[1..].iter().map(|&id| continuation.push(id, &vocabulary)).collect();
    assert_eq!(added, [" a", "", "", "天"]);
    assert_eq!(continuation.finish(&vocabulary), "");
}

#[test]
fn a_file_that_is_no_tokenizer_is_refused_with_its_place() {
    for (json, problem) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{\n  \"model\": {,}", "key must be a string at line 2 column 13"),
        ("[]", "it has no `model`"),
        (r#"{"vocab": {}}"#, "it has no `model`"),
    ] {
        let error = Vocabulary::from_tokenizer(json).expect_err(json);
        assert_eq!(error.to_string(), format!("no tokenizer that can be used: {problem}"));
        assert!(error.hint().is_some());
    }
    let without_unknown = WORD_PIECES.replace("\"[UNK]\": 1", "\"[unused]\": 1");
    let error = Vocabulary::from_tokenizer(&without_unknown).expect_err("no token for what is unknown").to_string();
    assert!(error.contains("it cannot read every text") || error.contains("[UNK]"), "{error}");
}
