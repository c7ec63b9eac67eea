//! Frames: what enters a topic's queue at one time, and its place in the topic's hash chain.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_foundation::limits::TRANSACTION_BYTES_MAX;
use standin_foundation::{Decoder, Digest, Encoder, MalformedBytes};

use crate::ids::Sequence;

/// Data in one frame.
pub const FRAME_DATA_MAX: usize = 128;
/// Bytes of a push's payload: what a transaction holds, less its own fields.
pub const PUSH_BYTES_MAX: usize = TRANSACTION_BYTES_MAX - 512;
/// Bytes of a datum's id.
pub const DATUM_ID_BYTES_MAX: usize = 128;
/// Bytes of a datum's value.
pub const DATUM_VALUE_BYTES_MAX: usize = 48 * 1024;

/// Bytes of a push before its data.
const HEAD_BYTES: usize = 16;

/// What a source wants published.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Datum {
    /// What it is about; may be empty.
    pub id: Bytes,
    /// What is said.
    pub value: Bytes,
}

impl Datum {
    /// Bytes that it takes in a frame.
    pub fn bytes(&self) -> usize {
        8 + self.id.len() + self.value.len()
    }
}

/// Why something cannot be pushed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Too few or too many data.
    #[error("{found} data in a frame: 1 to {FRAME_DATA_MAX} are allowed")]
    Count {
        /// How many.
        found: usize,
    },
    /// An id is too long.
    #[error("datum {place}: its id has {found} bytes, at most {DATUM_ID_BYTES_MAX} are allowed")]
    Id {
        /// Which, from 0.
        place: usize,
        /// Its bytes.
        found: usize,
    },
    /// A value is too long.
    #[error("datum {place}: its value has {found} bytes, at most {DATUM_VALUE_BYTES_MAX} are allowed")]
    Value {
        /// Which, from 0.
        place: usize,
        /// Its bytes.
        found: usize,
    },
    /// All together are too many bytes.
    #[error("a frame of {found} bytes: at most {PUSH_BYTES_MAX} are allowed")]
    Bytes {
        /// How many.
        found: usize,
    },
    /// It is no encoding of a push.
    #[error("payload: {0}")]
    Malformed(#[from] MalformedBytes),
}

/// The payload of a push: data of one source, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// The source's life. A higher one begins its nonces anew, and what an earlier one has left under way is refused from then on.
    pub session: u64,
    /// The first datum's number among all that the source has pushed to the topic in this session, from 0; the others follow it.
    pub nonce: u64,
    /// The data, as they stand in the frame.
    pub content: Content,
}

impl Push {
    /// The payload.
    pub fn to_payload(&self) -> Vec<u8> {
        let mut out = Encoder::with_capacity(HEAD_BYTES + self.content.bytes.len());
        out.u64(self.session).u64(self.nonce).raw(&self.content.bytes);
        out.into_bytes()
    }

    /// Reads a payload.
    pub fn from_payload(payload: &Bytes) -> Result<Self, FrameError> {
        if payload.len() > PUSH_BYTES_MAX {
            return Err(FrameError::Bytes { found: payload.len() });
        }
        let mut input = Decoder::new(payload);
        let (session, nonce) = (input.u64()?, input.u64()?);
        Ok(Self { session, nonce, content: Content::parse(payload.slice(HEAD_BYTES..))? })
    }
}

/// The data of a frame: their one encoding, which is what is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    bytes: Bytes,
    count: usize,
}

impl Content {
    /// Data, in order.
    pub fn new(data: &[Datum]) -> Result<Self, FrameError> {
        check_count(data.len())?;
        let mut out = Encoder::with_capacity(4 + data.iter().map(Datum::bytes).sum::<usize>());
        out.length(data.len());
        for (place, datum) in data.iter().enumerate() {
            check_sizes(place, datum.id.len(), datum.value.len())?;
            out.bytes(&datum.id).bytes(&datum.value);
        }
        let bytes = Bytes::from(out.into_bytes());
        match bytes.len() + HEAD_BYTES > PUSH_BYTES_MAX {
            true => Err(FrameError::Bytes { found: bytes.len() + HEAD_BYTES }),
            false => Ok(Self { bytes, count: data.len() }),
        }
    }

