//! Checkpoints that survive a kill at any moment: `last/` and `previous/` in a run's folder, each whole or not there.
//!
//! A save writes `last.tmp/`, its manifest at the end, and then renames: `previous` → `previous.old`,
//! `last` → `previous`, `last.tmp` → `last`. Between any two steps at least one folder is whole, and
//! [`CheckpointStore::load`] finds the newest.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{self, FileError, because, sha256};

const LAST: &str = "last";
const PREVIOUS: &str = "previous";
/// The save in progress; newer than `last` if it is whole.
const STAGED: &str = "last.tmp";
/// The older `previous`, until the save that replaces it is done.
const RETIRED: &str = "previous.old";
const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "refrain-checkpoint-1";

/// The checkpoints of one run. Saving and loading need the run to ourselves, as a locked `RunFolder` does.
#[derive(Debug, Clone)]
pub struct CheckpointStore {
    dir: PathBuf,
}

/// A checkpoint whose files are all as they were saved.
#[derive(Debug)]
pub struct Loaded {
    /// The files by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What the user should know about how it was found, a line each; empty when all was well.
    pub notes: Vec<String>,
}

/// A checkpoint that could not be saved or found.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused; the checkpoints that were there still are.
    #[error(transparent)]
    File(#[from] FileError),
    /// No checkpoint was ever saved there.
    #[error("no checkpoint in {}", dir.display())]
    NotFound {
        /// The run's folder.
        dir: PathBuf,
    },
    /// There are checkpoints, and none is whole.
    #[error("no usable checkpoint in {}: {}", dir.display(), faults.join("; "))]
    Damaged {
        /// The run's folder.
        dir: PathBuf,
        /// What is wrong, a line for each checkpoint, the newest first.
        faults: Vec<String>,
    },
}

impl CheckpointError {
    /// What the user can do about it, when we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::NotFound { .. } => Some("the run was stopped before its first checkpoint: start it again".into()),
            Self::Damaged { .. } => {
                Some("the files were left as they are; restore them from a copy, or start again".into())
            }
        }
    }
}

/// What is wrong with a checkpoint's folder.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    File(FileError),
    #[error("{name} is missing")]
    Missing { name: String },
    #[error("{name} has {found} bytes instead of {expected}")]
    Size { name: String, found: u64, expected: u64 },
    #[error("{name} is not what was saved: its SHA-256 differs")]
    Content { name: String },
    #[error("{MANIFEST} cannot be read: {reason}")]
    Manifest { reason: String },
}

enum Found {
    Absent,
    Whole(BTreeMap<String, Vec<u8>>),
    Damaged(Fault),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: String,
    files: BTreeMap<String, ManifestEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestEntry {
    bytes: u64,
    sha256: String,
}

impl CheckpointStore {
    /// The checkpoints in a run's folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Saves files by name as the newest checkpoint; the one before it stays.
    ///
    /// # Errors
    ///
    /// Names the path that could not be written. What was there before is there still.
    ///
    /// # Panics
    ///
    /// If a name is not a plain file name, stands twice, or is `manifest.json`.
    pub fn save(&self, files: &[(&str, &[u8])]) -> Result<(), CheckpointError> {
        let staged = self.dir.join(STAGED);
        fs::create_dir_all(&self.dir).map_err(because("create", &self.dir))?;
        files::remove_if_present(&staged)?;
        if let Err(error) = stage(&staged, files).and_then(|()| self.rotate()) {
            // The first error is the one to report.
            let _ = files::remove_if_present(&staged);
            return Err(error.into());
        }
        // The checkpoint is saved; what cannot be removed now is removed, or reported, by the next save.
        let _ = files::remove_if_present(&self.dir.join(RETIRED));
        Ok(())
    }

