//! Between tensors as they are used and tensors as they lie in a file: one in eight bits lies there as two, its multiples and
//! their steps.

use std::borrow::Cow;
use std::collections::BTreeMap;

use refrain_kernels::Int8Matrix;

use super::error::FormatFault;
use super::{Dtype, NamedTensor};

/// A tensor as it lies in a file.
#[derive(Debug, PartialEq)]
pub(super) struct StoredTensor<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) shape: Cow<'a, [usize]>,
    pub(super) numbers: Numbers<'a>,
}

/// The numbers of a tensor as they lie in a file.
#[derive(Debug, PartialEq)]
pub(super) enum Numbers<'a> {
    F32(Cow<'a, [f32]>),
    I8(Vec<i8>),
}

impl Numbers<'_> {
    pub(super) fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::I8(_) => Dtype::I8,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I8(multiples) => multiples.len(),
        }
    }
}

/// What the steps of a tensor are called.
fn steps_of(name: &str) -> String {
    format!("{name}.steps")
}

/// The tensors to lay out for `tensors`.
pub(super) fn split(tensors: &[NamedTensor]) -> Vec<StoredTensor<'_>> {
    let mut stored = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let name = Cow::Borrowed(tensor.name.as_str());
        let shape = Cow::Borrowed(tensor.shape.as_slice());
        let numbers = match tensor.dtype {
            Dtype::F32 => Numbers::F32(Cow::Borrowed(&tensor.values)),
            Dtype::I8 => {
                let matrix = tensor.to_int8();
                stored.push(StoredTensor {
                    name: steps_of(&name).into(),
                    shape: vec![matrix.steps().len()].into(),
                    numbers: Numbers::F32(matrix.steps().to_vec().into()),
                });
                Numbers::I8(matrix.multiples().to_vec())
            }
        };
        stored.push(StoredTensor { name, shape, numbers });
    }
    stored
}

/// The tensors that lie in a file as `stored`, in the order of their names, of which there are no two alike.
pub(super) fn join(stored: Vec<StoredTensor<'_>>) -> Result<Vec<NamedTensor>, FormatFault> {
    let mut tensors = BTreeMap::new();
    let mut in_eight_bits = Vec::new();
    for StoredTensor { name, shape, numbers } in stored {
        let (name, shape) = (name.into_owned(), shape.into_owned());
        match numbers {
            Numbers::F32(values) => {
                let tensor = NamedTensor { name, shape, values: values.into_owned(), dtype: Dtype::F32 };
                tensors.insert(tensor.name.clone(), tensor);
            }
            Numbers::I8(multiples) => in_eight_bits.push((name, shape, multiples)),
        }
    }
    for (name, shape, multiples) in in_eight_bits {
        let steps = match tensors.remove(&steps_of(&name)) {
            Some(steps) if steps.dtype == Dtype::F32 => steps,
            _ => return Err(FormatFault::MissingSteps { steps: steps_of(&name), name }),
        };
        let values = values_of(&name, &shape, multiples, steps)?;
        tensors.insert(name.clone(), NamedTensor { name, shape, values, dtype: Dtype::I8 });
    }
    Ok(tensors.into_values().collect())
}

