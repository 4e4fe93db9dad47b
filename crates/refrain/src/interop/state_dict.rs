//! State dictionaries: tensors by name, as PyTorch keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::element::Element;
use super::error::{ContentsFault, InteropError};
use super::torch_file::{self, Fault};
use crate::files::{self, because};
use crate::models::{Artefact, Dtypes, NamedTensor, RawTensor, raw_tensors};

/// The types of safetensors; those that are not floating-point numbers are left out.
const DTYPES: Dtypes = Dtypes {
    sizes: &[
        ("F64", 8),
        ("F32", 4),
        ("F16", 2),
        ("BF16", 2),
        ("I64", 8),
        ("I32", 4),
        ("I16", 2),
        ("I8", 1),
        ("U64", 8),
        ("U32", 4),
        ("U16", 2),
        ("U8", 1),
        ("BOOL", 1),
        ("C64", 8),
        ("F8_E4M3", 1),
        ("F8_E5M2", 1),
    ],
    names: "numbers of whole bytes",
};

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) tensors: Vec<NamedTensor>,
    /// Tensors of other numbers, and what those are.
    pub(super) left_out: BTreeMap<String, String>,
}

/// Tensors by name, in f32, between PyTorch and the layers here.
///
/// Names have dots where dictionaries nest: in the file of `torch.save({"model": model.state_dict(), "epoch": 3}, path)` a tensor
/// is called `model.encoder.weight_ih_l0`. Tensors of f64, f16 and bf16 become f32; those of whole numbers, such as the steps of
/// an optimiser, are left out.
///
/// ```no_run
/// use burn::tensor::Device;
/// use refrain::interop::{PyTorchRnn, StateDict};
///
/// # fn main() -> Result<(), refrain::interop::InteropError> {
/// let lstm = StateDict::read("lstm.pt".as_ref())?.rnn()?.lstm(&Device::flex())?;
/// let mut dict = StateDict::default();
/// dict.insert_rnn("encoder", &PyTorchRnn::try_from(&lstm)?);
/// dict.write_safetensors("encoder.safetensors".as_ref())?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    /// In the order of their names.
    tensors: Vec<NamedTensor>,
    left_out: BTreeMap<String, String>,
    origin: PathBuf,
}

impl StateDict {
    /// Reads a file of `torch.save` since PyTorch 1.6 (`.pt`, `.pth`) or of safetensors; its first bytes tell which.
    ///
    /// Nothing in a file is ever executed. Of a pickle, only what state dictionaries consist of is read: dictionaries, lists,
    /// tuples, strings, numbers, tensors and parameters. Whatever else it names is refused by that name.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is of another format or from before PyTorch 1.6, is damaged, big-endian or asks for more than
    /// a state dictionary.
    pub fn read(path: &Path) -> Result<Self, InteropError> {
        let bytes = std::fs::read(path).map_err(because("read", path))?;
        Self::from_bytes(&bytes, path)
    }

    /// Reads a whole file that is already in memory; `origin` is where it came from, for the errors.
    ///
    /// It takes memory in proportion to `bytes`, whatever they claim.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn from_bytes(bytes: &[u8], origin: &Path) -> Result<Self, InteropError> {
        let path = || origin.to_path_buf();
        let Contents { mut tensors, left_out } = if torch_file::is_archive(bytes) {
            torch_file::read(bytes).map_err(|fault| match fault {
                Fault::Archive(fault) => InteropError::Archive { path: path(), fault },
                Fault::Pickle(offset, fault) => InteropError::Pickle { path: path(), offset, fault },
                Fault::Contents(fault) => InteropError::Contents { path: path(), fault },
            })?
        } else if is_bare_pickle(bytes) {
            return Err(InteropError::Legacy { path: path() });
        } else {
            safetensors(bytes, origin)?
        };
        tensors.sort_by(|left, right| left.name.cmp(&right.name));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let fault = ContentsFault::Duplicate { name: pair[0].name.clone() };
            return Err(InteropError::Contents { path: path(), fault });
        }
        Ok(Self { tensors, left_out, origin: path() })
    }

    /// The tensors in the order of their names.
    pub fn tensors(&self) -> &[NamedTensor] {
        &self.tensors
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    ///
    /// If it is missing, or was left out for its type.
    pub fn get(&self, name: &str) -> Result<&NamedTensor, InteropError> {
        if let Some(tensor) = self.find(name) {
            return Ok(tensor);
        }
        let (path, name) = (self.origin.clone(), name.to_owned());
        match self.left_out.get(&name) {
            Some(dtype) => Err(InteropError::NotFloat { path, name, dtype: dtype.clone() }),
            None => Err(InteropError::MissingTensor { path, name, present: self.names() }),
        }
    }

    /// The file that it was read from, which errors name; empty for a dictionary made in memory.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// Puts a tensor in, in place of the one of the same name.
    pub fn insert(&mut self, tensor: NamedTensor) {
        match self.tensors.binary_search_by(|known| known.name.cmp(&tensor.name)) {
            Ok(place) => self.tensors[place] = tensor,
            Err(place) => self.tensors.insert(place, tensor),
        }
    }

    /// Writes safetensors, for `safetensors.torch.load_file`; the same tensors give the same bytes.
    ///
    /// # Errors
    ///
    /// If a tensor is called `__metadata__`, or the file cannot be written; its old content then stays.
    pub fn write_safetensors(&self, path: &Path) -> Result<(), InteropError> {
        // What other programs look for to learn that the names are PyTorch's.
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(Artefact::new(self.tensors.clone(), metadata).write(path)?)
    }

    /// Writes a `.pt` file, for `torch.load(path, weights_only=True)`; the same tensors give the same bytes.
    ///
    /// # Errors
    ///
    /// If there are more than 4 GiB, or the file cannot be written; its old content then stays.
    pub fn write_pt(&self, path: &Path) -> Result<(), InteropError> {
        let bytes = torch_file::write(&self.tensors).ok_or_else(|| InteropError::TooLarge { path: path.into() })?;
        Ok(files::write_atomic(path, &bytes)?)
    }

    pub(super) fn find(&self, name: &str) -> Option<&NamedTensor> {
        let place = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[place])
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.tensors.iter().map(|tensor| tensor.name.clone()).collect()
    }

    /// All names, those of tensors that were left out included.
    pub(super) fn all_names(&self) -> BTreeSet<&str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str()).chain(self.left_out.keys().map(String::as_str)).collect()
    }
}

/// Protocols 2 to 5 begin so; but so does safetensors whose header is of as many bytes.
fn is_bare_pickle(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 2..=5, ..]) && bytes.get(8) != Some(&b'{')
}

fn safetensors(bytes: &[u8], origin: &Path) -> Result<Contents, InteropError> {
    let mut contents = Contents::default();
    for RawTensor { name, dtype, shape, bytes } in raw_tensors(bytes, DTYPES, origin)? {
        match Element::from_safetensors(&dtype) {
            Some(element) => contents.tensors.push(NamedTensor::new(name, shape, element.decode(bytes))),
            None => drop(contents.left_out.insert(name, dtype)),
        }
    }
    Ok(contents)
}
