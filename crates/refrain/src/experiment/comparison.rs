//! Models of equal parameters, trained by one recipe: what is to run, and what has.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{CONTENDERS, Contender};
use crate::data::TextSummary;
use crate::files::{FileError, because, write_atomic};
use crate::metrics::UnitScore;
use crate::models::CellKind;
use crate::tasks::{NGramScore, text_score};
use crate::train::{Recipe, RecipeError};

/// What is wrong with a comparison.
#[derive(Debug, thiserror::Error)]
pub enum ComparisonError {
    /// No contender is called this.
    #[error("unknown cell `{name}`")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
    },
    /// It is asked to predict what it has read.
    #[error("a language model cannot be bidirectional: the backward direction has read the word that it must predict")]
    Bidirectional {
        /// What was asked for.
        name: String,
    },
    /// Even the smallest model has more parameters, or the largest fewer.
    #[error("no {num_layers}-layer {name} has about {budget} parameters: the nearest has {found}")]
    Budget {
        /// The contender.
        name: &'static str,
        /// Its layers.
        num_layers: usize,
        /// What was asked for.
        budget: usize,
        /// What there is.
        found: usize,
    },
    /// A recipe cannot be made of the base and what is changed.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file of results is none.
    #[error("{}: not the results of a comparison: {reason}", path.display())]
    Results {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The folder has results of something else.
    #[error("{}: its results are of another comparison: {difference}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// In what.
        difference: String,
    },
}

impl ComparisonError {
    /// What the user can do about it, when we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { nearest: Some(name), .. } => Some(format!("did you mean `{name}`?")),
            Self::Unknown { .. } => {
                let names: Vec<&str> = CONTENDERS.iter().map(|contender| contender.name).collect();
                Some(format!("there are {}", names.join(", ")))
            }
            Self::Bidirectional { .. } => Some("leave it out of --cells".into()),
            Self::Budget { .. } => {
                Some("give another --parameters, or set model.embedding-size: the embedding is counted too".into())
            }
            Self::Recipe(error) => error.hint().map(str::to_owned),
            Self::File(error) => error.hint(),
            Self::Results { .. } | Self::Other { .. } => Some("choose another folder".into()),
        }
    }
}

/// A size that any usual number of heads divides, until the right one is known.
const DIVISIBLE: usize = 10_080;

/// One model to train.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it is.
    pub contender: Contender,
    /// All of it.
    pub recipe: Recipe,
    /// How many it has.
    pub parameters: usize,
}

impl Plan {
    /// The contender with `num_layers` layers, of about `budget` parameters over a vocabulary, as the base says else. What the
    /// contender does not have of the base is set aside; `overrides` come last.
    ///
    /// # Errors
    /// If the recipe that this makes is none, or the budget is out of reach.
    pub fn new(
        base: &Recipe,
        contender: Contender,
        (num_layers, seed): (usize, u64),
        (budget, vocab_size): (usize, usize),
        overrides: &[String],
    ) -> Result<Self, ComparisonError> {
        let is_transformer = |cell: &str| cell == CellKind::Transformer.as_str();
        let mut set = vec![format!("model.cell={}", contender.cell), format!("model.num-layers={num_layers}")];
        match (is_transformer(base.model.cell.as_str()), is_transformer(contender.cell)) {
            (false, true) => set.push("train.state=reset".to_owned()),
            (true, false) => set.push("train.state=carry".to_owned()),
            _ => {}
        }
        set.extend(contender.overrides.iter().map(|&text| text.to_owned()));
        // Nobody looks at the samples, and one floor is enough.
        set.extend(["sample.tokens=0".to_owned(), "train.floor=false".to_owned(), format!("seed={seed}")]);
        set.extend_from_slice(overrides);
        set.push(format!("model.hidden-size={DIVISIBLE}"));
        let mut recipe = Recipe::with_overrides(&base.to_toml(), "the base recipe", &set)?;
        recipe.model = recipe.model.with_parameters(budget, vocab_size);
        recipe.validate()?;
        let parameters = recipe.model.num_parameters(vocab_size);
        // A tenth beside it is no equality.
        if parameters.abs_diff(budget) > budget / 10 {
            return Err(ComparisonError::Budget { name: contender.name, num_layers, budget, found: parameters });
        }
        Ok(Self { contender, recipe, parameters })
    }

    /// What tells it from the others of a comparison: `lstm-2-seed1`.
    pub fn name(&self) -> String {
        format!("{}-{}-seed{}", self.contender.name, self.recipe.model.num_layers, self.recipe.seed)
    }

