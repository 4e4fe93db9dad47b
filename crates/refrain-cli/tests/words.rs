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
        let is_measure =
            word.trim_start_matches('-').starts_with(|ch: char| ch.is_ascii_digit()) && word.contains(['.', 's']);
        let end = word.trim_start_matches(|ch: char| ch.is_ascii_digit() || ch == '.');
        if is_measure {
            shown.push('#');
        }
        shown.push_str(if is_measure { end } else { word });
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
    assert_snapshot!(data.join("\n"), @r#"
    corpus.txt: 6,000 characters, 6,000 bytes, utf-8 (valid UTF-8)
    valid.txt: 3,000 characters, 3,000 bytes, utf-8 (valid UTF-8)
    vocabulary  133 ids: 131 words, the end of a line and <unk>; from the training text alone
    training    1,268 tokens, 210 lines, 557 different, 425 unknown (33.52 %)
    validation  637 tokens, 93 lines, 347 different, 309 unknown (48.51 %)
    frequent    '\n' 209, "the" 53, "Citizen:" 25, "to" 21, "First" 19, "you" 19, "and" 17, 'I' 14, "it" 11, "MENENIUS:" 10
    unknown in validation  "And" 8, "What's" 4, "He" 3, "MARCIUS:" 3, "great" 3 and 266 more
    batches     4 streams of 316 tokens, windows of 16; 1,264 targets an epoch; unused at the end: 3 tokens, and 12 of the validation text
    "#);
    let evaluated =
        log.lines().find(|line| line.contains("valid ") && line.starts_with("step")).expect("an evaluation");
    assert_snapshot!(measured(evaluated), @"step      9/9  epoch  1  valid # nats  # perplexity/word  after #s  best so far");
    let json = scratch.succeed(&format!("train recipe.toml --json {words} {PLAIN}"));
    assert!(json.contains("\"best_perplexity_per_word\":"), "{json}");
    let metrics = String::from_utf8(scratch.read("run/metrics.jsonl")).expect("UTF-8");
    assert!(metrics.contains("\"perplexity_per_word\":") && !metrics.contains("bits_per_char"), "{metrics}");
}

#[test]
fn a_score_is_of_words_and_says_which_vocabulary() {
    let scratch = with_words("");
    let shown = scratch.succeed(&format!("evaluate run valid.txt {PLAIN}"));
    assert_snapshot!(measured(&shown), @r#"
    loss            # nats per word, over 636 words
    perplexity      # per word, over 636 words
    unknown         309 words (48.51 %), scored as <unk>
    vocabulary      from the training text alone
    "#);
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
    assert_snapshot!(lines.join("\n"), @r#"
    task         language model of words
      embedding.weight              125 × 8
      recurrent.layers.0.weight_ih  76 × 8
      recurrent.layers.0.weight_hh  76 × 19
      recurrent.layers.0.bias       76
      recurrent.layers.1.weight_ih  76 × 19
      recurrent.layers.1.weight_hh  76 × 19
      recurrent.layers.1.bias       76
      head.weight                   125 × 19
      head.bias                     125
    vocabulary   125 tokens: <unk> and \n the citizen: to you first and i what for we a in it our they menenius: not of … and 105 more
                 from the training text alone
    "#);
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

    scratch.write("lines.txt", "we are a citizen");
    let shaded = scratch.succeed("score run lines.txt --show-probabilities");
    let plain: String = shaded.split('\x1b').map(|part| part.split_once('m').map_or(part, |(_, text)| text)).collect();
    assert!(plain.contains("  we are <unk>") || plain.contains("  we are a "), "{plain}");

    let prompted = |more: &str| scratch.transcript(&format!("generate run --tokens 0 --prompt xylophone {more}"));
    assert_snapshot!(prompted(""), @r#"
    exit status: 1
    [stderr]
    error: the model does not know these words of the prompt: "xylophone" (line 1 column 1)
    hint: --unknown replace reads them as the unknown token, --unknown skip leaves them out
    "#);
    assert_snapshot!(prompted("--unknown skip"), @r#"
    exit status: 1
    [stderr]
    note: the model does not know these words of the prompt: "xylophone" (line 1 column 1); they are left out
    error: the prompt is empty
    hint: give at least one word, or leave --prompt out
    "#);
    let gates = scratch.transcript("gates run --text we");
    assert_snapshot!(gates, @r#"
    exit status: 1
    [stderr]
    error: run is a model of words: pictures have a character above each column
    hint: draw a model of characters
    "#);
}

#[test]
fn what_leaves_no_word_is_refused() {
    let scratch = Scratch::with_recipe();
    let refused = |more: &str| scratch.transcript(&format!("train recipe.toml --set data.tokens=word {more}"));
    assert_snapshot!(refused("--set data.min-count=100000"), @r#"
    exit status: 1
    [stderr]
    error: no word of the training text occurs `data.min-count` = 100000 times
    hint: lower data.min-count; 1 keeps every word
    "#);
    assert_snapshot!(refused("--set data.max-vocab-size=2"), @r#"
    exit status: 1
    [stderr]
    error: `data.max-vocab-size` = 2 leaves no word in the vocabulary
    hint: raise data.max-vocab-size; 0 keeps every word
    "#);
    assert_snapshot!(scratch.transcript("train recipe.toml --set data.lower-case=true"), @r#"
    exit status: 1
    [stderr]
    error: unknown key `lower-case` in [data], --set data.lower-case=true
    hint: `lower-case` is for tokens = "word"
    "#);
}
