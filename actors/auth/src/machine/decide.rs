//! One request against one cluster's record.

use standin_ledger::grant::{Cause, MEMBERS_MAX, request_digest};
use standin_ledger::{SignedGrant, SignedMembership};

use super::*;
use crate::messages::{KeepAlive, Register, SetChange, SetFault, Update};

impl Auth {
    /// Decides a request about `cluster`, whose record was read just now. Whoever is heard is noted; all else is up to what
    /// becomes of the decision.
    pub fn decide(&mut self, now: Millis, cluster: &ClusterId, record: &Record, presented: &Presented) -> Decision {
        if self.table.seat_of(cluster).is_none() {
            return Decision::Refused(Refusal::NoSeat { epoch: self.table.epoch });
        }
        if let Some(named) = self.named(record) {
            return Decision::Named(Box::new(named));
        }
        if let Request::ReportWrong(_) = &presented.request {
            return self.report_wrong(now, cluster, record, presented).unwrap_or_else(Decision::Refused);
        }
        if !record.admitted.contains_key(&presented.from) {
            return Decision::Refused(Refusal::NotAdmitted);
        }
        self.note_heard(now, cluster, record, &presented.from);
        let decided = match &presented.request {
            Request::KeepAlive(_) if presented.told_count > presented.register_count => {
                Ok(Decision::RolledBack { seen: presented.told_count })
            }
            Request::KeepAlive(keep_alive) => self.keep_alive(now, cluster, record, &presented.from, keep_alive),
            Request::LookUp { .. } | Request::ReportWrong(_) | Request::Epoch(_) => Ok(Decision::Alive),
            Request::Recall { newest, membership, promised, .. } => {
                Ok(self.recall(record, &presented.from, (newest.as_ref(), membership.as_ref()), *promised))
            }
            _ if record.recalling.is_some() && !self.is_off(Mutation::GrantWhileRecalling) => Err(Refusal::Recovering),
            Request::Register(request) => {
                let forgotten = self.is_off(Mutation::ForgetAged) && self.is_vacant(cluster, now);
                self.register(record, &presented.from, request, forgotten)
            }
            Request::Update(request) => self.update(now, cluster, record, presented, request),
            Request::SetChange(request) => self.set_change(record, &presented.from, request),
        };
        decided.unwrap_or_else(Decision::Refused)
    }

    /// E2: the record of a cluster that the chain has named since, as it goes on from there; none if it already has. What the register
    /// had granted it is void, and with it what was to be switched. A recall ends only if the order was given in this life of the
    /// register: the life before may have granted upon an older one (G5).
    pub fn named(&self, record: &Record) -> Option<Record> {
        let seat = self.table.seats.values().find(|seat| seat.cluster == record.cluster)?;
        let (begins, lists) = (seat.since > record.term().lineage(), seat.listed > record.listed);
        if !begins && !lists {
            return None;
        }
        let base = self.table.base_grant(&self.chain, seat)?.grant;
        let is_older = base.incarnation < self.incarnation;
        let mut next = record.clone();
        next.version += 1;
        if lists {
            (next.admitted, next.listed, next.membership_version) =
                (by_id(seat.members.iter().cloned()), seat.listed, 0);
        }
        next.recalling = match (lists, begins) {
            // Nobody has asked these members.
            (true, _) if is_older => Some(BTreeSet::new()),
            (_, true) => next.recalling.filter(|_| is_older),
            (_, false) => next.recalling,
        };
        if !begins {
            return Some(next);
        }
        // Whoever ordered it answers for the holder.
        next.not_electable.remove(&base.holder_id());
        (next.grant, next.forced) = (Some(base), None);
        Some(next)
    }

