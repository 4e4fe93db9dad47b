//! The safetensors layout: eight bytes of header length, a JSON header, the numbers.
//!
//! The header is written and read here rather than by the `safetensors` crate, because that crate keeps the metadata in
//! a hash map (so the bytes differ from run to run), takes the last of two tensors with one name, and does not say
//! which tensor is wrong. The tests hold both against each other.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::error::FormatFault;
use super::int8::{self, Numbers, StoredTensor};
use super::{Dtype, NamedTensor};

/// Bytes of the header length at the start of the file.
const PREFIX: usize = 8;
/// The longest header that the format allows.
const MAX_HEADER: u64 = 100_000_000;
/// The header key of the metadata, which no tensor may have.
const METADATA: &str = "__metadata__";

/// What the start of a file says about its kind.
#[derive(Debug, PartialEq)]
pub(super) enum Start {
    Plausible,
    Pickle,
    Fault(FormatFault),
}

/// Judges a file by its first bytes; a few hundred are enough.
pub(super) fn judge_start(bytes: &[u8]) -> Start {
    if bytes.is_empty() {
        return Start::Fault(FormatFault::Empty);
    }
    let Some(&claimed) = bytes.first_chunk::<PREFIX>() else {
        return match bytes {
            [0x80, 2..=5, ..] => Start::Pickle,
            _ => Start::Fault(FormatFault::NotSafetensors { looks_like: None }),
        };
    };
    let claimed = u64::from_le_bytes(claimed);
    let opens_header = bytes.get(PREFIX).is_none_or(|&byte| byte == b'{');
    if opens_header && claimed <= MAX_HEADER {
        return Start::Plausible;
    }
    let contains = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    let looks_like = match bytes {
        // Protocol 2 to 5; also the start of PyTorch's format before 1.6, whose first pickle is a magic number.
        [0x80, 2..=5, ..] => return Start::Pickle,
        [b'P', b'K', 3, 4, ..] if contains(b"data.pkl") => return Start::Pickle,
        [b'P', b'K', 3, 4, ..] => Some("a zip archive"),
        [b'G', b'G', b'U', b'F', ..] => Some("GGUF"),
        [0x89, b'H', b'D', b'F', ..] => Some("HDF5"),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => Some("a NumPy array"),
        _ if opens_header => {
            return Start::Fault(FormatFault::HeaderLength { claimed, allowed: MAX_HEADER });
        }
        _ if bytes.iter().all(|&byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) => Some("text"),
        _ => None,
    };
    Start::Fault(FormatFault::NotSafetensors { looks_like })
}

/// Lays tensors out without gaps, those of four bytes a number first and then by name; the same content gives the same bytes.
pub(super) fn encode(tensors: &[NamedTensor], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, FormatFault> {
    for tensor in tensors {
        tensor.assert_consistent();
    }
    let mut stored = int8::split(tensors);
    stored.sort_by(|left, right| left.name.cmp(&right.name));
    if let Some(pair) = stored.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(FormatFault::Duplicate { name: pair[0].name.to_string() });
    }
    if stored.iter().any(|tensor| tensor.name == METADATA) {
        return Err(FormatFault::ReservedName { name: METADATA.into() });
    }
    // Every f32 stays at a multiple of four. Stable, so that the order of the names stays too.
    stored.sort_by_key(|tensor| tensor.numbers.dtype());

    let mut header = serde_json::to_vec(&SortedHeader { tensors: &stored, metadata })
        .expect("strings and numbers always have a JSON form");
    // The numbers begin at a multiple of eight, as the format recommends.
    header.resize(header.len().next_multiple_of(PREFIX), b' ');
    if header.len() as u64 > MAX_HEADER {
        return Err(FormatFault::HeaderLength { claimed: header.len() as u64, allowed: MAX_HEADER });
    }
    let data: u64 = stored.iter().map(StoredTensor::bytes).sum();
    let mut bytes = Vec::with_capacity(PREFIX + header.len() + data as usize);
    bytes.extend_from_slice(&(header.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&header);
    for tensor in stored {
        match tensor.numbers {
            Numbers::F32(values) => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Numbers::I8(multiples) => bytes.extend(multiples.into_iter().map(i8::cast_unsigned)),
        }
    }
    Ok(bytes)
}

/// A tensor of any type, as its bytes lie in a file.
#[derive(Debug)]
pub(crate) struct RawTensor<'a> {
    pub(crate) name: String,
    /// In the words of the format.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// In row-major order, little-endian.
    pub(crate) bytes: &'a [u8],
}

