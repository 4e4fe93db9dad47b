//! Every cell with every option: against the composed layers, against finite differences, in bf16, over padding, windows, directions and
//! threads.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use refrain::kernels::{Engine, Isa};
use refrain::nn::{Cell, Direction, DropoutSchedule, LayerNorms, Memory, Precision, RecurrentOptions};

use crate::case::Case;
use crate::support::{assert_close, values};
use crate::{ENGINE, assert_same_run, in_windows, relative_error, under_every_isa, with_short_weights};

#[test]
fn the_fused_layers_are_the_composed_ones_with_every_option() {
    under_every_isa(|isa| {
        for cell in Cell::ALL {
            for size in [[2, 3, 5, 7], [3, 9, 5, 37], [35, 4, 3, 6]] {
                let plain = Case::random(cell, size, &Device::flex().autodiff());
                for (name, case) in plain.with_every_option() {
                    let composed = case.run(Case::composed);
                    for (part, fused) in case.run(Case::fused) {
                        let tolerance = if part.starts_with("d_") { 1e-4 } else { 1e-5 };
                        assert_close(&format!("{isa} {size:?} {name}: {part}"), &fused, &composed[part], tolerance);
                    }
                }
            }
        }
    });
}

#[test]
fn padding_changes_no_bit_and_memory_none_either() {
    let _turn = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for cell in Cell::ALL {
        for precision in [Precision::F32, Precision::Bf16] {
            // Few sequences and many steps: those of a minimal GRU are cut.
            let sizes = [[7, 40, 3, 20], [3, 300, 3, 20]];
            let cases = sizes.map(|size| Case { precision, ..Case::random(cell, size, &Device::flex().autodiff()) });
            let cases = cases.iter().flat_map(Case::with_every_option).filter(|(_, case)| case.lengths.is_some());
            for (name, case) in cases {
                let (lengths, expected) = (case.lengths.clone().expect("filtered"), case.run(Case::fused));
                let [batch_size, seq_len, _] = case.input.dims();
                let garbage = Tensor::<3>::full([batch_size, seq_len, 3], 1e30, &Device::flex().autodiff());
                let mut input = case.input.clone();
                for (row, &length) in lengths.iter().enumerate().filter(|(_, length)| **length < seq_len) {
                    let padding = [row..row + 1, length..seq_len, 0..3];
                    input = input.slice_assign(padding.clone(), garbage.clone().slice(padding));
                }
                let padded = Case { input: input.detach().require_grad(), ..case.clone() };
                let whole = RecurrentOptions { memory: Memory::All, ..case.options };
                for other in [padded, Case { options: whole, ..case.clone() }] {
                    for (part, found) in other.run(Case::fused) {
                        assert_eq!(bits(&found), bits(&expected[part]), "{name} in {precision:?}: {part}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_a_number_stays_with_its_sequence() {
    let _turn = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for cell in Cell::ALL {
        let plain = Case::random(cell, [7, 5, 3, 20], &Device::flex().autodiff());
        for (name, case) in plain.with_every_option() {
            let expected = case.run(Case::fused);
            let nan = Tensor::<3>::full([1, 5, 3], f32::NAN, &case.input.device());
            let input = case.input.clone().slice_assign([2..3, 0..5, 0..3], nan);
            let found = Case { input: input.detach().require_grad(), ..case.clone() }.run(Case::fused);
            for part in ["output", "last_hidden", "last_cell_state", "d_input", "d_hidden", "d_cell_state"] {
                let (Some(found), Some(expected)) = (found.get(part), expected.get(part)) else { continue };
                let sequence = expected.len() / 7;
                for row in (0..7).filter(|row| *row != 2) {
                    let of_row = row * sequence..(row + 1) * sequence;
                    assert_eq!(bits(&found[of_row.clone()]), bits(&expected[of_row]), "{name}: {part} of {row}");
                }
            }
        }
    }
}

#[test]
fn units_that_do_not_pass_through_the_lanes_at_once_are_no_special_case() {
    under_every_isa(|isa| {
        for cell in [Cell::Lstm, Cell::Gru] {
            let plain = Case::random(cell, [2, 2, 3, 1030], &Device::flex().autodiff());
            let variants =
                ["norms, whole, in inf", "reset before the product, whole, in inf", "projection, whole, in inf"];
            let cases = plain.with_every_option();
            let cases = cases.iter().filter(|(name, _)| variants.iter().any(|variant| name.contains(variant)));
            for (name, case) in cases {
                // Sums of a thousand terms of the usual size would round too much.
                let weight_hh = Param::from_tensor((case.weight_hh.val() * 0.1).detach());
                let case = Case { weight_hh, ..case.clone() };
                let composed = case.run(Case::composed);
                for (part, fused) in case.run(Case::fused) {
                    let tolerance = if part.starts_with("d_") { 1e-4 } else { 1e-5 };
                    assert_close(&format!("{isa} {name}: {part}"), &fused, &composed[part], tolerance);
                }
            }
        }
    });
}

#[test]
fn backward_is_forward_over_reversed_sequences_with_every_option() {
    let _turn = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    for cell in Cell::ALL {
        for precision in [Precision::F32, Precision::Bf16] {
            let plain = Case { precision, ..Case::random(cell, [3, 8, 4, 9], &Device::flex().autodiff()) };
            let options =
                plain.with_every_option().into_iter().filter(|(name, _)| name.ends_with("whole, in inference"));
            // In training as well, where no mask is of a single step.
            let masks = RecurrentOptions { input_dropout: 0.3, ..RecurrentOptions::default() };
            let dropped = Case { options: masks, schedule: Some(DropoutSchedule::new(3, 5)), ..plain.clone() };
            for (name, case) in options.chain([(format!("{cell:?} in training"), dropped)]) {
                let run = |direction, input: Tensor<3>| {
                    case.layer().forward_in(direction, input, None, Some(case.state.clone()), case.schedule)
                };
                let (output, state) = run(Direction::Backward, case.input.clone());
                let (mirrored, mirrored_state) = run(Direction::Forward, case.input.clone().flip([1]));
                assert_eq!(values(output), values(mirrored.flip([1])), "{name} in {precision:?}");
                assert_eq!(values(state.hidden), values(mirrored_state.hidden), "{name} in {precision:?}");
                assert_eq!(
                    state.cell_state.map(values),
                    mirrored_state.cell_state.map(values),
                    "{name} in {precision:?}"
                );
            }
        }
    }
}

#[test]
fn bf16_is_the_composed_layer_with_every_option_but_for_the_rounding_of_factors() {
    under_every_isa(|isa| {
        for cell in Cell::ALL {
            let plain = with_short_weights(Case::random(cell, [5, 9, 17, 33], &Device::flex().autodiff()));
            let plain = Case { precision: Precision::Bf16, ..plain };
            for (name, case) in plain.with_every_option() {
                let composed = case.run(Case::composed);
                for (part, found) in case.run(Case::fused).into_iter().filter(|(_, found)| !found.is_empty()) {
                    let error = relative_error(&found, &composed[part]);
                    // Normalising takes away what all sums have in common, but not the rounding's share of what is left.
                    let bound = match (cell, part.starts_with("d_"), case.norms.is_some()) {
                        (Cell::RnnRelu, true, _) => 0.2,
                        (_, _, true) => 0.05,
                        _ => 0.03,
                    };
                    assert!(error <= bound, "{isa} {name}: {part} is off by {error}");
                }
            }
        }
    });
}

/// The same numbers, one of them another.
fn bumped<const D: usize>(tensor: &Tensor<D>, index: usize, by: f32) -> Tensor<D> {
    let (shape, mut numbers) = (tensor.dims(), values(tensor.clone().inner()));
    numbers[index] += by;
    Tensor::from_data(TensorData::new(numbers, shape), &tensor.device())
}

/// A case with one number of what it reads changed, for each part that it has, with the number of numbers there.
type Bump = Box<dyn Fn(&Case, usize, f32) -> Case>;

fn bumps(case: &Case) -> Vec<(&'static str, usize, Bump)> {
    fn of_param<const D: usize>(
        name: &'static str,
        param: Option<&Param<Tensor<D>>>,
        set: impl Fn(&mut Case, Param<Tensor<D>>) + 'static,
    ) -> Option<(&'static str, usize, Bump)> {
        let tensor = param?.val();
        let count = tensor.shape().num_elements();
        let bump = move |case: &Case, index, by| {
            let mut changed = case.clone();
            set(&mut changed, Param::from_tensor(bumped(&tensor, index, by)));
            changed
        };
        Some((name, count, Box::new(bump)))
    }
    let norms = case.norms.as_ref();
    let (hidden, cell_state) = (case.state.hidden.clone(), case.state.cell_state.clone());
    let input = case.input.clone();
    let mut bumps: Vec<(&'static str, usize, Bump)> = vec![
        (
            "d_input",
            input.shape().num_elements(),
            Box::new(move |case, index, by| Case { input: bumped(&input, index, by), ..case.clone() }),
        ),
        (
            "d_hidden",
            hidden.shape().num_elements(),
            Box::new(move |case, index, by| {
                let mut changed = case.clone();
                changed.state.hidden = bumped(&hidden, index, by);
                changed
            }),
        ),
    ];
    if let Some(cell_state) = cell_state {
        let count = cell_state.shape().num_elements();
        let bump = move |case: &Case, index, by| {
            let mut changed = case.clone();
            changed.state.cell_state = Some(bumped(&cell_state, index, by));
            changed
        };
        bumps.push(("d_cell_state", count, Box::new(bump)));
    }
    let norms_of = |case: &mut Case| case.norms.clone().expect("the part is there");
    bumps.extend(
        [
            of_param("d_weight_ih", Some(&case.weight_ih), |case, param| case.weight_ih = param),
            of_param("d_weight_hh", Some(&case.weight_hh), |case, param| case.weight_hh = param),
            of_param("d_bias", Some(&case.bias), |case, param| case.bias = param),
            of_param("d_peepholes", case.peepholes.as_ref(), |case, param| case.peepholes = Some(param)),
            of_param("d_projection", case.projection.as_ref(), |case, param| case.projection = Some(param)),
            of_param("d_gain_ih", norms.map(|norms| &norms.gain_ih), move |case, param| {
                case.norms = Some(LayerNorms { gain_ih: param, ..norms_of(case) });
            }),
            of_param("d_gain_hh", norms.map(|norms| &norms.gain_hh), move |case, param| {
                case.norms = Some(LayerNorms { gain_hh: param, ..norms_of(case) });
            }),
            of_param("d_norm_cell_state", norms.and_then(|norms| norms.cell_state.as_ref()), move |case, param| {
                case.norms = Some(LayerNorms { cell_state: Some(param), ..norms_of(case) });
            }),
        ]
        .into_iter()
        .flatten(),
    );
    bumps
}

#[test]
fn gradients_are_finite_differences_with_every_option() {
    let _turn = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    let objective = |case: &Case| {
        let (output, state) = case.fused();
        case.objective_in_f64(output, state)
    };
    for cell in Cell::ALL {
        let plain = with_short_weights(Case::random(cell, [2, 4, 3, 5], &Device::flex().autodiff()));
        // A step of 1e-2 would carry some sums across the rectifier's kink.
        let step = if cell == Cell::RnnRelu { 1e-3f32 } else { 1e-2 };
        let cases = std::iter::once((format!("{cell:?}"), plain.clone())).chain(plain.with_every_option());
        for (name, case) in cases {
            let gradients = case.run(Case::fused);
            for (part, count, bump) in bumps(&case) {
                for index in [0, count / 3, 2 * count / 3 + 1].into_iter().filter(|index| *index < count) {
                    let slope = |by: f32| {
                        let [up, down] = [by, -by].map(|by| objective(&bump(&case, index, by)));
                        (up - down) / f64::from(2.0 * by)
                    };
                    // Without the error of second order (Richardson): normalised sums bend much.
                    let difference = (4.0 * slope(step / 2.0) - slope(step)) / 3.0;
                    let found = f64::from(gradients[part][index]);
                    let error = (difference - found).abs() / found.abs().max(1.0);
                    assert!(error < 2e-3, "{name} {part}[{index}]: {difference} against {found}");
                }
            }
        }
    }
}

#[test]
fn windows_chained_by_their_state_are_one_long_sequence_with_every_option() {
    let _turn = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    for cell in Cell::ALL {
        for precision in [Precision::F32, Precision::Bf16] {
            let plain = with_short_weights(Case::random(cell, [3, 270, 6, 11], &Device::flex().autodiff()));
            let plain = Case { precision, ..plain };
            for (name, case) in
                plain.with_every_option().into_iter().filter(|(name, _)| name.ends_with("whole, in inference"))
            {
                for window in [1, 4, 260] {
                    let (layer, whole) = (case.layer(), case.layer().forward(case.input.clone(), None, None, None));
                    assert_same_run(&format!("{name} by {window}"), in_windows(&layer, &case.input, window), whole);
                }
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bytes_with_every_option() {
    let _turn = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for cell in Cell::ALL {
        // So many units that several threads are worth while.
        let plain = [[9, 3, 20, 130], [2, 300, 9, 20]].map(|size| Case::random(cell, size, &Device::flex().autodiff()));
        let in_bf16 = plain.clone().map(|case| Case { precision: Precision::Bf16, ..case });
        let cases = plain.iter().chain(&in_bf16).flat_map(Case::with_every_option);
        let cases = cases.filter(|(name, _)| name.contains("of any length, in training"));
        for (name, case) in cases {
            let mut expected = None;
            for threads in [1, 2, 4] {
                Engine::set_current(Engine::new(Isa::detect(), threads).expect("supported"));
                let found: BTreeMap<_, _> =
                    case.run(Case::fused).into_iter().map(|(part, values)| (part, bits(&values))).collect();
                assert!(*expected.get_or_insert_with(|| found.clone()) == found, "{name} on {threads} threads");
            }
        }
    }
    Engine::set_current(Engine::new(Isa::detect(), 2).expect("supported"));
}
