//! What the tests of the command share: a folder to work in, a small experiment, and ways to look at the outcome.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Computing that takes no more than its share of a test machine and is described alike on all of them.
pub(crate) const PLAIN: &str = "--threads 1 --kernel portable";

/// A recipe that trains in a fraction of a second and uses all that a run has to remember: carried state, three kinds of
/// dropout, a plateau schedule, accumulated windows, odd sizes, and rhythms that do not fall together.
pub(crate) const RECIPE: &str = r#"seed = 7

[data]
train = "corpus.txt"
valid-fraction = 0.4

[model]
embedding-size = 8
hidden-size = 19
num-layers = 2
dropout = 0.2
embedding-dropout = 0.1
output-dropout = 0.1

[train]
batch-size = 4
seq-len = 16
max-steps = 120
accumulate = 2
eval-every = 9
checkpoint-every = 7
log-every = 3

[optimizer]
learning-rate = 0.01

[schedule]
name = "plateau"
warmup-steps = 5
factor = 0.8
threshold = 0.2

[sample]
tokens = 40
"#;

/// The first `chars` characters of the bundled Shakespeare.
pub(crate) fn shakespeare(chars: usize) -> &'static str {
    let text = include_str!("../../../refrain/data/shakespeare.txt");
    &text[..chars]
}

/// A folder of a test's own, in which its commands run: paths in their output are relative, the same on every machine.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().expect("the temporary folder can be written"))
    }

    /// With `recipe.toml` and its `corpus.txt`.
    pub(crate) fn with_recipe() -> Self {
        let scratch = Self::new();
        scratch.write("recipe.toml", RECIPE);
        scratch.write("corpus.txt", shakespeare(6000));
        scratch
    }

    /// With `run/`, a small model of the bundled Shakespeare.
    pub(crate) fn with_run() -> Self {
        let scratch = Self::with_recipe();
        scratch.succeed("train recipe.toml --run-dir run --set train.max-steps=20");
        scratch
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.join(name), bytes).expect("the temporary folder can be written");
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The command with these arguments, divided at spaces, without input and with plain output 100 columns wide.
    pub(crate) fn refrain(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_refrain"));
        command.args(arguments.split_whitespace()).current_dir(self.path()).stdin(Stdio::null());
        command.env_remove("CLICOLOR_FORCE").env("COLUMNS", "100");
        command
    }

    pub(crate) fn run(&self, arguments: &str) -> Output {
        self.refrain(arguments).output().expect("the command starts")
    }

    /// The stdout of a command that must succeed.
    pub(crate) fn succeed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "refrain {arguments}\n{}", transcript(&output));
        text(&output.stdout)
    }

    /// The whole output of a command, to be held against a snapshot.
    pub(crate) fn transcript(&self, arguments: &str) -> String {
        transcript(&self.run(arguments))
    }
}

/// Exit status, stdout and stderr as one text; what is empty is left out.
pub(crate) fn transcript(output: &Output) -> String {
    let mut transcript = output.status.to_string();
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            write!(transcript, "\n[{name}]\n{}", text(bytes)).expect("a string can be written");
        }
    }
    transcript
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// All of a run that depends on neither the clock nor the number of threads nor on how often it was stopped, by path.
pub(crate) fn outcome(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in ["config.toml", "best.safetensors"] {
        files.insert(name.to_owned(), fs::read(run.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")));
    }
    for folder in ["last", "samples"] {
        for name in names(&run.join(folder)) {
            let path = run.join(folder).join(&name);
            files.insert(format!("{folder}/{name}"), fs::read(path).expect("a file of the run"));
        }
    }
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).expect("every run has a log");
    let metrics: Vec<String> = metrics.lines().map(without_clock).collect();
    files.insert("metrics.jsonl".to_owned(), metrics.join("\n").into_bytes());
    files
}

fn without_clock(line: &str) -> String {
    let mut record: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).expect("a JSON object");
    record.remove("seconds");
    record.remove("tokens_per_second");
    serde_json::to_string(&record).expect("it came from JSON")
}

/// Fails with the names of the files that differ.
pub(crate) fn assert_same_outcome(found: &Path, expected: &Path) {
    let (expected, found) = (outcome(expected), outcome(found));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "the files of the run");
    assert_eq!(text(&found["metrics.jsonl"]), text(&expected["metrics.jsonl"]));
    let differing: Vec<&String> = expected.keys().filter(|name| found[*name] != expected[*name]).collect();
    assert!(differing.is_empty(), "other bytes in {differing:?}");
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Copies a folder with all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new folder");
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            fs::copy(from, to).expect("copied");
        }
    }
}
