//! Models of bytes, of sub-words and of a tokenizer from elsewhere: what training, scoring, writing and looking into the file show.

mod support;

use support::{PLAIN, Scratch, text};

/// The beginning of the bundled poems: characters of three bytes.
fn tang(chars: usize) -> String {
    include_str!("../../refrain/data/tang.txt").chars().take(chars).collect()
}

/// With `run/`, a small model of tokens of this kind, and the log of its training.
fn with_tokens(scratch: &Scratch, tokens: &str) -> String {
    scratch.write("poems.txt", tang(3000));
    let data = format!("--set data.train=poems.txt --set data.tokens={tokens} --set train.max-steps=18");
    let output = scratch.run(&format!("train recipe.toml --run-dir run {data} {PLAIN}"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stderr)
}

fn line<'a>(text: &'a str, begin: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no {begin}: {text}"))
}

/// The error of a command that must fail, with its hint, and nothing on stdout.
fn refused(scratch: &Scratch, arguments: &str) -> String {
    let output = scratch.run(arguments);
    assert!(!output.status.success() && output.stdout.is_empty(), "refrain {arguments}");
    text(&output.stderr)
}

#[test]
fn a_model_of_bytes_knows_every_text() {
    let scratch = Scratch::with_recipe();
    let log = with_tokens(&scratch, "byte");
    assert_eq!(line(&log, "vocabulary"), "vocabulary  257 ids: 256 bytes and <unk>; the same for any text");
    assert!(line(&log, "training").contains(" bytes, ") && !log.contains("unknown"), "{log}");
    assert!(log.contains(" bits/byte"), "{log}");
    let metrics = String::from_utf8(scratch.read("run/metrics.jsonl")).expect("UTF-8");
    assert!(metrics.contains("\"bits_per_byte\":"), "{metrics}");

    scratch.write("other.txt", "Ein Satz – mit Ümlauten, 表情😀\r\n");
    let shown = scratch.succeed(&format!("evaluate run other.txt {PLAIN}"));
    for part in ["nats per byte, over 39 bytes", "bits per char ", "bits per byte ", "the same for any text"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("unknown"), "{shown}");
    let scored = scratch.succeed(&format!("score run other.txt --surprisal {PLAIN}"));
    assert!(scored.contains("\"<0xE8>\"") && scored.contains("\"E\""), "{scored}");

    // Whatever the model writes is UTF-8, and a prompt that it never met is read.
    let written = scratch.succeed(&format!("generate run --prompt 你好é --tokens 200 --temperature 2 {PLAIN}"));
    assert!(written.starts_with("你好é"), "{written}");
    let info = scratch.succeed("info run");
    assert!(info.contains("language model of bytes") && info.contains("257 tokens"), "{info}");
    let error = refused(&scratch, "info run --tokenizer tokenizer.json");
    assert!(error.starts_with("error: run is a model of bytes: it has no tokenizer\nhint: "), "{error}");
}

#[test]
fn a_stop_text_ends_a_text_of_bytes() {
    let scratch = Scratch::with_recipe();
    with_tokens(&scratch, "byte");
    let force = format!("generate run --prompt 一 --tokens 40 --force 天地玄黄 --stop 玄 --json {PLAIN}");
    let json: serde_json::Value = serde_json::from_str(&scratch.succeed(&force)).expect("JSON");
    assert_eq!((json["text"].as_str(), json["end"].as_str()), (Some("天地"), Some("stop")));
    let beams = force.replace("--json", "--beams 2 --json");
    let json: serde_json::Value = serde_json::from_str(&scratch.succeed(&beams)).expect("JSON");
    assert_eq!((json["text"].as_str(), json["end"].as_str()), (Some("天地"), Some("stop")));
    // A text that ends within a character.
    for cut in [force.replace("--tokens 40", "--tokens 4"), beams.replace("--tokens 40", "--tokens 4")] {
        let json: serde_json::Value = serde_json::from_str(&scratch.succeed(&cut)).expect("JSON");
        assert_eq!((json["text"].as_str(), json["end"].as_str()), (Some("天\u{fffd}"), Some("length")));
    }
}

#[test]
fn a_model_of_sub_words_carries_its_tokenizer() {
    for (tokens, vocab_size) in [("bpe", 400), ("unigram", 300)] {
        let scratch = Scratch::with_recipe();
        let log = with_tokens(&scratch, &format!("{tokens} --set data.vocab-size={vocab_size}"));
        let vocabulary = format!(
            "vocabulary  {vocab_size} ids: {} sub-words and <unk>; from the training text alone",
            vocab_size - 1
        );
        assert_eq!(line(&log, "vocabulary"), vocabulary);
        assert!(log.contains(" bits/byte"), "{log}");
        let written = |model: &str| scratch.succeed(&format!("generate {model} --prompt 床前é --tokens 60 {PLAIN}"));
        let first = written("run");
        assert!(first.starts_with("床前é"), "{first}");
        let evaluated = scratch.succeed(&format!("evaluate run corpus.txt {PLAIN}"));
        assert!(evaluated.contains("bits per byte ") && evaluated.contains("over 5,99"), "{evaluated}");

        // The file that it writes is read back, and trains the same model.
        scratch.succeed("info run --tokenizer tokenizer.json");
        let error = refused(&scratch, "info run --tokenizer tokenizer.json");
        assert!(error.starts_with("error: tokenizer.json exists already"), "{error}");
        let data = "--set data.train=poems.txt --set data.tokens=tokenizer --set data.tokenizer=tokenizer.json";
        let again = format!("train recipe.toml --run-dir again {data} --set train.max-steps=18 {PLAIN}");
        scratch.succeed(&again);
        assert_eq!(written("again"), first, "{tokens}");
        let info = scratch.succeed("info again");
        assert!(info.contains("language model of tokens") && info.contains("the same for any text"), "{info}");
        scratch.succeed(&format!("train --resume again {PLAIN}"));
        let changed = text(&scratch.read("tokenizer.json")).replace("\"version\":\"1.0\"", "\"version\": \"1.0\"");
        scratch.write("tokenizer.json", changed);
        let error = refused(&scratch, &format!("train --resume again {PLAIN}"));
        assert!(error.contains("error: "), "{error}");
    }
}

