//! Optimiser steps in one pass over memory, in place, with `PyTorch`'s formulas; and sums over gradients.

use std::ops::Range;

use crate::arch::{Kernel, MulAdd};
use crate::engine::Engine;
use crate::shared::SharedSlice;

/// Parameters that stay on one thread.
const GRAIN: usize = 1024;
/// Values whose squares are summed by themselves.
const SQUARES: usize = 16 * 1024;

/// The constants of one step of Adam (Kingma & Ba 2015) or `AdamW` (Loshchilov & Hutter 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the mean.
    pub beta1: f64,
    /// Decay of the mean square.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// Times the parameter, added to the gradient (L2).
    pub weight_decay: f64,
    /// Times the learning rate, taken off the parameter (`AdamW`).
    pub decoupled_weight_decay: f64,
    /// Which step this is, from 1.
    pub step: u64,
}

/// Whether SGD looks ahead along its momentum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Nesterov {
    /// Plain momentum.
    #[default]
    Off,
    /// Nesterov's momentum.
    On,
}

/// The constants of one step of stochastic gradient descent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdStep {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the velocity; 0 uses none.
    pub momentum: f64,
    /// Share of the gradient that does not enter the velocity.
    pub dampening: f64,
    /// Whether to look ahead.
    pub nesterov: Nesterov,
    /// Times the parameter, added to the gradient (L2).
    pub weight_decay: f64,
    /// The first step sets the velocity to the gradient.
    pub first: bool,
}

/// The constants of one step of `RMSprop`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsPropStep {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the mean square.
    pub alpha: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// Times the parameter, added to the gradient (L2).
    pub weight_decay: f64,
}

/// One step of Adam or `AdamW`, in place:
///
/// ```text
/// p ← p · (1 - lr · decoupled)            g ← g + weight_decay · p
/// m ← m + (1 - β1)(g - m)                 v ← β2 · v + (1 - β2) g²
/// p ← p - lr / (1 - β1^step) · m / (√v / √(1 - β2^step) + ε)
/// ```
///
/// # Panics
///
/// When the lengths differ or `step` is 0.
pub fn adam(engine: &Engine, step: &AdamStep, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
    same_len(param, [grad, m, v]);
    assert!(step.step > 0, "Adam counts its steps from 1");
    // Beyond 2^31 steps both corrections are 1 in any precision.
    let count = step.step.min(i32::MAX as u64) as i32;
    let constants = AdamConstants {
        keep: (1.0 - step.learning_rate * step.decoupled_weight_decay) as f32,
        weight_decay: step.weight_decay as f32,
        one_minus_beta1: (1.0 - step.beta1) as f32,
        beta2: step.beta2 as f32,
        one_minus_beta2: (1.0 - step.beta2) as f32,
        step_size: (step.learning_rate / (1.0 - step.beta1.powi(count))) as f32,
        root_correction: (1.0 / (1.0 - step.beta2.powi(count)).sqrt()) as f32,
        epsilon: step.epsilon as f32,
    };
    let (param, m, v) = (SharedSlice::new(param), SharedSlice::new(m), SharedSlice::new(v));
    engine.for_ranges(grad.len(), GRAIN, |range| {
        // SAFETY: the ranges of different members are disjoint.
        let (param, m, v) = unsafe { (part(param, &range), part(m, &range), part(v, &range)) };
        engine.kernel(Adam { constants, param, grad: &grad[range], m, v });
    });
}

/// One step of stochastic gradient descent, in place:
///
/// ```text
/// g ← g + weight_decay · p
/// velocity ← g at the first step, else momentum · velocity + (1 - dampening) g
/// p ← p - lr · velocity, or with Nesterov p - lr · (g + momentum · velocity)
/// ```
///
/// `velocity` is needed when the momentum is not 0 and is left alone otherwise.
///
/// # Panics
///
/// When the lengths differ or the velocity is missing.
pub fn sgd(engine: &Engine, step: &SgdStep, param: &mut [f32], grad: &[f32], velocity: Option<&mut [f32]>) {
    let has_momentum = step.momentum != 0.0;
    assert!(!has_momentum || velocity.is_some(), "a momentum of {} needs a velocity", step.momentum);
    let velocity = velocity.filter(|_| has_momentum).unwrap_or_default();
    same_len(param, [grad]);
    if has_momentum {
        same_len(param, [velocity]);
    }
    let (param, velocity) = (SharedSlice::new(param), SharedSlice::new(velocity));
    engine.for_ranges(grad.len(), GRAIN, |range| {
        // SAFETY: the ranges of different members are disjoint.
        let (param, velocity) =
            unsafe { (part(param, &range), if has_momentum { part(velocity, &range) } else { &mut [] }) };
        engine.kernel(Sgd { step: *step, param, grad: &grad[range], velocity });
    });
}

/// One step of `RMSprop`, in place:
///
/// ```text
/// g ← g + weight_decay · p
/// square_avg ← α · square_avg + (1 - α) g²
/// p ← p - lr · g / (√square_avg + ε)
/// ```
///
/// # Panics
///
/// When the lengths differ.
pub fn rmsprop(engine: &Engine, step: &RmsPropStep, param: &mut [f32], grad: &[f32], square_avg: &mut [f32]) {
    same_len(param, [grad, square_avg]);
    let (param, square_avg) = (SharedSlice::new(param), SharedSlice::new(square_avg));
    engine.for_ranges(grad.len(), GRAIN, |range| {
        // SAFETY: the ranges of different members are disjoint.
        let (param, square_avg) = unsafe { (part(param, &range), part(square_avg, &range)) };
        engine.kernel(RmsProp { step: *step, param, grad: &grad[range], square_avg });
    });
}