/// What the multiples stand for, if they and their steps are what would be written for that again.
fn values_of(name: &str, shape: &[usize], multiples: Vec<i8>, steps: NamedTensor) -> Result<Vec<f32>, FormatFault> {
    let &[rows, cols] = shape else {
        return Err(FormatFault::NotMatrix { name: name.into(), shape: shape.into() });
    };
    if steps.shape != [rows] {
        return Err(FormatFault::StepsShape { name: steps.name, found: steps.shape, expected: vec![rows] });
    }
    let is_step = |step: &f32| step.is_finite() && *step > 0.0;
    if let Some(row) = steps.values.iter().position(|step| !is_step(step)) {
        return Err(FormatFault::Step { name: steps.name, row, step: steps.values[row] });
    }
    let matrix = Int8Matrix::from_parts(multiples, steps.values, cols);
    let values = matrix.values();
    let again = Int8Matrix::new(&values, rows, cols);
    let differs =
        matrix.steps().iter().zip(again.steps()).position(|(step, expected)| step.to_bits() != expected.to_bits());
    if let Some(row) = differs {
        let (step, expected) = (matrix.steps()[row], again.steps()[row]);
        return Err(FormatFault::OtherStep { name: name.into(), row, step, expected });
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> NamedTensor {
        NamedTensor::new("a", [2, 2], vec![127.0, -3.2, 0.0, 254.0]).quantized()
    }

    /// The message of the fault in what [`split`] made of [`matrix`] and somebody has changed since.
    fn fault(change: impl FnOnce(&mut Vec<StoredTensor<'_>>)) -> String {
        let matrix = [matrix()];
        let mut stored = split(&matrix);
        change(&mut stored);
        join(stored).expect_err("a fault").to_string()
    }

    fn set_step(stored: &mut [StoredTensor<'_>], row: usize, step: f32) {
        let Numbers::F32(steps) = &mut stored[0].numbers else { panic!("the steps come first") };
        steps.to_mut()[row] = step;
    }

    #[test]
    fn a_matrix_in_eight_bits_lies_in_the_file_as_multiples_and_steps() {
        let matrix = matrix();
        assert_eq!(matrix.values, [127.0, -3.0, 0.0, 254.0]);
        assert_eq!(matrix.clone().quantized(), matrix);
        let tensors = [matrix, NamedTensor::new("b", [1], vec![0.3])];
        let stored = split(&tensors);
        let expected = [
            ("a.steps", &[2][..], Numbers::F32(vec![1.0, 2.0].into())),
            ("a", &[2, 2], Numbers::I8(vec![127, -3, 0, 127])),
            ("b", &[1], Numbers::F32(vec![0.3].into())),
        ];
        let expected =
            expected.map(|(name, shape, numbers)| StoredTensor { name: name.into(), shape: shape.into(), numbers });
        assert_eq!(stored, expected);
        assert_eq!(join(stored).expect("as it was written"), tensors);
    }

    #[test]
    fn each_fault_of_a_matrix_in_eight_bits_is_told_by_name() {
        let missing = fault(|stored| drop(stored.remove(0)));
        assert_eq!(missing, "tensor `a` is I8, but there is no F32 tensor `a.steps` of its steps");
        let renamed = fault(|stored| stored[0].name = "a.scales".into());
        assert_eq!(renamed, missing);
        let in_eight_bits = fault(|stored| stored[0].numbers = Numbers::I8(vec![1, 1]));
        assert!(in_eight_bits.starts_with("tensor `a") && in_eight_bits.ends_with(" of its steps"), "{in_eight_bits}");
        let transposed = fault(|stored| stored[0].shape = vec![1, 2].into());
        assert_eq!(transposed, "tensor `a.steps` has shape [1, 2], expected [2], a step for each row");
        let no_matrix = fault(|stored| stored[1].shape = vec![4].into());
        assert_eq!(no_matrix, "tensor `a` is I8 of shape [4], expected a matrix");
        for (step, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (0.0, "0.0"), (-2.0, "-2.0")] {
            let expected = format!("tensor `a.steps` holds {shown} at flat index 1, expected a positive step");
            assert_eq!(fault(|stored| set_step(stored, 1, step)), expected);
        }
    }

    #[test]
    fn a_row_that_would_be_written_otherwise_is_refused() {
        // Of a row that does not reach 127, of a step of too many bits, of one that leaves the range of f32.
        let short = fault(|stored| stored[1].numbers = Numbers::I8(vec![100, -3, 0, 127]));
        assert_eq!(short, "row 0 of tensor `a` has a step of 1.0, expected 0.7873993 for its multiples");
        let beyond = fault(|stored| stored[1].numbers = Numbers::I8(vec![127, -3, 0, -128]));
        assert!(beyond.starts_with("row 1 of tensor `a` has a step of 2.0, expected 2.0157"), "{beyond}");
        let fine = fault(|stored| set_step(stored, 0, 1.0f32.next_up()));
        assert_eq!(fine, "row 0 of tensor `a` has a step of 1.0000001, expected 1.0 for its multiples");
        let huge = fault(|stored| set_step(stored, 1, f32::MAX));
        assert_eq!(huge, "row 1 of tensor `a` has a step of 3.4028235e38, expected inf for its multiples");
        let zero = fault(|stored| stored[1].numbers = Numbers::I8(vec![0, 0, 0, 127]));
        assert_eq!(zero, "row 0 of tensor `a` has a step of 1.0, expected 1.1754944e-38 for its multiples");
    }

    #[test]
    #[should_panic(expected = "tensor `a` of shape [3] is no matrix, as those in eight bits are")]
    fn a_vector_in_eight_bits_is_a_bug() {
        let _ = NamedTensor::new("a", [3], vec![0.0; 3]).quantized();
    }
}