#[test]
fn what_does_not_go_with_the_tokens_is_refused() {
    let scratch = Scratch::with_recipe();
    scratch.write("broken.json", "{\n  \"model\": {,}\n}\n");
    scratch.write("other.json", "{\"a\": 1}");
    scratch.write("bytes.json", b"{\"\xFF\": 1}");
    for (set, error, hint) in [
        (
            "data.tokens=bytes",
            "`data.tokens` must be one of `char`, `byte`, `word`, `bpe`, `unigram`, `tokenizer`, found the text \"bytes\", \
             --set data.tokens=bytes",
            Some("did you mean `byte`?"),
        ),
        (
            "data.tokens=byte --set data.min-count=2",
            "unknown key `min-count` in [data], --set data.min-count=2",
            Some("`min-count` is for tokens = \"char\" or \"word\""),
        ),
        (
            "data.vocab-size=1000",
            "unknown key `vocab-size` in [data], --set data.vocab-size=1000",
            Some("`vocab-size` is for tokens = \"bpe\" or \"unigram\""),
        ),
        (
            "data.tokens=bpe --set data.vocab-size=257",
            "`data.vocab-size` must be an integer of at least 258, found 257, --set data.vocab-size=257",
            None,
        ),
        (
            "data.tokens=bpe --set data.tokenizer=other.json",
            "unknown key `tokenizer` in [data], --set data.tokenizer=other.json",
            Some("`tokenizer` is for tokens = \"tokenizer\""),
        ),
        (
            "data.tokens=tokenizer",
            "`data.tokens` = \"tokenizer\" needs a file in `data.tokenizer`, --set data.tokens=tokenizer",
            Some("name it with --set data.tokenizer=tokenizer.json"),
        ),
        (
            "data.tokens=word --set data.segment=jieba",
            "`data.segment` must be one of `whitespace`, `characters`, found the text \"jieba\", --set data.segment=jieba",
            None,
        ),
        (
            "data.tokens=tokenizer --set data.tokenizer=gone.json",
            "cannot read gone.json: no such file or folder (`data.tokenizer`)",
            Some("`data.tokenizer` is relative to the current folder"),
        ),
        (
            "data.tokens=tokenizer --set data.tokenizer=broken.json",
            "broken.json: no tokenizer that can be used: key must be a string at line 2 column 13",
            Some("name a tokenizer.json as Hugging Face's tokenizers or transformers save it"),
        ),
        (
            "data.tokens=tokenizer --set data.tokenizer=other.json",
            "other.json: no tokenizer that can be used: it has no `model`",
            Some("name a tokenizer.json as Hugging Face's tokenizers or transformers save it"),
        ),
        (
            "data.tokens=tokenizer --set data.tokenizer=bytes.json",
            "bytes.json: no tokenizer that can be used: not valid utf-8: byte 0xFF at byte offset 2",
            Some("name a tokenizer.json as Hugging Face's tokenizers or transformers save it"),
        ),
    ] {
        let hint = hint.map_or_else(String::new, |hint| format!("hint: {hint}\n"));
        let found = refused(&scratch, &format!("train recipe.toml --run-dir run --set {set}"));
        assert_eq!(found, format!("error: {error}\n{hint}"), "{set}");
    }
    assert!(!scratch.join("run").exists());
}

#[test]
fn chinese_words_are_characters_where_they_are_asked_for() {
    let scratch = Scratch::with_recipe();
    with_tokens(&scratch, "word --set data.segment=characters --set data.min-count=2");
    let written = scratch.succeed(&format!("generate run --prompt 月 --tokens 30 {PLAIN}"));
    assert!(written.starts_with('月') && !written.contains(' '), "{written}");
    let recipe = scratch.succeed("info run --recipe");
    assert!(recipe.contains("segment = \"characters\""), "{recipe}");
}

#[test]
fn counted_n_grams_are_of_any_tokens() {
    let scratch = Scratch::new();
    scratch.write("poems.txt", tang(2000));
    for tokens in ["byte", "bpe --set data.vocab-size=300"] {
        let shown = scratch.succeed(&format!("ngram poems.txt --set data.tokens={tokens}"));
        assert!(shown.contains(" bits/byte, over "), "{shown}");
    }
}