/// The types that a reader takes.
#[derive(Clone, Copy)]
pub(crate) struct Dtypes {
    /// Bytes of a number of each.
    pub(crate) sizes: &'static [(&'static str, u64)],
    /// Their names in a sentence.
    pub(crate) names: &'static str,
}

/// The types of our own files.
const OWN: Dtypes = Dtypes { sizes: &[("F32", 4), ("I8", 1)], names: "F32 and I8" };

impl Dtypes {
    fn size_of(self, name: &str, entry: &Entry) -> Result<u64, FormatFault> {
        let found = self.sizes.iter().find(|(dtype, _)| *dtype == entry.dtype);
        found.map(|(_, size)| *size).ok_or_else(|| FormatFault::Dtype {
            name: name.into(),
            dtype: entry.dtype.clone(),
            read: self.names,
        })
    }
}

/// Reads a whole file of ours that [`judge_start`] found plausible.
///
/// Nothing is allocated that the file's own bytes do not cover.
pub(super) fn decode(bytes: &[u8]) -> Result<(Vec<NamedTensor>, BTreeMap<String, String>), FormatFault> {
    let (raw, metadata) = split(bytes, OWN)?;
    let stored = raw.into_iter().map(|RawTensor { name, dtype, shape, bytes }| {
        let numbers = if dtype == Dtype::I8.name() {
            Numbers::I8(bytes.iter().map(|&byte| byte.cast_signed()).collect())
        } else {
            let (values, _) = bytes.as_chunks();
            Numbers::F32(values.iter().map(|value| f32::from_le_bytes(*value)).collect::<Vec<f32>>().into())
        };
        StoredTensor { name: Cow::Owned(name), shape: Cow::Owned(shape), numbers }
    });
    Ok((int8::join(stored.collect())?, metadata))
}

/// The tensors of a whole file that [`judge_start`] found plausible, in the order of their bytes, and its metadata.
pub(super) fn split(
    bytes: &[u8],
    dtypes: Dtypes,
) -> Result<(Vec<RawTensor<'_>>, BTreeMap<String, String>), FormatFault> {
    let found = bytes.len() as u64;
    let Some(&header_length) = bytes.first_chunk::<PREFIX>() else {
        return Err(FormatFault::Truncated { expected: PREFIX as u64, found });
    };
    let header_end = u64::from_le_bytes(header_length).saturating_add(PREFIX as u64);
    let Some(header) = usize::try_from(header_end).ok().and_then(|end| bytes.get(PREFIX..end)) else {
        return Err(FormatFault::Truncated { expected: header_end, found });
    };
    let mut header: Header =
        serde_json::from_slice(header).map_err(|error| FormatFault::Header { reason: error.to_string() })?;

    let tensors = header.checked_tensors(dtypes)?;
    let expected = tensors.last().map_or(0, |(_, entry)| entry.data_offsets.1).saturating_add(header_end);
    if expected > found {
        return Err(FormatFault::Truncated { expected, found });
    }
    if expected < found {
        return Err(FormatFault::TrailingBytes { extra: found - expected });
    }
    let mut data = &bytes[bytes.len() - (found - header_end) as usize..];
    let raw = tensors.into_iter().map(|(name, entry)| {
        let (begin, end) = entry.data_offsets;
        let (own, rest) = data.split_at((end - begin) as usize);
        data = rest;
        RawTensor { name, dtype: entry.dtype, shape: entry.shape, bytes: own }
    });
    Ok((raw.collect(), header.metadata))
}

/// Bytes of a number.
fn size_of(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::F32 => 4,
        Dtype::I8 => 1,
    }
}

