//! `refrain info`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use refrain::data::grouped;
use refrain::files::write_atomic;
use refrain::models::{Dtype, NamedTensor};
use refrain::text::{Unit, Vocabulary};
use serde_json::json;

use crate::failure::Usage;
use crate::{model, output};

/// Show what is in a model file
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run's folder, whose best model is taken, or a model file
    model: PathBuf,
    /// Print the whole recipe that trained it
    #[arg(long)]
    recipe: bool,
    /// Write the model's tokenizer to this new file, a tokenizer.json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["recipe", "json"])]
    tokenizer: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let file = model::file_of(&args.model)?;
    let trained = model::load(&file)?;
    let tensors = trained.model.to_tensors();
    let parameters: usize = tensors.iter().map(|tensor| tensor.values.len()).sum();
    let vocabulary = &trained.vocabulary;
    let unit = vocabulary.unit();
    if let Some(path) = &args.tokenizer {
        return write_tokenizer(vocabulary, &args.model, path);
    }
    let bytes = std::fs::metadata(&file)?.len();
    if args.json {
        let shapes: Vec<_> = tensors
            .iter()
            .map(|tensor| json!({ "name": tensor.name, "shape": tensor.shape, "dtype": dtype_name(tensor.dtype) }))
            .collect();
        return output::json(&json!({
            "file": file.display().to_string(),
            "bytes": bytes,
            "task": "language-model",
            "model": trained.config,
            "parameters": parameters,
            "tensors": shapes,
            "vocabulary": {
                "size": vocabulary.len(),
                "unit": unit,
                "scope": vocabulary.scope(),
                unit.plural(): match unit {
                    Unit::Char => json!(vocabulary.tokens().concat()),
                    _ => json!(vocabulary.tokens()),
                },
            },
            "provenance": trained.provenance,
            "recipe": trained.recipe,
        }));
    }
    if args.recipe {
        return output::write(trained.recipe.as_bytes());
    }
    let provenance = &trained.provenance;
    let mut text = String::new();
    writeln!(text, "file         {}, {} bytes", file.display(), grouped(bytes))?;
    writeln!(text, "task         language model of {}", unit.plural())?;
    let config = &trained.config;
    writeln!(
        text,
        "model        {} {} × {}, embedding {}, products in {}",
        config.num_layers, config.cell, config.hidden_size, config.embedding_size, config.precision
    )?;
    if let Some(context) = config.context {
        let heads = config.num_heads;
        writeln!(
            text,
            "             {heads} heads, positions {}, context of {}",
            config.positions,
            grouped(context as u64)
        )?;
    }
    writeln!(text, "parameters   {}, {}", grouped(parameters as u64), dtypes(&tensors))?;
    for tensor in &tensors {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let in_eight_bits = if tensor.dtype == Dtype::I8 { ", int8" } else { "" };
        writeln!(text, "  {:<29} {}{in_eight_bits}", tensor.name, shape.join(" × "))?;
    }
    let size = grouped(vocabulary.len() as u64);
    writeln!(text, "vocabulary   {size} tokens: <unk> and {}", excerpt(vocabulary))?;
    writeln!(text, "             {}", vocabulary.scope().description())?;
    write!(text, "trained      {} steps, {:.2} epochs", grouped(provenance.step), provenance.epoch)?;
    match provenance.valid_loss_nats {
        Some(loss) => writeln!(text, ", validation loss {loss:.4} nats")?,
        None => writeln!(text)?,
    }
    writeln!(text, "corpus       SHA-256 {}", provenance.corpus)?;
    writeln!(text, "written by   refrain {}", provenance.refrain)?;
    writeln!(text, "recipe       shown by --recipe")?;
    output::write(text.as_bytes())
}

fn write_tokenizer(vocabulary: &Vocabulary, model: &Path, path: &Path) -> anyhow::Result<()> {
    let Some(json) = vocabulary.tokenizer_json() else {
        let model = model.display();
        return Err(Usage::error(
            format!("{model} is a model of {}: it has no tokenizer", vocabulary.unit().plural()),
            "name a model that was trained with data.tokens = \"bpe\", \"unigram\" or \"tokenizer\"",
        ));
    };
    output::check_free(path)?;
    Ok(write_atomic(path, json.as_bytes())?)
}

/// As people write it.
fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::I8 => "int8",
    }
}

/// In what the tensors are kept, and how many of the parameters, unless it is all of them in f32.
fn dtypes(tensors: &[NamedTensor]) -> String {
    let count = |dtype: Dtype| -> usize {
        tensors.iter().filter(|tensor| tensor.dtype == dtype).map(|tensor| tensor.values.len()).sum()
    };
    match [Dtype::I8, Dtype::F32].map(count) {
        [0, _] => dtype_name(Dtype::F32).to_owned(),
        [in_eight_bits, others] => {
            format!("{} of them int8, {} f32", grouped(in_eight_bits as u64), grouped(others as u64))
        }
    }
}

/// The tokens themselves, as many as a line holds.
fn excerpt(vocabulary: &Vocabulary) -> String {
    const SHOWN: usize = 80;
    let between = match vocabulary.unit() {
        Unit::Char => "",
        _ => " ",
    };
    let (mut shown, mut length, mut count) = (String::new(), 0, 0);
    for token in vocabulary.tokens() {
        length += token.chars().count() + between.len();
        if length > SHOWN {
            break;
        }
        if count > 0 {
            shown.push_str(between);
        }
        for ch in token.chars() {
            if ch.is_control() || ch == '\\' { shown.extend(ch.escape_debug()) } else { shown.push(ch) }
        }
        count += 1;
    }
    match vocabulary.tokens().len() - count {
        0 => shown,
        more => format!("{shown} … and {} more", grouped(more as u64)),
    }
}
