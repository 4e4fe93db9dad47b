//! What can be wrong with an artefact.

use std::path::{Path, PathBuf};

use super::Dtype;
use crate::files::FileError;

/// A file of weights that cannot be read or does not hold what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactError {
    /// The operating system refused to read or write the file.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no such file.
    #[error("{}: no such file", path.display())]
    NotFound {
        /// The file that was asked for.
        path: PathBuf,
    },
    /// The path names a folder.
    #[error("{}: is a folder, not a safetensors file", path.display())]
    IsFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The file is a Python pickle, which would have to be executed to be read.
    #[error("{}: is a PyTorch pickle; Refrain never executes pickles", path.display())]
    Pickle {
        /// The pickle.
        path: PathBuf,
    },
    /// The file is not a whole and sound safetensors file.
    #[error("{}{fault}", prefix(path))]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        fault: FormatFault,
    },
    /// A tensor that the model needs is not there.
    #[error("{}no tensor `{name}`, expected with shape {expected:?}", prefix(path))]
    MissingTensor {
        /// The file, empty for an artefact made in memory.
        path: PathBuf,
        /// The tensor that was asked for.
        name: String,
        /// The shape that the model needs.
        expected: Vec<usize>,
        /// The names that the artefact holds.
        present: Vec<String>,
    },
    /// A tensor has another shape than the model needs.
    #[error("{}tensor `{name}` has shape {found:?}, expected {expected:?}", prefix(path))]
    Shape {
        /// The file, empty for an artefact made in memory.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape in the artefact.
        found: Vec<usize>,
        /// The shape that the model needs.
        expected: Vec<usize>,
    },
    /// A tensor is kept in another type than its model has for it.
    #[error("{}tensor `{name}` is {}, expected {}", prefix(path), found.name(), expected.name())]
    Dtype {
        /// The file, empty for an artefact made in memory.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// In what it is kept.
        found: Dtype,
        /// In what the model has it.
        expected: Dtype,
    },
    /// A weight is not a finite number.
    #[error("{}tensor `{name}` holds {value} at flat index {index}", prefix(path))]
    NotFinite {
        /// The file, empty for an artefact made in memory.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Where the value is, counted row by row from 0.
        index: usize,
        /// The value: infinite or not a number.
        value: f32,
    },
    /// A key of the metadata is not there.
    #[error("{}no `{key}` in the metadata", prefix(path))]
    MissingMetadata {
        /// The file, empty for an artefact made in memory.
        path: PathBuf,
        /// The key that was asked for.
        key: String,
    },
    /// A key of the metadata does not hold what it should.
    #[error("{}`{key}` in the metadata {reason}", prefix(path))]
    BadMetadata {
        /// The file, empty for an artefact made in memory.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value.
        reason: String,
    },
}

