//! Snapshots: the whole state at a checkpoint, in chunks that verify one by one against the certified root.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_foundation::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use standin_foundation::wire::Wire;
use standin_foundation::{Digest, Height};

use crate::block::Header;
use crate::certificate::{CheckpointCertificate, CheckpointResult};
use crate::chain::{ids_root, recent_root, state_root};
use crate::error::LedgerError;
use crate::transaction::TransactionId;
use crate::trie::{Subtree, Trie, root_of_cut};

/// Ids of transactions by height, oldest first. Cheap to clone.
pub type RecentIds = Vec<(Height, Arc<[TransactionId]>)>;

/// The state after one block, with what the blocks after it must remember.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Header of the block.
    pub header: Header,
    /// The state.
    pub state: Trie,
    /// Ids of the transactions within the replay window, by height.
    pub recent: RecentIds,
}

/// What a snapshot consists of; verified against a checkpoint certificate before any chunk is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Proof of the result.
    pub certificate: CheckpointCertificate,
    /// Header of the block at the checkpoint.
    pub header: Header,
    /// Roots over the remembered ids, by height.
    pub recent: Vec<(Height, Digest)>,
    /// The parts of the state: prefix in nibbles, and hash of the subtree there.
    pub parts: Vec<(Vec<u8>, Digest)>,
}

impl Wire for Manifest {
    const NAME: &'static str = "snapshot.manifest";
    const BYTES_MAX: usize = SNAPSHOT_CHUNK_BYTES_MAX;
}

/// One part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Chunk {
    /// The entries of one part of the state.
    Entries(Vec<(Bytes, Bytes)>),
    /// The remembered ids of some heights.
    Recent(Vec<(Height, Vec<TransactionId>)>),
}

impl Wire for Chunk {
    const NAME: &'static str = "snapshot.chunk";
    const BYTES_MAX: usize = SNAPSHOT_CHUNK_BYTES_MAX;
}

/// Target size of a chunk, in bytes: far enough below the limit that one more entry does not break it.
const CHUNK_BYTES: usize = SNAPSHOT_CHUNK_BYTES_MAX / 8;
/// Ids in one chunk.
const CHUNK_IDS: usize = CHUNK_BYTES / 40;

/// A snapshot cut into parts, ready to be served.
#[derive(Debug, Clone)]
pub struct ServedSnapshot {
    manifest: Manifest,
    parts: Vec<Subtree>,
    recent: Vec<Vec<(Height, Vec<TransactionId>)>>,
}

impl ServedSnapshot {
    /// Cuts `snapshot`, whose result `certificate` proves.
    pub fn new(snapshot: &Snapshot, certificate: CheckpointCertificate) -> Self {
        let parts = snapshot.state.cut(CHUNK_BYTES);
        let manifest = Manifest {
            certificate,
            header: snapshot.header.clone(),
            recent: snapshot.recent.iter().map(|(height, ids)| (*height, ids_root(*height, ids))).collect(),
            parts: parts.iter().map(|part| (part.prefix.clone(), part.hash)).collect(),
        };
        Self { manifest, parts, recent: group_recent(&snapshot.recent) }
    }

    /// What the snapshot consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Chunk `index`: first the parts of the state, then the remembered ids; none past the end.
    pub fn chunk(&self, index: usize) -> Option<Chunk> {
        match index.checked_sub(self.parts.len()) {
            None => self.parts.get(index).map(|part| Chunk::Entries(part.entries.clone())),
            Some(index) => self.recent.get(index).cloned().map(Chunk::Recent),
        }
    }
}

fn group_recent(recent: &RecentIds) -> Vec<Vec<(Height, Vec<TransactionId>)>> {
    let mut groups: Vec<Vec<(Height, Vec<TransactionId>)>> = Vec::new();
    let mut size = 0;
    for (height, ids) in recent.iter().filter(|(_, ids)| !ids.is_empty()) {
        if groups.is_empty() || size + ids.len() > CHUNK_IDS {
            groups.push(Vec::new());
            size = 0;
        }
        size += ids.len();
        if let Some(group) = groups.last_mut() {
            group.push((*height, ids.to_vec()));
        }
    }
    groups
}

