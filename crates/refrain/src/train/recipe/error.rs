//! What can be wrong with a recipe.

use thiserror::Error;

/// A mistake in a recipe: what, where, and what may have been meant.
///
/// `place` is `file:line`, `--set key=value`, or empty for a recipe made in code.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecipeError {
    /// The file is not TOML.
    #[error("not valid TOML: {problem}{}", at(place))]
    Syntax {
        /// What the TOML reader says.
        problem: String,
        /// Where.
        place: String,
    },
    /// An override without a value.
    #[error("--set {flag}: there is no `=`")]
    Flag {
        /// The text of the override.
        flag: String,
    },
    /// A table that there is not.
    #[error("unknown table [{table}]{}", at(place))]
    UnknownTable {
        /// Its name.
        table: String,
        /// Where.
        place: String,
        /// What may have been meant.
        hint: String,
    },
    /// A key that there is not.
    #[error("unknown key `{key}`{}{}", inside(table), at(place))]
    UnknownKey {
        /// Its name.
        key: String,
        /// The table it stands in; empty at the top.
        table: String,
        /// Where.
        place: String,
        /// What may have been meant.
        hint: String,
    },
    /// A value of the wrong type or out of range.
    #[error("`{key}` must be {allowed}, found {found}{}", at(place))]
    Value {
        /// The key with its table.
        key: String,
        /// What it may be.
        allowed: String,
        /// What it is.
        found: String,
        /// Where.
        place: String,
        /// What may have been meant.
        hint: Option<String>,
    },
    /// Values that do not go together.
    #[error("{problem}{}", at(place))]
    Conflict {
        /// Which, and why.
        problem: String,
        /// Where the one to change stands.
        place: String,
        /// What to do about it.
        hint: String,
    },
    /// A value that no recipe can hold.
    #[error("{problem}{}", at(place))]
    Unreadable {
        /// What is wrong with it.
        problem: String,
        /// Where.
        place: String,
    },
}

impl RecipeError {
    /// What the user can do about it, where we know.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Flag { .. } => Some("write it as --set table.key=value"),
            Self::UnknownTable { hint, .. } | Self::UnknownKey { hint, .. } | Self::Conflict { hint, .. } => Some(hint),
            Self::Value { hint, .. } => hint.as_deref(),
            Self::Syntax { .. } | Self::Unreadable { .. } => None,
        }
    }
}

fn at(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!(", {place}") }
}

fn inside(table: &str) -> String {
    if table.is_empty() { String::new() } else { format!(" in [{table}]") }
}
