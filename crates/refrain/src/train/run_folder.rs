//! The folder of one run: its configuration, log, samples, best weights and checkpoints, held by one trainer at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::checkpoint::CheckpointStore;
use crate::files::{self, FileError, because};

/// The resolved configuration, in a run's folder.
pub const CONFIG: &str = "config.toml";
/// The log of a run, one JSON object a line.
pub const METRICS: &str = "metrics.jsonl";
/// The weights with the lowest validation loss, which is what to generate from.
pub const BEST: &str = "best.safetensors";
const SAMPLES: &str = "samples";
const TENSORBOARD: &str = "tensorboard";
const LOCK: &str = "run.lock";
/// What a sweep of learning rates found, which may be there before a run begins.
const RATE_CURVE: &str = "learning-rate.json";
const RATE_PLOT: &str = "learning-rate.svg";

/// A run's folder, locked for as long as this value lives. The operating system drops the lock of a killed process.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    notes: Vec<String>,
    /// Holds the lock; never read again.
    _lock: File,
}

/// A folder that cannot be used for a run.
#[derive(Debug, thiserror::Error)]
pub enum RunFolderError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A new run was to begin where something is already.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// There is nothing to resume.
    #[error("{} is not a run: it has no {CONFIG}", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// Another process trains there.
    #[error("{} is in use by another trainer{}", path.display(), named(*holder))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process that holds it, if it could be read.
        holder: Option<u32>,
    },
}

impl RunFolderError {
    /// What the user can do about it, when we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::NotEmpty { path } if path.join(CONFIG).exists() => {
                Some(format!("continue that run with `--resume {}`, or choose another folder", path.display()))
            }
            Self::NotEmpty { .. } => Some("choose another folder for the run".into()),
            Self::NotARun { .. } => Some(format!("name the folder that holds {CONFIG}, such as runs/shakespeare-001")),
            Self::Locked { .. } => Some("wait until it ends, stop it, or choose another folder".into()),
        }
    }
}

