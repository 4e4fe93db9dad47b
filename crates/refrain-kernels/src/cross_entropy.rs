//! Linear head, softmax and cross entropy in chunks of rows: no more than 128 MiB of logits exist at once.
//!
//! The logits of a chunk are kept transposed, `[vocab_size, rows]`: then the weight is read in place as a left factor, and the
//! softmax runs over vectors of rows.

use std::ops::Range;

use crate::activation::exp_lane;
use crate::arch::{Kernel, MulAdd};
use crate::column_sums::add_column_sums;
use crate::engine::Engine;
use crate::format::Precision;
use crate::gemm::{Beta, MatMut, MatRef, matmul};
use crate::shape::elements;
use crate::shared::SharedSlice;
use crate::tile::{load, store};

/// Logits of a chunk: 128 MiB. For each chunk the weight is packed twice and its gradient read and written once.
const CHUNK_LOGITS: usize = 32 << 20;
/// Rows of a chunk over a small vocabulary.
const MAX_CHUNK_ROWS: usize = 2048;
/// Rows of the softmax that one member works on at a time.
const LANES: usize = 16;
/// Words between two corrections of the running maximum.
const WORDS: usize = 16;
/// Words whose exponentials are added up in f32: of a million, one after the other, that loses three digits.
const BLOCK_WORDS: usize = 1024;

/// A linear head over hidden states, and the words it should predict.
#[derive(Clone, Copy, Debug)]
pub struct LinearCrossEntropy<'a> {
    /// `[num_rows, hidden_size]`
    pub hidden: &'a [f32],
    /// `[vocab_size, hidden_size]`
    pub weight: &'a [f32],
    /// `[vocab_size]`
    pub bias: &'a [f32],
    /// `[num_rows]`, each below `vocab_size`
    pub targets: &'a [u32],
    /// Length of a hidden state.
    pub hidden_size: usize,
    /// Number of words.
    pub vocab_size: usize,
}

/// Targets of which a share of the probability is spread over all words alike (Szegedy et al. 2016, section 7): the loss of a row
/// is `(1 - share) · losses[r] + share · uniform_losses[r]`.
#[derive(Debug)]
pub struct LabelSmoothing<'a> {
    /// At least 0 and below 1.
    pub share: f32,
    /// `[num_rows]`, overwritten: `log Σ_v exp(z[r, v]) - mean_v z[r, v]`, in nats
    pub uniform_losses: &'a mut [f32],
}

/// The gradients of the mean loss over the rows, overwritten.
#[derive(Debug)]
pub struct LinearCrossEntropyGradients<'a> {
    /// `[num_rows, hidden_size]`
    pub hidden: &'a mut [f32],
    /// `[vocab_size, hidden_size]`
    pub weight: &'a mut [f32],
    /// `[vocab_size]`
    pub bias: &'a mut [f32],
}

/// `losses[r] = log Σ_v exp(z[r, v]) - z[r, target[r]]` with `z = hidden · weightᵀ + bias`, in nats, and the gradients of
/// their mean.
///
/// # Shapes
///
/// `losses` `[num_rows]`; else see the fields of the arguments.
///
/// # Panics
///
/// When a slice does not have its shape or a target is no word.
pub fn linear_cross_entropy(
    engine: &Engine,
    precision: Precision,
    args: LinearCrossEntropy,
    losses: &mut [f32],
    gradients: Option<LinearCrossEntropyGradients>,
) {
    smoothed_linear_cross_entropy(engine, precision, args, losses, None, gradients);
}

