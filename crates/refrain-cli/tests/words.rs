//! Models of words: what training, scoring, writing and looking into the file show.

mod support;

use insta::assert_snapshot;
use support::{PLAIN, Scratch, shakespeare, text};

/// With `run/`, a small model of the words of the bundled Shakespeare.
fn with_words(more: &str) -> Scratch {
    let scratch = Scratch::with_recipe();
    scratch.write("valid.txt", &shakespeare(9000)[6000..]);
    let words = "--set data.tokens=word --set data.valid=valid.txt --set data.min-count=2 --set train.max-steps=18";
    scratch.succeed(&format!("train recipe.toml --run-dir run {words} {more} {PLAIN}"));
    scratch
}

/// The text with `#` for every number that was measured.
fn measured(text: &str) -> String {
    let mut shown = String::new();
    for word in text.split_inclusive([' ', '\n']) {
        let is_measure = word.trim_start_matches('-').starts_with(|ch: char| ch.is_ascii_digit()) && word.contains('.');
        let end = word.trim_start_matches(|ch: char| ch.is_ascii_digit() || ch == '.');
        if is_measure { shown += &format!("#{end}") } else { shown += word }
    }
    shown
}

#[test]
fn training_tells_words_and_their_perplexity() {
    let scratch = Scratch::with_recipe();
    scratch.write("valid.txt", &shakespeare(9000)[6000..]);
    let words = "--set data.tokens=word --set data.valid=valid.txt --set data.min-count=2 --set train.max-steps=9";
    let output = scratch.run(&format!("train recipe.toml --run-dir run {words} {PLAIN}"));
    let log = text(&output.stderr);
    let data: Vec<&str> = log.lines().take_while(|line| !line.is_empty()).collect();
    assert_snapshot!(data.join("\n"), @"");
    let evaluated =
        log.lines().find(|line| line.contains("valid ") && line.starts_with("step")).expect("an evaluation");
    assert_snapshot!(measured(evaluated), @"");
    let json = scratch.succeed(&format!("train recipe.toml --json {words} {PLAIN}"));
    assert!(json.contains("\"best_perplexity_per_word\":"), "{json}");
    let metrics = String::from_utf8(scratch.read("run/metrics.jsonl")).expect("UTF-8");
    assert!(metrics.contains("\"perplexity_per_word\":") && !metrics.contains("bits_per_char"), "{metrics}");
}

#[test]
fn a_score_is_of_words_and_says_which_vocabulary() {
    let scratch = with_words("");
    let shown = scratch.succeed(&format!("evaluate run valid.txt {PLAIN}"));
    assert_snapshot!(measured(&shown), @"");
    let json = scratch.succeed(&format!("evaluate run valid.txt --json {PLAIN}"));
    for part in ["\"unit\":\"word\"", "\"vocabulary\":\"train\"", "\"bits_per_char\":null"] {
        assert!(json.contains(part), "{json}");
    }
    let closed = with_words("--set data.closed-vocabulary=true");
    let shown = closed.succeed(&format!("evaluate run valid.txt {PLAIN}"));
    assert!(shown.ends_with("vocabulary      closed, from the training and the validation text\n"), "{shown}");
}

#[test]
fn info_shows_the_most_frequent_words() {
    let scratch = with_words("--set data.lower-case=true");
    let shown = scratch.succeed("info run");
    let lines: Vec<&str> =
        shown.lines().filter(|line| ["task", "vocabulary", "  "].iter().any(|begin| line.starts_with(begin))).collect();
    assert_snapshot!(lines.join("\n"), @"");
    assert!(scratch.succeed("info run --json").contains("\"words\":[\"\\n\",\"the\","));
}

#[test]
fn words_are_written_with_spaces_between_them() {
    let scratch = with_words("");
    let written = |more: &str| scratch.succeed(&format!("generate run --tokens 30 {PLAIN} {more}"));
    let text = written("--prompt we");
    assert!(text.starts_with("we "), "{text}");
    assert_eq!(text.split_whitespace().count() + text.matches('\n').count(), 1 + 30 + 1, "{text}");
    assert!(!text.contains("<unk>") && !text.contains("  "), "{text}");
    let json = written("--prompt we --json");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(format!("{}{}\n", json["prompt"].as_str().unwrap(), json["text"].as_str().unwrap()), text);

    let prompted = |more: &str| scratch.transcript(&format!("generate run --tokens 0 --prompt xylophone {more}"));
    assert_snapshot!(prompted(""), @"");
    assert_snapshot!(prompted("--unknown skip"), @"");
    let gates = scratch.transcript("gates run --text we");
    assert_snapshot!(gates, @"");
}

#[test]
fn what_leaves_no_word_is_refused() {
    let scratch = Scratch::with_recipe();
    let refused = |more: &str| scratch.transcript(&format!("train recipe.toml --set data.tokens=word {more}"));
    assert_snapshot!(refused("--set data.min-count=100000"), @"");
    assert_snapshot!(refused("--set data.max-vocab-size=2"), @"");
    assert_snapshot!(scratch.transcript("train recipe.toml --set data.lower-case=true"), @"");
}
