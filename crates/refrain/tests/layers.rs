//! Imports go one way: from text towards training, never back.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What every module may use: files, paths of parameters, randomness and settings, which use none of the others.
const LEAVES: &[&str] = &["files", "parameter_path", "random", "setting"];

/// Each module, and which others it may use besides the leaves.
const TABLE: &[(&str, &[&str])] = &[
    ("files", &[]),
    ("parameter_path", &[]),
    ("random", &[]),
    ("setting", &[]),
    ("text", &[]),
    ("data", &["text"]),
    ("nn", &["text", "data"]),
    ("models", &["text", "data", "nn"]),
    // Weights of others into layers and back; files are those of the models.
    ("interop", &["nn", "models"]),
    ("optim", &[]),
    ("decode", &["text", "nn", "models"]),
    ("metrics", &["text"]),
    // The meeting place.
    ("tasks", &["text", "data", "nn", "models", "optim", "metrics"]),
    ("train", &["text", "data", "nn", "models", "optim", "decode", "metrics", "tasks"]),
    ("experiment", &["text", "data", "models", "metrics", "tasks", "train"]),
];

#[test]
fn a_module_uses_only_those_that_the_text_has_passed_before_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut offences = Vec::new();
    for file in rust_files(&source) {
        let path = file.strip_prefix(&source).expect("it is inside").to_owned();
        let Some(module) = module_of(&path) else { continue };
        let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == module) else {
            offences.push(format!("{}: give the module `{module}` its place in the table", path.display()));
            continue;
        };
        let text = fs::read_to_string(&file).expect("a source file is UTF-8");
        for (line, used) in uses(&text) {
            let is_leaf = LEAVES.contains(&used.as_str()) && !LEAVES.contains(&module.as_str());
            if used != module && !is_leaf && !allowed.contains(&used.as_str()) {
                offences.push(format!("{}:{line}: `{module}` must not use `{used}`", path.display()));
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn the_table_has_no_module_that_is_gone_and_no_cycle() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let modules: BTreeSet<String> = rust_files(&source)
        .iter()
        .filter_map(|file| module_of(file.strip_prefix(&source).expect("it is inside")))
        .collect();
    for (index, (module, allowed)) in TABLE.iter().enumerate() {
        assert!(modules.contains(*module), "there is no module `{module}`");
        for used in *allowed {
            let before = TABLE[..index].iter().any(|(name, _)| name == used);
            assert!(before, "`{module}` may use `{used}`, which does not stand before it in the table");
        }
    }
}

#[test]
fn uses_are_found_in_lists_and_in_paths_but_not_in_comments() {
    let text = "use crate::text::Vocabulary;\nuse crate::{data::{Corpus, self}, nn};\n// crate::train\n\
                let x = crate::models::new(\n    crate::optim::Sgd);\npub(crate) use crate::random::{self as r};\n\
                use crate::{\n    files,\n    setting::Range,\n};\n/// [`crate::decode`]\ncrate::text();\n";
    let expected = [
        (1, "text"),
        (2, "data"),
        (2, "nn"),
        (4, "models"),
        (5, "optim"),
        (6, "random"),
        (7, "files"),
        (7, "setting"),
        (12, "text"),
    ];
    let expected: Vec<(usize, String)> = expected.map(|(line, name)| (line, name.to_owned())).into();
    assert_eq!(uses(text), expected);
}

/// The top module that a file belongs to; none for the root, which names them all.
fn module_of(path: &Path) -> Option<String> {
    let first = path.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib").then(|| name.to_owned())
}

/// The modules named after `crate::` and the lines where that stands, comments left out.
fn uses(text: &str) -> Vec<(usize, String)> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut uses = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let is_path_start = !code[..at].ends_with(|ch: char| ch.is_alphanumeric() || ch == '_');
        if !is_path_start {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(list) => uses.extend(heads(list).into_iter().map(|name| (line, name))),
            None => uses.push((line, identifier(rest))),
        }
    }
    uses
}

/// The first names of the entries of a list in braces, of which the opening one is read.
fn heads(list: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut begin = 0;
    for (at, ch) in list.char_indices() {
        match ch {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                heads.push(identifier(list[begin..at].trim_start()));
                begin = at + 1;
                if ch == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|&ch| ch.is_alphanumeric() || ch == '_').collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