    /// Finds the newest whole checkpoint.
    ///
    /// A damaged `last` is renamed to `last.damaged-1` (or the next free number), and the one before it is loaded.
    ///
    /// # Errors
    ///
    /// If there is no checkpoint, or none is whole (nothing is renamed then), or the folder is closed to us.
    pub fn load(&self) -> Result<Loaded, CheckpointError> {
        let mut faults = Vec::new();
        for name in [LAST, STAGED, PREVIOUS, RETIRED] {
            match self.examine(name)? {
                Found::Absent => {}
                Found::Damaged(fault) => faults.push((name, fault)),
                Found::Whole(files) => {
                    let notes = if name == LAST { Vec::new() } else { self.recover(name, &faults) };
                    if name == LAST || name == STAGED {
                        self.tidy();
                    }
                    return Ok(Loaded { files, notes });
                }
            }
        }
        // A first save that was cut off leaves a part that is no checkpoint yet.
        faults.retain(|(name, _)| *name != STAGED);
        if faults.is_empty() {
            return Err(CheckpointError::NotFound { dir: self.dir.clone() });
        }
        let faults = faults.into_iter().map(|(name, fault)| format!("{name}: {fault}")).collect();
        Err(CheckpointError::Damaged { dir: self.dir.clone(), faults })
    }

    /// Makes room for the staged checkpoint and puts it in its place; takes all of it back if a step fails.
    fn rotate(&self) -> Result<(), FileError> {
        files::remove_if_present(&self.dir.join(RETIRED))?;
        let steps: &[_] = if exists(&self.dir.join(LAST)) {
            &[(PREVIOUS, RETIRED), (LAST, PREVIOUS), (STAGED, LAST)]
        } else {
            // `previous` is the newest and keeps its place.
            &[(STAGED, LAST)]
        };
        let mut done = Vec::new();
        for (from, to) in steps {
            let (from, to) = (self.dir.join(from), self.dir.join(to));
            if !exists(&from) {
                continue;
            }
            if let Err(error) = fs::rename(&from, &to) {
                for (from, to) in done.iter().rev() {
                    // Should this fail too, `load` finds the checkpoint under either name.
                    let _ = fs::rename(to, from);
                }
                return Err(FileError::new("rename", from, error));
            }
            done.push((from, to));
        }
        files::sync_folder(&self.dir).map_err(because("save", &self.dir))
    }

    fn examine(&self, name: &str) -> Result<Found, FileError> {
        let folder = self.dir.join(name);
        if !exists(&folder) {
            return Ok(Found::Absent);
        }
        match verify(&folder) {
            Ok(files) => Ok(Found::Whole(files)),
            // Closed to us is not damaged, and another checkpoint would be closed too.
            Err(Fault::File(error)) if error.kind() == ErrorKind::PermissionDenied => Err(error),
            Err(fault) => Ok(Found::Damaged(fault)),
        }
    }

    /// Sets a damaged `last` aside and says so; puts a whole staged checkpoint in its place.
    fn recover(&self, used: &str, faults: &[(&str, Fault)]) -> Vec<String> {
        let mut notes = Vec::new();
        match faults.iter().find(|(name, _)| *name == LAST) {
            Some((_, fault)) => notes.push(match self.set_aside() {
                Ok(name) => format!("checkpoint {LAST}: {fault}; set aside as {name}"),
                // On a read-only disk, the older checkpoint is as good as elsewhere.
                Err(error) => format!("checkpoint {LAST}: {fault}; {error}"),
            }),
            None => notes.push(format!("checkpoint {LAST} is missing: its saving was cut off")),
        }
        if used == STAGED {
            let last = self.dir.join(LAST);
            let placed = fs::rename(self.dir.join(STAGED), &last).and_then(|()| files::sync_folder(&self.dir));
            notes.push(match placed {
                Ok(()) => "finished the save that was cut off".into(),
                Err(error) => FileError::new("create", last, error).to_string(),
            });
        } else {
            notes.push(format!("using the checkpoint before it, {used}"));
        }
        notes
    }

    /// Ends a save that was cut off after `last` was in its place: no other save may follow in this run.
    fn tidy(&self) {
        let (previous, retired) = (self.dir.join(PREVIOUS), self.dir.join(RETIRED));
        // What cannot be moved or removed now is seen to by the next save.
        if exists(&retired) && !exists(&previous) {
            let _ = fs::rename(&retired, &previous);
        }
        let _ = files::remove_if_present(&retired);
        let _ = files::remove_if_present(&self.dir.join(STAGED));
    }

