//! The layouts that ship with the program: which nodes there are, and for which cluster each speaks.

use serde::Deserialize;
use standin_foundation::ClusterId;

use super::Failure;

/// Name and content of each file in `configs/`.
const SHIPPED: [(&str, &str); 6] = [
    ("four-seats", include_str!("../../configs/four-seats.toml")),
    ("two-sites", include_str!("../../configs/two-sites.toml")),
    ("four-sites", include_str!("../../configs/four-sites.toml")),
    ("four-sites-plus", include_str!("../../configs/four-sites-plus.toml")),
    ("four-sites-etcd", include_str!("../../configs/four-sites-etcd.toml")),
    ("publishers", include_str!("../../configs/publishers.toml")),
];

/// A layout.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layout {
    /// Its name.
    pub(super) name: String,
    /// Where the register of the auth nodes stands.
    #[serde(default)]
    pub(super) register: RegisterPlace,
    /// The auth node, or several that share a register; none where each seat is held by one node for ever.
    #[serde(default)]
    pub(super) auth: Vec<LayoutAuth>,
    /// The nodes that hold seats, or stand by.
    #[serde(rename = "node")]
    pub(super) nodes: Vec<LayoutNode>,
}

/// Where a register stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RegisterPlace {
    /// With its only auth node.
    #[default]
    Log,
    /// In an etcd.
    Etcd,
}

/// A node of a layout.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayoutNode {
    /// The name of its folder, and in logs.
    pub(super) name: String,
    /// Its cluster.
    pub(super) cluster: ClusterId,
    /// Where it stands: what is lost together has the same name.
    #[serde(default)]
    pub(super) site: String,
    /// The higher, the earlier it is elected.
    #[serde(default)]
    pub(super) priority: u8,
}

/// The auth node of a layout.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayoutAuth {
    /// The name of its folder, and in logs.
    pub(super) name: String,
    /// Where it stands: outside of every set of sites whose loss the layout claims to survive.
    pub(super) site: String,
}

impl Layout {
    /// Names of all processes: the nodes, then the auth nodes.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let auth = self.auth.iter().map(|auth| auth.name.as_str());
        self.nodes.iter().map(|node| node.name.as_str()).chain(auth)
    }

    /// The site of a process, in the order of [`Self::names`].
    pub(super) fn site_of(&self, index: usize) -> &str {
        let auth = self.auth.iter().map(|auth| auth.site.as_str());
        self.nodes.iter().map(|node| node.site.as_str()).chain(auth).nth(index).unwrap_or_default()
    }

    /// The clusters, in the order of their seats: that in which they are first named.
    pub(super) fn clusters(&self) -> Vec<&ClusterId> {
        let mut clusters = Vec::new();
        for node in &self.nodes {
            if !clusters.contains(&&node.cluster) {
                clusters.push(&node.cluster);
            }
        }
        clusters
    }

    /// The sites of the nodes, the auth node's left out.
    pub(super) fn sites(&self) -> std::collections::BTreeSet<&str> {
        self.nodes.iter().map(|node| node.site.as_str()).filter(|site| !site.is_empty()).collect()
    }

    /// The layout with this name.
    pub(super) fn named(name: &str) -> Result<Self, Failure> {
        let known: Vec<_> = SHIPPED.iter().map(|(name, _)| format!("`{name}`")).collect();
        let text = SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text);
        let text = text
            .ok_or_else(|| Failure::new(2, format!("layout `{name}` is not known; there is {}", known.join(", "))))?;
        Self::parse(name, text)
    }

    fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        toml::from_str(text).map_err(|error| Failure::new(1, format!("layout `{name}`: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_layout_reads_under_its_own_name() {
        for (name, _) in SHIPPED {
            let layout = Layout::named(name).unwrap();
            assert_eq!(layout.name, name);
            assert_eq!(layout.clusters().len(), 4);
            assert!(layout.auth.iter().all(|auth| !auth.site.is_empty()));
            assert!(layout.auth.len() < 2 || layout.register == RegisterPlace::Etcd, "they must share a register");
        }
        assert_eq!(Layout::named("no-such").unwrap_err().code, 2);
    }

    /// What each layout says that it survives: a cluster's members stand at sites of their own, and the auth node elsewhere.
    #[test]
    fn no_site_holds_two_members_of_a_cluster_and_the_auth_node_stands_elsewhere() {
        let layouts = [("two-sites", 2), ("four-sites", 3), ("four-sites-plus", 4), ("four-sites-etcd", 3)];
        for (name, members) in layouts {
            let layout = Layout::named(name).unwrap();
            for cluster in layout.clusters() {
                let sites = layout.nodes.iter().filter(|node| node.cluster == *cluster).map(|node| &node.site);
                assert_eq!(sites.collect::<std::collections::BTreeSet<_>>().len(), members, "{name} {cluster}");
            }
            assert!(!layout.auth.is_empty());
            assert!(layout.auth.iter().all(|auth| !layout.sites().contains(auth.site.as_str())));
        }
    }
}
