//! The tables and keys there are, and what may have been meant by one that there is not.

use toml::Value;

use super::entries::Entry;
use super::error::RecipeError;
use super::{TaskKind, TeacherForcing, TrainConfig};
use crate::data::DataConfig;
use crate::decode::SampleConfig;
use crate::models::{CellKind, LanguageModelConfig};
use crate::optim::{OptimizerConfig, OptimizerKind, ScheduleConfig, ScheduleKind};
use crate::setting::{Allowed, Setting, nearest};
use crate::text::Unit;
use crate::train::ForcingKind;

/// The tables, in the order in which a recipe is written.
pub(super) const TABLES: &[&str] = &["data", "model", "train", "teacher-forcing", "optimizer", "schedule", "sample"];

const TOP: &[Setting] =
    &[Setting::new("task", Allowed::OneOf(TaskKind::NAMES)), Setting::new("seed", Allowed::Integer(0))];

/// Names used elsewhere for what we have, too far from ours in spelling.
const SYNONYMS: &[(&str, &str, &str)] = &[
    ("lr", "optimizer", "learning-rate"),
    ("wd", "optimizer", "weight-decay"),
    ("bptt", "train", "seq-len"),
    ("block-size", "train", "seq-len"),
    ("seq-length", "train", "seq-len"),
    ("bsz", "train", "batch-size"),
    ("clip", "train", "clip-norm"),
    ("grad-clip", "train", "clip-norm"),
    ("teacher-forcing", "teacher-forcing", "name"),
    ("teacher-forcing-ratio", "teacher-forcing", "probability"),
    ("scheduled-sampling", "teacher-forcing", "name"),
    ("max-iters", "train", "max-steps"),
    ("nhid", "model", "hidden-size"),
    ("rnn-size", "model", "hidden-size"),
    ("emsize", "model", "embedding-size"),
    ("nlayers", "model", "num-layers"),
    ("layers", "model", "num-layers"),
];

/// The choices that decide which keys a table has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kinds {
    pub(super) tokens: Unit,
    pub(super) cell: CellKind,
    pub(super) forcing: ForcingKind,
    pub(super) optimizer: OptimizerKind,
    pub(super) schedule: ScheduleKind,
}

impl Kinds {
    /// What the entries choose, or else what was chosen before; a name that is none is an error.
    pub(super) fn chosen(entries: &[Entry], before: Self) -> Result<Self, RecipeError> {
        let mut kinds = before;
        for entry in entries {
            let [table, key] = entry.path.as_slice() else { continue };
            let Value::String(name) = &entry.value else { continue };
            match (table.as_str(), key.as_str()) {
                ("data", "tokens") => {
                    check(entry, kinds)?;
                    kinds.tokens = named(Unit::ALL, name, Unit::as_str).unwrap_or_default();
                }
                ("model", "cell") => {
                    check(entry, kinds)?;
                    kinds.cell = named(CellKind::ALL, name, CellKind::as_str).unwrap_or_default();
                }
                ("teacher-forcing", "name") => {
                    check(entry, kinds)?;
                    kinds.forcing = named(ForcingKind::ALL, name, ForcingKind::as_str).unwrap_or_default();
                }
                ("optimizer", "name") => {
                    check(entry, kinds)?;
                    kinds.optimizer = named(OptimizerKind::ALL, name, OptimizerKind::as_str).unwrap_or_default();
                }
                ("schedule", "name") => {
                    check(entry, kinds)?;
                    kinds.schedule = named(ScheduleKind::ALL, name, ScheduleKind::as_str).unwrap_or_default();
                }
                _ => {}
            }
        }
        Ok(kinds)
    }
}

fn named<T: Copy>(all: &[T], name: &str, name_of: fn(T) -> &'static str) -> Option<T> {
    all.iter().copied().find(|kind| name_of(*kind) == name)
}

pub(super) fn is_table(name: &str) -> bool {
    TABLES.contains(&name)
}

/// The keys of a table, of the top for the empty name.
pub(super) fn settings(table: &str, kinds: Kinds) -> Option<&'static [Setting]> {
    match table {
        "" => Some(TOP),
        "data" => Some(DataConfig::settings(kinds.tokens)),
        "model" => Some(LanguageModelConfig::settings(kinds.cell)),
        "train" => Some(TrainConfig::SETTINGS),
        "teacher-forcing" => Some(TeacherForcing::settings(kinds.forcing)),
        "optimizer" => Some(OptimizerConfig::settings(kinds.optimizer)),
        "schedule" => Some(ScheduleConfig::settings(kinds.schedule)),
        "sample" => Some(SampleConfig::SETTINGS),
        _ => None,
    }
}

/// Whether a table has a key under these choices.
pub(super) fn has(table: &str, key: &str, kinds: Kinds) -> bool {
    settings(table, kinds).is_some_and(|known| known.iter().any(|setting| setting.key == key))
}

/// Every choice that a table's keys may depend on, by name.
fn variants(table: &str) -> Vec<(&'static str, Kinds)> {
    match table {
        "data" => Unit::ALL.iter().map(|&tokens| (tokens.as_str(), Kinds { tokens, ..Kinds::default() })).collect(),
        "model" => CellKind::ALL.iter().map(|&cell| (cell.as_str(), Kinds { cell, ..Kinds::default() })).collect(),
        "teacher-forcing" => {
            ForcingKind::ALL.iter().map(|&forcing| (forcing.as_str(), Kinds { forcing, ..Kinds::default() })).collect()
        }
        "optimizer" => OptimizerKind::ALL
            .iter()
            .map(|&optimizer| (optimizer.as_str(), Kinds { optimizer, ..Kinds::default() }))
            .collect(),
        "schedule" => ScheduleKind::ALL
            .iter()
            .map(|&schedule| (schedule.as_str(), Kinds { schedule, ..Kinds::default() }))
            .collect(),
        _ => vec![("", Kinds::default())],
    }
}