    /// Reads what [`Content::bytes`] gave.
    pub fn parse(bytes: Bytes) -> Result<Self, FrameError> {
        let mut count = 0;
        walk(&bytes, |_, _| count += 1)?;
        Ok(Self { bytes, count })
    }

    /// The encoding.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many data, at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The data.
    pub fn data(&self) -> Vec<Datum> {
        let mut data = Vec::with_capacity(self.count);
        // It was walked through when it was made.
        let _ = walk(&self.bytes, |id, value| {
            data.push(Datum { id: self.bytes.slice_ref(id), value: self.bytes.slice_ref(value) });
        });
        data
    }

    /// Whether all ids and values are UTF-8; the place of the first that is not.
    pub fn check_text(&self) -> Result<(), usize> {
        let (mut place, mut first) = (0, None);
        let _ = walk(&self.bytes, |id, value| {
            if first.is_none() && (std::str::from_utf8(id).is_err() || std::str::from_utf8(value).is_err()) {
                first = Some(place);
            }
            place += 1;
        });
        first.map_or(Ok(()), Err)
    }

    /// BLAKE3 of the encoding.
    pub fn hash(&self) -> Digest {
        Digest(*blake3::hash(&self.bytes).as_bytes())
    }
}

fn check_count(found: usize) -> Result<(), FrameError> {
    if (1..=FRAME_DATA_MAX).contains(&found) { Ok(()) } else { Err(FrameError::Count { found }) }
}

fn check_sizes(place: usize, id: usize, value: usize) -> Result<(), FrameError> {
    if id > DATUM_ID_BYTES_MAX {
        return Err(FrameError::Id { place, found: id });
    }
    if value > DATUM_VALUE_BYTES_MAX { Err(FrameError::Value { place, found: value }) } else { Ok(()) }
}

fn walk<'a>(bytes: &'a [u8], mut visit: impl FnMut(&'a [u8], &'a [u8])) -> Result<(), FrameError> {
    let mut input = Decoder::new(bytes);
    let count = input.length(FRAME_DATA_MAX)?;
    check_count(count)?;
    for place in 0..count {
        let (id, value) = (input.bytes(PUSH_BYTES_MAX)?, input.bytes(PUSH_BYTES_MAX)?);
        check_sizes(place, id.len(), value.len())?;
        visit(id, value);
    }
    Ok(input.finish()?)
}

/// A frame's place: fixed when it entered the queue, the same for whoever publishes it. What publishes it, the fence, is not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The first datum's sequence.
    pub first: Sequence,
    /// How many data.
    pub count: u16,
    /// The topic's chain before this frame.
    pub before: Digest,
    /// Hash of the content.
    pub content: Digest,
    /// The topic's chain up to and with this frame.
    pub chain: Digest,
}

impl Entry {
    /// The entry of this content behind a chain that ends with `before`; none where sequences end.
    pub fn following(before: &Digest, first: Sequence, content: &Content) -> Option<Self> {
        Self::of_hash(before, first, u16::try_from(content.count()).ok()?, content.hash())
    }

