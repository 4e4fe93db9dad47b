//! Reading little-endian numbers one after the other.

/// The bytes that have not been read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// From `at` on; none if that is past the end.
    pub(super) fn new(bytes: &'a [u8], at: u64) -> Option<Self> {
        let at = usize::try_from(at).ok().filter(|&at| at <= bytes.len())?;
        Some(Self { bytes, at })
    }

    /// Bytes read since the beginning.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len))?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    /// Up to the next line feed, which is read and left out.
    pub(super) fn line(&mut self) -> Option<&'a [u8]> {
        let length = self.bytes[self.at..].iter().position(|&byte| byte == b'\n')?;
        let line = self.take(length as u64)?;
        self.at += 1;
        Some(line)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N as u64).and_then(|bytes| bytes.try_into().ok())
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
