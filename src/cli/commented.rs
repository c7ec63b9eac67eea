//! Configurations as `init` writes them: each section with every key that it knows, explained by the table of keys.

use std::fmt::Write as _;
use std::net::SocketAddr;

use standin::config::{NodeRole, keys};
use standin_foundation::PublicKey;

/// Keys that are set, with their values as TOML.
pub(super) type Set<'a> = [(&'a str, String)];

/// A section: keys that are set, and the others as comments with what they are without being set.
pub(super) fn section(name: &str, set: &Set<'_>) -> String {
    let mut text = format!("[{name}]\n");
    for key in keys::KEYS {
        let Some((_, own)) = key.name.split_once('.').filter(|(section, _)| *section == name) else { continue };
        let _ = writeln!(text, "# {}", key.about);
        let value = set.iter().find(|(key, _)| *key == own).map(|(_, value)| value);
        let _ = match (value, key.default) {
            (Some(value), _) => writeln!(text, "{own} = {value}"),
            (None, Some(default)) => writeln!(text, "# {own} = {default}    # {}", key.takes),
            (None, None) => writeln!(text, "# {own} =    # {}", key.takes),
        };
    }
    text.push('\n');
    text
}

/// A text as TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Where a node stands and listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Its site, for whoever reads the file.
    pub(super) site: &'a str,
    /// Where its bridge listens.
    pub(super) bridge: SocketAddr,
    /// Where its HTTP listens.
    pub(super) http: SocketAddr,
}

/// What every configuration begins with. `node` are further keys of its first section.
pub(super) fn head(place: Place<'_>, genesis: &str, node: &Set<'_>) -> String {
    let Place { name, site, bridge, http } = place;
    let site = if site.is_empty() { String::new() } else { format!(", at the site `{site}`") };
    let mut set = vec![
        ("name", quoted(name)),
        ("key_file", quoted("node.key")),
        ("genesis_file", quoted(genesis)),
        ("data_dir", quoted("data")),
    ];
    set.extend_from_slice(node);
    let bridge = [
        ("listen", quoted(&bridge.to_string())),
        ("certificate_file", quoted("tls.pem")),
        ("certificate_key_file", quoted("tls.key")),
    ];
    format!(
        "# A node of Standin{site}. Paths are relative to this file; `standin config explain` tells all of this, too.\n{}{}{}",
        section("node", &set),
        section("bridge", &bridge),
        section("http", &[("listen", quoted(&http.to_string()))])
    )
}

/// The `[log]` section.
pub(super) fn log(level: &str) -> String {
    section("log", &[("level", quoted(level))])
}

/// Another node.
pub(super) fn peer(role: NodeRole, key: &PublicKey, address: &str) -> String {
    let role = if role == NodeRole::Auth { "role = \"auth\"\n" } else { "" };
    format!("\n[[peer]]\n{role}key = \"{key}\"\naddress = {}\n", quoted(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_says_what_each_key_means_and_sets_what_it_is_told() {
        let text = section("cluster", &[("min_in_sync", "2".to_owned())]);
        assert!(text.starts_with("[cluster]\n# How often members"), "{text}");
        assert!(
            text.contains("\nmin_in_sync = 2\n") && text.contains("\n# keep_alive_ms = 50    # 5 to 10000"),
            "{text}"
        );
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["cluster"].as_table().unwrap().len(), 1, "all else is a comment");
    }
}
