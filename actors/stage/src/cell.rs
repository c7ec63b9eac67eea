//! Supervision: an actor, its mailbox, and what happens when it ends.
//!
//! Actix's own supervisor does not start an actor again after a panic, knows no backoff and no limit. Here each incarnation
//! is an ordinary Actix actor ([`Shell`]) that drains a mailbox which outlives it; a supervising task polls it inside
//! `catch_unwind` and drops it outside of unwinding, so that a second panic cannot abort the process.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, ActorFuture, ActorState, AsyncContext, Context};
use tokio::sync::oneshot;

use crate::address::Address;
use crate::call::CallError;
use crate::mailbox::{Mailbox, MailboxLimits, Next};
use crate::message::Message;
use crate::policy::{Intensity, RestartPolicy, Supervision};

/// Messages handled before other tasks of the thread get their turn.
const MESSAGES_PER_TURN: usize = 256;

/// What an actor is, to the stage.
pub trait Role: Sized + Unpin + 'static {
    /// A new incarnation begins.
    fn started(&mut self, _ctx: &mut Ctx<Self>) {}
    /// This incarnation ends in an orderly way.
    fn stopping(&mut self) {}
}

/// A role that takes messages of this kind.
pub trait Handle<M: Message>: Role {
    /// Handles one message. `reply` may be kept and answered later; dropped, it tells the asker so.
    fn handle(&mut self, message: M, reply: Reply<M::Reply>, ctx: &mut Ctx<Self>);
}

/// The Actix context of a role's shell: timers and futures tied to this incarnation.
pub type Ctx<R> = Context<Shell<R>>;

/// Where an answer goes.
#[derive(Debug)]
pub struct Reply<T>(Option<oneshot::Sender<Result<T, CallError>>>);

impl<T> Reply<T> {
    pub(crate) fn nobody() -> Self {
        Self(None)
    }

    pub(crate) fn to(sender: oneshot::Sender<Result<T, CallError>>) -> Self {
        Self(Some(sender))
    }

    /// Answers.
    pub fn send(self, answer: T) {
        self.settle(Ok(answer));
    }

    /// Refuses.
    pub fn refuse(self, error: CallError) {
        self.settle(Err(error));
    }

    fn settle(self, result: Result<T, CallError>) {
        if let Some(sender) = self.0 {
            // The asker may have given up: then nobody wants to know.
            let _ = sender.send(result);
        }
    }
}

/// How a cell ended for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to stop.
    Stopped,
    /// The actor ended by itself and is not started again.
    Done,
    /// The actor failed, and its policy is not to start it again.
    Failed(String),
    /// It failed too often within the time.
    Intensity(String),
}

/// The Actix actor around a role.
#[derive(Debug)]
pub struct Shell<R: Role> {
    /// The role.
    pub role: R,
    mailbox: Arc<Mailbox<R>>,
    failure: Arc<std::sync::Mutex<Option<String>>>,
}

impl<R: Role> Shell<R> {
    /// Ends this incarnation as failed: the supervisor decides what comes next.
    pub fn fail(&mut self, ctx: &mut Ctx<R>, why: impl Into<String>) {
        if let Ok(mut failure) = self.failure.lock() {
            *failure = Some(why.into());
        }
        ctx.stop();
    }
}

impl<R: Role> Actor for Shell<R> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(Drain);
        self.role.started(ctx);
    }
}

/// Takes messages out of the mailbox, lane by lane, and yields now and then.
struct Drain;

impl<R: Role> ActorFuture<Shell<R>> for Drain {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        shell: &mut Shell<R>,
        ctx: &mut Context<Shell<R>>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        for _ in 0..MESSAGES_PER_TURN {
            // A handler may have ended this incarnation: what waits is for the next.
            if ctx.state() != ActorState::Running {
                return Poll::Ready(());
            }
            let envelope = match shell.mailbox.pop(task.waker()) {
                Next::Message(envelope) => envelope,
                Next::Nothing => return Poll::Pending,
                Next::End => {
                    shell.role.stopping();
                    ctx.stop();
                    return Poll::Ready(());
                }
            };
            shell.mailbox.probe.handled.fetch_add(1, Ordering::Relaxed);
            (envelope.run)(&mut shell.role, ctx);
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A supervised actor.
pub struct Cell<R: Role> {
    address: Address<R>,
}

impl<R: Role> std::fmt::Debug for Cell<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cell").field("address", &self.address).finish_non_exhaustive()
    }
}

