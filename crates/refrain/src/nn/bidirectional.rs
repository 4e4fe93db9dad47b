//! Layers that read sequences from both ends.

use burn::backend::Dispatch;
use burn::module::Module;
use burn::tensor::Tensor;
use refrain_kernels::Direction;

use super::dropout::check_share;
use super::fused::FusedOps;
use super::{
    Connection, Dropout, DropoutSchedule, Initializer, Layer, LayerConfig, RecurrentOptions, RecurrentState, Stack,
    StackConfig,
};

/// What becomes of the outputs of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Merge {
    /// They lie side by side, the forward one first: twice the hidden units.
    #[default]
    Concat,
    /// Their sum.
    Sum,
    /// Half their sum.
    Mean,
}

/// Which layers read both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wiring {
    /// Each: a layer reads the merged outputs of both directions of the one below, as in PyTorch.
    #[default]
    Interleaved,
    /// None but the reader: two stacks that know nothing of each other, merged at the top (Graves et al. 2013 call each layer's
    /// exchange deep bidirectional; this is the simpler one).
    Independent,
}

/// Configuration of a [`Bidirectional`].
#[derive(Clone, Debug)]
pub struct BidirectionalConfig {
    /// The layers of one direction; the other has the same.
    pub stack: StackConfig,
    /// What becomes of their outputs.
    pub merge: Merge,
    /// Which layers read both.
    pub wiring: Wiring,
}

impl BidirectionalConfig {
    /// Interleaved layers, concatenated: as in PyTorch.
    pub fn new(stack: StackConfig) -> Self {
        Self { stack, merge: Merge::default(), wiring: Wiring::default() }
    }

    /// Initial layers, from the lowest up, forward before backward.
    ///
    /// # Panics
    /// As [`StackConfig::init`]; and with interleaved layers if the stack has connections: they would go around a merge.
    pub fn init(&self, init: &mut Initializer<'_>) -> Bidirectional {
        let Self { stack, merge, wiring } = self;
        let mut directions = |stack: &StackConfig| Directions { forward: stack.init(init), backward: stack.init(init) };
        let blocks = match wiring {
            Wiring::Independent => vec![directions(stack)],
            Wiring::Interleaved => {
                let StackConfig { layers, connection, .. } = stack;
                assert!(*connection == Connection::Plain, "interleaved layers cannot have {connection:?} connections");
                let mut below = layers.first().expect("a stack has at least one layer").input_size();
                let block = |layer: &LayerConfig| {
                    let layers = vec![layer.with_input_size(below)];
                    below = merge.size(layer.hidden_size());
                    directions(&StackConfig { layers, ..stack.clone() })
                };
                layers.iter().map(block).collect()
            }
        };
        Bidirectional { blocks, dropout: stack.dropout, merge: *merge }
    }
}

impl Merge {
    /// Features of the merged output of layers of some hidden units.
    pub fn size(self, hidden_size: usize) -> usize {
        match self {
            Self::Concat => 2 * hidden_size,
            Self::Sum | Self::Mean => hidden_size,
        }
    }

    fn merge(self, [forward, backward]: [Tensor<3>; 2]) -> Tensor<3> {
        match self {
            Self::Concat => {
                let [forward, backward] = [forward, backward].map(Tensor::into_dispatch);
                Tensor::from_dispatch(<Dispatch as FusedOps>::concat_features(forward, backward))
            }
            Self::Sum => forward + backward,
            Self::Mean => (forward + backward) / 2.0,
        }
    }
}

/// One stack for each direction.
#[derive(Module, Debug)]
pub struct Directions {
    /// From the first step on.
    pub forward: Stack,
    /// From each sequence's last step back.
    pub backward: Stack,
}

/// Recurrent layers in both directions (Schuster and Paliwal 1997). The backward one begins at each sequence's last valid step.
#[derive(Module, Debug)]
pub struct Bidirectional {
    /// From the lowest up; a single one where the directions are independent.
    pub blocks: Vec<Directions>,
    dropout: f64,
    #[module(skip)]
    merge: Merge,
}

/// The states of a [`Bidirectional`]: by block and direction, forward first, one a layer. [`Detach`](super::Detach) makes them
/// constants.
pub type BidirectionalState = Vec<[Vec<RecurrentState>; 2]>;

/// The place of the backward direction's first mask.
const BACKWARD_SITE: usize = 128;

impl Bidirectional {
    /// [Interleaved](Wiring::Interleaved) layers that are there already, from the lowest up, each forward before backward, with
    /// dropout between them.
    ///
    /// # Panics
    /// If dropout is not in `[0, 1)`.
    pub fn from_layers(layers: Vec<[Layer; 2]>, merge: Merge, dropout: f64) -> Self {
        check_share("dropout", dropout);
        let stack = |layer: Layer| Stack::from_layers(vec![layer], dropout);
        let block = |[forward, backward]: [Layer; 2]| Directions { forward: stack(forward), backward: stack(backward) };
        Self { blocks: layers.into_iter().map(block).collect(), dropout, merge }
    }

    /// What becomes of the outputs of both directions.
    pub fn merge(&self) -> Merge {
        self.merge
    }

    /// Runs over whole sequences; without a state, from zeros. Arguments as [`Lstm::forward`](super::Lstm::forward).
    ///
    /// # Shapes
    /// - `input`: `[batch_size, seq_len, input_size]`
    /// - output: `[batch_size, seq_len, hidden_size]`, or twice as wide where it is [concatenated](Merge::Concat)
    ///
    /// # Panics
    /// If the state is not of as many blocks and layers, or a shape does not fit.
    pub fn forward(
        &self,
        input: Tensor<3>,
        lengths: Option<&[usize]>,
        state: Option<BidirectionalState>,
        schedule: Option<DropoutSchedule>,
    ) -> (Tensor<3>, BidirectionalState) {
        let states: Vec<[Option<Vec<RecurrentState>>; 2]> = match state {
            Some(state) => state.into_iter().map(|both| both.map(Some)).collect(),
            None => vec![[None, None]; self.blocks.len()],
        };
        assert!(
            states.len() == self.blocks.len(),
            "the state is of {} blocks but there are {}",
            states.len(),
            self.blocks.len()
        );
        let dropout = Dropout { probability: self.dropout };
        let mut output = input;
        let mut next = Vec::with_capacity(self.blocks.len());
        for (index, (block, [forward, backward])) in self.blocks.iter().zip(states).enumerate() {
            if index > 0 {
                output = dropout.forward(output, schedule, (index - 1) as u8);
            }
            let inner = |site: usize| schedule.map(|schedule| schedule.at(site + index * RecurrentOptions::SITES));
            let (ahead, forward) = block.forward.forward(output.clone(), lengths, forward, inner(0));
            let (back, backward) =
                block.backward.forward_in(Direction::Backward, output, lengths, backward, inner(BACKWARD_SITE));
            output = self.merge.merge([ahead, back]);
            next.push([forward, backward]);
        }
        (output, next)
    }
}
