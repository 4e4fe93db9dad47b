//! What a layer may do beyond its plain equations, and how a tile reads it.

use std::ops::Range;

use super::SequenceShape;
use super::batch::Batch;
use super::lanes::{Block, MAX_BLOCK};
use super::plan::Plan;
use crate::dropout::Product;
use crate::engine::Engine;

/// Events in bits, one for each unit: rows of `hidden_size` bits in whole words, the first unit in the lowest bit.
/// [`events`](crate::events) draws them.
pub type Events<'a> = &'a [u32];

/// Dropout by events: where one happened the factor is 0, elsewhere `scale`.
#[derive(Clone, Copy, Debug)]
pub struct Dropped<'a> {
    /// What is dropped.
    pub events: Events<'a>,
    /// What is left is multiplied with this, `1 / (1 - probability)`.
    pub scale: f32,
}

/// Zoneout (Krueger et al. 2017): units that keep what they had before the step.
#[derive(Clone, Copy, Debug)]
pub enum Zoneout<'a> {
    /// In training: which units do, by step in the order of work, `[seq_len, batch_size]` rows of [`Events`].
    Sampled(Events<'a>),
    /// Outside training: all units keep this part of it.
    Expected(f32),
}

/// What a layer does beyond its plain equations. Without any the plain steps run; with one, steps that know them all.
///
/// With `m` the factors of `candidate_dropout`, `q` those of `hidden_dropout` and `d` what zones out, a step of an LSTM is
///
/// ```text
/// i = σ(W_i x + U_i (q ∘ h) + b_i + p_i ∘ c)      c' = f ∘ c + i ∘ m ∘ g      h' = o ∘ tanh(c')
/// f = σ(W_f x + U_f (q ∘ h) + b_f + p_f ∘ c)
/// o = σ(W_o x + U_o (q ∘ h) + b_o + p_o ∘ c')
/// c(t) = d_c ∘ c + (1 - d_c) ∘ c'                 h(t) = d_h ∘ h + (1 - d_h) ∘ h'
/// ```
///
/// A GRU takes `m ∘ n` for its candidate. The simple recurrence has none, and only an LSTM has peepholes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SequenceOptions<'a> {
    /// Recurrent dropout without memory loss (Semeniuta et al. 2016), by step in the order of work:
    /// `[seq_len, batch_size]` rows.
    pub candidate_dropout: Option<Dropped<'a>>,
    /// Variational dropout of what the recurrent products read (Gal and Ghahramani 2016), the same at every step:
    /// `[batch_size]` rows.
    pub hidden_dropout: Option<Dropped<'a>>,
    /// Of the hidden state.
    pub zoneout_hidden: Option<Zoneout<'a>>,
    /// Of the cell state.
    pub zoneout_cell: Option<Zoneout<'a>>,
    /// `p_i`, `p_f` and `p_o`, `[3 * hidden_size]` (Gers and Schmidhuber 2000); `p_i` is nobody's where the gates are coupled.
    pub peepholes: Option<&'a [f32]>,
}

