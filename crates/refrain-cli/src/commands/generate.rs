//! `refrain generate`.

mod filter_args;
mod interactive;
mod write;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use refrain::decode::{
    BeamSearch, Constraints, ContrastiveSearch, FilterSettings, Limits, SampleConfig, prompt_tokens,
};
use refrain::text::{Vocabulary, name_unknown};

use self::filter_args::{FilterArgs, sampling_filters};
use self::write::{Way, Writer};
use crate::console::Console;
use crate::engine::{EngineArgs, at_least_one};
use crate::failure::Usage;
use crate::{input, model};

/// Let a model continue a prompt
///
/// The text goes to stdout as it comes, the prompt first. The same seed gives the same text, however many are written at once. A
/// model never writes the unknown token. A prompt is read as the beginning of a line: a new line goes before it, unseen, unless
/// it begins with one.
///
/// Tokens are drawn by the distribution that the filters leave of the model's; --greedy always takes the likeliest, --contrastive
/// one of the likeliest that is unlike what is there, and --beams looks for the likeliest text. In --stop, --ban and --force `\n`
/// is a new line, `\t` a tab and `\\` a backslash.
#[expect(clippy::struct_excessive_bools, reason = "flags of the command line")]
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run's folder, whose best model is taken, or a model file
    run_or_model: PathBuf,
    /// What to continue; - reads it from stdin [default: a new line, if the model knows it]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Read prompts from stdin, a line each, and continue one after another
    ///
    /// An empty line continues the last prompt once more, in another way where tokens are drawn. A line such as `:top-p 0.9` sets
    /// a filter, `:` alone shows them.
    #[arg(long, conflicts_with = "prompt")]
    interactive: bool,
    /// How many tokens to write
    #[arg(long, value_name = "N", default_value_t = SampleConfig::default().tokens)]
    tokens: usize,
    /// End a text before this one; may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = unescaped)]
    stop: Vec<String>,
    /// Let no --stop count before N tokens
    #[arg(long, value_name = "N", default_value_t = 0, requires = "stop")]
    min_tokens: usize,
    /// Always take the likeliest token, as --temperature 0
    #[arg(long, conflicts_with_all = sampling_filters())]
    greedy: bool,
    /// Write this text nowhere: a character, a word or any other; may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = unescaped)]
    ban: Vec<String>,
    /// Write this text first, whatever its probability
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = unescaped)]
    force: Option<String>,
    /// The seed of the random draws
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How many texts to write; a line of three dashes stands between them
    #[arg(long, value_name = "N", default_value_t = 1)]
    num: u64,
    /// What to do with characters or words of the prompt that the model does not know
    #[arg(long, value_name = "RULE", default_value = "error")]
    unknown: Unknown,
    /// Shade each token by its probability under the model; with --json, give its logarithm
    #[arg(long)]
    show_probabilities: bool,
    /// Print one JSON object a text, with `prompt` and `text`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    contrastive: ContrastiveArgs,
    #[command(flatten)]
    beams: BeamArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Contrastive search")]
struct ContrastiveArgs {
    /// Write one text: of the likeliest tokens always that with the highest (1 - F) P - F s, where P is its probability and s its
    /// likeness to the most similar token so far; such as 0.6; 0 is --greedy
    #[arg(long, value_name = "F", value_parser = share, allow_negative_numbers = true)]
    #[arg(conflicts_with_all = sampling_filters().chain(["greedy", "beams", "num"]))]
    contrastive: Option<f64>,
    /// How many of the likeliest tokens it chooses from
    #[arg(long, value_name = "N", default_value_t = default_candidates(), value_parser = at_least_one)]
    #[arg(requires = "contrastive")]
    candidates: NonZeroUsize,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Beam search")]
struct BeamArgs {
    /// Keep the N likeliest texts at a time, and write the best, or the best --num
    #[arg(long, value_name = "N", value_parser = at_least_one, conflicts_with_all = sampling_filters().chain(["greedy"]))]
    beams: Option<NonZeroUsize>,
    /// Divide the beams into N groups that keep away from each other
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one, requires = "beams")]
    groups: NonZeroUsize,
    /// What a group subtracts from the log-probability of a token that a group before it has just chosen
    #[arg(long, value_name = "F", default_value_t = BeamSearch::default().diversity, value_parser = not_negative)]
    #[arg(requires = "groups", allow_negative_numbers = true)]
    diversity: f64,
    /// Rank texts of n tokens by log-probability / ((5 + n) / 6)^F: above 0, longer ones are not at a disadvantage
    #[arg(long, value_name = "F", default_value_t = BeamSearch::default().length_penalty, value_parser = not_negative)]
    #[arg(requires = "beams", allow_negative_numbers = true)]
    length_penalty: f64,
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

