//! Readers that leave, and numbers that are no longer finite.

mod support;

use std::process::Stdio;

use insta::assert_snapshot;
use support::{Scratch, names, text, transcript};

/// Runs a command whose stdout nobody reads.
fn with_closed_pipe(scratch: &Scratch, arguments: &str) -> String {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = scratch.refrain(arguments).stdout(writer).stderr(Stdio::piped()).output().expect("the command starts");
    transcript(&output)
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let scratch = Scratch::with_run();
    for arguments in [
        "generate run --tokens 100000000",
        "generate run --json",
        "info run",
        "info run --json",
        "info run --recipe",
        "train --dump-config",
        "completions bash",
        "--help",
        "train --help",
        "--version",
    ] {
        assert_eq!(with_closed_pipe(&scratch, arguments), "exit status: 0", "{arguments}");
    }
    let evaluated = with_closed_pipe(&scratch, "evaluate run corpus.txt");
    assert!(evaluated.starts_with("exit status: 0\n[stderr]\ncorpus.txt: utf-8"), "{evaluated}");
    assert_eq!(evaluated.lines().count(), 3, "{evaluated}");
}

/// As in `refrain generate run | head -c 10`: the reader leaves in the middle of the text.
#[test]
fn a_reader_that_leaves_after_the_first_characters_is_no_error() {
    use std::io::Read as _;
    let scratch = Scratch::with_run();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = scratch.refrain("generate run --prompt ROMEO: --tokens 100000000");
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().expect("the command starts");
    // Our copy of the writing end.
    drop(command);
    let mut read = [0; 10];
    reader.read_exact(&mut read).expect("ten bytes come");
    assert!(read.starts_with(b"ROMEO:"));
    drop(reader);
    assert_eq!(transcript(&child.wait_with_output().expect("a child")), "exit status: 0");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state() {
    let scratch = Scratch::with_recipe();
    // What is left of numbers too great for f32 differs from one instruction set to another.
    let diverging = "--kernel portable --set optimizer.name=sgd --set optimizer.learning-rate=1e19 \
                     --set schedule.name=constant --set train.clip-norm=0";
    let error_of = |arguments: &str| {
        let output = scratch.run(arguments);
        let log = text(&output.stderr);
        let error = log.find("error: ").unwrap_or_else(|| panic!("no error: {}", transcript(&output)));
        assert!(output.stdout.is_empty());
        format!("{}\n{}", output.status, &log[error..])
    };
    let error = error_of(&format!("train recipe.toml --run-dir run {diverging}"));
    let (before, after) = error.split_once(" times its running mean").unwrap_or_else(|| panic!("{error}"));
    assert_snapshot!(before.trim_end_matches(|ch: char| ch.is_ascii_digit() || ".e".contains(ch)), @"
    exit status: 1
    error: the loss is not finite at step 3; the gradient of `embedding.weight` grew first:
    ");
    assert_snapshot!(after, @"
     at step 2
    hint: lower optimizer.learning-rate, clip harder with train.clip-norm or lengthen schedule.warmup-steps; a checkpoint in last/ is from before
    ");
    assert!(scratch.join("run/last").exists());

    // With a checkpoint after every step, the last good one is kept, and resuming comes to the same end.
    let saving = "--set train.checkpoint-every=1";
    let stopped = "is not finite at step 3; ";
    let first = error_of(&format!("train recipe.toml --run-dir saved {diverging} {saving}"));
    assert!(first.contains(stopped), "{first}");
    let last = outcome_of_last(&scratch, "saved");
    let second = error_of("train --resume saved --kernel portable");
    assert!(second.contains(stopped), "{second}");
    assert_eq!(outcome_of_last(&scratch, "saved"), last);
}

/// The files of a run's last checkpoint.
fn outcome_of_last(scratch: &Scratch, run: &str) -> Vec<Vec<u8>> {
    let files = names(&scratch.join(run).join("last"));
    files.iter().map(|file| scratch.read(&format!("{run}/last/{file}"))).collect()
}

#[test]
fn a_model_that_an_update_broke_is_not_saved() {
    let scratch = Scratch::with_recipe();
    // Finite gradients, and weights beyond the largest f32.
    let breaking = "--set optimizer.name=sgd --set optimizer.learning-rate=1e45 --set schedule.name=constant";
    let run = |name: &str, more: &str| {
        let log = scratch.transcript(&format!("train recipe.toml --run-dir {name} {breaking} {more}"));
        log[log.find("error: ").unwrap_or_else(|| panic!("no error: {log}"))..].to_owned()
    };
    assert_snapshot!(run("saving", "--set train.checkpoint-every=1"), @"
    error: the updated weight is not finite at step 1, in `embedding.weight`; no layer's gradient had grown tenfold before
    hint: lower optimizer.learning-rate, clip harder with train.clip-norm or lengthen schedule.warmup-steps; a checkpoint in last/ is from before
    ");
    assert_snapshot!(run("evaluating", "--set train.eval-every=1"), @"
    error: the validation loss is not finite at step 1; no layer's gradient had grown tenfold before
    hint: lower optimizer.learning-rate, clip harder with train.clip-norm or lengthen schedule.warmup-steps; a checkpoint in last/ is from before
    ");
    for name in ["saving", "evaluating"] {
        assert!(!scratch.join(name).join("best.safetensors").exists());
        // The beginning, which was saved before the first step.
        assert!(!names(&scratch.join(name)).contains(&"previous".to_owned()));
    }
}
