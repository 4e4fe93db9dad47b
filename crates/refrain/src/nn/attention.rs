//! Attention of a decoder's state over the states of an encoder.

use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor};

use super::{Initializer, padding};

/// How well a key answers a query; equations at [`Attention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// A network with one hidden layer (Bahdanau et al. 2015, appendix A.1.2).
    Additive {
        /// Units of the hidden layer.
        attention_size: usize,
    },
    /// The product of the two, which must be of one size (Luong et al. 2015, equation 8).
    Dot,
    /// The product with a matrix between (Luong et al. 2015, equation 8).
    General,
    /// One matrix on query and key, one after the other (Luong et al. 2015, equation 8): the function of
    /// [`Score::Additive`], whose two matrices are the halves of this one, drawn with the bounds of one matrix.
    Concat {
        /// Rows of the matrix.
        attention_size: usize,
    },
}

/// Configuration of [`Attention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionConfig {
    /// Features of a query: the decoder's hidden units.
    pub query_size: usize,
    /// Features of a key: the encoder's outputs.
    pub key_size: usize,
    /// How well a key answers a query.
    pub score: Score,
}

impl AttentionConfig {
    /// Xavier weights.
    ///
    /// # Panics
    /// If the score is [`Score::Dot`] and the sizes differ.
    pub fn init(&self, init: &mut Initializer<'_>) -> Attention {
        let Self { query_size, key_size, score } = *self;
        let [weight_query, weight_key, weight_score] = match score {
            Score::Additive { attention_size } => [
                Some(init.xavier_uniform([attention_size, query_size], 1)),
                Some(init.xavier_uniform([attention_size, key_size], 1)),
                Some(init.xavier_uniform([1, attention_size], 1)),
            ],
            Score::Concat { attention_size } => {
                let bound = (6.0 / (attention_size + query_size + key_size) as f64).sqrt();
                [
                    Some(init.uniform([attention_size, query_size], bound)),
                    Some(init.uniform([attention_size, key_size], bound)),
                    Some(init.xavier_uniform([1, attention_size], 1)),
                ]
            }
            Score::General => [None, Some(init.xavier_uniform([query_size, key_size], 1)), None],
            Score::Dot => {
                assert!(
                    query_size == key_size,
                    "dot scores need queries and keys of one size but query_size is {query_size} and key_size {key_size}"
                );
                [None, None, None]
            }
        };
        Attention { weight_query, weight_key, weight_score, query_size, key_size }
    }
}

/// Global attention over a sequence of keys, which are the values too.
///
/// ```text
/// score(q, k) = vᵀ tanh(W_q q + W_k k)     additive, concat
///             = qᵀ k                       dot
///             = qᵀ W_k k                   general
/// w = softmax over the keys of score(q, k)
/// context = Σ w k
/// ```
///
/// Which weights there are decides which score it is: `weight_score` has additive and concat alone, `weight_key` general as
/// well, and dot has none.
#[derive(Module, Debug)]
pub struct Attention {
    /// `W_q`: `[attention_size, query_size]`.
    pub weight_query: Option<Param<Tensor<2>>>,
    /// `W_k`: `[attention_size, key_size]`; of general `[query_size, key_size]`.
    pub weight_key: Option<Param<Tensor<2>>>,
    /// `vᵀ`: `[1, attention_size]`.
    pub weight_score: Option<Param<Tensor<2>>>,
    query_size: usize,
    key_size: usize,
}

/// What queries attend to: the keys of a batch, projected once for any number of queries, but for one backward pass alone,
/// which uses it up.
#[derive(Clone, Debug)]
pub struct AttentionMemory {
    /// The keys as they came, padding zeroed: `[batch_size, key_len, key_size]`.
    values: Tensor<3>,
    /// `W_k k`, or the keys themselves: `[batch_size, key_len, attention_size]`, of general and dot `[…, query_size]`.
    keys: Tensor<3>,
    /// What softmax leaves out: `[batch_size, key_len]`. Never a whole row, which would have nothing to add up.
    hidden: Option<Tensor<2, Bool>>,
    /// Which sequences have no key at all: `[batch_size, 1]`.
    empty: Option<Tensor<2, Bool>>,
}

impl AttentionMemory {
    /// `[batch_size, key_len, key_size]`.
    pub fn dims(&self) -> [usize; 3] {
        self.values.dims()
    }
}

