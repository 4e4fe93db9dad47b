//! What each command prints when all is well.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;

use insta::assert_snapshot;
use serde_json::Value;
use support::{PLAIN, RECIPE, Scratch, names, shakespeare, text, transcript};

/// The output of a command that reads `input` on stdin.
fn fed(scratch: &Scratch, arguments: &str, input: &[u8]) -> String {
    let mut command = scratch.refrain(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("it is read");
    let output = child.wait_with_output().expect("a child");
    assert!(output.status.success(), "{}", transcript(&output));
    text(&output.stdout)
}

fn json(line: &str) -> BTreeMap<String, Value> {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn number(record: &BTreeMap<String, Value>, key: &str) -> f64 {
    record[key].as_f64().unwrap_or_else(|| panic!("{key} of {record:?}"))
}

fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{found} is not {expected}");
}

/// A line whose numbers were measured: `#` for each, one space between words.
fn measured(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let is_part = |ch: char| ch.is_ascii_digit() || ",.e-:".contains(ch);
        let number: String = word.chars().take_while(|&ch| is_part(ch)).collect();
        if number.contains(|ch: char| ch.is_ascii_digit()) {
            format!("#{}", &word[number.len()..])
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
#[expect(clippy::too_many_lines, reason = "the recipe is as long")]
fn the_dumped_recipe_is_complete_and_dumps_as_itself() {
    let scratch = Scratch::new();
    let dumped = scratch.succeed("train --dump-config");
    assert_snapshot!(dumped, @r#"
    task = "language-model"
    seed = 1

    [data]
    train = "builtin:shakespeare"
    valid = ""
    valid-fraction = 0.1
    encoding = "auto"
    tokens = "char"
    min-count = 1
    max-vocab-size = 0
    closed-vocabulary = false

    [model]
    cell = "lstm"
    embedding-size = 128
    hidden-size = 256
    num-layers = 2
    tied-embeddings = false
    dropout = 0.0
    embedding-dropout = 0.0
    output-dropout = 0.0
    variational-dropout = false
    token-dropout = 0.0
    hidden-dropout = 0.0
    recurrent-dropout = 0.0
    weight-drop = 0.0
    zoneout-hidden = 0.0
    zoneout-cell = 0.0
    normalization = "none"
    peepholes = false
    coupled-gates = false
    projection-size = 0
    forget-bias = 1.0
    init-range = 0.0
    embedding-init-range = 0.0
    memory = "all"
    precision = "f32"

    [train]
    batch-size = 32
    seq-len = 128
    epochs = 5
    max-steps = 0
    state = "carry"
    accumulate = 1
    clip-norm = 1.0
    clip-value = 0.0
    activation-regularisation = 0.0
    temporal-activation-regularisation = 0.0
    label-smoothing = 0.0
    softmax-samples = 0
    gradient-noise = 0.0
    gradient-noise-gamma = 0.55
    eval-every = 0
    eval-batch-size = 16
    log-every = 10
    sample-every = 0
    checkpoint-every = 0
    patience = 0
    floor = true

    [teacher-forcing]
    name = "constant"
    probability = 1.0
    choice = "sampled"

    [optimizer]
    name = "adamw"
    learning-rate = 0.004
    betas = [0.9, 0.99]
    epsilon = 1e-8
    weight-decay = 0.01

    [schedule]
    name = "cosine"
    warmup-steps = 50
    min-factor = 0.02

    [sample]
    prompt = "\n"
    tokens = 400
    repetition-penalty = 1.0
    presence-penalty = 0.0
    frequency-penalty = 0.0
    no-repeat-ngram = 0
    temperature = 0.8
    top-k = 0
    top-p = 1.0
    min-p = 0.0
    typical-p = 1.0
    epsilon-cutoff = 0.0
    "#);
    scratch.write("dumped.toml", &dumped);
    assert_eq!(scratch.succeed("train dumped.toml --dump-config"), dumped);
    assert_snapshot!(scratch.succeed("train dumped.toml --dump-config --json"), @r#"{"data":{"closed-vocabulary":false,"encoding":"auto","max-vocab-size":0,"min-count":1,"tokens":"char","train":"builtin:shakespeare","valid":"","valid-fraction":0.1},"model":{"cell":"lstm","coupled-gates":false,"dropout":0.0,"embedding-dropout":0.0,"embedding-init-range":0.0,"embedding-size":128,"forget-bias":1.0,"hidden-dropout":0.0,"hidden-size":256,"init-range":0.0,"memory":"all","normalization":"none","num-layers":2,"output-dropout":0.0,"peepholes":false,"precision":"f32","projection-size":0,"recurrent-dropout":0.0,"tied-embeddings":false,"token-dropout":0.0,"variational-dropout":false,"weight-drop":0.0,"zoneout-cell":0.0,"zoneout-hidden":0.0},"optimizer":{"betas":[0.9,0.99],"epsilon":1e-8,"learning-rate":0.004,"name":"adamw","weight-decay":0.01},"sample":{"epsilon-cutoff":0.0,"frequency-penalty":0.0,"min-p":0.0,"no-repeat-ngram":0,"presence-penalty":0.0,"prompt":"\n","repetition-penalty":1.0,"temperature":0.8,"tokens":400,"top-k":0,"top-p":1.0,"typical-p":1.0},"schedule":{"min-factor":0.02,"name":"cosine","warmup-steps":50},"seed":1,"task":"language-model","teacher-forcing":{"choice":"sampled","name":"constant","probability":1.0},"train":{"accumulate":1,"activation-regularisation":0.0,"batch-size":32,"checkpoint-every":0,"clip-norm":1.0,"clip-value":0.0,"epochs":5,"eval-batch-size":16,"eval-every":0,"floor":true,"gradient-noise":0.0,"gradient-noise-gamma":0.55,"label-smoothing":0.0,"log-every":10,"max-steps":0,"patience":0,"sample-every":0,"seq-len":128,"softmax-samples":0,"state":"carry","temporal-activation-regularisation":0.0}}"#);

    let changed = scratch.succeed(
        "train dumped.toml --dump-config --set model.hidden-size=32 --set optimizer.name=sgd --set optimizer.momentum=0.9 \
         --set schedule.name=inverse-square-root --set data.train=a.txt --set sample.prompt=ROMEO: --set data.encoding=utf-16le",
    );
    scratch.write("changed.toml", &changed);
    assert_eq!(scratch.succeed("train changed.toml --dump-config"), changed);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (lines(&dumped), lines(&changed));
    let new: Vec<&String> = after.iter().filter(|line| !before.contains(line)).collect();
    assert_snapshot!(new.into_iter().cloned().collect::<Vec<_>>().join("\n"), @r#"
    train = "a.txt"
    encoding = "utf-16le"
    hidden-size = 32
    name = "sgd"
    learning-rate = 1.0
    momentum = 0.9
    nesterov = false
    weight-decay = 0.0
    name = "inverse-square-root"
    warmup-steps = 0
    prompt = "ROMEO:"
    "#);
}

#[test]
fn the_recipes_of_the_repository_are_sound() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let scratch = Scratch::new();
    for name in names(&recipes) {
        fs::copy(recipes.join(&name), scratch.join(&name)).expect("copied");
        let dumped = scratch.succeed(&format!("train {name} --dump-config"));
        scratch.write("dumped.toml", &dumped);
        assert_eq!(scratch.succeed("train dumped.toml --dump-config"), dumped, "{name}");
    }
}

#[test]
fn training_shows_data_model_and_progress_and_ends_with_a_sample() {
    let scratch = Scratch::with_recipe();
    let output = scratch.run(&format!("train recipe.toml --set train.max-steps=9 --set train.log-every=5 {PLAIN}"));
    let log: Vec<String> = text(&output.stderr)
        .lines()
        .filter(|line| !line.starts_with("  │"))
        .map(|line| {
            if ["step ", "best ", "beside "].iter().any(|head| line.starts_with(head)) {
                measured(line)
            } else {
                line.to_owned()
            }
        })
        .collect();
    assert_snapshot!(log.join("\n"), @"
    corpus.txt: 6,000 characters, 6,000 bytes, utf-8 (valid UTF-8)
    vocabulary  53 ids: 52 characters and <unk>; from the training text alone
    training    3,600 characters, 127 lines, 52 different
    validation  2,400 characters, 84 lines, 52 different, 3 unknown (0.12 %)
    frequent    ' ' 534, 'e' 335, 't' 259, 'i' 206, 'o' 205, 's' 187, 'a' 179, 'n' 176, 'r' 173, 'h' 153
    unknown in validation  'D' 1, 'P' 1, 'q' 1
    batches     4 streams of 899 tokens, windows of 16; 3,596 targets an epoch; unused at the end: 3 tokens, and 15 of the validation text

    embedding.weight                      53 × 8          424
    recurrent.layers.0.weight_ih          76 × 8          608
    recurrent.layers.0.weight_hh         76 × 19        1,444
    recurrent.layers.0.bias                   76           76
    recurrent.layers.1.weight_ih         76 × 19        1,444
    recurrent.layers.1.weight_hh         76 × 19        1,444
    recurrent.layers.1.bias                   76           76
    head.weight                          53 × 19        1,007
    head.bias                                 53           53
    model       2 lstm × 19, 6,576 parameters, f32
    computing   1 thread, kernel portable (asked for by --kernel)
    run         runs/recipe-001, step 0 of 9

    step #/9 epoch # loss # nats # bits/char # tokens/s left #s lr # grad #
    step #/9 epoch # loss # nats # bits/char # tokens/s left #s lr # grad #
    step #/9 epoch # valid # nats # bits/char after #s best so far
    note: counting 5-grams on the same tokens; train.floor = false leaves this out
    completed at step 9; saved in runs/recipe-001
    best model step # valid # nats, # bits/char: runs/recipe-001/best.safetensors
    beside it #grams, modified Kneser-Ney, on the same tokens: # bits/char (×0.63 of the model's)
    ");
    // The prompt is a new line, the sample 40 characters, and a line ends with a new line.
    let sample = text(&output.stdout);
    assert_eq!((sample.chars().count(), sample.starts_with('\n'), sample.ends_with('\n')), (42, true, true));

    let json = json(&scratch.succeed(&format!("train recipe.toml --json --set train.max-steps=9 {PLAIN}")));
    let keys: Vec<&str> = json.keys().map(String::as_str).collect();
    assert_snapshot!(keys.join(" "), @"best_bits_per_char best_loss_nats best_step floor_bits_per_char floor_loss_nats reason run sample step");
    assert_eq!((json["run"].as_str(), json["reason"].as_str()), (Some("runs/recipe-002"), Some("completed")));
    assert_close(number(&json, "best_bits_per_char"), number(&json, "best_loss_nats") / std::f64::consts::LN_2);
    assert_snapshot!(names(&scratch.join("runs/recipe-002")).join(" "), @"best.safetensors config.toml last metrics.jsonl previous run.lock samples tensorboard");
}

#[test]
fn a_text_file_is_trained_on_with_the_built_in_recipe() {
    let scratch = Scratch::with_recipe();
    let small = "--set model.hidden-size=8 --set train.batch-size=2 --set train.max-steps=1 --set sample.tokens=0";
    scratch.succeed(&format!("train corpus.txt {small}"));
    scratch.succeed(&format!("train {small}"));
    assert_eq!(names(&scratch.join("runs")), ["corpus-001", "shakespeare-001"]);
}

#[test]
fn info_shows_what_is_in_the_file() {
    let scratch = Scratch::with_run();
    let shown = scratch.succeed("info run");
    let shown: Vec<String> =
        shown
            .lines()
            .map(|line| {
                if line.starts_with("file ") || line.starts_with("trained ") { measured(line) } else { line.to_owned() }
            })
            .collect();
    assert_snapshot!(shown.join("\n"), @r"
    file run/best.safetensors, # bytes
    task         language model of characters
    model        2 lstm × 19, embedding 8, products in f32
    parameters   6,576, f32
      embedding.weight              53 × 8
      recurrent.layers.0.weight_ih  76 × 8
      recurrent.layers.0.weight_hh  76 × 19
      recurrent.layers.0.bias       76
      recurrent.layers.1.weight_ih  76 × 19
      recurrent.layers.1.weight_hh  76 × 19
      recurrent.layers.1.bias       76
      head.weight                   53 × 19
      head.bias                     53
    vocabulary   53 tokens: <unk> and \n !',-.:;?ABCEFHILMNORSTUVWYabcdefghijklmnoprstuvwyz
                 from the training text alone
    trained # steps, # epochs, validation loss # nats
    corpus       SHA-256 6bdc408131f0768c7faa51058900eae3a7e0ba08aa17b8d2f2b3fb9339909473
    written by   refrain 0.1.0
    recipe       shown by --recipe
    ");
    assert_eq!(scratch.succeed("info run/best.safetensors"), scratch.succeed("info run"));
    assert_eq!(scratch.succeed("info run --recipe").as_bytes(), scratch.read("run/config.toml"));

    let json = json(&scratch.succeed("info run --json"));
    let keys: Vec<&str> = json.keys().map(String::as_str).collect();
    assert_snapshot!(keys.join(" "), @"bytes file model parameters provenance recipe task tensors vocabulary");
    assert_eq!(json["parameters"], 6576);
    assert_eq!(json["tensors"].as_array().map(Vec::len), Some(9));
    assert_eq!(json["vocabulary"]["size"], 53);
}

#[test]
fn a_score_names_what_it_was_divided_by_and_its_units_agree() {
    let scratch = Scratch::with_run();
    // One of the 2,500 characters is unknown, and of two bytes.
    scratch.write("text.txt", format!("{}é", shakespeare(2499)));
    let output = scratch.run(&format!("evaluate run text.txt {PLAIN}"));
    let shown: Vec<String> = text(&output.stdout).lines().map(without_score).collect();
    assert_snapshot!(shown.join("\n"), @"
    loss            # nats per token, over 2,499 tokens
    perplexity      # per token, over 2,499 tokens
    bits per char   #, over 2,499 characters
    bits per byte   #, over 2,500 bytes of UTF-8
    unknown         1 characters (0.04 %), scored as <unk>
    vocabulary      from the training text alone
    ");
    assert_snapshot!(text(&output.stderr), @"text.txt: utf-8 (valid UTF-8); 1 thread, kernel portable (asked for by --kernel)");

    let line = scratch.succeed(&format!("evaluate run text.txt --json {PLAIN}"));
    let score = json(&line);
    let keys: Vec<&str> = score.keys().map(String::as_str).collect();
    assert_snapshot!(keys.join(" "), @"bits_per_byte bits_per_char bytes chars encoding loss_nats perplexity text tokens total_nats unit unknown vocabulary");
    let counts = ["tokens", "chars", "bytes", "unknown"].map(|key| score[key].as_u64());
    assert_eq!(counts, [2499, 2499, 2500, 1].map(Some), "the first character has nothing before it");
    let total = number(&score, "total_nats");
    assert_close(number(&score, "loss_nats"), total / 2499.0);
    assert_close(number(&score, "perplexity"), (total / 2499.0).exp());
    assert_close(number(&score, "bits_per_char"), total / 2499.0 / std::f64::consts::LN_2);
    assert_close(number(&score, "bits_per_byte"), total / 2500.0 / std::f64::consts::LN_2);

    let bytes = scratch.read("text.txt");
    let piped = json(&fed(&scratch, &format!("evaluate run - --json {PLAIN}"), &bytes));
    assert_eq!(number(&piped, "total_nats").to_bits(), total.to_bits());
}

/// A line with `#` for its first number, which was measured; counts stay.
fn without_score(line: &str) -> String {
    let Some(begin) = line.find(|ch: char| ch.is_ascii_digit()).filter(|_| !line.starts_with("unknown")) else {
        return line.to_owned();
    };
    let rest = line[begin..].trim_start_matches(|ch: char| ch.is_ascii_digit() || ch == '.');
    format!("{}#{rest}", &line[..begin])
}

#[test]
fn the_same_seed_writes_the_same_text() {
    let scratch = Scratch::with_run();
    let written = |more: &str| scratch.succeed(&format!("generate run --prompt ROMEO: --tokens 60 {PLAIN} {more}"));
    assert_eq!(written(""), written("--seed 1"), "the default seed is 1");
    assert_ne!(written("--seed 1"), written("--seed 2"));
    assert_eq!(written("").chars().count(), "ROMEO:".len() + 60 + 1);
    assert_eq!(scratch.succeed(&format!("generate run --prompt ROMEO: --tokens 0 {PLAIN}")), "ROMEO:\n");

    // Every sample is a stream of its own.
    let texts = |num: usize| {
        let all = written(&format!("--num {num}"));
        all.split_terminator("---\n").map(str::to_owned).collect::<Vec<_>>()
    };
    let three = texts(3);
    assert_eq!(three.len(), 3);
    assert_eq!(texts(2), three[..2]);
    assert_eq!(texts(1), three[..1]);
    assert_ne!(three[0], three[1]);

    assert_eq!(written("--temperature 0 --seed 1"), written("--temperature 0 --seed 2"), "nothing is left to chance");
    assert_eq!(written("--top-k 1"), written("--temperature 0"));
    assert_ne!(written("--temperature 3"), written(""));
}

#[test]
fn the_prompt_may_come_from_stdin_and_the_text_as_json() {
    let scratch = Scratch::with_run();
    let prompt = "First Citizen:\nWe";
    let piped = fed(&scratch, &format!("generate run --prompt - --tokens 30 {PLAIN}"), prompt.as_bytes());
    let mut command = scratch.refrain(&format!("generate run --tokens 30 {PLAIN}"));
    let given = command.args(["--prompt", prompt]).output().expect("the command starts");
    assert_eq!(piped, text(&given.stdout));
    assert_eq!(text(&given.stderr), "");

    let lines =
        fed(&scratch, &format!("generate run --prompt - --tokens 30 --num 2 --json {PLAIN}"), prompt.as_bytes());
    let texts: Vec<_> = lines.lines().map(json).collect();
    assert_eq!(texts.len(), 2);
    let keys: Vec<&str> = texts[0].keys().map(String::as_str).collect();
    assert_snapshot!(keys.join(" "), @"end prompt sample seed text");
    assert_eq!(texts[0]["prompt"], prompt);
    assert_eq!(format!("{prompt}{}\n", texts[0]["text"].as_str().expect("text")), piped);
}

/// Poems of the Tang, by Li Bai, Wang Zhihuan and Meng Haoran, often enough to train on.
fn poems() -> String {
    "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n\
     白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。\n\
     春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。\n"
        .repeat(12)
}

const SMALL: &str = "--set model.hidden-size=16 --set model.embedding-size=8 --set train.batch-size=4 \
                     --set train.seq-len=16 --set train.max-steps=12 --set sample.tokens=10";

#[test]
fn chinese_is_written_without_half_characters() {
    let scratch = Scratch::new();
    scratch.write("corpus.txt", poems());
    scratch.succeed(&format!("train corpus.txt --run-dir run {SMALL} {PLAIN}"));
    // More than a pipe holds, so that it cannot all come at once.
    let arguments = format!("generate run --prompt 明月 --tokens 30000 --temperature 2 {PLAIN}");
    let mut child = scratch.refrain(&arguments).stdout(Stdio::piped()).spawn().expect("the command starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut written = String::new();
    let mut buffer = vec![0; 1 << 17];
    let mut arrivals = 0;
    loop {
        let count = stdout.read(&mut buffer).expect("a pipe");
        if count == 0 {
            break;
        }
        arrivals += 1;
        written += std::str::from_utf8(&buffer[..count]).expect("whole characters at every moment");
    }
    assert!(child.wait().expect("a child").success());
    assert!(arrivals > 1, "the text comes as it is written");
    assert_eq!(written.chars().count(), 2 + 30_000 + 1);
    let known = poems();
    let unknown: String = written.chars().filter(|&ch| !known.contains(ch)).collect();
    assert_eq!(unknown, "");
}

#[test]
fn a_text_trains_the_same_model_in_whatever_encoding_it_comes() {
    let poems = poems();
    let utf16 = |bytes_of: fn(u16) -> [u8; 2]| poems.encode_utf16().flat_map(bytes_of).collect::<Vec<u8>>();
    let (gb18030, _, lossy) = encoding_rs::GB18030.encode(&poems);
    assert!(!lossy);
    let mut expected = None;
    for (name, bytes) in [
        ("utf-8 (valid UTF-8)", poems.clone().into_bytes()),
        ("utf-8 (UTF-8 BOM)", [&[0xef, 0xbb, 0xbf], poems.as_bytes()].concat()),
        ("utf-16le (reads as UTF-16LE without a BOM)", utf16(u16::to_le_bytes)),
        ("utf-16le (UTF-16LE BOM)", [&[0xff, 0xfe][..], &utf16(u16::to_le_bytes)].concat()),
        ("utf-16be (UTF-16BE BOM)", [&[0xfe, 0xff][..], &utf16(u16::to_be_bytes)].concat()),
        ("gb18030 (not UTF-8; plausible GB18030)", gb18030.into_owned()),
    ] {
        let scratch = Scratch::new();
        scratch.write("corpus.txt", bytes);
        let output = scratch.run(&format!("train corpus.txt --run-dir run {SMALL} {PLAIN}"));
        let log = text(&output.stderr);
        assert!(log.lines().next().is_some_and(|line| line.ends_with(name)), "{name}: {log}");
        let model = scratch.read("run/best.safetensors");
        assert!(*expected.get_or_insert_with(|| model.clone()) == model, "{name} gives another model");
    }
}

#[test]
fn an_encoding_may_be_asked_for() {
    let scratch = Scratch::new();
    scratch.write("corpus.txt", poems());
    let recipe = RECIPE.replace("seed = 7", "seed = 8");
    scratch.write("recipe.toml", recipe);
    let output = scratch.run(&format!("train recipe.toml --set data.encoding=utf-8 --set train.max-steps=1 {PLAIN}"));
    assert!(text(&output.stderr).contains(" utf-8 (as configured)\n"), "{}", transcript(&output));
}
