//! The thread that owns the durable log: it takes whatever has been handed in, writes it, and syncs once for all of it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use standin_foundation::wire::{Wire, WireError};
use standin_ledger::log::{Log, LogError};

use crate::messages::NodeRecord;

/// Commands that may wait: more would mean that the disk does not keep up, and whoever writes waits for it.
const COMMANDS_MAX: usize = 4_096;

/// What the log is told.
#[derive(Debug)]
pub(super) enum LogCommand {
    /// Append an encoded record. Its number must be the next.
    Append(u64, Vec<u8>, Bytes),
    /// Begin a new segment.
    Roll,
    /// What was appended before this command is durable when segments below this number are dropped.
    CutBefore(u64),
}

/// A handle to the log's thread. Dropping it ends the thread after everything has been written.
#[derive(Debug)]
pub(super) struct LogWriter {
    commands: Option<SyncSender<LogCommand>>,
    thread: Option<JoinHandle<()>>,
}

/// What the log says: durable up to here and so large, or broken for good.
pub(super) type LogReport = Result<(u64, u64), LogError>;

impl LogWriter {
    pub(super) fn start(log: Log, report: impl Fn(LogReport) + Send + 'static) -> std::io::Result<Self> {
        let (commands, receiver) = sync_channel(COMMANDS_MAX);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || run(log, &receiver, &report))?;
        Ok(Self { commands: Some(commands), thread: Some(thread) })
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

fn run(mut log: Log, commands: &Receiver<LogCommand>, report: &impl Fn(LogReport)) {
    while let Ok(first) = commands.recv() {
        match write_group(&mut log, first, commands) {
            Ok(durable) => report(Ok((durable, log.bytes()))),
            Err(error) => {
                report(Err(error));
                return;
            }
        }
    }
}

fn write_group(log: &mut Log, first: LogCommand, commands: &Receiver<LogCommand>) -> Result<u64, LogError> {
    let mut next = Some(first);
    let mut taken = 0;
    while let Some(command) = next {
        match command {
            LogCommand::Append(sequence, record, payload) => {
                let appended = log.append(&[&record, &payload])?;
                debug_assert_eq!(appended, sequence);
            }
            LogCommand::Roll => log.roll()?,
            LogCommand::CutBefore(keep_from) => {
                log.sync()?;
                log.cut_before(keep_from)?;
            }
        }
        taken += 1;
        next = if taken < COMMANDS_MAX { commands.try_recv().ok() } else { None };
    }
    log.sync()
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
