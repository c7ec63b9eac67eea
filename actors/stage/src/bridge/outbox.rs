//! What waits to be sent to one peer: three lanes, bounded by count and bytes. It is empty while there is no session, since
//! a message is delivered at most once, and an old vote is worth less than the status that asks for a new one.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::frame::Frame;
use crate::call::CallError;
use crate::mailbox::MailboxLimits;
use crate::message::Lane;

/// Bytes that are put into one websocket message, unless a single frame is larger.
const MESSAGE_BYTES: usize = 256 * 1024;

#[derive(Debug, Default)]
struct Lanes {
    open: bool,
    queues: [VecDeque<Frame>; 3],
    bytes: [usize; 3],
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
    for (queue, bytes) in lanes.queues.iter_mut().zip(lanes.bytes.iter_mut()) {
        while out.len() < MESSAGE_BYTES
            && let Some(frame) = queue.pop_front()
        {
            *bytes -= frame.payload.len();
            frame.encode(&mut out);
        }
        if !out.is_empty() {
            return Some(out.freeze());
        }
    }
    None
}
