//! What the process logs: to stderr, and to its console. The filter can be changed while it runs.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use standin::config::NodeConfig;
use standin::node::actions::{LevelControl, LogLevel};
use standin_console::actor::unix_ms;
use standin_console::http::Console;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt as text, reload};

use super::Failure;

/// Lines that wait for the console; the oldest go, and are counted.
const LINES_MAX: usize = 2_000;
/// Bytes of a line.
const LINE_BYTES_MAX: usize = 2_048;
/// How often the console is told.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// The process's log.
pub(super) struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    lines: Lines,
}

impl Logging {
    /// Starts it. Once a process.
    pub(super) fn start(config: &NodeConfig) -> Result<Self, Failure> {
        let wrong = |error| Failure::new(78, format!("`log.level`: `{}`: {error}", config.log_level));
        let filter = EnvFilter::try_new(&config.log_level).map_err(wrong)?;
        let (filter, handle) = reload::Layer::new(filter);
        let lines = Lines::default();
        let shown = tracing_subscriber::registry().with(filter).with(lines.clone());
        let written = text::layer().with_writer(std::io::stderr).with_target(false);
        match config.log_json {
            true => shown.with(written.json()).init(),
            false => shown.with(written.with_ansi(false)).init(),
        }
        Ok(Self { filter: handle, lines })
    }

    /// Sets what is logged.
    pub(super) fn control(&self) -> impl LevelControl + use<> {
        Control(self.filter.clone())
    }

    /// Shows the log at a node's console from now on, and lets its level be set there.
    pub(super) fn show_at(&self, console: &Console, node: &str) {
        let control = Arc::new(self.control());
        console.actions().add(LogLevel { node: node.to_owned(), control });
        let (lines, console) = (self.lines.clone(), console.clone());
        actix::spawn(async move {
            let mut ticks = tokio::time::interval(TOLD_EVERY);
            loop {
                ticks.tick().await;
                let new = lines.take();
                if !new.is_empty() {
                    // A console that has too much to do shows less: all of it stands on stderr.
                    console.log(new);
                }
            }
        });
    }
}

/// Lines that the console has not been told.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<(VecDeque<Value>, u64)>>);

impl Lines {
    fn take(&self) -> Vec<Value> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (lines, lost) = std::mem::take(&mut *waiting);
        let text = format!("{lost} lines were too many to show: they stand in the process's log");
        let lost =
            (lost > 0).then(|| json!({ "at_ms": unix_ms(), "level": "warn", "target": "standin", "text": text }));
        lost.into_iter().chain(lines).collect()
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let Line { mut text, fields } = line;
        text.push_str(&fields);
        text.truncate(text.floor_char_boundary(LINE_BYTES_MAX));
        let (level, target) = (event.metadata().level().as_str().to_lowercase(), event.metadata().target());
        let line = json!({ "at_ms": unix_ms(), "level": level, "target": target, "text": text });
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (lines, lost) = &mut *waiting;
        lines.push_back(line);
        if lines.len() > LINES_MAX {
            lines.pop_front();
            *lost += 1;
        }
    }
}

/// An event as text: its message, and then its fields.
#[derive(Default)]
struct Line {
    text: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.text, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// Sets the filter of the process.
struct Control(reload::Handle<EnvFilter, Registry>);

impl LevelControl for Control {
    fn current(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    fn check(&self, filter: &str) -> Result<(), String> {
        EnvFilter::try_new(filter).map(drop).map_err(|error| error.to_string())
    }

    fn set(&self, filter: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}
