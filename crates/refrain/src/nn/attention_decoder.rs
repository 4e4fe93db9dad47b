//! A recurrent layer that attends to an encoder's outputs at each step.

use burn::module::Module;
use burn::tensor::Tensor;

use refrain_kernels::Memory;

use super::{
    Attention, AttentionConfig, AttentionMemory, DropoutSchedule, Initializer, Layer, LayerConfig, Linear,
    LinearConfig, RecurrentState, Score, padding,
};

/// What enters the recurrent layer beside the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feeding {
    /// The output of the step before, so that the layer knows where it has looked (Luong et al. 2015, §3.3). The new hidden
    /// state asks.
    Attentional,
    /// The context, for which the hidden state of the step before asks (Bahdanau et al. 2015, appendix A.2.2).
    Context,
}

/// Configuration of an [`AttentionDecoder`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionDecoderConfig {
    /// The recurrent layer, its `input_size` that of the decoder's inputs: room for what is fed is added to it.
    pub layer: LayerConfig,
    /// Features of the encoder's outputs.
    pub key_size: usize,
    /// How well a key answers the hidden state.
    pub score: Score,
    /// What enters the recurrent layer beside the input.
    pub feeding: Feeding,
}

impl AttentionDecoderConfig {
    /// The parts' own initial weights.
    ///
    /// # Panics
    /// If the score is [`Score::Dot`] and `key_size` is not the layer's hidden size, or the layer is to compute steps again on the way
    /// back: each of its steps is a pass of its own.
    pub fn init(&self, init: &mut Initializer<'_>) -> AttentionDecoder {
        let Self { layer, key_size, score, feeding } = *self;
        let kept = layer.options().memory;
        assert!(
            kept == Memory::All,
            "memory is {kept:?} but a decoder's layer makes single steps and keeps all of them"
        );
        let (input_size, hidden_size) = (layer.input_size(), layer.hidden_size());
        let fed_size = match feeding {
            Feeding::Attentional => hidden_size,
            Feeding::Context => key_size,
        };
        AttentionDecoder {
            layer: layer.with_input_size(input_size + fed_size).init(init),
            attention: AttentionConfig { query_size: hidden_size, key_size, score }.init(init),
            projection: LinearConfig::new(key_size + hidden_size, hidden_size).init(init),
            input_size,
            hidden_size,
            feeding,
        }
    }
}

/// A recurrent layer with attention, one step at a time.
///
/// ```text
/// Feeding::Attentional                     Feeding::Context
/// h[t] = layer([x[t]; a[t-1]], h[t-1])     c[t] = attention(h[t-1])
/// c[t] = attention(h[t])                   h[t] = layer([x[t]; c[t]], h[t-1])
///
/// a[t] = tanh(W_c [c[t]; h[t]] + b_c)      in both (Luong et al. 2015, equation 5)
/// ```
///
/// Bahdanau et al. compute their output by a maxout layer that reads the input as well; the order and what is fed are theirs.
#[derive(Module, Debug)]
pub struct AttentionDecoder {
    /// Reads the input and, after it, what is fed.
    pub layer: Layer,
    /// Asks with the hidden state.
    pub attention: Attention,
    /// `W_c` and `b_c`: context, then hidden state.
    pub projection: Linear,
    input_size: usize,
    hidden_size: usize,
    #[module(skip)]
    feeding: Feeding,
}

/// What an [`AttentionDecoder`] remembers between steps.
#[derive(Clone, Debug)]
pub struct AttentionDecoderState {
    /// Of the recurrent layer.
    pub recurrent: RecurrentState,
    /// The output of the step before, `[batch_size, hidden_size]`, where [`Feeding::Attentional`] feeds it; before the first
    /// step none, which is zeros.
    pub attentional: Option<Tensor<2>>,
}

impl AttentionDecoderState {
    /// The same numbers as constants: no gradient flows into the steps before them.
    #[must_use]
    pub fn detach(self) -> Self {
        Self { recurrent: self.recurrent.detach(), attentional: self.attentional.map(Tensor::detach) }
    }
}

/// A decoder begins where its encoder ended.
impl From<RecurrentState> for AttentionDecoderState {
    fn from(recurrent: RecurrentState) -> Self {
        Self { recurrent, attentional: None }
    }
}

impl AttentionDecoder {
    /// One step: its output `a[t]`, the weights of the keys, and the state after it; without a state, from zeros.
    ///
    /// # Shapes
    /// - `input`: `[batch_size, input_size]`
    /// - output: `[batch_size, hidden_size]`
    /// - weights: `[batch_size, key_len]`
    ///
    /// # Panics
    /// If the input, the memory or the state does not fit the weights or each other.
    pub fn step(
        &self,
        input: Tensor<2>,
        memory: &AttentionMemory,
        state: Option<AttentionDecoderState>,
    ) -> (Tensor<2>, Tensor<2>, AttentionDecoderState) {
        let [batch_size, _] = input.dims();
        let state = state.unwrap_or_else(|| self.layer.zero_state(batch_size, &input.device()).into());
        let (output, weights, state) = self.advance(input.unsqueeze_dim(1), memory, None, state, None);
        (output.squeeze_dim(1), weights.squeeze_dim(1), state)
    }

