//! The long short-term memory, with a gate for what enters or with the rest of what is forgotten.

use super::cell::{Backward, Extra, Forward, Gradients, Kept, Step};
use crate::activation::{sigmoid_lane, sigmoid_pair, tanh_lane, tanh_sigmoid};
use crate::arch::MulAdd;

/// Keeps the gates i, f, g, o; its state is the cell state.
pub(super) struct Lstm;

/// Keeps the gates f, g, o; its input gate is `1 - f`, and its state the cell state.
pub(super) struct CoupledLstm;

impl Step for Lstm {
    const RECURRENT_SUMS: &'static [usize] = &[0, 1, 2, 3];
    const SUMS: usize = 4;
    const HAS_STATE: bool = true;
    const GRADIENTS: &'static [usize] = &[0, 1, 2, 3];
    const INPUT_GATES: &'static [usize] = &[0, 1, 2, 3];
    const RECURRENT_GATES: &'static [usize] = &[0, 1, 2, 3];

    #[inline(always)]
    fn forward<O: MulAdd>([i, f, g, o]: Kept, state: f32, extra: Option<Extra>) -> Forward {
        let Some(Extra { candidate, peepholes }) = extra else {
            let (i, f) = sigmoid_pair::<O>(i, f);
            let (g, o) = tanh_sigmoid::<O>(g, o);
            let c = O::mul_add(f, state, i * g);
            return Forward { kept: [i, f, g, o], state: c, hidden: o * tanh_lane::<O>(c) };
        };
        let (i, f) = sigmoid_pair::<O>(O::mul_add(peepholes[0], state, i), O::mul_add(peepholes[1], state, f));
        let g = tanh_lane::<O>(g);
        let c = cell_state::<O>([i, f, g], state, candidate);
        let o = sigmoid_lane::<O>(O::mul_add(peepholes[2], c, o));
        Forward { kept: [i, f, g, o], state: c, hidden: o * tanh_lane::<O>(c) }
    }

    /// ```text
    /// δc += δh ∘ o ∘ (1 - tanh²(c))      δi = δc ∘ g ∘ i ∘ (1 - i)      δg = δc ∘ i ∘ (1 - g²)
    /// δc(t-1) = δc ∘ f                   δf = δc ∘ c(t-1) ∘ f ∘ (1 - f) δo = δh ∘ tanh(c) ∘ o ∘ (1 - o)
    /// ```
    #[inline(always)]
    fn backward<O: MulAdd>(step: Backward) -> Gradients {
        let [i, f, g, o] = step.kept;
        let before = step.state_before;
        let Output { d, of_sum: output, candidate, peepholes, c } = Output::new::<O>(&step, [i, f, g, o]);
        let recalled = candidate.map_or(g, |candidate| candidate * g);
        let input = d * recalled * (i * (1.0 - i));
        let forget = d * before * (f * (1.0 - f));
        let slope = candidate.map_or(d * i, |candidate| d * i * candidate);
        let sums = [input, forget, slope * O::mul_add(-g, g, 1.0), output];
        match peepholes {
            None => Gradients::new(sums, d * f),
            Some(p) => Gradients {
                sums,
                state: O::mul_add(p[0], input, O::mul_add(p[1], forget, d * f)),
                peepholes: [input * before, forget * before, output * c],
            },
        }
    }
}

impl Step for CoupledLstm {
    const RECURRENT_SUMS: &'static [usize] = &[0, 1, 2];
    const SUMS: usize = 3;
    const HAS_STATE: bool = true;
    const GRADIENTS: &'static [usize] = &[0, 1, 2];
    const INPUT_GATES: &'static [usize] = &[0, 1, 2];
    const RECURRENT_GATES: &'static [usize] = &[0, 1, 2];

    #[inline(always)]
    fn forward<O: MulAdd>([f, g, o, _]: Kept, state: f32, extra: Option<Extra>) -> Forward {
        let Some(Extra { candidate, peepholes }) = extra else {
            let f = sigmoid_lane::<O>(f);
            let (g, o) = tanh_sigmoid::<O>(g, o);
            let c = O::mul_add(f, state, (1.0 - f) * g);
            return Forward { kept: [f, g, o, 0.0], state: c, hidden: o * tanh_lane::<O>(c) };
        };
        let f = sigmoid_lane::<O>(O::mul_add(peepholes[1], state, f));
        let g = tanh_lane::<O>(g);
        let c = cell_state::<O>([1.0 - f, f, g], state, candidate);
        let o = sigmoid_lane::<O>(O::mul_add(peepholes[2], c, o));
        Forward { kept: [f, g, o, 0.0], state: c, hidden: o * tanh_lane::<O>(c) }
    }

    /// As [`Lstm::backward`], but `δf = δc ∘ (c(t-1) - g) ∘ f ∘ (1 - f)`.
    #[inline(always)]
    fn backward<O: MulAdd>(step: Backward) -> Gradients {
        let [f, g, o, _] = step.kept;
        let i = 1.0 - f;
        let before = step.state_before;
        let Output { d, of_sum: output, candidate, peepholes, c } = Output::new::<O>(&step, [i, f, g, o]);
        let recalled = candidate.map_or(g, |candidate| candidate * g);
        let forget = d * (before - recalled) * (f * (1.0 - f));
        let slope = candidate.map_or(d * i, |candidate| d * i * candidate);
        let sums = [forget, slope * O::mul_add(-g, g, 1.0), output, 0.0];
        match peepholes {
            None => Gradients::new(sums, d * f),
            Some(p) => Gradients {
                sums,
                state: O::mul_add(p[1], forget, d * f),
                peepholes: [0.0, forget * before, output * c],
            },
        }
    }
}

/// `f ∘ c(t-1) + i ∘ g`, the candidate multiplied; the way back computes it again.
#[inline(always)]
fn cell_state<O: MulAdd>([i, f, g]: [f32; 3], before: f32, candidate: f32) -> f32 {
    O::mul_add(f, before, i * (candidate * g))
}

/// The way back through the output gate.
struct Output {
    /// δc.
    d: f32,
    /// The gradient of the output gate's sum.
    of_sum: f32,
    candidate: Option<f32>,
    peepholes: Option<[f32; 3]>,
    /// The cell state that the step came to.
    c: f32,
}

impl Output {
    #[inline(always)]
    fn new<O: MulAdd>(step: &Backward, [i, f, g, o]: Kept) -> Self {
        let c = match step.extra {
            // What followed the step may have changed its state.
            Some(Extra { candidate, .. }) => cell_state::<O>([i, f, g], step.state_before, candidate),
            None => step.state_after,
        };
        let tanh_c = tanh_lane::<O>(c);
        let through_output = step.hidden * o;
        let d = step.state + through_output * O::mul_add(-tanh_c, tanh_c, 1.0);
        let output = through_output * tanh_c * (1.0 - o);
        let peepholes = step.extra.map(|extra| extra.peepholes);
        let d = peepholes.map_or(d, |p| O::mul_add(p[2], output, d));
        Self { d, of_sum: output, candidate: step.extra.map(|extra| extra.candidate), peepholes, c }
    }
}
