//! The rules of publication as transactions of the chain, around the state machine of whoever uses it.

use std::sync::Arc;

use bytes::Bytes;
use standin_foundation::wire::Wire;
use standin_foundation::{PublicKey, Seat};
use standin_ledger::clients::{self, Admission, Role};
use standin_ledger::trie::Trie;
use standin_ledger::{
    Approved, Context, EpochTable, Genesis, Reject, SignedMembership, State, StateMachine, Transaction, epoch,
};

use crate::frame::{Entry, Push};
use crate::ids::{Fence, PUBLISHER_TITLE, Sequence, Topic};
use crate::machine::dictionary::{Pushed, SourceRecord};
use crate::machine::lock::{Grant, Ground, Reason};
use crate::messages::{
    AT_ONCE_MAX, Attestation, Checkpoint, Event, Events, Hold, Instruction, SOURCES_MAX, Settings, TOPIC_CHANGES_MAX,
    Takeover, TopicChange, TopicOrder,
};
#[cfg(feature = "mutations")]
use crate::mutation::Mutation;
use crate::record::{
    ClusterMembers, HOLDINGS_KEPT, Holding, PUBLISHER_PREFIX, Register, TOPICS_MAX, TopicRecord, entry_key,
    holding_key, members_key, register_key, source_key, topic_key,
};

/// A state machine with topics beside it: transactions titled `topic.…` and `publisher` are the publisher's, all others the inner one's.
#[derive(Debug, Clone)]
pub struct Topics<M> {
    genesis: Arc<Genesis>,
    inner: M,
    #[cfg(feature = "mutations")]
    mutation: Option<Mutation>,
}

impl<M: StateMachine> Topics<M> {
    /// Topics beside `inner`.
    pub fn new(genesis: Arc<Genesis>, inner: M) -> Self {
        Self {
            genesis,
            inner,
            #[cfg(feature = "mutations")]
            mutation: None,
        }
    }

    /// Switches a rule off.
    #[cfg(feature = "mutations")]
    pub fn mutate(&mut self, mutation: Option<Mutation>) {
        self.mutation = mutation;
    }

