//! Filters: small changes to the scores of the next token, one after another.

mod ban;
mod epsilon;
mod force;
mod frequency;
mod min_p;
mod no_repeat;
mod presence;
mod repetition;
mod settings;
mod temperature;
mod top_k;
mod top_p;
mod typical;

use std::fmt;

use super::history::History;
use super::probability::softmax;
use crate::setting::Allowed;
use crate::text::Vocabulary;

pub use ban::Ban;
pub use epsilon::Epsilon;
pub use force::Force;
pub use frequency::FrequencyPenalty;
pub use min_p::MinP;
pub use no_repeat::NoRepeat;
pub use presence::PresencePenalty;
pub use repetition::RepetitionPenalty;
pub use settings::{Constraints, FilterError, FilterSettings};
pub use temperature::Temperature;
pub use top_k::TopK;
pub use top_p::TopP;
pub use typical::Typical;

/// Changes the scores of the tokens that may come next.
pub trait Filter: fmt::Debug + Send + Sync {
    /// Changes `scores`, `[vocab_size]`, of what may follow `history`. A token is excluded by minus infinity; at least one
    /// of those that were not stays so.
    fn apply(&self, scores: &mut [f64], history: &History);
}

/// What a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It says what may be written, whoever chooses among that.
    Constraint,
    /// It shapes the distribution that a token is drawn from: of no use where nothing is drawn.
    Sampling,
}

/// A filter with one number, by the name that it has on the command line and in `[sample]`.
#[derive(Clone, Copy, Debug)]
pub struct FilterKind {
    /// Such as `top-k`.
    pub name: &'static str,
    /// What stands for the number in help texts.
    pub value_name: &'static str,
    /// What it does, in a line.
    pub help: &'static str,
    /// What it is for.
    pub role: Role,
    /// The numbers it takes.
    pub(crate) allowed: Allowed,
    /// The number that it has unless another is given.
    pub default: f64,
    /// The number at which it changes nothing.
    pub off: f64,
    build: fn(f64) -> Box<dyn Filter>,
}

/// Every filter with a number, in the order in which they are applied: first what depends on the tokens before, as the model
/// scored them, then what depends on the scores alone.
pub const FILTERS: &[FilterKind] = &[
    repetition::KIND,
    presence::KIND,
    frequency::KIND,
    no_repeat::KIND,
    temperature::KIND,
    top_k::KIND,
    top_p::KIND,
    min_p::KIND,
    typical::KIND,
    epsilon::KIND,
];

/// Filters in the order in which they are applied. The unknown token is excluded before them all.
#[derive(Debug, Default)]
pub struct Filters(Vec<Box<dyn Filter>>);

impl Filters {
    /// None: what remains is the model's own distribution without the unknown token.
    pub fn new() -> Self {
        Self::default()
    }

    /// These, and one more after them.
    #[must_use]
    pub fn with(mut self, filter: impl Filter + 'static) -> Self {
        self.0.push(Box::new(filter));
        self
    }

    /// The scores of a model, `[vocab_size]`, as the filters leave them.
    pub fn apply(&self, scores: &[f32], history: &History, filtered: &mut Vec<f64>) {
        filtered.clear();
        filtered.extend(scores.iter().map(|&score| f64::from(score)));
        filtered[Vocabulary::UNKNOWN as usize] = f64::NEG_INFINITY;
        for filter in &self.0 {
            filter.apply(filtered, history);
        }
    }

    /// The probabilities that a token is drawn by: `softmax` of what [`Self::apply`] leaves.
    pub fn probabilities(&self, scores: &[f32], history: &History) -> Vec<f64> {
        let mut filtered = Vec::new();
        self.apply(scores, history, &mut filtered);
        softmax(&mut filtered);
        filtered
    }
}

/// Tokens from the highest score down; of equal ones the lower first.
pub(super) fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order
}

/// Excludes tokens.
fn exclude(scores: &mut [f64], tokens: &[usize]) {
    for &token in tokens {
        scores[token] = f64::NEG_INFINITY;
    }
}

