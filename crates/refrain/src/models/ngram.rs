//! N-gram language models: the floor that a network has to be above.

use std::collections::HashMap;

/// How the counts of an n-gram model become probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Smoothing {
    /// Interpolated, with three discounts for each order (Chen and Goodman 1998, section 3): what has been seen gives up a part of
    /// its count to shorter histories, in which a token counts as often as it has followed different ones.
    KneserNey,
    /// Every token counts `k` times more than it was seen.
    AddK(f64),
}

/// A model that predicts a token from the few before it, by counting.
///
/// With `h` the last `n - 1` tokens, `h'` the last `n - 2`, `c` counts and `D` a discount:
///
/// ```text
/// Kneser-Ney   P(w | h) = max(0, c(h w) - D(c)) / c(h) + γ(h) P(w | h')      P of no history: 1 / vocab_size
///              γ(h) = (D(1) N₁(h) + D(2) N₂(h) + D(3) N₃₊(h)) / c(h)         N: tokens that followed h so often
/// add-k        P(w | h) = (c(h w) + k) / (c(h) + k vocab_size)
/// ```
///
/// Below the highest order `c(h w)` is the number of different tokens before `h w`; where `h` begins a line nothing can come
/// before, and it is how often there was `h w`.
#[derive(Debug)]
pub struct NGram {
    order: usize,
    vocab_size: usize,
    smoothing: Smoothing,
    /// What begins a history: it reaches no further back.
    line_end: Option<u32>,
    /// From order 1 up; of add-k the last alone is used.
    levels: Vec<Level>,
}

/// The n-grams of one length.
#[derive(Debug, Default)]
struct Level {
    counts: HashMap<Box<[u32]>, u64>,
    /// By history.
    histories: HashMap<Box<[u32]>, History>,
    /// For counts of 1, 2, and 3 or more.
    discounts: [f64; 3],
}

#[derive(Clone, Copy, Debug, Default)]
struct History {
    /// Counts together.
    total: u64,
    /// How many tokens have a count of 1, of 2, and of 3 or more.
    followers: [u64; 3],
}

impl NGram {
    /// Counts the n-grams up to `order` of a text. Histories reach back to `line_end` at most, where there is such a token; the text
    /// begins after one.
    ///
    /// # Panics
    /// If `order` is 0, or a token is not below `vocab_size`.
    pub fn new(tokens: &[u32], vocab_size: usize, order: usize, smoothing: Smoothing, line_end: Option<u32>) -> Self {
        assert!(order > 0, "an n-gram has at least one token");
        let outside = tokens.iter().find(|&&token| token as usize >= vocab_size);
        assert!(outside.is_none(), "token {outside:?} is not below the vocabulary's size {vocab_size}");
        let mut levels: Vec<Level> = (0..order).map(|_| Level::default()).collect();
        for_each(tokens, order, line_end, |history, token| {
            let gram: Box<[u32]> = history.iter().copied().chain([token]).collect();
            *levels[gram.len() - 1].counts.entry(gram).or_default() += 1;
        });
        for longer in (1..order).rev() {
            let (shorter, rest) = levels.split_at_mut(longer);
            let shorter = &mut shorter[longer - 1].counts;
            for (gram, &count) in &rest[0].counts {
                let times = if smoothing == Smoothing::KneserNey { 1 } else { count };
                *shorter.entry(gram[1..].into()).or_default() += times;
            }
        }
        for level in &mut levels {
            level.finish();
        }
        Self { order, vocab_size, smoothing, line_end, levels }
    }

    /// `P(token | history)`, of which the last `order - 1` tokens count.
    pub fn probability(&self, history: &[u32], token: u32) -> f64 {
        let history = &history[history.len().saturating_sub(self.order - 1)..];
        let mut gram: Vec<u32> = history.to_vec();
        gram.push(token);
        match self.smoothing {
            Smoothing::AddK(k) => {
                let level = &self.levels[gram.len() - 1];
                let total = level.histories.get(history).map_or(0, |history| history.total);
                let count = level.counts.get(gram.as_slice()).copied().unwrap_or(0);
                (count as f64 + k) / (total as f64 + k * self.vocab_size as f64)
            }
            Smoothing::KneserNey => {
                let mut probability = 1.0 / self.vocab_size as f64;
                for (level, start) in self.levels.iter().zip((0..gram.len()).rev()) {
                    // Longer histories have not been seen either.
                    let Some(seen) = level.histories.get(&gram[start..gram.len() - 1]) else { break };
                    probability = level.interpolated(seen, &gram[start..], probability);
                }
                probability
            }
        }
    }

