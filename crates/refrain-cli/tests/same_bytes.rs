//! The number of threads changes the speed and not a bit of the outcome.

mod support;

use support::{Scratch, assert_same_outcome};

/// Trains with 1 to 4 threads, and generates and scores with as many.
fn assert_threads_change_nothing(kernel: &str, sizes: &str) {
    let scratch = Scratch::with_recipe();
    let results = [1, 2, 3, 4].map(|threads| {
        let engine = format!("--kernel {kernel} --threads {threads}");
        let run = format!("run-{threads}");
        let sample = scratch.succeed(&format!("train recipe.toml --run-dir {run} {engine} {sizes}"));
        assert_same_outcome(&scratch.join(&run), &scratch.join("run-1"));
        let written = scratch.succeed(&format!("generate {run} --prompt ROMEO: --tokens 200 {engine}"));
        let score = scratch.succeed(&format!("evaluate {run} corpus.txt --json {engine}"));
        (sample, written, score)
    });
    for (threads, result) in (1..).zip(&results) {
        assert_eq!(result, &results[0], "{threads} threads, kernel {kernel}");
    }
}

#[test]
fn one_to_four_threads_give_the_same_bytes_where_a_step_is_too_small_to_share() {
    assert_threads_change_nothing("auto", "--set train.max-steps=40");
}

/// Large enough for four threads in every kernel, and divisible by nothing.
const LARGE: &str = "--set model.hidden-size=131 --set model.embedding-size=33 --set train.batch-size=13 \
                     --set train.seq-len=35 --set train.max-steps=6";

#[test]
fn one_to_four_threads_give_the_same_bytes_where_a_step_is_shared() {
    assert_threads_change_nothing("auto", LARGE);
}

#[test]
fn one_to_four_threads_give_the_same_bytes_with_portable_kernels() {
    assert_threads_change_nothing("portable", LARGE);
}
