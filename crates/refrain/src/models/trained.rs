//! A trained model as one file: weights, vocabulary, configuration and where it came from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::artefact::{Artefact, ArtefactError};
use super::config::LanguageModelConfig;
use super::language_model::LanguageModel;
use crate::setting;
use crate::text::Vocabulary;

/// The layout of the metadata; a reader refuses a later one.
const FORMAT: &str = "refrain-1";
const FORMAT_KEY: &str = "format";
const TASK_KEY: &str = "task";
const MODEL_KEY: &str = "model";
const VOCABULARY_KEY: &str = "vocabulary";
const RECIPE_KEY: &str = "recipe";
const PROVENANCE_KEY: &str = "provenance";
/// The parameter with a row for each id of the vocabulary.
const EMBEDDING: &str = "embedding.weight";

/// Where a model came from: nothing here depends on the clock or the machine, so the same run gives the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The version of Refrain that wrote the file.
    pub refrain: String,
    /// Optimiser steps taken.
    pub step: u64,
    /// Passes over the training text, whole and part.
    pub epoch: f64,
    /// Validation loss in nats per token at that step.
    pub valid_loss_nats: Option<f64>,
    /// SHA-256 of the decoded text that it was trained and validated on.
    pub corpus: String,
}

/// A language model with everything needed to use it, on any device.
#[derive(Clone, Debug)]
pub struct TrainedModel {
    /// The network.
    pub model: LanguageModel,
    /// Its shape.
    pub config: LanguageModelConfig,
    /// How a text becomes token numbers, and they a text.
    pub vocabulary: Vocabulary,
    /// The complete recipe that trained it, as TOML.
    pub recipe: String,
    /// Where it came from.
    pub provenance: Provenance,
}

impl TrainedModel {
    /// The file's content: tensors by parameter path, the rest as metadata.
    pub fn to_artefact(&self) -> Artefact {
        let metadata = [
            (FORMAT_KEY, FORMAT.to_owned()),
            (TASK_KEY, "language-model".to_owned()),
            (MODEL_KEY, json(&self.config)),
            (VOCABULARY_KEY, self.vocabulary.to_json()),
            (RECIPE_KEY, self.recipe.clone()),
            (PROVENANCE_KEY, json(&self.provenance)),
        ];
        let metadata: BTreeMap<String, String> =
            metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Artefact::new(self.model.to_tensors(), metadata)
    }

    /// Reads a model from a file onto `device`.
    ///
    /// # Errors
    /// When the file is not a whole, finite model of this format; each error names the file.
    pub fn read(path: &Path, device: &Device) -> Result<Self, ArtefactError> {
        Self::from_artefact(&Artefact::read(path)?, device)
    }

    /// Builds a model from an artefact.
    ///
    /// # Errors
    /// As [`TrainedModel::read`].
    pub fn from_artefact(artefact: &Artefact, device: &Device) -> Result<Self, ArtefactError> {
        let field = |key: &str| artefact.require_metadata(key);
        let malformed =
            |key: &str, why: &dyn std::fmt::Display| artefact.bad_metadata(key, format!("cannot be read: {why}"));
        let format = field(FORMAT_KEY)?;
        if format != FORMAT {
            return Err(artefact.bad_metadata(FORMAT_KEY, format!("is `{format}`; this version reads `{FORMAT}`")));
        }
        let config: LanguageModelConfig =
            serde_json::from_str(field(MODEL_KEY)?).map_err(|error| malformed(MODEL_KEY, &error))?;
        let vocabulary =
            Vocabulary::from_json(field(VOCABULARY_KEY)?).map_err(|error| malformed(VOCABULARY_KEY, &error))?;
        let provenance =
            serde_json::from_str(field(PROVENANCE_KEY)?).map_err(|error| malformed(PROVENANCE_KEY, &error))?;
        let recipe = field(RECIPE_KEY)?.to_owned();
        artefact.require_finite()?;
        check_vocabulary(artefact, vocabulary.len())?;
        check_fit(artefact, &config, vocabulary.len())?;
        let model = config.blank(vocabulary.len(), device).with_tensors(artefact)?;
        Ok(Self { model, config, vocabulary, recipe, provenance })
    }
}

/// Checks that the embedding has a row for each id of the vocabulary: another model's vocabulary is told as such.
fn check_vocabulary(artefact: &Artefact, vocab_size: usize) -> Result<(), ArtefactError> {
    let embedding = artefact.tensors.iter().find(|tensor| tensor.name == EMBEDDING);
    match embedding.map(|tensor| tensor.shape.as_slice()) {
        Some(&[rows, _]) if rows != vocab_size => {
            let reason = format!("has {vocab_size} ids, the model's embedding has {rows}: it is of another model");
            Err(artefact.bad_metadata(VOCABULARY_KEY, reason))
        }
        _ => Ok(()),
    }
}

/// Checks that the file holds the model's parameters and no other, before memory is spent on what the file only claims.
fn check_fit(artefact: &Artefact, config: &LanguageModelConfig, vocab_size: usize) -> Result<(), ArtefactError> {
    let unusable = |why: String| artefact.bad_metadata(MODEL_KEY, format!("cannot be used: {why}"));
    setting::check(config, LanguageModelConfig::settings(config.cell)).map_err(unusable)?;
    if let Some((_, problem, _)) = config.conflict() {
        return Err(unusable(problem));
    }
    let mut names = BTreeSet::new();
    for (name, shape) in config.shapes(vocab_size) {
        artefact.get(&name, &shape)?;
        names.insert(name);
    }
    match artefact.tensors.iter().find(|tensor| !names.contains(&tensor.name)) {
        Some(tensor) => Err(unusable(format!("it has no tensor `{}`, which the file holds", tensor.name))),
        None => Ok(()),
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data has a JSON form")
}
