//! What has left a node can be found on its disk: a crash right now would not make it forget.

use standin_consensus::{Body, Record, Signed};

use standin_foundation::{Height, View};

use super::Violation;
use crate::disk::Disk;

pub(super) fn check(disk: &Disk, message: &Signed) -> Result<(), Violation> {
    let found = match &message.body {
        Body::PrePrepare { view: v, proposal: p } => {
            disk.has_durable(|r| matches!(r, Record::Accepted { view, proposal } if view == v && proposal == p))
        }
        Body::Prepare { view: v, height, digest } => disk.has_durable(|r| {
            matches!(r, Record::Accepted { view, proposal }
                if view == v && proposal.height == *height && proposal.digest() == *digest)
        }),
        Body::Commit { view, height, digest } => disk.has_durable(|r| {
            matches!(r, Record::Prepared(certificate)
                if certificate.view == *view
                    && certificate.proposal.height == *height
                    && certificate.proposal.digest() == *digest)
        }),
        Body::Checkpoint(voted) => disk.has_durable(|r| matches!(r, Record::Checkpoint(result) if result == voted)),
        Body::ViewChange(said) => disk.has_durable(|r| matches!(r, Record::ViewChange(body) if body == said)),
        Body::NewView(_) => disk.has_durable(|r| matches!(r, Record::NewView(logged) if logged.body == message.body)),
    };
    // A cut log keeps what is live; what is behind a stable checkpoint needs no record any more.
    let settled = |height: &Height| {
        let stable = |record: &Record| matches!(record, Record::Stable(stable) if stable.result.height >= *height);
        disk.base_height() >= *height || disk.has_durable(stable)
    };
    // What was said in an epoch binds nobody in the next.
    let is_void = disk.has_durable(|record| matches!(record, Record::Epoch(start) if start.epoch > message.epoch));
    // Whoever has left a view, or entered a later one, never speaks about how it began again.
    let left = |view: View| {
        disk.has_durable(|record| match record {
            Record::NewView(message) => message.body.view() >= view,
            Record::ViewChange(body) => body.view > view,
            _ => false,
        })
    };
    // A frozen holder's last words may come late: the log has gone on to another view, and keeps what counts there.
    let gone_on = |view: View| {
        disk.has_durable(|record| match record {
            Record::NewView(message) => message.body.view() > view,
            Record::ViewChange(body) => body.view > view,
            _ => false,
        })
    };
    let behind = match &message.body {
        Body::PrePrepare { view, proposal } => settled(&proposal.height) || gone_on(*view),
        Body::Prepare { view, height, .. } | Body::Commit { view, height, .. } => settled(height) || gone_on(*view),
        Body::Checkpoint(result) => settled(&result.height),
        Body::ViewChange(said) => left(said.view),
        Body::NewView(said) => left(said.view),
    };
    if found || behind || is_void {
        return Ok(());
    }
    let what = format!("seat {} sent {:?} before it was durable", message.seat(), message.target());
    Err(Violation { invariant: "durability", what })
}

/// Whoever keeps a seat's word for a proposal keeps what the proposal names.
pub(super) fn check_payloads(disk: &Disk, message: &Signed) -> Result<(), Violation> {
    let height = match &message.body {
        Body::PrePrepare { proposal, .. } => proposal.height,
        Body::Prepare { height, .. } => *height,
        _ => return Ok(()),
    };
    let named = disk.named_at(height, message.target().digest);
    let missing = named.into_iter().find(|digest| !disk.has_payload(digest));
    match missing {
        Some(digest) if disk.block(height).is_none() && disk.base_height() < height => {
            let what = format!("seat {} voted at {height} for {} without its payload", message.seat(), digest.short());
            Err(Violation { invariant: "durability", what })
        }
        _ => Ok(()),
    }
}
