//! Queues in front of an actor: three lanes, each bounded by count and by bytes. They outlive the actor.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Instant;

use tokio::sync::watch;

use crate::call::CallError;
use crate::cell::{Ctx, Exit, Role};
use crate::message::Lane;
use crate::probe::Probe;

/// Bounds of one lane.
#[derive(Debug, Clone, Copy)]
pub struct LaneLimits {
    /// Messages that may wait.
    pub count_max: usize,
    /// Bytes that may wait. One message alone is always taken, however large.
    pub bytes_max: usize,
}

/// Bounds of all lanes.
#[derive(Debug, Clone, Copy)]
pub struct MailboxLimits {
    /// Of the control lane.
    pub control: LaneLimits,
    /// Of the ordinary lane.
    pub ordinary: LaneLimits,
    /// Of the bulk lane.
    pub bulk: LaneLimits,
}

impl Default for MailboxLimits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            control: LaneLimits { count_max: 16_384, bytes_max: 32 * MIB },
            ordinary: LaneLimits { count_max: 4_096, bytes_max: 64 * MIB },
            bulk: LaneLimits { count_max: 256, bytes_max: 64 * MIB },
        }
    }
}

impl MailboxLimits {
    pub(crate) fn of(&self, lane: Lane) -> LaneLimits {
        match lane {
            Lane::Control => self.control,
            Lane::Ordinary => self.ordinary,
            Lane::Bulk => self.bulk,
        }
    }
}

type Run<R> = Box<dyn FnOnce(&mut R, &mut Ctx<R>) + Send>;

/// A message with everything needed to handle it.
pub(crate) struct Envelope<R: Role> {
    pub(crate) run: Run<R>,
    pub(crate) bytes: usize,
    pub(crate) deadline: Option<Instant>,
    pub(crate) since: Instant,
}

struct Queue<R: Role> {
    lanes: [VecDeque<Envelope<R>>; 3],
    bytes: [usize; 3],
    waker: Option<Waker>,
    /// Takes nothing any more.
    closed: bool,
    /// The incarnation that runs is to end in an orderly way; the mailbox stays.
    recycled: bool,
}

/// What an incarnation does next.
pub(crate) enum Next<R: Role> {
    /// Handle this.
    Message(Envelope<R>),
    /// Wait: the waker is remembered.
    Nothing,
    /// End in an orderly way.
    End,
}

/// The queues of one cell.
pub(crate) struct Mailbox<R: Role> {
    queue: Mutex<Queue<R>>,
    limits: MailboxLimits,
    exit: watch::Sender<Option<Exit>>,
    pub(crate) probe: Probe,
}

impl<R: Role> std::fmt::Debug for Mailbox<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("probe", &self.probe).finish_non_exhaustive()
    }
}

impl<R: Role> Mailbox<R> {
    pub(crate) fn new(name: &str, limits: MailboxLimits) -> Self {
        let lanes = [VecDeque::new(), VecDeque::new(), VecDeque::new()];
        Self {
            queue: Mutex::new(Queue { lanes, bytes: [0; 3], waker: None, closed: false, recycled: false }),
            limits,
            exit: watch::Sender::new(None),
            probe: Probe::new(name),
        }
    }

    pub(crate) fn push(&self, lane: Lane, envelope: Envelope<R>) -> Result<(), CallError> {
        let limits = self.limits.of(lane);
        let Ok(mut guard) = self.queue.lock() else { return Err(CallError::Stopped) };
        let Queue { lanes, bytes, waker, closed, .. } = &mut *guard;
        if *closed {
            return Err(CallError::Stopped);
        }
        let (Some(queue), Some(bytes)) = (lanes.get_mut(lane as usize), bytes.get_mut(lane as usize)) else {
            return Err(CallError::Stopped);
        };
        let over = queue.len() >= limits.count_max || (*bytes + envelope.bytes > limits.bytes_max && !queue.is_empty());
        if over {
            self.probe.shed.fetch_add(1, Ordering::Relaxed);
            return Err(CallError::Overloaded { queued: queue.len(), limit: limits.count_max });
        }
        *bytes += envelope.bytes;
        queue.push_back(envelope);
        let waker = waker.take();
        drop(guard);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// The next message, control first; remembers whom to wake if there is none. Expired ones are dropped on the way.
    pub(crate) fn pop(&self, waker: &Waker) -> Next<R> {
        let Ok(mut guard) = self.queue.lock() else { return Next::End };
        let Queue { lanes, bytes, waker: waiting, closed, recycled } = &mut *guard;
        if *closed || *recycled {
            return Next::End;
        }
        for (queue, bytes) in lanes.iter_mut().zip(bytes.iter_mut()) {
            while let Some(envelope) = queue.pop_front() {
                *bytes -= envelope.bytes;
                if envelope.deadline.is_none_or(|deadline| deadline > Instant::now()) {
                    return Next::Message(envelope);
                }
                self.probe.expired.fetch_add(1, Ordering::Relaxed);
            }
        }
        *waiting = Some(waker.clone());
        Next::Nothing
    }

    /// Messages that wait, and since when the oldest does.
    pub(crate) fn depth(&self) -> (usize, Option<Instant>) {
        let Ok(guard) = self.queue.lock() else { return (0, None) };
        let count = guard.lanes.iter().map(VecDeque::len).sum();
        (count, guard.lanes.iter().filter_map(|queue| queue.front()).map(|envelope| envelope.since).min())
    }

    /// Takes nothing any more; what waits is dropped, and its senders are told.
    pub(crate) fn close(&self) {
        let drained = self.queue.lock().map(|mut guard| {
            guard.closed = true;
            guard.bytes = [0; 3];
            (std::mem::take(&mut guard.lanes), guard.waker.take())
        });
        if let Ok((_, Some(waker))) = drained {
            waker.wake();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue.lock().map_or(true, |guard| guard.closed)
    }

    /// Ends the incarnation that runs after the message that it works on.
    pub(crate) fn recycle(&self) {
        let waker = self.queue.lock().map(|mut guard| {
            guard.recycled = true;
            guard.waker.take()
        });
        if let Ok(Some(waker)) = waker {
            waker.wake();
        }
    }

    /// Whether the incarnation that runs, or ran last, was told to end.
    pub(crate) fn is_recycled(&self) -> bool {
        self.queue.lock().is_ok_and(|guard| guard.recycled)
    }

    /// A new incarnation begins.
    pub(crate) fn begin(&self) {
        if let Ok(mut guard) = self.queue.lock() {
            guard.recycled = false;
        }
    }

    /// The cell has ended for good.
    pub(crate) fn end(&self, exit: Exit) {
        self.close();
        self.exit.send_replace(Some(exit));
    }

    pub(crate) fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.subscribe()
    }
}