impl StoredTensor<'_> {
    fn bytes(&self) -> u64 {
        self.numbers.len() as u64 * size_of(self.numbers.dtype())
    }
}

#[derive(Serialize, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    /// First byte and the byte after the last, counted from the end of the header.
    data_offsets: (u64, u64),
}

/// The header as it stands in the file: every entry in order, two of one name included.
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, Entry)>,
}

impl Header {
    /// The tensors in the order of their bytes, which they cover from 0 without gaps.
    fn checked_tensors(&mut self, dtypes: Dtypes) -> Result<Vec<(String, Entry)>, FormatFault> {
        let mut tensors = std::mem::take(&mut self.tensors);
        tensors.sort_by(|(left, _), (right, _)| left.cmp(right));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(FormatFault::Duplicate { name: pair[0].0.clone() });
        }
        // Stable, so that empty tensors at one place stay in the order of their names.
        tensors.sort_by_key(|(_, entry)| entry.data_offsets);
        let mut covered = 0;
        let mut before = "";
        for (name, entry) in &tensors {
            let (begin, end) = entry.data_offsets;
            let element = dtypes.size_of(name, entry)?;
            let needed = entry.shape.iter().try_fold(element, |bytes, &size| bytes.checked_mul(size as u64));
            if end.checked_sub(begin).is_none_or(|bytes| Some(bytes) != needed) {
                return Err(FormatFault::Size { name: name.clone(), shape: entry.shape.clone(), begin, end });
            }
            if begin < covered {
                return Err(FormatFault::Overlap { first: before.into(), second: name.clone() });
            }
            if begin > covered {
                return Err(FormatFault::Gap { name: name.clone(), bytes: begin - covered });
            }
            covered = end;
            before = name;
        }
        Ok(tensors)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { metadata: BTreeMap::new(), tensors: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        header.metadata = map.next_value()?;
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// The header to write: the metadata, then the tensors in the order of their bytes.
struct SortedHeader<'a> {
    tensors: &'a [StoredTensor<'a>],
    metadata: &'a BTreeMap<String, String>,
}