impl SequenceOptions<'_> {
    /// Words of a row of [`Events`].
    pub fn event_words(hidden_size: usize) -> usize {
        hidden_size.div_ceil(u32::BITS as usize)
    }

    /// Whether there is any.
    pub(super) fn any(&self) -> bool {
        self.change_steps() || self.hidden_dropout.is_some()
    }

    /// Whether a step's own equations are others than the plain ones.
    pub(super) fn change_steps(&self) -> bool {
        let Self { candidate_dropout, zoneout_hidden, zoneout_cell, peepholes, hidden_dropout: _ } = self;
        candidate_dropout.is_some() || zoneout_hidden.is_some() || zoneout_cell.is_some() || peepholes.is_some()
    }

    pub(super) fn check(&self, shape: SequenceShape, state_size: usize) {
        let SequenceShape { cell, batch_size, seq_len, hidden_size, .. } = shape;
        let [words, state_words] = [hidden_size, state_size].map(Self::event_words);
        let sampled = |zoneout: Option<Zoneout<'_>>| match zoneout {
            Some(Zoneout::Sampled(events)) => Some(events.len()),
            _ => None,
        };
        for (name, len, steps, words) in [
            ("candidate_dropout", self.candidate_dropout.map(|dropped| dropped.events.len()), seq_len, words),
            ("hidden_dropout", self.hidden_dropout.map(|dropped| dropped.events.len()), 1, state_words),
            ("zoneout_hidden", sampled(self.zoneout_hidden), seq_len, state_words),
            ("zoneout_cell", sampled(self.zoneout_cell), seq_len, words),
        ] {
            if let Some(len) = len {
                shape.check(name, len, &[steps, batch_size, words]);
            }
        }
        assert!(self.zoneout_cell.is_none() || cell.has_cell_state(), "{cell:?} has no cell state to zone out");
        assert!(self.candidate_dropout.is_none() || cell.has_candidate(), "{cell:?} has no candidate to drop");
        if let Some(peepholes) = self.peepholes {
            assert!(cell.has_cell_state(), "{cell:?} has no cell state for peepholes");
            shape.check("peepholes", peepholes.len(), &[3, hidden_size]);
        }
    }

    /// What the recurrent products read a unit of a sequence's hidden state with.
    pub(super) fn recall(&self, row: usize, unit: usize, hidden_size: usize) -> f32 {
        self.hidden_dropout.map_or(1.0, |Dropped { events, scale }| {
            factor(events[row * Self::event_words(hidden_size) + unit / 32] >> (unit % 32), 0.0, scale)
        })
    }

    /// What the recurrent products read hidden states with, `[batch_size, hidden_size]`; `None` where that is as they are.
    pub(super) fn recall_factors(&self, [batch_size, hidden_size]: [usize; 2]) -> Option<Vec<f32>> {
        self.hidden_dropout?;
        let factors =
            (0..batch_size).flat_map(|row| (0..hidden_size).map(move |unit| self.recall(row, unit, hidden_size)));
        Some(factors.collect())
    }

    /// A state `[batch_size, hidden_size]` as the recurrent products read it; `None` where that is as it is.
    pub(super) fn recalled(&self, engine: &Engine, shape: [usize; 2], hidden: &[f32]) -> Option<Vec<f32>> {
        let factors = self.recall_factors(shape)?;
        let mut recalled = vec![0.0; hidden.len()];
        engine.kernel(Product { factors: &factors, input: hidden, output: &mut recalled });
        Some(recalled)
    }
}

impl SequenceOptions<'_> {
    /// What the recurrent products read a sequence's hidden state with.
    pub(super) fn recall_row(&self, row: usize, size: usize, to: &mut [f32]) {
        match self.hidden_dropout {
            Some(dropped) => dropped.factors(size, row, 0..size, to),
            None => to.fill(1.0),
        }
    }
}

impl Dropped<'_> {
    /// The factors of some units of a row of so many.
    #[inline(always)]
    pub(super) fn factors(&self, size: usize, row: usize, units: Range<usize>, to: &mut [f32]) {
        expand(self.events, size, row, units, [0.0, self.scale], to);
    }
}

impl Zoneout<'_> {
    /// The parts that some units of a row of so many keep.
    #[inline(always)]
    pub(super) fn parts(&self, size: usize, row: usize, units: Range<usize>, to: &mut [f32]) {
        match *self {
            Self::Sampled(events) => expand(events, size, row, units, [1.0, 0.0], to),
            Self::Expected(part) => to[..units.len()].fill(part),
        }
    }
}

/// The numbers for the events of some units of a row of so many.
#[inline(always)]
fn expand(events: Events, size: usize, row: usize, units: Range<usize>, [set, clear]: [f32; 2], to: &mut [f32]) {
    let row = &events[row * SequenceOptions::event_words(size)..];
    for (to, unit) in to.iter_mut().zip(units) {
        *to = factor(row[unit / 32] >> (unit % 32), set, clear);
    }
}

/// The number for a bit, the lowest one.
#[inline(always)]
fn factor(bit: u32, set: f32, clear: f32) -> f32 {
    if bit & 1 == 1 { set } else { clear }
}

/// What the options are for the units of a tile at a step: one float for every unit and row, as all blocks.
pub(super) struct Extras {
    /// What the candidate is multiplied with.
    pub(super) candidate: Block,
    /// The part of the old states that stays.
    pub(super) keep_hidden: Block,
    pub(super) keep_state: Block,
    /// What the recurrent products read is multiplied with this.
    pub(super) recall: Block,
    /// The hidden state before the step.
    pub(super) hidden_before: Block,
    pub(super) peepholes: [Block; 3],
    /// Backward: the gradient of the hidden state after the step, then of that before, where it was kept.
    pub(super) carry: Block,
    /// Backward: the gradients of the peepholes, added up.
    pub(super) peephole_sums: [Block; 3],
}

/// The tile and step whose options are wanted.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    pub(super) plan: &'a Plan,
    pub(super) batch: &'a Batch,
    pub(super) first_place: usize,
    pub(super) rows: usize,
    /// The first unit of the block.
    pub(super) first_unit: usize,
    pub(super) step: usize,
}

