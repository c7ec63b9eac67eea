//! The thread that owns the durable log: it takes whatever has been handed in, writes it, and syncs once for all of it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use standin_foundation::wire::{Wire, WireError};
use standin_ledger::log::{Log, LogError};
use standin_stage::Distribution;

use crate::messages::NodeRecord;

/// Commands that may wait: more would mean that the disk does not keep up, and whoever writes waits for it.
const COMMANDS_MAX: usize = 4_096;

/// What nothing waits for is synced after this time, if nothing has come that something waits for.
const SYNC_WITHIN: Duration = Duration::from_millis(20);

/// What the log is told.
#[derive(Debug)]
pub(super) enum LogCommand {
    /// Append a record.
    Append {
        /// Its number; it must be the next.
        sequence: u64,
        /// It, encoded.
        record: Vec<u8>,
        /// What it carries.
        payload: Bytes,
        /// Nothing waits until it is durable.
        may_wait: bool,
    },
    /// What was appended is waited for after all.
    Sync,
    /// Begin a new segment.
    Roll,
    /// What was appended before this command is durable when segments below this number are dropped.
    CutBefore(u64),
}

/// A handle to the log's thread. Dropping it ends the thread after everything has been written.
#[derive(Debug)]
pub(super) struct LogWriter {
    commands: Option<SyncSender<LogCommand>>,
    syncs: Distribution,
    thread: Option<JoinHandle<()>>,
}

/// What the log says: durable up to here and so large, or broken for good.
pub(super) type LogReport = Result<(u64, u64), LogError>;

impl LogWriter {
    pub(super) fn start(log: Log, report: impl Fn(LogReport) + Send + 'static) -> std::io::Result<Self> {
        let (commands, receiver) = sync_channel(COMMANDS_MAX);
        let syncs = Distribution::default();
        let counted = syncs.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        let thread = thread.spawn(move || run(log, &receiver, &counted, &report))?;
        Ok(Self { commands: Some(commands), syncs, thread: Some(thread) })
    }

    /// How long syncs take.
    pub(super) fn syncs(&self) -> &Distribution {
        &self.syncs
    }

    /// Hands in a command; waits if the disk is far behind.
    pub(super) fn send(&self, command: LogCommand) {
        if let Some(commands) = &self.commands {
            // The thread ends early only after it has reported why.
            let _ = commands.send(command);
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been printed already.
            let _ = thread.join();
        }
    }
}

fn run(mut log: Log, commands: &Receiver<LogCommand>, syncs: &Distribution, report: &impl Fn(LogReport)) {
    // When what was written is to be synced at the latest; none while all of it is.
    let mut due: Option<Instant> = None;
    loop {
        let next = match due {
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => commands.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        let has_ended = matches!(next, Err(RecvTimeoutError::Disconnected));
        if has_ended && due.is_none() {
            return;
        }
        let done = match next.map(|first| write_group(&mut log, first, commands)) {
            Ok(Ok(May::Wait)) if due.is_none_or(|due| due > Instant::now()) => {
                due.get_or_insert_with(|| Instant::now() + SYNC_WITHIN);
                // It outlives the process at once.
                match log.write_out() {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                }
            }
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) | Err(_) => {
                let begun = Instant::now();
                let synced = log.sync().map(|durable| (durable, log.bytes()));
                syncs.record(begun.elapsed());
                synced
            }
        };
        due = None;
        let has_failed = done.is_err();
        report(done);
        if has_ended || has_failed {
            return;
        }
    }
}

/// Whether what was written may wait until it is synced.
enum May {
    Wait,
    NotWait,
}

fn write_group(log: &mut Log, first: LogCommand, commands: &Receiver<LogCommand>) -> Result<May, LogError> {
    let mut next = Some(first);
    let mut taken = 0;
    let mut may = May::Wait;
    while let Some(command) = next {
        match command {
            LogCommand::Append { sequence, record, payload, may_wait } => {
                let appended = log.append(&[&record, &payload])?;
                debug_assert_eq!(appended, sequence);
                if !may_wait {
                    may = May::NotWait;
                }
            }
            LogCommand::Sync => may = May::NotWait,
            LogCommand::Roll => log.roll()?,
            LogCommand::CutBefore(keep_from) => {
                log.sync()?;
                log.cut_before(keep_from)?;
                may = May::NotWait;
            }
        }
        taken += 1;
        next = if taken < COMMANDS_MAX { commands.try_recv().ok() } else { None };
    }
    Ok(may)
}

/// A record as it stands in the log: its length, itself, and the payload that it carries behind it.
pub(super) fn encode(record: &NodeRecord) -> Result<Vec<u8>, WireError> {
    let bytes = record.to_wire()?;
    let mut out = Vec::with_capacity(bytes.len() + 4);
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(&bytes);
    Ok(out)
}

/// Reads what [`encode`] and a payload made.
pub(super) fn decode(bytes: &Bytes) -> Option<(NodeRecord, Bytes)> {
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let record = NodeRecord::from_wire(bytes.get(4..4 + length)?).ok()?;
    Some((record, bytes.slice(4 + length..)))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use standin_ledger::log::LogOptions;

    use super::*;

    /// Longer than anything here takes.
    const WITHIN: Duration = Duration::from_secs(30);

    fn writer(folder: &std::path::Path) -> (LogWriter, Receiver<LogReport>, u64) {
        let options = LogOptions { segment_bytes: 1 << 20, chain: standin_foundation::Digest::ZERO };
        let (log, recovered) = Log::open(folder, options).unwrap();
        let (reports, reported) = channel();
        let writer = LogWriter::start(log, move |report| drop(reports.send(report))).unwrap();
        (writer, reported, recovered.records.len() as u64)
    }

    fn append(sequence: u64, may_wait: bool) -> LogCommand {
        LogCommand::Append { sequence, record: vec![1], payload: Bytes::new(), may_wait }
    }

    fn durable(reported: &Receiver<LogReport>) -> u64 {
        reported.recv_timeout(WITHIN).unwrap().unwrap().0
    }

    #[test]
    fn what_may_wait_is_durable_soon_or_with_what_may_not_or_when_it_is_waited_for_after_all() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, reported, _) = writer(folder.path());
        writer.send(append(1, true));
        assert_eq!(durable(&reported), 1, "by itself");
        writer.send(append(2, true));
        writer.send(append(3, false));
        while durable(&reported) < 3 {}
        writer.send(append(4, true));
        writer.send(LogCommand::Sync);
        while durable(&reported) < 4 {}
    }

    #[test]
    fn a_stream_of_what_may_wait_is_made_durable_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, reported, _) = writer(folder.path());
        let mut sequence = 0;
        let begun = Instant::now();
        while reported.try_recv().is_err() {
            assert!(begun.elapsed() < WITHIN, "nothing is ever synced");
            sequence += 1;
            writer.send(append(sequence, true));
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_may_wait_is_written_before_the_thread_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (first, reported, found) = writer(folder.path());
        assert_eq!(found, 0);
        first.send(append(1, true));
        drop(first);
        assert_eq!(durable(&reported), 1);
        assert_eq!(writer(folder.path()).2, 1);
    }
}
