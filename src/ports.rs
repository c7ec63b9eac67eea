//! Free ports on this machine, for networks that run on it.

use std::net::{SocketAddr, TcpListener};

/// Free ports are looked for here, below the range from which systems take ports for outgoing connections: one of those
/// could otherwise take the place before the node does.
const FREE_PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Ports that are tried before giving up.
const PORT_ATTEMPTS: usize = 1_000;

/// Free addresses that are not among `taken`: those were found free before, and are bound by their nodes only later.
pub fn free_addresses(count: usize, taken: &[SocketAddr]) -> Vec<SocketAddr> {
    let any = || SocketAddr::from(([127, 0, 0, 1], fastrand::u16(FREE_PORTS)));
    let tried = std::iter::repeat_with(any).take(PORT_ATTEMPTS + count).filter(|address| !taken.contains(address));
    // All are held until all are found, so that none is found twice.
    let bound: Vec<_> = tried.filter_map(|address| TcpListener::bind(address).ok()).take(count).collect();
    bound.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_free_before_is_not_found_again() {
        let taken = free_addresses(200, &[]);
        let more = free_addresses(500, &taken);
        assert_eq!((taken.len(), more.len()), (200, 500));
        assert!(more.iter().all(|address| !taken.contains(address)));
    }
}
