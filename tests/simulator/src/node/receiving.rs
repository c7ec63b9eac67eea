//! What comes from other nodes and from the auth node.

use super::*;

impl Node {
    /// Something arrived from a node, which speaks for a seat if it is not of this node's cluster.
    pub fn receive(&mut self, now: Millis, from: NodeId, seat: Seat, envelope: Envelope) -> Vec<Action> {
        match envelope {
            Envelope::Signed(message) => self.take_signed(now, from, seat, message),
            Envelope::Note(note) => self.take_note(now, from, seat, note),
            Envelope::Batch(BatchPayload(payload)) => {
                if let Ok(batch) = Batch::parse(payload) {
                    self.take_batch(now, seat, batch, false);
                }
            }
            Envelope::Transfer(transfer) => self.take_transfer(now, from, seat, transfer),
            Envelope::Cluster(message, payloads) => {
                self.payloads.extend(payloads.into_iter().map(|batch| (batch.digest(), batch)));
                let counts = match &*message {
                    Message::Grant { grant, .. } => self.note_grant(now, grant.clone()),
                    _ => true,
                };
                if counts {
                    self.step_member(now, standin_cluster::Input::Received { from, message: *message });
                }
            }
            Envelope::Answer(answer) => self.take_answer(now, *answer),
            Envelope::Grant(grant) => _ = self.note_grant(now, *grant),
            Envelope::WantGrant(seat, term) => {
                if let Some(grant) = self.known.table.grant(seat, term).cloned() {
                    self.actions.push(Action::DeliverTo(from, Envelope::Grant(Box::new(grant))));
                }
            }
        }
        std::mem::take(&mut self.actions)
    }

    pub(super) fn take_signed(&mut self, now: Millis, from: NodeId, seat: Seat, message: Signed) {
        let own = self.setup.seat;
        match self.verifier().message(seat, message.clone()) {
            Ok(_) if seat == own && self.setup.cluster.is_some() => {}
            Ok(message) => {
                self.heard.insert(seat, now);
                self.step(now, Input::MessageReceived(message));
            }
            Err(error @ VerifyError::Certificate(LedgerError::UnknownGrant { .. } | LedgerError::UnknownEpoch(_))) => {
                if self.parked.len() < PARKED_MAX {
                    self.parked.push((from, seat, message));
                }
                self.want_grant(from, &error);
            }
            Err(VerifyError::OldTerm { seat: of, .. }) => {
                if let Some(newest) = self.known.table.newest(of).cloned() {
                    self.actions.push(Action::DeliverTo(from, Envelope::Grant(Box::new(newest))));
                }
            }
            Err(_) => {}
        }
    }

    /// What cannot be judged for want of a grant comes again; the grant is asked for.
    pub(super) fn want_grant(&mut self, from: NodeId, error: &VerifyError) {
        let question = match error {
            VerifyError::Certificate(LedgerError::UnknownGrant { seat, term }) => Envelope::WantGrant(*seat, *term),
            VerifyError::Certificate(LedgerError::UnknownEpoch(_)) => {
                Envelope::Note(Note::FetchEpoch(self.known.table.epoch().next()))
            }
            _ => return,
        };
        self.actions.push(Action::DeliverTo(from, question));
    }

    /// A grant or an epoch is known that was not.
    pub(super) fn look_at_parked(&mut self, now: Millis) {
        for (from, seat, message) in std::mem::take(&mut self.parked) {
            self.take_signed(now, from, seat, message);
        }
    }

    pub(super) fn take_answer(&mut self, now: Millis, answer: Answer) {
        if let Answer::Actives { grants, epoch, .. } = answer {
            if let Some(proof) = self.disk.epochs.get(&epoch.next()).cloned() {
                self.actions.push(Action::Ask(Request::Epoch(Box::new(BegunEpoch { proof, grants: Vec::new() }))));
            }
            for grant in grants {
                self.note_grant(now, grant);
            }
            return;
        }
        let grant = match &answer {
            Answer::Granted { grant, .. } => Some(grant.clone()),
            Answer::Refused { current, .. } => current.clone(),
            Answer::Alive { newer, .. } => newer.clone(),
            Answer::Actives { .. } => None,
        };
        if grant.is_some_and(|grant| !self.note_grant(now, grant)) {
            return;
        }
        self.step_member(now, standin_cluster::Input::Answered(answer));
    }

    /// Takes in a grant, and tells those whom it concerns; false if it does not count.
    pub(super) fn note_grant(&mut self, now: Millis, grant: SignedGrant) -> bool {
        let table = self.known.table.table(grant.grant.epoch);
        let Some(seat) = table.and_then(|table| table.seat_of(&grant.grant.cluster)) else { return false };
        let Some(noted) = self.known.note(grant.clone()) else { return false };
        let is_newest = matches!(noted, Noted::Newest(_));
        if seat == self.setup.seat {
            self.step_member(now, standin_cluster::Input::Granted(grant));
        } else if is_newest {
            self.step(now, Input::HolderChanged(seat));
        }
        self.look_at_parked(now);
        true
    }

    /// What the chain has ordered for the own seat, if nobody was granted it since.
    pub(super) fn tell_own_base(&mut self, now: Millis) {
        let base = self.known.table.newest(self.setup.seat).filter(|newest| newest.grant.cause == Cause::Ordered);
        if let Some(base) = base.cloned() {
            self.step_member(now, standin_cluster::Input::Granted(base));
        }
    }

