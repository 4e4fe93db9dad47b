//! A run that is stopped by whatever means and resumed ends with the bytes of the run that was left alone.

#![cfg(unix)]

mod support;

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use insta::assert_snapshot;
use refrain::kernels::Isa;
use support::{Scratch, assert_same_outcome, copy_folder, names, text, transcript};

const SIGKILL: i32 = 9;

/// How long a test waits for what must come, before it fails.
const PATIENCE: Duration = Duration::from_mins(1);
const BETWEEN_LOOKS: Duration = Duration::from_micros(200);

/// A moment in the life of a trainer, by what can be seen from outside.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// This long after the process was started.
    Started(Duration),
    /// This long after it reported progress for the n-th time: an evaluation may follow, or the next step.
    Progress(usize, Duration),
    /// This long after it reported the n-th evaluation: a sample and a checkpoint follow.
    Evaluated(usize, Duration),
    /// This long after a checkpoint began to be written.
    Saving(Duration),
}

/// A trainer at work, its stderr in a file.
struct Sitting<'a> {
    scratch: &'a Scratch,
    run: &'a str,
    child: Child,
    begun: Instant,
    begun_at: SystemTime,
}

impl<'a> Sitting<'a> {
    /// Begins `run`, or goes on with it if it has begun.
    fn begin(scratch: &'a Scratch, run: &'a str, more: &str) -> Self {
        let command = if scratch.join(run).join("config.toml").exists() {
            format!("train --resume {run} {more}")
        } else {
            format!("train recipe.toml --run-dir {run} {more}")
        };
        let begun_at = SystemTime::now();
        let log = File::create(scratch.join("stderr")).expect("the temporary folder can be written");
        let child = scratch.refrain(&command).stdout(Stdio::piped()).stderr(log).spawn().expect("the command starts");
        Self { scratch, run, child, begun: Instant::now(), begun_at }
    }

    fn stderr(&self) -> String {
        text(&self.scratch.read("stderr"))
    }

    /// Whether there is a checkpoint in the making, other than one that an earlier kill cut off.
    fn is_saving(&self) -> bool {
        let staged = fs::metadata(self.scratch.join(self.run).join("last.tmp"));
        staged.and_then(|staged| staged.modified()).is_ok_and(|modified| modified > self.begun_at)
    }

    /// Waits for the moment; `false` if the trainer ended before.
    fn reaches(&mut self, moment: Moment) -> bool {
        let reports =
            |log: &str, what: &str| log.lines().filter(|line| line.starts_with("step ") && line.contains(what)).count();
        loop {
            let (come, delay) = match moment {
                Moment::Started(delay) => (true, delay),
                Moment::Progress(count, delay) => (reports(&self.stderr(), " loss ") >= count, delay),
                Moment::Evaluated(count, delay) => (reports(&self.stderr(), " valid ") >= count, delay),
                Moment::Saving(delay) => (self.is_saving(), delay),
            };
            if come {
                sleep(delay);
                return self.child.try_wait().expect("a child").is_none();
            }
            if self.child.try_wait().expect("a child").is_some() {
                return false;
            }
            assert!(self.begun.elapsed() < PATIENCE, "waited in vain for {moment:?}: {}", self.stderr());
            sleep(BETWEEN_LOOKS);
        }
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -s {name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success(), "{kill}");
    }

    /// Waits for its end and takes all that it printed.
    fn end(self) -> Output {
        let scratch = self.scratch;
        let output = self.child.wait_with_output().expect("a child");
        Output { stderr: scratch.read("stderr"), ..output }
    }

    fn kill(mut self) -> ExitStatus {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child")
    }

    /// Waits for the moment, sends the signal and waits for the end.
    fn stopped(mut self, moment: Moment, signal: &str) -> Output {
        assert!(self.reaches(moment), "it ended before {moment:?}: {}", self.stderr());
        self.signal(signal);
        self.end()
    }
}

/// Numbers that look random and are the same every time (Marsaglia 2003, xorshift64).
struct Schedule(u64);

