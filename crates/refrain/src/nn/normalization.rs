//! Layer normalisation inside a cell.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use refrain_kernels::Cell;

use super::Initializer;

/// Whether the sums of a cell are normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Normalization {
    /// They are not.
    #[default]
    None,
    /// Each step's contribution of the input, that of the state, and the cell state on its way out, over all units (Ba et al. 2016).
    Layer,
}

/// The gains of [`Normalization::Layer`] (Ba et al. 2016, equations 20 to 22; `LN` of all gates' sums together, with variance
/// `+ 1e-5`).
///
/// ```text
/// sums = gain_ih ∘ LN(W x) + gain_hh ∘ LN(U h) + b         h' = o ∘ tanh(gain_c ∘ LN(c') + bias_c)
/// ```
#[derive(Module, Debug)]
pub struct LayerNorms {
    /// `[num_gates * hidden_size]`.
    pub gain_ih: Param<Tensor<1>>,
    /// `[num_gates * hidden_size]`.
    pub gain_hh: Param<Tensor<1>>,
    /// The gain of the cell state, then its bias: `[2 * hidden_size]`; of an LSTM.
    pub cell_state: Option<Param<Tensor<1>>>,
}

impl Normalization {
    /// Gains of one, and no bias.
    pub(super) fn init(self, cell: Cell, hidden_size: usize, init: &Initializer<'_>) -> Option<LayerNorms> {
        let ones = |count: usize| vec![1.0; count * hidden_size];
        (self == Self::Layer).then(|| LayerNorms {
            gain_ih: init.constant(ones(cell.num_gates())),
            gain_hh: init.constant(ones(cell.num_recurrent_gates())),
            cell_state: cell
                .has_cell_state()
                .then(|| init.constant([vec![1.0; hidden_size], vec![0.0; hidden_size]].concat())),
        })
    }
}
