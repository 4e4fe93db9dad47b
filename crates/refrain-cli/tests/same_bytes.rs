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
fn one_to_four_threads_give_the_same_bytes_at_odd_sizes() {
    assert_threads_change_nothing("auto", "--set train.max-steps=40");
}

/// The kernels share out only what is worth sharing.
#[test]
fn one_to_four_threads_give_the_same_bytes_when_there_is_work_for_all() {
    let sizes = "--set model.hidden-size=131 --set model.embedding-size=33 --set train.batch-size=13 \
                 --set train.seq-len=35 --set train.max-steps=9";
    assert_threads_change_nothing("auto", sizes);
}

#[test]
fn one_to_four_threads_give_the_same_bytes_with_portable_kernels() {
    let sizes = "--set model.hidden-size=67 --set train.batch-size=9 --set train.max-steps=9";
    assert_threads_change_nothing("portable", sizes);
}