/// As [`linear_cross_entropy`], the gradients those of the mean of smoothed losses. `losses` are without smoothing.
///
/// # Panics
///
/// As [`linear_cross_entropy`], and when the share is not in 0..1.
pub fn smoothed_linear_cross_entropy(
    engine: &Engine,
    precision: Precision,
    args: LinearCrossEntropy,
    losses: &mut [f32],
    mut smoothing: Option<LabelSmoothing>,
    mut gradients: Option<LinearCrossEntropyGradients>,
) {
    let LinearCrossEntropy { hidden_size, vocab_size, .. } = args;
    let num_rows = args.targets.len();
    let check = |name: &str, len: usize, expected: &[usize]| {
        assert_eq!(Some(len), elements(expected), "{name} must be {expected:?}");
    };
    check("hidden", args.hidden.len(), &[num_rows, hidden_size]);
    check("weight", args.weight.len(), &[vocab_size, hidden_size]);
    check("bias", args.bias.len(), &[vocab_size]);
    check("losses", losses.len(), &[num_rows]);
    if let Some(&target) = args.targets.iter().find(|&&target| target as usize >= vocab_size) {
        panic!("target {target} in a vocabulary of {vocab_size}");
    }
    if let Some(smoothing) = &smoothing {
        check("the uniform losses", smoothing.uniform_losses.len(), &[num_rows]);
        assert!((0.0..1.0).contains(&smoothing.share), "label smoothing of {}", smoothing.share);
    }
    if let Some(gradients) = &mut gradients {
        check("the gradient of hidden", gradients.hidden.len(), &[num_rows, hidden_size]);
        check("the gradient of weight", gradients.weight.len(), &[vocab_size, hidden_size]);
        check("the gradient of bias", gradients.bias.len(), &[vocab_size]);
        if num_rows == 0 {
            gradients.weight.fill(0.0);
            gradients.bias.fill(0.0);
        }
    }
    if num_rows == 0 {
        return;
    }
    let num_chunks = num_rows.div_ceil((CHUNK_LOGITS / vocab_size).clamp(1, MAX_CHUNK_ROWS));
    let mut logits = engine.scratch(num_rows.div_ceil(num_chunks) * vocab_size);
    for chunk in 0..num_chunks {
        let rows = num_rows * chunk / num_chunks..num_rows * (chunk + 1) / num_chunks;
        let logits = &mut logits[..rows.len() * vocab_size];
        let losses = ChunkLosses {
            own: &mut losses[rows.clone()],
            smoothing: smoothing.as_mut().map(|smoothing| LabelSmoothing {
                share: smoothing.share,
                uniform_losses: &mut smoothing.uniform_losses[rows.clone()],
            }),
            row_gradient: gradients.is_some().then_some(1.0 / num_rows as f32),
        };
        chunk_losses(engine, precision, args, rows.clone(), logits, losses);
        if let Some(gradients) = &mut gradients {
            let beta = if chunk == 0 { Beta::Overwrite } else { Beta::Accumulate };
            chunk_gradients(engine, precision, args, rows, logits, beta, gradients);
        }
    }
}

/// What is wanted of a chunk of rows.
struct ChunkLosses<'a> {
    own: &'a mut [f32],
    smoothing: Option<LabelSmoothing<'a>>,
    /// The gradient of the mean with respect to a row's loss, if the gradients of the logits are wanted.
    row_gradient: Option<f32>,
}

/// The losses of a chunk of rows; its logits become their gradients when those are wanted.
fn chunk_losses(
    engine: &Engine,
    precision: Precision,
    args: LinearCrossEntropy,
    rows: Range<usize>,
    logits: &mut [f32],
    losses: ChunkLosses,
) {
    let LinearCrossEntropy { hidden_size, vocab_size, .. } = args;
    let count = rows.len();
    let hidden = MatRef::row_major(&args.hidden[rows.start * hidden_size..rows.end * hidden_size], count, hidden_size);
    let weight = MatRef::row_major(args.weight, vocab_size, hidden_size);
    matmul(
        engine,
        precision,
        weight,
        hidden.transposed(),
        Beta::Overwrite,
        MatMut::row_major(logits, vocab_size, count),
    );
    let ChunkLosses { own, smoothing, row_gradient } = losses;
    let (share, uniform) = smoothing.map_or((0.0, None), |smoothing| (smoothing.share, Some(smoothing.uniform_losses)));
    let logits = SharedSlice::new(logits);
    let losses = SharedSlice::new(own);
    let uniform = uniform.map(SharedSlice::new);
    // An exponential counts for some ten operations.
    engine.run(engine.members_for_flops(20 * count * vocab_size), |member| {
        for group in member.share(count.div_ceil(LANES)) {
            let first = group * LANES;
            let lanes = LANES.min(count - first);
            engine.kernel(Softmax {
                logits,
                count,
                first,
                bias: args.bias,
                targets: &args.targets[rows.start + first..rows.start + first + lanes],
                // SAFETY: each group of rows belongs to one member.
                losses: unsafe { losses.part_mut(first, lanes) },
                // SAFETY: as above.
                uniform_losses: uniform.as_ref().map_or(&mut [], |uniform| unsafe { uniform.part_mut(first, lanes) }),
                share,
                row_gradient,
            });
        }
    });
}

/// The share of a chunk in the gradients; `logits` holds the gradients of its logits.
fn chunk_gradients(
    engine: &Engine,
    precision: Precision,
    args: LinearCrossEntropy,
    rows: Range<usize>,
    logits: &[f32],
    beta: Beta,
    gradients: &mut LinearCrossEntropyGradients,
) {
    let LinearCrossEntropy { hidden_size, vocab_size, .. } = args;
    let count = rows.len();
    let rows = rows.start * hidden_size..rows.end * hidden_size;
    let hidden = MatRef::row_major(&args.hidden[rows.clone()], count, hidden_size);
    let weight = MatRef::row_major(args.weight, vocab_size, hidden_size);
    let logits = MatRef::row_major(logits, vocab_size, count);
    matmul(engine, precision, logits, hidden, beta, MatMut::row_major(gradients.weight, vocab_size, hidden_size));
    add_column_sums(engine, logits.transposed(), beta, gradients.bias);
    let to = MatMut::row_major(&mut gradients.hidden[rows], count, hidden_size);
    matmul(engine, precision, logits.transposed(), weight, Beta::Overwrite, to);
}

