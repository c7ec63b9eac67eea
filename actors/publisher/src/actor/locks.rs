//! Where locks stand that are not on the chain.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use standin_stage::{Ctx, Handle, Lane, Message, Reply};

use super::Publisher;
use crate::ids::Topic;
use crate::machine::outside::{Ask, Said};
use crate::machine::server::Input;

/// A lock service outside the chain. Topics whose locks stand on the chain, as they do where operators have not said otherwise, need none.
pub trait LockStore: Send + Sync + 'static {
    /// Asks. It must not block; what comes of it the actor is told as [`OutsideSaid`], and what was not answered is asked again.
    fn ask(&self, topic: Topic, ask: Ask);
}

/// For nodes that are configured with none: it gives nothing.
#[derive(Debug, Default)]
pub struct NoLockStore(AtomicBool);

impl LockStore for NoLockStore {
    fn ask(&self, topic: Topic, _: Ask) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!(%topic, "the lock of this topic stands outside the chain, and this node knows no lock service: it does not publish it (`publisher.lock_store`)");
        }
    }
}

/// The lock service has said something of a topic's lock.
#[derive(Debug, Clone, Copy)]
pub struct OutsideSaid {
    /// The topic.
    pub topic: Topic,
    /// What.
    pub said: Said,
}

impl Message for OutsideSaid {
    type Reply = ();
    const LANE: Lane = Lane::Control;
}

impl Handle<OutsideSaid> for Publisher {
    fn handle(&mut self, OutsideSaid { topic, said }: OutsideSaid, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.step(Input::Outside { topic, said }, ctx);
        self.show(topic);
    }
}

/// These locks, and no others, are held in the lock service.
#[derive(Debug, Clone, Default)]
pub struct OutsideListed {
    /// Which.
    pub held: BTreeSet<Topic>,
    /// How far the service had come then.
    pub at: u64,
}

impl Message for OutsideListed {
    type Reply = ();
    const LANE: Lane = Lane::Ordinary;
}

impl Handle<OutsideListed> for Publisher {
    fn handle(&mut self, listed: OutsideListed, _: Reply<()>, ctx: &mut Ctx<Self>) {
        self.listed = Some(listed);
        self.look_at_listed(ctx);
    }
}

impl Publisher {
    /// Locks that are not in the newest list are free.
    pub(super) fn look_at_listed(&mut self, ctx: &mut Ctx<Self>) {
        let (Some((server, _)), Some(OutsideListed { held, at })) = (&self.server, self.listed.clone()) else { return };
        let is_free = |topic: &Topic| server.view().is_outside(*topic) && !held.contains(topic);
        let free: Vec<_> = server.view().iter().map(|(topic, _)| topic).filter(is_free).collect();
        for topic in free {
            self.step(Input::Outside { topic, said: Said::Freed { at } }, ctx);
        }
    }
}