/// Puts a snapshot together from chunks, each verified when it arrives.
#[derive(Debug)]
pub struct SnapshotBuilder {
    manifest: Manifest,
    state: Trie,
    parts_missing: BTreeMap<usize, ()>,
    recent: BTreeMap<Height, Vec<TransactionId>>,
    next_recent_chunk: usize,
}

impl SnapshotBuilder {
    /// Begins with a manifest whose certificate has been verified. Fails if the manifest is not what the certificate
    /// proves.
    pub fn new(manifest: Manifest) -> Result<Self, LedgerError> {
        let CheckpointResult { height, block_hash, state_root: expected, .. } = manifest.certificate.result;
        let bad = |what, root| Err(LedgerError::BadProof { what, root });
        if manifest.header.hash() != block_hash || manifest.header.height() != height {
            return bad("snapshot header", block_hash);
        }
        // The roots are proven, the heights beside them are not: they are the last ones, without a gap.
        let heights = (0..=height.0).rev().map(Height);
        if manifest.recent.iter().rev().map(|(height, _)| *height).zip(heights).any(|(found, wanted)| found != wanted) {
            return bad("snapshot ids", expected);
        }
        let recent = recent_root(manifest.recent.iter().map(|(_, root)| root));
        let Some(trie_root) = root_of_cut(&manifest.parts) else { return bad("snapshot parts", expected) };
        let found = Digest::sha256_of(&[b"standin/v1/state", trie_root.as_bytes(), recent.as_bytes()]);
        if found != expected {
            return bad("snapshot parts", expected);
        }
        let parts_missing = (0..manifest.parts.len()).map(|index| (index, ())).collect();
        let recent = manifest
            .recent
            .iter()
            .filter(|(height, root)| ids_root(*height, &[]) == *root)
            .map(|(height, _)| (*height, Vec::new()))
            .collect();
        let next_recent_chunk = manifest.parts.len();
        Ok(Self { manifest, state: Trie::default(), parts_missing, recent, next_recent_chunk })
    }

    /// The height of the snapshot.
    pub fn height(&self) -> Height {
        self.manifest.certificate.result.height
    }

    /// The proof of the snapshot's result.
    pub fn certificate(&self) -> &CheckpointCertificate {
        &self.manifest.certificate
    }

    /// Indices of up to `count` chunks that are still missing.
    pub fn missing(&self, count: usize) -> Vec<usize> {
        let mut missing: Vec<_> = self.parts_missing.keys().copied().take(count).collect();
        if missing.is_empty() && self.recent.len() < self.manifest.recent.len() {
            missing.push(self.next_recent_chunk);
        }
        missing
    }

    /// Takes chunk `index`. A chunk that does not belong there is refused and nothing changes.
    pub fn accept(&mut self, index: usize, chunk: Chunk) -> Result<(), LedgerError> {
        match chunk {
            Chunk::Entries(entries) => self.accept_entries(index, entries),
            Chunk::Recent(recent) => self.accept_recent(index, recent),
        }
    }

    fn accept_entries(&mut self, index: usize, entries: Vec<(Bytes, Bytes)>) -> Result<(), LedgerError> {
        let root = self.manifest.certificate.result.state_root;
        let bad = LedgerError::BadProof { what: "snapshot chunk", root };
        let (prefix, hash) = self.manifest.parts.get(index).cloned().ok_or_else(|| bad.clone())?;
        let part = Subtree { prefix, hash, entries };
        if part.computed_hash() != Some(hash) {
            return Err(bad);
        }
        if self.parts_missing.remove(&index).is_some() {
            for (key, value) in part.entries {
                self.state.insert(key, value);
            }
        }
        Ok(())
    }

    fn accept_recent(&mut self, index: usize, recent: Vec<(Height, Vec<TransactionId>)>) -> Result<(), LedgerError> {
        let root = self.manifest.certificate.result.state_root;
        let expected = |height: &Height| {
            let found = self.manifest.recent.binary_search_by_key(height, |(height, _)| *height).ok()?;
            self.manifest.recent.get(found).map(|(_, root)| *root)
        };
        let all_right = recent.iter().all(|(height, ids)| expected(height) == Some(ids_root(*height, ids)));
        if !all_right || recent.is_empty() {
            return Err(LedgerError::BadProof { what: "snapshot ids", root });
        }
        if index != self.next_recent_chunk || recent.iter().all(|(height, _)| self.recent.contains_key(height)) {
            // Nothing new: what is missing is looked for from the first of these chunks again.
            self.next_recent_chunk = self.manifest.parts.len();
            return Err(LedgerError::BadProof { what: "snapshot ids", root });
        }
        self.next_recent_chunk += 1;
        self.recent.extend(recent);
        Ok(())
    }

