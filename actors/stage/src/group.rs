//! Groups: cells that stand and fall together.
//!
//! Members are started in the order in which they were added and stopped in reverse. When one ends, the strategy says which
//! others are ended in an orderly way and started again with it; their mailboxes, and with them their addresses, stay. A
//! group that restarts too often ends as a whole: whoever watches it decides what comes next (escalation).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio::sync::{Notify, watch};

use crate::address::Address;
use crate::cell::{Exit, Restarts, Role, incarnation};
use crate::mailbox::{Mailbox, MailboxLimits};
use crate::policy::{RestartPolicy, Supervision};

/// Who is started again when a member has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// That member.
    OneForOne,
    /// All members: none makes sense without the others.
    OneForAll,
    /// That member, and those that were added after it: each builds on those before.
    RestForOne,
}

/// An incarnation runs as a task of its own: members go on while the group waits or restarts others.
type Incarnation = actix_rt::task::JoinHandle<Result<(), String>>;

/// What the group does with a member, whatever its role.
struct Member {
    name: String,
    start: Box<dyn FnMut() -> Incarnation>,
    recycle: Box<dyn Fn()>,
    restarted: Box<dyn Fn()>,
    end: Box<dyn Fn(Exit)>,
    running: Option<Incarnation>,
}

/// Members, before they are started.
pub struct Group {
    name: String,
    strategy: Strategy,
    supervision: Supervision,
    members: Vec<Member>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("name", &self.name).field("strategy", &self.strategy).finish_non_exhaustive()
    }
}

impl Group {
    /// A group without members. `supervision` holds for all of them: intensity counts the restarts of the whole group.
    pub fn new(name: &str, strategy: Strategy, supervision: Supervision) -> Self {
        Self { name: name.to_owned(), strategy, supervision, members: Vec::new() }
    }

    /// Adds a member. `factory` makes each incarnation. Messages wait until the group is started.
    pub fn add<R: Role>(
        &mut self,
        name: &str,
        limits: MailboxLimits,
        factory: impl FnMut(Address<R>) -> R + 'static,
    ) -> Address<R> {
        let address = Address { mailbox: Arc::new(Mailbox::new(name, limits)) };
        let factory = std::rc::Rc::new(std::cell::RefCell::new(factory));
        let own = address.clone();
        let start = Box::new(move || -> Incarnation {
            let (own, factory) = (own.clone(), std::rc::Rc::clone(&factory));
            // Before its first turn: it may be ended before that.
            own.mailbox.begin();
            // Incarnations of one member never overlap, and nothing is awaited while the factory is borrowed.
            actix_rt::spawn(async move { incarnation(&own, &mut |address| (factory.borrow_mut())(address)).await })
        });
        let mailbox = || Arc::clone(&address.mailbox);
        let (to_recycle, to_count, to_end) = (mailbox(), mailbox(), mailbox());
        self.members.push(Member {
            name: name.to_owned(),
            start,
            recycle: Box::new(move || to_recycle.recycle()),
            restarted: Box::new(move || {
                to_count.probe.restarts.fetch_add(1, Ordering::Relaxed);
            }),
            end: Box::new(move |exit| to_end.end(exit)),
            running: None,
        });
        address
    }

    /// Starts all members on the current arbiter.
    pub fn start(self) -> GroupHandle {
        let exit = watch::Sender::new(None);
        let stop = Arc::new(Stop::default());
        let handle = GroupHandle { exit: exit.subscribe(), stop: Arc::clone(&stop) };
        actix_rt::spawn(async move {
            let Self { name, strategy, supervision, mut members } = self;
            let ended = run(&name, strategy, supervision, &mut members, &stop).await;
            if !matches!(ended, Exit::Stopped | Exit::Done) {
                tracing::error!(group = name, exit = ?ended, "group ended for good");
            }
            end_from(&mut members, 0).await;
            for member in members.iter().rev() {
                (member.end)(ended.clone());
            }
            exit.send_replace(Some(ended));
        });
        handle
    }
}

#[derive(Debug, Default)]
struct Stop {
    wanted: AtomicBool,
    changed: Notify,
}