/// The setting of a key under whichever choice has it.
fn find(table: &str, key: &str) -> Option<&'static Setting> {
    variants(table)
        .into_iter()
        .filter_map(|(_, kinds)| settings(table, kinds))
        .flatten()
        .find(|setting| setting.key == key)
}

pub(super) fn is_text(table: &str, key: &str) -> bool {
    find(table, key).is_some_and(|setting| setting.allowed.is_text())
}

/// `table.key`, or the key alone at the top.
pub(super) fn path(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// Checks all entries and says what they choose.
pub(super) fn check_all(entries: &[Entry]) -> Result<Kinds, RecipeError> {
    let kinds = Kinds::chosen(entries, Kinds::default())?;
    entries.iter().try_for_each(|entry| check(entry, kinds))?;
    Ok(kinds)
}

/// Checks that there is such a key and that its value is allowed.
fn check(entry: &Entry, kinds: Kinds) -> Result<(), RecipeError> {
    let (table, key) = match entry.path.as_slice() {
        [name] if is_table(name) => return check_table(name, entry),
        [key] if entry.value.is_table() && find("", key).is_none() => return Err(unknown_table(key, entry)),
        [key] => ("", key.as_str()),
        [table, key] => (table.as_str(), key.as_str()),
        path => unreachable!("an entry has one or two names: {path:?}"),
    };
    let Some(known) = settings(table, kinds) else {
        return Err(unknown_table(table, entry));
    };
    let Some(setting) = known.iter().find(|setting| setting.key == key) else {
        return Err(RecipeError::UnknownKey {
            key: key.to_owned(),
            table: table.to_owned(),
            place: entry.place.clone(),
            hint: hint(table, key, known),
        });
    };
    if setting.allowed.contains(&entry.value) {
        return Ok(());
    }
    Err(RecipeError::Value {
        key: path(table, key),
        allowed: setting.allowed.to_string(),
        found: found(&entry.value),
        place: entry.place.clone(),
        hint: match (setting.allowed, &entry.value) {
            (Allowed::OneOf(names) | Allowed::OneOfOrSize(names, _), Value::String(name)) => {
                nearest(name, names.iter().copied()).map(|name| format!("did you mean `{name}`?"))
            }
            _ => None,
        },
    })
}

fn check_table(name: &str, entry: &Entry) -> Result<(), RecipeError> {
    if entry.value.is_table() && !entry.place.starts_with("--set") {
        return Ok(());
    }
    Err(RecipeError::Value {
        key: name.to_owned(),
        allowed: "a table".to_owned(),
        found: found(&entry.value),
        place: entry.place.clone(),
        hint: Some(format!("set one of its keys, such as {name}.{}", example(name))),
    })
}

fn example(table: &str) -> &'static str {
    settings(table, Kinds::default()).and_then(|settings| settings.first()).map_or("key", |setting| setting.key)
}

fn found(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".to_owned(),
        Value::String(text) => format!("the text {text:?}"),
        value => value.to_string(),
    }
}

fn unknown_table(table: &str, entry: &Entry) -> RecipeError {
    let hint = nearest(table, TABLES.iter().copied())
        .map_or_else(|| format!("the tables are [{}]", TABLES.join("], [")), |name| format!("did you mean [{name}]?"));
    RecipeError::UnknownTable { table: table.to_owned(), place: entry.place.clone(), hint }
}

/// What may have been meant by a key that its table does not have.
fn hint(table: &str, key: &str, known: &[Setting]) -> String {
    let named = |table: &str, key: &str| {
        if table.is_empty() {
            format!("`{key}` at the top, before the tables")
        } else {
            format!("`{key}` in [{table}]")
        }
    };
    let owners: Vec<&str> =
        variants(table).into_iter().filter(|(_, kinds)| has(table, key, *kinds)).map(|(name, _)| name).collect();
    if !owners.is_empty() {
        let choice = match table {
            "data" => "tokens",
            "model" => "cell",
            _ => "name",
        };
        return format!("`{key}` is for {choice} = \"{}\"", owners.join("\" or \""));
    }
    let spelt = key.to_lowercase().replace('_', "-");
    let others = || std::iter::once("").chain(TABLES.iter().copied()).filter(|other| *other != table);
    if let Some(other) = others().find(|other| find(other, &spelt).is_some()) {
        return format!("did you mean {}?", named(other, &spelt));
    }
    if let Some((_, other, key)) = SYNONYMS.iter().find(|(synonym, ..)| *synonym == spelt) {
        return if *other == table {
            format!("did you mean `{key}`?")
        } else {
            format!("did you mean {}?", named(other, key))
        };
    }
    if let Some(name) = nearest(&spelt, known.iter().map(|setting| setting.key)) {
        return format!("did you mean `{name}`?");
    }
    for other in others() {
        let known = settings(other, Kinds::default()).unwrap_or_default();
        if let Some(name) = nearest(&spelt, known.iter().map(|setting| setting.key)) {
            return format!("did you mean {}?", named(other, name));
        }
    }
    let keys: Vec<&str> = known.iter().map(|setting| setting.key).collect();
    if table.is_empty() {
        format!("the keys outside the tables are {}; the tables are [{}]", keys.join(", "), TABLES.join("], ["))
    } else {
        format!("the keys of [{table}] are {}", keys.join(", "))
    }
}
