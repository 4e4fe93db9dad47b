//! The part of Python's pickle language that state dictionaries are written in.
//!
//! A pickle is a program for a stack machine, which in Python may call anything. This machine knows the opcodes that build
//! dictionaries, lists, tuples, strings and numbers, and four callables, none of which is code: whatever else a pickle names
//! is refused by its name. Values are numbers of places in a heap, so that cycles cost nothing, and no opcode copies what is
//! there already, so that a pickle takes memory in proportion to its length.

mod machine;
mod write;

use super::element::Element;

pub(super) use machine::read;
pub(super) use write::{state_dict, strides};

/// More dimensions than any tensor of a model has.
const MAX_RANK: usize = 16;

/// What a pickle builds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    None,
    Bool,
    /// None for one that is not of 64 bits.
    Int(Option<i64>),
    Float,
    Text(&'a str),
    Bytes,
    Global(Global),
    /// Places in the heap.
    Tuple(usize),
    List(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

impl Value<'_> {
    /// What it is called in an error.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool => "a truth value",
            Self::Int(_) | Self::Float => "a number",
            Self::Text(_) => "a string",
            Self::Bytes => "bytes",
            Self::Global(_) => "a function or class",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

/// The names that a state dictionary may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(StorageKind),
}

/// The class of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StorageKind {
    /// What its numbers are called in an error.
    pub(super) name: &'static str,
    /// None for a type that does not become f32.
    pub(super) element: Option<Element>,
}

/// Each class of storages, less `torch.` and `Storage`.
const STORAGES: [(&str, StorageKind); 12] = {
    const fn kind(name: &'static str, element: Option<Element>) -> StorageKind {
        StorageKind { name, element }
    }
    [
        ("Float", kind("float32", Some(Element::F32))),
        ("Double", kind("float64", Some(Element::F64))),
        ("Half", kind("float16", Some(Element::F16))),
        ("BFloat16", kind("bfloat16", Some(Element::BF16))),
        ("Long", kind("int64", None)),
        ("Int", kind("int32", None)),
        ("Short", kind("int16", None)),
        ("Char", kind("int8", None)),
        ("Byte", kind("uint8", None)),
        ("Bool", kind("bool", None)),
        ("ComplexFloat", kind("complex64", None)),
        ("ComplexDouble", kind("complex128", None)),
    ]
};

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", _) => {
                let class = name.strip_suffix("Storage")?;
                STORAGES.iter().find(|(known, _)| *known == class).map(|&(_, kind)| Self::Storage(kind))
            }
            _ => None,
        }
    }
}

/// Numbers beside the pickle, under a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub(super) kind: StorageKind,
    pub(super) key: &'a str,
}

/// A tensor: how to walk through a storage.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Its place among the storages.
    pub(super) storage: usize,
    /// Numbers before its first one.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Numbers from one place of a dimension to the next, as many as `shape` has.
    pub(super) strides: Vec<usize>,
}

/// All that a pickle has built, and the value that it is.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    pub(super) root: Value<'a>,
    pub(super) tuples: Vec<Vec<Value<'a>>>,
    pub(super) lists: Vec<Vec<Value<'a>>>,
    pub(super) dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) tensors: Vec<View>,
}
