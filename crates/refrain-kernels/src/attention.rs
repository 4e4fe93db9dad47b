//! Attention of the steps of a sequence to one another, head by head.
//!
//! Each head of each sequence is one member's: its queries, keys and values are gathered, and a block of queries meets all the keys
//! that it may see in two products. Only that block's weights exist at once; the way back makes them again from the
//! logarithms of their sums (Dao et al. 2022).

mod softmax;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::engine::Engine;
use crate::format::Precision;
use crate::gemm::{Beta, MatMut, MatRef, matmul};
use crate::scratch::Scratch;
use crate::shared::SharedSlice;
use softmax::{ScoreGradients, Softmax, Visible, WeightsAgain};

/// Queries whose weights exist at once: as many as fill the tiles, few enough that causal ones skip much of what they do not see.
const QUERY_BLOCK: usize = 128;

/// What attends to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch_size: usize,
    /// Parts of a step's vector, each of which attends by itself.
    pub num_heads: usize,
    /// Features of each.
    pub head_size: usize,
    /// Steps that ask.
    pub seq_len: usize,
    /// Steps before them, which they may see too.
    pub past_len: usize,
}

impl AttentionShape {
    /// Steps that may be seen.
    pub fn key_len(&self) -> usize {
        self.past_len + self.seq_len
    }

    fn hidden_size(&self) -> usize {
        self.num_heads * self.head_size
    }

    fn num_outputs(&self) -> usize {
        self.batch_size * self.seq_len * self.hidden_size()
    }

    fn num_past(&self) -> usize {
        self.batch_size * self.past_len * self.hidden_size()
    }

    /// Operations of one product of queries and keys.
    fn flops(&self) -> usize {
        2 * self.num_outputs() * self.key_len()
    }
}

/// What [`attention`] reads.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a> {
    /// Queries, keys and values of all heads, side by side: `[batch_size, seq_len, 3 * num_heads * head_size]`.
    pub projected: &'a [f32],
    /// The keys and the values of the steps before, each `[batch_size, num_heads, past_len, head_size]`.
    pub past: [&'a [f32]; 2],
    /// Keys that no query may see, if there are any: `[batch_size, key_len]`.
    pub hidden: Option<&'a [bool]>,
    /// Whether a step sees itself and what came before alone.
    pub is_causal: bool,
}

impl AttentionInputs<'_> {
    fn check(&self, shape: &AttentionShape) {
        let [keys, values] = self.past.map(<[f32]>::len);
        assert_eq!(self.projected.len(), 3 * shape.num_outputs(), "queries, keys and values of {shape:?}");
        assert_eq!([keys, values], [shape.num_past(); 2], "past keys and values of {shape:?}");
        if let Some(hidden) = self.hidden {
            assert_eq!(hidden.len(), shape.batch_size * shape.key_len(), "hidden keys of {shape:?}");
        }
    }
}

/// `softmax(q kᵀ / sqrt(head_size)) v` of each head (Vaswani et al. 2017), over the keys that a query may see. A query that may see
/// none gets zeros.
///
/// # Shapes
///
/// - `output`: `[batch_size, seq_len, num_heads * head_size]`
/// - `log_sums`, the logarithm of each softmax's divisor, for [`attention_backward`]: `[batch_size, num_heads, seq_len]`
///
/// # Panics
///
/// When a length is not of the shape.
pub fn attention(
    engine: &Engine,
    shape: AttentionShape,
    inputs: AttentionInputs,
    output: &mut [f32],
    log_sums: &mut [f32],
) {
    inputs.check(&shape);
    let AttentionShape { batch_size, num_heads, seq_len, head_size, .. } = shape;
    assert_eq!(output.len(), shape.num_outputs(), "output of {shape:?}");
    assert_eq!(log_sums.len(), batch_size * num_heads * seq_len, "log_sums of {shape:?}");
    let output = SharedSlice::new(output);
    let log_sums = SharedSlice::new(log_sums);
    for_heads(engine, &shape, 2, |pairs| {
        let mut head = Head::new(engine, shape, inputs);
        let mut weights = engine.scratch(QUERY_BLOCK.min(seq_len) * shape.key_len());
        let mut contexts = engine.scratch(QUERY_BLOCK.min(seq_len) * head_size);
        for pair in pairs {
            head.gather(pair);
            for queries in head.query_blocks() {
                let keys = head.keys_of(&queries);
                let weights = &mut weights[..queries.len() * keys];
                head.scores(&queries, weights);
                // SAFETY: a head is one member's, and these queries are of no other block.
                let log_sums = unsafe { log_sums.part_mut(pair * seq_len + queries.start, queries.len()) };
                engine.kernel(Softmax { scores: weights, visible: head.visible(&queries), log_sums });
                let contexts = &mut contexts[..queries.len() * head_size];
                let weights = MatRef::row_major(weights, queries.len(), keys);
                head.product(weights, head.values(keys), Beta::Overwrite, contexts);
                for (query, context) in queries.zip(contexts.chunks_exact(head_size)) {
                    // SAFETY: as above.
                    unsafe { output.part_mut(head.at(query, 1), head_size) }.copy_from_slice(context);
                }
            }
        }
    });
}