    /// The recipe for the results: of its files the names alone, since folders say nothing to others.
    pub fn recipe_toml(&self) -> String {
        let name =
            |path: &str| Path::new(path).file_name().map_or(path, |name| name.to_str().unwrap_or(path)).to_owned();
        let mut recipe = self.recipe.clone();
        recipe.data.train = name(&recipe.data.train);
        recipe.data.valid = recipe.data.valid.as_deref().map(name);
        recipe.to_toml()
    }
}

/// One model that has been trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What tells it from the others.
    pub name: String,
    /// The contender's name.
    pub cell: String,
    /// Layers or blocks.
    pub num_layers: usize,
    /// Units of each.
    pub hidden_size: usize,
    /// Numbers that were trained.
    pub parameters: usize,
    /// Where its random numbers came from.
    pub seed: u64,
    /// What came of it; none if the loss ceased to be finite.
    pub trained: Option<Trained>,
    /// The complete recipe, as TOML.
    pub recipe: String,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Optimiser steps taken.
    pub steps: u64,
    /// The lowest validation loss, in nats per token.
    pub best_loss_nats: f64,
    /// When it was reached.
    pub best_step: u64,
    /// Seconds of training; evaluations are left out.
    pub seconds: f64,
    /// Training tokens in each of these.
    pub tokens_per_second: f64,
}

/// The results of a comparison: a file of JSON that grows run by run, and a table for people beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// SHA-256 of the decoded text.
    pub corpus: String,
    /// The parameters that every model comes near.
    pub parameters: usize,
    /// The validation text.
    pub valid: TextSummary,
    /// What the runs were computed with.
    pub engine: String,
    /// Loss of n-grams on the same tokens, in nats per token.
    pub floor_loss_nats: f64,
    /// Their order.
    pub floor_order: usize,
    /// In the order in which they ended.
    pub runs: Vec<Run>,
}

impl Comparison {
    /// The results, in a comparison's folder.
    pub const RESULTS: &'static str = "table.json";
    /// The table.
    pub const TABLE: &'static str = "table.md";

    /// A comparison without runs, of models of about `parameters` parameters.
    pub fn new(corpus: String, parameters: usize, valid: TextSummary, engine: String, floor: NGramScore) -> Self {
        let NGramScore { order, loss_nats, .. } = floor;
        Self { corpus, parameters, valid, engine, floor_loss_nats: loss_nats, floor_order: order, runs: Vec::new() }
    }

    /// The results in a folder, if there are any.
    ///
    /// # Errors
    /// If they cannot be read, or are of another text or budget.
    pub fn read(folder: &Path, corpus: &str, parameters: usize) -> Result<Option<Self>, ComparisonError> {
        let path = folder.join(Self::RESULTS);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(because("read", &path))?;
        let found: Self = serde_json::from_slice(&bytes)
            .map_err(|error| ComparisonError::Results { path: path.clone(), reason: error.to_string() })?;
        if found.corpus != corpus {
            return Err(ComparisonError::Other { path, difference: "the text is another one".to_owned() });
        }
        if found.parameters != parameters {
            let difference = format!("{} parameters there, {parameters} here", found.parameters);
            return Err(ComparisonError::Other { path, difference });
        }
        Ok(Some(found))
    }

    /// The run of a plan, if it has been trained.
    ///
    /// # Errors
    /// If a run of this name was trained by another recipe.
    pub fn run_of(&self, plan: &Plan, folder: &Path) -> Result<Option<&Run>, ComparisonError> {
        let Some(run) = self.runs.iter().find(|run| run.name == plan.name()) else { return Ok(None) };
        let differences =
            Recipe::parse(&run.recipe, "the results")?.difference(&Recipe::parse(&plan.recipe_toml(), "the recipe")?);
        match differences.into_iter().next() {
            None => Ok(Some(run)),
            Some(difference) => Err(ComparisonError::Other {
                path: folder.join(Self::RESULTS),
                difference: format!("{}: {difference}", run.name),
            }),
        }
    }

    /// Adds a run and writes results and table.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn add(&mut self, run: Run, folder: &Path) -> Result<(), ComparisonError> {
        self.runs.push(run);
        self.write(folder)
    }

    /// Writes results and table.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), ComparisonError> {
        let results = folder.join(Self::RESULTS);
        let unwritable = |error: serde_json::Error| FileError::new("write", &results, error.into());
        let mut json = serde_json::to_vec_pretty(self).map_err(unwritable)?;
        json.push(b'\n');
        write_atomic(&results, &json)?;
        write_atomic(&folder.join(Self::TABLE), self.to_markdown().as_bytes())?;
        Ok(())
    }

    /// A loss in the measure of the tokens.
    pub(super) fn score(&self, loss_nats: f64) -> UnitScore {
        text_score(&self.valid, loss_nats)
    }
}
