//! `refrain score`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::ValueEnum;
use refrain::data::grouped;
use refrain::decode::prompt_tokens;
use refrain::metrics::LanguageModelScore;
use refrain::models::TrainedModel;
use refrain::tasks::score_sequences;
use refrain::text::{Continuation, Encoding, name_unknown};
use serde_json::{Value, json};

use crate::console::Console;
use crate::engine::EngineArgs;
use crate::failure::Usage;
use crate::{input, model, output, shade};

/// Score each line of a text: log-probability, perplexity and surprisal of each token
///
/// Each line is read alone, as the beginning of a text: a new line goes before it, unseen, if the model knows it; else its first
/// token has nothing before it and is not scored. The end of a line is not scored. Empty lines are left out. What the model
/// does not know is scored as the unknown token.
///
/// For example: echo "To be, or not to be" | refrain score runs/shakespeare-001
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run's folder, whose best model is taken, or a model file
    model: PathBuf,
    /// The text; - reads it from stdin
    #[arg(default_value = "-")]
    text: PathBuf,
    /// Print the best line first: the likeliest, or that of the lowest perplexity
    #[arg(long, value_name = "BY", num_args = 0..=1, require_equals = true, default_missing_value = "log-probability")]
    rank: Option<Rank>,
    /// Print the surprisal of each token below its line, in bits
    #[arg(long)]
    surprisal: bool,
    /// Shade each token by its probability
    #[arg(long, conflicts_with = "json")]
    show_probabilities: bool,
    /// How to read the text: utf-8, utf-16le, utf-16be or gb18030 [default: whichever it is]
    #[arg(long, value_name = "NAME")]
    encoding: Option<Encoding>,
    /// Print one JSON object a line, with all of this
    #[arg(long, conflicts_with = "surprisal")]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rank {
    /// Of the whole line: a longer one is less likely
    LogProbability,
    /// Per token: lines of different lengths compare
    Perplexity,
}

/// A line and what it is to the model.
#[derive(Debug)]
struct Line<'a> {
    /// From 1.
    number: usize,
    text: &'a str,
    /// What is scored, token by token, and before it what is not.
    tokens: Vec<u32>,
    /// Of each token but the first.
    nats: Vec<f64>,
    score: LanguageModelScore,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    args.engine.install()?;
    let trained = model::load(&args.model)?;
    let (name, decoded) = input::read(&args.text, args.encoding)?;
    let mut console = Console::new();
    let unknown = trained.vocabulary.unknown(&decoded.text);
    let unknown: Vec<_> =
        unknown.into_iter().filter(|unknown| !matches!(unknown.token.as_str(), "\n" | "\r")).collect();
    if !unknown.is_empty() {
        let unknown = name_unknown(&unknown);
        console.line(&format!("note: {name}: the model does not know {unknown}; each is scored as the unknown token"));
    }
    let mut lines = lines(&trained, &name, &decoded.text, &mut console)?;
    match args.rank {
        Some(Rank::LogProbability) => lines.sort_by(|a, b| a.score.total_nats.total_cmp(&b.score.total_nats)),
        Some(Rank::Perplexity) => lines.sort_by(|a, b| a.score.loss_nats().total_cmp(&b.score.loss_nats())),
        None => {}
    }
    if args.json {
        return lines.iter().enumerate().try_for_each(|(place, line)| {
            let mut value = line.json(&trained);
            if args.rank.is_some() {
                value["rank"] = json!(place + 1);
            }
            output::json(&value)
        });
    }
    if args.show_probabilities {
        shade::explain();
    }
    output::write(
        format!("{:>6} {:>12} {:>12} {:>7}  text\n", "line", "log P, nats", "perplexity", "tokens").as_bytes(),
    )?;
    lines.iter().try_for_each(|line| output::write(line.report(&trained, args).as_bytes()))
}

/// The lines that have something to score, in their order.
fn lines<'a>(
    trained: &TrainedModel,
    name: &str,
    text: &'a str,
    console: &mut Console,
) -> anyhow::Result<Vec<Line<'a>>> {
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    let lines: Vec<(usize, &str, Vec<u32>)> =
        numbered.map(|(index, line)| (index + 1, line, prompt_tokens(&trained.vocabulary, line))).collect();
    if lines.is_empty() {
        return Err(Usage::error(format!("{name} has no line to score"), "give at least one that is not empty"));
    }
    if let Some((number, ..)) = lines.iter().find(|(.., tokens)| tokens.len() < 2) {
        let message = format!("{name}, line {number}: there is one token alone, which has nothing before it");
        return Err(Usage::error(message, "the model knows no new line to begin with; give at least two tokens"));
    }
    let sequences: Vec<&[u32]> = lines.iter().map(|(.., tokens)| tokens.as_slice()).collect();
    let total = grouped(sequences.iter().map(|tokens| tokens.len() as u64 - 1).sum());
    let nats = score_sequences(&trained.model, &sequences, |done| {
        console.passing(&format!("{} of {total} tokens", grouped(done)));
    });
    console.clear();
    let line = |((number, text, tokens), nats): ((usize, &'a str, Vec<u32>), Vec<f64>)| {
        let scored = trained.vocabulary.decode(&tokens[1..]);
        let score = LanguageModelScore {
            total_nats: nats.iter().sum(),
            tokens: nats.len() as u64,
            chars: scored.chars().count() as u64,
            bytes: scored.len() as u64,
        };
        Line { number, text, tokens, nats, score }
    };
    Ok(lines.into_iter().zip(nats).map(line).collect())
}

impl Line<'_> {
    /// Each token that is scored, and its surprisal.
    fn tokens(&self, trained: &TrainedModel) -> impl Iterator<Item = (String, f64)> {
        self.tokens[1..].iter().zip(&self.nats).map(|(&token, &nats)| (trained.vocabulary.name(token).to_owned(), nats))
    }

    fn json(&self, trained: &TrainedModel) -> Value {
        let token =
            |(text, nats): (String, f64)| json!({ "text": text, "surprisal_bits": nats / std::f64::consts::LN_2 });
        json!({
            "line": self.number,
            "text": self.text,
            "log_probability": -self.score.total_nats,
            "perplexity": self.score.perplexity(),
            "tokens": self.tokens(trained).map(token).collect::<Vec<_>>(),
        })
    }

    fn report(&self, trained: &TrainedModel, args: &Args) -> String {
        let text = if args.show_probabilities {
            let vocabulary = &trained.vocabulary;
            // What is not scored stands as it is; a new line that was put before the text does not stand in it.
            let unscored = if vocabulary.new_line().is_some() { &[][..] } else { &self.tokens[..1] };
            let mut continuation = Continuation::after(&self.tokens[..1], vocabulary);
            let scored = self.tokens[1..].iter().zip(&self.nats);
            let text = scored.fold(vocabulary.decode(unscored), |text, (&token, &nats)| {
                text + &shade::shaded(&continuation.push(token, vocabulary), -nats)
            });
            text + &continuation.finish(vocabulary)
        } else {
            self.text.to_owned()
        };
        let Self { number, score, .. } = self;
        let mut report = format!(
            "{number:>6} {:>12.4} {:>12.4} {:>7}  {text}\n",
            -score.total_nats,
            score.perplexity(),
            score.tokens
        );
        if args.surprisal {
            for (token, nats) in self.tokens(trained) {
                writeln!(report, "{:>19.4} bits  {token:?}", nats / std::f64::consts::LN_2)
                    .expect("a string takes all that is written to it");
            }
        }
        report
    }
}