impl Attention {
    /// Projects the keys. `lengths` says how many of each sequence's keys there are, in any order; what lies beyond gets no
    /// weight, and its content, be it `NaN`, changes no bit of anything. How much of it there is may change the rounding.
    ///
    /// # Shapes
    /// - `keys`: `[batch_size, key_len, key_size]`
    /// - `lengths`: `batch_size` of them, each at most `key_len`, 0 allowed
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn memory(&self, keys: Tensor<3>, lengths: Option<&[usize]>) -> AttentionMemory {
        let [batch_size, key_len, key_size] = keys.dims();
        assert!(
            key_size == self.key_size,
            "keys are [{batch_size}, {key_len}, {key_size}] but the attention reads keys of size {}",
            self.key_size
        );
        let device = keys.device();
        let lengths = padding::resolve(lengths, batch_size, key_len);
        let values = padding::zero_beyond(keys, padding::beyond(&lengths, key_len, &device).as_ref());
        let keys = match &self.weight_key {
            Some(weight) => project(values.clone(), weight),
            None => values.clone(),
        };
        let at_least_one: Vec<usize> = lengths.iter().map(|&length| length.max(1)).collect();
        let hidden = padding::beyond(&at_least_one, key_len, &device);
        let empty = padding::beyond(&lengths.iter().map(|&length| length.min(1)).collect::<Vec<_>>(), 1, &device);
        AttentionMemory { values, keys, hidden, empty }
    }

    /// The weighted sum of the keys for each query, and the weights. For a sequence without keys both are zero.
    ///
    /// Additive and concat scores hold `batch_size * query_len * key_len * attention_size` numbers at once.
    ///
    /// # Shapes
    /// - `query`: `[batch_size, query_len, query_size]`
    /// - context: `[batch_size, query_len, key_size]`
    /// - weights: `[batch_size, query_len, key_len]`, each row with sum 1
    ///
    /// # Panics
    /// If the query does not fit the weights or the memory.
    pub fn forward(&self, query: Tensor<3>, memory: &AttentionMemory) -> (Tensor<3>, Tensor<3>) {
        let [batch_size, query_len, query_size] = query.dims();
        let [memory_batch_size, key_len, key_size] = memory.dims();
        assert!(
            query_size == self.query_size && batch_size == memory_batch_size,
            "query is [{batch_size}, {query_len}, {query_size}] but the attention reads queries of size {} and the memory \
             is of {memory_batch_size} sequences",
            self.query_size
        );
        let device = query.device();
        if batch_size * query_len * key_len == 0 {
            let context = Tensor::zeros([batch_size, query_len, key_size], &device);
            return (context, Tensor::zeros([batch_size, query_len, key_len], &device));
        }
        let dims = [batch_size, query_len, key_len];
        let mut scores = self.scores(query, memory.keys.clone());
        if let Some(hidden) = &memory.hidden {
            scores = scores.mask_fill(hidden.clone().unsqueeze_dim::<3>(1).expand(dims), f32::NEG_INFINITY);
        }
        let mut weights = softmax(scores, 2);
        if let Some(empty) = &memory.empty {
            weights = weights.mask_fill(empty.clone().unsqueeze_dim::<3>(1).expand(dims), 0.0);
        }
        (weights.clone().matmul(memory.values.clone()), weights)
    }

    /// `[batch_size, query_len, key_len]`
    fn scores(&self, query: Tensor<3>, keys: Tensor<3>) -> Tensor<3> {
        let (Some(weight_query), Some(weight_score)) = (&self.weight_query, &self.weight_score) else {
            return query.matmul(keys.swap_dims(1, 2));
        };
        let query = project(query, weight_query);
        let [batch_size, query_len, attention_size] = query.dims();
        let [_, key_len, _] = keys.dims();
        let sums = query.unsqueeze_dim::<4>(2) + keys.unsqueeze_dim::<4>(1); // [batch_size, query_len, key_len, attention_size]
        let units = sums.tanh().reshape([batch_size * query_len * key_len, attention_size]);
        units.matmul(weight_score.val().transpose()).reshape([batch_size, query_len, key_len])
    }
}

/// Each step's vector times `weightᵀ`, as one product.
fn project(sequences: Tensor<3>, weight: &Param<Tensor<2>>) -> Tensor<3> {
    let [batch_size, seq_len, size] = sequences.dims();
    let weight = weight.val();
    let [projected_size, _] = weight.dims();
    if batch_size * seq_len == 0 {
        return Tensor::zeros([batch_size, seq_len, projected_size], &sequences.device());
    }
    let rows = sequences.reshape([batch_size * seq_len, size]);
    rows.matmul(weight.transpose()).reshape([batch_size, seq_len, projected_size])
}
