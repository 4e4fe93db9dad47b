//! Data on stdout.

use std::io::{Write as _, stdout};

use serde::Serialize;

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
