//! Zip archives whose entries are stored as they are, which is how PyTorch keeps a file.
//!
//! Nothing is ever unpacked, so that no archive takes more memory than its own bytes.

use std::collections::BTreeMap;

use super::cursor::Cursor;
use super::error::ArchiveFault;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;

/// Bytes of the record at the end without its comment, of the locator before it, and of an entry's local header.
const END_SIZE: usize = 22;
const LOCATOR_SIZE: usize = 20;
const LOCAL_SIZE: usize = 30;
/// Where a number of 64 bits stands instead.
const ELSEWHERE: u32 = u32::MAX;
/// PyTorch maps storages into memory, so it lets them begin at multiples of this.
const ALIGNMENT: usize = 64;
/// The first of January 1980, the earliest day that the format knows: the same content gives the same bytes.
const DATE: u16 = 0x21;

/// An archive in memory.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    entries: BTreeMap<&'a str, Entry>,
}

struct Entry {
    offset: u64,
    size: u64,
    crc32: u32,
    is_stored: bool,
}

impl<'a> Archive<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, ArchiveFault> {
        let (count, offset) = directory(bytes).ok_or(ArchiveFault::NoDirectory)?;
        let mut directory = Cursor::new(bytes, offset).ok_or(ArchiveFault::NoDirectory)?;
        let mut entries = BTreeMap::new();
        // Each round reads bytes that must be there, however many entries the archive claims.
        for _ in 0..count {
            let (name, entry) = central_header(&mut directory).ok_or(ArchiveFault::Directory)?;
            if entries.insert(name, entry).is_some() {
                return Err(ArchiveFault::Duplicate { name: name.into() });
            }
        }
        Ok(Self { bytes, entries })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The bytes of an entry, held against their checksum.
    pub(super) fn entry(&self, name: &str) -> Result<&'a [u8], ArchiveFault> {
        let entry = self.entries.get(name).ok_or_else(|| ArchiveFault::Missing { name: name.into() })?;
        if !entry.is_stored {
            return Err(ArchiveFault::Compressed { name: name.into() });
        }
        let bytes = self.data(entry).ok_or_else(|| ArchiveFault::Truncated { name: name.into(), size: entry.size })?;
        // PyTorch can leave checksums out, and then writes 0.
        if entry.crc32 != 0 && entry.crc32 != crc32fast::hash(bytes) {
            return Err(ArchiveFault::Checksum { name: name.into() });
        }
        Ok(bytes)
    }

    fn data(&self, entry: &Entry) -> Option<&'a [u8]> {
        let mut header = Cursor::new(self.bytes, entry.offset)?;
        if header.u32()? != LOCAL {
            return None;
        }
        header.take(22)?;
        let (name, extra) = (header.u16()?, header.u16()?);
        header.take(u64::from(name) + u64::from(extra))?;
        header.take(entry.size)
    }
}

/// How many entries the directory has, and where it begins.
fn directory(bytes: &[u8]) -> Option<(u64, u64)> {
    let last = bytes.len().checked_sub(END_SIZE)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let at = (first..=last).rev().find(|&at| {
        let comment = last - at;
        bytes[at..].starts_with(&END.to_le_bytes())
            && usize::from(u16::from_le_bytes([bytes[at + 20], bytes[at + 21]])) == comment
    })?;
    let mut end = Cursor::new(bytes, at as u64 + 10)?;
    let (count, _size, offset) = (end.u16()?, end.u32()?, end.u32()?);
    match at.checked_sub(LOCATOR_SIZE).and_then(|locator| directory_64(bytes, locator)) {
        Some(directory) => Some(directory),
        None if offset == ELSEWHERE => None,
        None => Some((count.into(), offset.into())),
    }
}

fn directory_64(bytes: &[u8], locator: usize) -> Option<(u64, u64)> {
    let mut locator = Cursor::new(bytes, locator as u64)?;
    if locator.u32()? != LOCATOR_64 {
        return None;
    }
    locator.take(4)?;
    let mut end = Cursor::new(bytes, locator.u64()?)?;
    if end.u32()? != END_64 {
        return None;
    }
    end.take(28)?;
    let (count, _size, offset) = (end.u64()?, end.u64()?, end.u64()?);
    Some((count, offset))
}

fn central_header<'a>(directory: &mut Cursor<'a>) -> Option<(&'a str, Entry)> {
    if directory.u32()? != CENTRAL {
        return None;
    }
    directory.take(4)?;
    let (flags, method) = (directory.u16()?, directory.u16()?);
    directory.take(4)?;
    let (crc32, packed, size) = (directory.u32()?, directory.u32()?, directory.u32()?);
    let (name, extra, comment) = (directory.u16()?, directory.u16()?, directory.u16()?);
    directory.take(8)?;
    let offset = directory.u32()?;
    let name = std::str::from_utf8(directory.take(name.into())?).ok()?;
    let mut large = extra_64(directory.take(extra.into())?);
    directory.take(comment.into())?;
    let mut resolve = |number: u32| match number {
        ELSEWHERE => large.as_mut()?.u64(),
        _ => Some(number.into()),
    };
    // In this order the extra field has them.
    let size = resolve(size)?;
    let packed = resolve(packed)?;
    let offset = resolve(offset)?;
    let is_encrypted = flags & 1 == 1;
    Some((name, Entry { offset, size, crc32, is_stored: method == 0 && !is_encrypted && packed == size }))
}

/// The numbers of 64 bits among the extra fields.
fn extra_64(extra: &[u8]) -> Option<Cursor<'_>> {
    let mut extra = Cursor::new(extra, 0)?;
    loop {
        let (kind, len) = (extra.u16()?, extra.u16()?);
        let field = extra.take(len.into())?;
        if kind == 1 {
            return Cursor::new(field, 0);
        }
    }
}