impl<R: Role> Cell<R> {
    /// Starts an actor on the current arbiter. `factory` makes each incarnation, from durable state where there is any.
    pub fn spawn(
        name: &str,
        supervision: Supervision,
        limits: MailboxLimits,
        factory: impl FnMut(Address<R>) -> R + 'static,
    ) -> Self {
        let mailbox = Arc::new(Mailbox::new(name, limits));
        mailbox.probe.restartable.store(supervision.policy != RestartPolicy::Temporary, Ordering::Relaxed);
        let address = Address { mailbox: Arc::clone(&mailbox) };
        let supervised = supervise(address.clone(), supervision, factory);
        actix_rt::spawn(async move {
            let exit = supervised.await;
            if !matches!(exit, Exit::Stopped | Exit::Done) {
                tracing::error!(actor = mailbox.probe.name(), ?exit, "actor ended for good");
            }
            mailbox.end(exit);
        });
        Self { address }
    }

    /// Where the actor can be reached.
    pub fn address(&self) -> &Address<R> {
        &self.address
    }

    /// Stops the actor after the message that it works on; what waits is dropped, and its senders are told.
    pub fn stop(&self) {
        self.address.mailbox.close();
    }

    /// Waits until the cell has ended for good: death watch.
    pub async fn ended(&self) -> Exit {
        self.address.ended().await
    }
}

async fn supervise<R: Role>(
    address: Address<R>,
    supervision: Supervision,
    mut factory: impl FnMut(Address<R>) -> R,
) -> Exit {
    let mut restarts = Restarts::new(supervision);
    loop {
        if address.mailbox.is_closed() {
            return Exit::Stopped;
        }
        address.mailbox.begin();
        let ended = incarnation(&address, &mut factory).await;
        if address.mailbox.is_closed() {
            return Exit::Stopped;
        }
        if ended.is_ok() && address.mailbox.is_recycled() {
            address.probe().restarts.fetch_add(1, Ordering::Relaxed);
            tracing::info!(actor = address.probe().name(), "actor is started again, as asked");
            continue;
        }
        match (&ended, supervision.policy) {
            (Ok(()), RestartPolicy::Transient | RestartPolicy::Temporary) => return Exit::Done,
            (Err(why), RestartPolicy::Temporary) => return Exit::Failed(why.clone()),
            _ => {}
        }
        let why = ended.err().unwrap_or_else(|| "it ended".to_owned());
        let Some(delay) = restarts.next_delay() else { return Exit::Intensity(why) };
        address.probe().restarts.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(actor = address.probe().name(), why, ?delay, "actor is started again");
        tokio::time::sleep(delay).await;
    }
}

/// Counts restarts within the time that the intensity names.
#[derive(Debug)]
pub(crate) struct Restarts {
    supervision: Supervision,
    at: VecDeque<Instant>,
}

impl Restarts {
    pub(crate) fn new(supervision: Supervision) -> Self {
        Self { supervision, at: VecDeque::new() }
    }

    /// One more: how long it must wait; none if that is too many.
    pub(crate) fn next_delay(&mut self) -> Option<Duration> {
        let Intensity { restarts_max, within } = self.supervision.intensity;
        let now = Instant::now();
        self.at.push_back(now);
        while self.at.front().is_some_and(|at| now.duration_since(*at) > within) {
            self.at.pop_front();
        }
        let count = self.at.len();
        (count <= restarts_max).then(|| self.supervision.backoff.delay(count as u32 - 1))
    }
}

