//! The one file format of Refrain: safetensors in f32 and in eight bits, with metadata strings beside the weights.

mod error;
mod int8;
mod layout;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use refrain_kernels::Int8Matrix;

pub use self::error::{ArtefactError, FormatFault};
use self::layout::Start;
pub(crate) use self::layout::{Dtypes, RawTensor};
use crate::files::{self, FileError};

/// Bytes that are enough to tell a pickle from safetensors.
const START: u64 = 4096;

/// In what the numbers of a tensor are kept in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dtype {
    /// Four bytes.
    #[default]
    F32,
    /// One byte, a multiple of a step, and beside the tensor `name` a tensor `name.steps` with the step of each row.
    I8,
}

impl Dtype {
    /// As the format calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::I8 => "I8",
        }
    }
}

/// A tensor outside of any backend, in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// The dotted path of the parameter, such as `stack.0.weight_ih`.
    pub name: String,
    /// The size of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// As many values as the product of `shape`; of a tensor in [`Dtype::I8`], what its multiples stand for.
    pub values: Vec<f32>,
    /// In what a file keeps them.
    pub dtype: Dtype,
}

impl NamedTensor {
    /// A tensor of `shape` in f32.
    ///
    /// # Panics
    ///
    /// If `values` is not as long as the product of `shape`.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Self {
        let tensor = Self { name: name.into(), shape: shape.into(), values, dtype: Dtype::F32 };
        tensor.assert_consistent();
        tensor
    }

    /// The matrix in eight bits, its values rounded to multiples of a step, each row with its own.
    ///
    /// Rounded again it is the same to the bit, as it is when it comes back from a file.
    ///
    /// # Panics
    ///
    /// If it is not of two dimensions.
    #[must_use]
    pub fn quantized(self) -> Self {
        let values = self.to_int8().values();
        Self { values, dtype: Dtype::I8, ..self }
    }

    /// The multiples and steps that stand for it in a file.
    fn to_int8(&self) -> Int8Matrix {
        let &[rows, cols] = self.shape.as_slice() else {
            panic!("tensor `{}` of shape {:?} is no matrix, as those in eight bits are", self.name, self.shape);
        };
        Int8Matrix::new(&self.values, rows, cols)
    }

    fn assert_consistent(&self) {
        let Self { name, shape, values, .. } = self;
        assert!(
            values.len() == shape.iter().product::<usize>(),
            "tensor `{name}` of shape {shape:?} cannot hold {} values",
            values.len()
        );
    }
}

/// Weights by name, and what belongs to them as strings: configuration, vocabulary, state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Artefact {
    /// The weights; in the order of their names after reading.
    pub tensors: Vec<NamedTensor>,
    /// Everything else.
    pub metadata: BTreeMap<String, String>,
    /// The file that it was read from, which errors name; empty for an artefact made in memory.
    pub origin: PathBuf,
}

impl Artefact {
    /// An artefact made in memory.
    pub fn new(tensors: Vec<NamedTensor>, metadata: BTreeMap<String, String>) -> Self {
        Self { tensors, metadata, origin: PathBuf::new() }
    }

