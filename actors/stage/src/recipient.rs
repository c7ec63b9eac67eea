//! One type for whoever takes a message, on this machine or on another.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::bridge::Remote;
use crate::call::CallError;
use crate::cell::{Handle, Role};
use crate::message::{Message, RemoteMessage};

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, CallError>> + Send>>;

trait Receive<M: Message>: Send + Sync {
    fn tell(&self, message: M) -> Result<(), CallError>;
    fn ask(&self, message: M, within: Duration) -> Answer<M::Reply>;
    fn describe(&self) -> String;
}

/// Takes messages of one kind: an actor here, or the one that takes them at a peer. Cheap to clone.
pub struct Recipient<M: Message>(Arc<dyn Receive<M>>);

impl<M: Message> Clone for Recipient<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Message> fmt::Debug for Recipient<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.0.describe())
    }
}

impl<M: Message> Recipient<M> {
    /// Tells it something. An error means that it was not taken; without one a message to a peer may still be lost.
    pub fn tell(&self, message: M) -> Result<(), CallError> {
        self.0.tell(message)
    }

    /// Asks it, and waits at most so long for the answer.
    pub async fn ask(&self, message: M, within: Duration) -> Result<M::Reply, CallError> {
        self.0.ask(message, within).await
    }
}

impl<M: Message, R: Role + Handle<M>> Receive<M> for Address<R> {
    fn tell(&self, message: M) -> Result<(), CallError> {
        Self::tell(self, message)
    }

    fn ask(&self, message: M, within: Duration) -> Answer<M::Reply> {
        let address = self.clone();
        Box::pin(async move { Self::ask(&address, message, within).await })
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }
}

impl<M: RemoteMessage + Sync> Receive<M> for Remote {
    fn tell(&self, message: M) -> Result<(), CallError> {
        Self::tell(self, &message)
    }

    fn ask(&self, message: M, within: Duration) -> Answer<M::Reply> {
        let remote = self.clone();
        Box::pin(async move { Self::ask(&remote, &message, within).await })
    }

    fn describe(&self) -> String {
        format!("{} at {}", M::NAME, self.id().short())
    }
}

impl<M: Message, R: Role + Handle<M>> From<Address<R>> for Recipient<M> {
    fn from(address: Address<R>) -> Self {
        Self(Arc::new(address))
    }
}

impl<M: RemoteMessage + Sync> From<Remote> for Recipient<M> {
    fn from(remote: Remote) -> Self {
        Self(Arc::new(remote))
    }
}
