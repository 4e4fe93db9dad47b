//! Vectorised exp, tanh, sigmoid and GELU: straight-line polynomials that the compiler turns into vector code.
//!
//! Largest errors over all floats: 2e-7 relative for exp and tanh, 2e-7 absolute for sigmoid, 2e-7 of the larger of |x| and 1 for
//! GELU. NaN stays NaN, infinities give
//! the limits.

use std::marker::PhantomData;

use crate::arch::{Kernel, MulAdd};
use crate::engine::Engine;
use crate::shared::SharedSlice;

/// Adding and subtracting it rounds to an integer, which is left in the low bits in between.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; products of the first with small integers are exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// e^r ≈ 1 + r + r²·(C0 + C1·r + …) on |r| ≤ ln 2 / 2, relative error 1e-8 (Chebyshev interpolation).
const EXP: [f32; 5] = [0.5, 1.666_657_7e-1, 4.166_655_5e-2, 8.363_195e-3, 1.392_620_3e-3];
/// Beyond it e^x is infinite.
const EXP_MAX: f32 = 88.722_84;
/// Below it e^x is nearly no normal number any more and becomes 0.
const EXP_MIN: f32 = -86.9;
/// Sigmoid is 1 within rounding there, and its complement is still a normal number.
const SIGMOID_LIMIT: f32 = 87.0;
/// The product of two divisors of sigmoids is finite up to there; the sigmoid of -43 is 2e-19.
const PAIR_LIMIT: f32 = 43.0;
/// tanh is ±1 within rounding there.
const TANH_LIMIT: f32 = 10.0;

/// Limits to `±limit`, leaving NaN alone (`f32::clamp` would do the same, but `min` and `max` would not).
#[inline(always)]
fn limit(x: f32, limit: f32) -> f32 {
    let x = if x > limit { limit } else { x };
    if x < -limit { -limit } else { x }
}

/// `(n, e^r - 1)` with `x = n·ln 2 + r`; the bits of `n + ROUND` stand for `n`.
#[inline(always)]
fn split_exp<O: MulAdd>(x: f32) -> (u32, f32) {
    let shifted = O::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = O::mul_add(n, -LN2_LOW, O::mul_add(n, -LN2_HIGH, x));
    let mut q = EXP[4];
    q = O::mul_add(q, r, EXP[3]);
    q = O::mul_add(q, r, EXP[2]);
    q = O::mul_add(q, r, EXP[1]);
    q = O::mul_add(q, r, EXP[0]);
    (shifted.to_bits(), O::mul_add(r * r, q, r))
}

/// 2^n from the low bits of `n + ROUND`, for n in -126..=127.
#[inline(always)]
fn power_of_two(shifted: u32) -> f32 {
    f32::from_bits(shifted.wrapping_add(127) << 23)
}

#[inline(always)]
pub(crate) fn exp_lane<O: MulAdd>(x: f32) -> f32 {
    let (n, p) = split_exp::<O>(limit(x, SIGMOID_LIMIT + 2.0));
    // 2^n by two factors: n may be 128, which is no exponent.
    let value = (p + 1.0) * power_of_two(n.wrapping_sub(1)) * 2.0;
    let value = if x > EXP_MAX { f32::INFINITY } else { value };
    if x < EXP_MIN { 0.0 } else { value }
}

#[inline(always)]
pub(crate) fn sigmoid_lane<O: MulAdd>(x: f32) -> f32 {
    1.0 / sigmoid_divisor::<O>(x, SIGMOID_LIMIT)
}

/// 1 + e^-x, with x limited.
#[inline(always)]
fn sigmoid_divisor<O: MulAdd>(x: f32, bound: f32) -> f32 {
    let (n, p) = split_exp::<O>(limit(-x, bound));
    let scale = power_of_two(n);
    1.0 + O::mul_add(p, scale, scale)
}

