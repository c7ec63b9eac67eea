//! What goes wrong, and when it is over.

use std::collections::BTreeSet;

use standin_publisher::machine::server::Input;
use standin_publisher::machine::source::Source;
use standin_publisher::machine::terminal::Terminal;

use super::{Ending, Happening, NOTICED_MS, RECONNECT_MS, SOURCE, World};
use crate::invariants::Violation;

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// With a server.
    Server {
        /// What.
        kind: ServerFault,
        /// Which; none for the owner of the first topic's lock at that time.
        server: Option<usize>,
        /// For how long, in ms.
        lasts: u64,
    },
    /// A terminal loses all connections.
    Terminal {
        /// Which.
        terminal: usize,
        /// Whether it starts again from what it has stored.
        restarts: bool,
    },
    /// A source starts again, and knows nothing of what it had pushed.
    Source(usize),
    /// The lock service outside the chain loses a lease.
    Forgotten,
    /// From now on a server sends what it likes.
    Forger(usize),
    /// From now on the servers of a seat take locks and publish nothing.
    Keepers(usize),
}

/// What goes wrong with a server.
#[derive(Debug, Clone, Copy)]
pub enum ServerFault {
    /// It stops at once, and starts again later with nothing but the chain.
    Crash,
    /// It stands still: what was on its way to it waits, what it had decided it does when it wakes.
    Pause,
    /// It hears nothing of the chain, and the chain nothing of it.
    CutFromChain,
    /// The other servers lose their connections to it.
    CutFromServers,
    /// What it sends to terminals arrives much later.
    HoldPipes,
    /// It does not reach the lock service outside the chain.
    CutFromStore,
    /// Its wall clock is set.
    SetClock,
}

impl ServerFault {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Crash,
        Self::Pause,
        Self::CutFromChain,
        Self::CutFromServers,
        Self::HoldPipes,
        Self::CutFromStore,
        Self::SetClock,
    ];
}

impl World {
    /// Something goes wrong at a time.
    pub fn fault_at(&mut self, at: u64, fault: Fault) {
        self.at(at, Happening::Fault(fault));
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        if !self.faulty {
            return;
        }
        match fault {
            Fault::Server { kind, server, lasts } => {
                let server = server.unwrap_or_else(|| self.owner());
                self.server_fault(kind, server, lasts);
            }
            Fault::Terminal { terminal, restarts } => {
                if restarts {
                    let mutation = self.mutation();
                    for topic in &mut self.terminals[terminal].topics {
                        let mut again = Terminal::new(topic.topic(), topic.position());
                        again.mutate(mutation);
                        *topic = again;
                    }
                }
                self.cut_terminal(terminal);
            }
            Fault::Source(source) => {
                self.lives[source] += 1;
                for topic in 0..self.topics.len() {
                    let mut again = Source::new(SOURCE, self.lives[source], 0);
                    again.mutate(self.mutation());
                    self.sources[source][topic] = again;
                    self.pushed[source][topic].clear();
                }
            }
            Fault::Forgotten => self.outside_forgets(),
            Fault::Forger(server) => self.hosts[server].forges = true,
            Fault::Keepers(seat) => self.begin_keeping(seat),
        }
    }

    pub(super) fn server_fault(&mut self, kind: ServerFault, server: usize, lasts: u64) {
        let until = self.now + lasts;
        match kind {
            ServerFault::Crash => {
                let host = &mut self.hosts[server];
                if host.server.take().is_none() {
                    return;
                }
                host.sessions.clear();
                host.missed.clear();
                host.paused_until = 0;
                for terminal in &mut self.terminals {
                    terminal.connections[server] = 0;
                }
                self.links(server, false);
                self.at(until, Happening::Over(server, Ending::Start));
            }
            ServerFault::Pause => {
                self.hosts[server].paused_until = until;
                self.at(until, Happening::Over(server, Ending::Resume));
            }
            ServerFault::CutFromChain => {
                self.hosts[server].cut_from_chain = true;
                self.at(until, Happening::Over(server, Ending::JoinChain));
            }
            ServerFault::CutFromServers => {
                self.hosts[server].cut_from_servers = true;
                self.links(server, false);
                self.at(until, Happening::Over(server, Ending::JoinServers));
            }
            ServerFault::CutFromStore => {
                self.hosts[server].cut_from_store = true;
                self.at(until, Happening::Over(server, Ending::JoinStore));
            }
            ServerFault::HoldPipes => self.hosts[server].held_until = until,
            // By so much, forwards or back.
            ServerFault::SetClock => {
                let by = (lasts * 8) as i64;
                self.hosts[server].wall += if self.rng.bool() { by } else { -by };
            }
        }
    }

    /// A server that starts again may have lost frames that wait, of some topics; it has them again after a while.
    pub(super) fn lose_some(&mut self, server: usize) {
        let host = &mut self.hosts[server];
        host.life += 1;
        host.lacks.clear();
        if host.life > 1 && self.apart.bool() {
            host.lacks = self.topics.iter().copied().filter(|_| self.apart.bool()).collect();
            let (life, after) = (host.life, self.apart.u64(50..1_500));
            self.at(self.now + after, Happening::Fetched { server, life });
        }
    }

    pub(super) fn fetched(&mut self, server: usize, life: u64) -> Result<(), Violation> {
        if self.hosts[server].life != life {
            return Ok(());
        }
        self.hosts[server].lacks.clear();
        self.step(server, Input::Lacks(BTreeSet::new()))
    }

    pub(super) fn cut_terminal(&mut self, terminal: usize) {
        for server in 0..self.hosts.len() {
            self.terminals[terminal].connections[server] = 0;
            let after = RECONNECT_MS + self.rng.u64(0..200);
            self.at(self.now + after, Happening::Connect { terminal, server });
        }
    }

    pub(super) fn over(&mut self, server: usize, ending: Ending) -> Result<(), Violation> {
        match ending {
            Ending::Start => self.start(server)?,
            Ending::Resume => {
                if self.hosts[server].paused_until <= self.now {
                    // What had come before it stood still comes now, in order.
                    let missed = std::mem::take(&mut self.hosts[server].missed);
                    for happening in missed {
                        if let Happening::Wake { server } = happening {
                            self.hosts[server].wake = Some(self.now);
                        }
                        self.happen(happening)?;
                    }
                }
            }
            Ending::JoinChain => {
                self.hosts[server].cut_from_chain = false;
                self.feed(server);
            }
            Ending::JoinStore => self.hosts[server].cut_from_store = false,
            Ending::JoinServers => {
                self.hosts[server].cut_from_servers = false;
                self.links(server, true);
            }
        }
        Ok(())
    }

    /// The others notice that a server has gone or come back.
    pub(super) fn links(&mut self, server: usize, is_up: bool) {
        for other in (0..self.hosts.len()).filter(|other| *other != server) {
            let after = self.rng.u64(0..NOTICED_MS);
            if !is_up || !self.hosts[other].cut_from_servers {
                self.at(self.now + after, Happening::Link { server: other, other: server, is_up });
                self.at(self.now + after, Happening::Link { server, other, is_up });
            }
        }
    }
}
