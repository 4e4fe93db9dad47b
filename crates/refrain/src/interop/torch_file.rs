//! Files of `torch.save`: an archive with a pickle that describes tensors, and an entry for the numbers of each storage.

use std::collections::btree_map::{BTreeMap, Entry};

use super::element::Element;
use super::error::{ArchiveFault, ContentsFault, PickleFault};
use super::pickle::{self, Pickle, Value, View};
use super::state_dict::Contents;
use super::zip::{Archive, ArchiveWriter};
use crate::models::NamedTensor;

/// Dictionaries nest a few levels in a checkpoint: model, module, parameter.
const MAX_DEPTH: usize = 32;
/// Bytes of names and values that a walk looks at, far more than a checkpoint has.
const MAX_WORK: usize = 64 << 20;
/// Numbers that tensors may share in a small file.
const FREE_NUMBERS: usize = 1 << 20;
/// The folder in the archive, as PyTorch calls it where it knows no name of a file.
const FOLDER: &str = "archive";

pub(super) enum Fault {
    Archive(ArchiveFault),
    Pickle(usize, PickleFault),
    Contents(ContentsFault),
}

impl From<ArchiveFault> for Fault {
    fn from(fault: ArchiveFault) -> Self {
        Self::Archive(fault)
    }
}

impl From<ContentsFault> for Fault {
    fn from(fault: ContentsFault) -> Self {
        Self::Contents(fault)
    }
}

/// Whether a file begins as an archive does.
pub(super) fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

pub(super) fn read(bytes: &[u8]) -> Result<Contents, Fault> {
    let archive = Archive::open(bytes)?;
    let mut names = archive.names();
    let folder =
        names.find_map(|name| name.strip_suffix("data.pkl").filter(|rest| rest.is_empty() || rest.ends_with('/')));
    let folder = folder.ok_or(ArchiveFault::NoPickle)?;
    let order = format!("{folder}byteorder");
    if archive.contains(&order) {
        let order = archive.entry(&order)?.trim_ascii();
        if order != b"little" {
            return Err(ArchiveFault::ByteOrder { order: String::from_utf8_lossy(order).into_owned() }.into());
        }
    }
    let program = archive.entry(&format!("{folder}data.pkl"))?;
    let pickle = pickle::read(program).map_err(|(offset, fault)| Fault::Pickle(offset, fault))?;
    let mut reader = Reader {
        storages: Storages { archive: &archive, folder, read: BTreeMap::new() },
        pickle: &pickle,
        contents: Contents::default(),
        work: 0,
        // As many as the file could hold in f16, four times over.
        numbers: FREE_NUMBERS.saturating_add(bytes.len().saturating_mul(2)),
    };
    match pickle.root {
        Value::Dict(_) => reader.walk(pickle.root, &mut String::new(), 0)?,
        other => return Err(ContentsFault::NotDictionary { found: other.kind() }.into()),
    }
    Ok(reader.contents)
}

/// Storages that have been asked for, so that each is held against its checksum once.
struct Storages<'a> {
    archive: &'a Archive<'a>,
    folder: &'a str,
    read: BTreeMap<&'a str, &'a [u8]>,
}

impl<'a> Storages<'a> {
    fn get(&mut self, key: &'a str) -> Result<&'a [u8], ArchiveFault> {
        match self.read.entry(key) {
            Entry::Occupied(read) => Ok(read.get()),
            Entry::Vacant(vacant) => {
                let bytes = self.archive.entry(&format!("{}data/{key}", self.folder))?;
                Ok(vacant.insert(bytes))
            }
        }
    }
}

/// The walk from the dictionary at the root to all tensors.
struct Reader<'a> {
    storages: Storages<'a>,
    pickle: &'a Pickle<'a>,
    contents: Contents,
    /// Bytes of names and values looked at so far.
    work: usize,
    /// How many more may be read.
    numbers: usize,
}