    #[cfg(feature = "mutations")]
    fn lacks(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

/// Whose a transaction is.
enum Kind {
    Push(Topic),
    Instruction,
    Other,
}

impl Kind {
    fn of(transaction: &Transaction) -> Self {
        match (Topic::of_title(transaction.title()), transaction.title().as_str()) {
            (Some(topic), _) => Self::Push(topic),
            (None, PUBLISHER_TITLE) => Self::Instruction,
            (None, _) => Self::Other,
        }
    }
}

impl<M: StateMachine> StateMachine for Topics<M> {
    fn apply(&self, context: &Context, transaction: &Transaction, state: &mut State<'_>) -> Result<Vec<u8>, Reject> {
        let events = match Kind::of(transaction) {
            Kind::Push(topic) => {
                #[cfg(feature = "mutations")]
                if self.lacks(Mutation::NonceUnchecked) {
                    let Push { session, nonce: next, .. } = push_of(transaction)?;
                    write(state, source_key(topic, transaction.sender_bytes()), &SourceRecord { session, next })?;
                }
                vec![push(topic, transaction, state)?]
            }
            Kind::Instruction => {
                let instruction = instruction(transaction)?;
                let sender =
                    transaction.sender().ok_or_else(|| Reject::new("the sender's key is not a point of the curve"))?;
                Rules {
                    genesis: &self.genesis,
                    context,
                    sender,
                    #[cfg(feature = "mutations")]
                    mutation: self.mutation,
                }
                .carry_out(instruction, state)?
            }
            Kind::Other => {
                let output = self.inner.apply(context, transaction, state)?;
                return match state.writes().iter().any(|(key, _)| key.first() == Some(&PUBLISHER_PREFIX)) {
                    true => Err(Reject::new("keys that begin with the byte 0xfe are the publisher's own")),
                    false => Ok(output),
                };
            }
        };
        Events(events).to_wire().map_err(unencodable)
    }

    fn query(&self, state: &Trie, query: &[u8]) -> Result<Vec<u8>, Reject> {
        self.inner.query(state, query)
    }

    fn version(&self) -> u32 {
        self.inner.version()
    }

    fn check(&self, transaction: &Transaction) -> Result<(), Reject> {
        match Kind::of(transaction) {
            Kind::Push(_) => push_of(transaction).map(drop),
            Kind::Instruction => instruction(transaction).map(drop),
            Kind::Other => self.inner.check(transaction),
        }
    }

    fn role(&self, transaction: &Transaction) -> Option<Role> {
        match Kind::of(transaction) {
            Kind::Push(_) => Some(Role::Publish),
            // Members are no clients: the instruction's own rules say who may.
            Kind::Instruction => None,
            Kind::Other => self.inner.role(transaction),
        }
    }
}

fn unencodable(error: impl std::fmt::Display) -> Reject {
    Reject::new(error.to_string())
}

fn push_of(transaction: &Transaction) -> Result<Push, Reject> {
    let payload = transaction.bytes().slice_ref(transaction.payload());
    Push::from_payload(&payload).map_err(|error| Reject::new(error.to_string()))
}

fn instruction(transaction: &Transaction) -> Result<Instruction, Reject> {
    let read =
        Instruction::from_wire(transaction.payload()).map_err(|error| Reject::new(format!("payload: {error}")))?;
    // A topic that is named twice would only cost twice.
    let distinct = |topics: std::collections::BTreeSet<Topic>, count: usize| match topics.len() == count {
        true => Ok(count),
        false => Err(Reject::new("payload: a topic is named twice")),
    };
    let count = match &read {
        Instruction::Hold(holds) => distinct(holds.iter().map(|hold| hold.topic).collect(), holds.len())?,
        Instruction::Attest(attestations) => {
            distinct(attestations.iter().map(|attestation| attestation.topic).collect(), attestations.len())?
        }
        Instruction::Order(approved) => {
            approved.check_approvals()?;
            return Ok(read);
        }
        _ => 1,
    };
    match (1..=AT_ONCE_MAX).contains(&count) {
        true => Ok(read),
        false => Err(Reject::new(format!("payload: {count} at once, 1 to {AT_ONCE_MAX} are allowed"))),
    }
}

/// A record of the state, as the transaction has left it.
fn read<T: Wire>(state: &State<'_>, key: &[u8]) -> Option<T> {
    T::from_wire(state.get(key)?).ok()
}

fn write<T: Wire>(state: &mut State<'_>, key: Vec<u8>, value: &T) -> Result<(), Reject> {
    state.put(key, value.to_wire().map_err(unencodable)?);
    Ok(())
}

fn record(state: &State<'_>, topic: Topic) -> Result<TopicRecord, Reject> {
    read(state, &topic_key(topic)).ok_or_else(|| Reject::new(format!("there is no topic `{topic}`")))
}

/// Makes a topic.
fn create(state: &mut State<'_>, topic: Topic, settings: Settings) -> Result<TopicRecord, Reject> {
    let mut register: Register = read(state, &register_key()).unwrap_or_default();
    if register.topics.len() >= TOPICS_MAX {
        return Err(Reject::new(format!("the chain has {TOPICS_MAX} topics, and takes no more")));
    }
    register.topics.insert(topic);
    write(state, register_key(), &register)?;
    let record = TopicRecord { settings, ..TopicRecord::default() };
    write(state, topic_key(topic), &record)?;
    Ok(record)
}

/// Queues a push. On a chain whose clients are open a topic begins with its first.
fn push(topic: Topic, transaction: &Transaction, state: &mut State<'_>) -> Result<Event, Reject> {
    let push = push_of(transaction)?;
    let found: Option<TopicRecord> = read(state, &topic_key(topic));
    let is_new = found.is_none();
    let mut record = match found {
        Some(record) => record,
        None if clients::admission(state.before()) == Admission::Open => TopicRecord::default(),
        None => return Err(Reject::new(format!("there is no topic `{topic}`: operators make topics on this chain"))),
    };
    let allows = |sources: &std::collections::BTreeSet<PublicKey>| {
        sources.iter().any(|key| key.as_bytes() == transaction.sender_bytes())
    };
    if !record.settings.sources.as_ref().is_none_or(allows) {
        return Err(Reject::new(format!("topic `{topic}` does not list this client among its sources")));
    }
    if record.settings.text
        && let Err(place) = push.content.check_text()
    {
        return Err(Reject::new(format!("topic `{topic}` takes text, and datum {place} is not UTF-8")));
    }
    let key = source_key(topic, transaction.sender_bytes());
    let mut source: SourceRecord = read(state, &key).unwrap_or_default();
    let pushed = record.dictionary.push(&mut source, &push);
    let next_nonce = if push.session > source.session { 0 } else { source.next };
    match pushed.map_err(|refused| Reject::new(refused.to_string()))? {
        Pushed::Known => Ok(Event::Known { topic, next_nonce }),
        Pushed::Gap => Ok(Event::Gap { topic, next_nonce }),
        Pushed::Full => Ok(Event::Full { topic }),
        Pushed::Queued(entry) => {
            if is_new {
                create(state, topic, Settings::default())?;
            }
            write(state, key, &source)?;
            write(state, entry_key(topic, entry.first), &entry)?;
            write(state, topic_key(topic), &record)?;
            Ok(Event::Queued { topic, entry })
        }
    }
}

/// An instruction's rules.
struct Rules<'a> {
    genesis: &'a Genesis,
    context: &'a Context,
    sender: PublicKey,
    #[cfg(feature = "mutations")]
    mutation: Option<Mutation>,
}

impl Rules<'_> {
    fn carry_out(&self, instruction: Instruction, state: &mut State<'_>) -> Result<Vec<Event>, Reject> {
        match instruction {
            Instruction::Acquire { topic, after, lease_ms, outside } => {
                self.acquire(topic, (after, outside), lease_ms, state)
            }
            Instruction::Hold(holds) => {
                // A stranger, or one who is a member no more, holds nothing.
                self.seat(&self.table(state), state)?;
                let mut events = Vec::with_capacity(holds.len());
                for hold in holds {
                    self.hold(&hold, state, &mut events)?;
                }
                Ok(events)
            }
            Instruction::Release { topic, fence } => {
                let mut record = record(state, topic)?;
                record.lock.release(&self.sender, fence).map_err(|refused| Reject::new(refused.to_string()))?;
                record.lock.ended(self.context.height, record.dictionary.has_waiting());
                self.released(topic, fence, self.sender, Reason::Resigned, state)
                    .and_then(|event| write(state, topic_key(topic), &record).map(|()| vec![event]))
            }
            Instruction::Attest(attestations) => self.attest(&attestations, state),
            Instruction::Members(signed) => self.members(&signed, state),
            Instruction::Order(approved) => self.order(&approved, state),
        }
    }

