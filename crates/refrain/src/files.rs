//! Files that are written whole or not at all, and errors that name the path.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

const TEMPORARY_PREFIX: &str = ".refrain-";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// A file operation that the operating system refused, in one line that names the path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}: {}", path.display(), plain_reason(reason))]
pub struct FileError {
    verb: &'static str,
    path: PathBuf,
    reason: io::Error,
}

impl FileError {
    /// An error that reads `cannot <verb> <path>: <reason>`.
    pub fn new(verb: &'static str, path: impl Into<PathBuf>, reason: io::Error) -> Self {
        Self { verb, path: path.into(), reason }
    }

    /// The file or folder that the operation was about.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of failure the operating system reported.
    pub fn kind(&self) -> ErrorKind {
        self.reason.kind()
    }

    /// What the user can do about it, when we know.
    pub fn hint(&self) -> Option<String> {
        let folder = parent_of(&self.path).display();
        match self.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Some("free some space on that disk, then run it again".into())
            }
            ErrorKind::PermissionDenied => Some(format!("check the permissions of {}", self.path.display())),
            ErrorKind::ReadOnlyFilesystem => Some(format!("{folder} is on a read-only disk: choose another folder")),
            ErrorKind::NotFound if parent_of(&self.path) == Path::new(".") => Some("check the spelling".into()),
            ErrorKind::NotFound => Some(format!("check the spelling, and that {folder} exists")),
            ErrorKind::FileTooLarge => Some("a limit on the size of files is in force: see `ulimit -f`".into()),
            _ => None,
        }
    }
}

/// Turns an [`io::Error`] into a [`FileError`]: `.map_err(because("read", path))`.
pub(crate) fn because(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |reason| FileError::new(verb, path, reason)
}

/// The reason in the words of every system alike, or else without Rust's trailing `(os error 28)`.
fn plain_reason(reason: &io::Error) -> String {
    match reason.kind() {
        ErrorKind::NotFound => return "no such file or folder".into(),
        ErrorKind::PermissionDenied => return "permission denied".into(),
        ErrorKind::IsADirectory => return "is a folder".into(),
        _ => {}
    }
    let mut text = reason.to_string();
    if let Some(at) = text.find(" (os error ") {
        text.truncate(at);
    }
    text
}

/// Writes a file so that a crash at any moment leaves either the old content or the new, never a part.
///
/// The bytes go to a temporary file in the same folder, which is synced and then renamed over `path`. A symbolic link
/// stays a link; a device or a pipe is written to directly, since renaming over it would replace it.
///
/// # Errors
///
/// Names `path` when its folder is missing or closed to us, when the disk is full, or when `path` is a folder. The
/// temporary file is removed and the old content stays.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    match fs::metadata(&target) {
        Ok(existing) if existing.is_dir() => {
            return Err(FileError::new("write", path, ErrorKind::IsADirectory.into()));
        }
        Ok(existing) if !existing.is_file() => {
            let device = OpenOptions::new().write(true).open(&target);
            return device.and_then(|mut device| device.write_all(bytes)).map_err(because("write", path));
        }
        _ => {}
    }
    let folder = parent_of(&target);
    let (temporary, file) = create_temporary(folder).map_err(because("write", path))?;
    let written = write_and_sync(file, bytes)
        .and_then(|()| fs::rename(&temporary, &target))
        .and_then(|()| sync_folder(folder))
        .map_err(because("write", path));
    if written.is_err() {
        // The first error is the one to report; after a successful rename there is nothing left to remove.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Creates a file that must not exist yet, writes it and syncs it to the disk.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    File::create_new(path).and_then(|file| write_and_sync(file, bytes)).map_err(because("write", path))
}

/// SHA-256 of `parts` one after the other, in hexadecimal.
pub(crate) fn sha256(parts: &[&[u8]]) -> String {
    let digest = parts.iter().fold(Sha256::new(), Sha256::chain_update).finalize();
    digest.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// Makes creations, renames and removals inside a folder survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        // Elsewhere a folder cannot be opened as a file, and the file system orders its own journal.
        return Ok(());
    }
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some network file systems do not know the operation; there is nothing more that we could do.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

/// Whether a file of this name is a temporary one of ours.
pub(crate) fn is_leftover(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX) && name.ends_with(TEMPORARY_SUFFIX))
}

