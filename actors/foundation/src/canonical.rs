//! Canonical bytes: the one representation of a value that is hashed or signed.
//!
//! Numbers are big-endian and fixed in width; byte strings and lists carry a `u32` length; an option is one byte, 0 or
//! 1, before its value. There is exactly one encoding of a value, and a decoder refuses every other.

use crate::digest::Digest;

/// A value with exactly one encoding.
pub trait Canonical {
    /// Appends the canonical bytes of `self`.
    fn encode(&self, out: &mut Encoder);

    /// The canonical bytes of `self`.
    fn canonical_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        self.encode(&mut out);
        out.into_bytes()
    }
}

/// Bytes that are no canonical encoding of what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed bytes at offset {offset}: {what}")]
pub struct MalformedBytes {
    /// Offset of the fault, in bytes from the beginning.
    pub offset: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// Builds canonical bytes.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// An encoder that has room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    /// Appends a `u16`.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends a `u32`.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends a `u64`.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends bytes without a length: for fields of fixed size.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a digest.
    pub fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.raw(digest.as_bytes())
    }

    /// Appends a length and the bytes. Lengths above `u32::MAX` cannot occur: every value is limited far below.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.length(bytes.len()).raw(bytes)
    }

    /// Appends the length of a list, to be followed by its items.
    pub fn length(&mut self, length: usize) -> &mut Self {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX))
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads canonical bytes.
#[derive(Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Decoder<'a> {
    /// A decoder at the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The fault `what` at the current offset.
    pub fn fault(&self, what: &'static str) -> MalformedBytes {
        MalformedBytes { offset: self.offset, what }
    }

    /// Takes `count` bytes.
    pub fn raw(&mut self, count: usize) -> Result<&'a [u8], MalformedBytes> {
        let end = self.offset.checked_add(count).ok_or_else(|| self.fault("length overflows"))?;
        let taken = self.bytes.get(self.offset..end).ok_or_else(|| self.fault("ends too early"))?;
        self.offset = end;
        Ok(taken)
    }

    /// Takes an array of fixed size.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], MalformedBytes> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Result<u8, MalformedBytes> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Takes a `u16`.
    pub fn u16(&mut self) -> Result<u16, MalformedBytes> {
        self.array().map(u16::from_be_bytes)
    }

    /// Takes a `u32`.
    pub fn u32(&mut self) -> Result<u32, MalformedBytes> {
        self.array().map(u32::from_be_bytes)
    }

    /// Takes a `u64`.
    pub fn u64(&mut self) -> Result<u64, MalformedBytes> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes a digest.
    pub fn digest(&mut self) -> Result<Digest, MalformedBytes> {
        self.array().map(Digest)
    }

    /// Takes a byte string of at most `limit` bytes. Nothing is allocated before the limit is checked.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8], MalformedBytes> {
        let length = self.length(limit)?;
        self.raw(length)
    }

    /// Takes the length of a list of at most `limit` items.
    pub fn length(&mut self, limit: usize) -> Result<usize, MalformedBytes> {
        let fault = self.fault("length is over the limit");
        let length = self.u32()? as usize;
        if length <= limit { Ok(length) } else { Err(fault) }
    }

    /// Refuses trailing bytes.
    pub fn finish(self) -> Result<(), MalformedBytes> {
        if self.offset == self.bytes.len() { Ok(()) } else { Err(self.fault("trailing bytes")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut out = Encoder::default();
        out.u8(7).u16(513).u32(9).u64(u64::MAX).bytes(b"hello").digest(&Digest::sha256(b"d"));
        let bytes = out.into_bytes();
        let mut input = Decoder::new(&bytes);
        assert_eq!(input.u8().unwrap(), 7);
        assert_eq!(input.u16().unwrap(), 513);
        assert_eq!(input.u32().unwrap(), 9);
        assert_eq!(input.u64().unwrap(), u64::MAX);
        assert_eq!(input.bytes(5).unwrap(), b"hello");
        assert_eq!(input.digest().unwrap(), Digest::sha256(b"d"));
        input.finish().unwrap();
    }

    #[test]
    fn truncated_oversized_and_trailing_input_is_refused_with_its_offset() {
        let mut out = Encoder::default();
        out.bytes(b"hello");
        let bytes = out.into_bytes();
        assert_eq!(Decoder::new(&bytes).bytes(4).unwrap_err().what, "length is over the limit");
        assert_eq!(
            Decoder::new(&bytes[..7]).bytes(9).unwrap_err(),
            MalformedBytes { offset: 4, what: "ends too early" }
        );
        let mut input = Decoder::new(&bytes);
        input.u32().unwrap();
        assert_eq!(input.finish().unwrap_err().what, "trailing bytes");
    }
}
