//! The score of a text, with progress on stderr.

use anyhow::Context as _;
use refrain::data::grouped;
use refrain::metrics::LanguageModelScore;
use refrain::models::TrainedModel;
use refrain::tasks::score_stream;
use refrain::text::Vocabulary;

use crate::console::Console;

/// Scores a text of this name.
pub(crate) fn score(
    trained: &TrainedModel,
    name: &str,
    text: &str,
    console: &mut Console,
) -> anyhow::Result<LanguageModelScore> {
    let chars = grouped(text.chars().count() as u64);
    let score = score_stream(&trained.model, &trained.vocabulary, text, |done| {
        console.passing(&format!("{} of {chars} characters", grouped(done)));
    });
    console.clear();
    score.with_context(|| name.to_owned())
}

/// Characters of the text that the model does not know.
pub(crate) fn unknown(vocabulary: &Vocabulary, text: &str) -> usize {
    vocabulary.encode(text).iter().filter(|&&id| id == Vocabulary::UNKNOWN).count()
}

/// The line of a report about them; empty if there are none.
pub(crate) fn unknown_line(unknown: usize, text: &str) -> String {
    if unknown == 0 {
        return String::new();
    }
    let percent = 100.0 * unknown as f64 / text.chars().count() as f64;
    format!("unknown         {} characters ({percent:.2} %), scored as <unk>\n", grouped(unknown as u64))
}
