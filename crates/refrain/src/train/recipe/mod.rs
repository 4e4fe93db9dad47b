//! One experiment as one TOML file: every key of every table, with its default.

mod entries;
mod error;
mod schema;

use serde::{Deserialize, Serialize};
use serde_json::json;
use toml::{Table, Value};

use self::entries::Entry;
use self::schema::Kinds;
use super::config::{StateMode, TrainConfig};
use super::teacher_forcing::TeacherForcing;
use crate::data::DataConfig;
use crate::decode::SampleConfig;
use crate::models::{CellKind, LanguageModelConfig};
use crate::optim::{OptimizerConfig, OptimizerKind, ScheduleConfig};
use crate::setting::names;

pub use self::error::RecipeError;

/// The recipe of a run without a recipe file, as TOML.
pub const BUILT_IN: &str = include_str!("../built_in.toml");

names! {
    /// What the model is trained to do.
    pub enum TaskKind {
        /// Predict each token from those before it.
        #[default]
        LanguageModel = "language-model",
    }
}

/// One experiment: what a recipe file says, and the defaults for what it leaves out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// What the model is trained to do.
    pub task: TaskKind,
    /// Where every random number of the run comes from; at most 2^63 − 1, the largest integer of TOML.
    pub seed: u64,
    /// Where the text comes from.
    pub data: DataConfig,
    /// The shape of the model.
    pub model: LanguageModelConfig,
    /// How long, on what batches, and how often to look.
    pub train: TrainConfig,
    /// What the model reads in training: the text, or what it writes itself.
    pub teacher_forcing: TeacherForcing,
    /// What moves the weights.
    pub optimizer: OptimizerConfig,
    /// How the learning rate changes.
    pub schedule: ScheduleConfig,
    /// The text generated to look at.
    pub sample: SampleConfig,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            task: TaskKind::default(),
            // any number will do
            seed: 1,
            data: DataConfig::default(),
            model: LanguageModelConfig::default(),
            train: TrainConfig::default(),
            teacher_forcing: TeacherForcing::default(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            sample: SampleConfig::default(),
        }
    }
}

impl Recipe {
    /// Reads a recipe; `origin` is the name of the file in error messages.
    ///
    /// # Errors
    ///
    /// [`RecipeError`] for the first mistake in the file, with its line: TOML that is none, a key that there is not or
    /// that the chosen cell, optimiser or schedule does not have, a value of the wrong type or out of range.
    pub fn parse(text: &str, origin: &str) -> Result<Self, RecipeError> {
        Self::with_overrides(text, origin, &[])
    }