    fn set_aside(&self) -> Result<String, FileError> {
        let last = self.dir.join(LAST);
        let mut number = 1;
        let mut name = format!("{LAST}.damaged-{number}");
        while exists(&self.dir.join(&name)) {
            number += 1;
            name = format!("{LAST}.damaged-{number}");
        }
        fs::rename(&last, self.dir.join(&name)).map_err(because("set aside", &last))?;
        Ok(name)
    }
}

/// Writes a checkpoint's folder, the manifest after all that it vouches for.
fn stage(folder: &Path, files: &[(&str, &[u8])]) -> Result<(), FileError> {
    fs::create_dir(folder).map_err(because("create", folder))?;
    let mut entries = BTreeMap::new();
    for &(name, bytes) in files {
        assert!(is_plain(name), "`{name}` cannot be the name of a file in a checkpoint");
        files::write_new(&folder.join(name), bytes)?;
        let entry = ManifestEntry { bytes: bytes.len() as u64, sha256: sha256(&[bytes]) };
        assert!(entries.insert(name.to_string(), entry).is_none(), "`{name}` stands twice in a checkpoint");
    }
    let manifest = Manifest { format: FORMAT.into(), files: entries };
    let manifest = serde_json::to_vec(&manifest).expect("strings and numbers always have a JSON form");
    files::write_new(&folder.join(MANIFEST), &manifest)?;
    files::sync_folder(folder).map_err(because("save", folder))
}

/// Reads every file of a checkpoint and holds it against the manifest.
fn verify(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, Fault> {
    let unreadable = |reason: String| Fault::Manifest { reason };
    let manifest: Manifest =
        serde_json::from_slice(&read(folder, MANIFEST)?).map_err(|error| unreadable(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(unreadable(format!("its format is `{}`, this version reads `{FORMAT}`", manifest.format)));
    }
    let mut files = BTreeMap::new();
    for (name, entry) in manifest.files {
        // A manifest may come from anywhere; it must not make us read outside of the checkpoint.
        if !is_plain(&name) {
            return Err(unreadable(format!("`{name}` cannot be the name of a file")));
        }
        let bytes = read(folder, &name)?;
        if bytes.len() as u64 != entry.bytes {
            return Err(Fault::Size { name, found: bytes.len() as u64, expected: entry.bytes });
        }
        if sha256(&[&bytes]) != entry.sha256 {
            return Err(Fault::Content { name });
        }
        files.insert(name, bytes);
    }
    Ok(files)
}

fn read(folder: &Path, name: &str) -> Result<Vec<u8>, Fault> {
    let path = folder.join(name);
    fs::read(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Fault::Missing { name: name.into() },
        _ => Fault::File(FileError::new("read", path, error)),
    })
}

fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | ".." | MANIFEST) && !name.contains(['/', '\\', ':', '\0'])
}