/// Runs one incarnation to its end. `Err` is a failure or a panic.
pub(crate) async fn incarnation<R: Role>(
    address: &Address<R>,
    factory: &mut impl FnMut(Address<R>) -> R,
) -> Result<(), String> {
    let failure = Arc::new(std::sync::Mutex::new(None));
    let made = catch_unwind(AssertUnwindSafe(|| factory(address.clone())));
    let role = made.map_err(|cause| note_panic(address, &*cause))?;
    let shell = Shell { role, mailbox: Arc::clone(&address.mailbox), failure: Arc::clone(&failure) };
    let mut future = Box::pin(Context::new().into_future(shell));
    let outcome = std::future::poll_fn(|task| {
        let polled = catch_unwind(AssertUnwindSafe(|| Future::poll(future.as_mut(), task)));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(_)) => Poll::Ready(Ok(())),
            Err(cause) => Poll::Ready(Err(note_panic(address, &*cause))),
        }
    })
    .await;
    // Dropping polls the actor once more, and it may panic again: outside of unwinding that is no abort.
    let dropped = catch_unwind(AssertUnwindSafe(move || drop(future)));
    if let Err(cause) = dropped {
        note_panic(address, &*cause);
    }
    let failed = failure.lock().ok().and_then(|mut failure| failure.take());
    outcome.and(failed.map_or(Ok(()), Err))
}