/// The softmax of up to `LANES` rows, which lie side by side in transposed logits.
struct Softmax<'a> {
    /// `[vocab_size, count]`; the columns of this group belong to this thread.
    logits: SharedSlice<'a, f32>,
    count: usize,
    first: usize,
    bias: &'a [f32],
    targets: &'a [u32],
    losses: &'a mut [f32],
    /// None, where they are not wanted.
    uniform_losses: &'a mut [f32],
    /// Of the probability of a row's targets, what is spread over all words.
    share: f32,
    /// The gradient of the mean with respect to a row's loss.
    row_gradient: Option<f32>,
}

impl Softmax<'_> {
    /// # Safety
    ///
    /// The group's columns must belong to this thread.
    #[inline(always)]
    unsafe fn logits(&self, word: usize) -> [f32; LANES] {
        let from = self.logits.pointer(word * self.count + self.first);
        // SAFETY: the group has as many columns as targets.
        let mut logits = unsafe { load::<LANES>(from, self.targets.len()) };
        for logit in &mut logits {
            *logit += self.bias[word];
        }
        logits
    }
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let vocab_size = self.bias.len();
        // As long as every logit is -∞ there is nothing to subtract.
        let shift = |maximum: f32| if maximum == f32::NEG_INFINITY { 0.0 } else { maximum };
        let mut maximum = [f32::NEG_INFINITY; LANES];
        let mut total = [0.0f64; LANES];
        for block in (0..vocab_size).step_by(BLOCK_WORDS) {
            let end = (block + BLOCK_WORDS).min(vocab_size);
            let before = maximum;
            let mut sum = [0.0f32; LANES];
            for start in (block..end).step_by(WORDS) {
                let words = start..(start + WORDS).min(end);
                let mut new_maximum = maximum;
                for word in words.clone() {
                    // SAFETY: the maker of the group owns its columns.
                    let logits = unsafe { self.logits(word) };
                    for l in 0..LANES {
                        new_maximum[l] = if logits[l] > new_maximum[l] { logits[l] } else { new_maximum[l] };
                    }
                }
                let shift = new_maximum.map(shift);
                for l in 0..LANES {
                    sum[l] *= exp_lane::<O>(maximum[l] - shift[l]);
                }
                for word in words {
                    // SAFETY: as above.
                    let logits = unsafe { self.logits(word) };
                    for l in 0..LANES {
                        sum[l] += exp_lane::<O>(logits[l] - shift[l]);
                    }
                }
                maximum = new_maximum;
            }
            for l in 0..LANES {
                let correction = exp_lane::<O>(before[l] - shift(maximum[l]));
                total[l] = total[l] * f64::from(correction) + f64::from(sum[l]);
            }
        }
        // The maximum and the logarithm of the sum stay apart: added, the second would lose the digits that it is about.
        let log_sum = total.map(|total| total.ln() as f32);
        for (l, (loss, &target)) in self.losses.iter_mut().zip(self.targets).enumerate() {
            let position = target as usize * self.count + self.first + l;
            // SAFETY: the maker of the group owns its columns.
            let logit = unsafe { *self.logits.pointer(position) } + self.bias[target as usize];
            *loss = log_sum[l] - (logit - maximum[l]);
        }
        if !self.uniform_losses.is_empty() {
            let mut total = [0.0f64; LANES];
            for block in (0..vocab_size).step_by(BLOCK_WORDS) {
                let mut sum = [0.0f32; LANES];
                for word in block..(block + BLOCK_WORDS).min(vocab_size) {
                    // SAFETY: as above.
                    let logits = unsafe { self.logits(word) };
                    for l in 0..LANES {
                        sum[l] += logits[l] - maximum[l];
                    }
                }
                for l in 0..LANES {
                    total[l] += f64::from(sum[l]);
                }
            }
            for (l, loss) in self.uniform_losses.iter_mut().enumerate() {
                *loss = log_sum[l] - (total[l] / vocab_size as f64) as f32;
            }
        }
        if let Some(row_gradient) = self.row_gradient {
            let of_every_word = row_gradient * self.share / vocab_size as f32;
            let of_target = row_gradient * (1.0 - self.share);
            for word in 0..vocab_size {
                // SAFETY: as above.
                unsafe {
                    let mut logits = self.logits(word);
                    for l in 0..LANES {
                        logits[l] = exp_lane::<O>(logits[l] - maximum[l] - log_sum[l]) * row_gradient - of_every_word;
                    }
                    store(&logits, self.logits.pointer(word * self.count + self.first), self.targets.len());
                }
            }
            for (l, &target) in self.targets.iter().enumerate() {
                // SAFETY: as above.
                unsafe { *self.logits.pointer(target as usize * self.count + self.first + l) -= of_target };
            }
        }
    }
}
