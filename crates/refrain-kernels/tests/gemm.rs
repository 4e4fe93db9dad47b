//! Products and column sums against plain loops in f64.

mod common;

use common::{Noise, PRECISIONS, assert_close, assert_close_at_scale, engines, tolerance, wide};
use refrain_kernels::{Beta, Engine, Isa, MatMut, MatRef, Precision, column_sums, matmul, matmul_bias};

const SIZES: [usize; 12] = [1, 2, 3, 5, 7, 13, 17, 31, 33, 64, 65, 130];

struct Case {
    m: usize,
    k: usize,
    n: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    expected: Vec<f64>,
}

impl Case {
    fn new(m: usize, k: usize, n: usize) -> Self {
        let mut noise = Noise::new((m * 1_000_000 + k * 1000 + n) as u64);
        let (a, b) = (noise.floats(m * k), noise.floats(k * n));
        let mut expected = vec![0.0; m * n];
        for i in 0..m {
            for p in 0..k {
                for j in 0..n {
                    expected[i * n + j] += f64::from(a[i * k + p]) * f64::from(b[p * n + j]);
                }
            }
        }
        Self { m, k, n, a, b, expected }
    }
}

fn transpose(data: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| data[i % rows * cols + i / rows]).collect()
}

/// All four layouts, all three starts.
fn check(engine: &Engine, precision: Precision, case: &Case) {
    let Case { m, k, n, .. } = *case;
    let (a_transposed, b_transposed) = (transpose(&case.a, m, k), transpose(&case.b, k, n));
    let a = [MatRef::row_major(&case.a, m, k), MatRef::row_major(&a_transposed, k, m).transposed()];
    let b = [MatRef::row_major(&case.b, k, n), MatRef::row_major(&b_transposed, n, k).transposed()];
    let bias = Noise::new(3).floats(n);
    let name = format!("[{m}, {k}] · [{k}, {n}] in {precision:?} on {}", engine.isa());
    let tolerance = tolerance(precision);
    for a in a {
        for b in b {
            let mut out = vec![f32::NAN; m * n];
            matmul(engine, precision, a, b, Beta::Overwrite, MatMut::row_major(&mut out, m, n));
            assert_close(&name, &out, &case.expected, tolerance);
            let twice: Vec<f64> = case.expected.iter().map(|value| 2.0 * value).collect();
            matmul(engine, precision, a, b, Beta::Accumulate, MatMut::row_major(&mut out, m, n));
            assert_close_at_scale(&name, &out, &twice, tolerance, 2.0);
            let mut out = vec![f32::NAN; m * n];
            matmul_bias(engine, precision, a, b, &bias, MatMut::row_major(&mut out, m, n));
            let expected: Vec<f64> = case.expected.iter().zip(wide(&bias).iter().cycle()).map(|(x, y)| x + y).collect();
            assert_close(&name, &out, &expected, tolerance);
        }
    }
}

#[test]
fn small_products_of_all_edges_match_plain_loops() {
    let engines = engines(2);
    for m in SIZES {
        for k in [1, 2, 17, 33] {
            for n in SIZES {
                let case = Case::new(m, k, n);
                for engine in &engines {
                    for precision in PRECISIONS {
                        check(engine, precision, &case);
                    }
                }
            }
        }
    }
}

#[test]
fn products_over_several_blocks_match_plain_loops() {
    for (m, k, n) in [(7, 1300, 67), (250, 513, 70), (6, 600, 5000), (9, 40, 4200), (500, 7, 3)] {
        let case = Case::new(m, k, n);
        for engine in engines(2) {
            for precision in PRECISIONS {
                check(&engine, precision, &case);
            }
        }
    }
}

#[test]
fn empty_products_write_their_start() {
    for engine in engines(2) {
        for precision in PRECISIONS {
            for (m, n) in [(3, 2), (3, 40), (40, 2), (40, 40), (3, 0), (40, 0)] {
                let a = MatRef::row_major(&[], m, 0);
                let bias = Noise::new(1).floats(n);
                for b in [MatRef::row_major(&[], 0, n), MatRef::row_major(&[], n, 0).transposed()] {
                    let mut out = vec![5.0; m * n];
                    matmul(&engine, precision, a, b, Beta::Accumulate, MatMut::row_major(&mut out, m, n));
                    assert_eq!(out, vec![5.0; m * n]);
                    matmul_bias(&engine, precision, a, b, &bias, MatMut::row_major(&mut out, m, n));
                    assert_eq!(out, bias.repeat(m));
                    matmul(&engine, precision, a, b, Beta::Overwrite, MatMut::row_major(&mut out, m, n));
                    assert_eq!(out, vec![0.0; m * n]);
                }
            }
            matmul(
                &engine,
                precision,
                MatRef::row_major(&[], 0, 4),
                MatRef::row_major(&[0.0; 8], 4, 2),
                Beta::Overwrite,
                MatMut::row_major(&mut [], 0, 2),
            );
        }
    }
}