/// e^2x - 1. tanh x = m / (m + 2) with it, which keeps its relative accuracy around 0.
#[inline(always)]
fn tanh_dividend<O: MulAdd>(x: f32) -> f32 {
    let (n, p) = split_exp::<O>(2.0 * limit(x, TANH_LIMIT));
    let scale = power_of_two(n);
    O::mul_add(p, scale, scale - 1.0)
}

#[inline(always)]
pub(crate) fn tanh_lane<O: MulAdd>(x: f32) -> f32 {
    let m = tanh_dividend::<O>(x);
    m / (m + 2.0)
}

/// The sigmoids of two values by one division, which costs more than everything else: 1/a = b·1/(ab).
///
/// A NaN in one makes a NaN of both.
#[inline(always)]
pub(crate) fn sigmoid_pair<O: MulAdd>(x: f32, y: f32) -> (f32, f32) {
    let (a, b) = (sigmoid_divisor::<O>(x, PAIR_LIMIT), sigmoid_divisor::<O>(y, PAIR_LIMIT));
    let inverse = 1.0 / (a * b);
    (b * inverse, a * inverse)
}

/// tanh x and the sigmoid of y by one division, as in [`sigmoid_pair`].
#[inline(always)]
pub(crate) fn tanh_sigmoid<O: MulAdd>(x: f32, y: f32) -> (f32, f32) {
    let m = tanh_dividend::<O>(x);
    let (a, b) = (m + 2.0, sigmoid_divisor::<O>(y, PAIR_LIMIT));
    let inverse = 1.0 / (a * b);
    (m * (b * inverse), a * inverse)
}

/// Where the variable of [`TAIL`] comes from: `1 / (1 + TAIL_PACE·|x|)`.
const TAIL_PACE: f32 = 0.33;
/// What the normal distribution has beyond a ≥ 0 is e^(-a²/2)·(T0 + T1·t + …) with t = 1 / (1 + `TAIL_PACE`·a), error 4e-8
/// (Chebyshev interpolation over 0 ≤ a ≤ 13.3).
const TAIL: [f32; 9] = [
    -5.721_541_6e-5,
    0.132_804_76,
    0.121_963_1,
    0.161_319_46,
    -2.815_652_2e-2,
    0.229_330_93,
    -0.124_487_62,
    -2.864_652e-3,
    1.014_777_2e-2,
];
/// Beyond it the tail is 0.
const NORMAL_LIMIT: f32 = 14.0;
/// 1 / sqrt(2π): the height of the normal density.
const NORMAL_HEIGHT: f32 = 0.398_942_3;

/// The normal distribution function of x, and e^(-x²/2), which is its density but for the height.
#[inline(always)]
fn normal_lane<O: MulAdd>(x: f32) -> (f32, f32) {
    let size = x.abs();
    let bell = exp_lane::<O>(-0.5 * x * x);
    let t = 1.0 / O::mul_add(size, TAIL_PACE, 1.0);
    let mut tail = TAIL[8];
    for term in [7, 6, 5, 4, 3, 2, 1, 0] {
        tail = O::mul_add(tail, t, TAIL[term]);
    }
    let tail = tail * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
}

/// A function of one element.
trait Lane {
    fn lane<O: MulAdd>(x: f32) -> f32;
}

struct Exp;
struct Sigmoid;
struct Tanh;
struct Gelu;

impl Lane for Exp {
    #[inline(always)]
    fn lane<O: MulAdd>(x: f32) -> f32 {
        exp_lane::<O>(x)
    }
}

impl Lane for Sigmoid {
    #[inline(always)]
    fn lane<O: MulAdd>(x: f32) -> f32 {
        sigmoid_lane::<O>(x)
    }
}

impl Lane for Tanh {
    #[inline(always)]
    fn lane<O: MulAdd>(x: f32) -> f32 {
        tanh_lane::<O>(x)
    }
}

impl Lane for Gelu {
    #[inline(always)]
    fn lane<O: MulAdd>(x: f32) -> f32 {
        let x = if x < -NORMAL_LIMIT { -NORMAL_LIMIT } else { x };
        x * normal_lane::<O>(x).0
    }
}