    pub(super) fn verifier(&self) -> Verifier<SimulatedAuthority> {
        Verifier { authority: self.known.clone(), window: self.setup.genesis.parameters.window }
    }

    pub(super) fn take_note(&mut self, now: Millis, node: NodeId, from: Seat, note: Note) {
        self.heard.insert(from, now);
        let answer = match note {
            Note::Status(status) => return self.step(now, Input::StatusReceived(from, status)),
            Note::Offer(digests) => return self.step(now, Input::OfferReceived(from, digests)),
            Note::Unavailable => return self.step(now, Input::UnavailableReceived(from)),
            Note::Stable(certificate) => {
                match self.verifier().checkpoint(certificate) {
                    Ok(certificate) => self.step(now, Input::StableReceived(certificate)),
                    Err(error) => self.want_grant(node, &error),
                }
                return;
            }
            Note::Epoch(proof) => {
                let certificate = proof.certificate().clone();
                match proof.verify(&self.known) {
                    Ok(_) => self.keep_epoch(now, *proof),
                    Err(error) => return self.want_grant(node, &error.into()),
                }
                if let Ok(certificate) = self.verifier().checkpoint(certificate) {
                    self.step(now, Input::StableReceived(certificate));
                }
                return;
            }
            Note::FetchEpoch(epoch) => {
                if let Some(proof) = self.disk.epochs.get(&epoch).cloned() {
                    self.actions.push(Action::DeliverTo(node, Envelope::Note(Note::Epoch(Box::new(proof)))));
                }
                return;
            }
            Note::FetchBatches(digests) => {
                for batch in digests.iter().filter_map(|digest| self.payloads.get(digest)) {
                    let envelope = Envelope::Batch(BatchPayload(batch.payload().clone()));
                    self.actions.push(Action::DeliverTo(node, envelope));
                }
                return;
            }
            // The simulation has envelopes for grants.
            Note::Grant(_) | Note::WantGrant(..) => return,
            Note::FetchBlocks { from } => self.blocks_from(from),
            Note::FetchManifest => {
                self.served.as_ref().map(|served| Transfer::Manifest(Box::new(served.manifest().clone())))
            }
            Note::FetchChunk { height, index } => self
                .served
                .as_ref()
                .filter(|served| served.manifest().certificate.result.height == height)
                .and_then(|served| served.chunk(index as usize))
                .map(|chunk| Transfer::Chunk { height, index, chunk }),
        };
        let envelope = answer.map_or(Envelope::Note(Note::Unavailable), Envelope::Transfer);
        self.actions.push(Action::DeliverTo(node, envelope));
    }

    pub(super) fn blocks_from(&self, from: Height) -> Option<Transfer> {
        let transfer = |height| {
            self.disk.block(height).map(|block| BlockTransfer {
                proposal: block.proposal.clone(),
                certificate: block.certificate.clone(),
                payloads: block.batches.iter().map(|batch| batch.payload().clone()).collect(),
            })
        };
        let blocks: Vec<_> =
            (from.0..from.0 + BLOCKS_PER_ANSWER).map_while(|height| transfer(Height(height))).collect();
        (!blocks.is_empty()).then_some(Transfer::Blocks(blocks))
    }

    pub(super) fn take_transfer(&mut self, now: Millis, node: NodeId, from: Seat, transfer: Transfer) {
        match transfer {
            Transfer::Blocks(blocks) => self.take_blocks(now, node, from, blocks),
            Transfer::Manifest(manifest) => match self.verifier().manifest(*manifest) {
                Ok(manifest) => self.step(now, Input::ManifestReceived(from, manifest)),
                Err(error) => self.want_grant(node, &error),
            },
            Transfer::Chunk { height, index, chunk } => {
                self.step(now, Input::ChunkReceived { from, height, index, chunk });
            }
        }
    }

    pub(super) fn take_batch(&mut self, now: Millis, from: Seat, batch: Batch, needed: bool) {
        let reference = batch.reference();
        self.payloads.entry(batch.digest()).or_insert_with(|| Arc::new(batch));
        self.step(now, Input::BatchReceived { from, batch: reference, needed });
    }

    pub(super) fn take_blocks(&mut self, now: Millis, node: NodeId, from: Seat, blocks: Vec<BlockTransfer>) {
        if !self.machine.awaits_blocks(from) {
            return;
        }
        let mut checked = Vec::new();
        for block in blocks {
            let (height, digest) = (block.proposal.height, block.proposal.digest());
            let certificate = match self.verifier().commit(height, digest, block.certificate) {
                Ok(certificate) => certificate,
                Err(error) => {
                    self.want_grant(node, &error);
                    break;
                }
            };
            let batches: Vec<_> = block.payloads.into_iter().filter_map(|payload| Batch::parse(payload).ok()).collect();
            if batches.iter().map(Batch::reference).ne(block.proposal.batches.iter().copied()) {
                break;
            }
            for batch in batches {
                self.take_batch(now, from, batch, true);
            }
            checked.push((block.proposal, certificate));
        }
        self.step(now, Input::BlocksReceived { from, blocks: checked });
    }
}
