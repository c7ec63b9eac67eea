//! What a peer may say to this node, and to whom it goes. The list is explicit and complete: what is not on it is refused.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use standin_foundation::NodeId;

use super::frame::type_of;
use crate::call::CallError;
use crate::message::{Message, RemoteMessage};
use crate::{Address, Exit, Handle, Role};

/// Gives the encoded answer, or why there is none.
pub(super) type Answer = Box<dyn FnOnce(Result<Bytes, CallError>) + Send>;
type Ended = Pin<Box<dyn Future<Output = Exit> + Send>>;
type Watch = Arc<dyn Fn() -> Ended + Send + Sync>;
type Route = Arc<dyn Fn(NodeId, Bytes, Option<(Duration, Answer)>) -> Result<(), CallError> + Send + Sync>;

/// The messages that this node takes from its peers.
#[derive(Clone, Default)]
pub struct Router {
    routes: BTreeMap<u64, (&'static str, Route)>,
    /// How to wait for the end of the actor that takes a message type.
    watches: BTreeMap<u64, Watch>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.routes.values().map(|(name, ..)| name)).finish()
    }
}

impl Router {
    /// Takes messages of this kind with a function that must not block. It cannot be asked, only told.
    #[must_use]
    pub fn tell<M: RemoteMessage>(
        self,
        take: impl Fn(NodeId, M) -> Result<(), CallError> + Send + Sync + 'static,
    ) -> Self {
        self.route::<M>(Arc::new(move |from, payload, _| take(from, decode::<M>(&payload)?)))
    }

    /// Hands messages of this kind to an actor, which answers.
    #[must_use]
    pub fn ask<M: RemoteMessage, R: Role + Handle<M>>(self, address: Address<R>) -> Self {
        self.ask_as::<M, M, R>(address, |_, message| message)
    }

    /// Hands messages of this kind to an actor, which answers, wrapped together with who sent them.
    #[must_use]
    pub fn ask_as<M, L, R>(self, address: Address<R>, wrap: fn(NodeId, M) -> L) -> Self
    where
        M: RemoteMessage,
        L: Message<Reply = M::Reply>,
        R: Role + Handle<L>,
    {
        let runtime = tokio::runtime::Handle::try_current().ok();
        let watched = address.clone();
        let watch: Watch = Arc::new(move || {
            let watched = watched.clone();
            Box::pin(async move { watched.ended().await })
        });
        let mut router = self;
        router.watches.insert(type_of(M::NAME), watch);
        router.route::<M>(Arc::new(move |from, payload, answer| {
            let message = wrap(from, decode::<M>(&payload)?);
            let Some((within, answer)) = answer else { return address.tell(message) };
            let address = address.clone();
            let task = async move {
                let answered = address.ask(message, within).await;
                answer(answered.and_then(|reply| encode(&reply)));
            };
            match &runtime {
                Some(runtime) => drop(runtime.spawn(task)),
                None => return Err(CallError::Stopped),
            }
            Ok(())
        }))
    }

    fn route<M: RemoteMessage>(mut self, route: Route) -> Self {
        self.routes.insert(type_of(M::NAME), (M::NAME, route));
        self
    }

    /// Waits for the end of the actor that takes messages of this type; none if there is no such actor.
    pub(super) fn ended(&self, message_type: u64) -> Option<Ended> {
        self.watches.get(&message_type).map(|watch| watch())
    }

    pub(super) fn dispatch(
        &self,
        from: NodeId,
        message_type: u64,
        payload: Bytes,
        answer: Option<(Duration, Answer)>,
    ) -> Result<(), CallError> {
        match self.routes.get(&message_type) {
            Some((_, route)) => route(from, payload, answer),
            None => Err(CallError::UnknownMessage(format!("type {message_type:016x}"))),
        }
    }
}

fn decode<M: RemoteMessage>(payload: &[u8]) -> Result<M, CallError> {
    M::from_wire(payload).map_err(|error| CallError::Refused(error.to_string()))
}

pub(super) fn encode<T: standin_foundation::wire::Wire>(value: &T) -> Result<Bytes, CallError> {
    value.to_wire().map(Bytes::from).map_err(|error| CallError::Refused(error.to_string()))
}
