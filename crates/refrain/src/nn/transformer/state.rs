//! What a causal transformer remembers: the keys and values of all steps so far.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};

/// Of one block: each `[batch_size, num_heads, past_len, head_size]`, the keys turned.
#[derive(Clone, Debug)]
pub(super) struct KeyValues {
    pub(super) keys: Tensor<4>,
    pub(super) values: Tensor<4>,
}

impl KeyValues {
    /// Of no steps, for sequences and heads of these sizes.
    pub(super) fn none([batch_size, num_heads, head_size]: [usize; 3], device: &Device) -> Self {
        let none = || Tensor::zeros([batch_size, num_heads, 0, head_size], device);
        Self { keys: none(), values: none() }
    }

    /// These with new ones after them.
    pub(super) fn and(self, keys: Tensor<4>, values: Tensor<4>) -> Self {
        let [_, _, past_len, _] = self.keys.dims();
        if past_len == 0 {
            return Self { keys, values };
        }
        Self { keys: Tensor::cat(vec![self.keys, keys], 2), values: Tensor::cat(vec![self.values, values], 2) }
    }
}

/// What a causal [`Transformer`](super::Transformer) remembers between calls: `2 * hidden_size` numbers a block and step.
///
/// Sequences may have come in chunks of different lengths; each goes on from its own last step.
#[derive(Clone, Debug)]
pub struct TransformerState {
    /// From the lowest up; none before the first step.
    layers: Vec<KeyValues>,
    /// Steps of each sequence, padding not counted.
    lengths: Vec<usize>,
    /// Which steps of each sequence were padding, in the order they came.
    padding: Vec<Vec<bool>>,
}

impl TransformerState {
    /// Before the first step.
    pub(super) fn start(batch_size: usize) -> Self {
        Self { layers: Vec::new(), lengths: vec![0; batch_size], padding: vec![Vec::new(); batch_size] }
    }

    /// How many steps each sequence has had.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The same numbers as constants: no gradient flows into the steps before them.
    #[must_use]
    pub fn detach(mut self) -> Self {
        for layer in &mut self.layers {
            layer.keys = layer.keys.clone().detach();
            layer.values = layer.values.clone().detach();
        }
        self
    }

    pub(super) fn batch_size(&self) -> usize {
        self.lengths.len()
    }

    /// Blocks that it is of; none before the first step.
    pub(super) fn depth(&self) -> usize {
        self.layers.len()
    }

    pub(super) fn take_layers(&mut self) -> Vec<KeyValues> {
        std::mem::take(&mut self.layers)
    }

    pub(super) fn push_layer(&mut self, layer: KeyValues) {
        self.layers.push(layer);
    }

    /// Where the next `seq_len` steps stand: a row a sequence, or one row if that is all the same.
    pub(super) fn positions(&self, seq_len: usize) -> Vec<Vec<usize>> {
        let all_stand_together = self.lengths.iter().all(|&past| past == self.lengths[0]);
        let rows = if all_stand_together { 1 } else { self.lengths.len() };
        self.lengths[..rows].iter().map(|&past| (past..past + seq_len).collect()).collect()
    }

    /// The padding among past steps and `seq_len` new ones: `[batch_size, past_len + seq_len]`; `None` if there is none.
    /// Padding among the new ones needs no mask: it stands behind the steps that count, which look back alone.
    pub(super) fn hidden(&self, seq_len: usize) -> Option<Arc<[bool]>> {
        self.padding.iter().flatten().any(|&padding| padding).then(|| {
            let rows =
                self.padding.iter().flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(false, seq_len)));
            rows.collect()
        })
    }

    /// After `seq_len` steps of which each sequence had its length.
    pub(super) fn advance(&mut self, lengths: &[usize], seq_len: usize) {
        for ((total, padding), &length) in self.lengths.iter_mut().zip(&mut self.padding).zip(lengths) {
            *total += length;
            padding.extend((0..seq_len).map(|step| step >= length));
        }
    }
}
