//! Beam search: the likeliest texts, as far as a few at a time can find them.

use std::iter::zip;

use super::decoder::{Decoder, select_rows};
use super::filters::Filters;
use super::history::History;
use super::limits::{End, Limits, Tail};
use super::probability::{log_probability, log_sum_exp};
use super::texts::{Piece, cut};
use crate::text::{Continuation, Vocabulary};

/// Beam search, in groups that keep away from each other.
///
/// In each step every text is continued by every token, and the likeliest continuations are kept. A text that ends takes its
/// place in the beam with it (Sutskever et al. 2014, section 3.2), so that one beam is greedy decoding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamSearch {
    /// Texts kept at a time, and found in the end.
    pub beams: usize,
    /// Groups of as many beams, which divide them: each looks for texts of its own (Vijayakumar et al. 2016).
    pub groups: usize,
    /// What a group subtracts from the log-probability of a token, to rank it, for each time that a group before it has chosen
    /// the token in the same step.
    pub diversity: f64,
    /// The exponent α of [`length_norm`](Self::length_norm).
    pub length_penalty: f64,
}

impl Default for BeamSearch {
    fn default() -> Self {
        Self {
            // Vaswani et al. 2017, section 6.1, as the length penalty
            beams: 4,
            groups: 1,
            // Vijayakumar et al. 2016: 0.2 to 0.8 do well
            diversity: 0.5,
            length_penalty: 0.6,
        }
    }
}

/// A text that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// Its tokens, each with its log-probability under the model.
    pub pieces: Vec<Piece>,
    /// The sum of `ln P` over all tokens, those of a stop sequence included, where `P` is what the filters make of the model's
    /// distribution.
    pub log_probability: f64,
    /// What it is ranked by: `log_probability / length_norm`.
    pub score: f64,
    /// Why it ended.
    pub end: End,
}

/// A text on its way.
#[derive(Clone, Debug)]
struct Beam {
    history: History,
    tail: Tail,
    log_probability: f64,
    /// By token, under the model.
    log_probabilities: Vec<f64>,
}

/// Beams that are compared with each other.
#[derive(Clone, Debug)]
struct Group {
    live: Vec<Beam>,
    /// How many may live on.
    width: usize,
}

/// One way to continue a beam of a group.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    beam: usize,
    token: usize,
    log_probability: f64,
    /// What it is ranked by.
    rank: f64,
}

impl BeamSearch {
    /// What the log-probability of a text of this many tokens is divided by: `((5 + tokens) / 6) ^ length_penalty`.
    ///
    /// Wu et al. 2016, equation 14. 0 prefers what is likeliest, and so what is short; 1 compares means per token.
    pub fn length_norm(&self, tokens: usize) -> f64 {
        ((5 + tokens) as f64 / 6.0).powf(self.length_penalty)
    }

