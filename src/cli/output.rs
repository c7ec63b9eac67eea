//! How commands print what they have read: for people, or as JSON.

use clap::{Args, ValueEnum};
use serde::Serialize;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// A JSON document a line.
    Jsonl,
}

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct OutputArguments {
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
}

impl OutputArguments {
    /// Prints one thing: by `table` for people.
    pub(super) fn one<T: Serialize>(self, value: &T, table: impl FnOnce(&T)) {
        match self.output {
            Output::Table => table(value),
            Output::Json | Output::Jsonl => println!("{}", json(value)),
        }
    }

    /// Prints things of one kind: by `table` for people, or as one list, or a line each.
    pub(super) fn all<T: Serialize>(self, values: &[T], table: impl FnOnce(&[T])) {
        match self.output {
            Output::Table => table(values),
            Output::Json => println!("{}", json(&values)),
            Output::Jsonl => values.iter().for_each(|value| println!("{}", json(value))),
        }
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}