/// The factors here are whole numbers of 8 bits and their sums have less than 24, so that no rounding is left but a wrong one.
#[test]
fn bf16_is_exact_where_its_bits_suffice_and_f32_keeps_24() {
    for engine in engines(2) {
        for (m, k, n) in [(1, 3, 2), (3, 17, 40), (40, 70, 33), (130, 300, 65)] {
            let mut noise = Noise::new(k as u64);
            let mut whole = |len: usize| (0..len).map(|_| (noise.bits() % 257) as f32 - 128.0).collect::<Vec<_>>();
            let (a, b) = (whole(m * k), whole(k * n));
            // Nearer to the whole number than to any other of 8 bits.
            let finer: Vec<f32> = a.iter().map(|value| value * (1.0 + 1.0 / 1024.0)).collect();
            let product = |precision, a: &[f32]| {
                let mut out = vec![f32::NAN; m * n];
                let (a, b) = (MatRef::row_major(a, m, k), MatRef::row_major(&b, k, n));
                matmul(&engine, precision, a, b, Beta::Overwrite, MatMut::row_major(&mut out, m, n));
                out
            };
            let name = format!("[{m}, {k}] · [{k}, {n}] on {}", engine.isa());
            let exact = product(Precision::F32, &a);
            assert!(product(Precision::Bf16, &a) == exact, "{name}");
            assert!(product(Precision::Bf16, &finer) == exact, "{name}");
            assert!(product(Precision::F32, &finer) != exact, "{name}");
        }
    }
}

#[test]
fn nan_stays_in_its_row_and_column() {
    for engine in engines(1) {
        for precision in PRECISIONS {
            for m in [4, 40] {
                let (k, n) = (30, 21);
                let mut case = Case::new(m, k, n);
                case.a[2 * k + 4] = f32::NAN;
                let mut out = vec![0.0; m * n];
                let (a, b) = (MatRef::row_major(&case.a, m, k), MatRef::row_major(&case.b, k, n));
                matmul(&engine, precision, a, b, Beta::Overwrite, MatMut::row_major(&mut out, m, n));
                for (i, row) in out.chunks(n).enumerate() {
                    assert!(row.iter().all(|value| value.is_nan() == (i == 2)), "row {i} of {m}: {row:?}");
                }
            }
        }
    }
}

#[test]
fn column_sums_match_plain_loops() {
    for engine in engines(2) {
        for rows in [0, 1, 63, 64, 65, 1000] {
            for cols in SIZES {
                let data = Noise::new(rows as u64).floats(rows * cols);
                let mut expected = vec![0.0; cols];
                for (i, &value) in data.iter().enumerate() {
                    expected[i % cols] += f64::from(value);
                }
                let mut out = vec![f32::NAN; cols];
                column_sums(&engine, MatRef::row_major(&data, rows, cols), &mut out);
                assert_close("column sums", &out, &expected, 1e-5);
                let flipped = transpose(&data, rows, cols);
                let mut out = vec![f32::NAN; cols];
                column_sums(&engine, MatRef::row_major(&flipped, cols, rows).transposed(), &mut out);
                assert_close("column sums", &out, &expected, 1e-5);
            }
        }
    }
}

#[test]
#[should_panic(expected = "[2, 3] · [4, 2] into [2, 2]")]
fn shapes_that_do_not_fit_are_refused() {
    let engine = Engine::new(Isa::Portable, 1).unwrap();
    matmul(
        &engine,
        Precision::F32,
        MatRef::row_major(&[0.0; 6], 2, 3),
        MatRef::row_major(&[0.0; 8], 4, 2),
        Beta::Overwrite,
        MatMut::row_major(&mut [0.0; 4], 2, 2),
    );
}
