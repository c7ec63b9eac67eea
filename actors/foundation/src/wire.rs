//! The one door to `bincode`: messages between nodes, and records in files.
//!
//! `bincode` without a limit can be made to allocate without bound, accepts trailing bytes, and overflows the stack on
//! recursive types. So: a limit that the type fixes, input consumed to the end or refused, and no recursive types in
//! anything that implements [`Wire`] (fuzzing guards it).

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes are not the message they should be, or a message cannot become bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Larger than the type allows.
    #[error("{what}: over the limit of {limit} bytes")]
    TooLarge {
        /// The type.
        what: &'static str,
        /// Its limit, in bytes.
        limit: usize,
    },
    /// Not an encoding of the type.
    #[error("{what}: {reason}")]
    Malformed {
        /// The type.
        what: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// Decoded, but bytes were left.
    #[error("{what}: {count} trailing bytes")]
    TrailingBytes {
        /// The type.
        what: &'static str,
        /// How many bytes were left.
        count: usize,
    },
}

/// A type that travels or is stored. It must not be recursive.
pub trait Wire: Serialize + DeserializeOwned {
    /// Stable name, for errors and for the bridge's table of messages.
    const NAME: &'static str;
    /// Largest encoding, in bytes.
    const BYTES_MAX: usize;

    /// Encodes the value.
    fn to_wire(&self) -> Result<Vec<u8>, WireError> {
        let bytes = bincode::serde::encode_to_vec(self, bincode::config::standard())
            .map_err(|error| WireError::Malformed { what: Self::NAME, reason: error.to_string() })?;
        if bytes.len() > Self::BYTES_MAX {
            return Err(WireError::TooLarge { what: Self::NAME, limit: Self::BYTES_MAX });
        }
        Ok(bytes)
    }

    /// Decodes a value from all of `bytes`.
    fn from_wire(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(WireError::TooLarge { what: Self::NAME, limit: Self::BYTES_MAX });
        }
        let (value, read) = decode_within(bytes)
            .map_err(|error| WireError::Malformed { what: Self::NAME, reason: error.to_string() })?;
        match bytes.len() - read {
            0 => Ok(value),
            count => Err(WireError::TrailingBytes { what: Self::NAME, count }),
        }
    }
}

/// The answer that says nothing but "done".
impl Wire for () {
    const NAME: &'static str = "done";
    const BYTES_MAX: usize = 0;
}

/// Decodes with the smallest fixed limit that covers the input twice: `bincode` takes its limit as a constant, and it
/// bounds what a length inside the input may make the decoder allocate.
fn decode_within<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
    const KIB: usize = 1024;
    let standard = bincode::config::standard();
    match bytes.len() {
        0..=512 => bincode::serde::decode_from_slice(bytes, standard.with_limit::<{ 4 * KIB }>()),
        513..=32_768 => bincode::serde::decode_from_slice(bytes, standard.with_limit::<{ 128 * KIB }>()),
        32_769..=1_048_576 => bincode::serde::decode_from_slice(bytes, standard.with_limit::<{ 4 * KIB * KIB }>()),
        _ => bincode::serde::decode_from_slice(bytes, standard.with_limit::<{ 64 * KIB * KIB }>()),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        numbers: Vec<u64>,
        text: String,
    }

    impl Wire for Sample {
        const NAME: &'static str = "sample";
        const BYTES_MAX: usize = 64;
    }

    fn sample() -> Sample {
        Sample { numbers: vec![1, 2, 300], text: "x".into() }
    }

    #[test]
    fn a_value_round_trips() {
        assert_eq!(Sample::from_wire(&sample().to_wire().unwrap()).unwrap(), sample());
    }

    #[test]
    fn trailing_truncated_and_oversized_input_is_refused() {
        let mut bytes = sample().to_wire().unwrap();
        bytes.push(0);
        assert_eq!(Sample::from_wire(&bytes), Err(WireError::TrailingBytes { what: "sample", count: 1 }));
        bytes.truncate(3);
        assert!(matches!(Sample::from_wire(&bytes), Err(WireError::Malformed { .. })));
        assert!(matches!(Sample::from_wire(&[0; 65]), Err(WireError::TooLarge { .. })));
        let large = Sample { numbers: vec![], text: "x".repeat(64) };
        assert!(matches!(large.to_wire(), Err(WireError::TooLarge { .. })));
    }

    #[test]
    fn a_length_bomb_is_refused_without_allocating() {
        // 253 announces a u64 length: 2^40 numbers.
        let bomb = [253, 0, 0, 0, 0, 0, 1, 0, 0];
        assert!(matches!(Sample::from_wire(&bomb), Err(WireError::Malformed { .. })));
    }
}