/// A running group.
#[derive(Debug)]
pub struct GroupHandle {
    exit: watch::Receiver<Option<Exit>>,
    stop: Arc<Stop>,
}

impl GroupHandle {
    /// Stops all members, the last first.
    pub fn stop(&self) {
        self.stop.wanted.store(true, Ordering::Release);
        self.stop.changed.notify_one();
    }

    /// Waits until the group has ended for good.
    pub async fn ended(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.map(|exit| exit.clone());
        ended.ok().flatten().unwrap_or(Exit::Stopped)
    }
}

async fn run(name: &str, strategy: Strategy, supervision: Supervision, members: &mut [Member], stop: &Stop) -> Exit {
    let mut restarts = Restarts::new(supervision);
    start_missing(members);
    loop {
        let stopped = stop.changed.notified();
        if stop.wanted.load(Ordering::Acquire) {
            return Exit::Stopped;
        }
        let (index, ended) = tokio::select! {
            biased;
            () = stopped => return Exit::Stopped,
            ended = next_ended(members) => ended,
        };
        match (&ended, supervision.policy) {
            (Ok(()), RestartPolicy::Transient | RestartPolicy::Temporary) if all_done(members) => return Exit::Done,
            (Ok(()), RestartPolicy::Transient | RestartPolicy::Temporary) => {
                if let Some(member) = members.get(index) {
                    (member.end)(Exit::Done);
                }
                continue;
            }
            (Err(why), RestartPolicy::Temporary) => return Exit::Failed(why.clone()),
            _ => {}
        }
        let why = ended.err().unwrap_or_else(|| "it ended".to_owned());
        let Some(delay) = restarts.next_delay() else { return Exit::Intensity(why) };
        let member = members.get(index).map(|member| member.name.clone()).unwrap_or_default();
        tracing::warn!(group = name, member, why, ?delay, ?strategy, "group restarts");
        match strategy {
            Strategy::OneForOne => {}
            Strategy::OneForAll => end_from(members, 0).await,
            Strategy::RestForOne => end_from(members, index + 1).await,
        }
        let stopped = tokio::time::timeout(delay, stop.changed.notified()).await;
        if stopped.is_ok() {
            return Exit::Stopped;
        }
        let again = match strategy {
            Strategy::OneForOne => index..index + 1,
            Strategy::OneForAll => 0..members.len(),
            Strategy::RestForOne => index..members.len(),
        };
        for member in members.get_mut(again).unwrap_or_default() {
            (member.restarted)();
            member.running = Some((member.start)());
        }
    }
}

fn start_missing(members: &mut [Member]) {
    for member in members {
        member.running = Some((member.start)());
    }
}

fn all_done(members: &[Member]) -> bool {
    members.iter().all(|member| member.running.is_none())
}

/// Polls all members until one ends.
async fn next_ended(members: &mut [Member]) -> (usize, Result<(), String>) {
    std::future::poll_fn(|task| {
        for (index, member) in members.iter_mut().enumerate() {
            if let Some(running) = &mut member.running
                && let Poll::Ready(ended) = Pin::new(running).poll(task)
            {
                member.running = None;
                // A task ends without a result only with its runtime.
                return Poll::Ready((index, ended.unwrap_or_else(|error| Err(error.to_string()))));
            }
        }
        Poll::Pending
    })
    .await
}