/// Removes the temporary files that a killed process left in a folder which we own exclusively.
pub(crate) fn remove_leftovers(folder: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(folder).map_err(because("list", folder))? {
        let entry = entry.map_err(because("list", folder))?;
        if is_leftover(&entry.file_name()) {
            fs::remove_file(entry.path()).map_err(because("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Removes a file or a whole folder; that it is not there is fine.
pub(crate) fn remove_if_present(path: &Path) -> Result<(), FileError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(because("remove", path)),
    }
}

/// The folder that holds `path`: `.` for a bare file name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn write_and_sync(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

fn create_temporary(folder: &Path) -> io::Result<(PathBuf, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY_PREFIX}{}-{number}{TEMPORARY_SUFFIX}", std::process::id());
        let path = folder.join(name);
        match File::create_new(&path) {
            // A killed process with our number, as in containers where each is number 1.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (path, file)),
        }
    }
}

/// A log that grows by whole records, each handed to the operating system before `append` returns.
#[derive(Debug)]
pub(crate) struct AppendFile {
    path: PathBuf,
    file: File,
    /// Bytes of whole records.
    length: u64,
}

impl AppendFile {
    /// Starts a file that must not exist yet.
    pub(crate) fn create(path: &Path) -> Result<Self, FileError> {
        let file = OpenOptions::new().append(true).create_new(true).open(path);
        Ok(Self { path: path.into(), file: file.map_err(because("create", path))?, length: 0 })
    }

    /// Continues a file that ends with a whole record.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let file = OpenOptions::new().append(true).open(path).map_err(because("open", path))?;
        let length = file.metadata().map_err(because("open", path))?.len();
        Ok(Self { path: path.into(), file, length })
    }

    /// Adds one record; after an error, such as a full disk, the file still ends with the record before it.
    pub(crate) fn append(&mut self, record: &[u8]) -> Result<(), FileError> {
        if let Err(error) = self.file.write_all(record) {
            // The write error is the one to report.
            let _ = self.file.set_len(self.length);
            return Err(FileError::new("write", &self.path, error));
        }
        self.length += record.len() as u64;
        Ok(())
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A folder of a test's own, removed when it goes out of scope.
    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Self {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("refrain-test-{}-{number}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("the temporary folder can be written");
            Self(path)
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }

        pub(crate) fn join(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        /// The names in the folder, sorted.
        pub(crate) fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("the folder is there");
            let mut names: Vec<String> =
                entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_atomic_write_replaces_the_old_content_and_leaves_nothing_else() {
        let scratch = Scratch::new();
        let path = scratch.join("a.txt");
        write_atomic(&path, b"old").expect("written");
        write_atomic(&path, b"new").expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"new");
        assert_eq!(scratch.names(), ["a.txt"]);
    }

    #[test]
    fn a_failed_write_names_the_path_and_removes_its_temporary_file() {
        let scratch = Scratch::new();
        let folder = scratch.join("folder");
        fs::create_dir(&folder).expect("made");
        let error = write_atomic(&folder, b"x").expect_err("it is a folder");
        assert_eq!(error.to_string(), format!("cannot write {}: is a folder", folder.display()));

        let too_long = scratch.join(&"n".repeat(300));
        let error = write_atomic(&too_long, b"x").expect_err("no file may have this name");
        assert_eq!(error.path(), too_long);
        assert_eq!(scratch.names(), ["folder"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let scratch = Scratch::new();
        let path = scratch.join("none/a.txt");
        let error = write_atomic(&path, b"x").expect_err("no such folder");
        assert_eq!(error.to_string(), format!("cannot write {}: no such file or folder", path.display()));
        let hint = error.hint().expect("a hint");
        assert!(hint.contains(&scratch.join("none").display().to_string()), "{hint}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_reported_as_full_and_stays_a_device() {
        let error = write_atomic(Path::new("/dev/full"), b"x").expect_err("always full");
        assert_eq!(error.to_string(), "cannot write /dev/full: No space left on device");
        assert!(error.hint().expect("a hint").starts_with("free some space"));
        assert!(!fs::metadata("/dev/full").expect("still there").is_file());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let scratch = Scratch::new();
        fs::write(scratch.join("real"), b"old").expect("written");
        std::os::unix::fs::symlink(scratch.join("real"), scratch.join("link")).expect("linked");
        write_atomic(&scratch.join("link"), b"new").expect("written");
        assert!(fs::symlink_metadata(scratch.join("link")).expect("there").is_symlink());
        assert_eq!(fs::read(scratch.join("real")).expect("there"), b"new");
    }

    #[test]
    fn leftovers_go_and_everything_else_stays() {
        let scratch = Scratch::new();
        for name in [".refrain-1-0.tmp", "notes.tmp", "a.txt"] {
            fs::write(scratch.join(name), b"x").expect("written");
        }
        remove_leftovers(scratch.path()).expect("removed");
        assert_eq!(scratch.names(), ["a.txt", "notes.tmp"]);
    }
}
