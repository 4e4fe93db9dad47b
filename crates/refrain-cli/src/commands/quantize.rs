//! `refrain quantize`.

use std::path::PathBuf;

use anyhow::Context as _;
use refrain::data::grouped;
use refrain::files::write_atomic;
use refrain::metrics::LanguageModelScore;
use refrain::models::{Dtype, TrainedModel};
use refrain::text::Encoding;
use serde_json::json;

use crate::console::Console;
use crate::engine::{self, EngineArgs};
use crate::failure::Usage;
use crate::{input, model, output, score};

/// How far the perplexity may rise for the model to be written.
const MAX_RISE_PERCENT: f64 = 1.0;

/// Write a model with weights in int8, if it still predicts a text as well
///
/// The weights of the recurrent layers and of the head are rounded to 8 bits, with a step for each row; embedding and biases
/// stay f32. The text, best one that the model was not trained on, is scored before and after, as `refrain evaluate` does. If
/// the perplexity rises by more than 1 %, the command fails and writes nothing.
///
/// The new file is about a quarter as large and is used like any other; `refrain generate` then reads a quarter of the bytes
/// for each character.
///
/// For example: refrain quantize runs/shakespeare-001 held-out.txt --output int8.safetensors
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run's folder, whose best model is taken, or a model file
    model: PathBuf,
    /// The text; - reads it from stdin
    text: PathBuf,
    /// The model file to write, which must not exist yet
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
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
    output::check_free(&args.output)?;
    let engine = args.engine.install()?;
    let file = model::file_of(&args.model)?;
    let trained = model::load(&file)?;
    let quantized = trained.quantize().with_context(|| file.display().to_string())?;
    let (name, decoded) = input::read(&args.text, args.encoding)?;
    let mut console = Console::new();
    let computed = engine::of_model(&trained);
    console.line(&format!("{name}: {} ({}); {engine}{computed}", decoded.encoding, decoded.reason));
    let before = score::score(&trained, &name, &decoded.text, &mut console)?;
    let after = score::score(&quantized, &name, &decoded.text, &mut console)?;
    let rise = rise_percent(&before, &after);
    // What is not a number is not at most that either.
    let is_allowed = rise <= MAX_RISE_PERCENT;
    if !is_allowed {
        return Err(Usage::error(
            format!(
                "int8 raises the perplexity on {name} from {:.4} to {:.4}, by {rise:.2} %; at most {MAX_RISE_PERCENT} % is allowed",
                before.perplexity(),
                after.perplexity(),
            ),
            format!("{} was not written; go on with the model as it is", args.output.display()),
        ));
    }
    let bytes = quantized.to_artefact().to_bytes()?;
    // Scoring takes a while; somebody may have written it since.
    output::check_free(&args.output)?;
    write_atomic(&args.output, &bytes)?;

    let sizes = [std::fs::metadata(&file)?.len(), bytes.len() as u64];
    let unknown = score::unknown(&trained.vocabulary, &decoded.text);
    let weights = Weights::of(&quantized);
    if args.json {
        return output::json(&json!({
            "model": file.display().to_string(),
            "output": args.output.display().to_string(),
            "text": name,
            "encoding": decoded.encoding,
            "tokens": after.tokens,
            "unknown": unknown.count,
            "perplexity_before": before.perplexity(),
            "perplexity_after": after.perplexity(),
            "rise_percent": rise,
            "bytes_before": sizes[0],
            "bytes_after": sizes[1],
            "tensors": weights.tensors,
            "tensors_int8": weights.tensors_int8,
            "parameters": weights.parameters,
            "parameters_int8": weights.parameters_int8,
        }));
    }
    let mut report = format!(
        "perplexity      {:.4} → {:.4} per token ({rise:+.2} %), over {} tokens\n\
         file            {} → {} bytes\n\
         int8            {} of {} tensors, {} of {} parameters\n\
         written         {}\n",
        before.perplexity(),
        after.perplexity(),
        grouped(after.tokens),
        grouped(sizes[0]),
        grouped(sizes[1]),
        weights.tensors_int8,
        weights.tensors,
        grouped(weights.parameters_int8),
        grouped(weights.parameters),
        args.output.display(),
    );
    report += &score::unknown_line(unknown);
    output::write(report.as_bytes())
}

/// How much higher the perplexity is after: from the losses, since that of a very bad model is beyond any number.
fn rise_percent(before: &LanguageModelScore, after: &LanguageModelScore) -> f64 {
    100.0 * (after.loss_nats() - before.loss_nats()).exp_m1()
}

/// How much of a model is in eight bits.
struct Weights {
    tensors: usize,
    tensors_int8: usize,
    parameters: u64,
    parameters_int8: u64,
}

impl Weights {
    fn of(model: &TrainedModel) -> Self {
        let mut weights = Self { tensors: 0, tensors_int8: 0, parameters: 0, parameters_int8: 0 };
        for tensor in model.model.to_tensors() {
            weights.tensors += 1;
            weights.parameters += tensor.values.len() as u64;
            if tensor.dtype == Dtype::I8 {
                weights.tensors_int8 += 1;
                weights.parameters_int8 += tensor.values.len() as u64;
            }
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rise_is_that_of_the_perplexity() {
        let score = |total_nats: f64| LanguageModelScore { total_nats, tokens: 10, chars: 10, bytes: 10 };
        let rise = |before: f64, after: f64| rise_percent(&score(before), &score(after));
        assert!((rise(20.0, 20.1) - 100.0 * (2.01f64.exp() / 2.0f64.exp() - 1.0)).abs() < 1e-9);
        assert!(rise(20.0, 19.9) < 0.0 && rise(20.0, 20.0).abs() < 1e-12);
        assert!((rise(1e5, 1e5 + 0.1) - 1.005).abs() < 1e-3, "where the perplexity itself is beyond f64");
    }
}