/// The gradients of what [`attention`] read.
#[derive(Debug)]
pub struct AttentionGradients<'a> {
    /// `[batch_size, seq_len, 3 * num_heads * head_size]`
    pub projected: &'a mut [f32],
    /// Of the past keys and values: each `[batch_size, num_heads, past_len, head_size]`.
    pub past: [&'a mut [f32]; 2],
}

/// The backward pass of [`attention`]: overwrites `gradients`, given what it read, what it gave, and the gradient of its output.
///
/// # Panics
///
/// When a length is not of the shape.
pub fn attention_backward(
    engine: &Engine,
    shape: AttentionShape,
    inputs: AttentionInputs,
    [output, log_sums, incoming]: [&[f32]; 3],
    gradients: AttentionGradients,
) {
    inputs.check(&shape);
    let AttentionShape { batch_size, num_heads, seq_len, head_size, past_len } = shape;
    assert_eq!([output.len(), incoming.len()], [shape.num_outputs(); 2], "output of {shape:?} and its gradient");
    assert_eq!(log_sums.len(), batch_size * num_heads * seq_len, "log_sums of {shape:?}");
    assert_eq!(gradients.projected.len(), inputs.projected.len(), "gradient of queries, keys and values of {shape:?}");
    let [past_keys, past_values] = gradients.past;
    assert_eq!([past_keys.len(), past_values.len()], [shape.num_past(); 2], "gradients of the past of {shape:?}");
    if shape.num_outputs() == 0 {
        // Nobody asks for the past.
        past_keys.fill(0.0);
        past_values.fill(0.0);
        return;
    }
    let to_projected = SharedSlice::new(gradients.projected);
    let to_past = [SharedSlice::new(past_keys), SharedSlice::new(past_values)];
    for_heads(engine, &shape, 5, |pairs| {
        let mut head = Head::new(engine, shape, inputs);
        let block = QUERY_BLOCK.min(seq_len);
        let mut weights = engine.scratch(block * shape.key_len());
        let mut score_gradients = engine.scratch(block * shape.key_len());
        let mut incoming_rows = engine.scratch(seq_len * head_size);
        let mut of_queries = engine.scratch(seq_len * head_size);
        let mut of_keys = [(); 2].map(|()| engine.scratch(shape.key_len() * head_size));
        for pair in pairs {
            head.gather(pair);
            for (query, row) in incoming_rows.chunks_exact_mut(head_size).enumerate() {
                row.copy_from_slice(&incoming[head.at(query, 1)..][..head_size]);
            }
            let [of_keys, of_values] = of_keys.each_mut().map(|of| &mut of[..]);
            of_keys.fill(0.0);
            of_values.fill(0.0);
            for queries in head.query_blocks() {
                let keys = head.keys_of(&queries);
                let rows = queries.start * head_size..queries.end * head_size;
                let incoming = MatRef::row_major(&incoming_rows[rows.clone()], queries.len(), head_size);
                let weights = &mut weights[..queries.len() * keys];
                head.scores(&queries, weights);
                let log_sums = &log_sums[pair * seq_len + queries.start..][..queries.len()];
                engine.kernel(WeightsAgain { scores: weights, visible: head.visible(&queries), log_sums });
                let score_gradients = &mut score_gradients[..queries.len() * keys];
                head.product(incoming, head.values(keys).transposed(), Beta::Overwrite, score_gradients);
                let weights_of = MatRef::row_major(weights, queries.len(), keys);
                head.product(weights_of.transposed(), incoming, Beta::Accumulate, &mut of_values[..keys * head_size]);
                for (query, (weights, gradients)) in
                    queries.clone().zip(weights.chunks_exact(keys).zip(score_gradients.chunks_exact_mut(keys)))
                {
                    let output = &output[head.at(query, 1)..][..head_size];
                    let incoming = &incoming_rows[query * head_size..][..head_size];
                    engine.kernel(ScoreGradients { weights, output, incoming, gradients });
                }
                let score_gradients = MatRef::row_major(score_gradients, queries.len(), keys);
                head.product(score_gradients, head.keys(keys), Beta::Overwrite, &mut of_queries[rows]);
                let asked = head.queries(&queries);
                head.product(score_gradients.transposed(), asked, Beta::Accumulate, &mut of_keys[..keys * head_size]);
            }
            // The queries were scaled as they were gathered: the keys' gradients have the factor by them.
            of_queries.iter_mut().for_each(|gradient| *gradient *= head.scale());
            let (past_keys, new_keys) = of_keys.split_at(past_len * head_size);
            let (past_values, new_values) = of_values.split_at(past_len * head_size);
            for (of_past, past) in to_past.iter().zip([past_keys, past_values]) {
                // SAFETY: a head is one member's.
                unsafe { of_past.part_mut(pair * past_len * head_size, past.len()) }.copy_from_slice(past);
            }
            for (part, rows) in [&of_queries[..], new_keys, new_values].into_iter().enumerate() {
                for (step, row) in rows.chunks_exact(head_size).enumerate() {
                    // SAFETY: as above.
                    unsafe { to_projected.part_mut(head.of_projected(step, part), head_size) }.copy_from_slice(row);
                }
            }
        }
    });
}

