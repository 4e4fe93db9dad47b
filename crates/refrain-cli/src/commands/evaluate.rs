//! `refrain evaluate`.

use std::fmt::Write as _;
use std::path::PathBuf;

use refrain::data::grouped;
use refrain::text::{Encoding, Unit};
use serde_json::json;

use crate::console::Console;
use crate::engine::{self, EngineArgs};
use crate::{input, model, output, score};

/// Score a text: loss, perplexity, bits per character and per byte
///
/// The whole text is read as one stream, the state carried from its first token to its last. The first token has nothing before
/// it and is not scored. What the model does not know is scored as the unknown token. Bits per character and per byte compare models
/// of any tokens but words, which leave out what is between them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run's folder, whose best model is taken, or a model file
    model: PathBuf,
    /// The text; - reads it from stdin
    text: PathBuf,
    /// How to read the text: utf-8, utf-16le, utf-16be or gb18030 [default: whichever it is]
    #[arg(long, value_name = "NAME")]
    encoding: Option<Encoding>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let engine = args.engine.install()?;
    let trained = model::load(&args.model)?;
    let (name, decoded) = input::read(&args.text, args.encoding)?;
    let mut console = Console::new();
    let computed = engine::of_model(&trained);
    console.line(&format!("{name}: {} ({}); {engine}{computed}", decoded.encoding, decoded.reason));
    let score = score::score(&trained, &name, &decoded.text, &mut console)?;
    let unknown = score::unknown(&trained.vocabulary, &decoded.text);
    let of_whole_text = trained.vocabulary.unit() != Unit::Word;
    if args.json {
        return output::json(&json!({
            "text": name,
            "encoding": decoded.encoding,
            "loss_nats": score.loss_nats(),
            "perplexity": score.perplexity(),
            "bits_per_char": of_whole_text.then(|| score.bits_per_char()),
            "bits_per_byte": of_whole_text.then(|| score.bits_per_byte()),
            "total_nats": score.total_nats,
            "tokens": score.tokens,
            "chars": score.chars,
            "bytes": score.bytes,
            "unknown": unknown.count,
            "unit": trained.vocabulary.unit(),
            "vocabulary": trained.vocabulary.scope(),
        }));
    }
    let tokens = grouped(score.tokens);
    let token = match trained.vocabulary.unit() {
        Unit::Byte => "byte",
        Unit::Word => "word",
        _ => "token",
    };
    let mut report = format!(
        "loss            {:.4} nats per {token}, over {tokens} {token}s\n\
         perplexity      {:.4} per {token}, over {tokens} {token}s\n",
        score.loss_nats(),
        score.perplexity(),
    );
    if of_whole_text {
        write!(
            report,
            "bits per char   {:.4}, over {} characters\n\
             bits per byte   {:.4}, over {} bytes of UTF-8\n",
            score.bits_per_char(),
            grouped(score.chars),
            score.bits_per_byte(),
            grouped(score.bytes),
        )
        .expect("a string takes all that is written to it");
    }
    report += &score::unknown_line(unknown);
    writeln!(report, "vocabulary      {}", trained.vocabulary.scope().description())
        .expect("a string takes all that is written to it");
    output::write(report.as_bytes())
}
