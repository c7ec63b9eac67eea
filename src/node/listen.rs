//! Binding ports.

use std::net::TcpListener;

use super::NodeError;

/// Binds a port; says who holds it if it is taken.
pub fn listen(address: std::net::SocketAddr, role: &'static str) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).map_err(|source| {
        let holder = match source.kind() {
            std::io::ErrorKind::AddrInUse => holder_of(address.port()),
            _ => String::new(),
        };
        NodeError::Listen { address, role, source, holder }
    })
}

/// Who listens on a port: the kernel's table of sockets, and the processes that hold the socket.
fn holder_of(port: u16) -> String {
    let wanted = format!(":{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let inode = tables.iter().flat_map(|table| table.lines()).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == "0A";
        listens.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    });
    inode.and_then(|inode| process_with(&inode)).map_or_else(String::new, |process| format!(", held by {process}"))
}

fn process_with(socket: &str) -> Option<String> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|process| {
        let holds = std::fs::read_dir(process.path().join("fd"))
            .ok()?
            .flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target.to_string_lossy() == socket));
        let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        holds.then(|| format!("process {} ({})", process.file_name().to_string_lossy(), name.trim()))
    })
}