impl Serialize for SortedHeader<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA, self.metadata)?;
        }
        let mut begin = 0;
        for tensor in self.tensors {
            let end = begin + tensor.bytes();
            let dtype = tensor.numbers.dtype().name().to_owned();
            let entry = Entry { dtype, shape: tensor.shape.to_vec(), data_offsets: (begin, end) };
            map.serialize_entry(&tensor.name, &entry)?;
            begin = end;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<NamedTensor>, BTreeMap<String, String>) {
        let tensors = vec![
            NamedTensor::new("stack.0.weight_ih", [2, 3], vec![1.0, -2.0, 3.5, f32::MIN_POSITIVE, 0.0, -0.0]),
            NamedTensor::new("stack.0.bias", [2], vec![0.25, f32::MAX]),
            NamedTensor::new("scalar", [], vec![7.0]),
            NamedTensor::new("empty", [0, 4], vec![]),
            NamedTensor::new("词 \"quoted\"", [1], vec![9.0]),
            // An odd number of bytes, so that what came after it would not lie at a multiple of four.
            NamedTensor::new("head.weight", [1, 3], vec![0.1, -0.7, 0.3]).quantized(),
        ];
        let metadata = [("format", "pt"), ("vocabulary", "[\"\\n\",\"é\",\"字\"]")];
        (tensors, metadata.map(|(key, value)| (key.into(), value.into())).into())
    }

    fn sample_bytes() -> Vec<u8> {
        let (tensors, metadata) = sample();
        encode(&tensors, &metadata).expect("encoded")
    }

    /// A file with this header and this many bytes of numbers.
    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn fault(header: &str, data: usize) -> String {
        decode(&file(header, data)).expect_err("a fault").to_string()
    }

    #[test]
    fn what_is_written_is_read_back_in_the_order_of_names() {
        let (mut tensors, metadata) = sample();
        let read = decode(&sample_bytes()).expect("decoded");
        tensors.sort_by(|left, right| left.name.cmp(&right.name));
        assert_eq!(read, (tensors, metadata));
    }

    #[test]
    fn the_order_of_the_tensors_does_not_change_the_bytes() {
        let (mut tensors, metadata) = sample();
        tensors.reverse();
        assert_eq!(encode(&tensors, &metadata).expect("encoded"), sample_bytes());
    }

    #[test]
    fn the_reference_implementation_reads_what_we_write() {
        let bytes = sample_bytes();
        let (length, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("read");
        assert_eq!(length % PREFIX, 0);
        let (_, metadata) = sample();
        let read = header.metadata().as_ref().expect("metadata");
        assert!(metadata.iter().all(|(key, value)| read.get(key) == Some(value)) && read.len() == metadata.len());
        let read = safetensors::SafeTensors::deserialize(&bytes).expect("read");
        let tensors = sample().0;
        let stored = int8::split(&tensors);
        assert_eq!((read.len(), stored.len()), (stored.len(), tensors.len() + 1), "the steps are one more");
        for tensor in stored {
            let view = read.tensor(&tensor.name).expect("there");
            let (dtype, values): (_, Vec<u8>) = match tensor.numbers {
                Numbers::F32(values) => {
                    assert_eq!((view.data().as_ptr().addr() - bytes.as_ptr().addr()) % 4, 0, "{}", tensor.name);
                    (safetensors::Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
                }
                Numbers::I8(multiples) => (safetensors::Dtype::I8, multiples.into_iter().map(|m| m as u8).collect()),
            };
            assert_eq!((view.dtype(), view.shape()), (dtype, &tensor.shape[..]));
            assert_eq!(view.data(), values);
        }
    }

    #[test]
    fn we_read_what_the_reference_implementation_writes() {
        let values: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = |shape: &[usize], end: usize| {
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &values[..end])
        };
        let tensors = [("b", view(&[2, 2], 16).expect("a view")), ("a", view(&[2], 8).expect("a view"))];
        let bytes = safetensors::serialize(tensors, None).expect("written");
        let (tensors, metadata) = decode(&bytes).expect("decoded");
        let expected =
            [NamedTensor::new("a", [2], vec![1.0, 2.0]), NamedTensor::new("b", [2, 2], vec![1.0, 2.0, 3.0, 4.0])];
        assert_eq!(tensors, expected);
        assert!(metadata.is_empty());
    }

    #[test]
    fn each_fault_of_a_header_is_told_by_name() {
        let a = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        let cases = [
            (format!("{{{a},{a}}}"), 8, "tensor `a` is there twice"),
            (
                format!(r#"{{{a},"b":{{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}}}"#),
                12,
                "tensors `a` and `b` overlap",
            ),
            (
                format!(r#"{{{a},"b":{{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}}}"#),
                16,
                "4 bytes before tensor `b` belong to no tensor",
            ),
            (format!("{{{a}}}"), 12, "has 4 bytes after its last tensor"),
            (format!("{{{a}}}"), 7, "is truncated: the header says 70 bytes, the file has 69"),
            (
                r#"{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#.into(),
                4,
                "tensor `a` is BF16, only F32 and I8 are read",
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#.into(),
                8,
                "tensor `a` of shape [3] does not fit bytes 0..8",
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#.into(),
                8,
                "tensor `a` of shape [2] does not fit bytes 8..0",
            ),
            (
                r#"{"a":{"dtype":"I8","shape":[1,2],"data_offsets":[0,8]}}"#.into(),
                8,
                "tensor `a` of shape [1, 2] does not fit bytes 0..8",
            ),
            (
                r#"{"a":{"dtype":"I8","shape":[1,2],"data_offsets":[0,2]}}"#.into(),
                2,
                "tensor `a` is I8, but there is no F32 tensor `a.steps` of its steps",
            ),
        ];
        for (header, data, expected) in cases {
            assert_eq!(fault(&header, data), expected, "{header}");
        }
        for header in ["{\"a\":1}", "{", "[]", "{\"__metadata__\":{\"a\":1}}", &"{\"a\":".repeat(1000), "{\"\u{1}"] {
            assert!(fault(header, 0).starts_with("the header cannot be read: "), "{header}");
        }
    }

    #[test]
    fn a_header_that_claims_the_world_allocates_nothing() {
        let whole =
            |shape: &str, end: u64| format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
        let honest = fault(&whole("[1073741824,1073741824]", 1 << 62), 8);
        assert!(honest.starts_with("is truncated: the header says 46116860184273"), "{honest}");
        let overflowing = fault(&whole("[4294967296,4294967296,4]", 16), 16);
        assert!(overflowing.contains("does not fit"), "{overflowing}");
        let beyond_u64 = fault(&whole("[1e30]", 8), 8);
        assert!(beyond_u64.starts_with("the header cannot be read"), "{beyond_u64}");
        let last_byte = fault(&whole(&format!("[{}]", u64::MAX / 4), u64::MAX - 3), 8);
        assert!(last_byte.starts_with("is truncated"), "{last_byte}");
    }

    #[test]
    fn a_file_cut_at_any_length_is_a_fault_and_never_a_panic() {
        let bytes = sample_bytes();
        for length in 0..bytes.len() {
            let short = &bytes[..length];
            if judge_start(short) == Start::Plausible {
                let fault = decode(short).expect_err("it is cut");
                assert!(matches!(fault, FormatFault::Truncated { .. }), "{length}: {fault}");
            }
        }
    }

    #[test]
    fn flipped_bytes_never_panic_and_what_we_accept_the_reference_accepts() {
        let whole = sample_bytes();
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut accepted = 0;
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..=random(3) {
                bytes[random(whole.len())] = random(256) as u8;
            }
            if judge_start(&bytes) == Start::Plausible && decode(&bytes).is_ok() {
                accepted += 1;
                assert!(safetensors::SafeTensors::deserialize(&bytes).is_ok());
            }
        }
        assert!(accepted > 100, "most flips hit a name or a number and pass: {accepted}");
    }

    #[test]
    fn a_pickle_is_known_by_its_first_bytes_and_a_header_of_640_bytes_is_none() {
        let zip = b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00archive/data.pklFB";
        let before_1_6 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
        let raw = b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.";
        for bytes in [zip.as_slice(), before_1_6, raw, b"\x80\x02}q\x00."] {
            assert_eq!(judge_start(bytes), Start::Pickle, "{bytes:?}");
        }
        assert_eq!(judge_start(b"\x80\x02\0\0\0\0\0\0{\"a\":"), Start::Plausible);
    }

    #[test]
    fn other_files_are_told_from_damaged_ones() {
        let cases: [(&[u8], &str); 6] = [
            (b"", "the file is empty"),
            (b"abc", "is not a safetensors file"),
            (b"PK\x03\x04\x14\0\0\0\x08\0weights.npy", "is not a safetensors file, it looks like a zip archive"),
            (b"GGUF\x03\0\0\0\0\0\0\0", "is not a safetensors file, it looks like GGUF"),
            (b"[model]\nhidden-size = 512\n", "is not a safetensors file, it looks like text"),
            (b"\0\0\0\0\0\0\0\x10{\"a\"", "the header claims 1152921504606846976 bytes, the format allows 100000000"),
        ];
        for (bytes, expected) in cases {
            let Start::Fault(fault) = judge_start(bytes) else { panic!("{bytes:?} is no safetensors file") };
            assert_eq!(fault.to_string(), expected);
        }
    }

    #[test]
    fn a_name_that_stands_twice_or_is_reserved_is_not_written() {
        let tensor = |name: &str| NamedTensor::new(name, [1], vec![0.0]);
        let twice = encode(&[tensor("a"), tensor("b"), tensor("a")], &BTreeMap::new());
        assert_eq!(twice, Err(FormatFault::Duplicate { name: "a".into() }));
        let steps =
            encode(&[tensor("a.steps"), NamedTensor::new("a", [1, 1], vec![1.0]).quantized()], &BTreeMap::new());
        assert_eq!(steps, Err(FormatFault::Duplicate { name: "a.steps".into() }));
        let reserved = encode(&[tensor(METADATA)], &BTreeMap::new());
        assert_eq!(reserved, Err(FormatFault::ReservedName { name: METADATA.into() }));
    }
}
