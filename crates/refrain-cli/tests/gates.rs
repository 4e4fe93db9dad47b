//! Pictures of the gates.

mod support;

use insta::assert_snapshot;
use support::{PLAIN, Scratch, text, transcript};

fn draw(scratch: &Scratch, prompt: &str, more: &str) -> std::process::Output {
    let mut command = scratch.refrain(&format!("gates run {PLAIN} {more}"));
    command.args(["--text", prompt]).output().expect("the command starts")
}

#[test]
fn every_gate_and_state_has_a_heat_map_and_the_same_bytes_each_time() {
    let scratch = Scratch::with_run();
    let drawn = draw(&scratch, "Speak, speak.", "--layer 2 --units 5");
    let svg = text(&drawn.stdout);
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    assert!(svg.contains("Layer 2 of 2: lstm × 19") && svg.contains("5 of 19 units"), "{svg}");
    for name in ["input gate", "forget gate", "candidate", "output gate", "cell state", "hidden state"] {
        assert_eq!(svg.matches(&format!(">{name}: ")).count(), 1, "{name}");
    }
    let written = draw(&scratch, "Speak, speak.", "--layer 2 --units 5 --output gates.svg");
    assert_eq!(transcript(&written), "exit status: 0");
    assert_eq!(text(&scratch.read("gates.svg")), svg);
}

#[test]
fn a_projected_hidden_state_has_rows_of_its_own() {
    let scratch = Scratch::with_recipe();
    scratch.succeed("train recipe.toml --run-dir run --set model.projection-size=3 --set train.max-steps=2");
    let svg = draw(&scratch, "Speak", "--units 5").stdout;
    let svg = text(&svg);
    assert_eq!(svg.matches(">hidden state: the projection").count(), 1, "{svg}");
    assert_eq!((svg.matches("\"#axes\"").count(), svg.matches("\"#axes-2\"").count()), (5, 1), "{svg}");
    let json: serde_json::Value = serde_json::from_slice(&draw(&scratch, "Speak", "--json").stdout).expect("JSON");
    let sizes = ["output", "cell_state", "hidden"].map(|name| json["values"][name][5].as_array().map(Vec::len));
    assert_eq!(sizes, [Some(19), Some(19), Some(3)]);
}

#[test]
fn values_come_as_json_by_name_character_and_unit() {
    let scratch = Scratch::with_run();
    let json: serde_json::Value = serde_json::from_slice(&draw(&scratch, "Speak", "--json").stdout).expect("JSON");
    assert_eq!((&json["text"], &json["layer"]), (&"\nSpeak".into(), &1.into()));
    let values = json["values"].as_object().expect("an object");
    assert_eq!(values.len(), 6);
    for (name, values) in values {
        let steps = values.as_array().expect("an array");
        assert_eq!((steps.len(), steps[0].as_array().map(Vec::len)), (6, Some(19)), "{name}");
    }
    let number = |name: &str| values[name][5][18].as_f64().expect("a number");
    let hidden = number("output") * number("cell_state").tanh();
    assert!((number("hidden") - hidden).abs() < 1e-5, "h = o ∘ tanh(c)");
}

#[test]
fn mistakes_are_one_line_and_a_hint() {
    let scratch = Scratch::with_run();
    scratch.write("there.svg", "mine");
    let mistake = |prompt: &str, more: &str| transcript(&draw(&scratch, prompt, more));
    assert_snapshot!(mistake("", ""), @"
    exit status: 1
    [stderr]
    error: the text is empty
    hint: give at least one character
    ");
    assert_snapshot!(mistake(&"long ".repeat(41), ""), @"
    exit status: 1
    [stderr]
    error: the text is of 205 characters, but a picture shows at most 200
    hint: give a shorter one, such as one sentence
    ");
    assert_snapshot!(mistake("née", ""), @"
    exit status: 1
    [stderr]
    error: the model does not know these characters of the text: 'é' (U+00E9, line 1 column 2)
    hint: leave them out; `refrain info` shows those that it knows
    ");
    assert_snapshot!(mistake("Speak", "--layer 3"), @"
    exit status: 1
    [stderr]
    error: --layer 3: the model has 2 recurrent layers
    hint: they are counted from 1, the lowest
    ");
    assert_snapshot!(mistake("Speak", "--output there.svg"), @"
    exit status: 1
    [stderr]
    error: there.svg exists already
    hint: choose another name, or remove it first
    ");
    assert_snapshot!(mistake("Speak", "--output nowhere/gates.svg"), @"
    exit status: 1
    [stderr]
    error: cannot write nowhere/gates.svg: no such file or folder
    hint: check the spelling, and that nowhere exists
    ");
    assert_snapshot!(mistake("Speak", "--json --units 5"), @"
    exit status: 2
    [stderr]
    error: the argument '--json' cannot be used with '--units <N>'

    Usage: refrain gates --text <TEXT> --threads <N> --kernel <NAME> --json <MODEL>

    For more information, try '--help'.
    ");
    assert_eq!(scratch.read("there.svg"), b"mine");
}
