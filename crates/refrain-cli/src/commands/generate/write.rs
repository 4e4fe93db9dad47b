//! Texts on stdout: as they come, one after another, or as JSON.

use refrain::decode::{
    BeamSearch, Constraints, ContrastiveSearch, End, FilterError, FilterSettings, Filters, Limits, Piece, Streams,
    Texts, TokenStreams,
};
use refrain::models::{LanguageModelStepper, TrainedModel};
use refrain::text::Vocabulary;
use serde_json::{Value, json};

use super::Args;
use crate::console::Console;
use crate::{output, shade};

/// Texts written at once: beyond, more streams make no better use of a weight that is read.
const AT_ONCE: u64 = 64;

/// Continues prompts as the arguments say.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    stepper: LanguageModelStepper,
    pub(super) vocabulary: &'a Vocabulary,
    /// How many tokens the model sees at once, if that is limited.
    context: Option<usize>,
    pub(super) settings: FilterSettings,
    constraints: Constraints,
    limits: Limits,
    way: Way,
    seed: u64,
    num: u64,
    /// The number of the next sample.
    next_sample: u64,
    form: Form,
    probabilities: bool,
}

/// How tokens are chosen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Sampling,
    Contrastive(ContrastiveSearch),
    Beams(BeamSearch),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

/// A text as far as it is known.
#[derive(Debug, Default)]
struct Known {
    pieces: Vec<Piece>,
    /// Whether the prompt is on stdout.
    begun: bool,
    /// How many of the pieces are.
    shown: usize,
    end: Option<End>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(args: &Args, trained: &'a TrainedModel, way: Way, constraints: Constraints) -> Self {
        let form = if args.json { Form::Json } else { Form::Text };
        if args.show_probabilities && form == Form::Text {
            shade::explain();
        }
        Self {
            stepper: LanguageModelStepper::new(&trained.model),
            vocabulary: &trained.vocabulary,
            context: trained.config.context,
            settings: args.filter_settings(),
            constraints,
            limits: args.limits(),
            way,
            seed: args.seed,
            num: args.num,
            next_sample: 0,
            form,
            probabilities: args.show_probabilities,
        }
    }

    /// Changes a filter for the texts to come.
    pub(super) fn set(&mut self, name: &str, value: f64) -> Result<(), FilterError> {
        self.settings.set(name, value)
    }

    /// Continues a prompt by as many texts as are asked for.
    pub(super) fn write(&mut self, prompt: &str, tokens: &[u32]) -> anyhow::Result<()> {
        if let Some(context) = self.context.filter(|context| tokens.len() > *context) {
            Console::new().line(&format!(
                "note: the prompt has {} tokens, and the model sees {context} at once: it goes on from the last of them alone",
                tokens.len()
            ));
        }
        let filters = self.settings.filters(self.constraints.clone());
        match self.way {
            Way::Sampling => self.write_samples(prompt, tokens, &filters),
            Way::Contrastive(search) => {
                let about = |_| json!({ "contrastive": search.penalty, "candidates": search.candidates });
                self.write_texts(search.stream(&self.stepper, tokens, &filters), prompt, tokens, 0, about)
            }
            Way::Beams(search) => self.write_found(&search, prompt, tokens, &filters),
        }
    }

    /// Samples are written side by side, and shown one after another, the first as it comes.
    fn write_samples(&mut self, prompt: &str, tokens: &[u32], filters: &Filters) -> anyhow::Result<()> {
        let last = self.next_sample + self.num;
        let first = self.next_sample;
        while self.next_sample < last {
            let samples = self.next_sample..last.min(self.next_sample + AT_ONCE);
            let streams = Streams::new(&self.stepper, tokens, filters, self.seed, samples.clone());
            let about = |number| json!({ "sample": first + number, "seed": self.seed });
            self.write_texts(streams, prompt, tokens, samples.start - first, about)?;
            self.next_sample = samples.end;
        }
        Ok(())
    }

    /// Writes what streams continue the prompt by, of which the first is the text number `number` of the prompt; `about` tells
    /// what made it, by that number.
    fn write_texts(
        &self,
        streams: impl TokenStreams,
        prompt: &str,
        tokens: &[u32],
        mut number: u64,
        about: impl Fn(u64) -> Value,
    ) -> anyhow::Result<()> {
        let mut known: Vec<Known> = (0..streams.num_streams()).map(|_| Known::default()).collect();
        let mut texts = Texts::new(streams, self.vocabulary, tokens, &self.limits);
        if self.probabilities {
            texts = texts.with_log_probabilities();
        }
        let mut showing = 0;
        for step in texts {
            for written in step {
                let known = &mut known[written.text];
                known.pieces.extend(written.pieces);
                known.end = written.end;
            }
            while let Some(known) = known.get_mut(showing) {
                if self.form == Form::Text {
                    self.show(known, prompt, number)?;
                }
                let Some(end) = known.end else { break };
                match self.form {
                    Form::Text => output::write(b"\n")?,
                    Form::Json => self.write_json(about(number), prompt, &known.pieces, end)?,
                }
                showing += 1;
                number += 1;
            }
        }
        Ok(())
    }

    /// Shows what is new of a text, which is the `number`-th of its prompt; before its first piece, the prompt.
    fn show(&self, known: &mut Known, prompt: &str, number: u64) -> anyhow::Result<()> {
        let mut text = String::new();
        if !known.begun {
            known.begun = true;
            text += if number > 0 { "---\n" } else { "" };
            text += prompt;
        }
        for piece in &known.pieces[known.shown..] {
            text += &self.shown(piece);
        }
        known.shown = known.pieces.len();
        if text.is_empty() { Ok(()) } else { output::write(text.as_bytes()) }
    }

    fn shown(&self, piece: &Piece) -> String {
        match piece.log_probability.filter(|_| self.probabilities) {
            Some(log_probability) => shade::shaded(&piece.text, log_probability),
            None => piece.text.clone(),
        }
    }

    fn write_found(&self, search: &BeamSearch, prompt: &str, tokens: &[u32], filters: &Filters) -> anyhow::Result<()> {
        let found = search.search(&self.stepper, self.vocabulary, &[tokens], filters, &self.limits);
        for (number, hypothesis) in found.into_iter().flatten().take(self.num as usize).enumerate() {
            if self.form == Form::Json {
                let about = json!({
                    "rank": number + 1, "score": hypothesis.score, "log_probability": hypothesis.log_probability,
                });
                self.write_json(about, prompt, &hypothesis.pieces, hypothesis.end)?;
                continue;
            }
            let mut known = Known { pieces: hypothesis.pieces, ..Known::default() };
            self.show(&mut known, prompt, number as u64)?;
            output::write(b"\n")?;
        }
        Ok(())
    }

    fn write_json(&self, mut about: Value, prompt: &str, pieces: &[Piece], end: End) -> anyhow::Result<()> {
        about["prompt"] = json!(prompt);
        about["text"] = json!(pieces.iter().map(|piece| piece.text.as_str()).collect::<String>());
        about["end"] = match end {
            End::Length => json!("length"),
            End::Stop => json!("stop"),
        };
        if self.probabilities {
            let token = |piece: &Piece| json!({ "text": piece.text, "log_probability": piece.log_probability });
            about["tokens"] = pieces.iter().map(token).collect();
        }
        output::json(&about)
    }
}
