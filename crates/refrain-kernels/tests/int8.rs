//! Weights in eight bits: near to what they stand for, and not a bit further away when they are rounded again.

mod common;

use common::{Noise, bits};
use refrain_kernels::Int8Matrix;

/// Rows of many lengths and sizes, and those at the ends of what an f32 can hold.
fn rows() -> Vec<Vec<f32>> {
    let mut noise = Noise::new(8);
    let mut rows: Vec<Vec<f32>> = vec![
        vec![0.0; 5],
        vec![-0.0, 0.0],
        vec![f32::MAX, -f32::MAX, f32::MAX / 2.0, 1.0],
        vec![f32::MAX.next_down(), f32::MIN],
        vec![f32::from_bits(1), 0.0],
        vec![f32::MIN_POSITIVE, -f32::MIN_POSITIVE / 2.0, f32::MIN_POSITIVE.next_down()],
        // The steps on both sides of the smallest normal number.
        vec![127.0 * f32::MIN_POSITIVE, 63.5 * f32::MIN_POSITIVE, f32::MIN_POSITIVE],
        vec![(127.0 * f32::MIN_POSITIVE).next_down(), 1e-37],
        vec![(127.0 * f32::MIN_POSITIVE).next_up(), 1e-37],
        vec![128.0 * f32::MIN_POSITIVE, 0.0],
        // Exactly between two multiples.
        (-127..=127).map(|half: i8| f32::from(half) / 2.0).chain([127.0]).collect(),
        vec![1.0, f32::MAX],
        vec![1e-30, -1.0],
    ];
    for exponent in -149..128 {
        let scale = 2.0f64.powi(exponent) as f32;
        for len in [1, 2, 17] {
            rows.push(noise.scaled(len, scale));
        }
        // Any significand at all in the greatest weight, which alone decides the step.
        let greatest = f32::from_bits(scale.to_bits() | (noise.bits() as u32 & 0x7f_ffff));
        rows.push([noise.scaled(9, scale), vec![greatest]].concat());
    }
    for _ in 0..2000 {
        let row: Vec<f32> = (0..7).map(|_| f32::from_bits(noise.bits() as u32)).collect();
        rows.push(row.into_iter().filter(|weight| weight.is_finite()).collect());
    }
    rows
}

#[test]
fn rounding_again_changes_not_a_bit() {
    for row in rows() {
        let once = Int8Matrix::new(&row, 1, row.len());
        let again = Int8Matrix::new(&once.values(), 1, row.len());
        assert_eq!(again.multiples(), once.multiples(), "{row:?}");
        assert_eq!(bits(again.steps()), bits(once.steps()), "{row:?}");
        assert_eq!(bits(&again.values()), bits(&once.values()), "{row:?}");
    }
}

#[test]
fn a_value_is_exactly_its_multiple_of_the_step_and_half_a_step_from_the_weight_at_most() {
    for row in rows() {
        let matrix = Int8Matrix::new(&row, 1, row.len());
        let step = f64::from(matrix.steps()[0]);
        for ((&weight, &multiple), value) in row.iter().zip(matrix.multiples()).zip(matrix.values()) {
            assert!(multiple != i8::MIN, "{weight} of {row:?}");
            assert_eq!(f64::from(value).to_bits(), (f64::from(multiple) * step).to_bits(), "{weight} of {row:?}");
            let error = (f64::from(weight) - f64::from(value)).abs();
            // The division may round where a weight is all but between two multiples.
            assert!(error <= 0.5 * step * (1.0 + 1e-5), "{weight} became {value} by steps of {step}");
        }
    }
}

#[test]
fn the_greatest_weight_of_a_row_is_127_steps_of_its_own() {
    for row in rows() {
        let matrix = Int8Matrix::new(&row, 1, row.len());
        let greatest = row.iter().fold(0.0f32, |most, weight| most.max(weight.abs()));
        let most = matrix.multiples().iter().map(|multiple| multiple.unsigned_abs()).max();
        if greatest >= 127.0 * f32::MIN_POSITIVE {
            assert_eq!(most, Some(127), "{row:?}");
        } else {
            assert_eq!(matrix.steps(), [f32::MIN_POSITIVE], "{row:?}");
        }
    }
}

#[test]
fn rows_are_rounded_apart_from_each_other() {
    let matrix = Int8Matrix::new(&[127.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1270.0, 24.9, -1270.0], 3, 3);
    assert_eq!(matrix.multiples(), [127, -1, 0, 0, 0, 0, 127, 2, -127]);
    assert_eq!(matrix.steps(), [1.0, f32::MIN_POSITIVE, 10.0]);
    assert_eq!(matrix.values(), [127.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1270.0, 20.0, -1270.0]);
    let parts = Int8Matrix::from_parts(matrix.multiples().to_vec(), matrix.steps().to_vec(), 3);
    assert_eq!(parts, matrix);
    assert_eq!(Int8Matrix::new(&[], 4, 0).values(), []);
    assert_eq!(Int8Matrix::new(&[], 0, 4).values(), []);
}

#[test]
fn what_is_not_finite_stays_so_in_its_row_alone() {
    for weight in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let matrix = Int8Matrix::new(&[1.0, weight, 127.0, 1.0], 2, 2);
        assert!(!matrix.steps()[0].is_finite() && matrix.values()[1].is_nan(), "{weight}: {matrix:?}");
        assert_eq!(matrix.values()[2..], [127.0, 1.0]);
    }
}
