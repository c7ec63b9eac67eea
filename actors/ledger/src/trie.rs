//! A persistent Merkle trie: 16-way, nodes shared between versions, hashes made when they are asked for.
//!
//! A key's place is SHA-256 of the key, four bits a level. A branch stands at a prefix exactly if two or more keys share
//! it, so the shape, and with it the root, depends on the content alone, never on the history. A clone costs one
//! reference count: old versions are snapshots, and undo.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_foundation::Digest;

const WIDTH: usize = 16;

/// A version of the trie.
#[derive(Debug, Clone, Default)]
pub struct Trie {
    root: Option<Arc<Node>>,
    count: u64,
}

#[derive(Debug, Clone)]
enum Node {
    Leaf(Leaf),
    Branch(Branch),
}

#[derive(Debug, Clone)]
struct Leaf {
    place: Digest,
    key: Bytes,
    value: Bytes,
    hash: OnceLock<Digest>,
}

#[derive(Debug, Clone, Default)]
struct Branch {
    children: [Option<Arc<Node>>; WIDTH],
    hash: OnceLock<Digest>,
}

/// Where a key stands in the trie.
pub(crate) fn place_of(key: &[u8]) -> Digest {
    Digest::sha256(key)
}

fn nibble(place: &Digest, depth: usize) -> usize {
    let byte = place.as_bytes().get(depth / 2).copied().unwrap_or_default();
    usize::from(if depth.is_multiple_of(2) { byte >> 4 } else { byte & 0x0f })
}

fn leaf_hash(place: &Digest, value: &[u8]) -> Digest {
    Digest::sha256_of(&[&[0x20], place.as_bytes(), value])
}

/// A branch's hash covers which children exist, and their hashes.
fn branch_hash(children: &[Option<Digest>; WIDTH]) -> Digest {
    let mut bitmap = 0u16;
    let mut hashes = Vec::with_capacity(WIDTH * 32);
    for (index, child) in children.iter().enumerate() {
        if let Some(child) = child {
            bitmap |= 1 << index;
            hashes.extend_from_slice(child.as_bytes());
        }
    }
    Digest::sha256_of(&[&[0x21], &bitmap.to_be_bytes(), &hashes])
}

impl Node {
    fn hash(&self) -> Digest {
        match self {
            Self::Leaf(leaf) => *leaf.hash.get_or_init(|| leaf_hash(&leaf.place, &leaf.value)),
            Self::Branch(branch) => *branch.hash.get_or_init(|| branch_hash(&branch.child_hashes())),
        }
    }
}

impl Branch {
    fn child(&self, place: &Digest, depth: usize) -> Option<&Arc<Node>> {
        self.children.get(nibble(place, depth)).and_then(Option::as_ref)
    }

    fn child_mut(&mut self, place: &Digest, depth: usize) -> Option<&mut Option<Arc<Node>>> {
        self.children.get_mut(nibble(place, depth))
    }

    fn child_hashes(&self) -> [Option<Digest>; WIDTH] {
        self.children.each_ref().map(|child| child.as_ref().map(|node| node.hash()))
    }

    /// The only child, if it is a leaf: then this branch must not stand.
    fn lone_leaf(&self) -> Option<Arc<Node>> {
        let mut present = self.children.iter().flatten();
        let first = present.next()?;
        (present.next().is_none() && matches!(**first, Node::Leaf(_))).then(|| Arc::clone(first))
    }
}

impl Trie {
    /// The root; zero for the empty trie.
    pub fn root(&self) -> Digest {
        self.root.as_ref().map_or(Digest::ZERO, |node| node.hash())
    }

