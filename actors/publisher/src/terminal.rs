//! What a server says to a terminal over a websocket. The other way a terminal says but one thing, as a text: the number of the last datum
//! that it has.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_foundation::wire::Wire;
use standin_foundation::{Decoder, Digest, Encoder, MalformedBytes};

use crate::frame::{Content, Entry, FrameError};
use crate::ids::{Fence, Sequence};
use crate::machine::terminal::{Position, Published};
use crate::machine::witness::TakeoverProof;

/// The websocket's subprotocol.
pub const SUBPROTOCOL: &str = "standin-publication.v1";
/// Bytes of a message.
pub const MESSAGE_BYTES_MAX: usize = crate::frame::PUSH_BYTES_MAX + 1_024;

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToTerminal {
    /// From where it goes on: what the terminal has shown, or what is behind the place that it asked for.
    Start(Position),
    /// A takeover and who says so, before anything under its fence.
    Takeover(TakeoverProof),
    /// A frame.
    Frame(Published),
    /// It is served no more.
    Refused {
        /// Why.
        why: String,
        /// The first datum that is kept, where what it needs is forgotten.
        first: Option<Sequence>,
    },
}

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is too large.
    #[error("a message of {0} bytes: at most {MESSAGE_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// Its form.
    #[error(transparent)]
    Malformed(#[from] MalformedBytes),
    /// Its parts.
    #[error(transparent)]
    Wire(#[from] standin_foundation::wire::WireError),
    /// Its frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    why: String,
    first: Option<Sequence>,
}

impl Wire for Refusal {
    const NAME: &'static str = "refusal";
    const BYTES_MAX: usize = 1_024;
}

/// Where a server goes on. It says nothing of epochs: what proves them comes with takeovers.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    fence: Fence,
    last: Sequence,
    chain: Digest,
}

impl Place {
    fn of(&Position { fence, last, chain, .. }: &Position) -> Self {
        Self { fence, last, chain }
    }
}

impl Wire for Place {
    const NAME: &'static str = "position";
    const BYTES_MAX: usize = 128;
}

impl ToTerminal {
    /// The message, for a binary frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        // None of these can be over its limit but a reason, which is cut.
        match self {
            Self::Start(position) => out.u8(0).bytes(&Place::of(position).to_wire().unwrap_or_default()),
            Self::Takeover(proof) => out.u8(1).bytes(&proof.to_wire().unwrap_or_default()),
            Self::Frame(Published { fence, entry, content }) => {
                out.u8(2).u64(fence.0).bytes(&entry.to_wire().unwrap_or_default()).raw(content.bytes())
            }
            Self::Refused { why, first } => {
                let refusal = Refusal { why: why.chars().take(200).collect(), first: *first };
                out.u8(3).bytes(&refusal.to_wire().unwrap_or_default())
            }
        };
        out.into_bytes()
    }

    /// Reads what [`ToTerminal::to_bytes`] gave.
    pub fn from_bytes(bytes: &Bytes) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLarge(bytes.len()));
        }
        let mut input = Decoder::new(bytes);
        let kind = input.u8()?;
        if kind == 2 {
            let fence = Fence(input.u64()?);
            let entry = Entry::from_wire(input.bytes(256)?)?;
            let content = Content::parse(bytes.slice(input.offset()..))?;
            return Ok(Self::Frame(Published { fence, entry, content }));
        }
        let message = match kind {
            0 => {
                let Place { fence, last, chain } = Place::from_wire(input.bytes(256)?)?;
                Self::Start(Position { fence, last, chain, ..Position::default() })
            }
            1 => Self::Takeover(TakeoverProof::from_wire(input.bytes(TakeoverProof::BYTES_MAX)?)?),
            3 => {
                let Refusal { why, first } = Refusal::from_wire(input.bytes(1_024)?)?;
                Self::Refused { why, first }
            }
            _ => return Err(input.fault("unknown kind of message").into()),
        };
        input.finish()?;
        Ok(message)
    }

    /// The message, as JSON: values as [`BytesView`] says them.
    #[cfg(feature = "actor")]
    pub fn to_json(&self) -> String {
        use serde_json::json;
        let value = match self {
            Self::Start(position) => json!({ "start": Place::of(position) }),
            Self::Takeover(TakeoverProof { takeover, epoch, witnesses }) => {
                json!({ "takeover": takeover, "proof": { "epoch": epoch, "witnesses": witnesses } })
            }
            Self::Frame(Published { fence, entry, content }) => {
                let data: Vec<_> = content
                    .data()
                    .iter()
                    .map(|datum| json!({ "id": BytesView::from(&datum.id), "value": BytesView::from(&datum.value) }))
                    .collect();
                json!({ "frame": { "fence": fence, "first": entry.first, "count": entry.count, "content": entry.content,
                    "chain": entry.chain, "data": data } })
            }
            Self::Refused { why, first } => json!({ "refused": { "why": why, "first": first } }),
        };
        value.to_string()
    }
}