impl Extras {
    /// Those that change nothing.
    pub(super) fn new() -> Box<Self> {
        let (zeros, ones) = ([0.0; MAX_BLOCK], [1.0; MAX_BLOCK]);
        Box::new(Self {
            candidate: ones,
            keep_hidden: zeros,
            keep_state: zeros,
            recall: ones,
            hidden_before: zeros,
            peepholes: [zeros; 3],
            carry: zeros,
            peephole_sums: [zeros; 3],
        })
    }

    /// Reads the options of `U` units of a step.
    #[inline(always)]
    pub(super) fn read<const U: usize>(&mut self, options: &SequenceOptions, spot: Spot) {
        let by_step = |place: usize| spot.batch.mask_row(place, spot.step);
        if let Some(Dropped { events, scale }) = options.candidate_dropout {
            spot.expand::<U>(events, by_step, [0.0, scale], &mut self.candidate);
        }
        for (zoneout, keep) in
            [(options.zoneout_hidden, &mut self.keep_hidden), (options.zoneout_cell, &mut self.keep_state)]
        {
            match zoneout {
                Some(Zoneout::Sampled(events)) => spot.expand::<U>(events, by_step, [1.0, 0.0], keep),
                Some(Zoneout::Expected(part)) => keep[..spot.rows * U].fill(part),
                None => {}
            }
        }
        if let Some(Dropped { events, scale }) = options.hidden_dropout {
            spot.expand::<U>(events, |place| spot.batch.row(place), [0.0, scale], &mut self.recall);
        }
        if let Some(peepholes) = options.peepholes {
            let hidden_size = spot.plan.shape.hidden_size;
            let units = spot.first_unit.min(hidden_size)..(spot.first_unit + U).min(hidden_size);
            for (gate, block) in self.peepholes.iter_mut().enumerate() {
                let mut values = [0.0; U];
                values[..units.len()].copy_from_slice(&peepholes[gate * hidden_size..][units.clone()]);
                block.as_chunks_mut::<U>().0[..spot.rows].fill(values);
            }
        }
    }
}

impl Extras {
    /// Reads what changes a step's own equations for some units of one sequence; what zones out is not among it.
    #[inline(always)]
    pub(super) fn read_row(
        &mut self,
        options: &SequenceOptions,
        (shape, step, row): (SequenceShape, usize, usize),
        units: Range<usize>,
    ) {
        let size = shape.hidden_size;
        if let Some(dropped) = options.candidate_dropout {
            dropped.factors(size, step * shape.batch_size + row, units.clone(), &mut self.candidate);
        }
        if let Some(peepholes) = options.peepholes {
            for (gate, block) in self.peepholes.iter_mut().enumerate() {
                block[..units.len()].copy_from_slice(&peepholes[gate * size..][units.clone()]);
            }
        }
    }

    /// Reads the peepholes' gradients so far, those of a block from `start` of each of three parts of `len` floats.
    #[inline(always)]
    pub(super) fn load_peepholes(&mut self, from: &[f32], (start, len): (usize, usize), count: usize) {
        for (block, from) in self.peephole_sums.iter_mut().zip(from.chunks_exact(len)) {
            block[..count].copy_from_slice(&from[start..start + count]);
        }
    }

    /// Writes them back: those of rows that run, of `count` floats.
    #[inline(always)]
    pub(super) fn store_peepholes(&self, to: &mut [f32], (start, len): (usize, usize), count: usize) {
        for (block, to) in self.peephole_sums.iter().zip(to.chunks_exact_mut(len)) {
            to[start..start + count].copy_from_slice(&block[..count]);
        }
    }
}

impl Spot<'_> {
    #[inline(always)]
    fn expand<const U: usize>(
        self,
        events: Events,
        row_of: impl Fn(usize) -> usize,
        [set, clear]: [f32; 2],
        to: &mut Block,
    ) {
        let words = SequenceOptions::event_words(self.plan.shape.hidden_size);
        let (word, shift) = (self.first_unit / 32, self.first_unit % 32);
        for (r, to) in to.as_chunks_mut::<U>().0.iter_mut().enumerate().take(self.rows) {
            let row = row_of(self.first_place + r);
            // Units of padding lie beyond the last word.
            let bits = if word < words { events[row * words + word] >> shift } else { 0 };
            for (u, to) in to.iter_mut().enumerate() {
                *to = factor(bits >> u, set, clear);
            }
        }
    }
}
