//! Merkle trees whose nodes know the smallest and the largest title below them.
//!
//! A node that does not cover a title can be left out of a proof as a whole, so "these are all transactions of this
//! title" is proven by opening every node that covers it. That holds whatever the order of the leaves; a sorted batch
//! merely makes the proof short. After Al-Bassam, "LazyLedger" (arXiv 1905.09274), section 5.2.

use serde::{Deserialize, Serialize};
use standin_foundation::Digest;

use crate::merkle::{self, TreeNode};
use crate::transaction::Title;

/// A node of a namespaced tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacedNode {
    /// The smallest title below.
    pub min: Title,
    /// The largest title below.
    pub max: Title,
    /// Hash over everything below, and over the titles.
    pub hash: Digest,
}

impl NamespacedNode {
    /// The leaf of one item.
    pub fn leaf(title: Title, pieces: &[&[u8]]) -> Self {
        let mut all: Vec<&[u8]> = vec![&[0x10], title.as_padded_bytes()];
        all.extend_from_slice(pieces);
        Self { min: title, max: title, hash: Digest::sha256_of(&all) }
    }

    /// Whether a leaf with this title can be below.
    pub fn covers(&self, title: Title) -> bool {
        self.min <= title && title <= self.max
    }

    /// One digest over the titles and the hash.
    pub fn digest(&self) -> Digest {
        Digest::sha256_of(&[&[0x12], self.min.as_padded_bytes(), self.max.as_padded_bytes(), self.hash.as_bytes()])
    }
}

impl TreeNode for NamespacedNode {
    fn join(left: &Self, right: &Self) -> Self {
        Self {
            min: left.min.min(right.min),
            max: left.max.max(right.max),
            hash: Digest::sha256_of(&[&[0x11], left.digest().as_bytes(), right.digest().as_bytes()]),
        }
    }
}

/// One step of a completeness proof, in pre-order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompletenessStep {
    /// Both halves follow.
    Open,
    /// Nothing below has the title.
    LeftOut(NamespacedNode),
    /// The next of the claimed leaves stands here.
    Claimed,
}

/// The proof that `claimed` leaves are all that have `title`: the steps to be checked by [`verify_completeness`].
pub fn prove_completeness(leaves: &[NamespacedNode], title: Title) -> Vec<CompletenessStep> {
    let mut steps = Vec::new();
    open(leaves, title, &mut steps);
    steps
}

fn open(leaves: &[NamespacedNode], title: Title, steps: &mut Vec<CompletenessStep>) {
    let Some(node) = merkle::root(leaves) else { return };
    if !node.covers(title) {
        steps.push(CompletenessStep::LeftOut(node));
    } else if leaves.len() == 1 {
        steps.push(CompletenessStep::Claimed);
    } else {
        steps.push(CompletenessStep::Open);
        let (left, right) = leaves.split_at(merkle::split(leaves.len()));
        open(left, title, steps);
        open(right, title, steps);
    }
}

/// The root that the proof leads to if `claimed` are, in order, all leaves of `title` in a tree of `total` leaves; none
/// if the proof is inconsistent in itself. The caller compares it with the root that it trusts.
pub fn verify_completeness(
    title: Title,
    total: usize,
    claimed: &[NamespacedNode],
    steps: &[CompletenessStep],
) -> Option<NamespacedNode> {
    let mut steps = steps.iter();
    let mut claimed = claimed.iter();
    let node = close(title, total, &mut claimed, &mut steps)?;
    (steps.next().is_none() && claimed.next().is_none()).then_some(node)
}

fn close<'a>(
    title: Title,
    total: usize,
    claimed: &mut impl Iterator<Item = &'a NamespacedNode>,
    steps: &mut impl Iterator<Item = &'a CompletenessStep>,
) -> Option<NamespacedNode> {
    match (steps.next()?, total) {
        (CompletenessStep::LeftOut(node), 1..) if !node.covers(title) => Some(*node),
        (CompletenessStep::Claimed, 1) => claimed.next().filter(|leaf| leaf.covers(title)).copied(),
        (CompletenessStep::Open, 2..) => {
            let middle = merkle::split(total);
            let left = close(title, middle, claimed, steps)?;
            let right = close(title, total - middle, claimed, steps)?;
            Some(NamespacedNode::join(&left, &right))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(titles: &str) -> Vec<NamespacedNode> {
        let leaf = |(i, c): (usize, char)| NamespacedNode::leaf(c.to_string().parse().unwrap(), &[&i.to_be_bytes()]);
        titles.chars().enumerate().map(leaf).collect()
    }

    fn of(leaves: &[NamespacedNode], title: Title) -> Vec<NamespacedNode> {
        leaves.iter().filter(|leaf| leaf.min == title).copied().collect()
    }

    #[test]
    fn all_of_a_title_are_proven_sorted_or_not_present_or_not() {
        for titles in ["a", "aabbbcd", "dabacbbda", "zzzzzz", "mnopq"] {
            let leaves = leaves(titles);
            let root = merkle::root(&leaves).unwrap();
            for title in ["a", "b", "c", "d", "m", "zz"] {
                let title: Title = title.parse().unwrap();
                let steps = prove_completeness(&leaves, title);
                let found = verify_completeness(title, leaves.len(), &of(&leaves, title), &steps);
                assert_eq!(found, Some(root), "{titles} {title}");
            }
        }
    }

    #[test]
    fn a_withheld_or_an_added_transaction_is_found() {
        let leaves = leaves("aabbbcd");
        let root = merkle::root(&leaves).unwrap();
        let b: Title = "b".parse().unwrap();
        let steps = prove_completeness(&leaves, b);
        let all = of(&leaves, b);
        assert_eq!(verify_completeness(b, 7, &all[..2], &steps), None);
        let mut more = all.clone();
        more.push(all[0]);
        assert_eq!(verify_completeness(b, 7, &more, &steps), None);
        let hidden = vec![CompletenessStep::LeftOut(root)];
        assert_eq!(verify_completeness(b, 7, &[], &hidden), None);
        let narrowed = NamespacedNode { max: "a".parse().unwrap(), ..root };
        let claimed = verify_completeness(b, 7, &[], &[CompletenessStep::LeftOut(narrowed)]).unwrap();
        assert_ne!(claimed, root);
    }
}