    /// Number of keys.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let place = place_of(key);
        let mut node = self.root.as_ref()?;
        let mut depth = 0;
        loop {
            match &**node {
                Node::Leaf(leaf) => return (leaf.place == place).then_some(&leaf.value),
                Node::Branch(branch) => node = branch.child(&place, depth)?,
            }
            depth += 1;
        }
    }

    /// Sets the value of `key`; gives the one before.
    pub fn insert(&mut self, key: Bytes, value: Bytes) -> Option<Bytes> {
        let leaf = Leaf { place: place_of(&key), key, value, hash: OnceLock::new() };
        let before = insert_at(&mut self.root, leaf, 0);
        self.count += u64::from(before.is_none());
        before
    }

    /// Removes `key`; gives the value that it had.
    pub fn remove(&mut self, key: &[u8]) -> Option<Bytes> {
        let removed = remove_at(&mut self.root, &place_of(key), 0);
        self.count -= u64::from(removed.is_some());
        removed
    }

    /// All keys and values, in the order of their places.
    pub fn entries(&self) -> Vec<(Bytes, Bytes)> {
        let mut entries = Vec::new();
        if let Some(root) = &self.root {
            collect(root, &mut entries);
        }
        entries
    }

    /// The proof of what `key` holds, or that it holds nothing.
    pub fn prove(&self, key: &[u8]) -> StateProof {
        let place = place_of(key);
        let mut branches = Vec::new();
        let mut node = self.root.as_ref();
        while let Some(Node::Branch(branch)) = node.map(|node| &**node) {
            let depth = branches.len();
            branches.push(branch.child_hashes().to_vec());
            node = branch.child(&place, depth);
        }
        let end = match node.map(|node| &**node) {
            Some(Node::Leaf(leaf)) => Some((leaf.place, leaf.value.to_vec())),
            _ => None,
        };
        StateProof { branches, end }
    }

    /// Cuts the trie into subtrees of at most `bytes_max` bytes of keys and values each, as far as branches allow. Each
    /// is given by its prefix, in nibbles, its hash and its entries, in order; together they are the whole trie.
    pub(crate) fn cut(&self, bytes_max: usize) -> Vec<Subtree> {
        let mut subtrees = Vec::new();
        if let Some(root) = &self.root {
            cut_at(root, Vec::new(), bytes_max, &mut subtrees);
        }
        subtrees
    }
}

/// A part of a trie below a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subtree {
    /// The prefix, a nibble a byte.
    pub(crate) prefix: Vec<u8>,
    /// Hash of the node there.
    pub(crate) hash: Digest,
    /// Keys and values, in the order of their places.
    pub(crate) entries: Vec<(Bytes, Bytes)>,
}

impl Subtree {
    /// The hash that these entries have below this prefix; none if one of them does not belong there.
    pub(crate) fn computed_hash(&self) -> Option<Digest> {
        let mut node = None;
        for (key, value) in &self.entries {
            let place = place_of(key);
            let belongs = self.prefix.iter().enumerate().all(|(depth, n)| nibble(&place, depth) == usize::from(*n));
            let leaf = Leaf { place, key: key.clone(), value: value.clone(), hash: OnceLock::new() };
            if !belongs || insert_at(&mut node, leaf, self.prefix.len()).is_some() {
                return None;
            }
        }
        node.map(|node: Arc<Node>| node.hash())
    }
}

/// The root that subtrees with these prefixes and hashes have together; none if they do not fit together.
pub(crate) fn root_of_cut(parts: &[(Vec<u8>, Digest)]) -> Option<Digest> {
    match parts {
        [] => Some(Digest::ZERO),
        _ => fold(parts, 0),
    }
}

fn fold(parts: &[(Vec<u8>, Digest)], depth: usize) -> Option<Digest> {
    if let [(prefix, hash)] = parts
        && prefix.len() == depth
    {
        return Some(*hash);
    }
    let mut children = [None; WIDTH];
    for group in parts.chunk_by(|(a, _), (b, _)| a.get(depth) == b.get(depth)) {
        let index = usize::from(*group.first()?.0.get(depth)?);
        let child: &mut Option<Digest> = children.get_mut(index)?;
        if child.is_some() || depth >= 64 {
            return None;
        }
        *child = Some(fold(group, depth + 1)?);
    }
    Some(branch_hash(&children))
}