    /// Continues each prompt (of at least one token) by as many texts as there are beams, or as many as there are, the best
    /// first. What is found for a prompt does not depend on those beside it.
    ///
    /// # Panics
    /// If there are no beams, or the groups do not divide them, or a prompt is empty.
    pub fn search<D: Decoder>(
        &self,
        decoder: &D,
        vocabulary: &Vocabulary,
        prompts: &[&[u32]],
        filters: &Filters,
        limits: &Limits,
    ) -> Vec<Vec<Hypothesis>> {
        let Self { beams, groups, .. } = *self;
        assert!(beams > 0 && groups > 0 && beams.is_multiple_of(groups), "{beams} beams in {groups} groups");
        let mut found: Vec<Vec<Hypothesis>> = vec![Vec::new(); prompts.len()];
        let begun = |prompt: &&[u32]| {
            let beam = Beam {
                history: History::new(prompt, decoder.vocab_size()),
                tail: Tail::after(prompt, vocabulary),
                log_probability: 0.0,
                log_probabilities: Vec::new(),
            };
            vec![Group { live: vec![beam], width: beams / groups }; groups]
        };
        let mut searches: Vec<Vec<Group>> = prompts.iter().map(begun).collect();
        if limits.max_tokens == 0 {
            let nothing = Hypothesis { pieces: Vec::new(), log_probability: 0.0, score: 0.0, end: End::Length };
            return vec![vec![nothing]; prompts.len()];
        }
        let (mut state, scores) = decoder.start(prompts);
        let from: Vec<usize> = (0..prompts.len()).flat_map(|prompt| vec![prompt; groups]).collect();
        decoder.reorder(&from, &mut state);
        let mut scores = select_rows(&scores, decoder.vocab_size(), &from);
        loop {
            // By stream of the next step: its stream in this one, and the token that it reads.
            let (mut from, mut tokens) = (Vec::new(), Vec::new());
            let mut rows = scores.chunks_exact(decoder.vocab_size());
            let mut stream = 0;
            for (search, found) in zip(&mut searches, &mut found) {
                let mut chosen = vec![0.0; decoder.vocab_size()];
                for group in search {
                    let rows: Vec<&[f32]> = rows.by_ref().take(group.live.len()).collect();
                    let candidates = self.candidates(group, &rows, filters, &chosen);
                    let before = std::mem::take(&mut group.live);
                    for candidate in candidates {
                        chosen[candidate.token] += 1.0;
                        let token = candidate.token as u32;
                        let mut beam = before[candidate.beam].clone();
                        beam.history.push(token);
                        beam.log_probability = candidate.log_probability;
                        beam.log_probabilities.push(log_probability(rows[candidate.beam], token));
                        let pushed = beam.tail.push(token, vocabulary, limits);
                        if let Some(end) = pushed.end {
                            found.push(self.hypothesis(&beam, vocabulary, limits, end, pushed.cut));
                            group.width -= 1;
                        } else {
                            group.live.push(beam);
                            from.push(stream + candidate.beam);
                            tokens.push(token);
                        }
                    }
                    stream += before.len();
                }
            }
            if tokens.is_empty() {
                break;
            }
            decoder.reorder(&from, &mut state);
            scores = decoder.advance(&tokens, &mut state);
        }
        for found in &mut found {
            found.sort_by(|a, b| b.score.total_cmp(&a.score));
        }
        found
    }