/// What is wrong inside a file that should be safetensors.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum FormatFault {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// The file does not begin as safetensors does.
    #[error("is not a safetensors file{}", guess(*looks_like))]
    NotSafetensors {
        /// What it looks like instead, where we can tell.
        looks_like: Option<&'static str>,
    },
    /// The header would be longer than the format allows.
    #[error("the header claims {claimed} bytes, the format allows {allowed}")]
    HeaderLength {
        /// Bytes that the first eight bytes of the file claim.
        claimed: u64,
        /// Bytes that a safetensors header may have.
        allowed: u64,
    },
    /// The file ends before its header says.
    #[error("is truncated: the header says {expected} bytes, the file has {found}")]
    Truncated {
        /// Bytes that the whole file should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// The file goes on after its last tensor.
    #[error("has {extra} bytes after its last tensor")]
    TrailingBytes {
        /// How many.
        extra: u64,
    },
    /// The header is not the JSON that the format asks for.
    #[error("the header cannot be read: {reason}")]
    Header {
        /// What the JSON parser says, with its column in the header.
        reason: String,
    },
    /// A tensor of another number type.
    #[error("tensor `{name}` is {dtype}, only {read} are read")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type, in the words of the format.
        dtype: String,
        /// The types that are read.
        read: &'static str,
    },
    /// A tensor in eight bits that is no matrix, whose rows would have steps.
    #[error("tensor `{name}` is I8 of shape {shape:?}, expected a matrix")]
    NotMatrix {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor in eight bits whose steps are not there.
    #[error("tensor `{name}` is I8, but there is no F32 tensor `{steps}` of its steps")]
    MissingSteps {
        /// The tensor.
        name: String,
        /// The name that its steps should have.
        steps: String,
    },
    /// The steps of a tensor in eight bits are not one a row.
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}, a step for each row")]
    StepsShape {
        /// The tensor of the steps.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that goes with the multiples.
        expected: Vec<usize>,
    },
    /// A step is not a positive finite number.
    #[error("tensor `{name}` holds {step:?} at flat index {row}, expected a positive step")]
    Step {
        /// The tensor of the steps.
        name: String,
        /// The row that it is the step of.
        row: usize,
        /// The step.
        step: f32,
    },
    /// A row in eight bits that would be rounded otherwise here: its numbers would change from file to file.
    #[error("row {row} of tensor `{name}` has a step of {step:?}, expected {expected:?} for its multiples")]
    OtherStep {
        /// The tensor.
        name: String,
        /// The row.
        row: usize,
        /// Its step.
        step: f32,
        /// The step that the row's greatest weight asks for.
        expected: f32,
    },
    /// The bytes set aside for a tensor are not the bytes that its shape needs.
    #[error("tensor `{name}` of shape {shape:?} does not fit bytes {begin}..{end}")]
    Size {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// First byte, counted from the end of the header.
        begin: u64,
        /// The byte after its last.
        end: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap {
        /// The tensor that comes first.
        first: String,
        /// The one that begins inside it.
        second: String,
    },
    /// Bytes that belong to no tensor.
    #[error("{bytes} bytes before tensor `{name}` belong to no tensor")]
    Gap {
        /// The tensor after the gap.
        name: String,
        /// Bytes in the gap.
        bytes: u64,
    },
    /// Two tensors have one name.
    #[error("tensor `{name}` is there twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A tensor has the name that the format keeps for the metadata.
    #[error("`{name}` cannot be the name of a tensor")]
    ReservedName {
        /// The name.
        name: String,
    },
}

impl ArtefactError {
    /// What the user can do about it, when we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::NotFound { .. } => Some("check the spelling and the folder".into()),
            Self::IsFolder { .. } => Some("name the .safetensors file inside it".into()),
            Self::Pickle { path } => Some(python(path, "torch.load(source, weights_only=True)")),
            Self::Format { path, fault } => match fault {
                FormatFault::Dtype { .. } => Some(python(path, "safetensors.torch.load_file(source)")),
                FormatFault::Empty | FormatFault::Truncated { .. } => Some("copy or download the file again".into()),
                FormatFault::Duplicate { .. } | FormatFault::ReservedName { .. } => None,
                FormatFault::NotMatrix { .. } | FormatFault::MissingSteps { .. } | FormatFault::StepsShape { .. } => {
                    Some("was the file written by Refrain?".into())
                }
                FormatFault::NotSafetensors { .. } => Some("Refrain reads .safetensors files".into()),
                _ => Some("the file is damaged: copy or download it again".into()),
            },
            Self::MissingTensor { present, .. } => Some(format!("it holds {}", shortened(present))),
            Self::Shape { .. } => Some("the configuration must be the one that the weights were trained with".into()),
            Self::NotFinite { .. } => {
                Some("the training diverged: go back to an older checkpoint, lower the learning rate or clip".into())
            }
            Self::Dtype { .. } | Self::MissingMetadata { .. } => Some("was the file written by Refrain?".into()),
            Self::BadMetadata { .. } => Some("was the file written by this version of Refrain?".into()),
        }
    }
}

/// `path: ` in front of a message, nothing for an artefact that has no file.
fn prefix(path: &Path) -> String {
    if path.as_os_str().is_empty() { String::new() } else { format!("{}: ", path.display()) }
}

fn guess(looks_like: Option<&str>) -> String {
    looks_like.map_or_else(String::new, |kind| format!(", it looks like {kind}"))
}

/// One line of Python that writes the weights as f32 beside the old file.
fn python(path: &Path, load: &str) -> String {
    let target = match path.extension() {
        Some(extension) if extension == "safetensors" => path.with_extension("f32.safetensors"),
        _ => path.with_extension("safetensors"),
    };
    format!(
        "convert it with: python -c \"import sys, torch, safetensors.torch; source, target = sys.argv[1:]; \
         safetensors.torch.save_file({{k: v.float().contiguous().clone() for k, v in {load}.items()}}, target)\" \
         '{}' '{}'",
        path.display(),
        target.display()
    )
}

fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 6;
    match names.len() {
        0 => "no tensors".into(),
        count if count <= SHOWN => names.join(", "),
        count => format!("{} and {} more", names[..SHOWN].join(", "), count - SHOWN),
    }
}