fn note_panic<R: Role>(address: &Address<R>, cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().cloned();
    let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    let text = format!("panic: {}", text.unwrap_or_else(|| "of unknown kind".to_owned()));
    address.probe().note_panic(&text);
    tracing::error!(actor = address.probe().name(), what = text, "actor panicked");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::LaneLimits;
    use crate::message::Lane;
    use crate::policy::Backoff;

    struct Counter {
        count: u32,
    }

    impl Role for Counter {}

    struct Add(u32);
    impl Message for Add {
        type Reply = u32;
    }

    struct Panic;
    impl Message for Panic {
        type Reply = ();
        const LANE: Lane = Lane::Control;
    }

    struct Fail;
    impl Message for Fail {
        type Reply = ();
    }

    impl Handle<Add> for Counter {
        fn handle(&mut self, Add(n): Add, reply: Reply<u32>, _: &mut Ctx<Self>) {
            self.count += n;
            reply.send(self.count);
        }
    }

    impl Handle<Panic> for Counter {
        fn handle(&mut self, _: Panic, _: Reply<()>, _: &mut Ctx<Self>) {
            panic!("as asked");
        }
    }

    impl Handle<Fail> for Counter {
        fn handle(&mut self, _: Fail, _: Reply<()>, ctx: &mut Ctx<Self>) {
            ctx.stop();
        }
    }

    const SOON: Duration = Duration::from_secs(60);

    fn counter(supervision: Supervision, limits: MailboxLimits) -> Cell<Counter> {
        Cell::spawn("counter", supervision, limits, |_| Counter { count: 0 })
    }

    fn permanent(restarts_max: usize) -> Supervision {
        Supervision {
            policy: RestartPolicy::Permanent,
            backoff: Backoff { min: Duration::from_millis(50), max: Duration::from_millis(200) },
            intensity: Intensity { restarts_max, within: Duration::from_secs(30) },
        }
    }

    #[actix::test]
    async fn an_address_survives_a_panic_and_what_waits_is_delivered_after_the_restart() {
        tokio::time::pause();
        let cell = counter(permanent(5), MailboxLimits::default());
        let address = cell.address();
        assert_eq!(address.ask(Add(2), SOON).await, Ok(2));
        let panicked = address.ask(Panic, SOON);
        let queued = address.ask(Add(5), SOON);
        let (panicked, queued) = futures_util::future::join(panicked, queued).await;
        assert_eq!(panicked, Err(CallError::Dropped));
        assert_eq!(queued, Ok(5), "fresh state, same address");
        assert_eq!(address.probe().restarts(), 1);
        assert_eq!(address.probe().last_panic().as_deref(), Some("panic: as asked"));
    }

    #[actix::test]
    async fn an_actor_is_started_again_on_demand_and_what_waits_is_for_the_next() {
        let cell = counter(Supervision::default(), MailboxLimits::default());
        assert_eq!(cell.address().ask(Add(7), SOON).await, Ok(7));
        assert!(cell.address().restart());
        assert_eq!(cell.address().ask(Add(1), SOON).await, Ok(1), "fresh state, same address");
        assert_eq!((cell.address().probe().restarts(), cell.address().has_ended()), (1, false));
        let temporary = counter(Supervision::never_restart(), MailboxLimits::default());
        assert_eq!(temporary.address().ask(Add(7), SOON).await, Ok(7));
        assert!(!temporary.address().restart());
        assert_eq!(temporary.address().ask(Add(1), SOON).await, Ok(8), "it runs on");
    }

    #[actix::test]
    async fn too_many_restarts_escalate_and_close_the_address() {
        tokio::time::pause();
        let cell = counter(permanent(3), MailboxLimits::default());
        for _ in 0..4 {
            assert_eq!(cell.address().ask(Panic, SOON).await, Err(CallError::Dropped));
        }
        assert_eq!(cell.ended().await, Exit::Intensity("panic: as asked".into()));
        assert_eq!(cell.address().ask(Add(1), SOON).await, Err(CallError::Stopped));
    }

    #[actix::test]
    async fn policies_decide_what_an_end_means() {
        tokio::time::pause();
        let transient = counter(Supervision::default(), MailboxLimits::default());
        transient.address().tell(Fail).unwrap();
        assert_eq!(transient.ended().await, Exit::Done);
        let temporary = counter(Supervision::never_restart(), MailboxLimits::default());
        temporary.address().tell(Panic).unwrap();
        assert_eq!(temporary.ended().await, Exit::Failed("panic: as asked".into()));
        let stopped = counter(permanent(3), MailboxLimits::default());
        assert_eq!(stopped.address().ask(Add(1), SOON).await, Ok(1));
        stopped.stop();
        assert_eq!(stopped.ended().await, Exit::Stopped);
    }

    #[actix::test]
    async fn a_full_lane_refuses_and_control_is_not_shut_out_by_others() {
        let limits =
            MailboxLimits { ordinary: LaneLimits { count_max: 3, bytes_max: 1_000 }, ..MailboxLimits::default() };
        let cell = counter(permanent(5), limits);
        let address = cell.address();
        for _ in 0..3 {
            address.tell(Add(1)).unwrap();
        }
        assert_eq!(address.tell(Add(1)), Err(CallError::Overloaded { queued: 3, limit: 3 }));
        assert_eq!((address.probe().shed(), address.depth().0), (1, 3));
        address.tell(Panic).unwrap();
        assert_eq!(address.ask(Add(1), Duration::ZERO).await, Err(CallError::Overloaded { queued: 3, limit: 3 }));
    }

    #[actix::test]
    async fn what_waits_behind_the_message_that_ends_an_incarnation_is_for_the_next() {
        tokio::time::pause();
        let cell = counter(permanent(5), MailboxLimits::default());
        let address = cell.address();
        let (_, ended, added) =
            futures_util::future::join3(address.ask(Add(7), SOON), address.ask(Fail, SOON), address.ask(Add(1), SOON))
                .await;
        assert_eq!(ended, Err(CallError::Dropped));
        assert_eq!(added, Ok(1), "a fresh counter took it");
    }

    #[actix::test]
    async fn an_expired_message_is_not_handled() {
        let cell = counter(permanent(5), MailboxLimits::default());
        let expired = cell.address().ask(Add(7), Duration::ZERO).await.unwrap_err();
        assert!(matches!(expired, CallError::TimedOut | CallError::Dropped), "{expired}");
        assert_eq!(cell.address().ask(Add(1), SOON).await, Ok(1));
        assert_eq!(cell.address().probe().expired(), 1);
    }
}