/// An archive being written: each entry's bytes at a multiple of 64, as PyTorch has them.
#[derive(Default)]
pub(super) struct ArchiveWriter {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
}

impl ArchiveWriter {
    /// Adds an entry; none if the archive would need numbers of 64 bits.
    pub(super) fn add(&mut self, name: &str, data: &[u8]) -> Option<()> {
        let offset = u32::try_from(self.bytes.len()).ok()?;
        let size = u32::try_from(data.len()).ok()?;
        let name_len = u16::try_from(name.len()).ok()?;
        let begin = self.bytes.len() + LOCAL_SIZE + name.len();
        // An extra field has a head of four bytes.
        let padding = (begin + 4).next_multiple_of(ALIGNMENT) - begin;
        // What the local header and the directory say alike: version 1.0, no flags, stored.
        let mut both: Vec<u8> = [10_u16, 0, 0, 0, DATE].iter().flat_map(|field| field.to_le_bytes()).collect();
        both.extend([crc32fast::hash(data), size, size].iter().flat_map(|field| field.to_le_bytes()));
        both.extend(name_len.to_le_bytes());

        self.bytes.extend(LOCAL.to_le_bytes());
        self.bytes.extend(&both);
        self.bytes.extend((padding as u16).to_le_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.extend(b"FB");
        self.bytes.extend((padding as u16 - 4).to_le_bytes());
        self.bytes.resize(begin + padding, b'Z');
        self.bytes.extend(data);

        self.directory.extend(CENTRAL.to_le_bytes());
        self.directory.extend(10_u16.to_le_bytes());
        self.directory.extend(&both);
        // No extra field, no comment, the first disk, no attributes.
        self.directory.extend([0; 12]);
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.count = self.count.checked_add(1)?;
        Some(())
    }

    /// The whole archive; none if it would need numbers of 64 bits.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        let offset = u32::try_from(self.bytes.len()).ok()?;
        let size = u32::try_from(self.directory.len()).ok()?;
        self.bytes.extend(self.directory);
        self.bytes.extend(END.to_le_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([self.count, self.count].iter().flat_map(|count| count.to_le_bytes()));
        self.bytes.extend([size, offset].iter().flat_map(|number| number.to_le_bytes()));
        self.bytes.extend([0; 2]);
        Some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut writer = ArchiveWriter::default();
        for (name, data) in [("a/data.pkl", &b"pickle"[..]), ("a/data/0", &[7; 100]), ("a/空", b"")] {
            writer.add(name, data).expect("small");
        }
        writer.finish().expect("small")
    }

    #[test]
    fn entries_are_read_back_and_begin_at_multiples_of_64() {
        let bytes = sample();
        let archive = Archive::open(&bytes).expect("sound");
        assert_eq!(archive.names().collect::<Vec<_>>(), ["a/data.pkl", "a/data/0", "a/空"]);
        let storage = archive.entry("a/data/0").expect("there");
        assert_eq!(storage, [7; 100]);
        assert_eq!((storage.as_ptr().addr() - bytes.as_ptr().addr()) % ALIGNMENT, 0);
        assert_eq!(archive.entry("a/空"), Ok(&[][..]));
        assert_eq!(archive.entry("b"), Err(ArchiveFault::Missing { name: "b".into() }));
    }

    #[test]
    fn a_byte_that_changed_is_noticed_but_not_where_no_checksum_was_kept() {
        let mut bytes = sample();
        let at = bytes.iter().position(|&byte| byte == 7).expect("the storage");
        bytes[at] = 8;
        let name = "a/data/0".to_owned();
        assert_eq!(Archive::open(&bytes).expect("sound").entry(&name), Err(ArchiveFault::Checksum { name }));
        // The second entry of the directory, its checksum.
        let header =
            (0..bytes.len()).filter(|&at| bytes[at..].starts_with(&CENTRAL.to_le_bytes())).nth(1).expect("two");
        bytes[header + 16..header + 20].fill(0);
        assert_eq!(Archive::open(&bytes).expect("sound").entry("a/data/0").expect("unchecked")[0], 8);
    }

    #[test]
    fn a_compressed_entry_and_one_that_is_there_twice_are_refused() {
        let header = |bytes: &[u8]| (0..bytes.len()).find(|&at| bytes[at..].starts_with(&CENTRAL.to_le_bytes()));
        let mut bytes = sample();
        let at = header(&bytes).expect("a header");
        bytes[at + 10] = 8;
        let fault = Archive::open(&bytes).expect("sound").entry("a/data.pkl").expect_err("deflated");
        assert_eq!(fault, ArchiveFault::Compressed { name: "a/data.pkl".into() });

        let mut writer = ArchiveWriter::default();
        writer.add("a", b"1").expect("small");
        writer.add("a", b"2").expect("small");
        let bytes = writer.finish().expect("small");
        assert_eq!(Archive::open(&bytes).err(), Some(ArchiveFault::Duplicate { name: "a".into() }));
    }

    #[test]
    fn an_entry_that_claims_more_than_the_file_has_is_refused() {
        let mut bytes = sample();
        let header =
            (0..bytes.len()).filter(|&at| bytes[at..].starts_with(&CENTRAL.to_le_bytes())).nth(1).expect("two");
        bytes[header + 20..header + 28].fill(0xf0);
        let fault = Archive::open(&bytes).expect("sound").entry("a/data/0").expect_err("too long");
        assert_eq!(fault, ArchiveFault::Truncated { name: "a/data/0".into(), size: 0xf0f0_f0f0 });
    }

    #[test]
    fn an_archive_cut_anywhere_is_refused() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert_eq!(Archive::open(&bytes[..length]).err(), Some(ArchiveFault::NoDirectory), "{length}");
        }
    }
}
