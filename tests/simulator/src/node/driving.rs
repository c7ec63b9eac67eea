//! Steps both machines, and carries out what follows: what the node's actors do.

use super::*;

impl Node {
    /// Steps the replica's machine and carries out what follows.
    pub(super) fn step(&mut self, now: Millis, input: Input) {
        self.step_core(now, input);
        self.work_off(now);
    }

    /// Steps the member machine and carries out what follows.
    pub(super) fn step_member(&mut self, now: Millis, input: standin_cluster::Input) {
        let effects = self.member.step(now, input);
        self.queue(effects);
        self.work_off(now);
    }

    pub(super) fn queue(&mut self, effects: Vec<standin_cluster::Effect>) {
        self.todo.extend(standin_cluster::effect::without_void(effects));
    }

    pub(super) fn step_core(&mut self, now: Millis, input: Input) {
        let effects = self.machine.step(now, input);
        let mut records = Vec::new();
        for effect in effects {
            match effect {
                Effect::Log { record, .. } => {
                    let bytes = record.to_wire().unwrap_or_else(|error| panic!("a record does not encode: {error}"));
                    records.push(Bytes::from(bytes));
                }
                other => self.carry_out(other),
            }
        }
        if !records.is_empty() {
            let effects = self.member.step(now, standin_cluster::Input::Append(records));
            self.queue(effects);
        }
    }

    pub(super) fn work_off(&mut self, now: Millis) {
        self.release(now);
        while let Some(effect) = self.todo.pop_front() {
            self.carry_out_for_member(now, effect);
            self.release(now);
        }
        for input in std::mem::take(&mut self.for_member) {
            self.step_member(now, input);
        }
        for proof in std::mem::take(&mut self.begun) {
            self.chain.entered_epochs().into_iter().for_each(|table| self.known.table.begin(table));
            self.keep_epoch(now, proof);
        }
        self.sync_more();
    }

    pub(super) fn carry_out_for_member(&mut self, now: Millis, effect: standin_cluster::Effect) {
        use standin_cluster::Effect as Of;
        match effect {
            Of::Write { sequence, record } => {
                let may_wait = match &record {
                    NodeRecord::Entry(entry) => describe(&entry.record).is_some_and(|described| described.may_wait),
                    _ => false,
                };
                self.disk.append(sequence, record, |digest| self.payloads.get(digest).cloned());
                if !may_wait {
                    self.waited_for = sequence;
                }
            }
            Of::Sync => self.waited_for = self.disk.last(),
            Of::Send { to, message } => {
                let payloads = self.payloads_of(&message);
                self.actions.push(Action::DeliverTo(to, Envelope::Cluster(Box::new(message), payloads)));
            }
            Of::Ask(request) => self.actions.push(Action::Ask(request)),
            Of::State(claim, term) => {
                let cluster = self.setup.cluster.as_ref().map(|cluster| cluster.cluster.clone());
                let Some(cluster) = cluster else { return };
                let statement = Statement { claim, cluster, term, node: self.setup.key, signature: Signature::NONE };
                let effects = self.member.step(now, standin_cluster::Input::Stated(statement));
                self.queue(effects);
            }
            Of::Follow(entry) => {
                self.step_core(now, Input::Followed { lsn: entry.lsn, record: Some(decode(&entry.record)) });
            }
            Of::Rebuild => {
                // Whoever has lost its seat tells its clients to ask elsewhere.
                self.waiting.clear();
                self.own_batches.clear();
                self.again.clear();
                self.rebuild(now);
                let results: Vec<_> = self.computed.values().copied().collect();
                for result in results {
                    let ordered = self.chain.ordered_epoch();
                    self.step_core(now, Input::Executed { height: result.height, checkpoint: Some(result), ordered });
                }
            }
            Of::Activate { writer, start } => {
                self.speak_as(writer, start);
                self.step_core(now, Input::Activated);
            }
            Of::Rebase { writer, start } => {
                self.speak_as(writer, start);
                self.step_core(now, Input::Rebased);
            }
            Of::Released { writer, lsn } => {
                if writer == self.signer.writer || self.setup.breaks(Driver::GateByNumber) {
                    let is_of_log = writer.term.lineage() == self.member.facts().term().lineage();
                    let entry = self.member.entries().find(|entry| entry.lsn == lsn && is_of_log);
                    if let Some(hash) = entry.map(|entry| entry.hash) {
                        self.actions.push(Action::Observe(Observation::Released(writer, lsn, hash)));
                    }
                }
                let by_number = self.setup.breaks(Driver::GateByNumber);
                self.gate.released(if by_number { Writer::default() } else { writer }, lsn);
            }
            Of::Agreed(height) => self.step_core(now, Input::ResultAgreed(height)),
            Of::CutBefore(sequence) => self.disk.cut(sequence),
            Of::Report(event) => self.actions.push(Action::Observe(Observation::Member(event))),
        }
    }

