//! Prompts from stdin, one after another.

use std::io::{BufRead as _, IsTerminal as _, Write as _, stderr, stdin};

use anyhow::Context as _;
use refrain::decode::prompt_tokens;

use super::filter_args::sampling_filters;
use super::write::Writer;
use super::{Args, known};
use crate::console::Console;
use crate::failure::{self, Usage};

/// Continues each line of stdin until there is none; at a terminal a mistake is told and the next line read.
pub(super) fn run(writer: &mut Writer<'_>, args: &Args) -> anyhow::Result<()> {
    let terminal = stdin().is_terminal();
    if terminal {
        Console::new()
            .line("A line is continued; an empty one continues the last again; `:` shows the filters; Ctrl-D ends.");
    }
    let mut last = None;
    let mut lines = stdin().lock();
    loop {
        if terminal {
            // Nobody to read the mark is no reason to stop.
            let _ = write!(stderr(), "> ").and_then(|()| stderr().flush());
        }
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line).context("cannot read stdin")? == 0 {
            return Ok(());
        }
        match answer(writer, args, &line, &mut last) {
            Err(error) if terminal && !failure::is_closed_pipe(&error) => failure::tell(&error),
            outcome => outcome?,
        }
    }
}

fn answer(writer: &mut Writer<'_>, args: &Args, line: &[u8], last: &mut Option<String>) -> anyhow::Result<()> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = std::str::from_utf8(line).map_err(|error| {
        let message = format!("stdin: the line is not valid UTF-8 from byte {} on", error.valid_up_to() + 1);
        Usage::error(message, "pipe UTF-8")
    })?;
    if let Some(command) = line.strip_prefix(':') {
        return set(writer, args.draws(), command);
    }
    if !line.is_empty() {
        let prompt = known(line.to_owned(), writer.vocabulary, args.unknown)?;
        *last = Some(prompt).filter(|prompt| !prompt.is_empty());
    }
    let Some(prompt) = last.as_deref() else {
        return Err(Usage::error("the prompt is empty", "give at least one character"));
    };
    let tokens = prompt_tokens(writer.vocabulary, prompt);
    writer.write(prompt, &tokens)
}

/// `NAME VALUE` sets a filter, nothing shows them all.
fn set(writer: &mut Writer<'_>, draws: bool, command: &str) -> anyhow::Result<()> {
    let useless = |name: &str| !draws && sampling_filters().any(|filter| filter == name);
    let mut words = command.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (None, ..) => {
            for (kind, value) in writer.settings.iter().filter(|(kind, _)| !useless(kind.name)) {
                Console::new().line(&format!(":{} {value}", kind.name));
            }
            Ok(())
        }
        (Some(name), Some(_), None) if useless(name) => {
            let message = format!("`{name}` shapes what tokens are drawn from, and none are drawn");
            Err(Usage::error(message, "leave --greedy, --contrastive or --beams out"))
        }
        (Some(name), Some(value), None) => {
            let value =
                value.parse().map_err(|_| Usage::error(format!("`{value}` is no number"), "such as :top-p 0.9"))?;
            Ok(writer.set(name, value)?)
        }
        _ => Err(Usage::error(format!("`:{command}` is no setting"), "write `:NAME VALUE`, such as :top-p 0.9")),
    }
}