struct Map<'a, F> {
    input: &'a [f32],
    output: &'a mut [f32],
    function: PhantomData<F>,
}

impl<F: Lane> Kernel for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        for (y, &x) in self.output.iter_mut().zip(self.input) {
            *y = F::lane::<O>(x);
        }
    }
}

fn map<F: Lane>(engine: &Engine, input: &[f32], output: &mut [f32]) {
    assert_eq!(input.len(), output.len(), "input has {} elements, output {}", input.len(), output.len());
    let shared = SharedSlice::new(output);
    engine.for_ranges(input.len(), 64, |range| {
        // SAFETY: the ranges of different members are disjoint.
        let output = unsafe { shared.part_mut(range.start, range.len()) };
        engine.kernel(Map { input: &input[range], output, function: PhantomData::<F> });
    });
}

/// `output[e] = exp(input[e])`. Results below 2e-38 become 0.
///
/// # Panics
///
/// When the lengths differ.
pub fn exp(engine: &Engine, input: &[f32], output: &mut [f32]) {
    map::<Exp>(engine, input, output);
}

/// `output[e] = 1 / (1 + exp(-input[e]))`.
///
/// # Panics
///
/// When the lengths differ.
pub fn sigmoid(engine: &Engine, input: &[f32], output: &mut [f32]) {
    map::<Sigmoid>(engine, input, output);
}

/// `output[e] = tanh(input[e])`.
///
/// # Panics
///
/// When the lengths differ.
pub fn tanh(engine: &Engine, input: &[f32], output: &mut [f32]) {
    map::<Tanh>(engine, input, output);
}

/// `output[e] = x·Φ(x)` of `x = input[e]`, Φ being the normal distribution function (Hendrycks and Gimpel 2016, without their
/// approximation).
///
/// # Panics
///
/// When the lengths differ.
pub fn gelu(engine: &Engine, input: &[f32], output: &mut [f32]) {
    map::<Gelu>(engine, input, output);
}

/// The backward pass of [`gelu`]: `output[e] = incoming[e]·(Φ(x) + x·φ(x))`, φ being the normal density.
///
/// # Panics
///
/// When the lengths differ.
pub fn gelu_backward(engine: &Engine, input: &[f32], incoming: &[f32], output: &mut [f32]) {
    assert_eq!([incoming.len(), output.len()], [input.len(); 2], "lengths of gradients and of the input");
    let shared = SharedSlice::new(output);
    engine.for_ranges(input.len(), 64, |range| {
        // SAFETY: the ranges of different members are disjoint.
        let output = unsafe { shared.part_mut(range.start, range.len()) };
        engine.kernel(GeluBack { input: &input[range.clone()], incoming: &incoming[range], output });
    });
}

