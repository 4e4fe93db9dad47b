//! `refrain quantize`: what it writes is the model that it scored, and a model that int8 ruins is not written.

mod support;

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use insta::assert_snapshot;
use refrain::decode::{Filters, Streams, prompt_tokens};
use refrain::kernels::{Engine, Isa, WeightFormat};
use refrain::models::{Artefact, LanguageModelStepper, TrainedModel};
use serde_json::Value;
use support::{PLAIN, Scratch, names, shakespeare, text, transcript};

/// With a small model in `run/` and a text that it was not trained on.
fn with_run() -> Scratch {
    let scratch = Scratch::with_run();
    scratch.write("text.txt", &shakespeare(9000)[6000..]);
    scratch
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn read(path: &Path) -> TrainedModel {
    TrainedModel::read(path, &Device::flex()).expect("a sound model file")
}

/// `#` for every number of the lines that begin with one of these words.
fn masked(output: &str, beginnings: &[&str]) -> String {
    let line = |line: &str| {
        if !beginnings.iter().any(|beginning| line.starts_with(beginning)) {
            return line.to_owned();
        }
        let mut masked = String::new();
        let mut chars = line.chars().peekable();
        while let Some(ch) = chars.next() {
            let in_number = masked.ends_with('#');
            let digit_follows = chars.peek().is_some_and(char::is_ascii_digit);
            match ch {
                '0'..='9' if in_number => {}
                '0'..='9' if !masked.ends_with(char::is_alphabetic) => masked.push('#'),
                '.' | ',' if in_number && digit_follows => {}
                other => masked.push(other),
            }
        }
        masked
    };
    output.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_report_says_what_the_rounding_cost_and_what_it_saved() {
    let scratch = with_run();
    let output = scratch.run(&format!("quantize run text.txt --output int8.safetensors {PLAIN}"));
    assert_snapshot!(masked(&text(&output.stdout), &["perplexity", "file"]).replace("(-#", "(+#"), @"
    perplexity      # → # per token (+# %), over # tokens
    file            # → # bytes
    int8            5 of 9 tensors, 5,947 of 6,576 parameters
    written         int8.safetensors
    unknown         4 characters (0.13 %), scored as <unk>
    ");
    assert_snapshot!(text(&output.stderr), @"text.txt: utf-8 (valid UTF-8); 1 thread, kernel portable (asked for by --kernel)");
    assert_eq!(names(scratch.path()), ["corpus.txt", "int8.safetensors", "recipe.toml", "run", "text.txt"]);

    // From stdin the same, as JSON.
    let mut command = scratch.refrain(&format!("quantize run - --json --output again.safetensors {PLAIN}"));
    let stdin = fs::File::open(scratch.join("text.txt")).expect("it was written");
    let line = json(&text(&command.stdin(stdin).output().expect("the command starts").stdout));
    let keys: Vec<&str> = line.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_snapshot!(keys.join(" "), @"bytes_after bytes_before encoding model output parameters parameters_int8 perplexity_after perplexity_before rise_percent tensors tensors_int8 text tokens unknown");
    assert_eq!(scratch.read("again.safetensors"), scratch.read("int8.safetensors"));
    let number = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} of {line}"));
    let rise = 100.0 * (number("perplexity_after") / number("perplexity_before") - 1.0);
    assert!((number("rise_percent") - rise).abs() < 1e-6 && rise.abs() < 1.0, "{line}");
    let sizes = ["run/best.safetensors", "int8.safetensors"].map(|name| scratch.read(name).len() as u64);
    assert_eq!(["bytes_before", "bytes_after"].map(|key| line[key].as_u64()), sizes.map(Some));
    let counts = ["tensors", "tensors_int8", "parameters", "parameters_int8", "unknown"];
    assert_eq!(counts.map(|key| line[key].as_u64()), [9, 5, 6576, 5947, 4].map(Some));
    assert_eq!(line["model"], "run/best.safetensors", "{line}");
}

#[test]
fn the_file_scores_as_was_reported_and_the_report_is_of_the_model_before_as_it_scores() {
    let scratch = with_run();
    for precision in ["f32", "bf16"] {
        scratch.succeed(&format!(
            "train recipe.toml --run-dir {precision} --set train.max-steps=20 --set model.precision={precision}"
        ));
        let output = format!("{precision}.safetensors");
        let report = json(&scratch.succeed(&format!("quantize {precision} text.txt --json --output {output} {PLAIN}")));
        let score = |model: &str| json(&scratch.succeed(&format!("evaluate {model} text.txt --json {PLAIN}")));
        assert_eq!(score(precision)["perplexity"], report["perplexity_before"], "{precision}");
        assert_eq!(score(&output)["perplexity"], report["perplexity_after"], "{precision}");
        assert_ne!(report["perplexity_before"], report["perplexity_after"], "{precision}");
        let shown = scratch.transcript(&format!("evaluate {output} text.txt {PLAIN}"));
        assert!(shown.contains("kernel portable (asked for by --kernel); weights in int8\n"), "{shown}");
    }
}

#[test]
fn info_shows_which_tensors_are_in_int8() {
    let scratch = with_run();
    scratch.succeed("quantize run text.txt --output int8.safetensors");
    let shown = scratch.succeed("info int8.safetensors");
    let tensors: Vec<&str> = shown
        .lines()
        .skip_while(|line| !line.starts_with("model"))
        .take_while(|line| !line.starts_with("vocabulary"))
        .collect();
    assert_snapshot!(tensors.join("\n"), @"
    model        2 lstm × 19, embedding 8, products in f32
    parameters   6,576, 5,947 of them int8, 629 f32
      embedding.weight              53 × 8
      recurrent.layers.0.weight_ih  76 × 8, int8
      recurrent.layers.0.weight_hh  76 × 19, int8
      recurrent.layers.0.bias       76
      recurrent.layers.1.weight_ih  76 × 19, int8
      recurrent.layers.1.weight_hh  76 × 19, int8
      recurrent.layers.1.bias       76
      head.weight                   53 × 19, int8
      head.bias                     53
    ");
    let info = json(&scratch.succeed("info int8.safetensors --json"));
    let dtypes = info["tensors"].as_array().expect("an array").iter().map(|tensor| tensor["dtype"].as_str());
    let dtypes: Vec<&str> = dtypes.map(|dtype| dtype.expect("a string")).collect();
    assert_eq!(dtypes, ["f32", "int8", "int8", "f32", "int8", "int8", "f32", "int8", "f32"]);
    assert_eq!(info["parameters"], 6576);
    let recipe = scratch.succeed("info int8.safetensors --recipe");
    assert_eq!(recipe.as_bytes(), scratch.read("run/config.toml"), "it was trained as it was");
}

#[test]
fn the_file_writes_the_text_of_the_weights_quantised_in_memory() {
    let scratch = with_run();
    scratch.succeed("quantize run text.txt --output int8.safetensors");
    let original = read(&scratch.join("run/best.safetensors"));
    let prompt = prompt_tokens(&original.vocabulary, "ROMEO:");
    let filters = Filters::new();
    Engine::set_current(Engine::new(Isa::Portable, 1).expect("every machine has it"));
    let in_memory = |format: WeightFormat, seed: u64| {
        let stepper = LanguageModelStepper::with_format(&original.model, format);
        let tokens: Vec<u32> = Streams::new(&stepper, &prompt, &filters, seed, [0]).take(400).flatten().collect();
        format!("ROMEO:{}\n", original.vocabulary.decode(&tokens))
    };
    let mut differing = 0;
    for seed in 1..=5 {
        let generate = format!("generate int8.safetensors --prompt ROMEO: --tokens 400 --temperature 1 --seed {seed}");
        let written = scratch.succeed(&format!("{generate} {PLAIN}"));
        assert_eq!(written, in_memory(WeightFormat::Int8, seed), "seed {seed}");
        differing += usize::from(written != in_memory(WeightFormat::F32, seed));
    }
    assert!(differing > 0, "the rounding shows somewhere in 2,000 characters");
}

/// The run's model with a weight of 1,000 more in every row of its head, all of them for one hidden unit: it adds one number
/// to all scores, which softmax takes out again, and makes the step of every row larger than all its other weights.
fn write_with_outliers(scratch: &Scratch, name: &str) {
    let mut trained = read(&scratch.join("run/best.safetensors"));
    let mut tensors = trained.model.to_tensors();
    let head = tensors.iter_mut().find(|tensor| tensor.name == "head.weight").expect("a head");
    for row in head.values.chunks_mut(head.shape[1]) {
        row[0] += 1000.0;
    }
    trained.model = trained.model.with_tensors(&Artefact::new(tensors, [].into())).expect("the same shapes");
    trained.to_artefact().write(&scratch.join(name)).expect("written");
}

#[test]
fn a_model_that_int8_ruins_is_not_written() {
    let scratch = with_run();
    write_with_outliers(&scratch, "outliers.safetensors");
    let perplexity = |model: &str| {
        let score = json(&scratch.succeed(&format!("evaluate {model} text.txt --json {PLAIN}")));
        score["perplexity"].as_f64().expect("a number")
    };
    let sound = perplexity("run");
    assert!((perplexity("outliers.safetensors") / sound - 1.0).abs() < 0.01, "in f32 it predicts as well");

    let before = names(scratch.path());
    let quantize = format!("quantize outliers.safetensors text.txt --output int8.safetensors {PLAIN}");
    let refusal = scratch.transcript(&quantize);
    assert_snapshot!(masked(&refusal, &["error"]), @"
    exit status: 1
    [stderr]
    text.txt: utf-8 (valid UTF-8); 1 thread, kernel portable (asked for by --kernel)
    error: int8 raises the perplexity on text.txt from # to #, by # %; at most # % is allowed
    hint: int8.safetensors was not written; go on with the model as it is
    ");
    let error = refusal.lines().find(|line| line.starts_with("error")).expect("a message");
    let numbers: Vec<f64> =
        error.split_whitespace().filter_map(|word| word.trim_end_matches(',').parse().ok()).collect();
    let [before_rounding, after_rounding, rise, limit] = numbers[..] else { panic!("{error}") };
    assert!((before_rounding / sound - 1.0).abs() < 0.01 && (limit - 1.0).abs() < 1e-9 && rise > 1.0, "{error}");
    assert!((100.0 * (after_rounding / before_rounding - 1.0) - rise).abs() < 0.02, "{error}");
    // As JSON the error is the same, and there is no JSON.
    assert_eq!(scratch.transcript(&format!("{quantize} --json")), refusal);
    assert_eq!(names(scratch.path()), before, "a refusal left something behind");
}

#[test]
fn nothing_that_exists_is_written_over() {
    let scratch = with_run();
    let model = scratch.read("run/best.safetensors");
    assert_snapshot!(scratch.transcript("quantize run text.txt --output run/best.safetensors"), @"
    exit status: 1
    [stderr]
    error: run/best.safetensors exists already
    hint: choose another name, or remove it first
    ");
    assert_eq!(scratch.read("run/best.safetensors"), model);
    assert_snapshot!(scratch.transcript("quantize run text.txt --output run"), @"
    exit status: 1
    [stderr]
    error: run exists already
    hint: choose another name, or remove it first
    ");
    assert_snapshot!(scratch.transcript("quantize run text.txt --output none/int8.safetensors"), @"
    exit status: 1
    [stderr]
    error: cannot write none/int8.safetensors: no such file or folder
    hint: check the spelling, and that none exists
    ");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", scratch.join("link")).expect("linked");
        let refused = scratch.run("quantize run text.txt --output link");
        assert!(text(&refused.stderr).starts_with("error: link exists already\n"), "{}", transcript(&refused));
        assert!(!scratch.join("nowhere").exists());
    }
}

#[test]
fn what_cannot_be_quantised_is_named() {
    let scratch = with_run();
    scratch.succeed("quantize run text.txt --output int8.safetensors");
    scratch.write("one.txt", "x");
    scratch.write("stray.txt", b"to be or not to be\xff");
    let before = names(scratch.path());
    assert_snapshot!(scratch.transcript("quantize int8.safetensors text.txt --output again.safetensors"), @"
    exit status: 1
    [stderr]
    error: int8.safetensors: the weights are in int8 already
    hint: quantise the model file that it was made from
    ");
    assert_snapshot!(scratch.transcript("quantize missing.safetensors text.txt --output b.safetensors"), @"
    exit status: 1
    [stderr]
    error: missing.safetensors: no such file
    hint: check the spelling and the folder
    ");
    assert_snapshot!(scratch.transcript("quantize corpus.txt text.txt --output b.safetensors"), @"
    exit status: 1
    [stderr]
    error: corpus.txt: is not a safetensors file, it looks like text
    hint: Refrain reads .safetensors files
    ");
    assert_snapshot!(scratch.transcript("quantize run missing.txt --output b.safetensors"), @"
    exit status: 1
    [stderr]
    error: cannot read missing.txt: no such file or folder
    hint: check the spelling
    ");
    assert_snapshot!(scratch.transcript("quantize run stray.txt --output b.safetensors"), @"
    exit status: 1
    [stderr]
    error: stray.txt: not valid utf-8: byte 0xFF at byte offset 18
    hint: repair the file, or name its encoding with --encoding
    ");
    assert_snapshot!(scratch.transcript(&format!("quantize run one.txt --output b.safetensors {PLAIN}")), @"
    exit status: 1
    [stderr]
    one.txt: utf-8 (valid UTF-8); 1 thread, kernel portable (asked for by --kernel)
    error: one.txt: the text has 1 tokens; at least 2 are needed, since nothing comes before the first
    ");
    assert_snapshot!(scratch.transcript("quantize run text.txt"), @"
    exit status: 2
    [stderr]
    error: the following required arguments were not provided:
      --output <FILE>

    Usage: refrain quantize --output <FILE> <MODEL> <TEXT>

    For more information, try '--help'.
    ");
    assert_eq!(names(scratch.path()), before, "a refusal left something behind");
}
