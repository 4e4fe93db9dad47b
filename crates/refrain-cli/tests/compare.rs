//! `refrain compare`: models of equal parameters, side by side.

mod support;

use insta::assert_snapshot;
use serde_json::Value;
use support::{Scratch, names, text};

const SMALL: &str = "compare recipe.toml --output table --cells rnn,gru,transformer --layers 1,2 --seeds 1,2 --parameters 4000 \
                     --steps 6 --set-for transformer:model.num-heads=2 --set-for transformer:optimizer.learning-rate=0.003";

fn results(scratch: &Scratch) -> Value {
    serde_json::from_slice(&scratch.read("table/table.json")).expect("JSON")
}

/// What depends on no clock.
fn losses(results: &Value) -> Vec<(String, f64)> {
    let runs = results["runs"].as_array().expect("runs");
    let mut losses: Vec<(String, f64)> = runs
        .iter()
        .map(|run| {
            (
                run["name"].as_str().expect("a name").to_owned(),
                run["trained"]["best_loss_nats"].as_f64().expect("a loss"),
            )
        })
        .collect();
    losses.sort_by(|a, b| a.0.cmp(&b.0));
    losses
}

#[test]
fn models_of_equal_parameters_stand_under_the_floor() {
    let scratch = Scratch::with_recipe();
    let table = scratch.succeed(SMALL);
    assert_eq!(table, text(&scratch.read("table/table.md")));
    assert_eq!(names(&scratch.join("table")), ["table.json", "table.md"], "runs leave nothing else");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2 + 1 + 6, "{table}");
    assert!(lines[2].starts_with("| 5-grams, modified Kneser-Ney | | | | | "), "{table}");
    let all = results(&scratch);
    for run in all["runs"].as_array().expect("runs") {
        let parameters = run["parameters"].as_u64().expect("a number");
        assert!(parameters.abs_diff(4000) < 200, "{run}");
        assert_eq!(run["trained"]["steps"].as_u64(), Some(6));
    }
    let recipe = all["runs"][4]["recipe"].as_str().expect("a recipe");
    assert!(recipe.contains("cell = \"transformer\"") && recipe.contains("learning-rate = 0.003"), "{recipe}");
    assert!(recipe.contains("state = \"reset\""), "{recipe}");

    // What is there is not trained again, what is not is trained to the same loss.
    let output = scratch.run(SMALL);
    assert!(text(&output.stderr).contains("runs        0 to train, 12 there"), "{}", text(&output.stderr));
    assert_eq!(results(&scratch), all);
    let mut fewer = all.clone();
    fewer["runs"].as_array_mut().expect("runs").drain(3..7);
    scratch.write("table/table.json", fewer.to_string());
    scratch.succeed(SMALL);
    assert_eq!(losses(&results(&scratch)), losses(&all));

    assert_snapshot!(scratch.transcript(&format!("{SMALL} --set train.clip-norm=2")), @"
    exit status: 1
    [stderr]
    error: table/table.json: its results are of another comparison: rnn-1-seed1: train.clip-norm: 1.0 in the run, 2.0 in the recipe
    hint: choose another folder
    ");
    assert_snapshot!(scratch.transcript(&SMALL.replace("4000", "5000")), @"
    exit status: 1
    [stderr]
    error: table/table.json: its results are of another comparison: 4000 parameters there, 5000 here
    hint: choose another folder
    ");
}

#[test]
fn a_run_that_diverges_has_its_place_in_the_table() {
    let scratch = Scratch::with_recipe();
    let table = scratch.succeed(
        "compare recipe.toml --output table --cells gru,rnn-relu --layers 1 --seeds 1 --parameters 4000 --steps 6 \
         --set-for rnn-relu:optimizer.name=sgd --set-for rnn-relu:optimizer.learning-rate=1e30",
    );
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[3].starts_with("| gru | 1 |") && !lines[3].contains("diverged"), "{table}");
    assert!(lines[4].starts_with("| rnn-relu | 1 |") && lines[4].ends_with("| 1, 1 diverged | | | | |"), "{table}");
    assert_eq!(names(&scratch.join("table")), ["table.json", "table.md"]);
}

#[test]
fn what_cannot_be_compared_is_refused_in_a_line() {
    let scratch = Scratch::with_recipe();
    assert_snapshot!(scratch.transcript("compare recipe.toml --output table --cells lstm,bidirectional"), @"
    exit status: 1
    [stderr]
    error: a language model cannot be bidirectional: the backward direction has read the word that it must predict
    hint: leave it out of --cells
    ");
    assert_snapshot!(scratch.transcript("compare recipe.toml --output table --cells ltsm"), @"
    exit status: 1
    [stderr]
    error: unknown cell `ltsm`
    hint: did you mean `lstm`?
    ");
    assert_snapshot!(scratch.transcript("compare recipe.toml --output table --parameters 300"), @"
    exit status: 1
    [stderr]
    error: no 1-layer rnn has about 300 parameters: the nearest has 540
    hint: give another --parameters, or set model.embedding-size: the embedding is counted too
    ");
    assert_snapshot!(scratch.transcript("compare recipe.toml --output table --set-for gru"), @"
    exit status: 1
    [stderr]
    error: --set-for gru: there is no `:`
    hint: write it as --set-for CELL:table.key=value, such as gru:optimizer.learning-rate=0.002
    ");
    assert_snapshot!(scratch.transcript("compare recipe.toml --output table --cells gru --set-for lstm:seed=1"), @"
    exit status: 1
    [stderr]
    error: --set-for lstm:seed=1: lstm is not compared
    hint: add it to --cells
    ");
    assert_snapshot!(
        scratch.transcript("compare recipe.toml --output table --cells gru --set-for gru:model.forget-bias=1"),
        @r#"
    exit status: 1
    [stderr]
    error: unknown key `forget-bias` in [model], --set model.forget-bias=1
    hint: `forget-bias` is for cell = "lstm"
    "#
    );
    assert_eq!(names(scratch.path()), ["corpus.txt", "recipe.toml"]);
}