    /// While nothing is heard of a whole cluster for long the auth node is cut off from it, or is not the one that is asked: it
    /// knows no more than one that starts, and gives everyone the time that such a one would.
    fn note_heard(&mut self, now: Millis, cluster: &ClusterId, record: &Record, from: &NodeId) {
        let long = self.config.age_max_ms / 2;
        let watch = self.watch(now, cluster, record);
        let last = watch.heard.values().copied().max().unwrap_or(watch.since);
        if last + long < now {
            watch.heard.clear();
            (watch.since, watch.holder_heard) = (now, now);
        }
        watch.heard.insert(*from, now);
        watch.split.note_record(record);
        if watch.term != record.term() {
            watch.holder = record.grant.as_ref().map(Grant::holder_id);
            let is_other_log = watch.term.lineage() != record.term().lineage();
            (watch.holder_heard, watch.term) = (now, record.term());
            // A holder that was ordered away was faulty, and so may be what it said of itself.
            if is_other_log || record.grant.as_ref().is_some_and(|grant| grant.cause == Cause::Forced) {
                watch.released = 0;
            }
        }
    }

    fn watch(&mut self, now: Millis, cluster: &ClusterId, record: &Record) -> &mut Watch {
        let (holder_heard, term) = (now, record.term());
        self.watches.entry(cluster.clone()).or_insert_with(|| Watch {
            heard: BTreeMap::new(),
            since: now,
            holder_heard,
            term,
            released: 0,
            holder: record.grant.as_ref().map(Grant::holder_id),
            split: Split::default(),
            reports: BTreeMap::new(),
        })
    }

    /// G7: reports of distinct seats within the window; at the threshold the cluster is to switch. The holder may not be
    /// elected again until an operator clears it.
    fn report_wrong(
        &mut self,
        now: Millis,
        cluster: &ClusterId,
        record: &Record,
        presented: &Presented,
    ) -> Result<Decision, Refusal> {
        let reporter = presented.speaks_for.clone().filter(|reporter| reporter != cluster).ok_or(Refusal::NotHolder)?;
        let current = record.term();
        if presented.wrong_in != Some(current) {
            return Err(Refusal::BadEvidence);
        }
        let (window, needed) = (self.config.reports_window_ms, faulty_max(self.seats()) + 1);
        let watch = self.watch(now, cluster, record);
        watch.reports.insert(reporter, (now, current));
        watch.reports.retain(|_, (at, term)| *at + window > now && *term == current);
        let holder = record.grant.as_ref().map(Grant::holder_id).ok_or(Refusal::NotRegistered)?;
        if watch.reports.len() < needed || record.forced == Some(current) {
            return Ok(Decision::Alive);
        }
        let mut next = record.clone();
        next.version += 1;
        next.forced = Some(current);
        next.not_electable.insert(holder);
        Ok(Decision::Swap(Box::new(next)))
    }

    /// G2: the holder's own revives its entry while no newer grant exists. A node that is the holder by its grant and cannot
    /// speak has released nothing, and revives nothing.
    fn keep_alive(
        &mut self,
        now: Millis,
        cluster: &ClusterId,
        record: &Record,
        from: &NodeId,
        keep_alive: &KeepAlive,
    ) -> Result<Decision, Refusal> {
        let is_holder = |grant: &Grant| grant.term == keep_alive.term && grant.holder_id() == *from;
        if record.grant.as_ref().is_some_and(is_holder)
            && let Some(released) = keep_alive.released
            && let Some(watch) = self.watches.get_mut(cluster)
        {
            watch.holder_heard = now;
            watch.released = watch.released.max(released);
            if let Some(heard) = keep_alive.heard_seats {
                self.note_seats_heard(now, cluster, heard);
            }
        }
        Ok(Decision::Alive)
    }

    fn register(
        &self,
        record: &Record,
        from: &NodeId,
        request: &Register,
        forgotten: bool,
    ) -> Result<Decision, Refusal> {
        let digest = request_digest(from, Term(0), &request.in_sync, Some(request.session));
        if forgotten {
            let empty = Record { grant: None, ..record.clone() };
            return self.swap(&empty, from, request.in_sync.clone(), Cause::First, digest);
        }
        if let Some(grant) = &record.grant {
            return if grant.request == digest {
                Ok(Decision::Repeated(grant.clone()))
            } else {
                Err(Refusal::Registered)
            };
        }
        check_set(record, from, &request.in_sync)?;
        self.swap(record, from, request.in_sync.clone(), Cause::First, digest)
    }

