//! Sweeps before a run: of learning rates and of batch sizes.

mod support;

use insta::assert_snapshot;
use serde_json::Value;
use support::{PLAIN, Scratch, names, text};

#[test]
fn a_sweep_of_learning_rates_leaves_its_curve_and_nothing_else() {
    let scratch = Scratch::with_recipe();
    let found = scratch.run(&format!("train recipe.toml --find-lr --run-dir run {PLAIN}"));
    assert!(found.status.success(), "{}", support::transcript(&found));
    let suggestion = text(&found.stdout);
    let rate = suggestion.strip_prefix("optimizer.learning-rate=").expect("as --set takes it").trim_end();
    let rate: f64 = rate.parse().expect("a number");
    assert!((1e-4..0.5).contains(&rate), "{rate}");
    assert_eq!(names(&scratch.join("run")), ["learning-rate.json", "learning-rate.svg", "run.lock"]);

    let record: Value = serde_json::from_slice(&scratch.read("run/learning-rate.json")).expect("JSON");
    assert_eq!(record["learning_rate"].as_f64(), Some(rate));
    let points = record["points"].as_array().expect("points");
    let rates: Vec<f64> = points.iter().filter_map(|point| point["learning_rate"].as_f64()).collect();
    assert!(rates.len() > 80 && rates.is_sorted() && (rates[0] - 1e-6).abs() < 1e-12, "{rates:?}");
    let plot = text(&scratch.read("run/learning-rate.svg"));
    assert!(plot.starts_with("<svg") && plot.contains(&format!("steepest at {rate}")), "{plot}");

    // The same again, and with other threads, is the same; a run may begin beside it.
    let json = scratch.succeed("train recipe.toml --find-lr --run-dir run --json --threads 3 --kernel portable");
    let again: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(again, record);
    scratch
        .succeed(&format!("train recipe.toml --run-dir run --set train.max-steps=3 --set {}", suggestion.trim_end()));
    assert!(names(&scratch.join("run")).contains(&"best.safetensors".to_owned()));
    assert_snapshot!(scratch.transcript("train recipe.toml --find-lr --run-dir run"), @"
    exit status: 1
    [stderr]
    error: run is not empty
    hint: continue that run with `--resume run`, or choose another folder
    ");
}

#[test]
fn batches_are_measured_until_the_text_is_too_short_for_more() {
    let scratch = Scratch::with_recipe();
    let found = scratch.succeed(&format!("train recipe.toml --find-batch-size --json {PLAIN}"));
    let found: Value = serde_json::from_str(&found).expect("JSON");
    let points = found["points"].as_array().expect("points");
    let sizes: Vec<u64> = points.iter().filter_map(|point| point["batch_size"].as_u64()).collect();
    assert!(sizes.iter().enumerate().all(|(power, size)| *size == 1 << power) && sizes.len() >= 3, "{sizes:?}");
    assert!(points.iter().all(|point| point["tokens_per_second"].as_f64().is_some_and(|speed| speed > 0.0)));
    assert!(found["batch_size"].as_u64().is_some_and(|size| sizes.contains(&size)));
    assert_eq!(names(scratch.path()), ["corpus.txt", "recipe.toml"], "nothing is written");
}

#[test]
fn what_does_not_go_with_a_sweep_is_refused() {
    let scratch = Scratch::with_recipe();
    assert_snapshot!(scratch.transcript("train --find-lr --resume run"), @"
    exit status: 2
    [stderr]
    error: the argument '--find-lr' cannot be used with '--resume <RUN>'

    Usage: refrain train --find-lr [SOURCE]

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("train --find-batch-size --find-lr"), @"
    exit status: 2
    [stderr]
    error: the argument '--find-batch-size' cannot be used with '--find-lr'

    Usage: refrain train --find-batch-size [SOURCE]

    For more information, try '--help'.
    ");
    assert_snapshot!(scratch.transcript("train recipe.toml --find-lr --set data.train=missing.txt"), @"
    exit status: 1
    [stderr]
    error: cannot read missing.txt: no such file or folder (`data.train`)
    hint: `data.train` is relative to the current folder
    ");
}
