//! A bounded pool of threads for what is slow and pure: signatures.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// Threads that check signatures. Cheap to clone; the threads end with the last clone.
#[derive(Debug, Clone)]
pub struct VerifyPool {
    jobs: SyncSender<Job>,
}

/// The pool has as much to do as it may: try again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature pool is full")]
pub struct PoolFull;

impl VerifyPool {
    /// A pool of so many threads, for which so many jobs may wait.
    pub fn start(threads: usize, jobs_max: usize) -> std::io::Result<Self> {
        let (jobs, receiver) = sync_channel::<Job>(jobs_max);
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..threads.max(1) {
            let receiver = Arc::clone(&receiver);
            std::thread::Builder::new().name(format!("verify-{number}")).spawn(move || run(&receiver))?;
        }
        Ok(Self { jobs })
    }

    /// Hands in a job, unless too many wait.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<(), PoolFull> {
        match self.jobs.try_send(Box::new(job)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(PoolFull),
        }
    }
}

fn run(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = match jobs.lock() {
            Ok(jobs) => jobs.recv(),
            Err(_) => return,
        };
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}