    /// The loss of each token of a text, in nats, the first one's from the beginning of a line.
    pub fn losses(&self, tokens: &[u32]) -> Vec<f64> {
        let mut losses = Vec::with_capacity(tokens.len());
        for_each(tokens, self.order, self.line_end, |history, token| {
            losses.push(-self.probability(history, token).ln());
        });
        losses
    }
}

/// Calls with each token and its history, which reaches back to the end of a line at most.
fn for_each(tokens: &[u32], order: usize, line_end: Option<u32>, mut call: impl FnMut(&[u32], u32)) {
    // As if a line had just ended.
    let text: Vec<u32> = line_end.into_iter().chain(tokens.iter().copied()).collect();
    let mut line = 0;
    for at in usize::from(line_end.is_some())..text.len() {
        let history = line.max((at + 1).saturating_sub(order))..at;
        call(&text[history], text[at]);
        if Some(text[at]) == line_end {
            line = at;
        }
    }
}

impl Level {
    /// What follows from the counts.
    fn finish(&mut self) {
        let mut counts_of_counts = [0u64; 5];
        for (gram, &count) in &self.counts {
            if let Some(of_count) = counts_of_counts.get_mut(count as usize) {
                *of_count += 1;
            }
            let history = self.histories.entry(gram[..gram.len() - 1].into()).or_default();
            history.total += count;
            history.followers[count.clamp(1, 3) as usize - 1] += 1;
        }
        let [_, n1, n2, n3, n4] = counts_of_counts.map(|count| count as f64);
        let y = n1 / (n1 + 2.0 * n2);
        let discounts = [1.0 - 2.0 * y * n2 / n1, 2.0 - 3.0 * y * n3 / n2, 3.0 - 4.0 * y * n4 / n3];
        // A small text may lack n-grams of some count: then a half, as much for all.
        let has_all = [n1, n2, n3, n4].iter().all(|count| *count > 0.0);
        self.discounts = if has_all && discounts.iter().all(|d| *d >= 0.0) { discounts } else { [0.5; 3] };
    }

    /// The probability of an n-gram's last token, given that by a shorter history.
    fn interpolated(&self, history: &History, gram: &[u32], shorter: f64) -> f64 {
        let total = history.total as f64;
        let left: f64 = history.followers.iter().zip(self.discounts).map(|(count, d)| *count as f64 * d).sum();
        let seen = self
            .counts
            .get(gram)
            .map_or(0.0, |&count| (count as f64 - self.discounts[count.clamp(1, 3) as usize - 1]).max(0.0));
        seen / total + left / total * shorter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made-up tokens below 7, a 0 now and then.
    fn text(len: u32) -> Vec<u32> {
        (0..len).map(|n| (n * n / 3 + n % 5 + n / 11) % 7).collect()
    }

    #[test]
    fn probabilities_add_up_to_one_after_any_history() {
        for smoothing in [Smoothing::KneserNey, Smoothing::AddK(0.3)] {
            for line_end in [None, Some(0)] {
                for order in 1..5 {
                    let model = NGram::new(&text(400), 9, order, smoothing, line_end);
                    for history in [&[][..], &[3], &[0, 1], &[8, 8, 8], &[2, 5, 1, 6, 4], &text(30)] {
                        let sum: f64 = (0..9).map(|token| model.probability(history, token)).sum();
                        assert!((sum - 1.0).abs() < 1e-12, "{smoothing:?} of order {order} after {history:?}: {sum}");
                    }
                }
            }
        }
    }

    #[test]
    fn add_k_counts() {
        let model = NGram::new(&[1, 2, 1, 2, 1, 3], 4, 2, Smoothing::AddK(0.5), None);
        assert!((model.probability(&[1], 2) - 2.5 / 5.0).abs() < 1e-15);
        assert!((model.probability(&[3], 2) - 0.25).abs() < 1e-15);
    }

    #[test]
    fn a_token_counts_by_how_many_it_follows() {
        // 2 has followed 1 alone, three times; 3 has followed 0, 1 and 2, as often.
        let tokens = [1, 2, 1, 2, 1, 2, 0, 3, 1, 3, 2, 3];
        let model = NGram::new(&tokens, 5, 2, Smoothing::KneserNey, None);
        assert!(model.probability(&[], 3) > model.probability(&[], 2));
        assert!(model.probability(&[1], 2) > model.probability(&[1], 3));
    }

    #[test]
    fn a_history_ends_at_the_line_before() {
        let model = NGram::new(&[1, 2, 0, 3, 2, 0, 1, 2, 0], 4, 3, Smoothing::KneserNey, Some(0));
        let [first, again] = [&[1, 2, 0][..], &[3, 2, 0]].map(|lines| model.losses(&[lines, &[1]].concat())[3]);
        assert!((first - again).abs() < 1e-15);
        assert_eq!(model.losses(&[1, 2, 0]).len(), 3);
    }
}
