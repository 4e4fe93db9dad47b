//! How an error reaches the user: one line, and a hint where we know the fix.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use refrain::data::DataError;
use refrain::decode::FilterError;
use refrain::experiment::ComparisonError;
use refrain::files::FileError;
use refrain::models::{ArtefactError, QuantizeError};
use refrain::text::TextError;
use refrain::train::{RecipeError, RunFolderError, TrainError};

use crate::console::Console;

/// An error of the command line itself, with its hint.
#[derive(Debug)]
pub(crate) struct Usage {
    message: String,
    hint: Option<String>,
}

impl Usage {
    pub(crate) fn error(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self { message: message.into(), hint: Some(hint.into()) })
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Usage {}

/// Prints the error; a reader that closed the pipe is no error.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    tell(error);
    ExitCode::FAILURE
}

/// Prints the error in one line, and its hint.
pub(crate) fn tell(error: &anyhow::Error) {
    let mut line = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    let mut console = Console::new();
    console.line(&format!("error: {line}"));
    if let Some(hint) = hint(error) {
        console.line(&format!("hint: {hint}"));
    }
}

pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == ErrorKind::BrokenPipe))
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        macro_rules! hint_of {
            ($($kind:ty),*) => {
                $(if let Some(known) = cause.downcast_ref::<$kind>() {
                    return known.hint().map(|hint| hint.to_string());
                })*
            };
        }
        hint_of!(
            TrainError,
            RecipeError,
            RunFolderError,
            DataError,
            TextError,
            ArtefactError,
            QuantizeError,
            FilterError,
            ComparisonError,
            FileError
        );
        cause.downcast_ref::<Usage>().and_then(|usage| usage.hint.clone())
    })
}