/// `Σ values²`, in f64: fixed chunks, added in a fixed order.
pub fn sum_of_squares(engine: &Engine, values: &[f32]) -> f64 {
    let mut sums = vec![0.0; values.len().div_ceil(SQUARES)];
    let shared = SharedSlice::new(&mut sums);
    engine.for_ranges(values.len(), SQUARES, |range| {
        for (i, chunk) in values[range.clone()].chunks(SQUARES).enumerate() {
            // SAFETY: ranges are cut at multiples of a chunk, so each chunk belongs to one member.
            let sum = unsafe { shared.part_mut(range.start / SQUARES + i, 1) };
            sum[0] = engine.kernel(SumSquares { values: chunk });
        }
    });
    sums.iter().sum()
}

/// Whether no value is NaN or infinite.
pub fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    // Chunks without an early exit inside, so that the test is done on vectors.
    values
        .chunks(4096)
        .all(|chunk| chunk.iter().fold(0, |bad, value| bad | u32::from(value.to_bits() & EXPONENT == EXPONENT)) == 0)
}

fn same_len<const N: usize>(param: &[f32], others: [&[f32]; N]) {
    for other in others {
        assert_eq!(param.len(), other.len(), "{} parameters, but a slice of {}", param.len(), other.len());
    }
}

/// # Safety
///
/// No other thread may use the range while the part lives.
unsafe fn part<'a>(slice: SharedSlice<'a, f32>, range: &Range<usize>) -> &'a mut [f32] {
    // SAFETY: by contract.
    unsafe { slice.part_mut(range.start, range.len()) }
}

#[derive(Clone, Copy)]
struct AdamConstants {
    keep: f32,
    weight_decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    root_correction: f32,
    epsilon: f32,
}

struct Adam<'a> {
    constants: AdamConstants,
    param: &'a mut [f32],
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Adam<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let c = self.constants;
        for (((p, &g), m), v) in self.param.iter_mut().zip(self.grad).zip(self.m).zip(self.v) {
            let kept = *p * c.keep;
            let g = O::mul_add(c.weight_decay, kept, g);
            *m = O::mul_add(c.one_minus_beta1, g - *m, *m);
            *v = O::mul_add(c.one_minus_beta2 * g, g, c.beta2 * *v);
            let root = O::mul_add(v.sqrt(), c.root_correction, c.epsilon);
            *p = kept - c.step_size * (*m / root);
        }
    }
}

struct Sgd<'a> {
    step: SgdStep,
    param: &'a mut [f32],
    grad: &'a [f32],
    velocity: &'a mut [f32],
}

impl Kernel for Sgd<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let weight_decay = self.step.weight_decay as f32;
        let rate = self.step.learning_rate as f32;
        let momentum = self.step.momentum as f32;
        if self.velocity.is_empty() {
            for (p, &g) in self.param.iter_mut().zip(self.grad) {
                *p -= rate * O::mul_add(weight_decay, *p, g);
            }
            return;
        }
        let fresh = (1.0 - self.step.dampening) as f32;
        for ((p, &g), velocity) in self.param.iter_mut().zip(self.grad).zip(self.velocity) {
            let g = O::mul_add(weight_decay, *p, g);
            // Not a product with 0, which would let through a NaN from a velocity that was never set.
            *velocity = if self.step.first { g } else { O::mul_add(momentum, *velocity, fresh * g) };
            *p -= rate
                * match self.step.nesterov {
                    Nesterov::Off => *velocity,
                    Nesterov::On => O::mul_add(momentum, *velocity, g),
                };
        }
    }
}

struct RmsProp<'a> {
    step: RmsPropStep,
    param: &'a mut [f32],
    grad: &'a [f32],
    square_avg: &'a mut [f32],
}

impl Kernel for RmsProp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        let weight_decay = self.step.weight_decay as f32;
        let rate = self.step.learning_rate as f32;
        let alpha = self.step.alpha as f32;
        let one_minus_alpha = (1.0 - self.step.alpha) as f32;
        let epsilon = self.step.epsilon as f32;
        for ((p, &g), square) in self.param.iter_mut().zip(self.grad).zip(self.square_avg) {
            let g = O::mul_add(weight_decay, *p, g);
            *square = O::mul_add(one_minus_alpha * g, g, alpha * *square);
            *p -= rate * (g / (square.sqrt() + epsilon));
        }
    }
}

struct SumSquares<'a> {
    values: &'a [f32],
}

impl Kernel for SumSquares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) -> f64 {
        let mut sums = [0.0f64; 16];
        let (blocks, rest) = self.values.as_chunks::<16>();
        for block in blocks {
            for (sum, &value) in sums.iter_mut().zip(block) {
                *sum += f64::from(value) * f64::from(value);
            }
        }
        for (sum, &value) in sums.iter_mut().zip(rest) {
            *sum += f64::from(value) * f64::from(value);
        }
        sums.iter().sum()
    }
}
