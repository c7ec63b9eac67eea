//! What a peer may say to this node, and to whom it goes. The list is explicit and complete: what is not on it is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use standin_foundation::NodeId;

use super::frame::type_of;
use crate::call::CallError;
use crate::message::{Lane, RemoteMessage};
use crate::{Address, Handle, Role};
use std::time::Duration;

/// Gives the encoded answer, or why there is none.
pub(super) type Answer = Box<dyn FnOnce(Result<Bytes, CallError>) + Send>;
type Route = Arc<dyn Fn(NodeId, Bytes, Option<(Duration, Answer)>) -> Result<(), CallError> + Send + Sync>;

/// The messages that this node takes from its peers.
#[derive(Clone, Default)]
pub struct Router {
    routes: BTreeMap<u64, (&'static str, Lane, Route)>,
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
        let runtime = tokio::runtime::Handle::try_current().ok();
        self.route::<M>(Arc::new(move |_, payload, answer| {
            let message = decode::<M>(&payload)?;
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
        self.routes.insert(type_of(M::NAME), (M::NAME, M::LANE, route));
        self
    }

    pub(super) fn dispatch(
        &self,
        from: NodeId,
        message_type: u64,
        payload: Bytes,
        answer: Option<(Duration, Answer)>,
    ) -> Result<(), CallError> {
        match self.routes.get(&message_type) {
            Some((_, _, route)) => route(from, payload, answer),
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