    /// The best ways to continue the beams of a group, the best first; of equal ones that of the better beam, then that of the
    /// lower token.
    fn candidates(&self, group: &Group, rows: &[&[f32]], filters: &Filters, chosen: &[f64]) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        let mut filtered = Vec::new();
        let better = |a: &Candidate, b: &Candidate| {
            b.rank.total_cmp(&a.rank).then(a.beam.cmp(&b.beam)).then(a.token.cmp(&b.token))
        };
        for (index, (beam, scores)) in zip(&group.live, rows).enumerate() {
            filters.apply(scores, &beam.history, &mut filtered);
            let total = log_sum_exp(filtered.iter().copied());
            let continuations = filtered.iter().enumerate().filter(|(_, score)| **score > f64::NEG_INFINITY);
            candidates.extend(continuations.map(|(token, score)| {
                let log_probability = beam.log_probability + (score - total);
                Candidate {
                    beam: index,
                    token,
                    log_probability,
                    rank: log_probability - self.diversity * chosen[token],
                }
            }));
            // What is not among the best of these beams is not among the best of all.
            if candidates.len() > group.width {
                candidates.select_nth_unstable_by(group.width, better);
                candidates.truncate(group.width);
            }
        }
        candidates.sort_by(better);
        candidates
    }

    fn hypothesis(
        &self,
        beam: &Beam,
        vocabulary: &Vocabulary,
        limits: &Limits,
        end: End,
        cut_bytes: usize,
    ) -> Hypothesis {
        let tokens = beam.history.written();
        let (prompt, _) = beam.history.tokens().split_at(beam.history.tokens().len() - tokens.len());
        let mut continuation = Continuation::after(prompt, vocabulary);
        let mut pieces: Vec<Piece> = zip(tokens, &beam.log_probabilities)
            .map(|(&token, &log_probability)| Piece {
                token,
                text: continuation.push(token, vocabulary),
                log_probability: Some(log_probability),
            })
            .collect();
        if tokens.len() >= limits.max_tokens
            && let Some(last) = pieces.last_mut()
        {
            last.text += &continuation.finish(vocabulary);
        }
        cut(&mut pieces, cut_bytes);
        let score = beam.log_probability / self.length_norm(tokens.len());
        Hypothesis { pieces, log_probability: beam.log_probability, score, end }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::decode::Streams;
    use crate::decode::filters::{Ban, NoRepeat, RepetitionPenalty, Temperature};
    use crate::models::{LanguageModelConfig, LanguageModelStepper};
    use crate::random::{Purpose, Random};

    /// Scores the next token by the last one alone: `[vocab_size, vocab_size]`.
    struct Bigrams(Vec<f32>, usize);

    impl Bigrams {
        fn new(vocab_size: usize, seed: u64) -> Self {
            let mut random = Random::new(seed, Purpose::Initialisation, 0);
            Self((0..vocab_size * vocab_size).map(|_| 2.0 * random.normal() as f32).collect(), vocab_size)
        }

        fn rows(&self, tokens: &[u32]) -> Vec<f32> {
            select_rows(&self.0, self.1, &tokens.iter().map(|&token| token as usize).collect::<Vec<_>>())
        }
    }

    impl Decoder for Bigrams {
        type State = usize;

        fn vocab_size(&self) -> usize {
            self.1
        }

        fn start(&self, prompts: &[&[u32]]) -> (usize, Vec<f32>) {
            (prompts.len(), self.rows(&prompts.iter().map(|prompt| prompt[prompt.len() - 1]).collect::<Vec<_>>()))
        }

        fn advance(&self, tokens: &[u32], streams: &mut usize) -> Vec<f32> {
            assert_eq!(tokens.len(), *streams);
            self.rows(tokens)
        }

        fn reorder(&self, from: &[usize], streams: &mut usize) {
            assert!(from.iter().all(|stream| stream < streams));
            *streams = from.len();
        }
    }

    fn limits(max_tokens: usize, stops: &[&str]) -> Limits {
        Limits { max_tokens, min_tokens: 0, stops: stops.iter().map(|stop| (*stop).to_owned()).collect() }
    }

    fn text(hypothesis: &Hypothesis) -> String {
        hypothesis.pieces.iter().map(|piece| piece.text.as_str()).collect()
    }

    #[test]
    fn one_beam_is_greedy() {
        let vocabulary = Vocabulary::chars("abcdefghij\n", 1);
        let config = LanguageModelConfig { embedding_size: 12, hidden_size: 20.into(), ..Default::default() };
        let search = BeamSearch { beams: 1, ..BeamSearch::default() };
        for seed in 0..10 {
            let stepper = LanguageModelStepper::new(&config.init(vocabulary.len(), seed, &Device::flex()));
            let penalties = || Filters::new().with(RepetitionPenalty(1.3)).with(NoRepeat(3));
            let limits = limits(40, &["ca", "dd"]);
            let greedy = penalties().with(Temperature(0.0));
            let mut expected = String::new();
            let mut tail = Tail::after(&[2], &vocabulary);
            for token in Streams::new(&stepper, &[1, 2], &greedy, 1, [0]).flatten() {
                let pushed = tail.push(token, &vocabulary, &limits);
                expected += &pushed.text;
                expected.truncate(expected.len() - pushed.cut);
                if pushed.end.is_some() {
                    break;
                }
            }
            let found = search.search(&stepper, &vocabulary, &[&[1, 2]], &penalties(), &limits);
            assert_eq!(found[0].len(), 1);
            assert_eq!(text(&found[0][0]), expected, "seed {seed}");
        }
    }

    #[test]
    fn a_beam_as_wide_as_all_texts_finds_the_best_of_them() {
        let vocabulary = Vocabulary::chars("abc", 1);
        let bigrams = Bigrams::new(4, 7);
        for length_penalty in [0.0, 1.0] {
            let search = BeamSearch { beams: 81, length_penalty, ..BeamSearch::default() };
            let found = search.search(&bigrams, &vocabulary, &[&[2]], &Filters::new(), &limits(4, &[]));
            let mut all: Vec<(f64, String)> = Vec::new();
            for number in 0u32..81 {
                let tokens: Vec<u32> = (0..4).map(|place| 1 + number / 3u32.pow(place) % 3).collect();
                let before = [2].iter().chain(&tokens);
                let sum: f64 = zip(before, &tokens)
                    .map(|(&last, &token)| {
                        let mut scores = bigrams.rows(&[last]);
                        scores[0] = f32::NEG_INFINITY;
                        log_probability(&scores, token)
                    })
                    .sum();
                all.push((sum, vocabulary.decode(&tokens)));
            }
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            assert_eq!(found[0].len(), 81);
            for (hypothesis, (log_probability, _)) in zip(&found[0], &all) {
                // Texts of the same pairs in another order are equally likely, and may come in any.
                let (expected, _) =
                    all.iter().find(|(_, expected)| text(hypothesis) == *expected).expect("it is one of them");
                assert!((hypothesis.log_probability - expected).abs() < 1e-9);
                assert!((hypothesis.log_probability - log_probability).abs() < 1e-9);
                assert!((hypothesis.score - log_probability / 1.5f64.powf(length_penalty)).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn a_text_that_ends_takes_its_place_with_it_and_is_ranked_by_its_length() {
        let vocabulary = Vocabulary::chars("abc", 1);
        let bigrams = Bigrams::new(4, 3);
        let search = |length_penalty| BeamSearch { beams: 6, length_penalty, ..BeamSearch::default() };
        let mut lengths = Vec::new();
        for length_penalty in [0.0, 3.0] {
            let search = search(length_penalty);
            let found = search.search(&bigrams, &vocabulary, &[&[2]], &Filters::new(), &limits(12, &["c"]));
            assert_eq!(found[0].len(), 6);
            assert!(found[0].is_sorted_by(|a, b| a.score >= b.score));
            assert!(found[0].iter().any(|hypothesis| hypothesis.end == End::Stop));
            for hypothesis in &found[0] {
                assert!(!text(hypothesis).contains('c'));
                // The stop sequence is not part of the text, but counts.
                let tokens = hypothesis.pieces.len() + usize::from(hypothesis.end == End::Stop);
                let expected = hypothesis.log_probability / search.length_norm(tokens);
                assert!((hypothesis.score - expected).abs() < 1e-12);
            }
            lengths.push(found[0][0].pieces.len());
        }
        assert!(lengths[0] < lengths[1], "{lengths:?}");
    }

    #[test]
    fn groups_keep_away_from_each_other() {
        let vocabulary = Vocabulary::chars("abcdefgh", 1);
        let bigrams = Bigrams::new(9, 5);
        let different = |groups, diversity| {
            let search = BeamSearch { beams: 4, groups, diversity, length_penalty: 0.0 };
            let found = search.search(&bigrams, &vocabulary, &[&[1]], &Filters::new(), &limits(8, &[]));
            let mut texts: Vec<String> = found[0].iter().map(text).collect();
            assert_eq!(texts.len(), 4);
            let firsts: std::collections::BTreeSet<char> =
                texts.iter().filter_map(|text| text.chars().next()).collect();
            texts.dedup();
            (texts.len(), firsts.len())
        };
        assert_eq!(different(4, 0.0), (1, 1), "without a penalty every group finds the same");
        assert_eq!(different(4, 100.0), (4, 4), "with a great one each goes its own way");
        assert!(different(1, 100.0).1 < 4, "one group has none to keep away from");
    }

    #[test]
    fn banned_sequences_are_not_found() {
        let vocabulary = Vocabulary::chars("abc", 1);
        let bigrams = Bigrams::new(4, 7);
        let search = BeamSearch { beams: 5, ..BeamSearch::default() };
        let found =
            search.search(&bigrams, &vocabulary, &[&[2]], &Filters::new().with(Ban(vec![vec![1, 2]])), &limits(6, &[]));
        assert!(found[0].iter().all(|hypothesis| !text(hypothesis).contains("ab")));
    }

    proptest! {
        #[test]
        fn prompts_are_searched_as_each_is_alone(seed in any::<u64>(), beams in 1usize..5, groups in 1usize..3) {
            let vocabulary = Vocabulary::chars("abcde", 1);
            let bigrams = Bigrams::new(6, seed);
            let search = BeamSearch { beams: beams * groups, groups, ..BeamSearch::default() };
            let prompts: [&[u32]; 3] = [&[1], &[2, 3], &[4, 4, 5]];
            let limits = limits(7, &["ba"]);
            let together = search.search(&bigrams, &vocabulary, &prompts, &Filters::new(), &limits);
            for (prompt, found) in zip(prompts, together) {
                let alone = search.search(&bigrams, &vocabulary, &[prompt], &Filters::new(), &limits);
                prop_assert_eq!(&found, &alone[0]);
            }
        }
    }
}
