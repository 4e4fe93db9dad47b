//! What can be wrong with the weights of others.

use std::path::{Path, PathBuf};

use crate::files::FileError;
use crate::models::ArtefactError;

/// Weights that cannot be read, or are not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum InteropError {
    /// The operating system refused to read or write the file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not a whole and sound safetensors file, or a tensor is not there.
    #[error(transparent)]
    Safetensors(#[from] ArtefactError),
    /// A pickle without the archive around it, as `torch.save` wrote before PyTorch 1.6.
    #[error("{}is a PyTorch file from before version 1.6, or another pickle", prefix(path))]
    Legacy {
        /// The file.
        path: PathBuf,
    },
    /// The archive of a PyTorch file is not as it should be.
    #[error("{}{fault}", prefix(path))]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: ArchiveFault,
    },
    /// The pickle in a PyTorch file is damaged, or asks for more than a state dictionary.
    #[error("{}its pickle, at byte {offset}, {fault}", prefix(path))]
    Pickle {
        /// The file.
        path: PathBuf,
        /// Where in the pickle.
        offset: usize,
        /// What is wrong there.
        fault: PickleFault,
    },
    /// The tensors of a PyTorch file do not fit together.
    #[error("{}{fault}", prefix(path))]
    Contents {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        fault: ContentsFault,
    },
    /// More than the four gigabytes that an archive without numbers of 64 bits holds.
    #[error("{}more than 4 GiB of weights are not written as a PyTorch file", prefix(path))]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// There is no recurrent module.
    #[error("{}no recurrent module: no tensor is called `weight_ih_l0`", prefix(path))]
    NoModule {
        /// The file, empty for weights made in memory.
        path: PathBuf,
        /// The names that are there.
        present: Vec<String>,
    },
    /// There are several recurrent modules, and none was named.
    #[error("{}{} recurrent modules: {}", prefix(path), prefixes.len(), quoted(prefixes))]
    SeveralModules {
        /// The file, empty for weights made in memory.
        path: PathBuf,
        /// Their names.
        prefixes: Vec<String>,
    },
    /// A tensor that the module needs is not there.
    #[error("{}no tensor `{}`", prefix(path), shown(name))]
    MissingTensor {
        /// The file, empty for weights made in memory.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The names that are there.
        present: Vec<String>,
    },
    /// A tensor is of numbers that do not become f32.
    #[error("{}tensor `{}` is of {dtype}, not of floating-point numbers", prefix(path), shown(name))]
    NotFloat {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What its numbers are.
        dtype: String,
    },
    /// A tensor has another shape than its module needs.
    #[error("{}tensor `{}` has shape {found:?}, expected {expected}", prefix(path), shown(name))]
    Shape {
        /// The file, empty for weights made in memory.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the other tensors ask for.
        expected: String,
    },
    /// A tensor looks like one of the module's, but has no place in it.
    #[error("{}tensor `{}` has no place in a module of {num_layers} layers with {with}", prefix(path), shown(name))]
    Unexpected {
        /// The file, empty for weights made in memory.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// How many layers the module has.
        num_layers: usize,
        /// What else it has.
        with: String,
    },
    /// The module is of another kind than the layer.
    #[error("{} is an nn.{found}, not an nn.{expected}", module(name))]
    Kind {
        /// The module.
        name: String,
        /// What it is.
        found: &'static str,
        /// What was asked for.
        expected: &'static str,
    },
    /// The module has an option that the layer has not.
    #[error("{} {has}: it does not fit into {layer}", module(name))]
    Option {
        /// The module.
        name: String,
        /// The option.
        has: String,
        /// What was to be made of it.
        layer: &'static str,
    },
    /// Layers that are not those of one PyTorch module.
    #[error("layer {layer} of the {of} is {found}, but a PyTorch module here has {expected}")]
    MixedStack {
        /// What they are the layers of.
        of: &'static str,
        /// The layer, counted from 0.
        layer: usize,
        /// What it is.
        found: String,
        /// What it would have to be.
        expected: String,
    },
    /// A layer has what no PyTorch module has, and would compute something else there.
    #[error("{name} has {what}, which no PyTorch module has")]
    Foreign {
        /// The layer.
        name: String,
        /// What it has.
        what: String,
    },
}

/// What is wrong with the archive around a PyTorch file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveFault {
    /// The directory at the end is not there.
    #[error("has no directory at its end, as a zip archive has: is it truncated?")]
    NoDirectory,
    /// The directory cannot be read.
    #[error("has a damaged directory at its end")]
    Directory,
    /// Two entries have one name.
    #[error("has two entries `{}`", shown(name))]
    Duplicate {
        /// The name.
        name: String,
    },
    /// No entry has the pickle.
    #[error("is a zip archive without `data.pkl`, not a PyTorch file")]
    NoPickle,
    /// An entry that the pickle asks for is not there.
    #[error("has no entry `{}`", shown(name))]
    Missing {
        /// The entry.
        name: String,
    },
    /// An entry is not stored as it is.
    #[error("entry `{}` is compressed or encrypted", shown(name))]
    Compressed {
        /// The entry.
        name: String,
    },
    /// An entry goes on past the end of the file.
    #[error("entry `{}` claims {size} bytes, which are not there", shown(name))]
    Truncated {
        /// The entry.
        name: String,
        /// Bytes that it claims.
        size: u64,
    },
    /// An entry has changed since it was written.
    #[error("entry `{}` does not fit its checksum", shown(name))]
    Checksum {
        /// The entry.
        name: String,
    },
    /// Its numbers are big-endian.
    #[error("is of the byte order `{}`, only `little` is read", shown(order))]
    ByteOrder {
        /// What the file says.
        order: String,
    },
}