struct GeluBack<'a> {
    input: &'a [f32],
    incoming: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for GeluBack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const W: usize, O: MulAdd>(self) {
        for ((output, &x), incoming) in self.output.iter_mut().zip(self.input).zip(self.incoming) {
            let x = limit(x, NORMAL_LIMIT);
            let (below, bell) = normal_lane::<O>(x);
            *output = incoming * O::mul_add(x * bell, NORMAL_HEIGHT, below);
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the limits are exact, and infinities have no distance")]
mod tests {
    use super::*;
    use crate::arch::Isa;

    type Function = fn(&Engine, &[f32], &mut [f32]);

    fn apply(engine: &Engine, function: impl Fn(&Engine, &[f32], &mut [f32]), input: &[f32]) -> Vec<f32> {
        let mut output = vec![9.0; input.len()];
        function(engine, input, &mut output);
        output
    }

    /// Floats of both signs over all magnitudes up to `limit`, and evenly spaced ones.
    fn samples(limit: f32) -> Vec<f32> {
        let even = (-20_000..=20_000).map(|i| i as f32 * (limit / 20_000.0));
        let spread = (0..8000).map(|i| limit * 2f32.powf(-(i as f32) / 100.0));
        even.chain(spread.flat_map(|x| [x, -x])).collect()
    }

    #[test]
    fn errors_stay_below_two_ten_millionths() {
        for isa in Isa::supported() {
            let engine = Engine::new(isa, 1).unwrap();
            let check = |function: Function, reference: fn(f64) -> f64, limit: f32, relative: bool| {
                let input = samples(limit);
                for (&x, y) in input.iter().zip(apply(&engine, function, &input)) {
                    let expected = reference(f64::from(x));
                    let scale = if relative { expected.abs().max(1e-30) } else { 1.0 };
                    let error = (f64::from(y) - expected).abs() / scale;
                    assert!(error <= 2.0e-7, "{isa}: f({x}) = {y}, expected {expected}, error {error}");
                }
            };
            check(exp, f64::exp, 86.8, true);
            check(tanh, f64::tanh, 30.0, true);
            check(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 100.0, false);
        }
    }

    /// The normal distribution function and density, by the series of the one (Marsaglia 2004), which is exact enough up to 6.
    fn normal(x: f64) -> (f64, f64) {
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let mut term = x;
        let mut sum = x;
        for i in 1..200 {
            term *= x * x / f64::from(2 * i + 1);
            sum += term;
        }
        (0.5 + sum * density, density)
    }

    #[test]
    fn gelu_and_its_slope_are_those_of_the_normal_distribution() {
        for isa in Isa::supported() {
            let engine = Engine::new(isa, 1).unwrap();
            let input = samples(6.0);
            let slopes = |engine: &Engine, input: &[f32], output: &mut [f32]| {
                gelu_backward(engine, input, &vec![1.0; input.len()], output);
            };
            let found = apply(&engine, gelu, &input).into_iter().zip(apply(&engine, slopes, &input));
            for (&x, (y, slope)) in input.iter().zip(found) {
                let x = f64::from(x);
                let (below, density) = normal(x);
                let error = (f64::from(y) - x * below).abs() / x.abs().max(1.0);
                assert!(error <= 2.0e-7, "{isa}: gelu({x}) = {y}, error {error}");
                let error = (f64::from(slope) - (below + x * density)).abs();
                assert!(error <= 4.0e-7, "{isa}: slope of gelu at {x} = {slope}, error {error}");
            }
        }
    }

    #[test]
    fn gelu_has_limits() {
        let input = [f32::NEG_INFINITY, -1e30, -15.0, 15.0, 1e30, f32::INFINITY, f32::NAN];
        for isa in Isa::supported() {
            let engine = Engine::new(isa, 1).unwrap();
            let output = apply(&engine, gelu, &input);
            assert_eq!(output[..6], [0.0, 0.0, 0.0, 15.0, 1e30, f32::INFINITY], "{isa}");
            let mut slopes = [9.0; 7];
            gelu_backward(&engine, &input, &[3.0; 7], &mut slopes);
            assert_eq!(slopes[..6], [0.0, 0.0, 0.0, 3.0, 3.0, 3.0], "{isa}");
            assert!(output[6].is_nan() && slopes[6].is_nan(), "{isa}: {output:?} {slopes:?}");
        }
    }

    #[test]
    fn limits_and_nan_come_through() {
        let input = [f32::NEG_INFINITY, -1e30, -0.0, 0.0, 1e30, f32::INFINITY, f32::NAN];
        for isa in Isa::supported() {
            let engine = Engine::new(isa, 1).unwrap();
            let check = |function: Function, expected: [f32; 6]| {
                let output = apply(&engine, function, &input);
                for (y, expected) in output.iter().zip(expected) {
                    assert!((y - expected).abs() < 1e-30 || *y == expected, "{isa}: {output:?}");
                }
                assert!(output[6].is_nan(), "{isa}: {output:?}");
            };
            check(exp, [0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY]);
            check(tanh, [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0]);
            check(sigmoid, [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]);
        }
    }
}
