//! `refrain gates`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use burn::tensor::{Int, Tensor, TensorData};
use refrain::decode::prompt_tokens;
use refrain::files::write_atomic;
use refrain::models::TrainedModel;
use refrain::nn::GateTrace;
use refrain::text::{Unit, Vocabulary, name_unknown};
use serde_json::json;

use crate::engine::{EngineArgs, at_least_one};
use crate::failure::Usage;
use crate::heat_map::{HeatMap, Picture, Scale};
use crate::{input, model, output};

/// More characters make a picture that nobody can read.
const MAX_CHARACTERS: usize = 200;

/// Draw what the gates of a layer do over a text, as SVG
///
/// One heat map for each gate, the cell state and the hidden state: the characters from left to right, one unit a row. If the
/// layer has more units than --units, as many are drawn, evenly spread. Rows are in the same order in all maps: by the mean of the
/// forget or update gate, at the top the unit that keeps most of its state; without gates, by the mean of the hidden state. A
/// projected hidden state has units of its own, by their mean.
///
/// The text is read as the beginning of a line, as `refrain generate` reads a prompt: a new line goes before it, unless it begins
/// with one.
///
/// For example: refrain gates runs/shakespeare-001 --text "To be, or not to be" --output gates.svg
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A run's folder, whose best model is taken, or a model file
    model: PathBuf,
    /// What the model reads, of at most 200 characters; - reads it from stdin
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    text: String,
    /// The layer, counted from 1, the lowest
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    layer: NonZeroUsize,
    /// How many units to draw
    #[arg(long, value_name = "N", default_value = "24", value_parser = at_least_one, conflicts_with = "json")]
    units: NonZeroUsize,
    /// The picture to write, which must not exist yet [default: stdout]
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    output: Option<PathBuf>,
    /// Print the values of all units as one JSON object instead, by name, character and unit
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(path) = &args.output {
        output::check_free(path)?;
    }
    args.engine.install()?;
    let trained = model::load(&args.model)?;
    if trained.vocabulary.unit() != Unit::Char {
        return Err(Usage::error(
            format!("{} is a model of words: pictures have a character above each column", args.model.display()),
            "draw a model of characters",
        ));
    }
    if trained.config.cell.recurrent().is_none() {
        return Err(Usage::error(
            format!("{} is a transformer, which has no gates", args.model.display()),
            "draw a recurrent model",
        ));
    }
    let layers = trained.model.recurrent.layers.len();
    if args.layer.get() > layers {
        let message = format!("--layer {}: the model has {layers} recurrent layer{}", args.layer, plural(layers));
        return Err(Usage::error(message, "they are counted from 1, the lowest"));
    }
    let tokens = read(&args.text, &trained.vocabulary)?;
    let seen = Seen::of(&trained, &tokens, args.layer.get() - 1);
    if args.json {
        let values: serde_json::Map<_, _> =
            seen.values.iter().map(|(name, values)| (name.clone(), json!(values))).collect();
        return output::json(&json!({
            "text": seen.characters.iter().collect::<String>(),
            "cell": trained.config.cell,
            "layer": args.layer,
            "values": values,
        }));
    }
    let svg = seen.picture(&trained, args).svg();
    match &args.output {
        Some(path) => Ok(write_atomic(path, svg.as_bytes())?),
        None => output::write(svg.as_bytes()),
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// The tokens of the text.
fn read(text: &str, vocabulary: &Vocabulary) -> anyhow::Result<Vec<u32>> {
    let text = match text {
        "-" => input::read(Path::new("-"), None)?.1.text,
        text => text.to_owned(),
    };
    let characters = text.chars().count();
    if characters == 0 {
        return Err(Usage::error("the text is empty", "give at least one character"));
    }
    if characters > MAX_CHARACTERS {
        let message = format!("the text is of {characters} characters, but a picture shows at most {MAX_CHARACTERS}");
        return Err(Usage::error(message, "give a shorter one, such as one sentence"));
    }
    let unknown = vocabulary.unknown(&text);
    if !unknown.is_empty() {
        let message = format!("the model does not know these characters of the text: {}", name_unknown(&unknown));
        return Err(Usage::error(message, "leave them out; `refrain info` shows those that it knows"));
    }
    Ok(prompt_tokens(vocabulary, &text))
}

/// What a layer did while the model read a text.
struct Seen {
    characters: Vec<char>,
    /// By name, character and unit: the gates, the cell state, the hidden state.
    values: Vec<(String, Vec<Vec<f32>>)>,
}

impl Seen {
    fn of(trained: &TrainedModel, tokens: &[u32], layer: usize) -> Self {
        let model = &trained.model;
        let device = model.embedding.weight.device();
        let ids: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, tokens.len()]), &device);
        let below = model.recurrent.layers[..layer].iter();
        let input = below.fold(model.embedding.forward(ids), |input, layer| layer.forward(input, None, None, None).0);
        let GateTrace { hidden, cell_state, gates } = model.recurrent.layers[layer].gates(input, None, None);
        let named = gates.into_iter().chain(cell_state.map(|state| ("cell_state", state))).chain([("hidden", hidden)]);
        let values = named.map(|(name, tensor)| {
            let [_, _, units] = tensor.dims();
            let values: Vec<f32> = tensor.into_data().try_into_vec().expect("gates are f32");
            (name.to_owned(), values.chunks_exact(units).map(<[f32]>::to_vec).collect())
        });
        let characters = trained.vocabulary.decode(tokens).chars().collect();
        Self { characters, values: values.collect() }
    }

    fn by_name(&self, name: &str) -> Option<&[Vec<f32>]> {
        self.values.iter().find(|(of, _)| of == name).map(|(_, values)| values.as_slice())
    }

    /// The units to draw, in their order.
    fn units(&self, count: usize) -> Vec<usize> {
        spread(self.order().1, self.update_writes(), count)
    }

    /// Whether the update gate is what is written, as in a minimal GRU, which alone has it without a reset gate.
    fn update_writes(&self) -> bool {
        self.by_name("update").is_some() && self.by_name("reset").is_none()
    }

    /// What the units are in the order of, by name, character and unit.
    fn order(&self) -> (&'static str, &[Vec<f32>]) {
        let by_gate = [("forget", "forget gate"), ("update", "update gate"), ("hidden", "hidden state")];
        let mut found = by_gate.into_iter().filter_map(|(name, words)| Some((words, self.by_name(name)?)));
        found.next().expect("every layer has a hidden state")
    }

    fn picture(&self, trained: &TrainedModel, args: &Args) -> Picture {
        let units = self.units(args.units.get());
        let all = self.order().1[0].len();
        let maps = self.values.iter().map(|(name, values)| {
            // A projected hidden state has units of its own.
            let own = (values[0].len() != all).then(|| spread(values, false, args.units.get()));
            let units = own.as_ref().unwrap_or(&units);
            let rows: Vec<Vec<f32>> =
                units.iter().map(|&unit| values.iter().map(|step| step[unit]).collect()).collect();
            HeatMap {
                title: if own.is_some() {
                    "hidden state: the projection of what is shown".to_owned()
                } else {
                    self.title(name)
                },
                scale: scale(name, &rows),
                rows: units.iter().map(usize::to_string).collect(),
                values: rows,
            }
        });
        let chosen =
            if all == units.len() { format!("all {all} units") } else { format!("{} of {all} units", units.len()) };
        Picture {
            title: format!(
                "Layer {} of {}: {} × {}",
                args.layer,
                trained.model.recurrent.layers.len(),
                trained.config.cell,
                all
            ),
            subtitle: format!(
                "{chosen}, from the {} mean of the {}",
                if self.update_writes() { "lowest to the highest" } else { "highest to the lowest" },
                self.order().0
            ),
            columns: self.characters.clone(),
            maps: maps.collect(),
        }
    }

    /// The name of a heat map, and what it shows.
    fn title(&self, name: &str) -> String {
        let (name, what) = match name {
            "input" => ("input gate", "how much of the candidate is written"),
            "forget" => ("forget gate", "how much of the cell state stays"),
            "output" => ("output gate", "how much of the cell state is shown"),
            "reset" => ("reset gate", "how much of the past the candidate may use"),
            "update" if self.update_writes() => ("update gate", "how much of the candidate is written"),
            "update" => ("update gate", "how much of the hidden state stays"),
            "candidate" => ("candidate", "what may be written"),
            "cell_state" => ("cell state", "what is remembered, after the step"),
            "hidden" => ("hidden state", "what is shown, after the step"),
            other => (other, ""),
        };
        format!("{name}: {what}")
    }
}

