//! Names of actors: who is there, how to reach it, and what it shows of itself. Passed around, never global.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::address::Address;
use crate::call::CallError;
use crate::cell::Role;

/// An actor as it shows itself at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorView {
    /// Its name.
    pub name: String,
    /// Messages that wait.
    pub depth: usize,
    /// How long the oldest has waited.
    pub oldest: Duration,
    /// Messages handled.
    pub handled: u64,
    /// Messages refused because a lane was full.
    pub shed: u64,
    /// Messages whose deadline passed while they waited.
    pub expired: u64,
    /// Restarts.
    pub restarts: u64,
    /// What the last panic said.
    pub last_panic: Option<String>,
    /// It has ended for good.
    pub ended: bool,
    /// It may be started again while it runs.
    pub restartable: bool,
}

struct Entry {
    address: Box<dyn Any + Send + Sync>,
    restart: Box<dyn Fn() -> bool + Send + Sync>,
    view: Box<dyn Fn() -> ActorView + Send + Sync>,
}

/// Actors by name. Cheap to clone; all clones see the same actors.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<BTreeMap<String, Entry>>>);

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.list().iter().map(|view| &view.name)).finish()
    }
}

/// An actor with this name is there already, and has not ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an actor named `{0}` is registered already")]
pub struct NameTaken(pub String);

impl Registry {
    /// Adds an actor under its name. One that has ended gives its name away.
    pub fn register<R: Role>(&self, address: &Address<R>) -> Result<(), NameTaken> {
        let name = address.probe().name().to_owned();
        let Ok(mut entries) = self.0.lock() else { return Err(NameTaken(name)) };
        if entries.get(&name).is_some_and(|entry| !(entry.view)().ended) {
            return Err(NameTaken(name));
        }
        let (own, seen, again) = (address.clone(), address.clone(), address.clone());
        let (restart, view) = (Box::new(move || again.restart()), Box::new(move || view_of(&seen)));
        entries.insert(name, Entry { address: Box::new(own), restart, view });
        Ok(())
    }

    /// The actor with this name and role.
    pub fn find<R: Role>(&self, name: &str) -> Result<Address<R>, CallError> {
        let none = || CallError::NoSuchActor(name.to_owned());
        let entries = self.0.lock().map_err(|_| none())?;
        entries.get(name).and_then(|entry| entry.address.downcast_ref::<Address<R>>()).cloned().ok_or_else(none)
    }

    /// Starts the actor with this name again: see [`Address::restart`].
    pub fn restart(&self, name: &str) -> Result<bool, CallError> {
        let none = || CallError::NoSuchActor(name.to_owned());
        let entries = self.0.lock().map_err(|_| none())?;
        entries.get(name).map(|entry| (entry.restart)()).ok_or_else(none)
    }

    /// All actors, by name.
    pub fn list(&self) -> Vec<ActorView> {
        self.0.lock().map(|entries| entries.values().map(|entry| (entry.view)()).collect()).unwrap_or_default()
    }
}

fn view_of<R: Role>(address: &Address<R>) -> ActorView {
    let probe = address.probe();
    let (depth, oldest) = address.depth();
    ActorView {
        name: probe.name().to_owned(),
        depth,
        oldest,
        handled: probe.handled(),
        shed: probe.shed(),
        expired: probe.expired(),
        restarts: probe.restarts(),
        last_panic: probe.last_panic(),
        ended: address.has_ended(),
        restartable: probe.restartable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::{Cell, Ctx, Handle, Reply};
    use crate::mailbox::MailboxLimits;
    use crate::message::Message;
    use crate::policy::Supervision;
    use crate::recipient::Recipient;

    struct Doubler;
    impl Role for Doubler {}

    struct Other;
    impl Role for Other {}

    struct Double(u32);
    impl Message for Double {
        type Reply = u32;
    }

    impl Handle<Double> for Doubler {
        fn handle(&mut self, Double(n): Double, reply: Reply<u32>, _: &mut Ctx<Self>) {
            reply.send(n * 2);
        }
    }

    fn cell() -> Cell<Doubler> {
        Cell::spawn("doubler", Supervision::default(), MailboxLimits::default(), |_| Doubler)
    }

    #[actix::test]
    async fn a_name_leads_to_the_actor_until_it_ends() {
        let registry = Registry::default();
        let first = cell();
        registry.register(first.address()).unwrap();
        assert_eq!(registry.register(cell().address()), Err(NameTaken("doubler".into())));
        let found: Recipient<Double> = registry.find::<Doubler>("doubler").unwrap().into();
        assert_eq!(found.ask(Double(21), Duration::from_secs(60)).await, Ok(42));
        assert!(matches!(registry.find::<Other>("doubler"), Err(CallError::NoSuchActor(_))), "of another role");
        assert!(matches!(registry.find::<Doubler>("nobody"), Err(CallError::NoSuchActor(_))));
        assert_eq!((registry.list()[0].handled, registry.list()[0].ended), (1, false));
        assert_eq!((registry.restart("doubler"), registry.list()[0].restartable), (Ok(true), true));
        assert!(matches!(registry.restart("nobody"), Err(CallError::NoSuchActor(_))));
        first.stop();
        first.ended().await;
        assert!(registry.list()[0].ended);
        registry.register(cell().address()).unwrap();
        assert!(!registry.list()[0].ended);
    }
}