impl RunFolder {
    /// Begins a run in a new or empty folder.
    ///
    /// # Errors
    ///
    /// If something is there already, or another trainer holds it, or it cannot be created.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, RunFolderError> {
        let path = path.into();
        fs::create_dir_all(&path).map_err(because("create", &path))?;
        // First without the lock, so that nothing is left in a folder which is not ours.
        refuse_content(&path)?;
        let folder = Self::lock(path)?;
        refuse_content(&folder.path)?;
        files::remove_leftovers(&folder.path)?;
        Ok(folder)
    }

    /// Begins a run in the next free folder `<base>/<stem>-001`, also when several trainers start at once.
    ///
    /// # Errors
    ///
    /// If the folder cannot be created.
    pub fn create_unique(base: &Path, stem: &str) -> Result<Self, RunFolderError> {
        fs::create_dir_all(base).map_err(because("create", base))?;
        loop {
            let path = Self::unique(base, stem);
            match fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(FileError::new("create", path, error).into()),
                Ok(()) => return Self::create(path),
            }
        }
    }

    /// The next free name `<base>/<stem>-001`: one more than the highest number there, so that no name is used again
    /// while a later run is kept.
    pub fn unique(base: &Path, stem: &str) -> PathBuf {
        let stem: String = stem.chars().map(|c| if matches!(c, '/' | '\\' | ':') { '-' } else { c }).collect();
        let stem = if stem.is_empty() { "run" } else { &stem };
        let number_of = |name: &str| name.strip_prefix(stem)?.strip_prefix('-')?.parse::<u32>().ok();
        let highest = fs::read_dir(base)
            .into_iter()
            .flatten()
            .filter_map(|entry| number_of(entry.ok()?.file_name().to_str()?))
            .max()
            .unwrap_or(0);
        base.join(format!("{stem}-{:03}", u64::from(highest) + 1))
    }

    /// Takes up a run that was begun before.
    ///
    /// # Errors
    ///
    /// If there is no run, or another trainer holds it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, RunFolderError> {
        let path = path.into();
        if !path.join(CONFIG).is_file() {
            // Tell a folder that is missing from one that is no run.
            fs::metadata(&path).map_err(because("open", &path))?;
            return Err(RunFolderError::NotARun { path });
        }
        let folder = Self::lock(path)?;
        files::remove_leftovers(&folder.path)?;
        let samples = folder.samples_dir();
        if samples.is_dir() {
            files::remove_leftovers(&samples)?;
        }
        Ok(folder)
    }

    /// Where the run is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the user should know about the folder, a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The resolved configuration, `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// The log, `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    /// The loss by the learning rate, `learning-rate.json`.
    pub fn rate_curve(&self) -> PathBuf {
        self.path.join(RATE_CURVE)
    }

    /// The same as a picture, `learning-rate.svg`.
    pub fn rate_plot(&self) -> PathBuf {
        self.path.join(RATE_PLOT)
    }

    /// The generated samples, `samples/`.
    pub fn samples_dir(&self) -> PathBuf {
        self.path.join(SAMPLES)
    }

    /// The weights with the lowest validation loss, `best.safetensors`.
    pub fn best(&self) -> PathBuf {
        self.path.join(BEST)
    }

    /// The events for `TensorBoard`, `tensorboard/`.
    pub fn tensorboard_dir(&self) -> PathBuf {
        self.path.join(TENSORBOARD)
    }

    /// The checkpoints to resume from, `last/` and `previous/`.
    pub fn checkpoints(&self) -> CheckpointStore {
        CheckpointStore::new(&self.path)
    }

    /// Keeps a text that the model generated at `step`: `samples/step-00001200.txt`.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write_sample(&self, step: u64, text: &str) -> Result<PathBuf, FileError> {
        let folder = self.samples_dir();
        fs::create_dir_all(&folder).map_err(because("create", &folder))?;
        let path = folder.join(format!("step-{step:08}.txt"));
        files::write_atomic(&path, text.as_bytes())?;
        Ok(path)
    }

    fn lock(path: PathBuf) -> Result<Self, RunFolderError> {
        let lock_path = path.join(LOCK);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path);
        let mut lock = options.map_err(because("open", &lock_path))?;
        let mut notes = Vec::new();
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Some systems close a locked file to readers; then the message goes without the number.
                let _ = lock.read_to_string(&mut text);
                return Err(RunFolderError::Locked { path, holder: text.trim().parse().ok() });
            }
            // Some cluster file systems have no locks at all, which is no reason to refuse to train there.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                notes.push(format!("{} cannot be locked: let only one trainer use it", path.display()));
            }
            Err(TryLockError::Error(error)) => {
                return Err(FileError::new("lock", lock_path, error).into());
            }
        }
        let pid = std::process::id();
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{pid}"))
            .map_err(because("write", &lock_path))?;
        Ok(Self { path, notes, _lock: lock })
    }
}

fn named(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(", process {pid}"))
}

