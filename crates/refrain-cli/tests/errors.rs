//! Every mistake that a user can make ends with one clear line, a hint where we know the fix, an exit status that is not
//! 0, and nothing half-written. Mistakes in recipes and model files have files of their own.

mod support;

use std::fs;

use insta::assert_snapshot;
use support::{PLAIN, Scratch, names, outcome, shakespeare, transcript};

#[test]
fn a_corpus_that_cannot_be_read_is_named() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("books")).expect("a new folder");
    scratch.write("empty.txt", "");
    scratch.write("mark.txt", "\u{feff}");
    scratch.write("typo.toml", "[data]\ntrain = \"shakspere.txt\"\n");
    scratch.write("builtin.toml", "[data]\ntrain = \"builtin:shakspere\"\n");
    let before = names(scratch.path());
    assert_snapshot!(scratch.transcript("train shakspere.txt"), @"
    exit status: 1
    [stderr]
    error: cannot read shakspere.txt: no such file or folder
    hint: check the spelling
    ");
    assert_snapshot!(scratch.transcript("train typo.toml"), @"
    exit status: 1
    [stderr]
    error: cannot read shakspere.txt: no such file or folder (`data.train`)
    hint: `data.train` is relative to the current folder
    ");
    assert_snapshot!(scratch.transcript("train builtin.toml"), @"
    exit status: 1
    [stderr]
    error: there is no built-in text `shakspere` (`data.train`)
    hint: there is `builtin:shakespeare`, `builtin:tang`
    ");
    assert_snapshot!(scratch.transcript("train books"), @"
    exit status: 1
    [stderr]
    error: books is a folder, not a text file (`data.train`)
    hint: name one file; several can be joined with `cat`
    ");
    assert_snapshot!(scratch.transcript("train --set data.train=books"), @"
    exit status: 1
    [stderr]
    error: books is a folder, not a text file (`data.train`)
    hint: name one file; several can be joined with `cat`
    ");
    assert_snapshot!(scratch.transcript("train empty.txt"), @"
    exit status: 1
    [stderr]
    error: empty.txt is empty (`data.train`)
    ");
    assert_snapshot!(scratch.transcript("train mark.txt"), @"
    exit status: 1
    [stderr]
    error: mark.txt is empty (`data.train`)
    ");
    assert_eq!(names(scratch.path()), before, "a refusal left something behind");
}

#[test]
fn a_corpus_that_is_too_short_says_how_many_characters_are_needed() {
    let scratch = Scratch::new();
    scratch.write("short.txt", shakespeare(1000));
    scratch.write("one.txt", "x");
    assert_snapshot!(scratch.transcript("train short.txt"), @"
    exit status: 1
    [stderr]
    error: the training text has 900 tokens, at least 4097 are needed: batch size × sequence length + 1 = 32 × 128 + 1
    hint: lower `train.batch-size` or `train.seq-len`, or train on a longer text
    ");
    // 900 characters to train on are 9 × 100 − 0; one more is needed.
    assert_snapshot!(scratch.transcript("train short.txt --set train.batch-size=9 --set train.seq-len=100"), @"
    exit status: 1
    [stderr]
    error: the training text has 900 tokens, at least 901 are needed: batch size × sequence length + 1 = 9 × 100 + 1
    hint: lower `train.batch-size` or `train.seq-len`, or train on a longer text
    ");
    assert_snapshot!(scratch.transcript("train one.txt"), @"
    exit status: 1
    [stderr]
    error: one.txt has 1 characters: with `data.valid-fraction` 0.1, 0 are left to train on and 1 to validate on
    hint: name a longer text, or a file of its own in `data.valid`
    ");
    assert_snapshot!(scratch.transcript("train short.txt --set train.batch-size=1 --set data.valid=one.txt"), @"
    exit status: 1
    [stderr]
    error: the validation text has 1 tokens, at least 2 are needed: batch size × sequence length + 1 = 1 × 1 + 1
    hint: name a longer text in `data.valid`, or raise `data.valid-fraction`
    ");
    assert_eq!(names(scratch.path()), ["one.txt", "short.txt"]);
}

#[test]
fn bytes_that_are_no_text_are_named_with_their_offset() {
    let scratch = Scratch::new();
    let mut bytes = shakespeare(2000).as_bytes().to_vec();
    bytes[1234] = 0xff;
    scratch.write("stray.txt", &bytes);
    scratch.write("cut.txt", &"中文".as_bytes()[..5]);
    scratch.write("utf-32.txt", [0xff, 0xfe, 0, 0, b'x', 0, 0, 0]);
    scratch.write("marked.txt", b"\xff\xfex\0");
    assert_snapshot!(scratch.transcript("train stray.txt"), @"
    exit status: 1
    [stderr]
    error: stray.txt: not valid utf-8: byte 0xFF at byte offset 1234
    hint: repair the file, or name its encoding: --set data.encoding=gb18030|utf-16le|utf-16be
    ");
    assert_snapshot!(scratch.transcript("train cut.txt"), @"
    exit status: 1
    [stderr]
    error: cut.txt: not valid utf-8: the text ends inside a character at byte offset 3
    hint: repair the file, or name its encoding: --set data.encoding=gb18030|utf-16le|utf-16be
    ");
    assert_snapshot!(scratch.transcript("train stray.txt --set data.encoding=utf-8"), @"
    exit status: 1
    [stderr]
    error: stray.txt: not valid utf-8: byte 0xFF at byte offset 1234
    hint: leave `data.encoding` out to have it detected, or repair the file
    ");
    assert_snapshot!(scratch.transcript("train utf-32.txt"), @"
    exit status: 1
    [stderr]
    error: utf-32.txt: the text is UTF-32, which is not supported
    hint: convert it first: iconv -f utf-32 -t utf-8
    ");
    assert_snapshot!(scratch.transcript("train marked.txt --set data.encoding=utf-8"), @r#"
    exit status: 1
    [stderr]
    error: marked.txt: the text starts with the byte order mark of utf-16le, but is to be read as utf-8
    hint: leave `data.encoding` out, or set it to "utf-16le"
    "#);
}

#[test]
fn a_mistake_in_the_arguments_is_named() {
    let scratch = Scratch::new();
    assert_snapshot!(scratch.transcript("trian"), @"
    exit status: 2
    [stderr]
    error: unrecognized subcommand 'trian'

      tip: a similar subcommand exists: 'train'

    Usage: refrain <COMMAND>

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("train --threads 0"), @"
    exit status: 2
    [stderr]
    error: invalid value '0' for '--threads <N>': an integer of at least 1

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("train --resume run --run-dir other"), @"
    exit status: 2
    [stderr]
    error: the argument '--resume <RUN>' cannot be used with '--run-dir <DIR>'

    Usage: refrain train --resume <RUN> [SOURCE]

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("generate run --temperature -1"), @"
    exit status: 2
    [stderr]
    error: invalid value '-1' for '--temperature <F>': a number of at least 0

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("generate run --top-k -1"), @"
    exit status: 2
    [stderr]
    error: invalid value '-1' for '--top-k <K>': an integer of at least 0

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("generate run --unknown guess"), @"
    exit status: 2
    [stderr]
    error: invalid value 'guess' for '--unknown <RULE>'
      [possible values: error, replace, skip]

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("evaluate run text.txt --encoding latin-1"), @"
    exit status: 2
    [stderr]
    error: invalid value 'latin-1' for '--encoding <NAME>': unknown encoding `latin-1`

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("completions nushell"), @"
    exit status: 2
    [stderr]
    error: invalid value 'nushell' for '<SHELL>'
      [possible values: bash, elvish, fish, powershell, zsh]

    For more information, try '--help'.
    ");
    let kernel = scratch.transcript("train --kernel neon2");
    let (error, machine) = kernel.split_once("hint: it has ").expect("a hint");
    assert_snapshot!(error, @"
    exit status: 1
    [stderr]
    error: --kernel neon2: this processor does not have it
    ");
    assert!(machine.ends_with("portable, or let `auto` choose\n"), "{machine}");
}

#[test]
fn the_environment_chooses_an_instruction_set_that_there_is() {
    let scratch = Scratch::with_recipe();
    let with = |isa: &str| {
        let mut command = scratch.refrain("train recipe.toml --run-dir run --set train.max-steps=1 --threads 1");
        transcript(&command.env("REFRAIN_ISA", isa).output().expect("the command starts"))
    };
    let (error, machine) =
        with("neon2").split_once("hint: ").map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a hint");
    assert_snapshot!(error, @"
    exit status: 1
    [stderr]
    error: REFRAIN_ISA: unknown instruction set `neon2`; one of amx, avx512, avx2, portable is expected
    ");
    assert!(machine.ends_with("portable\n"), "{machine}");
    assert!(with("portable").contains("1 thread, kernel portable (asked for by REFRAIN_ISA)"));
}

#[test]
fn a_folder_that_is_no_run_is_left_alone() {
    let scratch = Scratch::with_recipe();
    fs::create_dir(scratch.join("thesis")).expect("a new folder");
    scratch.write("thesis/chapter-1.txt", "x");
    assert_snapshot!(scratch.transcript("train recipe.toml --run-dir thesis"), @"
    exit status: 1
    [stderr]
    error: thesis is not empty
    hint: choose another folder for the run
    ");
    assert_snapshot!(scratch.transcript("train recipe.toml --run-dir corpus.txt"), @"
    exit status: 1
    [stderr]
    error: cannot create corpus.txt: File exists
    ");
    assert_snapshot!(scratch.transcript("train --resume thesis"), @"
    exit status: 1
    [stderr]
    error: thesis is not a run: it has no config.toml
    hint: name the folder that holds config.toml, such as runs/shakespeare-001
    ");
    assert_snapshot!(scratch.transcript("train --resume corpus.txt"), @"
    exit status: 1
    [stderr]
    error: corpus.txt is not a run: it has no config.toml
    hint: name the folder that holds config.toml, such as runs/shakespeare-001
    ");
    assert_snapshot!(scratch.transcript("train --resume missing"), @"
    exit status: 1
    [stderr]
    error: cannot open missing: no such file or folder
    hint: check the spelling
    ");
    assert_snapshot!(scratch.transcript("generate thesis"), @"
    exit status: 1
    [stderr]
    error: thesis has no best.safetensors
    hint: a run writes it at its first evaluation; name a run's folder or a model file
    ");
    assert_eq!(names(&scratch.join("thesis")), ["chapter-1.txt"]);
    assert_eq!(names(scratch.path()), ["corpus.txt", "recipe.toml", "thesis"]);
}

#[test]
fn a_finished_run_is_not_begun_again_by_mistake() {
    let scratch = Scratch::with_run();
    let before = outcome(&scratch.join("run"));
    assert_snapshot!(scratch.transcript("train recipe.toml --run-dir run"), @"
    exit status: 1
    [stderr]
    error: run is not empty
    hint: continue that run with `--resume run`, or choose another folder
    ");
    assert_eq!(outcome(&scratch.join("run")), before);
    scratch.write("run/config.toml", "[model]\nhiden-size = 3\n");
    assert_snapshot!(scratch.transcript("train --resume run"), @"
    exit status: 1
    [stderr]
    error: unknown key `hiden-size` in [model], run/config.toml:2
    hint: did you mean `hidden-size`?
    ");
}

#[test]
fn a_vocabulary_of_nothing_is_refused() {
    let scratch = Scratch::with_recipe();
    assert_snapshot!(scratch.transcript("train recipe.toml --run-dir run --set data.min-count=100000"), @"
    exit status: 1
    [stderr]
    error: no character of the training text occurs `data.min-count` = 100000 times
    hint: lower data.min-count; 1 keeps every character
    ");
    assert!(!scratch.join("run").exists());
}

#[test]
fn a_text_that_cannot_be_scored_is_named() {
    let scratch = Scratch::with_run();
    scratch.write("empty.txt", "");
    scratch.write("one.txt", "x");
    scratch.write("stray.txt", b"to be or not to be\xff");
    assert_snapshot!(scratch.transcript("evaluate run missing.txt"), @"
    exit status: 1
    [stderr]
    error: cannot read missing.txt: no such file or folder
    hint: check the spelling
    ");
    assert_snapshot!(scratch.transcript("evaluate run run"), @"
    exit status: 1
    [stderr]
    error: cannot read run: is a folder
    ");
    assert_snapshot!(scratch.transcript(&format!("evaluate run empty.txt {PLAIN}")), @"
    exit status: 1
    [stderr]
    empty.txt: utf-8 (valid UTF-8); 1 thread, kernel portable (asked for by --kernel)
    error: empty.txt: the text has 0 tokens; at least 2 are needed, since nothing comes before the first
    ");
    assert_snapshot!(scratch.transcript(&format!("evaluate run one.txt {PLAIN}")), @"
    exit status: 1
    [stderr]
    one.txt: utf-8 (valid UTF-8); 1 thread, kernel portable (asked for by --kernel)
    error: one.txt: the text has 1 tokens; at least 2 are needed, since nothing comes before the first
    ");
    assert_snapshot!(scratch.transcript("evaluate run stray.txt"), @"
    exit status: 1
    [stderr]
    error: stray.txt: not valid utf-8: byte 0xFF at byte offset 18
    hint: repair the file, or name its encoding with --encoding
    ");
    assert_snapshot!(scratch.transcript("evaluate run stray.txt --encoding utf-8"), @"
    exit status: 1
    [stderr]
    error: stray.txt: not valid utf-8: byte 0xFF at byte offset 18
    hint: leave --encoding out to have it detected, or repair the file
    ");
}
