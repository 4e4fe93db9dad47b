//! `refrain generate`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use refrain::decode::{Generation, SampleConfig, Sampler, prompt_tokens};
use refrain::models::LanguageModelStepper;
use refrain::text::{Vocabulary, name_unknown};
use serde_json::json;

use crate::console::Console;
use crate::engine::EngineArgs;
use crate::failure::Usage;
use crate::{input, model, output};

/// Let a model continue a prompt
///
/// The text goes to stdout as it comes, the prompt first. The same seed gives the same text. The unknown token is never
/// written. A prompt is read as the beginning of a line: a new line goes before it, unseen, unless it
/// begins with one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run's folder, whose best model is taken, or a model file
    run_or_model: PathBuf,
    /// What to continue; - reads it from stdin [default: a new line, if the model knows it]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// How many tokens to write
    #[arg(long, value_name = "N", default_value_t = SampleConfig::default().tokens)]
    tokens: usize,
    /// Below 1 safer, above 1 wilder; 0 always takes the likeliest token
    #[arg(long, value_name = "F", allow_negative_numbers = true, value_parser = temperature)]
    #[arg(default_value_t = SampleConfig::default().temperature)]
    temperature: f64,
    /// Draw among the K likeliest tokens only [default: among all]
    #[arg(long, value_name = "K", value_parser = top_k)]
    top_k: Option<NonZeroUsize>,
    /// The seed of the random draws
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How many texts to write; a line of three dashes stands between them
    #[arg(long, value_name = "N", default_value_t = 1)]
    num: u64,
    /// What to do with characters or words of the prompt that the model does not know
    #[arg(long, value_name = "RULE", default_value = "error")]
    unknown: Unknown,
    /// Print one JSON object a text, with `prompt` and `text`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Unknown {
    /// Name them and stop
    Error,
    /// Name them and read them as the unknown token
    Replace,
    /// Name them and leave them out
    Skip,
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("a number of at least 0".to_owned()),
    }
}

fn top_k(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "an integer of at least 1".to_owned())
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    args.engine.install()?;
    let trained = model::load(&args.run_or_model)?;
    let (prompt, tokens) = prompt(args, &trained.vocabulary)?;
    let sampler = Sampler { temperature: args.temperature, top_k: args.top_k.map(NonZeroUsize::get) };
    let stepper = LanguageModelStepper::new(&trained.model);
    for sample in 0..args.num {
        let generation = Generation::new(&stepper, &tokens, sampler, args.seed, sample).take(args.tokens);
        if args.json {
            let written: Vec<u32> = generation.collect();
            output::json(&json!({
                "sample": sample, "seed": args.seed, "prompt": prompt, "text": trained.vocabulary.continuation(&prompt, &written),
            }))?;
            continue;
        }
        if sample > 0 {
            output::write(b"---\n")?;
        }
        output::write(prompt.as_bytes())?;
        let mut before = prompt.clone();
        for token in generation {
            let added = trained.vocabulary.continuation(&before, &[token]);
            output::write(added.as_bytes())?;
            before = added;
        }
        output::write(b"\n")?;
    }
    Ok(())
}

/// The prompt and its tokens.
fn prompt(args: &Args, vocabulary: &Vocabulary) -> anyhow::Result<(String, Vec<u32>)> {
    let prompt = match args.prompt.as_deref() {
        Some("-") => input::read(Path::new("-"), None)?.1.text,
        Some(prompt) => prompt.to_owned(),
        None if vocabulary.new_line().is_some() => "\n".to_owned(),
        None => return Ok((String::new(), prompt_tokens(vocabulary, ""))),
    };
    let prompt = known(prompt, vocabulary, args.unknown)?;
    if prompt.is_empty() {
        let hint = format!("give at least one {}, or leave --prompt out", vocabulary.unit().singular());
        return Err(Usage::error("the prompt is empty", hint));
    }
    let tokens = prompt_tokens(vocabulary, &prompt);
    Ok((prompt, tokens))
}

/// The prompt by the rule for unknown characters, which are named on stderr.
fn known(prompt: String, vocabulary: &Vocabulary, rule: Unknown) -> anyhow::Result<String> {
    let unknown = vocabulary.unknown(&prompt);
    if unknown.is_empty() {
        return Ok(prompt);
    }
    let tokens = vocabulary.unit().plural();
    let message = format!("the model does not know these {tokens} of the prompt: {}", name_unknown(&unknown));
    match rule {
        Unknown::Error => Err(Usage::error(
            message,
            "--unknown replace reads them as the unknown token, --unknown skip leaves them out",
        )),
        Unknown::Replace => {
            Console::new().line(&format!("note: {message}; each is read as the unknown token"));
            Ok(prompt)
        }
        Unknown::Skip => {
            Console::new().line(&format!("note: {message}; they are left out"));
            Ok(vocabulary.without_unknown(&prompt))
        }
    }
}