    /// The bytes of the file: the same content gives the same bytes, whatever the order of `tensors`. Tensors in
    /// [`Dtype::I8`] are rounded as by [`NamedTensor::quantized`].
    ///
    /// # Errors
    ///
    /// If two tensors have one name, that of the steps of a tensor in eight bits included, or one has the name
    /// `__metadata__`, which the format keeps for itself.
    ///
    /// # Panics
    ///
    /// If a tensor does not hold as many values as its shape says, or is in eight bits and no matrix.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ArtefactError> {
        self.encode(&self.origin)
    }

    /// Reads a whole file that is already in memory; `origin` is where it came from, for the errors.
    ///
    /// # Errors
    ///
    /// Says what is wrong when the bytes are a pickle, are not safetensors, are cut off or damaged, or hold numbers that
    /// are neither f32 nor multiples of steps in eight bits. Never panics, and allocates no more than a small multiple of `bytes`.
    pub fn from_bytes(bytes: &[u8], origin: &Path) -> Result<Self, ArtefactError> {
        refuse_other_formats(bytes, origin)?;
        let (tensors, metadata) =
            layout::decode(bytes).map_err(|fault| ArtefactError::Format { path: origin.into(), fault })?;
        Ok(Self { tensors, metadata, origin: origin.into() })
    }

    /// Reads a file. A file of another format is refused after its first bytes, however large it is.
    ///
    /// # Errors
    ///
    /// As [`from_bytes`](Self::from_bytes), and if the file is missing, a folder, or closed to us.
    pub fn read(path: &Path) -> Result<Self, ArtefactError> {
        let failed = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => ArtefactError::NotFound { path: path.into() },
            ErrorKind::IsADirectory => ArtefactError::IsFolder { path: path.into() },
            _ => FileError::new("read", path, error).into(),
        };
        let mut file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(ErrorKind::IsADirectory.into()));
        }
        let mut bytes = Vec::new();
        file.by_ref().take(START).read_to_end(&mut bytes).map_err(failed)?;
        refuse_other_formats(&bytes, path)?;
        file.read_to_end(&mut bytes).map_err(failed)?;
        Self::from_bytes(&bytes, path)
    }

    /// Writes the file whole or not at all: a crash leaves either the old content or the new.
    ///
    /// # Errors
    ///
    /// As [`to_bytes`](Self::to_bytes), and if the file cannot be written; the old content then stays.
    pub fn write(&self, path: &Path) -> Result<(), ArtefactError> {
        Ok(files::write_atomic(path, &self.encode(path)?)?)
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    ///
    /// If it is missing or has another shape than `expected_shape`.
    pub fn get(&self, name: &str, expected_shape: &[usize]) -> Result<&NamedTensor, ArtefactError> {
        let Some(tensor) = self.tensors.iter().find(|tensor| tensor.name == name) else {
            return Err(ArtefactError::MissingTensor {
                path: self.origin.clone(),
                name: name.into(),
                expected: expected_shape.into(),
                present: self.tensors.iter().map(|tensor| tensor.name.clone()).collect(),
            });
        };
        if tensor.shape != expected_shape {
            return Err(ArtefactError::Shape {
                path: self.origin.clone(),
                name: name.into(),
                found: tensor.shape.clone(),
                expected: expected_shape.into(),
            });
        }
        Ok(tensor)
    }

    /// The metadata string under `key`.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn require_metadata(&self, key: &str) -> Result<&str, ArtefactError> {
        self.metadata
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| ArtefactError::MissingMetadata { path: self.origin.clone(), key: key.into() })
    }

    /// The error for metadata that is there but does not hold what it should; `reason` follows on from the key.
    pub fn bad_metadata(&self, key: &str, reason: impl Into<String>) -> ArtefactError {
        ArtefactError::BadMetadata { path: self.origin.clone(), key: key.into(), reason: reason.into() }
    }

    /// Checks that one of its tensors is kept in `expected`.
    pub(crate) fn require_dtype(&self, tensor: &NamedTensor, expected: Dtype) -> Result<(), ArtefactError> {
        if tensor.dtype == expected {
            return Ok(());
        }
        let (path, name) = (self.origin.clone(), tensor.name.clone());
        Err(ArtefactError::Dtype { path, name, found: tensor.dtype, expected })
    }

    /// Checks that every weight is a finite number.
    ///
    /// # Errors
    ///
    /// Names the first tensor and the flat index of a value that is infinite or not a number.
    pub fn require_finite(&self) -> Result<(), ArtefactError> {
        for tensor in &self.tensors {
            if let Some(index) = tensor.values.iter().position(|value| !value.is_finite()) {
                return Err(ArtefactError::NotFinite {
                    path: self.origin.clone(),
                    name: tensor.name.clone(),
                    index,
                    value: tensor.values[index],
                });
            }
        }
        Ok(())
    }

    fn encode(&self, path: &Path) -> Result<Vec<u8>, ArtefactError> {
        layout::encode(&self.tensors, &self.metadata)
            .map_err(|fault| ArtefactError::Format { path: path.into(), fault })
    }
}

/// The tensors of a safetensors file that need not be ours, whose types are among `dtypes`; `origin` as in
/// [`Artefact::from_bytes`].
pub(crate) fn raw_tensors<'a>(
    bytes: &'a [u8],
    dtypes: Dtypes,
    origin: &Path,
) -> Result<Vec<RawTensor<'a>>, ArtefactError> {
    refuse_other_formats(bytes, origin)?;
    let (tensors, _) =
        layout::split(bytes, dtypes).map_err(|fault| ArtefactError::Format { path: origin.into(), fault })?;
    Ok(tensors)
}

