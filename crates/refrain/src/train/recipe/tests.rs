use std::collections::BTreeSet;

use super::schema::{TABLES, path, settings};
use super::*;
use crate::decode::FilterSettings;
use crate::models::{CellKind, PrecisionKind};
use crate::nn::Memory;
use crate::optim::ScheduleKind;
use crate::text::Unit;
use crate::train::ForcingKind;

/// Every combination of choices that decides which keys there are.
fn all_kinds() -> impl Iterator<Item = Kinds> {
    let with_cell = |optimizer, schedule| {
        // Those of tokens and of teacher forcing have nothing to do with the others.
        let cells = CellKind::ALL.iter().cycle();
        let others = Unit::ALL.iter().cycle().zip(ForcingKind::ALL.iter().cycle());
        let kinds = move |(&cell, (&tokens, &forcing))| Kinds { tokens, cell, forcing, optimizer, schedule };
        let all = CellKind::ALL.len().max(Unit::ALL.len()).max(ForcingKind::ALL.len());
        cells.zip(others).take(all).map(kinds)
    };
    let optimizers = OptimizerKind::ALL.iter();
    optimizers
        .flat_map(move |&optimizer| ScheduleKind::ALL.iter().flat_map(move |&schedule| with_cell(optimizer, schedule)))
}

fn recipe_of(kinds: Kinds) -> Recipe {
    let tokenizer = if kinds.tokens == Unit::Tokenizer { "tokenizer.json" } else { "" }.to_owned();
    Recipe {
        data: DataConfig { tokens: kinds.tokens, tokenizer, ..DataConfig::default() },
        model: LanguageModelConfig { cell: kinds.cell, ..LanguageModelConfig::default() },
        teacher_forcing: TeacherForcing { name: kinds.forcing, ..TeacherForcing::default() },
        optimizer: OptimizerConfig::of(kinds.optimizer),
        schedule: ScheduleConfig { name: kinds.schedule, ..ScheduleConfig::default() },
        train: TrainConfig::of(kinds.cell),
        ..Recipe::default()
    }
    .settled()
}