    fn table(&self, state: &State<'_>) -> EpochTable {
        epoch::newest(state.before()).unwrap_or_else(|| self.genesis.epoch_table())
    }

    /// The seat that the sender is a member of.
    fn seat(&self, table: &EpochTable, state: &State<'_>) -> Result<Seat, Reject> {
        let is_member = |of: &standin_ledger::epoch::EpochSeat| {
            let shown: Option<ClusterMembers> = read(state, &members_key(&of.cluster));
            match shown.filter(|shown| shown.listed == of.listed) {
                Some(shown) => shown.keys.contains(&self.sender),
                None => of.members.iter().any(|member| member.key == self.sender),
            }
        };
        let seat = table.seats.iter().find(|(_, of)| is_member(of)).map(|(seat, _)| *seat);
        seat.ok_or_else(|| {
            Reject::new("the sender is a member of no cluster that holds a seat, as far as the chain knows")
        })
    }

    fn acquire(
        &self,
        topic: Topic,
        (after, outside): (Fence, Option<u64>),
        lease_ms: u32,
        state: &mut State<'_>,
    ) -> Result<Vec<Event>, Reject> {
        let table = self.table(state);
        let seat = self.seat(&table, state)?;
        let mut record = record(state, topic)?;
        let (lock, time_ms) = (&mut record.lock, self.context.time_ms);
        // Of a chain of one seat nobody else could have it.
        let may_have = if table.seats.len() > 1 { lock.may_have(seat, self.context.height) } else { Ok(()) };
        #[cfg(feature = "mutations")]
        let may_have = if self.mutation == Some(Mutation::BarUnkept) { Ok(()) } else { may_have };
        let granted = match (record.settings.outside, outside) {
            (false, None) => {
                may_have.and_then(|()| lock.acquire(self.sender, after, lease_ms, time_ms)).map(|fence| (fence, None))
            }
            (true, Some(outside)) => lock.claim(self.sender, (after, outside), lease_ms, time_ms),
            (true, None) => return Err(Reject::new(format!("the lock of topic `{topic}` stands outside the chain"))),
            (false, Some(_)) => return Err(Reject::new(format!("the lock of topic `{topic}` stands on the chain"))),
        };
        let (fence, superseded) = granted.map_err(|refused| Reject::new(refused.to_string()))?;
        record.lock.had_by(seat);
        let mut events = Vec::new();
        if let Some(Grant { owner, .. }) = superseded {
            events.push(self.released(topic, after, owner, Reason::Superseded, state)?);
        }
        events.extend(outside.map(|number| Event::Outside { topic, number }));
        let (published, before) = (record.dictionary.published, record.dictionary.published_chain);
        let from = published.next().ok_or_else(|| Reject::new("the topic has no more sequences"))?;
        let (owner, granted) = (self.sender, self.context.height);
        let holding =
            Holding { owner, fence, lease_ms, granted, from, before, upto: published, chain: before, ended: None };
        write(state, holding_key(topic, fence), &holding)?;
        if let Some(forgotten) = fence.0.checked_sub(HOLDINGS_KEPT) {
            state.delete(holding_key(topic, Fence(forgotten)));
        }
        write(state, topic_key(topic), &record)?;
        events.push(Event::Granted(Takeover { topic, fence, owner, lease_ms, from, before }));
        Ok(events)
    }