    /// All steps of sequences whose inputs are known beforehand, as in training: their outputs, weights, and the state after
    /// each one's last. Without a schedule nothing is dropped; with one the layer's options draw their masks as over a whole sequence.
    ///
    /// # Shapes
    /// - `input`: `[batch_size, target_len, input_size]`, `target_len` 0 allowed
    /// - `lengths`: `[batch_size]`, in any order, 0 allowed; `None` where all sequences are as long as the input
    /// - output: `[batch_size, target_len, hidden_size]`, zeros after a sequence's end
    /// - weights: `[batch_size, target_len, key_len]`, likewise
    /// - state: after each sequence's last step; of one without steps, as it came
    ///
    /// # Panics
    /// If the input, the memory, a length or the state does not fit the weights or each other.
    pub fn forward(
        &self,
        input: Tensor<3>,
        memory: &AttentionMemory,
        lengths: Option<&[usize]>,
        state: Option<AttentionDecoderState>,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<3>, Tensor<3>, AttentionDecoderState) {
        let [batch_size, target_len, _] = input.dims();
        if let Some(lengths) = lengths {
            padding::check(lengths, batch_size, target_len);
        }
        let mut state = state.unwrap_or_else(|| self.layer.zero_state(batch_size, &input.device()).into());
        if target_len == 0 {
            let [_, key_len, _] = memory.dims();
            let empty = |size| Tensor::zeros([batch_size, 0, size], &input.device());
            return (empty(self.hidden_size), empty(key_len), state);
        }
        let (mut outputs, mut weights) = (Vec::with_capacity(target_len), Vec::with_capacity(target_len));
        for (t, input) in steps(input).into_iter().enumerate() {
            // One where the sequence has this step.
            let running =
                lengths.map(|lengths| lengths.iter().map(|&length| usize::from(length > t)).collect::<Vec<_>>());
            let schedule = schedule.map(|schedule| schedule.after(t));
            let (output, weight, next) = self.advance(input, memory, running.as_deref(), state, schedule);
            outputs.push(output);
            weights.push(weight);
            state = next;
        }
        (Tensor::cat(outputs, 1), Tensor::cat(weights, 1), state)
    }

    /// By one step, `[batch_size, 1, …]`, of the sequences that still have one.
    fn advance(
        &self,
        input: Tensor<3>,
        memory: &AttentionMemory,
        running: Option<&[usize]>,
        state: AttentionDecoderState,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<3>, Tensor<3>, AttentionDecoderState) {
        let [batch_size, _, input_size] = input.dims();
        let needed = [batch_size, self.hidden_size];
        let AttentionDecoderState { recurrent, attentional } = state;
        let attentional_dims = attentional.as_ref().map_or(needed, Tensor::dims);
        assert!(
            input_size == self.input_size && recurrent.hidden.dims() == needed && attentional_dims == needed,
            "the step's input is [{batch_size}, {input_size}], its state {:?} and what is fed {attentional_dims:?} but the \
             decoder reads inputs of size {} and states {needed:?}",
            recurrent.hidden.dims(),
            self.input_size
        );
        let fed_before = attentional.unwrap_or_else(|| Tensor::zeros(needed, &input.device()));
        let run = |fed, recurrent| {
            let input = Tensor::cat(vec![input, fed], 2);
            self.layer.forward(input, running, Some(recurrent), schedule)
        };
        let (hidden, context, weights, recurrent) = match self.feeding {
            Feeding::Attentional => {
                let (hidden, recurrent) = run(fed_before.clone().unsqueeze_dim(1), recurrent);
                let (context, weights) = self.attention.forward(hidden.clone(), memory);
                (hidden, context, weights, recurrent)
            }
            Feeding::Context => {
                let (context, weights) = self.attention.forward(recurrent.hidden.clone().unsqueeze_dim(1), memory);
                let (hidden, recurrent) = run(context.clone(), recurrent);
                (hidden, context, weights, recurrent)
            }
        };
        let output = self.projection.forward_steps(Tensor::cat(vec![context, hidden], 2)).tanh();
        let ended = running.and_then(|running| padding::beyond(running, 1, &output.device())); // [batch_size, 1]
        let fed = || {
            let output = output.clone().squeeze_dim(1);
            match ended.clone() {
                Some(ended) => output.mask_where(ended.expand(needed), fed_before),
                None => output,
            }
        };
        let attentional = (self.feeding == Feeding::Attentional).then(fed);
        let [output, weights] = [output, weights].map(|steps| padding::zero_beyond(steps, ended.as_ref()));
        (output, weights, AttentionDecoderState { recurrent, attentional })
    }
}

/// The steps of a sequence, one or more, each `[batch_size, 1, input_size]`: halved again and again, because the gradient of
/// a slice is as large as what it was cut from.
fn steps(input: Tensor<3>) -> Vec<Tensor<3>> {
    let [_, seq_len, _] = input.dims();
    if seq_len == 1 {
        return vec![input];
    }
    let middle = seq_len / 2;
    let (first, second) = (input.clone().narrow(1, 0, middle), input.narrow(1, middle, seq_len - middle));
    let mut all = steps(first);
    all.extend(steps(second));
    all
}
