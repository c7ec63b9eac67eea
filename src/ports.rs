//! Free ports on this machine, for networks that run on it.
//!
//! A port that was found free is bound by its node only later, and is free again while that is down: another process that looked for ports at that time would
//! find it, too. So each process takes blocks of ports, of which it holds the first ones to its end, and finds its ports in those alone. That is the one thing here
//! that is the process's, and not a node's.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// Blocks are looked for here, below the range from which systems take ports for outgoing connections: one of those
/// could otherwise take the place before the node does.
const FREE_PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Ports of a block. The first one is held by whoever has it.
const BLOCK: u16 = 256;
/// Blocks that a process takes. Those that were given longest ago are given again when all have been.
const BLOCKS_MAX: usize = 4;

/// The blocks that this process has.
#[derive(Debug)]
struct Pool {
    held: Vec<TcpListener>,
    /// How many were given since the beginning of the first block.
    given: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { held: Vec::new(), given: 0 });

fn here(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Pool {
    /// Takes one more block, if there is one that no process has.
    fn grow(&mut self) -> bool {
        let blocks = (FREE_PORTS.end - FREE_PORTS.start) / BLOCK;
        let first = fastrand::u16(..blocks);
        let bases = (0..blocks).map(|number| FREE_PORTS.start + (first + number) % blocks * BLOCK);
        let held = bases.map(here).find_map(|base| TcpListener::bind(base).ok());
        let is_held = held.is_some();
        self.held.extend(held);
        is_held
    }

    /// The next port; none when all have been given, and no more blocks are to be had.
    fn next(&mut self) -> Option<u16> {
        let of_block = usize::from(BLOCK) - 1;
        let (block, place) = (self.given / of_block, self.given % of_block);
        if block >= self.held.len() && (self.held.len() >= BLOCKS_MAX || !self.grow()) {
            return None;
        }
        self.given += 1;
        let base = self.held.get(block)?.local_addr().ok()?.port();
        Some(base + 1 + place as u16)
    }
}

/// Free addresses that are not among `taken`; fewer if there are not so many. No other process that looks for them here finds the same.
pub fn free_addresses(count: usize, taken: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    // All are held until all are found, so that none is found twice.
    let mut bound: Vec<TcpListener> = Vec::with_capacity(count);
    let mut rounds = 0;
    while bound.len() < count {
        let Some(port) = pool.next() else {
            rounds += 1;
            // From the place at which it began, all have been tried.
            if rounds > 2 {
                break;
            }
            pool.given = 0;
            continue;
        };
        let address = here(port);
        if !taken.contains(&address) {
            bound.extend(TcpListener::bind(address));
        }
    }
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
        // Those that nobody has bound are given again, when all have been.
        let again: Vec<_> = (0..5).flat_map(|_| free_addresses(200, &[])).collect();
        assert_eq!(again.len(), 1_000);
        assert!(free_addresses(5_000, &[]).len() < 5_000, "more than there are");
    }

    #[test]
    fn another_process_finds_others() {
        let mine = free_addresses(10, &[]);
        let mut other = Pool { held: Vec::new(), given: 0 };
        let theirs: Vec<_> = (0..1_000).filter_map(|_| other.next()).collect();
        assert_eq!(theirs.len(), 1_000);
        assert!(mine.iter().all(|address| !theirs.contains(&address.port())));
    }
}