    /// An owner's word about one lock: what is refused of it leaves the others as they are.
    fn hold(&self, hold: &Hold, state: &mut State<'_>, events: &mut Vec<Event>) -> Result<(), Reject> {
        let Hold { topic, fence, renewal, published } = hold;
        let (topic, fence) = (*topic, *fence);
        let refused = |why: String| Event::Refused { topic, why };
        let before = match record(state, topic) {
            Ok(record) => record,
            Err(Reject(why)) => {
                events.push(refused(why));
                return Ok(());
            }
        };
        let mut record = before.clone();
        if let Some(number) = renewal {
            events.push(match record.lock.renew(&self.sender, fence, *number, self.context.time_ms) {
                Ok(()) => Event::Renewed { topic, fence, renewals: *number },
                Err(why) => refused(why.to_string()),
            });
        }
        if let Some(checkpoint) = published {
            events.push(match self.checkpoint((topic, fence), checkpoint, &mut record, state) {
                Ok(()) => Event::Published { topic, fence, checkpoint: *checkpoint },
                Err(Reject(why)) => refused(why),
            });
        }
        if record == before { Ok(()) } else { write(state, topic_key(topic), &record) }
    }

    fn checkpoint(
        &self,
        (topic, fence): (Topic, Fence),
        Checkpoint { upto, chain }: &Checkpoint,
        record: &mut TopicRecord,
        state: &mut State<'_>,
    ) -> Result<(), Reject> {
        let checked = record.lock.check(&self.sender, fence).map(drop);
        #[cfg(feature = "mutations")]
        let checked = if self.mutation == Some(Mutation::StaleCheckpoint) { Ok(()) } else { checked };
        checked.map_err(|refused| Reject::new(refused.to_string()))?;
        let mut holding: Holding =
            read(state, &holding_key(topic, fence)).ok_or_else(|| Reject::new("the grant is not on record"))?;
        let entry_at = |first| read::<Entry>(state, &entry_key(topic, first));
        let passed = record.dictionary.publish(*upto, chain, entry_at).map_err(|no| Reject::new(no.to_string()))?;
        passed.into_iter().for_each(|first| state.delete(entry_key(topic, first)));
        record.lock.progressed(record.settings.outside);
        (holding.upto, holding.chain) = (*upto, *chain);
        write(state, holding_key(topic, fence), &holding)
    }