    /// The snapshot, once nothing is missing; gives the builder back otherwise.
    pub fn finish(self) -> Result<(Snapshot, CheckpointCertificate), Box<Self>> {
        if !self.missing(1).is_empty() {
            return Err(Box::new(self));
        }
        let recent = self.recent.into_iter().map(|(height, ids)| (height, ids.into())).collect();
        let snapshot = Snapshot { header: self.manifest.header, state: self.state, recent };
        debug_assert_eq!(snapshot.state_root(), self.manifest.certificate.result.state_root);
        Ok((snapshot, self.manifest.certificate))
    }
}

impl Snapshot {
    /// The state root that a checkpoint at this height certifies.
    pub fn state_root(&self) -> Digest {
        state_root(&self.state.root(), &self.recent_root())
    }

    /// The part of the state root that covers the ids that are remembered.
    pub(crate) fn recent_root(&self) -> Digest {
        let roots: Vec<_> = self.recent.iter().map(|(height, ids)| ids_root(*height, ids)).collect();
        recent_root(roots.iter())
    }
}

#[cfg(test)]
mod tests {
    use standin_foundation::Epoch;

    use super::*;
    use crate::chain::Chain;
    use crate::chain::tests::{chain, genesis, put, step};

    fn grown() -> (Chain, ServedSnapshot) {
        let mut chain = chain(40);
        let mut result = None;
        for height in 1..=32u64 {
            let transactions = if height.is_multiple_of(3) { vec![] } else { vec![put(height, height + 9)] };
            result = step(&mut chain, transactions).checkpoint;
        }
        let certificate = CheckpointCertificate { epoch: Epoch(0), result: result.unwrap(), votes: vec![] };
        let served = ServedSnapshot::new(&chain.snapshot(), certificate);
        (chain, served)
    }

    #[test]
    fn a_snapshot_is_rebuilt_from_its_chunks_and_the_chain_goes_on_alike() {
        let (mut original, served) = grown();
        let mut builder = SnapshotBuilder::new(served.manifest().clone()).unwrap();
        while let Some(index) = builder.missing(1).first().copied() {
            builder.accept(index, served.chunk(index).unwrap()).unwrap();
        }
        let (snapshot, _) = builder.finish().unwrap();
        let mut copy = Chain::from_snapshot(&genesis(40), std::sync::Arc::new(crate::builtin::Builtin), snapshot);
        for height in 33..=80 {
            let transactions = vec![put(height, height + 5), put(height - 8, height)];
            let left = step(&mut original, transactions.clone());
            let right = step(&mut copy, transactions);
            assert_eq!((left.hash, left.checkpoint, left.receipts), (right.hash, right.checkpoint, right.receipts));
        }
    }

    #[test]
    fn a_forged_manifest_or_chunk_is_refused() {
        let (_, served) = grown();
        let mut forged = served.manifest().clone();
        forged.parts[0].1 = Digest::sha256(b"forged");
        assert!(SnapshotBuilder::new(forged).is_err());
        let mut forged = served.manifest().clone();
        forged.recent.pop();
        assert!(SnapshotBuilder::new(forged).is_err());
        let mut forged = served.manifest().clone();
        forged.header.time_ms += 1;
        assert!(SnapshotBuilder::new(forged).is_err());

        let mut builder = SnapshotBuilder::new(served.manifest().clone()).unwrap();
        let Some(Chunk::Entries(mut entries)) = served.chunk(0) else { panic!("entries come first") };
        entries[0].1 = Bytes::from_static(b"forged");
        assert!(builder.accept(0, Chunk::Entries(entries)).is_err());
        assert!(builder.accept(999, served.chunk(0).unwrap()).is_err());
        assert!(builder.accept(0, Chunk::Recent(vec![(Height(1), vec![Digest::ZERO])])).is_err());
        assert!(builder.finish().is_err());
    }
}