/// Units evenly spread over all of those of values by character and unit, from the one with the highest mean, or the `lowest`, on.
fn spread(values: &[Vec<f32>], lowest: bool, count: usize) -> Vec<usize> {
    let mean = |unit: usize| values.iter().map(|step| f64::from(step[unit])).sum::<f64>() / values.len() as f64;
    let mut units: Vec<(usize, f64)> = (0..values[0].len()).map(|unit| (unit, mean(unit))).collect();
    units.sort_by(|(_, a), (_, b)| if lowest { a.total_cmp(b) } else { b.total_cmp(a) });
    let count = count.min(units.len());
    (0..count).map(|place| units[place * (units.len() - 1) / (count - 1).max(1)].0).collect()
}

/// Gates are shares; candidates and hidden states lie between −1 and 1, cell states anywhere, and so do those of a rectifier and
/// the candidates of a minimal GRU.
fn scale(name: &str, rows: &[Vec<f32>]) -> Scale {
    let mut sizes: Vec<f32> = rows.iter().flatten().map(|value| value.abs()).collect();
    sizes.sort_by(f32::total_cmp);
    // tanh as it is computed may be above 1 by a rounding error.
    let is_bounded = sizes.last().is_none_or(|&largest| largest < 1.001);
    match name {
        "candidate" | "hidden" if is_bounded => Scale::Signed(1.0),
        "candidate" | "hidden" | "cell_state" => {
            // A few units that run away would leave the others white.
            let end = sizes[(sizes.len() - 1) * 19 / 20];
            Scale::Clipped(((10.0 * end).ceil() / 10.0).max(0.1))
        }
        _ => Scale::Share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_spread_from_the_one_that_keeps_most_to_the_one_that_keeps_least() {
        let step = || vec![0.1, 0.9, 0.5, 0.7];
        let named = |name: &str| (name.to_owned(), vec![step(), step()]);
        let mut seen = Seen { characters: vec!['a', 'b'], values: vec![named("forget")] };
        assert_eq!(seen.units(9), [1, 3, 2, 0]);
        assert_eq!([1, 2, 3].map(|count| seen.units(count)), [vec![1], vec![1, 0], vec![1, 3, 0]]);
        seen.values = vec![named("hidden")];
        assert_eq!((seen.order().0, seen.units(2)), ("hidden state", vec![1, 0]));
        seen.values = vec![named("reset"), named("update")];
        assert_eq!(
            (seen.title("update").as_str(), seen.units(2)),
            ("update gate: how much of the hidden state stays", vec![1, 0])
        );
        // That of a minimal GRU says what is new.
        seen.values = vec![named("update"), named("candidate")];
        assert_eq!(
            (seen.title("update").as_str(), seen.units(2)),
            ("update gate: how much of the candidate is written", vec![0, 1])
        );
    }

    #[test]
    fn a_state_without_bound_is_drawn_to_where_nearly_all_of_it_lies() {
        let rows = vec![(0..100).map(|value| value as f32 / 10.0).collect::<Vec<f32>>()];
        assert_eq!(scale("cell_state", &rows), Scale::Clipped(9.4));
        assert_eq!(scale("hidden", &rows), Scale::Clipped(9.4), "of a rectifier");
        assert_eq!(scale("candidate", &rows), Scale::Clipped(9.4), "of a minimal GRU");
        assert_eq!(scale("hidden", &[vec![0.5, -0.5]]), Scale::Signed(1.0));
        assert_eq!(scale("forget", &[vec![0.5]]), Scale::Share);
    }
}