/// Excludes tokens, unless that would leave none.
fn exclude_if_others_remain(scores: &mut [f64], tokens: &[u32]) {
    if tokens.is_empty() {
        return;
    }
    let mut without = scores.to_vec();
    for &token in tokens {
        without[token as usize] = f64::NEG_INFINITY;
    }
    if without.iter().any(|score| *score > f64::NEG_INFINITY) {
        scores.copy_from_slice(&without);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::{Purpose, Random};

    /// Scores of a few tokens, ties among them, and a history.
    fn case() -> impl Strategy<Value = (Vec<f32>, Vec<u32>)> {
        (3usize..20).prop_flat_map(|vocab_size| {
            let score = prop_oneof![-30f32..30.0, Just(0.0), Just(1.5)];
            (proptest::collection::vec(score, vocab_size), proptest::collection::vec(0..vocab_size as u32, 1..30))
        })
    }

    /// A number that the filter takes, and that does something.
    fn some_value(kind: &FilterKind, random: &mut Random) -> f64 {
        let number = match kind.name {
            "top-k" | "no-repeat-ngram" => 1.0 + (random.uniform() * 5.0).floor(),
            "repetition-penalty" | "temperature" => 0.1 + 3.0 * random.uniform(),
            "presence-penalty" | "frequency-penalty" => 4.0 * random.uniform() - 2.0,
            _ => 0.01 + 0.98 * random.uniform(),
        };
        assert!(kind.check(number).is_ok(), "{} {number}", kind.name);
        number
    }

    proptest! {
        #[test]
        fn every_composition_leaves_a_distribution((scores, history) in case(), chosen in 0u32..1024, seed in any::<u64>()) {
            let mut random = Random::new(seed, Purpose::Sampling, 0);
            let mut settings = FilterSettings::off();
            for (index, kind) in FILTERS.iter().enumerate() {
                if chosen >> index & 1 == 1 {
                    settings.set(kind.name, some_value(kind, &mut random)).unwrap();
                }
            }
            let constraints = Constraints { banned: vec![vec![history[0]], vec![history[0], 1]], forced: Vec::new() };
            let filters = settings.filters(constraints);
            let history = History::new(&history, scores.len());
            let probabilities = filters.probabilities(&scores, &history);
            let sum: f64 = probabilities.iter().sum();
            prop_assert!((sum - 1.0).abs() < 1e-12, "{settings:?}: {sum}");
            prop_assert!(probabilities[0] == 0.0, "the unknown token");
        }

        #[test]
        fn a_filter_of_the_distribution_keeps_the_likeliest_and_scales_the_rest_alike((scores, history) in case(), seed in any::<u64>()) {
            let mut random = Random::new(seed, Purpose::Sampling, 0);
            let history = History::new(&history, scores.len());
            let before = Filters::new().probabilities(&scores, &history);
            let highest = before.iter().copied().fold(0.0, f64::max);
            for kind in FILTERS.iter().filter(|kind| kind.role == Role::Sampling && kind.name != "temperature") {
                let mut settings = FilterSettings::off();
                settings.set(kind.name, some_value(kind, &mut random)).unwrap();
                let after = settings.filters(Constraints::default()).probabilities(&scores, &history);
                let kept: Vec<usize> = (0..scores.len()).filter(|&token| after[token] > 0.0).collect();
                let mass: f64 = kept.iter().map(|&token| before[token]).sum();
                for &token in &kept {
                    prop_assert!((after[token] - before[token] / mass).abs() < 1e-9, "{}", kind.name);
                }
                // What is typical need not be likely (Meister et al. 2022).
                prop_assert!(kind.name == "typical-p" || kept.iter().any(|&token| before[token] >= highest));
            }
        }

        #[test]
        fn a_filter_that_is_off_changes_nothing((scores, history) in case()) {
            let history = History::new(&history, scores.len());
            let (mut plain, mut filtered) = (Vec::new(), Vec::new());
            Filters::new().apply(&scores, &history, &mut plain);
            for kind in FILTERS {
                assert!(kind.check(kind.off).is_ok() && kind.check(kind.default).is_ok(), "{}", kind.name);
                Filters(vec![(kind.build)(kind.off)]).apply(&scores, &history, &mut filtered);
                prop_assert_eq!(&filtered, &plain, "{}", kind.name);
            }
        }

        #[test]
        fn one_of_the_likeliest_and_a_temperature_of_nothing_are_greedy((scores, history) in case()) {
            let history = History::new(&history, scores.len());
            let top = Filters::new().with(TopK(1)).probabilities(&scores, &history);
            let likeliest = ranked(&Filters::new().probabilities(&scores, &history))[0];
            prop_assert!(top[likeliest] >= 1.0);
            prop_assert_eq!(&Filters::new().with(Temperature(0.0)).probabilities(&scores, &history), &top);
            // What is not as likely as the likeliest goes as the temperature falls.
            let cold = Filters::new().with(Temperature(1e-4)).probabilities(&scores, &history);
            let highest = scores[1..].iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let left: f64 = (1..scores.len()).filter(|&token| scores[token] < highest - 0.01).map(|token| cold[token]).sum();
            prop_assert!(left < 1e-9, "{left}");
        }
    }

    #[test]
    fn names_are_there_once() {
        let mut names: Vec<&str> = FILTERS.iter().map(|kind| kind.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FILTERS.len());
    }
}
