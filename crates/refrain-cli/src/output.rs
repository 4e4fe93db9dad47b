//! Data on stdout and in new files.

use std::io::{ErrorKind, Write as _, stdout};
use std::path::Path;

use refrain::files::FileError;
use serde::Serialize;

use crate::failure::Usage;

/// Writes and flushes; an error, a closed pipe among them, goes up.
pub(crate) fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(())
}

/// One JSON value on a line.
pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    write(format!("{}\n", serde_json::to_string(value)?).as_bytes())
}

/// Says before the work, not after it, that the file could not be written, or that something would be lost to it.
pub(crate) fn check_free(output: &Path) -> anyhow::Result<()> {
    // A link that leads nowhere is there, too.
    if output.symlink_metadata().is_ok() {
        return Err(Usage::error(
            format!("{} exists already", output.display()),
            "choose another name, or remove it first",
        ));
    }
    match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(FileError::new("write", output, ErrorKind::NotFound.into()).into())
        }
        _ => Ok(()),
    }
}