/// What is wrong with a pickle, or more than a state dictionary.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleFault {
    /// It ends too early.
    #[error("ends in the middle")]
    Truncated,
    /// A protocol that is not read.
    #[error("is written in protocol {0}, only 2 to 5 are read")]
    Protocol(u8),
    /// An opcode that state dictionaries do not use.
    #[error("has the opcode {0:#04x}, which state dictionaries do not use")]
    Opcode(u8),
    /// A function or class that would have to be executed.
    #[error("asks for `{}`, which is no part of a state dictionary", shown(.0))]
    Global(String),
    /// The stack is too low.
    #[error("takes more from its stack than there is")]
    Stack,
    /// A place in the memo that was never set.
    #[error("reads what it never put into its memo, at {0}")]
    Memo(u32),
    /// A string that is none.
    #[error("has a string that is not UTF-8")]
    NotText,
    /// A call that PyTorch does not write.
    #[error("calls {0} with other arguments than a state dictionary")]
    Call(&'static str),
    /// A value where another belongs.
    #[error("takes {found} for {expected}")]
    Type {
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
}

/// What does not fit together in a PyTorch file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentsFault {
    /// The file holds something else than a dictionary.
    #[error("holds {found}, not a state dictionary")]
    NotDictionary {
        /// What it holds.
        found: &'static str,
    },
    /// Dictionaries in dictionaries without an end.
    #[error("`{}` nests deeper than {limit} levels", shown(name))]
    Depth {
        /// Where.
        name: String,
        /// How deep dictionaries may nest.
        limit: usize,
    },
    /// The same dictionaries over and over.
    #[error("repeats its dictionaries until there are more than {limit} names and values")]
    Work {
        /// Bytes of names and values that are looked at.
        limit: usize,
    },
    /// Two tensors have one name.
    #[error("tensor `{}` is there twice", shown(name))]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A tensor reaches beyond its storage.
    #[error("tensor `{}` of shape {shape:?} reaches beyond its storage, which has {numbers} numbers", shown(name))]
    Range {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// How many numbers its storage has.
        numbers: usize,
    },
    /// Tensors that repeat a few numbers until they do not fit into memory.
    #[error("tensor `{}` of shape {shape:?} repeats the numbers of the file too often", shown(name))]
    Repeats {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
}

impl InteropError {
    /// What the user can do about it, when we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Safetensors(error) => error.hint(),
            Self::Legacy { .. } => Some(
                "load it with a current PyTorch and save it again: torch.save(torch.load(path, weights_only=True), path)"
                    .into(),
            ),
            Self::Archive { fault, .. } => match fault {
                ArchiveFault::NoPickle => Some("Refrain reads .safetensors and .pt files".into()),
                ArchiveFault::Compressed { .. } => Some("save it again with torch.save, which compresses nothing".into()),
                ArchiveFault::ByteOrder { .. } => Some("save it again on a little-endian machine".into()),
                _ => Some("the file is damaged: copy or download it again".into()),
            },
            Self::Pickle { fault, .. } => match fault {
                PickleFault::Global(_) | PickleFault::Opcode(_) | PickleFault::Call(_) => Some(
                    "Refrain executes nothing: save the weights alone, torch.save(model.state_dict(), path)".into(),
                ),
                PickleFault::Protocol(_) => Some("save it again with the protocol that torch.save takes by itself".into()),
                _ => Some("the file is damaged: copy or download it again".into()),
            },
            Self::Contents { fault, .. } => match fault {
                ContentsFault::NotDictionary { .. } | ContentsFault::Depth { .. } | ContentsFault::Work { .. } => {
                    Some("save the weights alone: torch.save(model.state_dict(), path)".into())
                }
                ContentsFault::Repeats { .. } => Some("make such tensors .contiguous() before they are saved".into()),
                ContentsFault::Duplicate { .. } => None,
                ContentsFault::Range { .. } => Some("the file is damaged: copy or download it again".into()),
            },
            Self::TooLarge { .. } => Some("write safetensors".into()),
            Self::NoModule { present, .. } | Self::MissingTensor { present, .. } => {
                Some(format!("it holds {}", quoted(present)))
            }
            Self::SeveralModules { .. } => Some("name the one to take".into()),
            Self::NotFloat { .. } => Some("quantised modules are not read: save the module as it was trained".into()),
            Self::Kind { .. } | Self::Shape { .. } | Self::MixedStack { .. } | Self::Foreign { .. } => None,
            Self::Unexpected { .. } => Some("weights of weight_norm and the like must be folded into one first".into()),
            Self::Option { .. } => Some("the weights of each layer and direction are there one by one".into()),
        }
    }
}

/// `path: ` in front of a message, nothing for weights that have no file.
fn prefix(path: &Path) -> String {
    if path.as_os_str().is_empty() { String::new() } else { format!("{}: ", path.display()) }
}

/// A name from a file that may be hostile, on one line and not without end.
fn shown(name: &str) -> String {
    const SHOWN: usize = 120;
    match name.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", name[..end].escape_debug()),
        None => name.escape_debug().to_string(),
    }
}

fn module(name: &str) -> String {
    if name.is_empty() { "the module".into() } else { format!("module `{}`", shown(name)) }
}

fn quoted(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let list = |names: &[String]| names.iter().map(|name| format!("`{}`", shown(name))).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "no tensors of floating-point numbers".into(),
        count if count <= SHOWN => list(names),
        count => format!("{} and {} more", list(&names[..SHOWN]), count - SHOWN),
    }
}
