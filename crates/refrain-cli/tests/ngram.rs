//! `refrain ngram`: the floor beneath a network.

mod support;

use insta::assert_snapshot;
use support::{Scratch, text};

#[test]
fn characters_are_scored_by_counts() {
    let scratch = Scratch::new();
    assert_snapshot!(scratch.succeed("ngram --order 3"), @"kneser-ney of order 3: 2.0381 nats, 2.9403 bits/char, over 111,540 characters");
    let json = scratch.succeed("ngram --order 3 --smoothing add-k --json");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    // Logarithms differ in their last bits from machine to machine.
    let loss_nats = json["loss_nats"].as_f64().expect("a number");
    assert!((loss_nats - 2.065_829).abs() < 1e-5, "{json}");
    assert_eq!((json["order"].as_u64(), json["tokens"].as_u64()), (Some(3), Some(111_540)));
    assert_eq!((json["smoothing"].as_str(), json["vocabulary"].as_str()), (Some("add-k"), Some("train")));
}

#[test]
fn words_are_scored_by_counts() {
    let scratch = Scratch::new();
    let output = scratch.run("ngram --set data.tokens=word --set data.closed-vocabulary=true");
    assert_snapshot!(text(&output.stdout), @"kneser-ney of order 5: 6.2138 nats, 499.62 perplexity/word, over 24,628 words");
    assert!(text(&output.stderr).contains("closed, from the training and the validation text"));
}

#[test]
fn what_does_not_go_together_is_refused() {
    let scratch = Scratch::new();
    assert_snapshot!(scratch.transcript("ngram --k 1"), @r#"
    exit status: 1
    [stderr]
    error: --k 1 is for --smoothing add-k
    hint: add it, or leave --k out
    "#);
    assert_snapshot!(scratch.transcript("ngram --smoothing add-k --k 0"), @r#"
    exit status: 1
    [stderr]
    error: --k 0 is not above 0
    hint: give a number such as 0.01
    "#);
    assert_snapshot!(scratch.transcript("ngram nothing.txt"), @r#"
    exit status: 1
    [stderr]
    error: cannot read nothing.txt: no such file or folder
    hint: check the spelling
    "#);
}