    pub(super) fn speak_as(&mut self, writer: Writer, start: Lsn) {
        (self.signer.writer, self.signer.start) = (writer, start);
        if !self.setup.breaks(Driver::GateByNumber) {
            self.gate = Gate::new(writer);
        }
        self.actions.push(Action::Observe(Observation::Activated(writer)));
    }

    pub(super) fn payloads_of(&self, message: &Message) -> Vec<Arc<Batch>> {
        let entries = match message {
            Message::Push { entries, .. } | Message::Tail { entries, .. } => entries,
            _ => return Vec::new(),
        };
        let carried = entries.iter().filter_map(|entry| describe(&entry.record)?.carries.map(|(digest, _)| digest));
        carried.filter_map(|digest| self.payloads.get(&digest).cloned()).collect()
    }

    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Log { .. } => {}
            // The gate keeps order, which would hide this mutation: what does not wait overtakes what does.
            Effect::Send { to, epoch, body, after: 0 } if self.setup.core_rule() == Some(Mutation::ResendUngated) => {
                self.emit(to, epoch, body, 0);
            }
            Effect::Send { to, epoch, body, after } => self.gate.hold(to, epoch, body, after),
            Effect::Relay { to, message } => {
                self.actions.push(Action::Deliver(Recipient::One(to), Envelope::Signed(*message)));
            }
            Effect::Tell { to, note } => {
                if let (Recipient::All, Note::Status(_), Some(cluster)) = (to, &note, &self.setup.cluster) {
                    let mates = cluster.members.keys().filter(|node| **node != self.setup.id);
                    let tell = |mate: &NodeId| Action::DeliverTo(*mate, Envelope::Note(note.clone()));
                    self.actions.extend(mates.map(tell));
                }
                match to {
                    Recipient::One(seat) if seat == self.setup.seat => {
                        let furthest = || self.member.furthest_mate().map(|(mate, _)| mate);
                        let holder = self.member.holder().filter(|holder| *holder != self.setup.id);
                        if let Some(mate) = holder.or_else(furthest) {
                            self.actions.push(Action::DeliverTo(mate, Envelope::Note(note)));
                        }
                    }
                    to => self.actions.push(Action::Deliver(to, Envelope::Note(note))),
                }
            }
            Effect::Commit { proposal, certificate } => {
                self.to_execute.push_back((proposal, certificate));
                self.actions.push(Action::Execute);
            }
            Effect::Stabilize(certificate) => {
                let height = certificate.result.height;
                self.for_member.push(standin_cluster::Input::Proven(height));
                self.disk.certify(certificate.clone());
                if let Some(snapshot) = self.snapshots.get(&height) {
                    self.begun.extend(EpochProof::new(snapshot, &certificate));
                    self.served = Some(ServedSnapshot::new(snapshot, certificate));
                }
                self.snapshots = self.snapshots.split_off(&height.next());
                self.computed = self.computed.split_off(&height.next());
            }
            Effect::ResultBacked(result) => {
                self.for_member.push(standin_cluster::Input::Decided(result.height, result.digest()));
            }
            Effect::InstallSnapshot(snapshot, certificate) => self.install(*snapshot, certificate),
            Effect::DropBatches(digests) => self.drop_batches(&digests),
            Effect::ForgetBatches(digests) => {
                for digest in digests {
                    self.forget_payload(&digest);
                    self.own_batches.remove(&digest);
                }
            }
            Effect::Report(event) => {
                self.report_wrong(&event);
                self.actions.push(Action::Observe(Observation::Event(event)));
            }
        }
    }

    /// The auth node is told of a seat that was wrong.
    pub(super) fn report_wrong(&mut self, event: &Event) {
        let Event::WrongResult { seat, result, vote, certificate } = event else { return };
        let accused = self.known.table.newest_table().seats.get(seat);
        if let Some(cluster) = accused.filter(|_| self.setup.cluster.is_some()).map(|seat| seat.cluster.clone()) {
            let (result, vote, certificate) = (*result, vote.clone(), (**certificate).clone());
            let report = WrongResult { cluster, result, vote, certificate };
            self.actions.push(Action::Ask(Request::ReportWrong(Box::new(report))));
        }
    }

    /// A payload that a member may have to be given stays as long as the log that it stands in.
    pub(super) fn forget_payload(&mut self, digest: &Digest) {
        if self.setup.cluster.is_none() {
            self.payloads.remove(digest);
        }
    }

    pub(super) fn install(&mut self, snapshot: Snapshot, certificate: standin_ledger::CheckpointCertificate) {
        self.actions.push(Action::Observe(Observation::Installed(certificate.result)));
        self.chain = Chain::from_snapshot(&self.setup.genesis, Arc::new(Builtin), snapshot.clone());
        self.begun.extend(EpochProof::new(&snapshot, &certificate));
        self.served = Some(ServedSnapshot::new(&snapshot, certificate.clone()));
        self.disk.install(snapshot, certificate.clone());
        self.to_execute.clear();
        self.installing = Some(certificate);
        self.actions.push(Action::Installed);
    }

    /// Own transactions whose batch will not be ordered go into a new one, unless they were ordered in blocks that a
    /// snapshot stood for.
    pub(super) fn drop_batches(&mut self, digests: &[Digest]) {
        for digest in digests {
            self.forget_payload(digest);
            let own = self.own_batches.remove(digest).unwrap_or_default();
            let (height, chain) = (self.chain.height(), &self.chain);
            let is_alive =
                |transaction: &Transaction| transaction.expires() > height && !chain.is_recent(&transaction.id());
            let (alive, settled): (Vec<_>, Vec<_>) = own.into_iter().partition(is_alive);
            self.again.extend(alive);
            // Ordered with another copy before: the client is told so.
            for transaction in settled {
                self.waiting.remove(&transaction.id());
            }
        }
    }

    pub(super) fn release(&mut self, now: Millis) {
        while let Some(held) = self.gate.release() {
            if !self.known.table.counts_in(held.epoch, self.setup.seat, self.signer.writer.term) {
                continue;
            }
            let message = self.emit(held.to, held.epoch, held.body, held.after);
            if held.to == Recipient::All {
                self.step_core(now, Input::MessageReceived(message));
            }
        }
    }

    pub(super) fn emit(&mut self, to: Recipient, epoch: Epoch, body: Body, lsn: Lsn) -> Verified<Signed> {
        let message = sign(&self.signer, epoch, body, lsn.max(self.signer.start));
        self.actions.push(Action::Observe(Observation::Emitted(Box::new(Signed::clone(&message)))));
        self.actions.push(Action::Deliver(to, Envelope::Signed(Signed::clone(&message))));
        message
    }

    /// Takes in that an epoch has begun: durable before anything of it is logged.
    pub(super) fn keep_epoch(&mut self, now: Millis, proof: EpochProof) {
        let epoch = proof.epoch();
        if self.disk.epochs.contains_key(&epoch) {
            return;
        }
        if let Ok(table) = proof.table() {
            self.known.table.begin(table);
            self.disk.epochs.insert(epoch, proof);
            self.step(now, Input::EpochKnown(epoch));
            self.tell_own_base(now);
            for seat in self.known.table.named_seats() {
                self.step(now, Input::HolderChanged(seat));
            }
            self.look_at_parked(now);
        }
    }

    pub(super) fn sync_more(&mut self) {
        if self.syncing || self.disk.last() <= self.disk.durable() {
            return;
        }
        if self.waited_for > self.disk.durable() {
            self.syncing = true;
            self.actions.push(Action::Sync(self.disk.last()));
        } else if !self.syncs_soon {
            self.syncs_soon = true;
            self.actions.push(Action::SyncSoon);
        }
    }
}
