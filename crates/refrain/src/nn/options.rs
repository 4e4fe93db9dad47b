//! What a recurrent layer does beyond its equations.

use std::sync::Arc;

use refrain_kernels::{Cell, DropoutKey, Engine, Memory, events};

use super::DropoutSchedule;
use super::dropout::check_share;
use super::fused::{DropMask, StepMasks, ZoneoutMask};

/// What a recurrent layer does beyond its equations: regularisation, in training by masks that a [`DropoutSchedule`] draws, and how
/// much memory training takes. Everything is off by default.
///
/// | option | in training | otherwise | paper |
/// |---|---|---|---|
/// | `input_dropout` | units of the input are dropped, the same at every step | – | Gal and Ghahramani 2016 |
/// | `hidden_dropout` | so are those of the hidden state that the recurrent products read | – | Gal and Ghahramani 2016 |
/// | `recurrent_dropout` | units of the candidate are dropped, others at every step: nothing is forgotten by it | – | Semeniuta et al. 2016 |
/// | `zoneout_hidden`, `zoneout_cell` | units of the state keep what they had | the mean of both | Krueger et al. 2017 |
/// | `weight_drop` | recurrent weights are dropped, the same ones at every step | – | Merity et al. 2018 |
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RecurrentOptions {
    /// Variational dropout of the input, in `[0, 1)`.
    pub input_dropout: f64,
    /// Variational dropout of the hidden state, in `[0, 1)`.
    pub hidden_dropout: f64,
    /// Recurrent dropout without memory loss, in `[0, 1)`; the simple recurrence has no candidate to drop.
    pub recurrent_dropout: f64,
    /// Zoneout of the hidden state, in `[0, 1)`.
    pub zoneout_hidden: f64,
    /// Zoneout of the cell state, in `[0, 1)`; only an LSTM has one.
    pub zoneout_cell: f64,
    /// `DropConnect` of the recurrent weights, in `[0, 1)`.
    pub weight_drop: f64,
    /// How much of the forward pass is kept for the way back.
    pub memory: Memory,
}

/// Places of masks inside a layer, counted from the layer's first.
const INPUT_SITE: u8 = 0;
const WEIGHT_SITE: u8 = 1;
const HIDDEN_SITE: u8 = 2;
const CANDIDATE_SITE: u8 = 3;
const ZONEOUT_HIDDEN_SITE: u8 = 4;
const ZONEOUT_CELL_SITE: u8 = 5;

impl RecurrentOptions {
    /// Places of masks that a layer takes.
    pub(crate) const SITES: usize = 6;

    /// The options themselves, if a cell can have them.
    ///
    /// # Panics
    /// If a share is not in `[0, 1)`, or the cell has nothing that it could be a share of.
    pub(super) fn checked(self, cell: Cell) -> Self {
        for (name, share) in [
            ("input_dropout", self.input_dropout),
            ("hidden_dropout", self.hidden_dropout),
            ("recurrent_dropout", self.recurrent_dropout),
            ("zoneout_hidden", self.zoneout_hidden),
            ("zoneout_cell", self.zoneout_cell),
            ("weight_drop", self.weight_drop),
        ] {
            check_share(name, share);
        }
        let has = [cell.has_candidate(), cell.has_cell_state()];
        assert!(
            self.recurrent_dropout == 0.0 || has[0],
            "recurrent_dropout is {} but {cell:?} has no candidate to drop",
            self.recurrent_dropout
        );
        let of_products = [("hidden_dropout", self.hidden_dropout), ("weight_drop", self.weight_drop)];
        for (name, share) in of_products.into_iter().filter(|_| cell.num_recurrent_gates() == 0) {
            assert!(share == 0.0, "{name} is {share} but {cell:?} has no recurrent products");
        }
        assert!(
            self.zoneout_cell == 0.0 || has[1],
            "zoneout_cell is {} but {cell:?} has no cell state",
            self.zoneout_cell
        );
        self
    }

    /// The probability and key of the input's mask.
    pub(super) fn input_mask(self, schedule: Option<DropoutSchedule>) -> Option<(DropoutKey, f32)> {
        drawn(self.input_dropout, schedule, INPUT_SITE)
    }

    /// The probability and key of the weights' mask.
    pub(super) fn weight_mask(self, schedule: Option<DropoutSchedule>) -> Option<(DropoutKey, f32)> {
        drawn(self.weight_drop, schedule, WEIGHT_SITE)
    }

    /// The masks of a pass over `[batch_size, seq_len]` steps of some hidden units and a hidden state of some size.
    pub(super) fn step_masks(
        self,
        schedule: Option<DropoutSchedule>,
        [batch_size, seq_len]: [usize; 2],
        [hidden_size, state_size]: [usize; 2],
    ) -> StepMasks {
        let draw = |(key, probability), [rows, size]: [usize; 2]| -> Arc<[u32]> {
            events(&Engine::current(), key, probability, rows, size).into()
        };
        let dropped = |drawn: Option<(DropoutKey, f32)>, shape| {
            drawn.map(|(key, probability)| DropMask {
                events: draw((key, probability), shape),
                scale: 1.0 / (1.0 - probability),
            })
        };
        let steps = seq_len * batch_size;
        let zoneout = |share: f64, site, size| match (schedule, drawn_by_step(share, schedule, site)) {
            (_, Some(key)) => Some(ZoneoutMask::Sampled(draw(key, [steps, size]))),
            (None, None) if share > 0.0 => Some(ZoneoutMask::Expected(share as f32)),
            _ => None,
        };
        StepMasks {
            candidate_dropout: dropped(
                drawn_by_step(self.recurrent_dropout, schedule, CANDIDATE_SITE),
                [steps, hidden_size],
            ),
            hidden_dropout: dropped(drawn(self.hidden_dropout, schedule, HIDDEN_SITE), [batch_size, state_size]),
            zoneout_hidden: zoneout(self.zoneout_hidden, ZONEOUT_HIDDEN_SITE, state_size),
            zoneout_cell: zoneout(self.zoneout_cell, ZONEOUT_CELL_SITE, hidden_size),
        }
    }

    /// Whether a step outside training is the plain one.
    pub(super) fn steps_plainly(self) -> bool {
        self.zoneout_hidden == 0.0 && self.zoneout_cell == 0.0
    }
}

/// What draws a mask that is the same at every step.
fn drawn(probability: f64, schedule: Option<DropoutSchedule>, site: u8) -> Option<(DropoutKey, f32)> {
    let schedule = schedule.filter(|_| probability > 0.0)?;
    Some((schedule.key(site), probability as f32))
}

/// What draws a mask of its own for each step.
fn drawn_by_step(probability: f64, schedule: Option<DropoutSchedule>, site: u8) -> Option<(DropoutKey, f32)> {
    let schedule = schedule.filter(|_| probability > 0.0)?;
    Some((schedule.step_key(site), probability as f32))
}