impl Schedule {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn moment(&mut self) -> Moment {
        let mut micros = |limit| Duration::from_micros(self.below(limit));
        let delay = micros(2_500);
        let start = micros(40_000);
        match self.below(8) {
            0 => Moment::Started(start),
            1 | 2 => Moment::Progress(1 + self.below(8) as usize, delay),
            3 | 4 => Moment::Evaluated(1 + self.below(2) as usize, delay),
            _ => Moment::Saving(delay),
        }
    }
}

/// What a finished run's folder holds, and nothing else: no leftovers of a kill.
const RUN_FOLDER: [&str; 8] =
    ["best.safetensors", "config.toml", "last", "metrics.jsonl", "previous", "run.lock", "samples", "tensorboard"];

#[test]
fn killed_at_any_moment_and_resumed_a_run_ends_with_the_same_bytes() {
    const KILLS: usize = 40;
    let scratch = Scratch::with_recipe();
    scratch.succeed("train recipe.toml --run-dir whole");
    let mut schedule = Schedule(0x5eed);
    let (mut kills, mut most_in_one_run) = (0, 0);
    for number in 1.. {
        let run = format!("run-{number}");
        let mut in_this_run = 0;
        loop {
            let threads = 1 + schedule.below(3);
            let mut sitting = Sitting::begin(&scratch, &run, &format!("--threads {threads}"));
            if kills < KILLS && sitting.reaches(schedule.moment()) {
                let status = sitting.kill();
                if status.signal() == Some(SIGKILL) {
                    kills += 1;
                    in_this_run += 1;
                    continue;
                }
                assert!(status.success(), "{status}");
            } else {
                let output = sitting.end();
                assert!(output.status.success(), "{}", transcript(&output));
            }
            break;
        }
        assert_same_outcome(&scratch.join(&run), &scratch.join("whole"));
        assert_eq!(names(&scratch.join(&run)), RUN_FOLDER, "after {in_this_run} kills");
        most_in_one_run = most_in_one_run.max(in_this_run);
        if kills == KILLS {
            break;
        }
    }
    assert!(most_in_one_run >= 3, "resumed runs must be killed too, at most {most_in_one_run} kills hit one run");
}

#[test]
fn a_run_that_was_killed_before_its_recipe_was_written_can_be_started_again() {
    let scratch = Scratch::with_recipe();
    let short = "--set train.max-steps=2";
    // What kills leave: nothing, a lock, half a recipe beside it.
    for (run, files) in [("a", &[][..]), ("b", &["run.lock"]), ("c", &["run.lock", ".refrain-4711-0.tmp"])] {
        fs::create_dir(scratch.join(run)).expect("a new folder");
        for file in files {
            scratch.write(&format!("{run}/{file}"), "");
        }
        assert_eq!(names(&scratch.join(run)).len(), files.len());
        scratch.succeed(&format!("train recipe.toml --run-dir {run} {short}"));
        assert!(!names(&scratch.join(run)).contains(&".refrain-4711-0.tmp".to_owned()));
    }
}

#[test]
fn a_run_that_was_killed_before_its_first_checkpoint_begins_again() {
    let scratch = Scratch::with_recipe();
    scratch.succeed("train recipe.toml --run-dir whole");
    fs::create_dir(scratch.join("run")).expect("a new folder");
    fs::copy(scratch.join("whole/config.toml"), scratch.join("run/config.toml")).expect("copied");
    // Half of a first save.
    fs::create_dir(scratch.join("run/last.tmp")).expect("a new folder");
    scratch.write("run/last.tmp/model.safetensors", "half");
    let output = scratch.run("train --resume run");
    assert!(text(&output.stderr).contains("note: no checkpoint yet: beginning again from step 0\n"));
    assert_same_outcome(&scratch.join("run"), &scratch.join("whole"));
    assert_eq!(names(&scratch.join("run")), RUN_FOLDER);
}

