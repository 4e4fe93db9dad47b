//! Self-attention in place of recurrence: the yardstick for recurrent layers.

mod block;
mod positions;
mod state;

use burn::backend::Dispatch;
use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::Tensor;
use refrain_kernels::Precision;

use self::block::Steps;
use self::positions::Rotations;
use super::fused::transformer::TransformerOps;
use super::{Dropout, DropoutSchedule, Embedding, Initializer, padding};
use crate::nn::dropout::check_share;

pub use self::block::TransformerBlock;
pub use self::state::TransformerState;

/// What is added to a variance.
const EPSILON: f64 = 1e-5;

/// The layer in each block that looks at one step alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FeedForward {
    /// `W_2 gelu(W_1 x)` (Vaswani et al. 2017, with the unit of Hendrycks and Gimpel 2016).
    #[default]
    Gelu,
    /// `W_2 (silu(W_1 x) ∘ W_3 x)` (Shazeer 2020): three matrices, so equal parameters take two thirds of the units.
    SwiGlu,
}

/// How a step knows where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// Queries and keys are turned by angles that grow with the position, so that their product depends on the distance
    /// alone (Su et al. 2021). No parameters and no longest sequence.
    Rotary {
        /// Feature pair `i` of a head turns by `base^(-2i / head_size)` a step.
        base: f64,
    },
    /// A learned vector a position, added to the input (Gehring et al. 2017).
    Learned {
        /// The longest sequence.
        max_len: usize,
    },
}

/// What a step may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Itself and what came before: for generating, like a recurrent layer.
    Causal,
    /// The whole sequence: for reading, like a bidirectional one.
    Full,
}

/// Configuration of a [`Transformer`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransformerConfig {
    /// Features of input and output.
    pub hidden_size: usize,
    /// How many parts each step's vector is cut into; each part attends by itself.
    pub num_heads: usize,
    /// How many blocks.
    pub num_layers: usize,
    /// Units of each feed-forward layer.
    pub feed_forward_size: usize,
    /// Its kind.
    pub feed_forward: FeedForward,
    /// How a step knows where it stands.
    pub positions: Positions,
    /// What a step may look at.
    pub visibility: Visibility,
    /// Dropout on what each sub-layer adds (Vaswani et al. 2017, §5.4).
    pub dropout: f64,
    /// In what the factors of the linear layers' products are kept; attention is computed in f32.
    pub precision: Precision,
}

impl TransformerConfig {
    /// Causal blocks with rotary positions (base 10 000, Su et al. 2021) and four times as many feed-forward units, GELU
    /// (Vaswani et al. 2017), without dropout.
    pub fn new(hidden_size: usize, num_heads: usize, num_layers: usize) -> Self {
        Self {
            hidden_size,
            num_heads,
            num_layers,
            feed_forward_size: 4 * hidden_size,
            feed_forward: FeedForward::default(),
            positions: Positions::Rotary { base: 10_000.0 },
            visibility: Visibility::Causal,
            dropout: 0.0,
            precision: Precision::default(),
        }
    }

    /// How many parameters an initial transformer has: to stand beside a recurrent stack of as many.
    pub fn num_parameters(&self) -> usize {
        let Self { hidden_size, num_layers, feed_forward_size, .. } = *self;
        let linear = |input_size: usize, output_size: usize| (input_size + 1) * output_size;
        let norm = 2 * hidden_size;
        let attention = linear(hidden_size, 3 * hidden_size) + linear(hidden_size, hidden_size);
        let widths = self.feed_forward.widths() * feed_forward_size;
        let feed_forward = linear(hidden_size, widths) + linear(feed_forward_size, hidden_size);
        let positions = match self.positions {
            Positions::Rotary { .. } => 0,
            Positions::Learned { max_len } => max_len * hidden_size,
        };
        positions + num_layers * (2 * norm + attention + feed_forward) + norm
    }

    /// Xavier weights, those of what is added to the stream divided by `sqrt(2 * num_layers)` (Radford et al. 2019); zero
    /// biases; learned positions normal with deviation 0.02.
    ///
    /// # Panics
    /// If the heads do not divide the hidden units, rotary positions meet a head of odd size, or dropout is not a
    /// probability below 1.
    pub fn init(&self, init: &mut Initializer<'_>) -> Transformer {
        let Self { hidden_size, num_heads, dropout, .. } = *self;
        assert!(
            num_heads > 0 && hidden_size.is_multiple_of(num_heads),
            "num_heads is {num_heads}, which does not divide the hidden_size of {hidden_size}"
        );
        check_share("dropout", dropout);
        let embedding = match self.positions {
            Positions::Rotary { .. } => {
                let head_size = hidden_size / num_heads;
                assert!(
                    head_size.is_multiple_of(2),
                    "rotary positions turn pairs of features but hidden_size {hidden_size} by num_heads {num_heads} is {head_size}"
                );
                None
            }
            Positions::Learned { max_len } => Some(Embedding { weight: init.normal([max_len, hidden_size], 0.02) }),
        };
        Transformer {
            positions: embedding,
            layers: (0..self.num_layers).map(|_| TransformerBlock::new(self, init)).collect(),
            norm: LayerNormConfig::new(hidden_size).with_epsilon(EPSILON).init(init.device()),
            config: *self,
        }
    }
}

