//! Terminals, and the sessions that servers have with them.

use std::sync::Arc;

use bytes::Bytes;
use standin_foundation::{Digest, Epoch, Seat, Term};
use standin_publisher::frame::{Content, Datum, Entry};
use standin_publisher::machine::session::{Found, Limit, Next, Session};
use standin_publisher::machine::terminal::{Alarm, Published, Verdict};
use standin_publisher::machine::witness::{Proven, TakeoverProof, Word};
use standin_publisher::messages::Takeover;
use standin_publisher::mutation::Mutation;
use standin_publisher::{Fence, Sequence};

use super::witnesses::signer;
use super::{Happening, Message, RECONNECT_MS, SESSION_WINDOW, World, key, name_of};
use crate::invariants::Violation;
use crate::publication::{Driver, Switched};

impl World {
    pub(super) fn connect(&mut self, terminal: usize, server: usize) -> Result<(), Violation> {
        if self.hosts[server].server.is_none() || self.terminals[terminal].connections[server] != 0 {
            return Ok(());
        }
        self.connection += 1;
        let connection = self.connection;
        self.terminals[terminal].connections[server] = connection;
        for topic in 0..self.topics.len() {
            let position = self.terminals[terminal].topics[topic].position();
            let chain = match position.last {
                Sequence(0) => Some(Digest::ZERO),
                last => self.known(server, topic).find(|(entry, _)| entry.last() == last).map(|(entry, _)| entry.chain),
            };
            match Session::resume(&position, SESSION_WINDOW, chain, Sequence(1)) {
                Ok(session) => {
                    self.hosts[server].sessions.insert((terminal, topic), (connection, session));
                    self.serve(server, topic)?;
                }
                // A server that has not come so far itself: the terminal asks again.
                Err(_) => {
                    self.terminals[terminal].connections[server] = 0;
                    self.at(self.now + RECONNECT_MS, Happening::Connect { terminal, server });
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The frames that a server knows.
    pub(super) fn known(&self, server: usize, topic: usize) -> impl Iterator<Item = &(Entry, Content)> {
        let last = self.hosts[server].server.as_ref().and_then(|machine| machine.view().get(self.topics[topic]));
        let last = last.map_or(Sequence(0), |view| view.last());
        self.frames[topic].iter().take_while(move |(entry, _)| entry.last() <= last)
    }

    /// A server sends its terminals what they may have.
    pub(super) fn serve(&mut self, server: usize, topic: usize) -> Result<(), Violation> {
        let Some((limit, proof, is_own)) = self.limit(server, topic) else { return Ok(()) };
        let fence = limit.takeover.fence;
        if is_own && self.expired.contains(&(self.topics[topic], fence.0)) {
            let what =
                format!("server {server} publishes {} under fence {fence}, which has expired", self.topics[topic]);
            return Err(Violation { invariant: "silent_after_expiry", what });
        }
        for terminal in 0..self.terminals.len() {
            let Some((connection, mut session)) = self.hosts[server].sessions.remove(&(terminal, topic)) else {
                continue;
            };
            let mut sent = Vec::new();
            loop {
                let frames = &self.frames[topic];
                let place = |first: Sequence| frames.binary_search_by_key(&first, |(entry, _)| entry.first);
                let found = |next| match place(next) {
                    Ok(place) => Found::Frame(frames[place].0),
                    Err(place) if place == frames.len() => Found::Beyond,
                    Err(_) => Found::Within,
                };
                match session.next(&limit, found) {
                    Ok(Some(Next::Takeover(_))) => sent.push(Message::Takeover(Arc::clone(&proof))),
                    Ok(Some(Next::Frame(fence, entry))) => {
                        let content = frames[place(entry.first).unwrap_or_default()].1.clone();
                        sent.push(Message::Frame(Published { fence, entry, content }));
                    }
                    _ => break,
                }
            }
            self.hosts[server].sessions.insert((terminal, topic), (connection, session));
            for message in sent {
                let message = match message {
                    Message::Frame(published) => Message::Frame(self.as_sent(server, topic, published)),
                    Message::Takeover(proof) => Message::Takeover(self.shown(server, (terminal, topic), proof)),
                };
                self.send(server, terminal, connection, topic, message);
            }
        }
        Ok(())
    }

    /// What a server makes of a takeover that it shows to a terminal: one that lies gives itself the topic, with its own word for it, or with those of all
    /// seats of an epoch that is over, whose keys it has.
    pub(super) fn shown(
        &mut self,
        server: usize,
        (terminal, topic): (usize, usize),
        proof: Arc<TakeoverProof>,
    ) -> Arc<TakeoverProof> {
        if !self.hosts[server].forges || self.rng.bool() {
            return proof;
        }
        let takeover = Takeover { fence: Fence(proof.takeover.fence.0 + 1), owner: key(server), ..proof.takeover };
        let said = |epoch, seat: usize| {
            let speaks = (epoch, Seat(u16::try_from(seat).unwrap_or_default()), Term(1));
            Word::sign(&self.chain, &signer(seat, epoch), takeover, speaks).witness
        };
        // What a terminal has not seen to be over it cannot know to be.
        let seen = self.terminals[terminal].topics[topic].position().epoch;
        if let Some(over) = seen.0.checked_sub(1).map(Epoch).filter(|_| self.rng.bool()) {
            let witnesses = (0..self.seats.len()).map(|seat| said(over, seat)).collect();
            return Arc::new(TakeoverProof { takeover, epoch: over, witnesses });
        }
        let witness = said(proof.epoch, server % self.seats.len());
        let seat = witness.seat;
        // With those that others have given for the takeover before.
        let others = proof.witnesses.iter().filter(|other| other.seat != seat).cloned();
        let witnesses = [witness].into_iter().chain(others).collect();
        Arc::new(TakeoverProof { takeover, epoch: proof.epoch, witnesses })
    }

    /// What a server makes of a frame that it sends.
    pub(super) fn as_sent(&mut self, server: usize, topic: usize, published: Published) -> Published {
        if self.hosts[server].forges && self.rng.bool() {
            return self.forged(published);
        }
        if self.switched != Some(Switched::Driver(Driver::SequenceAtPublishing)) {
            return published;
        }
        // It has come to know the two data of a pair the other way round.
        let frames = &self.frames[topic];
        let place = frames.binary_search_by_key(&published.entry.first, |(entry, _)| entry.first).unwrap_or_default();
        let other = if server % 2 == 1 { place ^ 1 } else { place };
        let Some((_, content)) = frames.get(other) else { return published };
        let before =
            place.checked_sub(1).and_then(|before| frames.get(before)).map_or(Digest::ZERO, |(entry, _)| entry.chain);
        let entry = Entry::following(&before, published.entry.first, content).unwrap_or(published.entry);
        Published { entry, content: content.clone(), ..published }
    }

    /// Another content, with or without its hash; or a frame in the place of another.
    pub(super) fn forged(&mut self, published: Published) -> Published {
        let datum = Datum { id: Bytes::new(), value: Bytes::from_static(b"9/9") };
        let data = vec![datum; usize::from(published.entry.count)];
        let Ok(content) = Content::new(&data) else { return published };
        let entry = match self.rng.u8(0..3) {
            0 => published.entry,
            1 => Entry { content: content.hash(), ..published.entry },
            _ => Entry { first: Sequence(published.entry.first.0.saturating_sub(1).max(1)), ..published.entry },
        };
        Published { entry, content, ..published }
    }

    /// Up to where a server may serve terminals: as far as the chain says was published, or farther, as it publishes itself.
    pub(super) fn limit(&mut self, server: usize, topic: usize) -> Option<(Limit, Arc<TakeoverProof>, bool)> {
        let newest = self.hosts[server].server.as_ref()?.view().get(self.topics[topic])?.takeover?;
        let (seats, known) = (self.seats.len(), self.hosts[server].epoch);
        let proof = self.hosts[server].witnesses.proof(&newest, |epoch| (epoch <= known).then_some(seats))?;
        let machine = self.hosts[server].server.as_ref()?;
        let view = machine.view().get(self.topics[topic])?;
        let takeover = view.takeover?;
        let ignores = self.switched == Some(Switched::Machine(Mutation::DeadlineIgnored));
        let own = machine.publishes(self.topics[topic]);
        let own = own.filter(|(until, fence, _)| (ignores || self.clock(server) < *until) && *fence == takeover.fence);
        let published = view.published.upto;
        let upto = own.map_or(published, |(_, _, upto)| upto.max(published));
        Some((Limit { takeover, epoch: proof.epoch, upto }, proof, upto > published))
    }

    pub(super) fn send(&mut self, server: usize, terminal: usize, connection: u64, topic: usize, message: Message) {
        let after = self.rng.u64(1..10);
        let host = &mut self.hosts[server];
        let arrives = host.pipes.entry(terminal).or_default();
        *arrives = (*arrives).max(self.now + after).max(host.held_until);
        let at = *arrives;
        self.at(at, Happening::Arrive { terminal, server, connection, topic, message });
    }

    pub(super) fn arrive(
        &mut self,
        terminal: usize,
        server: usize,
        topic: usize,
        message: Message,
    ) -> Result<(), Violation> {
        let machine = &mut self.terminals[terminal].topics[topic];
        match message {
            Message::Takeover(proof) if !machine.is_news(proof.takeover.fence, proof.epoch) => Ok(()),
            Message::Takeover(proof) => {
                let proven = match self.switched {
                    Some(Switched::Driver(Driver::TakeoverUnproven)) => {
                        Ok(Proven::without_proof(proof.takeover, proof.epoch))
                    }
                    _ => proof.verify(&self.chain, &self.seats),
                };
                match proven.map(|proven| machine.takeover(&proven)) {
                    Ok(Ok(())) => self.checker.learned(topic, terminal, proof.takeover.fence.0),
                    // Whoever shows it is left alone from now on.
                    Err(_) if self.hosts[server].forges => {
                        self.terminals[terminal].connections[server] = 0;
                        Ok(())
                    }
                    // Whoever shows it may not know the newest epoch yet.
                    Ok(Err(Alarm::Retired { .. })) => {
                        self.terminals[terminal].connections[server] = 0;
                        self.at(self.now + RECONNECT_MS, Happening::Connect { terminal, server });
                        Ok(())
                    }
                    Ok(Err(alarm)) => Err(Violation { invariant: "no_alarm", what: alarm.to_string() }),
                    Err(why) => Err(Violation { invariant: "no_alarm", what: why.to_string() }),
                }
            }
            Message::Frame(published) => {
                let fence = published.fence;
                match machine.frame(published) {
                    Verdict::Deliver { entry, content, .. } => {
                        for datum in content.data() {
                            self.checker.delivered(topic, terminal, name_of(&datum), fence.0)?;
                        }
                        let (last, after) = (entry.last(), self.rng.u64(1..10));
                        let at = self.now + after;
                        for other in 0..self.hosts.len() {
                            let known = self.terminals[terminal].connections[other];
                            if known != 0 && (other == server || self.rng.bool()) {
                                self.at(
                                    at,
                                    Happening::Acknowledge { terminal, server: other, connection: known, topic, last },
                                );
                            }
                        }
                        Ok(())
                    }
                    Verdict::Repeated => {
                        // Its sender learns that it need not go on from so far back.
                        let last = self.terminals[terminal].topics[topic].position().last;
                        let connection = self.terminals[terminal].connections[server];
                        self.at(self.now + 1, Happening::Acknowledge { terminal, server, connection, topic, last });
                        Ok(())
                    }
                    Verdict::Stale { .. } => Ok(()),
                    // A pipe keeps its order: what comes without its takeover, or ahead, lost something, and the connection begins anew.
                    Verdict::Unproven { .. } | Verdict::Gap { .. } => {
                        self.terminals[terminal].connections[server] = 0;
                        self.at(self.now + RECONNECT_MS, Happening::Connect { terminal, server });
                        Ok(())
                    }
                    // Whoever sent it is left alone from now on.
                    Verdict::Alarm(_) if self.hosts[server].forges => {
                        self.terminals[terminal].connections[server] = 0;
                        Ok(())
                    }
                    Verdict::Alarm(alarm) => Err(Violation { invariant: "no_alarm", what: alarm.to_string() }),
                }
            }
        }
    }
}
