//! What can end a training run.

use std::fmt;
use std::path::PathBuf;

use super::checkpoint::CheckpointError;
use super::recipe::RecipeError;
use super::run_folder::RunFolderError;
use crate::data::DataError;
use crate::files::FileError;
use crate::models::ArtefactError;

/// A training run that could not begin, go on or end well.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The corpus.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The run's folder.
    #[error(transparent)]
    RunFolder(#[from] RunFolderError),
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A model file.
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    /// Any other file of the run.
    #[error(transparent)]
    File(#[from] FileError),
    /// The run was started with another recipe.
    #[error("{} was started with another recipe: {}", run.display(), differences.join("; "))]
    OtherRecipe {
        /// The run's folder.
        run: PathBuf,
        /// One entry a key.
        differences: Vec<String>,
    },
    /// The corpus is not the one that the run was started with.
    #[error(
        "{} was started with another corpus: {source_name} has SHA-256 {}… now, it was {}…",
        run.display(), short(found), short(expected)
    )]
    OtherCorpus {
        /// The run's folder.
        run: PathBuf,
        /// What the recipe reads.
        source_name: String,
        /// The fingerprint at the start.
        expected: String,
        /// The fingerprint now.
        found: String,
    },
    /// A checkpoint whose parts do not fit each other or the recipe.
    #[error("{}: the checkpoint cannot be used: {reason}", run.display())]
    Snapshot {
        /// The run's folder.
        run: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The loss or a gradient is infinite or not a number.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

impl TrainError {
    /// What to try, where we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Recipe(error) => error.hint().map(str::to_owned),
            Self::Data(error) => error.hint().map(str::to_owned),
            Self::RunFolder(error) => error.hint(),
            Self::Checkpoint(error) => error.hint(),
            Self::Artefact(error) => error.hint(),
            Self::File(error) => error.hint(),
            Self::OtherRecipe { run, .. } => Some(format!(
                "resume with `--resume {}` alone, or start a new run with the new settings",
                run.display()
            )),
            Self::OtherCorpus { .. } => Some("put the old text back, or start a new run with the new one".to_owned()),
            Self::Snapshot { .. } => None,
            Self::NotFinite(_) => Some(
                "lower optimizer.learning-rate, clip harder with train.clip-norm or lengthen schedule.warmup-steps; \
                 a checkpoint in last/ is from before"
                    .to_owned(),
            ),
        }
    }
}

/// A loss or gradient that is infinite or not a number, and what is known of where it began.
#[derive(Clone, Debug, PartialEq)]
pub struct NotFinite {
    /// `"loss"`, `"gradient"`, `"validation loss"` or `"updated weight"`.
    pub what: &'static str,
    /// The step, counted from 1.
    pub step: u64,
    /// The first parameter whose gradient is not finite.
    pub broken: Option<String>,
    /// The parameter whose gradient first left its usual size, at which step, and by what factor.
    pub surge: Option<(String, u64, f64)>,
}

impl std::error::Error for NotFinite {}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} is not finite at step {}", self.what, self.step)?;
        if let Some(broken) = &self.broken {
            write!(f, ", in `{broken}`")?;
        }
        match &self.surge {
            Some((name, since, ratio)) => {
                let ratio = if *ratio < 1e6 { format!("{ratio:.0}") } else { format!("{ratio:.1e}") };
                write!(f, "; the gradient of `{name}` grew first: {ratio} times its running mean at step {since}")
            }
            None => write!(f, "; no layer's gradient had grown tenfold before"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_named_with_where_it_began() {
        let surge = Some(("head.weight".to_owned(), 2, 19.4));
        let broken = Some("embedding.weight".to_owned());
        assert_eq!(
            NotFinite { what: "gradient", step: 3, broken, surge }.to_string(),
            "the gradient is not finite at step 3, in `embedding.weight`; the gradient of `head.weight` grew first: \
             19 times its running mean at step 2"
        );
    }
}