    fn of_hash(before: &Digest, first: Sequence, count: u16, content: Digest) -> Option<Self> {
        first.plus(u64::from(count))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"standin/v1/frame").update(before.as_bytes()).update(&first.0.to_be_bytes());
        hasher.update(&count.to_be_bytes()).update(content.as_bytes());
        Some(Self { first, count, before: *before, content, chain: Digest(*hasher.finalize().as_bytes()) })
    }

    /// The last datum's sequence.
    pub fn last(&self) -> Sequence {
        Sequence(self.first.0.saturating_add(u64::from(self.count)).saturating_sub(1))
    }

    /// The sequence behind it.
    pub fn next(&self) -> Sequence {
        Sequence(self.first.0.saturating_add(u64::from(self.count)))
    }

    /// Whether it follows a chain that ends with `before`.
    pub fn follows(&self, before: &Digest) -> bool {
        Self::of_hash(before, self.first, self.count, self.content).as_ref() == Some(self)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn content(values: &[&str]) -> Content {
        let data: Vec<_> = values
            .iter()
            .map(|value| Datum { id: Bytes::new(), value: Bytes::copy_from_slice(value.as_bytes()) })
            .collect();
        Content::new(&data).unwrap()
    }

    #[test]
    fn a_push_is_read_as_it_was_written_and_nothing_else_is_read() {
        let data = [
            Datum { id: "EURUSD".into(), value: "1.0832".into() },
            Datum { id: Bytes::new(), value: Bytes::from_static(&[0xff, 0]) },
        ];
        let push = Push { session: 1, nonce: 7, content: Content::new(&data).unwrap() };
        let payload = Bytes::from(push.to_payload());
        let read = Push::from_payload(&payload).unwrap();
        assert_eq!((read.content.data(), read.nonce, read.content.count()), (data.to_vec(), 7, 2));
        assert_eq!(read.content.check_text(), Err(1), "its second value is no text");
        for end in 0..payload.len() {
            assert!(Push::from_payload(&payload.slice(..end)).is_err(), "cut at {end}");
        }
        let longer = Bytes::from([&payload[..], &[0]].concat());
        assert!(Push::from_payload(&longer).is_err());
    }

    #[test]
    fn too_much_is_refused_with_what_and_where() {
        let told = |data: &[Datum]| Content::new(data).unwrap_err().to_string();
        assert_eq!(told(&[]), "0 data in a frame: 1 to 128 are allowed");
        assert_eq!(told(&vec![Datum::default(); 129]), "129 data in a frame: 1 to 128 are allowed");
        let long = Datum { id: Bytes::new(), value: vec![0; DATUM_VALUE_BYTES_MAX + 1].into() };
        assert!(told(&[Datum::default(), long.clone()]).starts_with("datum 1: its value has 49153 bytes"));
        let id = Datum { id: vec![0; 129].into(), value: Bytes::new() };
        assert!(told(&[id]).starts_with("datum 0: its id has 129 bytes"));
        let half = Datum { id: Bytes::new(), value: vec![0; 40_000].into() };
        assert!(told(&[half.clone(), half]).starts_with("a frame of 80"));
        // The same is refused in what another wrote.
        let mut out = Encoder::default();
        out.length(1).bytes(&[]).bytes(&long.value);
        assert!(matches!(Content::parse(out.into_bytes().into()), Err(FrameError::Value { place: 0, .. })));
        assert!(matches!(Content::parse(vec![0; 4].into()), Err(FrameError::Count { found: 0 })));
    }

    #[test]
    fn a_chain_value_stands_for_all_that_came_before_it() {
        let start = Digest::ZERO;
        let first = Entry::following(&start, Sequence(1), &content(&["a", "b"])).unwrap();
        let second = Entry::following(&first.chain, first.next(), &content(&["c"])).unwrap();
        assert_eq!((first.last(), second.first, second.last()), (Sequence(2), Sequence(3), Sequence(3)));
        assert!(first.follows(&start) && second.follows(&first.chain) && !second.follows(&start));
        let other = Entry::following(&first.chain, first.next(), &content(&["d"])).unwrap();
        assert_ne!(other.chain, second.chain);
        assert!(!Entry { count: 2, ..second }.follows(&first.chain));
        assert!(Entry::following(&start, Sequence(u64::MAX), &content(&["a"])).is_none(), "sequences end");
    }
}
