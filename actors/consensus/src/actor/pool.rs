//! A bounded pool of threads for what is slow and pure: signatures. Votes never wait behind payloads.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// What is checked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// What consensus waits for: short and few.
    Votes,
    /// Clients' signatures, and what was asked for to catch up.
    Payloads,
}

/// Threads that check signatures. Cheap to clone; the threads end with the last clone, after what waits is done.
#[derive(Debug, Clone)]
pub struct VerifyPool {
    jobs: Arc<Jobs>,
    _threads: Arc<Closer>,
}

/// The pool has as much to do as it may: try again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature pool is full")]
pub struct PoolFull;

struct Jobs {
    waiting: Mutex<Waiting>,
    /// Wakes the thread that takes votes alone.
    votes: Condvar,
    /// Wakes the others.
    any: Condvar,
    max: usize,
}

#[derive(Default)]
struct Waiting {
    votes: VecDeque<Job>,
    payloads: VecDeque<Job>,
    /// The thread that takes votes alone waits for one.
    votes_idle: bool,
    closed: bool,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").field("max", &self.max).finish_non_exhaustive()
    }
}

/// Dropped with the last handle: the threads may end.
#[derive(Debug)]
struct Closer(Arc<Jobs>);

impl Drop for Closer {
    fn drop(&mut self) {
        if let Ok(mut waiting) = self.0.waiting.lock() {
            waiting.closed = true;
        }
        self.0.votes.notify_all();
        self.0.any.notify_all();
    }
}

impl VerifyPool {
    /// A pool of so many threads, for which so many jobs of each urgency may wait; and one thread more that takes votes alone, so that
    /// none waits until a whole batch has been checked.
    pub fn start(threads: usize, jobs_max: usize) -> std::io::Result<Self> {
        let jobs =
            Arc::new(Jobs { waiting: Mutex::default(), votes: Condvar::new(), any: Condvar::new(), max: jobs_max });
        let closer = Arc::new(Closer(Arc::clone(&jobs)));
        for number in 0..threads.max(1) {
            let jobs = Arc::clone(&jobs);
            std::thread::Builder::new().name(format!("verify-{number}")).spawn(move || run(&jobs, Takes::Any))?;
        }
        let for_votes = Arc::clone(&jobs);
        std::thread::Builder::new().name("verify-votes".to_owned()).spawn(move || run(&for_votes, Takes::Votes))?;
        Ok(Self { jobs, _threads: closer })
    }

    /// Hands in a job, unless too many wait.
    pub fn run(&self, urgency: Urgency, job: impl FnOnce() + Send + 'static) -> Result<(), PoolFull> {
        let Ok(mut waiting) = self.jobs.waiting.lock() else { return Err(PoolFull) };
        let queue = match urgency {
            Urgency::Votes => &mut waiting.votes,
            Urgency::Payloads => &mut waiting.payloads,
        };
        if queue.len() >= self.jobs.max {
            return Err(PoolFull);
        }
        queue.push_back(Box::new(job));
        // Where the thread for votes is at one already, another may be free.
        let takes_it = urgency == Urgency::Votes && std::mem::take(&mut waiting.votes_idle);
        drop(waiting);
        let changed = if takes_it { &self.jobs.votes } else { &self.jobs.any };
        changed.notify_one();
        Ok(())
    }
}

/// What a thread takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Votes,
    /// Votes first.
    Any,
}

fn run(jobs: &Jobs, takes: Takes) {
    while let Some(job) = next(jobs, takes) {
        // A job that panics, in a check of the application's own, is its asker's to notice: the thread is everybody's.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            tracing::error!("a check panicked");
        }
    }
}

fn next(jobs: &Jobs, takes: Takes) -> Option<Job> {
    let mut waiting = jobs.waiting.lock().ok()?;
    loop {
        if let Some(job) = waiting.votes.pop_front() {
            return Some(job);
        }
        if takes == Takes::Any
            && let Some(job) = waiting.payloads.pop_front()
        {
            return Some(job);
        }
        if waiting.closed {
            return None;
        }
        waiting.votes_idle |= takes == Takes::Votes;
        let changed = if takes == Takes::Votes { &jobs.votes } else { &jobs.any };
        waiting = changed.wait(waiting).ok()?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Keeps a thread of the pool busy with a job of this urgency until the sender is used.
    fn block(pool: &VerifyPool, urgency: Urgency) -> std::sync::mpsc::Sender<()> {
        let (blocked, block) = channel::<()>();
        let (begun, begins) = channel();
        pool.run(urgency, move || {
            begun.send(()).unwrap();
            block.recv().unwrap();
        })
        .unwrap();
        begins.recv().unwrap();
        blocked
    }

    #[test]
    fn votes_go_first_and_each_queue_is_bounded() {
        let pool = VerifyPool::start(1, 2).unwrap();
        let (payload, vote) = (block(&pool, Urgency::Payloads), block(&pool, Urgency::Votes));
        let (done, order) = channel();
        for (name, urgency) in
            [("p1", Urgency::Payloads), ("p2", Urgency::Payloads), ("v1", Urgency::Votes), ("v2", Urgency::Votes)]
        {
            let done = done.clone();
            pool.run(urgency, move || done.send(name).unwrap()).unwrap();
        }
        assert_eq!(pool.run(Urgency::Payloads, || {}), Err(PoolFull));
        assert_eq!(pool.run(Urgency::Votes, || {}), Err(PoolFull));
        // The thread for votes stays busy: the other one takes everything.
        payload.send(()).unwrap();
        assert_eq!(order.iter().take(4).collect::<Vec<_>>(), ["v1", "v2", "p1", "p2"]);
        vote.send(()).unwrap();
    }

    #[test]
    fn a_vote_does_not_wait_for_another_while_a_thread_is_free() {
        let pool = VerifyPool::start(1, 2).unwrap();
        let vote = block(&pool, Urgency::Votes);
        let (done, order) = channel();
        pool.run(Urgency::Votes, move || done.send("vote").unwrap()).unwrap();
        assert_eq!(order.recv(), Ok("vote"));
        vote.send(()).unwrap();
    }

    #[test]
    fn a_vote_does_not_wait_for_a_batch_that_is_being_checked() {
        let pool = VerifyPool::start(1, 2).unwrap();
        let payload = block(&pool, Urgency::Payloads);
        let (done, order) = channel();
        pool.run(Urgency::Votes, move || done.send("vote").unwrap()).unwrap();
        assert_eq!(order.recv(), Ok("vote"));
        payload.send(()).unwrap();
    }
}
