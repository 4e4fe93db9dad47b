//! Every cell in either precision: trained, resumed to the same bytes, scored, and generated from.

mod support;

use std::fs;

use insta::assert_snapshot;
use support::{PLAIN, Scratch, assert_same_outcome, copy_folder, text};

/// Ends between two evaluations, so that the state that is carried then is not that of an epoch's beginning.
const SHORT: &str = "--set train.max-steps=20";

fn assert_trains_and_resumes(cell: &str, precision: &str) {
    let scratch = Scratch::with_recipe();
    let chosen = format!("--set model.cell={cell} --set model.precision={precision}");
    let sample = scratch.succeed(&format!("train recipe.toml --run-dir run {chosen} {SHORT}"));
    assert!(!sample.is_empty());

    assert_resumes(&scratch);

    let info = scratch.succeed("info run");
    assert!(info.contains(&format!("2 {cell} × 19, embedding 8, products in {precision}\n")), "{info}");
    let score = scratch.succeed("evaluate run corpus.txt --json");
    let score: serde_json::Value = serde_json::from_str(&score).expect("JSON");
    let loss = score["loss_nats"].as_f64().expect("a number");
    // After twenty steps it knows the characters' frequencies at least; ln 53 = 3.97. But the rectifier bounds nothing: over
    // a text many windows long its state may grow, and the loss with it.
    assert!(loss.is_finite() && (loss < 3.7 || cell == "rnn-relu"), "{cell} {precision}: {loss}");
    let generate = "generate run --prompt ROMEO: --tokens 50 --seed 3";
    let written = scratch.succeed(generate);
    assert!(written.starts_with("ROMEO:") && written.chars().count() == 57, "{written}");
    assert_eq!(scratch.succeed(generate), written);
}

/// As if the save after the last step of `run` had been cut off: the run goes on from the one before.
fn assert_resumes(scratch: &Scratch) {
    copy_folder(&scratch.join("run"), &scratch.join("resumed"));
    fs::remove_dir_all(scratch.join("resumed/last")).expect("a folder");
    scratch.succeed("train --resume resumed");
    assert_same_outcome(&scratch.join("resumed"), &scratch.join("run"));
}

