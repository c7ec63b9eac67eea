//! Frames: what travels on a bridge connection. One websocket message holds one or more of them.
//!
//! ```text
//! version u8 | kind u8 | lane u8 | 0 | correlation u64 | type u64 | deadline_ms u32 | length u32 | payload
//! ```
//! Numbers are big-endian. `type` is the first 8 bytes of SHA-256 of the message's stable name.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use standin_foundation::Digest;
use standin_foundation::limits::FRAME_BYTES_MAX;

/// Version of the frame format and of the hello. Peers with another one are refused.
pub const PROTOCOL_VERSION: u8 = 1;
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 28;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A message that wants no answer.
    Tell = 1,
    /// A message that wants an answer.
    Ask = 2,
    /// The answer.
    Reply = 3,
    /// The message was not executed: the reason.
    Error = 4,
    /// Are you there?
    Ping = 5,
    /// I am.
    Pong = 6,
    /// The sender ends the session on purpose.
    Goodbye = 7,
    /// As many bytes of the lane as the correlation says have been taken: more may be sent.
    Credit = 8,
    /// Wants to know when the actor that takes the message type ends for good: answered then.
    Watch = 9,
}

impl FrameKind {
    fn from_u8(number: u8) -> Option<Self> {
        let messages = [Self::Tell, Self::Ask, Self::Reply, Self::Error];
        let signals = [Self::Ping, Self::Pong, Self::Goodbye, Self::Credit, Self::Watch];
        messages.into_iter().chain(signals).find(|kind| *kind as u8 == number)
    }
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// The lane's number.
    pub lane: u8,
    /// Joins an answer to its question; in a credit, how many bytes.
    pub correlation: u64,
    /// Which message.
    pub message_type: u64,
    /// Time left for the answer, in ms; 0 for none.
    pub deadline_ms: u32,
    /// The message.
    pub payload: Bytes,
}

/// Why bytes are no frame. The connection is closed: its other end is broken or hostile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Cut off.
    #[error("a frame is cut off: {found} of {needed} bytes")]
    Truncated {
        /// Bytes that are there.
        found: usize,
        /// Bytes that are needed.
        needed: usize,
    },
    /// Over the limit.
    #[error("a frame of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLarge(usize),
    /// Another protocol version.
    #[error("frame of protocol version {0}, this node speaks {PROTOCOL_VERSION}")]
    Version(u8),
    /// A kind or lane that does not exist.
    #[error("a frame with unknown kind {kind} or lane {lane}")]
    Unknown {
        /// The kind.
        kind: u8,
        /// The lane.
        lane: u8,
    },
}

/// The type number of a message with this stable name.
pub fn type_of(name: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = Digest::sha256(name.as_bytes()).0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

impl Frame {
    /// A frame without content.
    pub fn signal(kind: FrameKind) -> Self {
        Self { kind, lane: 0, correlation: 0, message_type: 0, deadline_ms: 0, payload: Bytes::new() }
    }

    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(HEADER_BYTES + self.payload.len());
        out.put_u8(PROTOCOL_VERSION);
        out.put_u8(self.kind as u8);
        out.put_u8(self.lane);
        out.put_u8(0);
        out.put_u64(self.correlation);
        out.put_u64(self.message_type);
        out.put_u32(self.deadline_ms);
        out.put_u32(self.payload.len() as u32);
        out.put_slice(&self.payload);
    }

    /// Reads all frames of a websocket message.
    pub fn decode_all(mut bytes: Bytes) -> Result<Vec<Self>, FrameError> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            frames.push(Self::decode(&mut bytes)?);
        }
        Ok(frames)
    }

    fn decode(bytes: &mut Bytes) -> Result<Self, FrameError> {
        if bytes.len() < HEADER_BYTES {
            return Err(FrameError::Truncated { found: bytes.len(), needed: HEADER_BYTES });
        }
        let (version, kind, lane) = (bytes.get_u8(), bytes.get_u8(), bytes.get_u8());
        bytes.advance(1);
        let (correlation, message_type) = (bytes.get_u64(), bytes.get_u64());
        let (deadline_ms, length) = (bytes.get_u32(), bytes.get_u32() as usize);
        if version != PROTOCOL_VERSION {
            return Err(FrameError::Version(version));
        }
        let known = FrameKind::from_u8(kind).filter(|_| lane <= 2).ok_or(FrameError::Unknown { kind, lane })?;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge(length));
        }
        if length > bytes.len() {
            return Err(FrameError::Truncated { found: bytes.len(), needed: length });
        }
        Ok(Self { kind: known, lane, correlation, message_type, deadline_ms, payload: bytes.split_to(length) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &'static [u8]) -> Frame {
        Frame {
            kind: FrameKind::Ask,
            lane: 1,
            correlation: 7,
            message_type: type_of("x"),
            deadline_ms: 9,
            payload: Bytes::from_static(payload),
        }
    }

    #[test]
    fn several_frames_in_one_message_read_back() {
        let mut out = BytesMut::new();
        let frames = [frame(b"one"), frame(b""), Frame::signal(FrameKind::Ping)];
        frames.iter().for_each(|frame| frame.encode(&mut out));
        assert_eq!(Frame::decode_all(out.freeze()).unwrap(), frames);
    }

    #[test]
    fn broken_frames_are_refused_with_the_reason() {
        let mut out = BytesMut::new();
        frame(b"payload").encode(&mut out);
        let whole = out.freeze();
        for length in 1..whole.len() {
            assert!(matches!(Frame::decode_all(whole.slice(..length)), Err(FrameError::Truncated { .. })));
        }
        let changed = |offset: usize, value: u8| {
            let mut bytes = whole.to_vec();
            bytes[offset] = value;
            Frame::decode_all(bytes.into()).unwrap_err()
        };
        assert_eq!(changed(0, 2), FrameError::Version(2));
        assert_eq!(changed(1, 99), FrameError::Unknown { kind: 99, lane: 1 });
        assert_eq!(changed(2, 9), FrameError::Unknown { kind: 2, lane: 9 });
        assert!(matches!(changed(24, 255), FrameError::TooLarge(_)));
    }
}
