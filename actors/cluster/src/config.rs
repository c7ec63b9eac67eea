//! Numbers that each node may choose for itself.

/// Numbers that each node may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Interval of pulses and keep-alives, in ms.
    pub keep_alive_ms: u64,
    /// A holder that has not been heard for so long is suspected, in ms.
    pub suspect_ms: u64,
    /// A member that acknowledges nothing for so long is silent, in ms: the holder asks to leave it out.
    pub shrink_ms: u64,
    /// A member must keep up for so long before it is taken in, in ms.
    pub grow_after_ms: u64,
    /// The candidate of rank r waits r times this long, in ms.
    pub rank_delay_ms: u64,
    /// A holder that is mute, or hears too few seats, for so long is suspected, in ms.
    pub mute_ms: u64,
    /// What was not answered is asked again after this time, in ms.
    pub retry_ms: u64,
    /// The holder does not leave out members below this number.
    pub min_in_sync: usize,
    /// The holder takes members in up to this number.
    pub in_sync: usize,
    /// A member whose result was wrong is taken in again after so many that agree.
    pub agreements_after_wrong: u32,
    /// Records that may be under way to a member.
    pub window: u64,
    /// A gap between two steps of more than this means that this process was paused. In ms.
    pub pause_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keep_alive_ms: 50,
            suspect_ms: 150,
            shrink_ms: 150,
            grow_after_ms: 500,
            rank_delay_ms: 100,
            mute_ms: 400,
            retry_ms: 100,
            min_in_sync: 1,
            in_sync: usize::MAX,
            agreements_after_wrong: 3,
            window: 4_096,
            pause_ms: 100,
        }
    }
}
