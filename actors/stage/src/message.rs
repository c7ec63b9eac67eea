//! Messages and their lanes.

use standin_foundation::wire::Wire;

/// Which queue a message takes. Lower lanes are handled first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Votes, keep-alives, shutdown: small, few, first.
    Control = 0,
    /// Everything else.
    Ordinary = 1,
    /// Large and patient: blocks and snapshots on their way to a node that is behind.
    Bulk = 2,
}

impl Lane {
    /// All lanes, first to last.
    pub const ALL: [Self; 3] = [Self::Control, Self::Ordinary, Self::Bulk];

    /// The lane with this number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Something that an actor can be told or asked.
pub trait Message: Send + 'static {
    /// The answer.
    type Reply: Send + 'static;
    /// Its lane.
    const LANE: Lane = Lane::Ordinary;

    /// Bytes that it holds, about: what its lane's bound counts.
    fn bytes(&self) -> usize {
        size_of_val(self)
    }
}

/// A message that can come from another machine. [`Wire::NAME`] is its stable name; a change of its form gets a new one.
pub trait RemoteMessage: Message<Reply: Wire> + Wire {}