/// Refuses a folder that holds more than a run leaves which was stopped before its configuration was written: the lock
/// and a half-written file; and what a sweep of learning rates found.
fn refuse_content(path: &Path) -> Result<(), RunFolderError> {
    for entry in fs::read_dir(path).map_err(because("list", path))? {
        let name = entry.map_err(because("list", path))?.file_name();
        if ![LOCK, RATE_CURVE, RATE_PLOT].iter().any(|known| name == *known) && !files::is_leftover(&name) {
            return Err(RunFolderError::NotEmpty { path: path.into() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;

    fn begun(path: &Path) {
        let folder = RunFolder::create(path).expect("created");
        fs::write(folder.config(), b"").expect("written");
    }

    #[test]
    fn a_second_trainer_is_refused_with_the_number_of_the_first_until_it_ends() {
        let scratch = Scratch::new();
        let path = scratch.join("run");
        begun(&path);
        let first = RunFolder::open(&path).expect("free");
        let error = RunFolder::open(&path).expect_err("in use");
        let pid = std::process::id();
        assert_eq!(error.to_string(), format!("{} is in use by another trainer, process {pid}", path.display()));
        assert!(error.hint().is_some());
        drop(first);
        RunFolder::open(&path).expect("free again");
    }

    #[test]
    fn a_new_run_in_an_old_folder_is_refused_with_a_way_on() {
        let scratch = Scratch::new();
        let path = scratch.join("run");
        begun(&path);
        let error = RunFolder::create(&path).expect_err("not empty");
        assert_eq!(error.to_string(), format!("{} is not empty", path.display()));
        let hint = error.hint().expect("a hint");
        assert!(hint.contains(&format!("--resume {}", path.display())), "{hint}");
    }

    #[test]
    fn nothing_is_left_in_a_folder_that_is_not_ours() {
        let scratch = Scratch::new();
        fs::write(scratch.join("thesis.odt"), b"x").expect("written");
        let error = RunFolder::create(scratch.path()).expect_err("not empty");
        assert_eq!(error.hint().as_deref(), Some("choose another folder for the run"));
        assert!(matches!(RunFolder::open(scratch.path()), Err(RunFolderError::NotARun { .. })));
        assert_eq!(scratch.names(), ["thesis.odt"]);
    }

    #[test]
    fn a_run_that_was_stopped_at_once_does_not_block_its_folder() {
        let scratch = Scratch::new();
        drop(RunFolder::create(scratch.path()).expect("created"));
        assert_eq!(scratch.names(), [LOCK]);
        fs::write(scratch.join(".refrain-1-0.tmp"), b"half").expect("written");
        RunFolder::create(scratch.path()).expect("created again");
        assert_eq!(scratch.names(), [LOCK]);
    }

    #[test]
    fn a_missing_run_is_named() {
        let scratch = Scratch::new();
        let path = scratch.join("none");
        let error = RunFolder::open(&path).expect_err("missing");
        assert_eq!(error.to_string(), format!("cannot open {}: no such file or folder", path.display()));
        assert!(!path.exists());
    }

    #[test]
    fn names_count_up_from_the_highest_number_there() {
        let scratch = Scratch::new();
        let base = scratch.join("runs");
        assert_eq!(RunFolder::unique(&base, "shakespeare"), base.join("shakespeare-001"));
        for name in ["shakespeare-001", "shakespeare-007", "shakespeare-x", "other-100"] {
            fs::create_dir_all(base.join(name)).expect("made");
        }
        assert_eq!(RunFolder::unique(&base, "shakespeare"), base.join("shakespeare-008"));
        assert_eq!(RunFolder::unique(&base, "a/b"), base.join("a-b-001"));
        assert_eq!(RunFolder::unique(&base, ""), base.join("run-001"));
        fs::create_dir(base.join("other-1234")).expect("made");
        assert_eq!(RunFolder::unique(&base, "other"), base.join("other-1235"));
    }

    #[test]
    fn trainers_that_start_at_once_get_a_folder_each() {
        let scratch = Scratch::new();
        let folders: Vec<RunFolder> = std::thread::scope(|scope| {
            let start = || RunFolder::create_unique(scratch.path(), "run").expect("created");
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut paths: Vec<_> = folders.iter().map(RunFolder::path).collect();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), 8);
        assert_eq!(scratch.names().last().map(String::as_str), Some("run-008"));
    }

    #[test]
    fn a_sample_is_named_after_its_step_and_leftovers_of_a_kill_go() {
        let scratch = Scratch::new();
        let path = scratch.join("run");
        begun(&path);
        let folder = RunFolder::open(&path).expect("opened");
        let sample = folder.write_sample(1200, "ROMEO:").expect("written");
        assert_eq!(sample, path.join("samples/step-00001200.txt"));
        assert_eq!(fs::read_to_string(sample).expect("there"), "ROMEO:");
        drop(folder);
        for leftover in [path.join(".refrain-1-0.tmp"), path.join("samples/.refrain-1-1.tmp")] {
            fs::write(&leftover, b"half").expect("written");
            RunFolder::open(&path).expect("opened");
            assert!(!leftover.exists());
        }
    }
}