fn flags(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

fn with(overrides: &[&str]) -> Result<Recipe, RecipeError> {
    Recipe::with_overrides("", "recipe.toml", &flags(overrides))
}

/// The error as the command line prints it.
fn printed(result: Result<Recipe, RecipeError>) -> String {
    let error = result.unwrap_err();
    match error.hint() {
        Some(hint) => format!("error: {error}\nhint: {hint}"),
        None => format!("error: {error}"),
    }
}

#[test]
fn a_recipe_is_written_in_full() {
    let text = Recipe::default().to_toml();
    assert_eq!(
        text,
        r#"task = "language-model"
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
batch-size = 64
seq-len = 128
epochs = 20
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
learning-rate = 0.002
betas = [0.9, 0.99]
epsilon = 1e-8
weight-decay = 0.01

[schedule]
name = "constant"
warmup-steps = 0

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
"#
    );
}

#[test]
fn every_recipe_round_trips() {
    for kinds in all_kinds() {
        let recipe = recipe_of(kinds);
        assert_eq!(recipe.validate(), Ok(()));
        assert_eq!(Recipe::parse(&recipe.to_toml(), "a.toml"), Ok(recipe));
    }
    let recipe = Recipe {
        seed: i64::MAX as u64,
        data: DataConfig {
            train: "a \"b\" \\ '''\n\t中.txt".to_owned(),
            valid: Some("v".to_owned()),
            encoding: Some(crate::text::Encoding::Utf16Be),
            ..DataConfig::default()
        },
        train: TrainConfig {
            max_steps: Some(7),
            clip_norm: None,
            clip_value: Some(1.0 / 3.0),
            ..TrainConfig::default()
        },
        sample: SampleConfig {
            prompt: "\r\n\t\0\u{85}\u{7f}\\😀\"\"\"".to_owned(),
            filters: FilterSettings::off(),
            ..SampleConfig::default()
        },
        ..Recipe::default()
    };
    assert_eq!(Recipe::parse(&recipe.to_toml(), "a.toml"), Ok(recipe));
}

#[test]
fn the_schema_has_every_field_and_no_other() {
    let mut fields = BTreeSet::new();
    for (name, value) in Table::try_from(Recipe::default()).unwrap() {
        match value {
            Value::Table(inner) => fields.extend(inner.keys().map(|key| path(&name, key))),
            _ => drop(fields.insert(name)),
        }
    }
    let tables = || std::iter::once("").chain(TABLES.iter().copied());
    let schema: BTreeSet<String> = all_kinds()
        .flat_map(|kinds| {
            tables().flat_map(move |name| settings(name, kinds).unwrap().iter().map(move |known| path(name, known.key)))
        })
        .collect();
    assert_eq!(schema, fields);
}

#[test]
fn every_key_can_be_set_and_every_other_is_refused() {
    for kinds in all_kinds() {
        let base = recipe_of(kinds).to_toml();
        for (path, value) in recipe_of(kinds).values() {
            let set = |flag: String| Recipe::with_overrides(&base, "a.toml", &[flag]);
            assert_eq!(set(format!("{path}={}", written(&value))), Ok(recipe_of(kinds)));
            let wrong = format!("{path}x={}", written(&value));
            let key = path.rsplit('.').next().unwrap();
            let error = set(wrong.clone()).unwrap_err();
            assert!(
                matches!(&error, RecipeError::UnknownKey { key: found, .. } if *found == format!("{key}x")),
                "{error}"
            );
            assert!(error.to_string().ends_with(&format!(", --set {wrong}")), "{error}");
            assert_eq!(error.hint().map(|hint| hint.contains(key)), Some(true), "{error}: {:?}", error.hint());
        }
    }
}

#[test]
fn every_value_reaches_its_field() {
    let recipe = with(&[
        "task=language-model",
        "seed=7",
        "data.train=books/a.txt",
        "data.valid=b.txt",
        "data.encoding=gb18030",
        "model.hidden-size = 512",
        "train.state=reset",
        "train.clip-norm=5",
        "train.max-steps=100",
        "optimizer.name=sgd",
        "optimizer.learning-rate=20",
        "optimizer.momentum=0.9",
        "optimizer.nesterov=true",
        "schedule.name=plateau",
        "schedule.factor=0.5",
        "sample.top-k=5",
        "seed=8",
    ])
    .unwrap();
    assert_eq!(recipe.seed, 8, "the later one wins");
    assert_eq!((recipe.data.train.as_str(), recipe.data.valid.as_deref()), ("books/a.txt", Some("b.txt")));
    assert_eq!(recipe.data.encoding, Some(crate::text::Encoding::Gb18030));
    assert_eq!(recipe.model.hidden_size, 512.into());
    assert_eq!((recipe.train.clip_norm, recipe.train.max_steps), (Some(5.0), Some(100)));
    assert_eq!(recipe.train.state, crate::train::StateMode::Reset);
    let expected = OptimizerConfig {
        learning_rate: 20.0,
        momentum: 0.9,
        nesterov: true,
        ..OptimizerConfig::of(OptimizerKind::Sgd)
    };
    assert_eq!(recipe.optimizer, expected);
    assert_eq!((recipe.schedule.name, recipe.schedule.factor), (ScheduleKind::Plateau, 0.5));
    let mut filters = FilterSettings::default();
    filters.set("top-k", 5.0).unwrap();
    assert_eq!(recipe.sample.filters, filters);
}

#[test]
fn memory_is_a_name_or_a_number_of_steps() {
    let memory = |flag: &str| with(&[flag]).map(|recipe| recipe.model.memory);
    assert_eq!(memory("model.memory=all"), Ok(Memory::All));
    assert_eq!(memory("model.memory=√T"), Ok(Memory::SquareRoot));
    assert_eq!(memory("model.memory=\"square-root\""), Ok(Memory::SquareRoot));
    assert_eq!(memory("model.memory=50"), Ok(Memory::Every(50)));
    let found = Recipe::with_overrides("[model]\nmemory = 50", "recipe.toml", &[]).unwrap();
    assert_eq!(Recipe::with_overrides(&found.to_toml(), "recipe.toml", &[]), Ok(found));
    assert_eq!(
        printed(with(&["model.memory=0"])),
        "error: `model.memory` must be one of `all`, `√T`, `square-root`, or an integer from 1 to 1048576, found 0, --set \
         model.memory=0"
    );
    let typo = printed(with(&["model.memory=square-rot"]));
    assert!(typo.ends_with("hint: did you mean `square-root`?"), "{typo}");
}

#[test]
fn text_on_the_command_line_needs_no_quotation_marks() {
    let prompt = |flag: &str| with(&[flag]).unwrap().sample.prompt;
    assert_eq!(prompt("sample.prompt=ROMEO:"), "ROMEO:");
    assert_eq!(prompt("sample.prompt=\"a\\nb\""), "a\nb");
    assert_eq!(prompt("sample.prompt=1623"), "1623");
    assert_eq!(prompt("sample.prompt=true"), "true");
    assert_eq!(prompt("sample.prompt="), "");
    assert_eq!(prompt("sample.prompt=a=b"), "a=b");
    assert_eq!(prompt("sample.prompt=1\nseed = 3"), "1\nseed = 3");
    assert_eq!(prompt("sample.prompt= x # y"), " x # y");
}

#[test]
fn the_defaults_are_those_of_the_chosen_optimizer() {
    let recipe = Recipe::parse("[optimizer]\nname = \"rmsprop\"\n", "a.toml").unwrap();
    assert_eq!(recipe.optimizer, OptimizerConfig::of(OptimizerKind::Rmsprop));
}

#[test]
fn a_typo_is_named_with_its_line_and_the_nearest_key() {
    let text = "seed = 3\n\n[model]\nhidden-size = 512\nnum-layers = 3\n\ndroput = 0.5\n";
    assert_eq!(
        printed(Recipe::parse(text, "recipes/typo.toml")),
        "error: unknown key `droput` in [model], recipes/typo.toml:7\nhint: did you mean `dropout`?"
    );
    assert_eq!(
        printed(with(&["model.droput=0.5"])),
        "error: unknown key `droput` in [model], --set model.droput=0.5\nhint: did you mean `dropout`?"
    );
}

#[test]
fn what_may_have_been_meant_is_said() {
    for (text, expected) in [
        ("sed = 1", "error: unknown key `sed`, a.toml:1\nhint: did you mean `seed`?"),
        ("dropout = 0.1", "error: unknown key `dropout`, a.toml:1\nhint: did you mean `dropout` in [model]?"),
        (
            "[train]\nlr = 1",
            "error: unknown key `lr` in [train], a.toml:2\nhint: did you mean `learning-rate` in [optimizer]?",
        ),
        (
            "[train]\nhidden_size = 1",
            "error: unknown key `hidden_size` in [train], a.toml:2\nhint: did you mean `hidden-size` in [model]?",
        ),
        (
            "[train]\neval_batch_size = 1",
            "error: unknown key `eval_batch_size` in [train], a.toml:2\nhint: did you mean `eval-batch-size`?",
        ),
        (
            "[model]\nseed = 1",
            "error: unknown key `seed` in [model], a.toml:2\nhint: did you mean `seed` at the top, before the tables?",
        ),
        ("[modle]\nx = 1", "error: unknown table [modle], a.toml:1\nhint: did you mean [model]?"),
        (
            "[foo]",
            "error: unknown table [foo], a.toml:1\nhint: the tables are [data], [model], [train], [teacher-forcing], [optimizer], [schedule], [sample]",
        ),
        (
            "[sample]\nzzz = 1",
            "error: unknown key `zzz` in [sample], a.toml:2\nhint: the keys of [sample] are prompt, tokens, repetition-penalty, presence-penalty, frequency-penalty, no-repeat-ngram, temperature, top-k, top-p, min-p, typical-p, epsilon-cutoff",
        ),
        (
            "[optimizer]\nmomentum = 0.9",
            "error: unknown key `momentum` in [optimizer], a.toml:2\nhint: `momentum` is for name = \"sgd\"",
        ),
        (
            "[optimizer]\nmomentum = 0.9\nname = \"adam\"",
            "error: unknown key `momentum` in [optimizer], a.toml:2\nhint: `momentum` is for name = \"sgd\"",
        ),
        (
            "[model]\nforget-bias = 2\ncell = \"gru\"",
            "error: unknown key `forget-bias` in [model], a.toml:2\nhint: `forget-bias` is for cell = \"lstm\"",
        ),
        (
            "[model]\nweight-drop = 0.5\ncell = \"min-gru\"",
            "error: unknown key `weight-drop` in [model], a.toml:2\nhint: `weight-drop` is for cell = \"lstm\" or \"gru\" or \"rnn\" or \"rnn-relu\"",
        ),
        (
            "[model]\nreset = \"before-product\"",
            "error: unknown key `reset` in [model], a.toml:2\nhint: `reset` is for cell = \"gru\"",
        ),
        (
            "[data]\nlower-case = true",
            "error: unknown key `lower-case` in [data], a.toml:2\nhint: `lower-case` is for tokens = \"word\"",
        ),
        (
            "[model]\ntied-embeddings = true\nhidden-size = 200",
            "error: `model.tied-embeddings` needs a last layer of 128 units, as the embedding is long; it has 200, a.toml:2\nhint: set model.hidden-size = [200, 128], or model.embedding-size = 200",
        ),
        (
            "[model]\ntied-embeddings = true\nprojection-size = 100",
            "error: `model.tied-embeddings` needs a last layer of 128 units, as the embedding is long; it has 100, a.toml:2\nhint: set model.projection-size = 128, or model.embedding-size = 100",
        ),
        (
            "[model]\nhidden-size = [200, 300, 128]",
            "error: `model.hidden-size` lists 3 sizes, and `model.num-layers` is 2, a.toml:2\nhint: set model.num-layers = 3, or a number for all layers",
        ),
        (
            "[model]\nhidden-size = [200, 0]",
            "error: `model.hidden-size` must be an integer from 1 to 16384, or a list of such, one for each layer, found [200, 0], a.toml:2",
        ),
        (
            "[model]\ncell = \"transformer\"\nhidden-size = [64, 64]",
            "error: `model.hidden-size` must be an integer from 1 to 16384, found [64, 64], a.toml:3",
        ),
        (
            "[train]\nsoftmax-samples = 100\nlabel-smoothing = 0.1",
            "error: `train.label-smoothing` spreads over all words, and with `train.softmax-samples` most have no probability, a.toml:3\nhint: leave one of them out",
        ),
        (
            "[schedule]\nname = \"cosine\"\ngamma = 0.9",
            "error: unknown key `gamma` in [schedule], a.toml:3\nhint: `gamma` is for name = \"exponential\" or \"step\"",
        ),
        (
            "[model.cell]\nkind = 1",
            "error: `model.cell` must be one of `lstm`, `gru`, `min-gru`, `rnn`, `rnn-relu`, `transformer`, found a table, a.toml:1",
        ),
        (
            "[model.foo]\nkind = 1",
            "error: unknown key `foo` in [model], a.toml:1\nhint: the keys of [model] are cell, embedding-size, hidden-size, num-layers, tied-embeddings, dropout, embedding-dropout, output-dropout, variational-dropout, token-dropout, hidden-dropout, recurrent-dropout, weight-drop, zoneout-hidden, zoneout-cell, normalization, peepholes, coupled-gates, projection-size, forget-bias, init-range, embedding-init-range, memory, precision",
        ),
    ] {
        assert_eq!(printed(Recipe::parse(text, "a.toml")), expected);
    }
}

#[test]
fn a_wrong_value_is_named_with_what_is_allowed() {
    for (text, expected) in [
        (
            "[model]\nhidden-size = \"big\"",
            "error: `model.hidden-size` must be an integer from 1 to 16384, or a list of such, one for each layer, found the text \"big\", a.toml:2",
        ),
        (
            "[model]\nhidden-size = 0",
            "error: `model.hidden-size` must be an integer from 1 to 16384, or a list of such, one for each layer, found 0, a.toml:2",
        ),
        ("[train]\nepochs = 1.5", "error: `train.epochs` must be an integer from 1 to 1000000, found 1.5, a.toml:2"),
        (
            "[model]\n\ndropout = 1",
            "error: `model.dropout` must be a number of at least 0 and below 1, found 1, a.toml:3",
        ),
        ("[train]\nclip-norm = nan", "error: `train.clip-norm` must be a number of at least 0, found nan, a.toml:2"),
        (
            "[train]\nstate = \"cary\"",
            "error: `train.state` must be one of `carry`, `reset`, found the text \"cary\", a.toml:2\nhint: did you mean `carry`?",
        ),
        (
            "[optimizer]\nlearning-rate = 0",
            "error: `optimizer.learning-rate` must be a number above 0, found 0, a.toml:2",
        ),
        (
            "[optimizer]\nbetas = [0.9]",
            "error: `optimizer.betas` must be two numbers [a, b], each of at least 0 and below 1, found [0.9], a.toml:2",
        ),
        (
            "[optimizer]\nname = \"adamW\"",
            "error: `optimizer.name` must be one of `adamw`, `adam`, `rmsprop`, `sgd`, `asgd`, found the text \"adamW\", a.toml:2\nhint: did you mean `adamw`?",
        ),
        ("[data]\ntrain = \"\"", "error: `data.train` must be text that is not empty, found the text \"\", a.toml:2"),
        ("seed = -1", "error: `seed` must be an integer of at least 0, found -1, a.toml:1"),
        (
            "model = 3",
            "error: `model` must be a table, found 3, a.toml:1\nhint: set one of its keys, such as model.cell",
        ),
        (
            "[optimizer]\nname = \"sgd\"\nnesterov = true",
            "error: `optimizer.nesterov` needs an `optimizer.momentum` above 0, a.toml:3\nhint: set optimizer.momentum = 0.9, or leave nesterov out",
        ),
    ] {
        assert_eq!(printed(Recipe::parse(text, "a.toml")), expected);
    }
}

#[test]
fn a_wrong_override_is_named_by_its_text() {
    for (flag, expected) in [
        ("model.dropout", "error: --set model.dropout: there is no `=`\nhint: write it as --set table.key=value"),
        (
            "model.dropout=0,5",
            "error: `model.dropout` must be a number of at least 0 and below 1, found the text \"0,5\", --set model.dropout=0,5",
        ),
        (
            "model={}",
            "error: `model` must be a table, found a table, --set model={}\nhint: set one of its keys, such as model.cell",
        ),
        ("modle.dropout=0.5", "error: unknown table [modle], --set modle.dropout=0.5\nhint: did you mean [model]?"),
        (
            "model.a.b=1",
            "error: unknown key `a.b` in [model], --set model.a.b=1\nhint: the keys of [model] are cell, embedding-size, hidden-size, num-layers, tied-embeddings, dropout, embedding-dropout, output-dropout, variational-dropout, token-dropout, hidden-dropout, recurrent-dropout, weight-drop, zoneout-hidden, zoneout-cell, normalization, peepholes, coupled-gates, projection-size, forget-bias, init-range, embedding-init-range, memory, precision",
        ),
        ("dropout=0.5", "error: unknown key `dropout`, --set dropout=0.5\nhint: did you mean `dropout` in [model]?"),
        (
            "optimizer.name=adagrad",
            "error: `optimizer.name` must be one of `adamw`, `adam`, `rmsprop`, `sgd`, `asgd`, found the text \"adagrad\", --set optimizer.name=adagrad",
        ),
    ] {
        assert_eq!(printed(with(&[flag])), expected);
    }
}

#[test]
fn another_choice_on_the_command_line_starts_from_its_own_defaults() {
    let text = "[optimizer]\nname = \"sgd\"\nlearning-rate = 20\nmomentum = 0.9\n";
    let set = |overrides: &[&str]| Recipe::with_overrides(text, "a.toml", &flags(overrides));
    let adam = set(&["optimizer.name=adam", "optimizer.epsilon=1e-6"]).unwrap().optimizer;
    assert_eq!(adam, OptimizerConfig { epsilon: 1e-6, ..OptimizerConfig::of(OptimizerKind::Adam) });
    let same = set(&["optimizer.name=sgd", "optimizer.momentum=0.5"]).unwrap().optimizer;
    let sgd = OptimizerConfig { learning_rate: 20.0, momentum: 0.5, ..OptimizerConfig::of(OptimizerKind::Sgd) };
    assert_eq!(same, sgd);
    assert_eq!(
        printed(set(&["optimizer.name=adam", "optimizer.momentum=0.5"])),
        "error: unknown key `momentum` in [optimizer], --set optimizer.momentum=0.5\nhint: `momentum` is for name = \"sgd\""
    );
    let wrong = "[optimizer]\nname = \"adam\"\nmomentum = 0.9\n";
    let error = Recipe::with_overrides(wrong, "a.toml", &flags(&["optimizer.name=sgd"])).unwrap_err();
    assert_eq!(error.to_string(), "unknown key `momentum` in [optimizer], a.toml:3");
}

#[test]
fn another_cell_on_the_command_line_keeps_all_of_the_model_but_what_it_does_not_have() {
    let text = "[model]\nhidden-size = 96\nforget-bias = 2\n";
    let set = |overrides: &[&str]| Recipe::with_overrides(text, "a.toml", &flags(overrides));
    let model = set(&["model.cell=gru", "model.precision=bf16"]).unwrap().model;
    let expected = LanguageModelConfig {
        cell: CellKind::Gru,
        precision: PrecisionKind::Bf16,
        hidden_size: 96.into(),
        ..LanguageModelConfig::default()
    };
    assert_eq!(model, expected);
    assert_eq!(set(&["model.cell=lstm"]).unwrap().model.forget_bias.to_bits(), 2f64.to_bits());
    assert_eq!(
        printed(set(&["model.cell=rnn", "model.forget-bias=2"])),
        "error: unknown key `forget-bias` in [model], --set model.forget-bias=2\nhint: `forget-bias` is for cell = \"lstm\""
    );
}

#[test]
fn what_is_no_toml_is_named_with_its_line() {
    for (text, line) in
        [("seed = 1\n[model\n", 2), ("a = 1\nb = \n", 2), ("seed = 1\nseed = 2\n", 2), ("[model]\ncell = lstm\n", 2)]
    {
        let error = Recipe::parse(text, "a.toml").unwrap_err();
        assert!(matches!(error, RecipeError::Syntax { .. }), "{error:?}");
        assert!(error.to_string().starts_with("not valid TOML: "), "{error}");
        assert!(error.to_string().ends_with(&format!(", a.toml:{line}")), "{error}");
    }
}

#[test]
fn the_first_mistake_in_the_file_is_reported() {
    let text = "[train]\nfoo = 1\n[model]\nbar = 2\n";
    assert!(Recipe::parse(text, "a.toml").unwrap_err().to_string().contains("`foo`"));
}

#[test]
fn dotted_and_inline_tables_are_read() {
    let text = "model.dropout = 0.5\nsample = { tokens = 3,\n prompt = \"x\" }\n";
    let recipe = Recipe::parse(text, "a.toml").unwrap();
    assert_eq!((recipe.model.dropout, recipe.sample.tokens), (0.5, 3));
    let wrong = "model.droput = 0.5\n";
    assert!(Recipe::parse(wrong, "a.toml").unwrap_err().to_string().ends_with("`droput` in [model], a.toml:1"));
}

#[test]
fn a_recipe_made_in_code_is_checked_too() {
    let mut recipe = Recipe::parse(BUILT_IN, "").unwrap();
    recipe.model.dropout = 1.0;
    let error = recipe.validate().unwrap_err();
    assert_eq!(error.to_string(), "`model.dropout` must be a number of at least 0 and below 1, found 1.0");
    let recipe = Recipe { seed: u64::MAX, ..Recipe::default() };
    assert!(recipe.validate().unwrap_err().to_string().contains("9223372036854775807"));
}

#[test]
fn a_difference_names_key_and_both_values() {
    let run = Recipe::default();
    assert_eq!(run.difference(&run), Vec::<String>::new());
    let mut recipe = run.clone();
    recipe.model.hidden_size = 512.into();
    recipe.train.clip_norm = None;
    assert_eq!(
        run.difference(&recipe),
        ["model.hidden-size: 256 in the run, 512 in the recipe", "train.clip-norm: 1.0 in the run, 0.0 in the recipe"]
    );
    let recipe = Recipe { optimizer: OptimizerConfig::of(OptimizerKind::Sgd), ..run.clone() };
    assert_eq!(
        run.difference(&recipe),
        [
            "optimizer.name: \"adamw\" in the run, \"sgd\" in the recipe",
            "optimizer.learning-rate: 0.002 in the run, 1.0 in the recipe",
            "optimizer.betas: [0.9, 0.99] in the run, not in the recipe",
            "optimizer.epsilon: 1e-8 in the run, not in the recipe",
            "optimizer.weight-decay: 0.01 in the run, 0.0 in the recipe",
            "optimizer.momentum: not in the run, 0.0 in the recipe",
            "optimizer.nesterov: not in the run, false in the recipe",
        ]
    );
}