/// A stack of pre-norm blocks (Vaswani et al. 2017; the norms as Xiong et al. 2020 place them).
///
/// ```text
/// x ← x + W_o heads(norm(x))       each head: softmax(q kᵀ / sqrt(head_size)) v
/// x ← x + feed_forward(norm(x))    in every block
/// y = norm(x)                      after the last
/// ```
///
/// It takes the place of a recurrent [`Stack`](super::Stack): from vectors to vectors, embedding and head not included, and
/// a causal one can go on from its state. The state grows with each step, though, and so does a step's work.
#[derive(Module, Debug)]
pub struct Transformer {
    /// Learned positions: `[max_len, hidden_size]`.
    pub positions: Option<Embedding>,
    /// From the lowest up.
    pub layers: Vec<TransformerBlock>,
    /// Of the last block's output.
    pub norm: LayerNorm,
    #[module(skip)]
    config: TransformerConfig,
}

impl Transformer {
    /// Elements of the matrices that every step is multiplied by; its keys and values come to that.
    pub fn num_step_weights(&self) -> usize {
        let linears = self.layers.iter().flat_map(TransformerBlock::linears);
        linears.map(|linear| linear.weight.dims().iter().product::<usize>()).sum()
    }

    /// Runs over a whole sequence, or, from a state, over what follows those before.
    ///
    /// `lengths` says how long each sequence is, in any order; beyond it the output is zero, and what the input holds there,
    /// be it `NaN`, changes no bit of anything. A state remembers the steps within the lengths alone. How long the longest
    /// sequence of a batch is may change the rounding of the others.
    ///
    /// # Shapes
    /// - `input`: `[batch_size, seq_len, hidden_size]`, `seq_len` 0 allowed
    /// - `lengths`: `batch_size` of them, each at most `seq_len`, 0 allowed
    /// - output: `[batch_size, seq_len, hidden_size]`
    ///
    /// # Panics
    /// If a shape does not fit, the sequences outgrow learned positions, or a state is handed to a
    /// transformer of full visibility: its earlier outputs would have to change.
    pub fn forward(
        &self,
        input: Tensor<3>,
        lengths: Option<&[usize]>,
        state: Option<TransformerState>,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<3>, TransformerState) {
        let [batch_size, seq_len, input_size] = input.dims();
        let TransformerConfig { hidden_size, num_heads, visibility, .. } = self.config;
        assert!(
            input_size == hidden_size,
            "input is [{batch_size}, {seq_len}, {input_size}] but the transformer's hidden_size is {hidden_size}"
        );
        assert!(
            visibility == Visibility::Causal || state.is_none(),
            "a transformer of full visibility cannot go on from a state"
        );
        let lengths = padding::resolve(lengths, batch_size, seq_len);
        let mut state = state.unwrap_or_else(|| TransformerState::start(batch_size));
        assert!(
            state.batch_size() == batch_size,
            "the state is of {} sequences but the input of {batch_size}",
            state.batch_size()
        );
        assert!(
            [0, self.layers.len()].contains(&state.depth()),
            "the state is of {} blocks but the transformer has {}",
            state.depth(),
            self.layers.len()
        );
        if batch_size * seq_len == 0 {
            return (input, state);
        }

        let device = input.device();
        let beyond = padding::beyond(&lengths, seq_len, &device);
        let mut stream = padding::zero_beyond(input, beyond.as_ref());
        if let Some(embedding) = &self.positions {
            stream = stream + positions::learned(embedding, &state, &lengths, seq_len);
        }
        let rotations = match self.config.positions {
            Positions::Rotary { base } => {
                Some(Rotations::new(base, hidden_size / num_heads, &state.positions(seq_len)))
            }
            Positions::Learned { .. } => None,
        };
        let hidden = match visibility {
            Visibility::Causal => state.hidden(seq_len),
            // A row that sees nothing would have nothing to add up; the output of a sequence without steps is zeroed below.
            Visibility::Full => {
                let at_least_one: Vec<usize> = lengths.iter().map(|&length| length.max(1)).collect();
                padding::steps_beyond(&at_least_one, seq_len).map(Into::into)
            }
        };
        let steps = Steps { num_heads, visibility, rotations, hidden };

        let dropout = Dropout { probability: self.config.dropout };
        let mut past = state.take_layers().into_iter();
        for (index, layer) in self.layers.iter().enumerate() {
            let schedule = schedule.map(|schedule| schedule.at(2 * index));
            let (added, memory) = layer.attend(stream.clone(), &steps, past.next());
            stream = stream + dropout.forward(added, schedule, 0);
            let added = layer.feed_forward(stream.clone(), self.config.feed_forward);
            stream = stream + dropout.forward(added, schedule, 1);
            if let Some(memory) = memory {
                state.push_layer(memory);
            }
        }
        state.advance(&lengths, seq_len);
        (padding::zero_beyond(normalized(&self.norm, stream), beyond.as_ref()), state)
    }

    /// One step of every sequence, from the state of those before or from none: [`Transformer::forward`] on a single step,
    /// for generating.
    ///
    /// # Shapes
    /// - `input` and output: `[batch_size, hidden_size]`
    ///
    /// # Panics
    /// As [`Transformer::forward`].
    pub fn step(&self, input: Tensor<2>, state: Option<TransformerState>) -> (Tensor<2>, TransformerState) {
        let (output, state) = self.forward(input.unsqueeze_dim(1), None, state, None);
        (output.squeeze_dim(1), state)
    }
}

/// Every step's vector normalised.
fn normalized(norm: &LayerNorm, stream: Tensor<3>) -> Tensor<3> {
    let dims @ [batch_size, seq_len, size] = stream.dims();
    let shift = norm.beta.as_ref().expect("it was made with a shift");
    let rows = <Dispatch as TransformerOps>::normalize_rows(
        EPSILON as f32,
        stream.reshape([batch_size * seq_len, size]).into_dispatch(),
        norm.gamma.val().into_dispatch(),
        shift.val().into_dispatch(),
    );
    Tensor::<2>::from_dispatch(rows).reshape(dims)
}