/// Shares the heads of all sequences out, where there is anything to attend to; `products` is how many each makes.
fn for_heads(engine: &Engine, shape: &AttentionShape, products: usize, task: impl Fn(Range<usize>) + Sync) {
    if shape.num_outputs() == 0 {
        return;
    }
    let pairs = shape.batch_size * shape.num_heads;
    let members = engine.members_for_flops(products * shape.flops()).min(pairs);
    engine.run(members, |member| task(member.share(pairs)));
}

/// One head of one sequence, its rows side by side.
struct Head<'a> {
    engine: &'a Engine,
    shape: AttentionShape,
    inputs: AttentionInputs<'a>,
    /// Which: `sequence * num_heads + head`.
    pair: usize,
    /// `[seq_len, head_size]`, scaled.
    queries: Scratch,
    /// Keys and values, each `[key_len, head_size]`.
    seen: [Scratch; 2],
}

impl<'a> Head<'a> {
    fn new(engine: &'a Engine, shape: AttentionShape, inputs: AttentionInputs<'a>) -> Self {
        let of_keys = || engine.scratch(shape.key_len() * shape.head_size);
        let queries = engine.scratch(shape.seq_len * shape.head_size);
        Self { engine, shape, inputs, pair: 0, queries, seen: [of_keys(), of_keys()] }
    }

    /// What queries are multiplied with.
    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_size as f32).sqrt()
    }

    /// Becomes another head.
    fn gather(&mut self, pair: usize) {
        self.pair = pair;
        let AttentionShape { head_size, seq_len, past_len, .. } = self.shape;
        let AttentionInputs { projected, past, .. } = self.inputs;
        for step in 0..seq_len {
            let from = &projected[self.of_projected(step, 0)..][..head_size];
            let scale = self.scale();
            for (to, from) in self.queries[step * head_size..][..head_size].iter_mut().zip(from) {
                *to = from * scale;
            }
        }
        for (part, past) in past.into_iter().enumerate() {
            let past = &past[pair * past_len * head_size..][..past_len * head_size];
            self.seen[part][..past.len()].copy_from_slice(past);
            for step in 0..seq_len {
                let from = &projected[self.of_projected(step, part + 1)..][..head_size];
                self.seen[part][(past_len + step) * head_size..][..head_size].copy_from_slice(from);
            }
        }
    }

    /// Where this head's features of a step begin in rows of `width` such vectors.
    fn at(&self, step: usize, width: usize) -> usize {
        let AttentionShape { num_heads, seq_len, head_size, .. } = self.shape;
        let (sequence, head) = (self.pair / num_heads, self.pair % num_heads);
        ((sequence * seq_len + step) * width * num_heads + head) * head_size
    }

    /// Where its queries (`part` 0), keys or values of a step begin.
    fn of_projected(&self, step: usize, part: usize) -> usize {
        self.at(step, 3) + part * self.shape.hidden_size()
    }

    fn query_blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let seq_len = self.shape.seq_len;
        (0..seq_len).step_by(QUERY_BLOCK).map(move |first| first..(first + QUERY_BLOCK).min(seq_len))
    }

    /// How many keys, from the first on, some queries may see.
    fn keys_of(&self, queries: &Range<usize>) -> usize {
        if self.inputs.is_causal { self.shape.past_len + queries.end } else { self.shape.key_len() }
    }

    /// What of those each of them may see.
    fn visible(&self, queries: &Range<usize>) -> Visible<'a> {
        let keys = self.keys_of(queries);
        let key_len = self.shape.key_len();
        let sequence = self.pair / self.shape.num_heads;
        Visible {
            keys,
            of_first: if self.inputs.is_causal { self.shape.past_len + queries.start + 1 } else { keys },
            hidden: self.inputs.hidden.map(|hidden| &hidden[sequence * key_len..][..keys]),
        }
    }

    fn queries(&self, queries: &Range<usize>) -> MatRef<'_> {
        let head_size = self.shape.head_size;
        let rows = &self.queries[queries.start * head_size..queries.end * head_size];
        MatRef::row_major(rows, queries.len(), head_size)
    }

    fn keys(&self, count: usize) -> MatRef<'_> {
        MatRef::row_major(&self.seen[0][..count * self.shape.head_size], count, self.shape.head_size)
    }

    fn values(&self, count: usize) -> MatRef<'_> {
        MatRef::row_major(&self.seen[1][..count * self.shape.head_size], count, self.shape.head_size)
    }

    /// The scores of some queries: `[queries, keys]`.
    fn scores(&self, queries: &Range<usize>, scores: &mut [f32]) {
        let keys = self.keys(self.keys_of(queries));
        self.product(self.queries(queries), keys.transposed(), Beta::Overwrite, scores);
    }

    fn product(&self, a: MatRef, b: MatRef, beta: Beta, out: &mut [f32]) {
        matmul(self.engine, Precision::F32, a, b, beta, MatMut::row_major(out, a.rows(), b.cols()));
    }
}
