//! Truncated backpropagation through time: a text as parallel streams, cut into windows.

use std::sync::Arc;

use super::DataError;

/// A text as tokens.
#[derive(Debug, Clone)]
pub struct TokenStream {
    tokens: Arc<[u32]>,
}

/// The windows of a text, in the order in which a model reads them.
///
/// N tokens make N − 1 predictions: each token but the first, from those before it. B streams, the batch size, divide
/// them evenly, P = ⌊(N − 1) / B⌋ each; stream b reads the tokens from b · P on and predicts those from b · P + 1
/// on. Row b of every window belongs to stream b, and each window begins where the last one ended, so a state may be
/// carried from one to the next. No prediction is made twice; fewer than B at the end of the text are not made at
/// all.
#[derive(Debug, Clone)]
pub struct Windows {
    tokens: Arc<[u32]>,
    batch_size: usize,
    seq_len: usize,
    /// P above.
    targets_per_stream: usize,
}

/// A batch of parallel stretches of text, and what follows each of their tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// `[batch_size, seq_len]`, row by row.
    pub inputs: Vec<u32>,
    /// `[batch_size, seq_len]`, row by row: the token after each input.
    pub targets: Vec<u32>,
    /// Rows.
    pub batch_size: usize,
    /// Columns; fewer in the last window of a text than in the others.
    pub seq_len: usize,
}

impl TokenStream {
    /// A stream of all of `tokens`.
    pub fn new(tokens: Vec<u32>) -> Self {
        Self { tokens: tokens.into() }
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// All tokens in order.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The text as `batch_size` parallel streams, in windows of `seq_len` tokens; the last may be shorter.
    ///
    /// # Errors
    ///
    /// [`DataError::TooShort`] if the text does not fill one window.
    ///
    /// # Panics
    ///
    /// If a size is 0.
    pub fn windows(&self, batch_size: usize, seq_len: usize) -> Result<Windows, DataError> {
        let needed = batch_size.saturating_mul(seq_len).saturating_add(1);
        let available = self.tokens.len();
        if available < needed {
            return Err(DataError::TooShort {
                text: "training",
                needed,
                available,
                batch_size,
                seq_len,
                hint: "lower `train.batch-size` or `train.seq-len`, or train on a longer text",
            });
        }
        Ok(self.cut(batch_size, seq_len))
    }

    /// The text as one stream, in windows of `seq_len` tokens, however short: every token but the first is predicted.
    ///
    /// # Errors
    ///
    /// [`DataError::NothingToPredict`] if there are fewer than two tokens.
    ///
    /// # Panics
    ///
    /// If `seq_len` is 0.
    pub fn single(&self, seq_len: usize) -> Result<Windows, DataError> {
        let available = self.tokens.len();
        if available < 2 {
            return Err(DataError::NothingToPredict { available });
        }
        Ok(self.cut(1, seq_len))
    }

    /// Cuts at least `batch_size + 1` tokens.
    fn cut(&self, batch_size: usize, seq_len: usize) -> Windows {
        assert!(batch_size > 0 && seq_len > 0, "empty windows: batch size {batch_size}, sequence length {seq_len}");
        let targets_per_stream = (self.tokens.len() - 1) / batch_size;
        Windows { tokens: Arc::clone(&self.tokens), batch_size, seq_len, targets_per_stream }
    }
}

impl Windows {
    /// Windows an epoch; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a text that does not fill one window is an error")]
    pub fn len(&self) -> usize {
        self.targets_per_stream.div_ceil(self.seq_len)
    }

    /// The whole text that they are of.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Parallel streams.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Tokens of a window in each stream; the last window may have fewer.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Tokens predicted in an epoch.
    pub fn targets(&self) -> usize {
        self.targets_per_stream * self.batch_size
    }

    /// Tokens at the end of the text that no stream predicts; fewer than `batch_size`.
    pub fn unused_tokens(&self) -> usize {
        self.tokens.len() - 1 - self.targets()
    }

    /// Window `index` of an epoch.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`Self::len`].
    pub fn get(&self, index: usize) -> Window {
        assert!(index < self.len(), "window {index} of {}", self.len());
        let from = index * self.seq_len;
        let seq_len = self.seq_len.min(self.targets_per_stream - from);
        let rows = |shift: usize| {
            (0..self.batch_size)
                .flat_map(|stream| {
                    let at = stream * self.targets_per_stream + from + shift;
                    &self.tokens[at..at + seq_len]
                })
                .copied()
                .collect()
        };
        Window { inputs: rows(0), targets: rows(1), batch_size: self.batch_size, seq_len }
    }

