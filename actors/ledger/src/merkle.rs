//! Merkle trees over any kind of node, in the shape of RFC 6962: the left half is the largest power of two that is
//! smaller than the number of leaves. The shape follows from the number of leaves alone.

use standin_foundation::Digest;

/// A node of a Merkle tree.
pub trait TreeNode: Clone + PartialEq {
    /// The parent of two nodes.
    fn join(left: &Self, right: &Self) -> Self;
}

impl TreeNode for Digest {
    fn join(left: &Self, right: &Self) -> Self {
        Self::sha256_of(&[&[1], left.as_bytes(), right.as_bytes()])
    }
}

/// The hash of a leaf, kept apart from inner nodes by its first byte.
pub fn leaf(content: &[u8]) -> Digest {
    Digest::sha256_of(&[&[0], content])
}

/// The root over `leaves`; none where there are none.
pub fn root<N: TreeNode>(leaves: &[N]) -> Option<N> {
    match leaves {
        [] => None,
        [only] => Some(only.clone()),
        _ => {
            let (left, right) = leaves.split_at_checked(split(leaves.len()))?;
            Some(N::join(&root(left)?, &root(right)?))
        }
    }
}

/// The digest root over `leaves`; zero where there are none.
pub fn digest_root(leaves: &[Digest]) -> Digest {
    root(leaves).unwrap_or(Digest::ZERO)
}

/// The siblings on the way from leaf `index` to the root, lowest first; none if there is no such leaf.
pub fn path<N: TreeNode>(leaves: &[N], index: usize) -> Option<Vec<N>> {
    if index >= leaves.len() {
        return None;
    }
    if leaves.len() == 1 {
        return Some(Vec::new());
    }
    let middle = split(leaves.len());
    let (left, right) = leaves.split_at_checked(middle)?;
    let (mut path, sibling) =
        if index < middle { (path(left, index)?, root(right)?) } else { (path(right, index - middle)?, root(left)?) };
    path.push(sibling);
    Some(path)
}

/// The root that `path` leads to from `leaf`, the leaf `index` of `total`; none if the path has another length.
pub fn root_from_path<N: TreeNode>(leaf: &N, index: usize, total: usize, path: &[N]) -> Option<N> {
    if index >= total {
        return None;
    }
    if total == 1 {
        return path.is_empty().then(|| leaf.clone());
    }
    let (sibling, below) = path.split_last()?;
    let middle = split(total);
    if index < middle {
        Some(N::join(&root_from_path(leaf, index, middle, below)?, sibling))
    } else {
        Some(N::join(sibling, &root_from_path(leaf, index - middle, total - middle, below)?))
    }
}

/// Size of the left half of a tree with `count` leaves, for `count` ≥ 2.
pub(crate) fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: usize) -> Vec<Digest> {
        (0..count).map(|i| leaf(&i.to_be_bytes())).collect()
    }

    #[test]
    fn every_path_leads_to_the_root_and_no_other_does() {
        for total in 1..40 {
            let leaves = leaves(total);
            let expected = root(&leaves).unwrap();
            for index in 0..total {
                let path = path(&leaves, index).unwrap();
                assert_eq!(root_from_path(&leaves[index], index, total, &path), Some(expected));
                let other = (index + 1) % total;
                if other != index {
                    assert_ne!(root_from_path(&leaves[other], index, total, &path), Some(expected));
                    assert_ne!(root_from_path(&leaves[index], other, total, &path), Some(expected));
                }
            }
            assert_eq!(path(&leaves, total), None);
        }
    }

    #[test]
    fn a_path_of_another_length_is_refused() {
        let leaves = leaves(5);
        let mut long = path(&leaves, 2).unwrap();
        long.push(Digest::ZERO);
        assert_eq!(root_from_path(&leaves[2], 2, 5, &long), None);
        assert_eq!(root_from_path(&leaves[2], 2, 5, &long[..1]), None);
    }
}
