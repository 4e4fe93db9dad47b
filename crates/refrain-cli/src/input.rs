//! Text from a file or from stdin, decoded.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use refrain::files::FileError;
use refrain::text::{Decoded, Encoding, TextError, decode};

use crate::failure::Usage;

/// The text at `path`, `-` for stdin, and its name; `forced` is what --encoding says.
pub(crate) fn read(path: &Path, forced: Option<Encoding>) -> anyhow::Result<(String, Decoded)> {
    let (name, bytes) = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read stdin")?;
        ("stdin".to_owned(), bytes)
    } else {
        let bytes = std::fs::read(path).map_err(|reason| FileError::new("read", path, reason))?;
        (path.display().to_string(), bytes)
    };
    let decoded = decode(&bytes, forced).map_err(|error| undecodable(&name, &error, forced))?;
    Ok((name, decoded))
}

/// What is wrong with the bytes; the hint of the library is for recipes, which no command here has.
fn undecodable(name: &str, error: &TextError, forced: Option<Encoding>) -> anyhow::Error {
    let hint = match (error, forced) {
        (TextError::Utf32, _) => error.hint().unwrap_or_default(),
        (_, Some(_)) => "leave --encoding out to have it detected, or repair the file",
        (_, None) if name == "stdin" => "pipe UTF-8, UTF-16 or GB18030",
        (_, None) => "repair the file, or name its encoding with --encoding",
    };
    Usage::error(format!("{name}: {error}"), hint)
}