    /// Reads a recipe and changes it by `overrides`, each `key=value` or `table.key=value`; the later one wins.
    ///
    /// A value is TOML; text may go without quotation marks, it is then taken as it stands. An override that chooses
    /// another optimiser or another schedule, of the learning rate or of teacher forcing, than the file sets aside the file's table, whose numbers were for the other one: what
    /// the overrides leave out has the default of their choice. One that chooses another cell, or other tokens, sets aside only
    /// what these do not have.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`], also for what an override sets aside; a mistake in an override is named by its text, as `--set …`.
    pub fn with_overrides(text: &str, origin: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let mut entries = entries::of_file(text, origin)?;
        let in_file = schema::check_all(&entries)?;
        let flags = overrides.iter().map(|flag| entries::of_flag(flag)).collect::<Result<Vec<_>, _>>()?;
        let chosen = Kinds::chosen(&flags, in_file)?;
        entries.retain(|entry| match entry.path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["teacher-forcing", ..] => chosen.forcing == in_file.forcing,
            ["optimizer", ..] => chosen.optimizer == in_file.optimizer,
            ["schedule", ..] => chosen.schedule == in_file.schedule,
            [table @ ("data" | "model"), key] => schema::has(table, key, chosen),
            _ => true,
        });
        entries.extend(flags);
        Self::from_entries(&entries)
    }

    fn from_entries(entries: &[Entry]) -> Result<Self, RecipeError> {
        let kinds = schema::check_all(entries)?;
        let (optimizer, train) = (OptimizerConfig::of(kinds.optimizer), TrainConfig::of(kinds.cell));
        let defaults = Self { train, optimizer, ..Self::default() };
        let mut table = Table::try_from(&defaults).expect("the defaults are within the range of TOML");
        for entry in entries {
            match entry.path.as_slice() {
                [key] if !schema::is_table(key) => {
                    table.insert(key.clone(), entry.value.clone());
                }
                [name, key] => {
                    if let Some(Value::Table(inner)) = table.get_mut(name) {
                        inner.insert(key.clone(), entry.value.clone());
                    }
                }
                _ => {}
            }
        }
        let recipe: Self = table.try_into().map_err(|error: toml::de::Error| RecipeError::Unreadable {
            problem: error.message().to_owned(),
            place: String::new(),
        })?;
        let recipe = recipe.settled();
        recipe.check_together(entries)?;
        Ok(recipe)
    }

    /// With the sizes that follow from others: a transformer adds to the embeddings, and sees what it is trained on.
    fn settled(mut self) -> Self {
        if self.model.cell == CellKind::Transformer {
            self.model.embedding_size = self.model.hidden_size.of(0);
            self.model.context.get_or_insert(self.train.seq_len);
        }
        self
    }

    /// The whole recipe as TOML, every default written out, in the order of the documentation; [`Self::parse`] reads it
    /// back unchanged.
    ///
    /// The numbers of cells, optimisers and schedules other than the chosen ones are left out.
    ///
    /// # Panics
    ///
    /// If an integer is above 2^63 − 1, which [`Self::validate`] refuses.
    pub fn to_toml(&self) -> String {
        let mut lines = Vec::new();
        let mut table = String::new();
        for (path, value) in self.values() {
            let (name, key) = path.split_once('.').unwrap_or(("", &path));
            if name != table {
                lines.push(format!("\n[{name}]"));
                name.clone_into(&mut table);
            }
            lines.push(format!("{key} = {}", written(&value)));
        }
        lines.join("\n") + "\n"
    }

    /// The keys of [`Self::to_toml`] as one JSON object, a table an object in it.
    ///
    /// # Panics
    ///
    /// As [`Self::to_toml`].
    pub fn to_json(&self) -> serde_json::Value {
        let mut tree = serde_json::Map::new();
        for (path, value) in self.values() {
            let value = json!(value);
            match path.split_once('.') {
                None => drop(tree.insert(path, value)),
                Some((table, key)) => tree.entry(table).or_insert_with(|| json!({}))[key] = value,
            }
        }
        tree.into()
    }

    /// Checks what a recipe made in code says, as [`Self::parse`] does for one read from a file.
    ///
    /// # Errors
    ///
    /// [`RecipeError`] with the key, its value and what is allowed, for the first mistake.
    pub fn validate(&self) -> Result<(), RecipeError> {
        if Table::try_from(self).is_err() {
            return Err(RecipeError::Unreadable {
                problem: format!("an integer is above {}, the largest of TOML", i64::MAX),
                place: String::new(),
            });
        }
        let entries: Vec<Entry> = self
            .values()
            .into_iter()
            .map(|(path, value)| Entry {
                path: path.split('.').map(str::to_owned).collect(),
                value,
                place: String::new(),
            })
            .collect();
        schema::check_all(&entries)?;
        self.check_together(&entries)
    }

    /// In what `self`, the recipe of a run, and `other` differ: `model.hidden-size: 256 in the run, 512 in the recipe`.
    ///
    /// # Panics
    ///
    /// As [`Self::to_toml`].
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let (run, recipe) = (self.values(), other.values());
        let find = |values: &[(String, Value)], path: &str| {
            values.iter().find(|(known, _)| known == path).map(|(_, value)| written(value))
        };
        let shown = |value: Option<String>| value.unwrap_or_else(|| "not".to_owned());
        let added = recipe.iter().filter(|(path, _)| find(&run, path).is_none());
        let paths = run.iter().chain(added).map(|(path, _)| path);
        paths
            .map(|path| (path, find(&run, path), find(&recipe, path)))
            .filter(|(_, run, recipe)| run != recipe)
            .map(|(path, run, recipe)| format!("{path}: {} in the run, {} in the recipe", shown(run), shown(recipe)))
            .collect()
    }

    /// Every key that this recipe has, as `key` or `table.key`, and its value, in the order of the schema.
    fn values(&self) -> Vec<(String, Value)> {
        let table = Table::try_from(self).expect("a validated recipe is within the range of TOML");
        let mut values = Vec::new();
        for name in std::iter::once("").chain(schema::TABLES.iter().copied()) {
            let inner = if name.is_empty() { Some(&table) } else { table.get(name).and_then(Value::as_table) };
            for setting in schema::settings(name, self.kinds()).unwrap_or_default() {
                if let Some(value) = inner.and_then(|inner| inner.get(setting.key)) {
                    values.push((schema::path(name, setting.key), value.clone()));
                }
            }
        }
        values
    }

    fn kinds(&self) -> Kinds {
        let (forcing, optimizer, schedule) = (self.teacher_forcing.name, self.optimizer.name, self.schedule.name);
        Kinds { tokens: self.data.tokens, cell: self.model.cell, forcing, optimizer, schedule }
    }

    /// Checks values against each other.
    fn check_together(&self, entries: &[Entry]) -> Result<(), RecipeError> {
        if self.optimizer.nesterov && self.optimizer.momentum == 0.0 && self.optimizer.name == OptimizerKind::Sgd {
            return Err(RecipeError::Conflict {
                problem: "`optimizer.nesterov` needs an `optimizer.momentum` above 0".to_owned(),
                place: entries::place_of(entries, "optimizer", "nesterov"),
                hint: "set optimizer.momentum = 0.9, or leave nesterov out".to_owned(),
            });
        }
        if let Some((key, problem, hint)) = self.data.conflict() {
            return Err(RecipeError::Conflict { problem, place: entries::place_of(entries, "data", key), hint });
        }
        if let Some((key, problem, hint)) = self.model.conflict() {
            return Err(RecipeError::Conflict { problem, place: entries::place_of(entries, "model", key), hint });
        }
        if self.train.softmax_samples.is_some() && self.train.label_smoothing > 0.0 {
            return Err(RecipeError::Conflict {
                problem: "`train.label-smoothing` spreads over all words, and with `train.softmax-samples` most have no probability".to_owned(),
                place: entries::place_of(entries, "train", "label-smoothing"),
                hint: "leave one of them out".to_owned(),
            });
        }
        self.check_transformer(entries)
    }

    fn check_transformer(&self, entries: &[Entry]) -> Result<(), RecipeError> {
        let Some(context) = self.model.context.filter(|_| self.model.cell == CellKind::Transformer) else {
            return Ok(());
        };
        if self.train.state == StateMode::Carry {
            return Err(RecipeError::Conflict {
                problem: "`train.state` = \"carry\" does not go with `model.cell` = \"transformer\", which has no state of one size to carry from window to window".to_owned(),
                place: entries::place_of(entries, "train", "state"),
                hint: "leave it out, or set train.state = \"reset\"".to_owned(),
            });
        }
        let seq_len = self.train.seq_len;
        if seq_len > context {
            return Err(RecipeError::Conflict {
                problem: format!("windows of `train.seq-len` {seq_len} do not fit the `model.context` of {context}"),
                place: entries::place_of(entries, "model", "context"),
                hint: format!("set train.seq-len = {context}, or leave context out, which is then as long"),
            });
        }
        Ok(())
    }
}

/// A value as TOML on one line, small numbers with an exponent.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let escaped: String = text
                .chars()
                .map(|ch| match ch {
                    '"' | '\\' => format!("\\{ch}"),
                    '\n' => "\\n".to_owned(),
                    '\t' => "\\t".to_owned(),
                    '\r' => "\\r".to_owned(),
                    ch if ch.is_control() => format!("\\u{:04X}", ch as u32),
                    ch => ch.to_string(),
                })
                .collect();
            format!("\"{escaped}\"")
        }
        Value::Float(number) if *number != 0.0 && number.abs() < 1e-4 => format!("{number:e}"),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