/// Inserts below `slot`; gives the value before. The depth is bounded by the 64 nibbles of a place.
fn insert_at(slot: &mut Option<Arc<Node>>, leaf: Leaf, depth: usize) -> Option<Bytes> {
    let Some(node) = slot else {
        *slot = Some(Arc::new(Node::Leaf(leaf)));
        return None;
    };
    if let Node::Leaf(present) = &**node {
        if present.place == leaf.place {
            let before = present.value.clone();
            match Arc::get_mut(node) {
                Some(node) => *node = Node::Leaf(leaf),
                None => *node = Arc::new(Node::Leaf(leaf)),
            }
            return Some(before);
        }
        // Both go one level down; the present leaf is shared, not copied.
        let mut branch = Branch::default();
        let index = nibble(&present.place, depth);
        if let Some(child) = branch.children.get_mut(index) {
            *child = slot.take();
        }
        if let Some(child) = branch.child_mut(&leaf.place.clone(), depth) {
            insert_at(child, leaf, depth + 1);
        }
        *slot = Some(Arc::new(Node::Branch(branch)));
        return None;
    }
    let Node::Branch(branch) = Arc::make_mut(node) else { return None };
    branch.hash.take();
    let place = leaf.place;
    branch.child_mut(&place, depth).and_then(|child| insert_at(child, leaf, depth + 1))
}

fn remove_at(slot: &mut Option<Arc<Node>>, place: &Digest, depth: usize) -> Option<Bytes> {
    match slot.as_deref()? {
        Node::Leaf(leaf) if leaf.place == *place => {
            let before = leaf.value.clone();
            *slot = None;
            return Some(before);
        }
        Node::Leaf(_) => return None,
        Node::Branch(branch) => branch.child(place, depth)?,
    };
    let Some(Node::Branch(branch)) = slot.as_mut().map(Arc::make_mut) else { return None };
    let removed = branch.child_mut(place, depth).and_then(|child| remove_at(child, place, depth + 1));
    if removed.is_some() {
        branch.hash.take();
        if let Some(leaf) = branch.lone_leaf() {
            *slot = Some(leaf);
        }
    }
    removed
}

fn collect(node: &Node, entries: &mut Vec<(Bytes, Bytes)>) {
    match node {
        Node::Leaf(leaf) => entries.push((leaf.key.clone(), leaf.value.clone())),
        Node::Branch(branch) => branch.children.iter().flatten().for_each(|child| collect(child, entries)),
    }
}

fn cut_at(node: &Arc<Node>, prefix: Vec<u8>, bytes_max: usize, subtrees: &mut Vec<Subtree>) {
    let mut entries = Vec::new();
    collect(node, &mut entries);
    let bytes: usize = entries.iter().map(|(key, value)| key.len() + value.len() + 16).sum();
    match &**node {
        Node::Branch(branch) if bytes > bytes_max => {
            for (index, child) in branch.children.iter().enumerate() {
                if let Some(child) = child {
                    let mut prefix = prefix.clone();
                    prefix.push(index as u8);
                    cut_at(child, prefix, bytes_max, subtrees);
                }
            }
        }
        _ => subtrees.push(Subtree { prefix, hash: node.hash(), entries }),
    }
}

/// The proof of what a key holds: the branches on its way, and what stands at the end of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateProof {
    branches: Vec<Vec<Option<Digest>>>,
    end: Option<(Digest, Vec<u8>)>,
}

