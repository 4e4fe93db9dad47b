//! `refrain ngram`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use refrain::data::{Corpus, DataSummary, grouped};
use refrain::models::Smoothing;
use refrain::tasks::NGramScore;
use serde_json::json;

use super::train::resolve;
use crate::console::Console;
use crate::failure::Usage;
use crate::output;

/// Score a recipe's validation text by counting n-grams: the floor that a network has to be above
///
/// Counts are of the training text. The text, its tokens and its vocabulary are those that `refrain train` would take with the
/// same arguments, so that its loss can stand beside this one. A word's history begins with its line; a character's does not.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A recipe (.toml) or a text file [default: the built-in recipe]
    source: Option<PathBuf>,
    /// Set a key of the recipe, such as data.tokens=word; may be repeated
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// Tokens of the longest n-gram, the predicted one included
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=16))]
    order: u8,
    /// How counts become probabilities
    #[arg(long, value_name = "NAME", default_value = "kneser-ney")]
    smoothing: Kind,
    /// What `--smoothing add-k` adds to every count [default: 0.01]
    #[arg(long, value_name = "NUMBER")]
    k: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Modified and interpolated (Chen and Goodman 1998)
    KneserNey,
    /// The same number added to every count
    AddK,
}

/// Small, since most tokens follow few histories.
const ADDED: f64 = 0.01;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let smoothing = match (args.smoothing, args.k) {
        (Kind::KneserNey, None) => Smoothing::KneserNey,
        (Kind::KneserNey, Some(k)) => {
            return Err(Usage::error(format!("--k {k} is for --smoothing add-k"), "add it, or leave --k out"));
        }
        (Kind::AddK, k) => match k.unwrap_or(ADDED) {
            k if k > 0.0 && k.is_finite() => Smoothing::AddK(k),
            k => return Err(Usage::error(format!("--k {k} is not above 0"), "give a number such as 0.01")),
        },
    };
    let recipe = resolve(args.source.as_deref(), &args.set)?;
    let corpus = Corpus::load(&recipe.data, Path::new(""))?;
    let vocabulary = corpus.vocabulary(&recipe.data)?;
    let mut console = Console::new();
    let train = vocabulary.encode(&corpus.train_text);
    let valid = vocabulary.encode(&corpus.valid_text);
    let summary = DataSummary::new(&corpus, &vocabulary, [&train, &valid]);
    for line in summary.to_string().lines() {
        console.line(line);
    }
    console.passing("counting");
    let NGramScore { loss_nats, score, tokens, .. } =
        NGramScore::of(&vocabulary, &train, (&valid, &summary.valid), usize::from(args.order), smoothing);
    console.clear();
    let smoothing = args.smoothing.to_possible_value().context("every kind has a name")?;
    if args.json {
        return output::json(&json!({
            "order": args.order,
            "smoothing": smoothing.get_name(),
            "loss_nats": loss_nats,
            score.name(): score.value(),
            "tokens": tokens,
            "vocabulary": vocabulary.scope(),
        }));
    }
    output::write(
        format!(
            "{} of order {}: {loss_nats:.4} nats, {score}, over {} {}\n",
            smoothing.get_name(),
            args.order,
            grouped(tokens as u64),
            vocabulary.unit().plural()
        )
        .as_bytes(),
    )
}
