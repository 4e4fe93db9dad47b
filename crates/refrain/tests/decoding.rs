//! The filters against those of the Hugging Face library.

mod support;

use refrain::decode::{Constraints, FILTERS, FilterSettings, History};
use support::Golden;

const VOCAB_SIZE: usize = 23;
const LENGTH: usize = 14;

/// The unknown token, which ours exclude and the library's do not know, stands in front of the fixture's.
fn with_unknown(scores: &[f32]) -> Vec<f32> {
    [&[100.0], scores].concat()
}

#[test]
fn filters_are_those_of_the_hugging_face_library() {
    let golden = Golden::read("decoding");
    let mut cases = 0;
    for kind in FILTERS {
        for index in 0.. {
            if !golden.has(&format!("{}.{index}.value", kind.name)) {
                assert!(index >= 2, "{} has cases", kind.name);
                break;
            }
            // A number of one decimal or more, rounded to f32: the nearest f64 of it is meant.
            let value: f64 = golden.values(&format!("{}.{index}.value", kind.name))[0].to_string().parse().unwrap();
            let mut settings = FilterSettings::off();
            settings.set(kind.name, value).unwrap();
            let filters = settings.filters(Constraints::default());
            let expected = golden.values(&format!("{}.{index}.filtered", kind.name));
            let rows = golden.values("scores").chunks(VOCAB_SIZE).zip(golden.values("history").chunks(LENGTH));
            for (row, (scores, history)) in rows.enumerate() {
                let history: Vec<u32> = history.iter().map(|&token| token as u32 + 1).collect();
                let mut filtered = Vec::new();
                filters.apply(&with_unknown(scores), &History::new(&history, VOCAB_SIZE + 1), &mut filtered);
                for (token, &expected) in expected[row * VOCAB_SIZE..][..VOCAB_SIZE].iter().enumerate() {
                    let found = filtered[token + 1];
                    let close = (found - f64::from(expected)).abs() <= 1e-6 * f64::from(expected).abs();
                    let excluded = found == f64::NEG_INFINITY && expected == f32::NEG_INFINITY;
                    assert!(close || excluded, "{} {value}, row {row}, token {token}: {found}, {expected}", kind.name);
                }
                cases += 1;
            }
        }
    }
    assert!(cases >= 150, "{cases}");
}