#[test]
fn ctrl_c_saves_scores_the_best_model_and_can_be_resumed() {
    let scratch = Scratch::with_recipe();
    scratch.succeed("train recipe.toml --run-dir whole");
    let no_delay = Duration::ZERO;
    // Before the first evaluation, between the first and the second, and in the middle of the run.
    for (run, moment) in [
        ("early", Moment::Progress(1, no_delay)),
        ("soon", Moment::Evaluated(1, no_delay)),
        ("later", Moment::Evaluated(4, no_delay)),
    ] {
        let output = Sitting::begin(&scratch, run, "").stopped(moment, "INT");
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{}", transcript(&output));
        assert!(log.contains("interrupted at step "), "{log}");
        assert!(log.contains("best model  step "), "{log}");
        assert!(log.ends_with(&format!("go on with: refrain train --resume {run}\n\n")), "{log}");
        assert!(!output.stdout.is_empty(), "the closing sample is of the best model");
        scratch.succeed(&format!("info {run}"));

        scratch.succeed(&format!("train --resume {run}"));
        assert_same_outcome(&scratch.join(run), &scratch.join("whole"));
    }
}

#[test]
fn a_termination_saves_at_once_and_can_be_resumed() {
    let scratch = Scratch::with_recipe();
    scratch.succeed("train recipe.toml --run-dir whole");
    let output = Sitting::begin(&scratch, "run", "").stopped(Moment::Progress(1, Duration::ZERO), "TERM");
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "{}", transcript(&output));
    assert!(log.contains("terminated at step "), "{log}");
    assert!(!log.contains("best model "), "nothing is evaluated any more: {log}");
    assert!(output.stdout.is_empty());

    scratch.succeed("train --resume run");
    assert_same_outcome(&scratch.join("run"), &scratch.join("whole"));
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    let scratch = Scratch::with_recipe();
    // The closing sample would take many minutes.
    let slow = "--set sample.tokens=100000000 --set train.max-steps=100000 --set train.epochs=100000 \
                --set train.eval-every=100000";
    let mut sitting = Sitting::begin(&scratch, "run", slow);
    assert!(sitting.reaches(Moment::Progress(9, Duration::ZERO)));
    sitting.signal("INT");
    // The best model is scored before the closing sample.
    let begun = Instant::now();
    while !scratch.join("run/best.safetensors").exists() {
        assert!(begun.elapsed() < PATIENCE, "{}", sitting.stderr());
        sleep(BETWEEN_LOOKS);
    }
    assert!(sitting.child.try_wait().expect("a child").is_none(), "{}", sitting.stderr());
    let second = Instant::now();
    sitting.signal("INT");
    let output = sitting.end();
    assert_eq!(output.status.code(), Some(130), "{}", transcript(&output));
    assert!(second.elapsed() < Duration::from_secs(5), "it took {:?}", second.elapsed());
    assert!(output.stdout.is_empty(), "the closing sample was not finished");
    assert!(scratch.join("run/last/manifest.json").exists(), "the first one has saved");
}

