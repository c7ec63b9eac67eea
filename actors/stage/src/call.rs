//! The one error of calls, local and remote.

/// Why a message was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The receiver's lane is full: nothing was executed.
    #[error("overloaded: {queued} messages wait, the limit is {limit}")]
    Overloaded {
        /// How many wait.
        queued: usize,
        /// How many may.
        limit: usize,
    },
    /// The deadline passed before the receiver took the message: nothing was executed.
    #[error("expired before it was taken")]
    Expired,
    /// No answer in time: it may have been executed.
    #[error("timed out")]
    TimedOut,
    /// Nobody has this name.
    #[error("no actor `{0}`")]
    NoSuchActor(String),
    /// The receiver stopped for good.
    #[error("stopped")]
    Stopped,
    /// The receiver ended, or panicked, while it worked on it: it may have been executed.
    #[error("the receiver dropped the message")]
    Dropped,
    /// The receiver refuses this sender or this content: nothing was executed.
    #[error("refused: {0}")]
    Refused(String),
    /// The other side does not know this kind of message.
    #[error("unknown message `{0}`")]
    UnknownMessage(String),
    /// The other side speaks another version.
    #[error("incompatible version: {0}")]
    Incompatible(String),
    /// There is no connection; `sent` tells whether the message may have left.
    #[error("disconnected")]
    Disconnected {
        /// The message had left.
        sent: bool,
    },
    /// The message is over its limit.
    #[error("too large: {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

impl CallError {
    /// Whether the message may have been executed although there is no answer.
    pub fn maybe_executed(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Dropped | Self::Disconnected { sent: true })
    }
}