    /// The windows of an epoch in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Window> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counting(len: usize) -> TokenStream {
        TokenStream::new((0..len as u32).collect())
    }

    #[test]
    fn two_streams_of_five_predictions() {
        let windows = counting(12).windows(2, 3).unwrap();
        assert_eq!((windows.len(), windows.targets(), windows.unused_tokens()), (2, 10, 1));
        let first =
            Window { inputs: vec![0, 1, 2, 5, 6, 7], targets: vec![1, 2, 3, 6, 7, 8], batch_size: 2, seq_len: 3 };
        let last = Window { inputs: vec![3, 4, 8, 9], targets: vec![4, 5, 9, 10], batch_size: 2, seq_len: 2 };
        assert_eq!(windows.iter().collect::<Vec<_>>(), [first, last]);
    }

    #[test]
    fn one_token_short_of_a_window_is_an_error_with_the_numbers() {
        assert!(counting(64 * 128 + 1).windows(64, 128).is_ok());
        let error = counting(64 * 128).windows(64, 128).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the training text has 8192 tokens, at least 8193 are needed: batch size × sequence length + 1 = 64 × 128 + 1"
        );
        assert_eq!(error.hint(), Some("lower `train.batch-size` or `train.seq-len`, or train on a longer text"));
        let error = error.of_validation();
        assert!(error.to_string().starts_with("the validation text has 8192 tokens"));
        assert!(error.hint().unwrap().contains("data.valid-fraction"));
    }

    #[test]
    fn a_single_stream_takes_any_text_of_two_tokens() {
        let windows = counting(2).single(128).unwrap();
        assert_eq!((windows.len(), windows.targets(), windows.get(0).seq_len), (1, 1, 1));
        assert!(counting(1).single(128).is_err());
        assert_eq!(
            counting(0).single(128).unwrap_err().to_string(),
            "the text has 0 tokens; at least 2 are needed, since nothing comes before the first"
        );
    }

    #[test]
    #[should_panic(expected = "window 2 of 2")]
    fn a_window_beyond_the_last_is_a_bug() {
        counting(12).windows(2, 3).unwrap().get(2);
    }

    proptest! {
        #[test]
        fn every_target_is_predicted_exactly_once(len in 2_usize..400, batch_size in 1_usize..9, seq_len in 1_usize..20) {
            prop_assume!(len > batch_size * seq_len);
            let windows = counting(len).windows(batch_size, seq_len).unwrap();
            let mut seen = Vec::new();
            for window in windows.iter() {
                prop_assert_eq!(window.inputs.len(), window.batch_size * window.seq_len);
                prop_assert!(window.inputs.iter().zip(&window.targets).all(|(input, target)| input + 1 == *target));
                seen.extend(window.targets);
            }
            seen.sort_unstable();
            let expected: Vec<u32> = (1..=windows.targets() as u32).collect();
            prop_assert_eq!(seen, expected);
            prop_assert!(windows.unused_tokens() < batch_size);
            prop_assert_eq!(1 + windows.targets() + windows.unused_tokens(), len);
        }

        #[test]
        fn each_window_begins_where_the_last_one_ended(len in 2_usize..400, batch_size in 1_usize..9, seq_len in 1_usize..20) {
            prop_assume!(len > batch_size * seq_len);
            let windows: Vec<Window> = counting(len).windows(batch_size, seq_len).unwrap().iter().collect();
            for pair in windows.windows(2) {
                prop_assert_eq!(pair[0].seq_len, seq_len);
                for row in 0..batch_size {
                    prop_assert_eq!(pair[0].targets[(row + 1) * pair[0].seq_len - 1], pair[1].inputs[row * pair[1].seq_len]);
                }
            }
        }

        #[test]
        fn the_tokens_come_through_unchanged(tokens in proptest::collection::vec(any::<u32>(), 2..200), seq_len in 1_usize..50) {
            let windows = TokenStream::new(tokens.clone()).single(seq_len).unwrap();
            let targets: Vec<u32> = windows.iter().flat_map(|window| window.targets).collect();
            let inputs: Vec<u32> = windows.iter().flat_map(|window| window.inputs).collect();
            prop_assert_eq!(&targets, &tokens[1..]);
            prop_assert_eq!(&inputs, &tokens[..tokens.len() - 1]);
        }
    }
}
