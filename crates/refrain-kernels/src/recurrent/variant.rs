//! What a layer's products may be beyond the plain ones.

use super::{Cell, SequenceShape};

/// What changes a layer's products, so that a step has several phases, between which the team meets.
///
/// With `LN` a row less its mean and over its deviation, the variance `+ 1e-5`:
///
/// ```text
/// norms        sums = gain_ih ∘ LN(W x) + gain_hh ∘ LN(U h) + b      h' = o ∘ tanh(gain_c ∘ LN(c') + bias_c)
/// projection   h' = P (o ∘ tanh(c'))
/// reset        n = tanh(W_n x + b_n + U_n (r ∘ h) + b_m)
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SequenceVariant<'a> {
    /// Layer normalisation of a step's sums, all gates' together, and of the cell state on its way out (Ba et al. 2016).
    pub norms: Option<NormGains<'a>>,
    /// From the hidden units of an LSTM to its hidden state, `[projection_size, hidden_size]` (Sak et al. 2014). `weight_hh`, the
    /// hidden state and the output are then of `projection_size` columns.
    pub projection: Option<&'a [f32]>,
    /// Where the reset gate of a GRU comes.
    pub reset: ResetGate,
}

/// The gains of normalised sums.
#[derive(Clone, Copy, Debug)]
pub struct NormGains<'a> {
    /// `[num_gates * hidden_size]`
    pub input: &'a [f32],
    /// `[num_recurrent_gates * hidden_size]`
    pub hidden: &'a [f32],
    /// The gain of the cell state, then its bias: `[2 * hidden_size]`; of a cell that has one.
    pub cell_state: Option<&'a [f32]>,
}

/// Where the reset gate of a GRU comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResetGate {
    /// After the recurrent product, `r ∘ (U h + b_m)`, as in cuDNN and PyTorch: one product a step.
    #[default]
    AfterProduct,
    /// Before it, `U (r ∘ h) + b_m`, as in Cho et al. 2014.
    BeforeProduct,
}

impl SequenceVariant<'_> {
    /// Whether a step is one product and its gates.
    pub(super) fn is_plain(&self) -> bool {
        self.norms.is_none() && self.projection.is_none() && self.reset == ResetGate::AfterProduct
    }

    /// Units of the hidden state.
    pub(super) fn state_size(&self, hidden_size: usize) -> usize {
        self.projection.map_or(hidden_size, |projection| projection.len() / hidden_size.max(1))
    }

    pub(super) fn check(&self, shape: SequenceShape) {
        let SequenceShape { cell, hidden_size, .. } = shape;
        if let Some(projection) = self.projection {
            assert!(cell.has_cell_state(), "{cell:?} has no cell state beside a projected hidden state");
            shape.check("projection", projection.len(), &[self.state_size(hidden_size), hidden_size]);
        }
        if self.reset == ResetGate::BeforeProduct {
            assert!(cell == Cell::Gru, "{cell:?} has no reset gate to come before the product");
            assert!(
                self.norms.is_none(),
                "with the reset gate before the product there is no one product to normalise"
            );
        }
        if let Some(norms) = self.norms {
            assert!(cell.num_recurrent_gates() > 0, "{cell:?} has no recurrent products to normalise");
            shape.check("the gains of the input", norms.input.len(), &[cell.num_gates(), hidden_size]);
            shape.check("the gains of the state", norms.hidden.len(), &[cell.num_recurrent_gates(), hidden_size]);
            if let Some(gains) = norms.cell_state {
                assert!(cell.has_cell_state(), "{cell:?} has no cell state to normalise");
                shape.check("the gains of the cell state", gains.len(), &[2, hidden_size]);
            }
        }
    }
}
