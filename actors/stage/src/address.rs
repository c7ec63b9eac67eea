//! Addresses of local actors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::call::CallError;
use crate::cell::{Exit, Handle, Reply, Role};
use crate::mailbox::{Envelope, Mailbox};
use crate::message::Message;
use crate::probe::Probe;

/// Where a local actor can be told and asked. It stays valid when the actor is started again.
pub struct Address<R: Role> {
    pub(crate) mailbox: Arc<Mailbox<R>>,
}

impl<R: Role> Clone for Address<R> {
    fn clone(&self) -> Self {
        Self { mailbox: Arc::clone(&self.mailbox) }
    }
}

impl<R: Role> std::fmt::Debug for Address<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({})", self.mailbox.probe.name())
    }
}

impl<R: Role> Address<R> {
    /// Tells the actor something. An error means that it was not taken.
    pub fn tell<M: Message>(&self, message: M) -> Result<(), CallError>
    where
        R: Handle<M>,
    {
        self.push(message, Reply::nobody(), None)
    }

    /// Asks the actor, and waits at most so long for the answer.
    pub async fn ask<M: Message>(&self, message: M, within: Duration) -> Result<M::Reply, CallError>
    where
        R: Handle<M>,
    {
        let (sender, receiver) = oneshot::channel();
        self.push(message, Reply::to(sender), Some(Instant::now() + within))?;
        match tokio::time::timeout(within, receiver).await {
            Err(_) => Err(CallError::TimedOut),
            Ok(Err(_)) => Err(CallError::Dropped),
            Ok(Ok(answer)) => answer,
        }
    }

    /// Waits until the actor has ended for good: death watch.
    pub async fn ended(&self) -> Exit {
        let mut exit = self.mailbox.exit();
        let ended = exit.wait_for(Option::is_some).await.map(|exit| exit.clone());
        ended.ok().flatten().unwrap_or(Exit::Stopped)
    }

    /// Whether the actor has ended for good.
    pub fn has_ended(&self) -> bool {
        self.mailbox.exit().borrow().is_some()
    }

    /// Messages that wait, and how long the oldest has.
    pub fn depth(&self) -> (usize, Duration) {
        let (count, since) = self.mailbox.depth();
        (count, since.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Ends this incarnation after the message that it works on, and starts the next; what waits is for that one. False, and nothing
    /// happens, where the actor is one that is never started again ([`crate::Supervision::never_restart`]), or has ended.
    pub fn restart(&self) -> bool {
        let may = self.mailbox.probe.restartable() && !self.has_ended();
        if may {
            self.mailbox.recycle();
        }
        may
    }

    /// The actor's counters.
    pub fn probe(&self) -> &Probe {
        &self.mailbox.probe
    }

    fn push<M: Message>(&self, message: M, reply: Reply<M::Reply>, deadline: Option<Instant>) -> Result<(), CallError>
    where
        R: Handle<M>,
    {
        let bytes = message.bytes();
        let run = Box::new(move |role: &mut R, ctx: &mut crate::cell::Ctx<R>| role.handle(message, reply, ctx));
        self.mailbox.push(M::LANE, Envelope { run, bytes, deadline, since: Instant::now() })
    }
}