impl StateProof {
    /// What `key` holds under the trie root `root`: `Some(None)` if it is proven to hold nothing; none if the proof does
    /// not lead to that root.
    pub fn verify(&self, root: &Digest, key: &[u8]) -> Option<Option<&[u8]>> {
        let place = place_of(key);
        let mut expected = if *root == Digest::ZERO { None } else { Some(*root) };
        for (depth, branch) in self.branches.iter().enumerate() {
            let children: [Option<Digest>; WIDTH] = branch.as_slice().try_into().ok()?;
            if expected != Some(branch_hash(&children)) {
                return None;
            }
            expected = *children.get(nibble(&place, depth))?;
        }
        match (&self.end, expected) {
            (None, None) => Some(None),
            (Some((end, value)), Some(hash)) if leaf_hash(end, value) == hash => {
                Some((*end == place).then_some(value.as_slice()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(n: u32) -> Bytes {
        Bytes::from(n.to_be_bytes().to_vec())
    }

    fn trie(keys: impl IntoIterator<Item = u32>) -> Trie {
        let mut trie = Trie::default();
        keys.into_iter().for_each(|n| drop(trie.insert(key(n), key(n * 3))));
        trie
    }

    #[test]
    fn an_old_version_stays_as_it_was() {
        let old = trie(0..500);
        let root = old.root();
        let mut new = old.clone();
        new.insert(key(7), Bytes::from_static(b"changed"));
        new.remove(&key(8));
        assert_ne!(new.root(), root);
        assert_eq!(old.get(&key(7)), Some(&key(21)));
        assert_eq!(trie(0..500).root(), root);
    }

    #[test]
    fn presence_and_absence_are_proven_and_lies_are_not() {
        let trie = trie(0..300);
        let root = trie.root();
        for n in 0..400 {
            let proof = trie.prove(&key(n));
            let expected = (n < 300).then(|| key(n * 3));
            assert_eq!(proof.verify(&root, &key(n)), Some(expected.as_deref()), "{n}");
            let mut lie = proof.clone();
            lie.end = match lie.end {
                Some((place, _)) => Some((place, b"lie".to_vec())),
                None => Some((place_of(&key(n)), b"lie".to_vec())),
            };
            assert_eq!(lie.verify(&root, &key(n)), None);
        }
        assert_eq!(Trie::default().prove(b"x").verify(&Digest::ZERO, b"x"), Some(None));
    }

    #[test]
    fn the_parts_of_a_cut_verify_alone_and_make_up_the_whole() {
        let trie = trie(0..2_000);
        for bytes_max in [1, 100, 1_000, 1_000_000] {
            let parts = trie.cut(bytes_max);
            assert!(parts.iter().all(|part| part.computed_hash() == Some(part.hash)));
            let hashes: Vec<_> = parts.iter().map(|part| (part.prefix.clone(), part.hash)).collect();
            assert_eq!(root_of_cut(&hashes), Some(trie.root()), "{bytes_max}");
            assert_eq!(parts.iter().map(|part| part.entries.len()).sum::<usize>(), 2_000);
        }
        let mut foreign = trie.cut(1_000).remove(0);
        foreign.entries.push((key(0), key(0)));
        assert_ne!(foreign.computed_hash(), Some(foreign.hash));
    }

    proptest! {
        #[test]
        fn the_root_depends_on_the_content_alone(
            steps in prop::collection::vec((0u32..60, prop::option::of(0u32..9)), 0..300)
        ) {
            let (mut trie, mut model) = (Trie::default(), BTreeMap::new());
            for (n, value) in steps {
                match value {
                    Some(value) => {
                        prop_assert_eq!(trie.insert(key(n), key(value)), model.insert(n, value).map(key));
                    }
                    None => prop_assert_eq!(trie.remove(&key(n)), model.remove(&n).map(key)),
                }
            }
            let mut fresh = Trie::default();
            model.iter().for_each(|(n, value)| drop(fresh.insert(key(*n), key(*value))));
            prop_assert_eq!(trie.root(), fresh.root());
            prop_assert_eq!(trie.len(), model.len() as u64);
            for n in 0..60 {
                prop_assert_eq!(trie.get(&key(n)).cloned(), model.get(&n).map(|value| key(*value)));
            }
        }
    }
}
