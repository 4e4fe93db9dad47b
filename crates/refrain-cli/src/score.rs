//! The score of a text, with progress on stderr.

use anyhow::Context as _;
use refrain::data::grouped;
use refrain::metrics::LanguageModelScore;
use refrain::models::TrainedModel;
use refrain::tasks::score_stream;
use refrain::text::{Unit, Vocabulary};

use crate::console::Console;

/// Scores a text of this name.
pub(crate) fn score(
    trained: &TrainedModel,
    name: &str,
    text: &str,
    console: &mut Console,
) -> anyhow::Result<LanguageModelScore> {
    let tokens = grouped(trained.vocabulary.encode(text).len() as u64);
    let plural = trained.vocabulary.unit().plural();
    let score = score_stream(&trained.model, &trained.vocabulary, text, |done| {
        console.passing(&format!("{} of {tokens} {plural}", grouped(done)));
    });
    console.clear();
    score.with_context(|| name.to_owned())
}

/// Tokens of a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unknown {
    unit: Unit,
    tokens: usize,
    /// Those that the model does not know.
    pub(crate) count: usize,
}

/// Tokens of the text that the model does not know.
pub(crate) fn unknown(vocabulary: &Vocabulary, text: &str) -> Unknown {
    let ids = vocabulary.encode(text);
    let count = ids.iter().filter(|&&id| id == Vocabulary::UNKNOWN).count();
    Unknown { unit: vocabulary.unit(), tokens: ids.len(), count }
}

/// The line of a report about them; empty if there are none.
pub(crate) fn unknown_line(unknown: Unknown) -> String {
    let Unknown { unit, tokens, count } = unknown;
    if count == 0 {
        return String::new();
    }
    let percent = 100.0 * count as f64 / tokens as f64;
    format!("unknown         {} {} ({percent:.2} %), scored as <unk>\n", grouped(count as u64), unit.plural())
}
