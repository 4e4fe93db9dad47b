//! What is trained against, and what is read while training: smoothed targets, noise on gradients, the model's own tokens.

mod support;

use std::fs;

use support::{Scratch, assert_same_outcome, copy_folder, text};

/// Long enough for the plateau and a checkpoint that is not the last.
const SHORT: &str = "--set train.max-steps=40";

/// The text's own tokens at first, and then ever more of the model's.
const MIXED: &str = "--set teacher-forcing.name=linear --set teacher-forcing.slope=0.05";

const ALL: &str = "--set train.label-smoothing=0.1 --set train.gradient-noise=0.01 --set teacher-forcing.name=exponential \
                   --set teacher-forcing.decay=0.95";

/// The validation losses of a run, by step.
fn valid_losses(scratch: &Scratch, run: &str) -> Vec<String> {
    let log = text(&scratch.read(&format!("{run}/metrics.jsonl")));
    let field =
        |line: &str| line.split_once("\"loss_nats\":").map(|(_, rest)| rest.split(',').next().map(str::to_owned));
    log.lines().filter(|line| line.contains("\"eval\"")).filter_map(field).flatten().collect()
}

#[test]
fn every_strategy_is_resumed_to_the_same_bytes_with_any_number_of_threads() {
    let scratch = Scratch::with_recipe();
    for (name, strategy) in [
        ("mixed", MIXED),
        ("free", "--set teacher-forcing.probability=0"),
        ("best", "--set teacher-forcing.probability=0.5 --set teacher-forcing.choice=best --set train.state=reset"),
        ("sampled", "--set train.softmax-samples=12"),
        ("all", ALL),
    ] {
        scratch.succeed(&format!("train recipe.toml --run-dir {name} --threads 1 {strategy} {SHORT}"));
        scratch.succeed(&format!("train recipe.toml --run-dir {name}-3 --threads 3 {strategy} {SHORT}"));
        assert_same_outcome(&scratch.join(&format!("{name}-3")), &scratch.join(name));
        // As if the save after the last step had been cut off.
        let resumed = format!("{name}-resumed");
        copy_folder(&scratch.join(name), &scratch.join(&resumed));
        fs::remove_dir_all(scratch.join(&resumed).join("last")).expect("a folder");
        scratch.succeed(&format!("train --resume {resumed}"));
        assert_same_outcome(&scratch.join(&resumed), &scratch.join(name));
    }
}

#[test]
fn with_truth_alone_a_schedule_trains_as_none_does() {
    let scratch = Scratch::with_recipe();
    scratch.succeed(&format!("train recipe.toml --run-dir plain {SHORT}"));
    let flat = "--set teacher-forcing.name=linear --set teacher-forcing.slope=0";
    scratch.succeed(&format!("train recipe.toml --run-dir flat {flat} {SHORT}"));
    let plain = valid_losses(&scratch, "plain");
    assert!(plain.len() > 3, "{plain:?}");
    assert_eq!(valid_losses(&scratch, "flat"), plain);
    for name in ["optimizer.safetensors", "carry.safetensors"] {
        let [plain, flat] = ["plain", "flat"].map(|run| scratch.read(&format!("{run}/last/{name}")));
        assert!(plain == flat, "{name}");
    }
}

#[test]
fn a_sampled_softmax_with_room_for_all_tokens_is_the_whole_one() {
    let scratch = Scratch::with_recipe();
    scratch.succeed(&format!("train recipe.toml --run-dir plain {SHORT}"));
    let train = format!("train recipe.toml --run-dir sampled --set train.softmax-samples=1000 {SHORT}");
    let output = scratch.run(&train);
    let told = "losses of training are over about 1,000 tokens at a time";
    assert!(text(&output.stderr).contains(told), "{}", text(&output.stderr));
    assert_eq!(valid_losses(&scratch, "sampled"), valid_losses(&scratch, "plain"));
}

#[test]
fn every_strategy_changes_what_is_learned_and_the_log_says_how_much_of_the_text_was_read() {
    let scratch = Scratch::with_recipe();
    let losses = |run: &str, strategy: &str| {
        scratch.succeed(&format!("train recipe.toml --run-dir {run} {strategy} {SHORT}"));
        valid_losses(&scratch, run)
    };
    let plain = losses("plain", "");
    for (run, strategy) in [
        ("smooth", "--set train.label-smoothing=0.1"),
        ("sampled", "--set train.softmax-samples=12"),
        ("noisy", "--set train.gradient-noise=0.01"),
        ("faster", "--set train.gradient-noise=0.01 --set train.gradient-noise-gamma=2"),
        ("mixed", MIXED),
    ] {
        assert_ne!(losses(run, strategy), plain, "{run}");
    }
    assert_ne!(valid_losses(&scratch, "noisy"), valid_losses(&scratch, "faster"));
    let log = |run: &str| text(&scratch.read(&format!("{run}/metrics.jsonl")));
    assert!(!log("plain").contains("teacher_forcing"));
    // Steps 3 and 30, counted from 1.
    let mixed = log("mixed");
    assert!(mixed.contains("\"step\":3,") && mixed.contains("\"teacher_forcing\":0.9,"), "{mixed}");
    assert!(mixed.contains("\"teacher_forcing\":0.0,"), "{mixed}");
}
