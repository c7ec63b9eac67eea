//! The model check: `model`, or one course of events again: `model --replay 12:crash,40:late`. Exits with 1 on a violation; the
//! last line is a summary.
#![allow(clippy::print_stdout, reason = "this is a command")]

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use standin_simulator::model::{Deviation, Model, Step};
use standin_simulator::{byzantine, rules};

/// Every course of events that differs from the ordinary one in at most two places.
#[derive(Debug, Parser)]
struct Arguments {
    /// A second deviation comes at most so many places behind the first; 0 for none.
    #[arg(long, default_value_t = 12)]
    near: usize,
    /// Also with one of the other seats faulty, in each way that there is: single deviations only.
    #[arg(long)]
    faulty: bool,
    /// Run one course again: places and deviations.
    #[arg(long, value_delimiter = ',', value_parser = step)]
    replay: Vec<Step>,
    /// In what is run again, the last seat is faulty like this.
    #[arg(long, requires = "replay")]
    like: Option<String>,
    /// Switch one rule off, by its name in the table of `seeds`.
    #[arg(long)]
    mutation: Option<String>,
    /// Switch off one rule after the other, and print which of them the check catches, after how many courses.
    #[arg(long)]
    mutations: bool,
}

const NAMES: [(&str, Deviation); 6] = [
    ("lose", Deviation::Lose),
    ("late", Deviation::Late),
    ("twice", Deviation::Twice),
    ("crash", Deviation::Crash),
    ("kill", Deviation::Kill),
    ("freeze", Deviation::Freeze),
];

fn step(text: &str) -> Result<Step, String> {
    let (place, name) = text.split_once(':').ok_or("a place and a deviation are needed, such as 12:crash")?;
    let deviation = NAMES.iter().find(|(known, _)| *known == name).map(|(_, deviation)| *deviation);
    let deviation = deviation.ok_or_else(|| format!("there is no deviation `{name}`"))?;
    Ok((place.parse().map_err(|error| format!("{place}: {error}"))?, deviation))
}

fn told(steps: &[Step]) -> String {
    let name = |wanted: Deviation| NAMES.iter().find(|(_, known)| *known == wanted).map_or("", |(name, _)| name);
    steps.iter().map(|(place, deviation)| format!("{place}:{}", name(*deviation))).collect::<Vec<_>>().join(",")
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let arguments = Arguments::parse();
    if arguments.mutations {
        return table(arguments.near);
    }
    let rule =
        arguments.mutation.as_ref().and_then(|name| rules::CLUSTERS.iter().find(|rule| rule.name == name).copied());
    if let (Some(name), None) = (&arguments.mutation, rule) {
        println!("no rule is called {name}");
        return ExitCode::from(2);
    }
    if !arguments.replay.is_empty() {
        let faulty = arguments.like.as_ref().and_then(|like| byzantine::NAMES.into_iter().find(|name| name == like));
        return match (Model { faulty, rule }).run(&arguments.replay) {
            Ok(places) => {
                println!("{} places: no violation", places.len());
                ExitCode::SUCCESS
            }
            Err(violation) => {
                println!("VIOLATION: {violation}");
                ExitCode::FAILURE
            }
        };
    }
    let others = byzantine::NAMES.into_iter().filter(|_| arguments.faulty).map(|name| (Some(name), 0));
    for (faulty, near) in [(None, arguments.near)].into_iter().chain(others) {
        let begun = Instant::now();
        let searched = Model { faulty, rule }.search(near);
        let seat = faulty.unwrap_or("correct");
        if let Some((steps, violation)) = searched.violation {
            let like = faulty.map(|name| format!(" --like {name}")).unwrap_or_default();
            let steps = told(&steps);
            println!("replay: cargo run --release -p standin-simulator --bin model -- --replay {steps}{like}");
            println!("VIOLATION after {} courses: {violation}", searched.courses);
            return ExitCode::FAILURE;
        }
        let (courses, places, seconds) = (searched.courses, searched.places, begun.elapsed().as_secs());
        println!("last seat {seat}: {places} places, {courses} courses in {seconds} s: no violation");
    }
    ExitCode::SUCCESS
}

/// What the check would not notice, the seeds must: it is small on purpose.
fn table(near: usize) -> ExitCode {
    let mut caught = 0;
    for rule in rules::CLUSTERS {
        let searched = Model { faulty: None, rule: Some(rule) }.search(near);
        match searched.violation {
            Some((steps, violation)) => {
                caught += 1;
                let (courses, steps) = (searched.courses, told(&steps));
                println!("{:<24} caught after {courses:>6} courses by {} ({steps})", rule.name, violation.invariant);
            }
            None => println!("{:<24} not caught in {} courses", rule.name, searched.courses),
        }
    }
    println!("mutations: {caught} of {} caught", rules::CLUSTERS.len());
    ExitCode::SUCCESS
}
