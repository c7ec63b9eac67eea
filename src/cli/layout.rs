//! The layouts that ship with the program: which nodes there are, and for which cluster each speaks.

use serde::Deserialize;
use standin_foundation::ClusterId;

use super::Failure;

/// Name and content of each file in `configs/`.
const SHIPPED: [(&str, &str); 1] = [("four-seats", include_str!("../../configs/four-seats.toml"))];

/// A layout.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layout {
    /// Its name.
    pub(super) name: String,
    /// Its nodes, by seat.
    #[serde(rename = "node")]
    pub(super) nodes: Vec<LayoutNode>,
}

/// A node of a layout.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayoutNode {
    /// The name of its folder, and in logs.
    pub(super) name: String,
    /// The cluster that it speaks for.
    pub(super) cluster: ClusterId,
}

impl Layout {
    /// The layout with this name.
    pub(super) fn named(name: &str) -> Result<Self, Failure> {
        let known: Vec<_> = SHIPPED.iter().map(|(name, _)| format!("`{name}`")).collect();
        let text = SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text);
        let text = text
            .ok_or_else(|| Failure::new(2, format!("layout `{name}` is not known; there is {}", known.join(", "))))?;
        toml::from_str(text).map_err(|error| Failure::new(1, format!("layout `{name}`: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_layout_reads_under_its_own_name() {
        for (name, _) in SHIPPED {
            assert_eq!(Layout::named(name).unwrap().name, name);
        }
        assert_eq!(Layout::named("no-such").unwrap_err().code, 2);
    }
}
