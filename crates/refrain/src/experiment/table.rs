//! Runs as a table: seeds together, with mean and spread.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Comparison, Run, Trained};
use crate::data::grouped;

/// Mean and standard deviation of some numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of the sample, with n − 1; none of one number.
    pub deviation: Option<f64>,
}

impl Spread {
    /// Of at least one number.
    pub fn of(numbers: &[f64]) -> Self {
        let count = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / count;
        let squares: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
        Self { mean, deviation: (numbers.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) }
    }

    fn shown(self, digits: usize) -> String {
        let Self { mean, deviation } = self;
        let deviation = deviation.map_or_else(String::new, |deviation| format!(" ± {deviation:.digits$}"));
        format!("{mean:.digits$}{deviation}")
    }
}

/// A model with all of its seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The contender.
    pub cell: String,
    /// Layers or blocks.
    pub num_layers: usize,
    /// Units of each.
    pub hidden_size: usize,
    /// Numbers that were trained.
    pub parameters: usize,
    /// How many seeds.
    pub seeds: usize,
    /// Those of them whose loss ceased to be finite; they are in none of the figures below.
    pub diverged: usize,
    /// The figures of the others; none if there are none.
    pub figures: Option<Figures>,
}

/// Over the seeds of a model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The lowest validation loss, in nats per token.
    pub loss_nats: Spread,
    /// The same in the measure of the tokens.
    pub score: Spread,
    /// Seconds of training.
    pub seconds: Spread,
    /// Training tokens in each of these.
    pub tokens_per_second: Spread,
}

impl Comparison {
    /// A row for each model, in the order in which they came first.
    pub fn rows(&self) -> Vec<Row> {
        let mut kinds: Vec<(&str, usize)> = Vec::new();
        for run in &self.runs {
            let kind = (run.cell.as_str(), run.num_layers);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        // The layers of a cell together, where one seed of all has come before the next.
        let first = |cell: &str| kinds.iter().position(|(other, _)| *other == cell);
        let mut sorted = kinds.clone();
        sorted.sort_by_key(|(cell, num_layers)| (first(cell), *num_layers));
        sorted.into_iter().map(|(cell, num_layers)| self.row(cell, num_layers)).collect()
    }

    fn row(&self, cell: &str, num_layers: usize) -> Row {
        let runs: Vec<&Run> = self.runs.iter().filter(|run| run.cell == cell && run.num_layers == num_layers).collect();
        let trained: Vec<Trained> = runs.iter().filter_map(|run| run.trained).collect();
        let spread = |number: &dyn Fn(&Trained) -> f64| Spread::of(&trained.iter().map(number).collect::<Vec<_>>());
        Row {
            cell: cell.to_owned(),
            num_layers,
            hidden_size: runs[0].hidden_size,
            parameters: runs[0].parameters,
            seeds: runs.len(),
            diverged: runs.len() - trained.len(),
            figures: (!trained.is_empty()).then(|| Figures {
                loss_nats: spread(&|run| run.best_loss_nats),
                score: spread(&|run| self.score(run.best_loss_nats).value()),
                seconds: spread(&|run| run.seconds),
                tokens_per_second: spread(&|run| run.tokens_per_second),
            }),
        }
    }

    /// The table as Markdown, the floor above all.
    pub fn to_markdown(&self) -> String {
        let floor = self.score(self.floor_loss_nats);
        let measure = floor.name().replace('_', " ");
        let digits = if floor.name() == "perplexity_per_word" { 2 } else { 4 };
        let mut text = format!(
            "| model | layers | hidden size | parameters | seeds | valid nats | {measure} | training, s | tokens/s |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|\n\
             | {}-grams, modified Kneser-Ney | | | | | {:.4} | {:.digits$} | | |\n",
            self.floor_order,
            self.floor_loss_nats,
            floor.value(),
        );
        for row in self.rows() {
            let Row { cell, num_layers, hidden_size, seeds, diverged, .. } = &row;
            let parameters = grouped(row.parameters as u64);
            let seeds = if *diverged == 0 { seeds.to_string() } else { format!("{seeds}, {diverged} diverged") };
            let figures = row.figures.map_or_else(
                || "| | |".to_owned(),
                |Figures { loss_nats, score, seconds, tokens_per_second }| {
                    let tokens_per_second = grouped(tokens_per_second.mean.round() as u64);
                    let [loss_nats, score] = [loss_nats.shown(4), score.shown(digits)];
                    format!("{loss_nats} | {score} | {} | {tokens_per_second}", seconds.shown(1))
                },
            );
            writeln!(text, "| {cell} | {num_layers} | {hidden_size} | {parameters} | {seeds} | {figures} |")
                .expect("a string takes all that is written to it");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TextSummary;
    use crate::tasks::{NGramScore, text_score};
    use crate::text::Unit;

    fn run(cell: &str, num_layers: usize, seed: u64, best_loss_nats: f64) -> Run {
        Run {
            name: format!("{cell}-{num_layers}-seed{seed}"),
            cell: cell.to_owned(),
            num_layers,
            hidden_size: 12,
            parameters: 1234,
            seed,
            trained: best_loss_nats.is_finite().then_some(Trained {
                steps: 10,
                best_loss_nats,
                best_step: 10,
                seconds: 2.0,
                tokens_per_second: 1500.0,
            }),
            recipe: String::new(),
        }
    }

    #[test]
    fn seeds_stand_together_under_the_floor() {
        let valid = TextSummary { unit: Unit::Word, tokens: 9, bytes: 40, lines: 1, distinct: 5, unknown: 0 };
        let floor = NGramScore { order: 5, loss_nats: 5.0, score: text_score(&valid, 5.0), tokens: 9 };
        let mut comparison = Comparison::new(String::new(), 1200, valid, String::new(), floor);
        comparison.runs = vec![
            run("rnn", 1, 1, 4.0),
            run("rnn", 2, 1, 4.5),
            run("gru", 1, 1, f64::NAN),
            run("rnn", 1, 2, 4.2),
            run("rnn", 2, 2, f64::NAN),
        ];
        assert_eq!(
            comparison.to_markdown(),
            "| model | layers | hidden size | parameters | seeds | valid nats | perplexity per word | training, s | tokens/s |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|\n\
             | 5-grams, modified Kneser-Ney | | | | | 5.0000 | 148.41 | | |\n\
             | rnn | 1 | 12 | 1,234 | 2 | 4.1000 ± 0.1414 | 60.64 ± 8.55 | 2.0 ± 0.0 | 1,500 |\n\
             | rnn | 2 | 12 | 1,234 | 2, 1 diverged | 4.5000 | 90.02 | 2.0 | 1,500 |\n\
             | gru | 1 | 12 | 1,234 | 1, 1 diverged | | | | |\n",
        );
    }

    #[test]
    fn the_spread_is_that_of_a_sample() {
        let Spread { mean, deviation } = Spread::of(&[1.0, 2.0, 3.0]);
        assert!((mean - 2.0).abs() < 1e-12 && (deviation.expect("three") - 1.0).abs() < 1e-12);
        assert_eq!(Spread::of(&[4.0]).deviation, None);
    }
}
