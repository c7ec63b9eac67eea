//! What waits to be sent to one peer: three lanes, bounded by count and bytes. It is empty while there is no session, since
//! a message is delivered at most once, and an old vote is worth less than the status that asks for a new one.
//!
//! Only so many bytes of a lane are on their way at one time, until the peer gives credit for what it has taken: a vote
//! never waits behind megabytes that are in the socket already.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::frame::Frame;
use crate::call::CallError;
use crate::mailbox::MailboxLimits;
use crate::message::Lane;

/// Bytes of each lane that may be on their way without credit. Control goes always: it is bounded by its queue.
pub(super) const CREDIT_BYTES: [usize; 3] = [usize::MAX, 2 * 1024 * 1024, 512 * 1024];

/// Bytes that are put into one websocket message, unless a single frame is larger.
const MESSAGE_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
struct Lanes {
    open: bool,
    queues: [VecDeque<Frame>; 3],
    bytes: [usize; 3],
    /// Bytes on their way.
    sent: [usize; 3],
}

/// The outbox of one peer.
#[derive(Debug)]
pub(super) struct Outbox {
    lanes: Mutex<Lanes>,
    limits: MailboxLimits,
    filled: Notify,
}

impl Outbox {
    pub(super) fn new(limits: MailboxLimits) -> Self {
        Self { lanes: Mutex::new(Lanes::default()), limits, filled: Notify::new() }
    }

    /// A session begins, or ends. Whatever waited is gone.
    pub(super) fn set_open(&self, open: bool) {
        if let Ok(mut lanes) = self.lanes.lock() {
            *lanes = Lanes { open, ..Lanes::default() };
        }
        self.filled.notify_one();
    }

    pub(super) fn push(&self, lane: Lane, frame: Frame) -> Result<(), CallError> {
        let limits = self.limits.of(lane);
        let Ok(mut lanes) = self.lanes.lock() else { return Err(CallError::Stopped) };
        if !lanes.open {
            return Err(CallError::Disconnected { sent: false });
        }
        let Lanes { queues, bytes, .. } = &mut *lanes;
        let (Some(queue), Some(bytes)) = (queues.get_mut(lane as usize), bytes.get_mut(lane as usize)) else {
            return Err(CallError::Stopped);
        };
        if queue.len() >= limits.count_max || (*bytes + frame.payload.len() > limits.bytes_max && !queue.is_empty()) {
            return Err(CallError::Overloaded { queued: queue.len(), limit: limits.count_max });
        }
        *bytes += frame.payload.len();
        queue.push_back(frame);
        drop(lanes);
        self.filled.notify_one();
        Ok(())
    }

    /// The peer has taken so many bytes of a lane.
    pub(super) fn credit(&self, lane: u8, bytes: u64) {
        if let Ok(mut lanes) = self.lanes.lock()
            && let Some(sent) = lanes.sent.get_mut(usize::from(lane))
        {
            *sent = sent.saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        self.filled.notify_one();
    }

    /// The next websocket message: frames of the first lane that has any, up to a size. None if the session has ended.
    pub(super) async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut lanes = self.lanes.lock().ok()?;
                if !lanes.open {
                    return None;
                }
                if let Some(message) = take(&mut lanes) {
                    return Some(message);
                }
            }
            self.filled.notified().await;
        }
    }
}

fn take(lanes: &mut Lanes) -> Option<Bytes> {
    let mut out = BytesMut::new();
    let Lanes { queues, bytes, sent, .. } = lanes;
    for (((queue, bytes), sent), credit) in queues.iter_mut().zip(bytes).zip(sent).zip(CREDIT_BYTES) {
        while out.len() < MESSAGE_BYTES
            && *sent < credit
            && let Some(frame) = queue.pop_front()
        {
            *bytes -= frame.payload.len();
            *sent = sent.saturating_add(frame.payload.len());
            frame.encode(&mut out);
        }
        if !out.is_empty() {
            return Some(out.freeze());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::frame::FrameKind;
    use super::*;

    fn frame(lane: Lane, bytes: usize) -> Frame {
        Frame { lane: lane as u8, payload: vec![0; bytes].into(), ..Frame::signal(FrameKind::Tell) }
    }

    fn sent_lanes(outbox: &Outbox) -> Vec<u8> {
        let mut lanes = Vec::new();
        while let Some(Some(message)) = outbox.next().now_or_never() {
            lanes.extend(Frame::decode_all(message).unwrap().iter().map(|frame| frame.lane));
        }
        lanes
    }

    #[test]
    fn a_lane_without_credit_waits_and_control_does_not() {
        let outbox = Outbox::new(MailboxLimits::default());
        outbox.set_open(true);
        for _ in 0..4 {
            outbox.push(Lane::Bulk, frame(Lane::Bulk, 300 * 1024)).unwrap();
        }
        assert_eq!(sent_lanes(&outbox), [2, 2], "the second crosses the line, the third waits");
        outbox.push(Lane::Control, frame(Lane::Control, 10)).unwrap();
        assert_eq!(sent_lanes(&outbox), [0]);
        outbox.credit(2, 300 * 1024);
        assert_eq!(sent_lanes(&outbox), [2]);
        // A lying peer cannot make credit out of nothing, nor break the counter.
        outbox.credit(2, u64::MAX);
        outbox.credit(200, 1);
        assert_eq!(sent_lanes(&outbox), [2]);
        outbox.set_open(true);
        outbox.push(Lane::Bulk, frame(Lane::Bulk, 1)).unwrap();
        assert_eq!(sent_lanes(&outbox), [2], "a new session begins with full credit");
    }
}