/// Bytes, as text where they are UTF-8.
#[cfg(feature = "actor")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BytesView {
    /// They are.
    Text(String),
    /// They are not.
    Hex {
        /// In hexadecimal.
        hex: String,
    },
}

#[cfg(feature = "actor")]
impl From<&Bytes> for BytesView {
    fn from(bytes: &Bytes) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex { hex: hex::encode(bytes) },
        }
    }
}

#[cfg(feature = "actor")]
impl BytesView {
    /// The bytes; none if they are no hexadecimal.
    pub fn bytes(&self) -> Option<Bytes> {
        match self {
            Self::Text(text) => Some(text.clone().into()),
            Self::Hex { hex } => hex::decode(hex).ok().map(Bytes::from),
        }
    }
}

#[cfg(feature = "actor")]
impl std::fmt::Display for BytesView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What strangers have said must not become a line of its own, or an order to a terminal.
        match self {
            Self::Text(text) if text.contains(char::is_control) => f.pad(&text.escape_debug().to_string()),
            Self::Text(text) => f.pad(text),
            Self::Hex { hex } => f.pad(&format!("0x{hex}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::{Digest, Epoch, Seat, SecretKey, Term};

    use super::*;
    use crate::frame::tests::content;
    use crate::machine::witness::Word;
    use crate::messages::Takeover;

    #[test]
    fn messages_are_read_as_they_were_written_and_nothing_else_is_read() {
        let content = content(&["a", "ü"]);
        let entry = Entry::following(&Digest::ZERO, Sequence(1), &content).unwrap();
        let owner = SecretKey::from_bytes(&[1; 32]).unwrap().public();
        let (from, before, lease_ms) = (Sequence(1), Digest::ZERO, 1_000);
        let topic = "t".parse().unwrap();
        let takeover = Takeover { topic, fence: Fence(3), owner, lease_ms, from, before };
        let speaks = (Epoch(1), Seat(2), Term(3));
        let Word { witness, .. } =
            Word::sign(&Digest::ZERO, &SecretKey::from_bytes(&[1; 32]).unwrap(), takeover, speaks);
        let messages = [
            ToTerminal::Start(Position::default()),
            ToTerminal::Takeover(TakeoverProof { takeover, epoch: Epoch(1), witnesses: vec![witness] }),
            ToTerminal::Frame(Published { fence: Fence(3), entry, content }),
            ToTerminal::Refused { why: "why".into(), first: Some(Sequence(9)) },
        ];
        for message in messages {
            let bytes = Bytes::from(message.to_bytes());
            assert_eq!(ToTerminal::from_bytes(&bytes), Ok(message.clone()));
            for end in 0..bytes.len() {
                assert!(ToTerminal::from_bytes(&bytes.slice(..end)).is_err(), "{message:?} cut at {end}");
            }
        }
        let too_large = Bytes::from(vec![2; MESSAGE_BYTES_MAX + 1]);
        assert_eq!(ToTerminal::from_bytes(&too_large), Err(MessageError::TooLarge(MESSAGE_BYTES_MAX + 1)));
    }
}