#[test]
fn a_second_trainer_is_refused_and_the_first_is_unharmed() {
    let scratch = Scratch::with_recipe();
    scratch.succeed("train recipe.toml --run-dir whole");
    let mut first = Sitting::begin(&scratch, "run", "");
    // By the second evaluation there is a checkpoint and a sample.
    assert!(first.reaches(Moment::Evaluated(2, Duration::ZERO)));
    first.signal("STOP");
    let before = support::outcome(&scratch.join("run"));
    let holder = format!("process {}", first.child.id());
    let refused = |arguments| scratch.transcript(arguments).replace(&holder, "process PID");
    assert_snapshot!(refused("train --resume run"), @"
    exit status: 1
    [stderr]
    error: run is in use by another trainer, process PID
    hint: wait until it ends, stop it, or choose another folder
    ");
    assert_snapshot!(refused("train recipe.toml --run-dir run"), @"
    exit status: 1
    [stderr]
    error: run is not empty
    hint: continue that run with `--resume run`, or choose another folder
    ");
    assert_eq!(support::outcome(&scratch.join("run")), before, "the second trainer changed something");
    first.signal("CONT");
    let output = first.end();
    assert!(output.status.success(), "{}", transcript(&output));
    assert_same_outcome(&scratch.join("run"), &scratch.join("whole"));
}

/// A whole run in `whole/`, and in `stopped/` one of the same recipe that a signal stopped after a few checkpoints.
fn whole_and_stopped() -> Scratch {
    let scratch = Scratch::with_recipe();
    scratch.succeed("train recipe.toml --run-dir whole");
    let output = Sitting::begin(&scratch, "stopped", "").stopped(Moment::Evaluated(3, Duration::ZERO), "TERM");
    assert_eq!(output.status.code(), Some(143), "{}", transcript(&output));
    scratch
}

fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).expect("a file of the run");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used() {
    let scratch = whole_and_stopped();
    let files = names(&scratch.join("stopped/last"));
    assert_eq!(files.len(), 5, "{files:?}");
    for file in files {
        let run = format!("damaged-{file}");
        copy_folder(&scratch.join("stopped"), &scratch.join(&run));
        flip_a_bit(&scratch.join(&run).join("last").join(&file));
        let output = scratch.run(&format!("train --resume {run}"));
        let log = text(&output.stderr);
        assert!(output.status.success(), "{log}");
        let fault = log.lines().find(|line| line.starts_with("note: checkpoint last: ")).expect("a note");
        // A bit of the manifest may belong to any file's checksum.
        assert!(file == "manifest.json" || fault.contains(&file), "{fault}");
        assert!(fault.ends_with("; set aside as last.damaged-1"), "{fault}");
        assert!(log.contains("note: using the checkpoint before it, previous\n"), "{log}");
        assert_same_outcome(&scratch.join(&run), &scratch.join("whole"));
        assert!(scratch.join(&run).join("last.damaged-1").join(&file).exists());
    }
}

#[test]
fn without_a_whole_checkpoint_nothing_is_touched() {
    let scratch = whole_and_stopped();
    for checkpoint in ["last", "previous"] {
        flip_a_bit(&scratch.join("stopped").join(checkpoint).join("optimizer.safetensors"));
    }
    let before = names(&scratch.join("stopped"));
    assert_snapshot!(scratch.transcript("train --resume stopped"), @"
    exit status: 1
    [stderr]
    error: no usable checkpoint in stopped: last: optimizer.safetensors is not what was saved: its SHA-256 differs; previous: optimizer.safetensors is not what was saved: its SHA-256 differs
    hint: the files were left as they are; restore them from a copy, or start again
    ");
    assert_eq!(names(&scratch.join("stopped")), before);
}

#[test]
fn another_recipe_or_corpus_is_refused_by_name() {
    let scratch = whole_and_stopped();
    let before = support::outcome(&scratch.join("stopped"));
    assert_snapshot!(
        scratch.transcript("train --resume stopped --set model.hidden-size=20 --set optimizer.learning-rate=0.1"),
        @"
    exit status: 1
    [stderr]
    error: stopped was started with another recipe: model.hidden-size: 19 in the run, 20 in the recipe; optimizer.learning-rate: 0.01 in the run, 0.1 in the recipe
    hint: resume with `--resume stopped` alone, or start a new run with the new settings
    "
    );
    scratch.write("other.toml", support::RECIPE.replace("seq-len = 16", "seq-len = 17"));
    assert_snapshot!(scratch.transcript("train other.toml --resume stopped"), @"
    exit status: 1
    [stderr]
    error: stopped was started with another recipe: train.seq-len: 16 in the run, 17 in the recipe
    hint: resume with `--resume stopped` alone, or start a new run with the new settings
    ");
    scratch.write("corpus.txt", support::shakespeare(6001));
    assert_snapshot!(scratch.transcript("train --resume stopped"), @"
    exit status: 1
    [stderr]
    error: stopped was started with another corpus: corpus.txt has SHA-256 f719432e2f44… now, it was 6bdc408131f0…
    hint: put the old text back, or start a new run with the new one
    ");
    fs::remove_file(scratch.join("corpus.txt")).expect("removed");
    assert_snapshot!(scratch.transcript("train --resume stopped"), @"
    exit status: 1
    [stderr]
    error: cannot read corpus.txt: no such file or folder (`data.train`)
    hint: `data.train` is relative to the current folder
    ");
    assert_eq!(support::outcome(&scratch.join("stopped")), before, "a refusal changed something");

    scratch.write("corpus.txt", support::shakespeare(6000));
    scratch.succeed("train recipe.toml --resume stopped --set model.hidden-size=19");
    assert_same_outcome(&scratch.join("stopped"), &scratch.join("whole"));
}

#[test]
fn an_edited_recipe_of_the_run_is_refused_by_name() {
    let scratch = whole_and_stopped();
    let before = support::outcome(&scratch.join("stopped"));
    let config = String::from_utf8(scratch.read("stopped/config.toml")).expect("UTF-8");
    for (line, edited) in [("batch-size = 4", "batch-size = 5"), ("num-layers = 2", "num-layers = 3")] {
        assert!(config.contains(&format!("\n{line}\n")), "{config}");
        scratch.write("stopped/config.toml", config.replace(&format!("\n{line}\n"), &format!("\n{edited}\n")));
        let log = scratch.transcript("train --resume stopped");
        let wanted = format!(
            "stopped was started with another recipe: {}",
            if line.starts_with("batch") {
                "train.batch-size: 4 in the run, 5 in the recipe"
            } else {
                "model.num-layers: 2 in the run, 3 in the recipe"
            }
        );
        assert!(log.starts_with("exit status: 1\n") && log.contains(&wanted), "{log}");
    }
    scratch.write("stopped/config.toml", config);
    assert_eq!(support::outcome(&scratch.join("stopped")), before, "a refusal changed something");
}

#[test]
fn another_kernel_is_told() {
    let scratch = whole_and_stopped();
    let log = scratch.transcript("train --resume stopped --kernel portable");
    assert!(Isa::detect() == Isa::Portable || log.contains(", portable from here: it rounds differently\n"), "{log}");
}

#[test]
fn a_full_disk_is_a_clear_error_and_leaves_the_checkpoints_as_they_were() {
    /// What `ulimit -f` counts in.
    const BLOCK: usize = 512;
    let scratch = whole_and_stopped();
    let before = support::outcome(&scratch.join("stopped"));
    // Room for the best model, not for the optimiser's two numbers a weight.
    let optimizer = scratch.read("stopped/last/optimizer.safetensors").len();
    let command = format!(
        "trap '' XFSZ; ulimit -f {}; exec {} train --resume stopped",
        optimizer * 3 / 4 / BLOCK,
        env!("CARGO_BIN_EXE_refrain")
    );
    let output = Command::new("sh").args(["-c", &command]).current_dir(scratch.path()).output().expect("a shell");
    let log = text(&output.stderr);
    let error = log.find("\nerror: ").unwrap_or_else(|| panic!("no error: {}", transcript(&output)));
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert_snapshot!(log[error..], @"

    error: cannot write stopped/last.tmp/optimizer.safetensors: File too large
    hint: a limit on the size of files is in force: see `ulimit -f`
    ");
    assert!(output.stdout.is_empty());

    let after = support::outcome(&scratch.join("stopped"));
    for (name, bytes) in before.iter().filter(|(name, _)| name.starts_with("last/")) {
        assert_eq!(&after[name], bytes, "{name}");
    }
    assert!(!names(&scratch.join("stopped")).iter().any(|name| name.contains("tmp")), "leftovers");
    scratch.succeed("train --resume stopped");
    assert_same_outcome(&scratch.join("stopped"), &scratch.join("whole"));
}
