//! Language modelling: predict the next token of a text.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::data::{Corpus, DataConfig, DataError, DataSummary, TextSummary, TokenStream, Window, Windows};
use crate::metrics::{LanguageModelScore, UnitScore};
use crate::models::{LanguageModel, LanguageModelState};
use crate::text::Vocabulary;

/// Steps in one pass over a text: long enough for large products, short enough for little memory.
const SEQ_LEN: usize = 512;

/// A corpus made ready for training.
#[derive(Debug)]
pub struct LanguageModelData {
    /// Built from the training part alone, unless it is closed.
    pub vocabulary: Vocabulary,
    /// The training text in parallel streams.
    pub train: Windows,
    /// The validation text in parallel streams.
    pub valid: Windows,
    /// What is in the corpus.
    pub summary: DataSummary,
    /// SHA-256 of the decoded text.
    pub fingerprint: String,
}

impl LanguageModelData {
    /// Loads and encodes the corpus, and cuts it into windows of `[batch_size, seq_len]`.
    ///
    /// The validation text uses up to `eval_batch_size` streams, fewer where it is short.
    ///
    /// # Errors
    /// When a file cannot be read or the text is too short.
    pub fn load(
        config: &DataConfig,
        base_dir: &Path,
        [batch_size, seq_len]: [usize; 2],
        eval_batch_size: usize,
    ) -> Result<Self, DataError> {
        let corpus = Corpus::load(config, base_dir)?;
        let vocabulary = corpus.vocabulary(config)?;
        let train_tokens = vocabulary.encode(&corpus.train_text);
        let valid_tokens = vocabulary.encode(&corpus.valid_text);
        let summary = DataSummary::new(&corpus, &vocabulary, [&train_tokens, &valid_tokens]);
        let train = TokenStream::new(train_tokens).windows(batch_size, seq_len)?;
        let targets = valid_tokens.len().saturating_sub(1).max(1);
        let seq_len = seq_len.min(targets);
        let streams = (targets / seq_len).clamp(1, eval_batch_size);
        let valid = TokenStream::new(valid_tokens).windows(streams, seq_len).map_err(DataError::of_validation)?;
        Ok(Self { vocabulary, train, valid, summary, fingerprint: corpus.fingerprint })
    }
}

/// The mean loss in nats of a text's tokens, in the measure in which models of such tokens are compared.
pub fn text_score(text: &TextSummary, loss_nats: f64) -> UnitScore {
    UnitScore::of(text.unit, loss_nats, text.bytes_per_token())
}

/// A window's inputs and targets as tensors of `[batch_size, seq_len]`.
pub(crate) fn window_tensors(window: Window, device: &Device) -> (Tensor<2, Int>, Tensor<2, Int>) {
    let shape = [window.batch_size, window.seq_len];
    let tensor = |tokens: Vec<u32>| {
        let tokens: Vec<i32> = tokens.into_iter().map(|token| token as i32).collect();
        Tensor::from_data(TensorData::new(tokens, shape), device)
    };
    (tensor(window.inputs), tensor(window.targets))
}

/// The loss of each token of one window, in nats, `[batch_size * seq_len]`.
fn window_losses(
    model: &LanguageModel,
    window: Window,
    state: Option<LanguageModelState>,
    device: &Device,
) -> (Vec<f32>, LanguageModelState) {
    let (inputs, targets) = window_tensors(window, device);
    let (losses, state) = model.token_losses(inputs, targets, state);
    (losses.into_data().try_into_vec::<f32>().expect("losses are f32"), state)
}

/// The summed loss of one window, in nats, in `f64`.
fn window_nats(
    model: &LanguageModel,
    window: Window,
    state: Option<LanguageModelState>,
    device: &Device,
) -> (f64, LanguageModelState) {
    let (losses, state) = window_losses(model, window, state, device);
    (losses.into_iter().map(f64::from).sum(), state)
}

/// Mean loss in nats over `windows`, the state carried from each to the next: what validation during training uses.
pub fn score_windows(model: &LanguageModel, windows: &Windows) -> f64 {
    let device = model.device();
    let mut state = None;
    let mut total_nats = 0.0;
    for window in windows.iter() {
        let (nats, next) = window_nats(model, window, state, &device);
        total_nats += nats;
        state = Some(next);
    }
    total_nats / windows.targets() as f64
}

/// Scores sequences of tokens, each alone from a state of zeros: the loss in nats of each token but the first.
///
/// `progress` hears how many tokens are done.
///
/// # Panics
/// If a sequence is empty.
pub fn score_sequences(model: &LanguageModel, sequences: &[&[u32]], mut progress: impl FnMut(u64)) -> Vec<Vec<f64>> {
    /// Tokens in one pass, all sequences together.
    const TOKENS: usize = 16_384;
    let device = model.device();
    // Beside others of about its length little is computed for nothing.
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(sequences[index].len()));
    let mut losses = vec![Vec::new(); sequences.len()];
    let mut done = 0;
    let mut rest = order.as_slice();
    while let Some(&longest) = rest.first() {
        let targets = sequences[longest].len() - 1;
        let seq_len = targets.clamp(1, SEQ_LEN);
        let (batch, others) = rest.split_at((TOKENS / seq_len).clamp(1, rest.len()));
        rest = others;
        let mut state = None;
        for begin in (0..targets).step_by(seq_len) {
            let columns = begin..targets.min(begin + seq_len);
            // Behind the end of a shorter one any token will do.
            let token = |index: usize, column: usize| sequences[index].get(column).copied().unwrap_or_default();
            let window = Window {
                inputs: batch.iter().flat_map(|&index| columns.clone().map(move |at| token(index, at))).collect(),
                targets: batch.iter().flat_map(|&index| columns.clone().map(move |at| token(index, at + 1))).collect(),
                batch_size: batch.len(),
                seq_len: columns.len(),
            };
            let (nats, next) = window_losses(model, window, state, &device);
            state = Some(next);
            for (&index, nats) in batch.iter().zip(nats.chunks_exact(columns.len())) {
                let left = (sequences[index].len() - 1).saturating_sub(begin).min(columns.len());
                losses[index].extend(nats[..left].iter().map(|&nats| f64::from(nats)));
                done += left as u64;
            }
            progress(done);
        }
    }
    losses
}

/// Scores a whole text as one stream with the state carried from its first token to its last.
///
/// The first token has nothing before it and is not scored. `progress` hears how many tokens are done.
///
/// # Errors
/// When the text has fewer than two tokens.
pub fn score_stream(
    model: &LanguageModel,
    vocabulary: &Vocabulary,
    text: &str,
    mut progress: impl FnMut(u64),
) -> Result<LanguageModelScore, DataError> {
    let windows = TokenStream::new(vocabulary.encode(text)).single(SEQ_LEN)?;
    let device = model.device();
    let (mut state, mut total_nats, mut tokens) = (None, 0.0, 0);
    for window in windows.iter() {
        tokens += window.targets.len() as u64;
        let (nats, next) = window_nats(model, window, state, &device);
        total_nats += nats;
        state = Some(next);
        progress(tokens);
    }
    let (chars, bytes) = vocabulary.after_first(text);
    Ok(LanguageModelScore { total_nats, tokens, chars, bytes })
}
