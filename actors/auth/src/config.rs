//! Numbers that an auth node may choose for itself.

/// Numbers that an auth node may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// An entry whose holder has not been heard for so long is vacant, in ms.
    pub age_max_ms: u64,
    /// A member that has been heard within this time lives: its suspicion is asked for. In ms.
    pub live_ms: u64,
    /// Distinct seats that must report a wrong result before its holder is switched away from; f+1 at least.
    pub reports_needed: usize,
    /// Time within which they must do so, in ms.
    pub reports_window_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { age_max_ms: 3_000, live_ms: 200, reports_needed: 2, reports_window_ms: 60_000 }
    }
}