    fn update(
        &self,
        now: Millis,
        cluster: &ClusterId,
        record: &Record,
        presented: &Presented,
        request: &Update,
    ) -> Result<Decision, Refusal> {
        let from = &presented.from;
        if presented.ticket_opened.as_ref() != Some(cluster) {
            return Err(Refusal::BadTicket);
        }
        let grant = record.grant.as_ref().ok_or(Refusal::NotRegistered)?;
        let digest = request_digest(from, request.term, &request.in_sync, Some(request.session));
        if grant.request == digest {
            return Ok(Decision::Repeated(grant.clone()));
        }
        if record.not_electable.contains(from) {
            return Err(Refusal::NotElectable);
        }
        self.check_term(record, request.term)?;
        if !grant.in_sync.contains(from) && !self.is_off(Mutation::AnyoneTakesOver) {
            return Err(Refusal::NotInSync);
        }
        check_set(record, from, &request.in_sync)?;
        let adds = !request.in_sync.is_subset(&grant.in_sync);
        if adds && !self.is_off(Mutation::CandidateAdds) && !self.is_off(Mutation::AnyoneTakesOver) {
            return Err(Refusal::BadSet { why: SetFault::Adds });
        }
        // L9. A holder that is ordered away is faulty, and so may be what it said of itself: its word bars nobody.
        let released = self.watches.get(cluster).map_or(0, |watch| watch.released);
        let is_short = request.head < released && record.forced != Some(grant.term);
        if is_short && !self.is_off(Mutation::ShortLogTakesOver) {
            return Err(Refusal::LogTooShort { head: request.head, released });
        }
        if let Some((term, site)) = self.move_of(now, cluster)
            && term == grant.term
            && record.admitted.get(from).is_none_or(|member| member.site != *site)
        {
            return Err(Refusal::Elsewhere { site: site.clone() });
        }
        let cause = self.ground(now, cluster, record, (grant, request), presented)?;
        self.swap(record, from, request.in_sync.clone(), cause, digest)
    }

    fn set_change(&self, record: &Record, from: &NodeId, request: &SetChange) -> Result<Decision, Refusal> {
        let grant = record.grant.as_ref().ok_or(Refusal::NotRegistered)?;
        let digest = request_digest(from, request.term, &request.in_sync, None);
        if grant.request == digest {
            return Ok(Decision::Repeated(grant.clone()));
        }
        self.check_term(record, request.term)?;
        if grant.holder_id() != *from {
            return Err(Refusal::NotHolder);
        }
        if record.forced == Some(grant.term) || record.not_electable.contains(from) {
            return Err(Refusal::NotElectable);
        }
        check_set(record, from, &request.in_sync)?;
        let cause = if request.in_sync.is_subset(&grant.in_sync) { Cause::Shrink } else { Cause::Grow };
        self.swap(record, from, request.in_sync.clone(), cause, digest)
    }

    /// What a node durably knows, and that it refuses older registers: when all admitted nodes have said so, nothing that
    /// was granted and is not known here can ever be used.
    fn recall(
        &self,
        record: &Record,
        from: &NodeId,
        (newest, membership): (Option<&SignedGrant>, Option<&SignedMembership>),
        promised: Incarnation,
    ) -> Decision {
        let Some(heard) = &record.recalling else { return Decision::Alive };
        // Whoever knows of a later epoch shows it, and is asked again by the list of that.
        let knows_later = newest.is_some_and(|newest| newest.grant.epoch > self.table.epoch)
            || membership.is_some_and(|list| list.membership.listed > self.table.epoch);
        if knows_later {
            return Decision::Alive;
        }
        if promised < self.incarnation || heard.contains(from) {
            return Decision::Alive;
        }
        let mut next = record.clone();
        next.version += 1;
        if let Some(newest) = newest
            && newest.grant.cluster == record.cluster
            && newest.grant.term > record.term()
        {
            next.grant = Some(newest.grant.clone());
        }
        // Whoever was admitted after the copy was made must be heard, too.
        if let Some(SignedMembership { membership, .. }) = membership
            && membership.cluster == record.cluster
            && membership.order() > (record.listed, record.membership_version)
        {
            (next.admitted, next.listed) = (membership.members.clone(), membership.listed);
            next.membership_version = membership.version;
        }
        let mut heard = heard.clone();
        heard.insert(*from);
        let all = next.admitted.keys().all(|node| heard.contains(node));
        next.recalling = (!all).then_some(heard);
        // What the chain has ordered stands as it is, if nobody knows of a grant upon it.
        let is_granted = |grant: &&mut Grant| all && grant.cause != Cause::Ordered;
        if let Some(grant) = next.grant.as_mut().filter(is_granted) {
            // Who has promised refuses what the register granted in its lives before: the same again, in this one.
            let previous = grant.digest();
            (grant.term, grant.previous, grant.incarnation) = (grant.term.next(), previous, self.incarnation);
            (grant.cause, grant.request) = (Cause::Recovered, Digest::ZERO);
        }
        Decision::Swap(Box::new(next))
    }