/// Ends all members from `first` on in an orderly way, the last first.
async fn end_from(members: &mut [Member], first: usize) {
    for member in members.iter_mut().skip(first).rev() {
        if let Some(running) = member.running.take() {
            (member.recycle)();
            // It was to end anyway: how it did has been traced.
            let _ = running.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::call::CallError;
    use crate::cell::{Ctx, Handle, Reply};
    use crate::message::Message;
    use crate::policy::{Backoff, Intensity};

    type Diary = Rc<RefCell<Vec<String>>>;

    struct Member {
        name: &'static str,
        diary: Diary,
    }

    impl Role for Member {
        fn stopping(&mut self) {
            self.diary.borrow_mut().push(format!("{} stops", self.name));
        }
    }

    struct Name;
    impl Message for Name {
        type Reply = &'static str;
    }

    struct Panic;
    impl Message for Panic {
        type Reply = ();
    }

    impl Handle<Name> for Member {
        fn handle(&mut self, _: Name, reply: Reply<&'static str>, _: &mut Ctx<Self>) {
            reply.send(self.name);
        }
    }

    impl Handle<Panic> for Member {
        fn handle(&mut self, _: Panic, _: Reply<()>, _: &mut Ctx<Self>) {
            panic!("as asked");
        }
    }

    const SOON: Duration = Duration::from_secs(60);

    fn supervision(restarts_max: usize) -> Supervision {
        Supervision {
            policy: RestartPolicy::Transient,
            backoff: Backoff { min: Duration::from_millis(10), max: Duration::from_millis(40) },
            intensity: Intensity { restarts_max, within: Duration::from_secs(30) },
        }
    }

    fn group(strategy: Strategy, restarts_max: usize) -> (GroupHandle, [Address<Member>; 3], Diary) {
        let diary = Diary::default();
        let mut group = Group::new("test", strategy, supervision(restarts_max));
        let addresses = ["a", "b", "c"].map(|name| {
            let diary = Rc::clone(&diary);
            group.add(name, MailboxLimits::default(), move |_| {
                diary.borrow_mut().push(format!("{name} starts"));
                Member { name, diary: Rc::clone(&diary) }
            })
        });
        (group.start(), addresses, diary)
    }

    /// What the group does when the second of three panics.
    async fn after_a_panic_of_b(strategy: Strategy) -> Vec<String> {
        let (group, [a, b, c], diary) = group(strategy, 3);
        for address in [&a, &b, &c] {
            address.ask(Name, SOON).await.unwrap();
        }
        diary.borrow_mut().clear();
        assert_eq!(b.ask(Panic, SOON).await, Err(CallError::Dropped));
        for (address, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
            assert_eq!(address.ask(Name, SOON).await, Ok(name), "the address stays");
        }
        let events = diary.take();
        group.stop();
        assert_eq!(group.ended().await, Exit::Stopped);
        assert_eq!(diary.take(), ["c stops", "b stops", "a stops"]);
        assert_eq!((a.ended().await, a.ask(Name, SOON).await), (Exit::Stopped, Err(CallError::Stopped)));
        events
    }

    #[actix::test]
    async fn each_strategy_restarts_its_own() {
        tokio::time::pause();
        assert_eq!(after_a_panic_of_b(Strategy::OneForOne).await, ["b starts"]);
        assert_eq!(after_a_panic_of_b(Strategy::RestForOne).await, ["c stops", "b starts", "c starts"]);
        let all = ["c stops", "a stops", "a starts", "b starts", "c starts"];
        assert_eq!(after_a_panic_of_b(Strategy::OneForAll).await, all);
    }

    #[actix::test]
    async fn a_group_that_is_stopped_before_its_first_turn_ends() {
        let (group, [a, ..], _) = group(Strategy::OneForAll, 3);
        group.stop();
        assert_eq!(group.ended().await, Exit::Stopped);
        assert_eq!(a.ask(Name, SOON).await, Err(CallError::Stopped));
    }

    #[actix::test]
    async fn siblings_work_while_a_member_waits_for_its_restart() {
        tokio::time::pause();
        let (group, [a, b, _], _) = group(Strategy::OneForOne, 3);
        a.ask(Name, SOON).await.unwrap();
        assert_eq!(a.ask(Panic, SOON).await, Err(CallError::Dropped));
        // The backoff is at least 5 ms of this paused time.
        assert_eq!(b.ask(Name, Duration::from_millis(1)).await, Ok("b"));
        group.stop();
        group.ended().await;
    }

    #[actix::test]
    async fn a_group_that_restarts_too_often_ends_and_closes_all_addresses() {
        tokio::time::pause();
        let (group, [a, b, c], _) = group(Strategy::OneForOne, 1);
        for address in [&a, &c] {
            assert_eq!(address.ask(Panic, SOON).await, Err(CallError::Dropped));
        }
        assert_eq!(group.ended().await, Exit::Intensity("panic: as asked".into()));
        assert_eq!(b.ended().await, Exit::Intensity("panic: as asked".into()));
        assert_eq!(b.ask(Name, SOON).await, Err(CallError::Stopped));
    }
}