    /// Seats' words. One that is overtaken leaves the others as they are.
    fn attest(&self, attestations: &[Attestation], state: &mut State<'_>) -> Result<Vec<Event>, Reject> {
        let table = self.table(state);
        let seat = self.seat(&table, state)?;
        // One more than may be faulty: among them is an honest one.
        let needed = table.seats.len().saturating_sub(1) / 3 + 1;
        let mut events = Vec::with_capacity(attestations.len());
        for Attestation { topic, fence, ground } in attestations.iter().copied() {
            let refused = |why: String| Event::Refused { topic, why };
            let mut record = match record(state, topic) {
                Ok(record) => record,
                Err(Reject(why)) => {
                    events.push(refused(why));
                    continue;
                }
            };
            let owner = record.lock.held.as_ref().map(|grant| grant.owner);
            let published = record.dictionary.published;
            if matches!(ground, Ground::Expired { .. }) && record.settings.outside {
                events.push(refused("its lease is the lock service's".to_owned()));
                continue;
            }
            if matches!(ground, Ground::Stalled { .. }) && !record.dictionary.has_waiting() {
                events.push(refused("nothing waits to be published".to_owned()));
                continue;
            }
            match record.lock.attest(seat, fence, ground, (published, needed)) {
                Err(why) => {
                    events.push(refused(why.to_string()));
                    continue;
                }
                Ok(reason) => {
                    events.push(Event::Attested { topic, fence, seat, ground });
                    if let (Some(reason), Some(owner)) = (reason, owner) {
                        record.lock.ended(self.context.height, record.dictionary.has_waiting());
                        events.push(self.released(topic, fence, owner, reason, state)?);
                    }
                }
            }
            write(state, topic_key(topic), &record)?;
        }
        Ok(events)
    }

    fn released(
        &self,
        topic: Topic,
        fence: Fence,
        owner: PublicKey,
        reason: Reason,
        state: &mut State<'_>,
    ) -> Result<Event, Reject> {
        if let Some(mut holding) = read::<Holding>(state, &holding_key(topic, fence)) {
            holding.ended = Some((reason, self.context.height));
            write(state, holding_key(topic, fence), &holding)?;
        }
        Ok(Event::Released { topic, fence, owner, reason })
    }

    fn members(&self, signed: &SignedMembership, state: &mut State<'_>) -> Result<Vec<Event>, Reject> {
        let table = self.table(state);
        let auth = table.auth.ok_or_else(|| Reject::new("this chain has no auth node that lists members"))?;
        let membership = &signed.membership;
        let key = members_key(&membership.cluster);
        let seat = table.seats.values().find(|seat| seat.cluster == membership.cluster);
        if seat.is_none_or(|seat| seat.listed != membership.listed) {
            return Err(Reject::new(format!("cluster {} has no such list of members now", membership.cluster)));
        }
        let known: Option<ClusterMembers> = read(state, &key);
        if known.is_some_and(|known| (known.listed, known.version) >= membership.order()) {
            return Err(Reject::new("the chain knows this list of members, or a newer one"));
        }
        signed.verify(&self.genesis.digest(), &auth).map_err(|error| Reject::new(error.to_string()))?;
        let keys = membership.members.values().map(|member| member.key).collect();
        let shown = ClusterMembers { listed: membership.listed, version: membership.version, keys };
        write(state, key, &shown)?;
        Ok(vec![Event::Members])
    }