impl<'a> Reader<'a> {
    fn walk(&mut self, value: Value<'a>, name: &mut String, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(ContentsFault::Depth { name: name.clone(), limit: MAX_DEPTH }.into());
        }
        let len = match value {
            Value::Dict(place) => self.pickle.dicts[place].len(),
            Value::List(place) => self.pickle.lists[place].len(),
            Value::Tuple(place) => self.pickle.tuples[place].len(),
            Value::Tensor(_) => 1,
            _ => return Ok(()),
        };
        // A dictionary may stand in others many times over, each time under another name.
        self.work = self.work.saturating_add(name.len() + len);
        if self.work > MAX_WORK {
            return Err(ContentsFault::Work { limit: MAX_WORK }.into());
        }
        match value {
            Value::Dict(place) => {
                for &(key, value) in &self.pickle.dicts[place] {
                    match key {
                        Value::Text(key) => self.below(value, name, key, depth)?,
                        Value::Int(Some(key)) => self.below(value, name, &key.to_string(), depth)?,
                        // Such a key has no place in a name.
                        _ => {}
                    }
                }
            }
            Value::List(place) | Value::Tuple(place) => {
                let items = match value {
                    Value::List(_) => &self.pickle.lists[place],
                    _ => &self.pickle.tuples[place],
                };
                for (index, &item) in items.iter().enumerate() {
                    self.below(item, name, &index.to_string(), depth)?;
                }
            }
            Value::Tensor(place) => self.tensor(&self.pickle.tensors[place], name)?,
            _ => {}
        }
        Ok(())
    }

    fn below(&mut self, value: Value<'a>, name: &mut String, key: &str, depth: usize) -> Result<(), Fault> {
        let length = name.len();
        if depth > 0 {
            name.push('.');
        }
        name.push_str(key);
        self.walk(value, name, depth + 1)?;
        name.truncate(length);
        Ok(())
    }

    fn tensor(&mut self, view: &'a View, name: &str) -> Result<(), Fault> {
        let storage = self.pickle.storages[view.storage];
        let Some(element) = storage.kind.element else {
            self.contents.left_out.insert(name.into(), storage.kind.name.into());
            return Ok(());
        };
        let bytes = self.storages.get(storage.key)?;
        let shape = || view.shape.clone();
        let numbers = bytes.len() / element.size();
        let walk = Walk::new(view, numbers).ok_or_else(|| ContentsFault::Range {
            name: name.into(),
            shape: shape(),
            numbers,
        })?;
        self.numbers = self
            .numbers
            .checked_sub(walk.count)
            .ok_or_else(|| ContentsFault::Repeats { name: name.into(), shape: shape() })?;
        self.contents.tensors.push(NamedTensor::new(name, shape(), walk.read(element, bytes)));
        Ok(())
    }
}

/// A tensor's way through its storage, all of which is inside.
struct Walk<'a> {
    shape: &'a [usize],
    /// 0 for a dimension of one place, which has no next.
    strides: Vec<usize>,
    offset: usize,
    /// The product of `shape`.
    count: usize,
}

impl<'a> Walk<'a> {
    /// None if it reaches beyond as many `numbers`.
    fn new(view: &'a View, numbers: usize) -> Option<Self> {
        let View { shape, offset, .. } = view;
        let count = shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size))?;
        if count == 0 {
            return Some(Self { shape, strides: vec![0; shape.len()], offset: 0, count });
        }
        let mut last = *offset;
        let mut strides = Vec::with_capacity(shape.len());
        for (&size, &stride) in shape.iter().zip(&view.strides) {
            let stride = if size == 1 { 0 } else { stride };
            last = (size - 1).checked_mul(stride).and_then(|reach| last.checked_add(reach))?;
            strides.push(stride);
        }
        (last < numbers).then_some(Self { shape, strides, offset: *offset, count })
    }

    fn read(&self, element: Element, bytes: &[u8]) -> Vec<f32> {
        let size = element.size();
        let rows = pickle::strides(self.shape);
        let is_row_major = self.shape.iter().zip(&self.strides).zip(&rows).all(|((&size, a), b)| size == 1 || a == b);
        if is_row_major || self.count == 0 {
            return element.decode(&bytes[self.offset * size..(self.offset + self.count) * size]);
        }
        let mut gathered = Vec::with_capacity(self.count * size);
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        for _ in 0..self.count {
            gathered.extend_from_slice(&bytes[at * size..(at + 1) * size]);
            for dimension in (0..index.len()).rev() {
                index[dimension] += 1;
                at += self.strides[dimension];
                if index[dimension] < self.shape[dimension] {
                    break;
                }
                at -= self.strides[dimension] * self.shape[dimension];
                index[dimension] = 0;
            }
        }
        element.decode(&gathered)
    }
}

/// The bytes of a file that `torch.load(weights_only=True)` reads; none beyond 4 GiB.
pub(super) fn write(tensors: &[NamedTensor]) -> Option<Vec<u8>> {
    let mut archive = ArchiveWriter::default();
    archive.add(&format!("{FOLDER}/data.pkl"), &pickle::state_dict(tensors))?;
    archive.add(&format!("{FOLDER}/byteorder"), b"little")?;
    for (key, tensor) in tensors.iter().enumerate() {
        let bytes: Vec<u8> = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        archive.add(&format!("{FOLDER}/data/{key}"), &bytes)?;
    }
    archive.add(&format!("{FOLDER}/version"), b"3\n")?;
    archive.finish()
}
