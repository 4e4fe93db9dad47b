//! What a recipe file and the overrides say, key by key, each with the place where it says so.

use toml::de::DeTable;
use toml::{Table, Value};

use super::RecipeError;
use super::schema;

/// One key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// `[key]` at the top, `[table, key]` below; a table of the file has an entry of its own, before those of its keys.
    pub(super) path: Vec<String>,
    pub(super) value: Value,
    /// `file:line` or `--set key=value`.
    pub(super) place: String,
}

/// The entries of a recipe file, in the order of its lines.
pub(super) fn of_file(text: &str, origin: &str) -> Result<Vec<Entry>, RecipeError> {
    let line = |at: usize| 1 + text[..text.floor_char_boundary(at)].matches('\n').count();
    let place = |line: usize| format!("{origin}:{line}");
    let syntax = |error: toml::de::Error| RecipeError::Syntax {
        problem: error.message().replace('\n', "; "),
        place: error.span().map_or_else(|| origin.to_owned(), |span| place(line(span.start))),
    };
    // The spans come from one reading, the values from another.
    let spans = DeTable::parse(text).map_err(syntax)?;
    let values: Table = toml::from_str(text).map_err(syntax)?;
    let mut entries = Vec::new();
    for (key, span) in spans.get_ref() {
        let name = key.get_ref().as_ref();
        let Some(value) = values.get(name) else { continue };
        let at = line(key.span().start);
        entries.push((at, Entry { path: vec![name.to_owned()], value: value.clone(), place: place(at) }));
        if let (Some(inner), Value::Table(values)) = (span.get_ref().as_table(), value) {
            for key in inner.keys() {
                let inner_name = key.get_ref().as_ref();
                let Some(value) = values.get(inner_name) else { continue };
                let at = line(key.span().start);
                let path = vec![name.to_owned(), inner_name.to_owned()];
                entries.push((at, Entry { path, value: value.clone(), place: place(at) }));
            }
        }
    }
    entries.sort_by_key(|(line, _)| *line);
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

/// The entry of one override, `table.key=value`.
pub(super) fn of_flag(flag: &str) -> Result<Entry, RecipeError> {
    let Some((path, raw)) = flag.split_once('=') else {
        return Err(RecipeError::Flag { flag: flag.to_owned() });
    };
    let path = path.trim();
    let (table, key) = path.split_once('.').unwrap_or(("", path));
    let mut value = parse_value(raw);
    if schema::is_text(table, key) && !value.is_str() {
        value = Value::String(raw.to_owned());
    }
    let path = if table.is_empty() { vec![key.to_owned()] } else { vec![table.to_owned(), key.to_owned()] };
    Ok(Entry { path, value, place: format!("--set {}", flag.replace('\n', "\\n")) })
}

/// The value as TOML, or as text if it is none.
fn parse_value(raw: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {raw}")).ok();
    // A line break could smuggle in more keys.
    parsed
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(raw.to_owned()))
}

/// Where a key was set last; empty if it was not.
pub(super) fn place_of(entries: &[Entry], table: &str, key: &str) -> String {
    let found = entries.iter().rev().find(|entry| entry.path == [table, key]);
    found.map(|entry| entry.place.clone()).unwrap_or_default()
}
