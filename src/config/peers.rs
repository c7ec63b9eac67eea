//! The other nodes: `[[peer]]` tables in the configuration, and in a file that all nodes of a network share.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use standin_foundation::PublicKey;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::reader::{Reader, place_of};
use super::{ConfigError, Fault, NodeRole, PeerEntry};

/// Whether a text is host and port.
pub(super) fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// Reads a file of `[[peer]]` tables.
pub(super) fn read(path: &Path) -> Result<Vec<PeerEntry>, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    let table = DeTable::parse(&text).map_err(|error| ConfigError::Syntax {
        place: place_of(path, &text, error.span()),
        what: error.message().to_owned(),
    })?;
    let mut reader = Reader::new(path, &text, table.get_ref(), BTreeMap::new());
    let peers = reader.peers();
    reader.find_unknown();
    if reader.faults.is_empty() { Ok(peers) } else { Err(ConfigError::Faults(reader.faults)) }
}

impl Reader<'_> {
    /// Those of the shared file, and on top of them those of the configuration itself.
    pub(super) fn all_peers(&mut self) -> Vec<PeerEntry> {
        let shared = self.optional_file("node", "peers_file").map(|path| self.shared_peers(&path)).unwrap_or_default();
        let own = self.peers();
        let is_own = |shared: &PeerEntry| own.iter().any(|peer| peer.key == shared.key);
        shared.into_iter().filter(|peer| !is_own(peer)).chain(own.clone()).collect()
    }

    fn shared_peers(&mut self, path: &Path) -> Vec<PeerEntry> {
        let key = "node.peers_file".to_owned();
        match read(path) {
            Ok(peers) => return peers,
            Err(ConfigError::Faults(faults)) => self.faults.extend(faults),
            Err(ConfigError::File { path, source }) => {
                let what = format!("{source}; `standin genesis build` writes it, of all nodes' descriptors");
                self.faults.push(Fault { place: path.display().to_string(), key, what });
            }
            Err(error) => self.faults.push(Fault { place: path.display().to_string(), key, what: error.to_string() }),
        }
        Vec::new()
    }

    /// The `[[peer]]` tables of this file.
    fn peers(&mut self) -> Vec<PeerEntry> {
        let Some(peers) = self.root.get("peer") else { return Vec::new() };
        let place = |span| place_of(self.path, self.text, Some(span));
        let DeValue::Array(entries) = peers.get_ref() else {
            let place = place(peers.span());
            self.fault(place, "peer", "", "a list is needed: write [[peer]] before each");
            return Vec::new();
        };
        let entries: Vec<_> = entries.iter().collect();
        entries.into_iter().filter_map(|entry| self.peer(entry)).collect()
    }

    fn peer(&mut self, entry: &Spanned<DeValue<'_>>) -> Option<PeerEntry> {
        let place = place_of(self.path, self.text, Some(entry.span()));
        let DeValue::Table(table) = entry.get_ref() else {
            self.fault(place, "peer", "", "a table is needed: write [[peer]] before each");
            return None;
        };
        for (key, _) in table.iter() {
            if !["key", "address", "role"].contains(&key.get_ref().as_ref()) {
                let place = place_of(self.path, self.text, Some(key.span()));
                self.fault(place, "peer", key.get_ref(), "is not known; `key`, `address` and `role` are");
            }
        }
        let text = |key: &str| match table.get(key).map(Spanned::get_ref) {
            Some(DeValue::String(text)) => Some(text.to_string()),
            _ => None,
        };
        let (key, address) = (text("key"), text("address"));
        let parsed = key.as_deref().unwrap_or_default().parse::<PublicKey>();
        if let Err(error) = &parsed {
            self.fault(place.clone(), "peer", "key", error.to_string());
        }
        let role = text("role").map_or(Ok(NodeRole::Member), |role| role.parse());
        if let Err(error) = role {
            self.fault(place.clone(), "peer", "role", format!("{error}; \"member\" and \"auth\" are known"));
        }
        let address = address.filter(|address| is_address(address));
        if address.is_none() {
            self.fault(place, "peer", "address", "host and port are needed, such as \"bank-a.example:7001\"");
        }
        Some(PeerEntry { role: role.ok()?, key: parsed.ok()?, address: address? })
    }
}