/// Whether anything has this name, be it a link to nowhere.
fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;

    const NAMES: [&str; 2] = ["state.json", "weights.safetensors"];

    /// The files of the checkpoint with this number.
    fn files(number: u8) -> BTreeMap<String, Vec<u8>> {
        NAMES.map(|name| (name.to_string(), vec![number; 10 + name.len()])).into()
    }

    fn save(store: &CheckpointStore, number: u8) {
        let files = files(number);
        let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        store.save(&files).expect("saved");
    }

    /// A store with checkpoint 1 in `previous` and 2 in `last`.
    fn store_of_two(scratch: &Scratch) -> CheckpointStore {
        let store = CheckpointStore::new(scratch.path());
        save(&store, 1);
        save(&store, 2);
        store
    }

    /// Puts the whole checkpoint `number` under `name`.
    fn place(scratch: &Scratch, name: &str, number: u8) {
        let made = Scratch::new();
        save(&CheckpointStore::new(made.path()), number);
        fs::rename(made.join(LAST), scratch.join(name)).expect("on one disk");
    }

    #[test]
    fn the_newest_two_are_kept() {
        let scratch = Scratch::new();
        let store = store_of_two(&scratch);
        save(&store, 3);
        assert_eq!(scratch.names(), [LAST, PREVIOUS]);
        assert_eq!(verify(&scratch.join(LAST)).expect("whole"), files(3));
        assert_eq!(verify(&scratch.join(PREVIOUS)).expect("whole"), files(2));
        let loaded = store.load().expect("loaded");
        assert_eq!(loaded.files, files(3));
        assert!(loaded.notes.is_empty());
    }

    #[test]
    fn whichever_file_is_damaged_the_checkpoint_before_is_loaded_and_the_damaged_one_is_kept() {
        type Damage = fn(&Path);
        let truncate: Damage = |path| {
            let bytes = fs::read(path).expect("there");
            fs::write(path, &bytes[..bytes.len() - 1]).expect("written");
        };
        let empty: Damage = |path| fs::write(path, b"").expect("written");
        let flip: Damage = |path| {
            let mut bytes = fs::read(path).expect("there");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, &bytes).expect("written");
        };
        let delete: Damage = |path| fs::remove_file(path).expect("removed");
        for name in NAMES.into_iter().chain([MANIFEST]) {
            for damage in [truncate, empty, flip, delete] {
                let scratch = Scratch::new();
                let store = store_of_two(&scratch);
                fs::create_dir(scratch.join("last.damaged-1")).expect("made");
                damage(&scratch.join(LAST).join(name));

                let loaded = store.load().expect("the one before is whole");
                assert_eq!(loaded.files, files(1));
                // A flipped bit of the manifest may show in the file that it vouches for.
                let named = if name == MANIFEST { "" } else { name };
                assert!(loaded.notes[0].starts_with(&format!("checkpoint last: {named}")), "{:?}", loaded.notes);
                assert!(loaded.notes[0].ends_with("; set aside as last.damaged-2"), "{:?}", loaded.notes);
                assert_eq!(scratch.names(), ["last.damaged-1", "last.damaged-2", PREVIOUS]);

                save(&store, 3);
                assert_eq!(store.load().expect("loaded").files, files(3));
                assert_eq!(verify(&scratch.join(PREVIOUS)).expect("kept"), files(1));
            }
        }
    }

    #[test]
    fn no_flipped_bit_of_a_manifest_gives_other_content() {
        let scratch = Scratch::new();
        save(&CheckpointStore::new(scratch.path()), 1);
        let folder = scratch.join(LAST);
        let manifest = fs::read(folder.join(MANIFEST)).expect("there");
        for bit in 0..manifest.len() * 8 {
            let mut flipped = manifest.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(folder.join(MANIFEST), flipped).expect("written");
            assert!(verify(&folder).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_kill_between_any_two_steps_of_a_save_leaves_the_newest_whole_checkpoint_to_load() {
        // The whole checkpoints in the folder, whether a part of one is staged, and what to load.
        type Window<'a> = (&'a [(&'a str, u8)], &'a [&'a str], u8);
        let windows: &[Window] = &[
            (&[(PREVIOUS, 1), (LAST, 2)], &[STAGED], 2),
            (&[(PREVIOUS, 1), (LAST, 2), (STAGED, 3)], &[], 2),
            (&[(RETIRED, 1), (LAST, 2), (STAGED, 3)], &[], 2),
            (&[(RETIRED, 1), (PREVIOUS, 2), (STAGED, 3)], &[], 3),
            (&[(RETIRED, 1), (PREVIOUS, 2), (LAST, 3)], &[], 3),
            (&[(PREVIOUS, 2), (LAST, 3)], &[RETIRED], 3),
            // The first and the second save of a run.
            (&[(STAGED, 1)], &[], 1),
            (&[(LAST, 1)], &[STAGED], 1),
            (&[(PREVIOUS, 1), (STAGED, 2)], &[], 2),
            // After a damaged `last` was set aside.
            (&[(PREVIOUS, 1)], &[STAGED], 1),
            (&[(PREVIOUS, 1), (STAGED, 3)], &[], 3),
            // A damaged `last` on top of a kill.
            (&[(PREVIOUS, 1), (STAGED, 3)], &[LAST], 3),
            (&[(RETIRED, 1)], &[LAST, STAGED], 1),
        ];
        for (whole, parts, number) in windows {
            let scratch = Scratch::new();
            let store = CheckpointStore::new(scratch.path());
            let build = || {
                for (name, number) in *whole {
                    place(&scratch, name, *number);
                }
                for name in *parts {
                    fs::create_dir(scratch.join(name)).expect("made");
                    fs::write(scratch.join(name).join(NAMES[0]), b"half").expect("written");
                }
            };
            build();
            let loaded = store.load().unwrap_or_else(|error| panic!("{whole:?} {parts:?}: {error}"));
            assert_eq!(loaded.files, files(*number), "{whole:?} {parts:?}");
            let again = store.load().expect("loading changes nothing that it needs");
            assert_eq!(again.files, files(*number), "{whole:?} {parts:?}");

            // Saving goes on after a load, and also without one.
            for _ in 0..2 {
                save(&store, 9);
                assert_eq!(store.load().expect("loaded").files, files(9), "{whole:?} {parts:?}");
                assert!(!exists(&scratch.join(STAGED)) && !exists(&scratch.join(RETIRED)), "{whole:?} {parts:?}");
                for name in scratch.names() {
                    fs::remove_dir_all(scratch.join(&name)).expect("removed");
                }
                build();
            }
        }
    }

    #[test]
    fn a_save_that_fails_names_the_path_and_leaves_the_checkpoints_as_they_were() {
        let scratch = Scratch::new();
        let store = store_of_two(&scratch);
        let too_long = "n".repeat(300);
        let error = store.save(&[(NAMES[0], b"x"), (&too_long, b"x")]).expect_err("no file may have this name");
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert!(error.to_string().contains("/last.tmp/nnn"), "{error}");
        assert_eq!(scratch.names(), [LAST, PREVIOUS]);
        assert_eq!(verify(&scratch.join(LAST)).expect("whole"), files(2));
        assert_eq!(verify(&scratch.join(PREVIOUS)).expect("whole"), files(1));
    }

    #[test]
    fn with_no_whole_checkpoint_each_fault_is_told_and_nothing_is_renamed() {
        let scratch = Scratch::new();
        let store = store_of_two(&scratch);
        fs::remove_file(scratch.join("last/state.json")).expect("removed");
        fs::write(scratch.join("previous/state.json"), b"short").expect("written");
        let error = store.load().expect_err("both are damaged");
        assert_eq!(
            error.to_string(),
            format!(
                "no usable checkpoint in {}: last: state.json is missing; \
                 previous: state.json has 5 bytes instead of 20",
                scratch.path().display()
            )
        );
        assert_eq!(scratch.names(), [LAST, PREVIOUS]);
    }

    #[test]
    fn a_run_without_a_checkpoint_says_so() {
        let scratch = Scratch::new();
        let store = CheckpointStore::new(scratch.path());
        assert!(matches!(store.load(), Err(CheckpointError::NotFound { .. })));
        fs::create_dir(scratch.join(STAGED)).expect("made");
        let error = store.load().expect_err("a part of a first save is no checkpoint");
        assert_eq!(error.to_string(), format!("no checkpoint in {}", scratch.path().display()));
    }

    #[test]
    fn a_manifest_cannot_reach_outside_of_its_folder() {
        let scratch = Scratch::new();
        fs::write(scratch.join("secret"), b"secret").expect("written");
        fs::create_dir(scratch.join(LAST)).expect("made");
        for name in ["../secret", "..", "/etc/hostname", "a\\b"] {
            let entry = ManifestEntry { bytes: 6, sha256: sha256(&[b"secret"]) };
            let manifest = Manifest { format: FORMAT.into(), files: [(name.to_string(), entry)].into() };
            let manifest = serde_json::to_vec(&manifest).expect("JSON");
            fs::write(scratch.join(LAST).join(MANIFEST), manifest).expect("written");
            assert!(matches!(verify(&scratch.join(LAST)), Err(Fault::Manifest { .. })), "{name}");
        }
    }
}