    fn order(&self, approved: &Approved<TopicOrder>, state: &mut State<'_>) -> Result<Vec<Event>, Reject> {
        let TopicOrder { number, changes, .. } = &approved.order;
        let register: Register = read(state, &register_key()).unwrap_or_default();
        if *number != register.orders {
            let next = register.orders;
            return Err(Reject::new(format!("topic order {number}, the next one is {next}: draft it anew")));
        }
        if changes.is_empty() || changes.len() > TOPIC_CHANGES_MAX {
            return Err(Reject::new(format!("{} changes, 1 to {TOPIC_CHANGES_MAX} are allowed", changes.len())));
        }
        approved.check(&self.genesis.digest(), &self.table(state).operators)?;
        let mut events = Vec::with_capacity(changes.len());
        for change in changes {
            events.extend(self.change(change, state)?);
        }
        let mut register: Register = read(state, &register_key()).unwrap_or_default();
        register.orders += 1;
        write(state, register_key(), &register)?;
        Ok(events)
    }

    fn change(&self, change: &TopicChange, state: &mut State<'_>) -> Result<Vec<Event>, Reject> {
        match change {
            TopicChange::Set(topic, settings) => {
                if settings.sources.as_ref().is_some_and(|sources| sources.len() > SOURCES_MAX) {
                    return Err(Reject::new(format!("topic `{topic}`: at most {SOURCES_MAX} sources are listed")));
                }
                let mut events = Vec::new();
                match read::<TopicRecord>(state, &topic_key(*topic)) {
                    Some(mut known) => {
                        // Whoever holds a lock that moves has it no more.
                        let moves = known.settings.outside != settings.outside;
                        if let Some(Grant { owner, .. }) = known.lock.held.filter(|_| moves) {
                            events.push(self.released(*topic, known.lock.fence, owner, Reason::Ordered, state)?);
                            known.lock.force();
                        }
                        write(state, topic_key(*topic), &TopicRecord { settings: settings.clone(), ..known })?;
                    }
                    None => drop(create(state, *topic, settings.clone())?),
                }
                events.push(Event::Set { topic: *topic, outside: settings.outside });
                Ok(events)
            }
            TopicChange::Release(topic, fence) => {
                let mut record = record(state, *topic)?;
                let held = record.lock.held.filter(|_| record.lock.fence == *fence);
                let Some(Grant { owner, .. }) = held else {
                    return Err(Reject::new(format!("nobody holds the lock of topic `{topic}` under fence {fence}")));
                };
                record.lock.force();
                record.lock.ended(self.context.height, false);
                write(state, topic_key(*topic), &record)?;
                self.released(*topic, *fence, owner, Reason::Ordered, state).map(|event| vec![event])
            }
            TopicChange::Skip { topic, from, upto } => self.skip(*topic, (*from, *upto), state),
        }
    }

    fn skip(
        &self,
        topic: Topic,
        (from, upto): (Sequence, Sequence),
        state: &mut State<'_>,
    ) -> Result<Vec<Event>, Reject> {
        let mut record = record(state, topic)?;
        let entry_at = |first| read::<Entry>(state, &entry_key(topic, first));
        let skipped = record.dictionary.skip(from, upto, entry_at);
        let (passed, chain) = skipped.map_err(|no| Reject::new(format!("topic `{topic}`: {no}")))?;
        passed.into_iter().for_each(|first| state.delete(entry_key(topic, first)));
        let mut events = Vec::new();
        // Whoever has it counts from where it began.
        if let Some(Grant { owner, .. }) = record.lock.force() {
            record.lock.ended(self.context.height, false);
            events.push(self.released(topic, record.lock.fence, owner, Reason::Ordered, state)?);
        }
        write(state, topic_key(topic), &record)?;
        events.push(Event::Skipped { topic, from, checkpoint: Checkpoint { upto, chain } });
        Ok(events)
    }
}

/// A transaction's events, if it is about publication and took effect: what a server reads of a block.
pub fn events_of(transaction: &Transaction, output: &[u8]) -> Vec<Event> {
    match Kind::of(transaction) {
        Kind::Other => Vec::new(),
        _ => Events::from_wire(output).map(|Events(events)| events).unwrap_or_default(),
    }
}

/// The frame's content, of a push that was queued.
pub fn content_of(transaction: &Transaction) -> Option<crate::frame::Content> {
    let bytes: Bytes = transaction.bytes().slice_ref(transaction.payload());
    Push::from_payload(&bytes).ok().map(|push| push.content)
}

#[cfg(test)]
mod tests;
