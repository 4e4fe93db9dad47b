//! What a text may be continued from, and how characters that the model does not know are told.

mod support;

use std::io::Write as _;
use std::process::Stdio;

use insta::assert_snapshot;
use support::{Scratch, text, transcript};

#[test]
fn characters_that_the_model_does_not_know_are_named() {
    let scratch = Scratch::with_run();
    let prompted = |prompt: &str, more: &str| {
        let mut command = scratch.refrain(&format!("generate run --tokens 0 {more}"));
        transcript(&command.args(["--prompt", prompt]).output().expect("the command starts"))
    };
    assert_snapshot!(prompted("First é citizen\n@home", ""), @"
    exit status: 1
    [stderr]
    error: the model does not know these characters of the prompt: 'é' (U+00E9, line 1 column 7), '@' (U+0040, line 2 column 1)
    hint: --unknown replace reads them as the unknown token, --unknown skip leaves them out
    ");
    assert_snapshot!(prompted("First é citizen\n@home", "--unknown replace"), @"
    exit status: 0
    [stdout]
    First é citizen
    @home

    [stderr]
    note: the model does not know these characters of the prompt: 'é' (U+00E9, line 1 column 7), '@' (U+0040, line 2 column 1); each is read as the unknown token
    ");
    assert_snapshot!(prompted("First é citizen\n@home", "--unknown skip"), @"
    exit status: 0
    [stdout]
    First  citizen
    home

    [stderr]
    note: the model does not know these characters of the prompt: 'é' (U+00E9, line 1 column 7), '@' (U+0040, line 2 column 1); they are left out
    ");
    assert_snapshot!(prompted("一二三四五六七", ""), @"
    exit status: 1
    [stderr]
    error: the model does not know these characters of the prompt: '一' (U+4E00, line 1 column 1), '二' (U+4E8C, line 1 column 2), '三' (U+4E09, line 1 column 3), '四' (U+56DB, line 1 column 4), '五' (U+4E94, line 1 column 5), and 2 more
    hint: --unknown replace reads them as the unknown token, --unknown skip leaves them out
    ");
    assert_snapshot!(prompted("", ""), @"
    exit status: 1
    [stderr]
    error: the prompt is empty
    hint: give at least one character, or leave --prompt out
    ");
    assert_snapshot!(prompted("é", "--unknown skip"), @"
    exit status: 1
    [stderr]
    note: the model does not know these characters of the prompt: 'é' (U+00E9, line 1 column 1); they are left out
    error: the prompt is empty
    hint: give at least one character, or leave --prompt out
    ");
}

#[test]
fn a_prompt_from_stdin_is_read_as_the_text_that_it_is() {
    let scratch = Scratch::with_run();
    let prompted = |bytes: &[u8]| {
        let mut command = scratch.refrain("generate run --tokens 0 --prompt -");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        transcript(&child.wait_with_output().unwrap())
    };
    let utf16: Vec<u8> = "\u{feff}First".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [b"First".as_slice(), b"\xEF\xBB\xBFFirst", &utf16] {
        assert_eq!(prompted(bytes), "exit status: 0\n[stdout]\nFirst\n");
    }
    assert_snapshot!(prompted(b"Fir\xFFst"), @"
    exit status: 1
    [stderr]
    error: stdin: not valid utf-8: byte 0xFF at byte offset 3
    hint: pipe UTF-8, UTF-16 or GB18030
    ");
}

#[test]
fn a_model_that_knows_no_new_line_writes_without_a_prompt() {
    let scratch = Scratch::with_recipe();
    scratch.write("corpus.txt", support::shakespeare(6000).replace('\n', " "));
    let trained = scratch.run("train recipe.toml --run-dir run --set train.max-steps=20");
    let log = text(&trained.stderr);
    let note = log.lines().find(|line| line.starts_with("note: ")).unwrap_or_else(|| panic!("no note: {log}"));
    assert_snapshot!(note, @r#"note: the text does not have these characters of `sample.prompt`: '\n' (U+000A, line 1 column 1); each is read as the unknown token"#);
    let written = scratch.succeed("generate run --tokens 20");
    assert_eq!(written.trim_end_matches('\n').chars().count(), 20, "{written:?}");
}

#[test]
fn a_prompt_is_read_as_the_beginning_of_a_line() {
    let scratch = Scratch::with_run();
    let written = |prompt: &str| {
        let mut command = scratch.refrain("generate run --tokens 30 --seed 3");
        text(&command.args(["--prompt", prompt]).output().expect("the command starts").stdout)
    };
    assert_eq!(written("\nFirst"), format!("\n{}", written("First")));
}

#[test]
fn the_sample_of_training_is_what_generation_writes() {
    let scratch = Scratch::with_recipe();
    let sample = scratch.succeed("train recipe.toml --run-dir run --set train.max-steps=20 --set sample.prompt=First");
    assert_eq!(sample, scratch.succeed("generate run --prompt First --tokens 40 --seed 7"));
}