fn refuse_other_formats(start: &[u8], path: &Path) -> Result<(), ArtefactError> {
    match layout::judge_start(start) {
        Start::Plausible => Ok(()),
        Start::Pickle => Err(ArtefactError::Pickle { path: path.into() }),
        Start::Fault(fault) => Err(ArtefactError::Format { path: path.into(), fault }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::tests::Scratch;

    fn sample() -> Artefact {
        let tensors = vec![
            NamedTensor::new("bias", [2], vec![0.5, -1.0]),
            NamedTensor::new("weight", [2, 2], vec![1.0, 2.0, 3.0, 4.0]),
        ];
        Artefact::new(tensors, [("task".to_string(), "language-model".to_string())].into())
    }

    #[test]
    fn a_file_is_read_back_as_it_was_written_and_remembers_where_from() {
        let scratch = Scratch::new();
        let path = scratch.join("best.safetensors");
        sample().write(&path).expect("written");
        let read = Artefact::read(&path).expect("read");
        assert_eq!(read, Artefact { origin: path.clone(), ..sample() });
        assert_eq!(fs::read(&path).expect("there"), read.to_bytes().expect("encoded"));
        assert_eq!(scratch.names(), ["best.safetensors"]);
    }

    #[test]
    fn a_file_larger_than_its_first_block_is_read_whole() {
        let scratch = Scratch::new();
        let path = scratch.join("large.safetensors");
        let values: Vec<f32> = (0..10_000).map(|value| value as f32).collect();
        Artefact::new(vec![NamedTensor::new("a", [10_000], values.clone())], BTreeMap::new())
            .write(&path)
            .expect("written");
        assert_eq!(Artefact::read(&path).expect("read").get("a", &[10_000]).expect("there").values, values);
    }

    #[test]
    fn what_is_missing_or_has_another_shape_is_told_with_both_shapes() {
        let artefact = Artefact { origin: "runs/x/best.safetensors".into(), ..sample() };
        assert_eq!(artefact.get("bias", &[2]).expect("there").values, [0.5, -1.0]);
        let error = artefact.get("weight", &[2, 4]).expect_err("another shape");
        let expected = "runs/x/best.safetensors: tensor `weight` has shape [2, 2], expected [2, 4]";
        assert_eq!(error.to_string(), expected);
        let error = artefact.get("head", &[3]).expect_err("missing");
        assert_eq!(error.to_string(), "runs/x/best.safetensors: no tensor `head`, expected with shape [3]");
        assert_eq!(error.hint().as_deref(), Some("it holds bias, weight"));
        assert_eq!(artefact.require_metadata("task").expect("there"), "language-model");
        let error = artefact.require_metadata("vocabulary").expect_err("missing");
        assert_eq!(error.to_string(), "runs/x/best.safetensors: no `vocabulary` in the metadata");
        let error = sample().get("head", &[]).expect_err("missing");
        assert_eq!(error.to_string(), "no tensor `head`, expected with shape []");
    }

    #[test]
    fn a_weight_that_is_not_finite_is_named_with_its_place() {
        sample().require_finite().expect("all finite");
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut artefact = Artefact { origin: "a.safetensors".into(), ..sample() };
            artefact.tensors[1].values[3] = value;
            let error = artefact.require_finite().expect_err("not finite");
            assert_eq!(error.to_string(), format!("a.safetensors: tensor `weight` holds {value} at flat index 3"));
        }
    }

    #[test]
    fn a_pickle_is_refused_with_the_way_to_convert_it() {
        let error =
            Artefact::from_bytes(b"PK\x03\x04....archive/data.pkl", Path::new("m/model.pt")).expect_err("refused");
        assert_eq!(error.to_string(), "m/model.pt: is a PyTorch pickle; Refrain never executes pickles");
        let hint = error.hint().expect("a hint");
        assert!(hint.contains("weights_only=True") && hint.ends_with("'m/model.pt' 'm/model.safetensors'"), "{hint}");
        assert_eq!(hint.lines().count(), 1);
    }

    #[test]
    fn a_path_that_is_no_file_is_named() {
        let scratch = Scratch::new();
        let error = Artefact::read(scratch.path()).expect_err("a folder");
        assert_eq!(error.to_string(), format!("{}: is a folder, not a safetensors file", scratch.path().display()));
        let missing = scratch.join("none.safetensors");
        let error = Artefact::read(&missing).expect_err("missing");
        assert_eq!(error.to_string(), format!("{}: no such file", missing.display()));
        let inside = scratch.join("none/a.safetensors");
        let error = sample().write(&inside).expect_err("no such folder");
        assert_eq!(error.to_string(), format!("cannot write {}: no such file or folder", inside.display()));
    }

    #[test]
    fn every_fault_names_the_file_on_one_line() {
        let bytes = sample().to_bytes().expect("encoded");
        for length in 0..bytes.len() {
            let error = Artefact::from_bytes(&bytes[..length], Path::new("x.safetensors")).expect_err("cut");
            let message = error.to_string();
            assert!(message.starts_with("x.safetensors: ") && message.lines().count() == 1, "{message}");
        }
    }

    #[test]
    #[should_panic(expected = "tensor `a` of shape [3] cannot hold 2 values")]
    fn a_shape_that_does_not_match_its_values_is_a_bug() {
        NamedTensor::new("a", [3], vec![0.0, 0.0]);
    }
}
