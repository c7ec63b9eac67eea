//! Ports for the processes of a network on this machine.

use std::net::SocketAddr;

use standin::ports::free_addresses;

use super::Failure;

/// A bridge and an HTTP address for each node.
pub(super) type Ports = Vec<(SocketAddr, SocketAddr)>;

/// The addresses of so many nodes: consecutive ones from a first port, or free ones.
pub(super) fn ports(first: Option<u16>, nodes: usize) -> Result<Ports, Failure> {
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let addresses: Vec<SocketAddr> = match first {
        Some(first) => (first..=u16::MAX).take(2 * nodes).map(at).collect(),
        None => free_addresses(2 * nodes, &[]),
    };
    if addresses.len() < 2 * nodes {
        return Err(Failure::new(2, format!("there are not {} ports for this network", 2 * nodes)));
    }
    Ok(addresses.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))).collect())
}