#[test]
fn a_transformer_is_trained_and_resumed_and_writes_beyond_its_context() {
    let scratch = Scratch::with_recipe();
    let chosen = "--set model.cell=transformer --set model.hidden-size=16 --set model.num-heads=2";
    for (run, positions, precision) in [("run", "rotary", "f32"), ("learned", "learned", "bf16")] {
        let kinds = format!("--set model.positions={positions} --set model.precision={precision}");
        scratch.succeed(&format!("train recipe.toml --run-dir {run} {chosen} {kinds} {SHORT}"));
    }
    assert_resumes(&scratch);
    scratch.succeed(&format!("train recipe.toml --run-dir again {chosen} {SHORT} {PLAIN}"));
    scratch.succeed(&format!("train recipe.toml --run-dir twice {chosen} {SHORT} --threads 2 --kernel portable"));
    assert_same_outcome(&scratch.join("twice"), &scratch.join("again"));
    let info = scratch.succeed("info learned");
    assert!(info.contains("2 transformer × 16, embedding 16, products in bf16\n"), "{info}");
    assert!(info.contains("2 heads, positions learned, context of 16\n"), "{info}");
    for run in ["run", "learned"] {
        let score = scratch.succeed(&format!("evaluate {run} corpus.txt --json"));
        let score: serde_json::Value = serde_json::from_str(&score).expect("JSON");
        let loss = score["loss_nats"].as_f64().expect("a number");
        assert!(loss.is_finite() && loss < 3.7, "{loss}");
        let generate = format!("generate {run} --prompt ROMEO: --tokens 50 --seed 3");
        let written = scratch.succeed(&generate);
        assert!(written.starts_with("ROMEO:") && written.chars().count() == 57, "{written}");
        assert_eq!(scratch.succeed(&generate), written);
    }
    // The prompt's 18 characters, and the new line that it begins after.
    assert_snapshot!(scratch.transcript("generate run --prompt ROMEO:ROMEO:ROMEO: --tokens 0"), @"
    exit status: 0
    [stdout]
    ROMEO:ROMEO:ROMEO:

    [stderr]
    note: the prompt has 19 tokens, and the model sees 16 at once: it goes on from the last of them alone
    ");
    let fits = scratch.run("generate run --prompt ROMEO:ROMEO:ROM --tokens 0");
    assert_eq!(text(&fits.stderr), "");
}

#[test]
fn what_a_transformer_does_not_have_is_refused_by_name() {
    let scratch = Scratch::with_recipe();
    let chosen = "--set model.cell=transformer --set model.hidden-size=16 --set model.num-heads=2";
    let refused = |set: &str| {
        let output = scratch.run(&format!("train recipe.toml {chosen} {set}"));
        assert!(!output.status.success());
        text(&output.stderr)
    };
    assert_snapshot!(refused("--set train.state=carry"), @r#"
    error: `train.state` = "carry" does not go with `model.cell` = "transformer", which has no state of one size to carry from window to window, --set train.state=carry
    hint: leave it out, or set train.state = "reset"
    "#);
    assert_snapshot!(refused("--set model.zoneout-hidden=0.1"), @r#"
    error: unknown key `zoneout-hidden` in [model], --set model.zoneout-hidden=0.1
    hint: `zoneout-hidden` is for cell = "lstm" or "gru" or "min-gru" or "rnn" or "rnn-relu"
    "#);
    assert_snapshot!(refused("--set model.memory=10"), @r#"
    error: unknown key `memory` in [model], --set model.memory=10
    hint: `memory` is for cell = "lstm" or "gru" or "min-gru" or "rnn" or "rnn-relu"
    "#);
    assert_snapshot!(refused("--set model.num-heads=3"), @"
    error: `model.hidden-size` 16 cannot be cut into `model.num-heads` 3 heads of pairs of features, --set model.num-heads=3
    hint: set model.hidden-size = 18, a multiple of 6
    ");
    assert_snapshot!(refused("--set model.context=8"), @"
    error: windows of `train.seq-len` 16 do not fit the `model.context` of 8, --set model.context=8
    hint: set train.seq-len = 8, or leave context out, which is then as long
    ");
    assert_snapshot!(refused("--set model.embedding-size=16"), @r#"
    error: unknown key `embedding-size` in [model], --set model.embedding-size=16
    hint: `embedding-size` is for cell = "lstm" or "gru" or "min-gru" or "rnn" or "rnn-relu"
    "#);
    scratch.succeed(&format!("train recipe.toml --run-dir run {chosen} --set train.max-steps=2"));
    assert_snapshot!(scratch.transcript("gates run --text ROMEO"), @"
    exit status: 1
    [stderr]
    error: run is a transformer, which has no gates
    hint: draw a recurrent model
    ");
    assert_snapshot!(scratch.transcript("quantize run corpus.txt --output int8.safetensors"), @"
    exit status: 1
    [stderr]
    error: run/best.safetensors: a transformer has no weights in int8; only recurrent models do
    hint: go on with the model as it is
    ");
}

#[test]
fn averages_are_resumed() {
    let scratch = Scratch::with_recipe();
    // So high a rate that the loss soon stops falling.
    let chosen = "--set optimizer.name=asgd --set optimizer.learning-rate=30 --set optimizer.non-monotone=1";
    let output = scratch.run(&format!("train recipe.toml --run-dir run {chosen}"));
    assert!(text(&output.stderr).contains("weights are averaged from here on"), "{}", text(&output.stderr));
    assert_resumes(&scratch);
}

#[test]
fn every_option_of_a_layer_is_resumed() {
    let scratch = Scratch::with_recipe();
    let options = "--set model.normalization=layer --set model.projection-size=11 --set model.peepholes=true \
                   --set model.zoneout-hidden=0.1 --set model.zoneout-cell=0.2 --set model.weight-drop=0.3 \
                   --set model.recurrent-dropout=0.1 --set model.hidden-dropout=0.2 --set model.variational-dropout=true \
                   --set model.token-dropout=0.1 --set train.activation-regularisation=2 \
                   --set train.temporal-activation-regularisation=1";
    scratch.succeed(&format!("train recipe.toml --run-dir run {options} {SHORT}"));
    assert_resumes(&scratch);
    let written = scratch.succeed("generate run --prompt ROMEO: --tokens 50");
    assert!(written.starts_with("ROMEO:") && written.chars().count() == 57, "{written}");
}

#[test]
fn a_gru_is_trained_and_resumed() {
    assert_trains_and_resumes("gru", "f32");
    assert_trains_and_resumes("gru", "bf16");
}

#[test]
fn a_minimal_gru_is_trained_and_resumed() {
    assert_trains_and_resumes("min-gru", "f32");
    assert_trains_and_resumes("min-gru", "bf16");
}

#[test]
fn a_simple_recurrence_is_trained_and_resumed() {
    assert_trains_and_resumes("rnn", "f32");
    assert_trains_and_resumes("rnn", "bf16");
}

#[test]
fn a_simple_recurrence_with_the_rectifier_is_trained_and_resumed() {
    assert_trains_and_resumes("rnn-relu", "f32");
    assert_trains_and_resumes("rnn-relu", "bf16");
}

#[test]
fn an_lstm_in_bf16_is_trained_and_resumed() {
    assert_trains_and_resumes("lstm", "bf16");
}

#[test]
fn the_precision_is_that_of_the_model_and_emulation_is_said() {
    let scratch = Scratch::with_recipe();
    let output = scratch.run(&format!(
        "train recipe.toml --run-dir run --set model.cell=gru --set model.precision=bf16 --set train.max-steps=2 {PLAIN}"
    ));
    let log = text(&output.stderr);
    let shown: Vec<&str> = log
        .lines()
        .filter(|line| ["recurrent", "model ", "computing"].iter().any(|head| line.starts_with(head)))
        .collect();
    assert_snapshot!(shown.join("\n"), @"
    recurrent.layers.0.weight_ih          57 × 8          456
    recurrent.layers.0.weight_hh         57 × 19        1,083
    recurrent.layers.0.bias                   76           76
    recurrent.layers.1.weight_ih         57 × 19        1,083
    recurrent.layers.1.weight_hh         57 × 19        1,083
    recurrent.layers.1.bias                   76           76
    model       2 gru × 19, 5,341 parameters, f32
    computing   1 thread, kernel portable (asked for by --kernel); products in bf16, emulated: there are no fast instructions for it here, f32 trains as fast
    ");
    let output = scratch.run(&format!("evaluate run corpus.txt {PLAIN}"));
    assert_snapshot!(text(&output.stderr), @"corpus.txt: utf-8 (valid UTF-8); 1 thread, kernel portable (asked for by --kernel); products in bf16, emulated: there are no fast instructions for it here, f32 trains as fast");
}

#[test]
fn another_cell_on_the_command_line_sets_aside_what_it_does_not_have() {
    let scratch = Scratch::new();
    scratch.write("recipe.toml", "[model]\nhidden-size = 19\nforget-bias = 2\n");
    let dumped = scratch.succeed("train recipe.toml --set model.cell=rnn-relu --dump-config");
    let model = dumped.split("\n\n").find(|table| table.starts_with("[model]")).expect("a table");
    assert_snapshot!(model, @r#"
    [model]
    cell = "rnn-relu"
    embedding-size = 128
    hidden-size = 19
    num-layers = 2
    tied-embeddings = false
    dropout = 0.0
    embedding-dropout = 0.0
    output-dropout = 0.0
    variational-dropout = false
    token-dropout = 0.0
    hidden-dropout = 0.0
    weight-drop = 0.0
    zoneout-hidden = 0.0
    normalization = "none"
    init-range = 0.0
    embedding-init-range = 0.0
    memory = "all"
    precision = "f32"
    "#);
    assert_snapshot!(scratch.transcript("train recipe.toml --set model.cell=grru"), @r#"
    exit status: 1
    [stderr]
    error: `model.cell` must be one of `lstm`, `gru`, `min-gru`, `rnn`, `rnn-relu`, `transformer`, found the text "grru", --set model.cell=grru
    hint: did you mean `gru`?
    "#);
    scratch.write("gru.toml", "[model]\ncell = \"gru\"\nforget-bias = 2\n");
    assert_snapshot!(scratch.transcript("train gru.toml"), @r#"
    exit status: 1
    [stderr]
    error: unknown key `forget-bias` in [model], gru.toml:3
    hint: `forget-bias` is for cell = "lstm"
    "#);
}