fn default_candidates() -> NonZeroUsize {
    NonZeroUsize::new(ContrastiveSearch::default().candidates).expect("a search among no tokens finds none")
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("a number of at least 0".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("a number of at least 0 and at most 1".to_owned()),
    }
}

/// A text that is not empty, in which `\n`, `\t` and `\\` stand for what they do elsewhere.
fn unescaped(text: &str) -> Result<String, String> {
    let mut unescaped = String::new();
    let mut chars = text.chars();
    while let Some(ch) = chars.next() {
        unescaped.push(match ch {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('\\') => '\\',
                _ => return Err("after `\\` comes `n`, `t` or `\\`".to_owned()),
            },
            ch => ch,
        });
    }
    if unescaped.is_empty() { Err("text that is not empty".to_owned()) } else { Ok(unescaped) }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let way = args.way()?;
    args.engine.install()?;
    let trained = model::load(&args.run_or_model)?;
    let constraints = args.constraints(&trained.vocabulary)?;
    let mut writer = Writer::new(args, &trained, way, constraints);
    if args.interactive {
        return interactive::run(&mut writer, args);
    }
    let (prompt, tokens) = prompt(args, &trained.vocabulary)?;
    writer.write(&prompt, &tokens)
}

impl Args {
    /// How tokens are chosen; what the arguments say must go together.
    fn way(&self) -> anyhow::Result<Way> {
        let Self { tokens, min_tokens, num, .. } = *self;
        if min_tokens > tokens {
            let message = format!("--min-tokens {min_tokens} is more than --tokens {tokens}");
            return Err(Usage::error(message, "a text has at most --tokens tokens"));
        }
        let ContrastiveArgs { contrastive, candidates } = self.contrastive;
        if let Some(penalty) = contrastive {
            return Ok(Way::Contrastive(ContrastiveSearch { candidates: candidates.get(), penalty }));
        }
        let BeamArgs { beams, groups, diversity, length_penalty } = self.beams;
        let Some(beams) = beams else { return Ok(Way::Sampling) };
        let (beams, groups) = (beams.get(), groups.get());
        if !beams.is_multiple_of(groups) {
            let message = format!("--groups {groups} does not divide --beams {beams}");
            return Err(Usage::error(message, "groups are of as many beams each"));
        }
        if num > beams as u64 {
            let message = format!("--num {num}: a search with --beams {beams} finds {beams}");
            return Err(Usage::error(message, "raise --beams"));
        }
        Ok(Way::Beams(BeamSearch { beams, groups, diversity, length_penalty }))
    }

    /// Whether tokens are drawn, which the filters for that are of use for.
    fn draws(&self) -> bool {
        !self.greedy && self.beams.beams.is_none() && self.contrastive.contrastive.is_none()
    }

    /// The number of each filter, where the way of decoding decides some of them.
    fn filter_settings(&self) -> FilterSettings {
        let mut settings = self.filters.0.clone();
        if !self.draws() {
            settings = settings.without_sampling();
        }
        if self.greedy {
            settings.set("temperature", 0.0).expect("there is such a filter, which takes 0");
        }
        settings
    }

    fn constraints(&self, vocabulary: &Vocabulary) -> anyhow::Result<Constraints> {
        let tokens = |text: &String, flag: &str| {
            let unknown = vocabulary.unknown(text);
            if unknown.is_empty() {
                return Ok(vocabulary.encode(text));
            }
            let message = format!("the model does not know what stands in {flag}: {}", name_unknown(&unknown));
            Err(Usage::error(message, "it never writes them; `refrain info` shows those that it knows"))
        };
        let banned = self.ban.iter().map(|text| tokens(text, "--ban")).collect::<Result<Vec<_>, _>>()?;
        let alone: BTreeSet<&Vec<u32>> = banned.iter().filter(|tokens| tokens.len() == 1).collect();
        if alone.len() + 1 >= vocabulary.len() {
            return Err(Usage::error("--ban leaves nothing to write", "ban fewer of the tokens that the model knows"));
        }
        let forced = self.force.as_ref().map(|text| tokens(text, "--force")).transpose()?;
        Ok(Constraints { banned, forced: forced.unwrap_or_default() })
    }

    fn limits(&self) -> Limits {
        Limits { max_tokens: self.tokens, min_tokens: self.min_tokens, stops: self.stop.clone() }
    }
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
