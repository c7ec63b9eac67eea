//! What an auth node may choose for itself.

/// Numbers that an auth node may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// An entry whose holder has not been heard for so long is vacant, in ms.
    pub age_max_ms: u64,
    /// A member that has been heard within this time lives: its suspicion is asked for. In ms.
    pub live_ms: u64,
    /// Time within which f+1 distinct seats must report a wrong result before its holder is switched away from, in ms.
    pub reports_window_ms: u64,
    /// Sites to which clusters move when the sites have lost each other, the first first; none for never.
    pub split_preference: Vec<String>,
    /// For how long holders must have heard too few others before clusters move, in ms.
    pub split_after_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            age_max_ms: 3_000,
            live_ms: 200,
            reports_window_ms: 60_000,
            split_preference: Vec::new(),
            split_after_ms: 2_000,
        }
    }
}