    fn check_term(&self, record: &Record, term: Term) -> Result<(), Refusal> {
        let current = record.term();
        if term == current || self.is_off(Mutation::SwapWithoutCompare) {
            Ok(())
        } else {
            Err(Refusal::OldTerm { current })
        }
    }

    fn ground(
        &self,
        now: Millis,
        cluster: &ClusterId,
        record: &Record,
        (grant, request): (&Grant, &Update),
        presented: &Presented,
    ) -> Result<Cause, Refusal> {
        let holder = grant.holder_id();
        if record.forced == Some(grant.term) {
            return Ok(Cause::Forced);
        }
        if self.moves_from(now, cluster) == Some(grant.term) {
            return Ok(Cause::Split);
        }
        if presented.resigned == Some(holder) {
            return Ok(Cause::Resigned);
        }
        if self.is_vacant(cluster, now) {
            return Ok(Cause::Aged);
        }
        let watch = self.watches.get(cluster);
        // Whoever has not been heard yet may not have found this auth node yet.
        let heard = |node: &NodeId| watch.map(|watch| watch.heard.get(node).copied().unwrap_or(watch.since));
        let lives = |node: &&NodeId| heard(node).is_some_and(|at| now - at <= self.config.live_ms);
        let others = grant.in_sync.iter().filter(|node| **node != holder);
        // Whoever the sender reaches lives, although another auth node may be the one that it asks.
        let counts = |node: &&NodeId| lives(node) || request.in_sync.contains(*node);
        let missing = others.filter(counts).filter(|node| !presented.suspected_by.contains(node)).count();
        if missing == 0 && presented.suspected_by.contains(&presented.from) {
            Ok(Cause::Suspected)
        } else {
            Err(Refusal::NoGround { missing: missing as u16 })
        }
    }

    fn swap(
        &self,
        record: &Record,
        holder: &NodeId,
        in_sync: BTreeSet<NodeId>,
        cause: Cause,
        request: Digest,
    ) -> Result<Decision, Refusal> {
        let holder = record.admitted.get(holder).ok_or(Refusal::NotAdmitted)?.key;
        let (term, previous, epoch) = match &record.grant {
            Some(grant) => (grant.term.next(), grant.digest(), grant.epoch.max(self.table.epoch)),
            None => (Term(1), Digest::ZERO, self.table.epoch),
        };
        if record.grant.as_ref().is_some_and(|grant| grant.term.lineage() != term.lineage()) {
            return Err(Refusal::OutOfTerms);
        }
        let cluster = record.cluster.clone();
        let grant = Grant {
            chain: self.chain,
            epoch,
            cluster,
            term,
            holder,
            in_sync,
            previous,
            cause,
            incarnation: self.incarnation,
            request,
        };
        let mut next = record.clone();
        next.version += 1;
        next.grant = Some(grant);
        if matches!(cause, Cause::Forced) {
            next.forced = None;
        }
        Ok(Decision::Swap(Box::new(next)))
    }
}

/// The wanted set holds the sender, only admitted nodes, and not too many.
fn check_set(record: &Record, from: &NodeId, in_sync: &BTreeSet<NodeId>) -> Result<(), Refusal> {
    let fault = |why| Err(Refusal::BadSet { why });
    if !in_sync.contains(from) {
        return fault(SetFault::WithoutSender);
    }
    if in_sync.len() > MEMBERS_MAX {
        return fault(SetFault::TooLarge);
    }
    if in_sync.iter().any(|node| !record.admitted.contains_key(node)) {
        return fault(SetFault::Stranger);
    }
    Ok(())
}
