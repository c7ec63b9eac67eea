//! What the benches share: interleaved rounds, medians, and one line a figure.
#![allow(
    dead_code,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "each bench uses a part of it; it prints its figures"
)]

pub(crate) mod load;
pub(crate) mod network;
pub(crate) mod peers;

use std::time::Instant;

/// Rounds of each measurement.
pub(crate) const ROUNDS: usize = 7;

/// Runs `work` and gives what it did per second.
pub(crate) fn rate(count: usize, mut work: impl FnMut()) -> f64 {
    let begun = Instant::now();
    work();
    count as f64 / begun.elapsed().as_secs_f64()
}

/// The median.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Measures ours and its floor in turns, since machines are noisy, and prints both with their ratio.
pub(crate) fn against_floor(
    name: &str,
    unit: &str,
    floor_name: &str,
    mut ours: impl FnMut() -> f64,
    mut floor: impl FnMut() -> f64,
) {
    let (mut our_rates, mut floor_rates) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        our_rates.push(ours());
        floor_rates.push(floor());
    }
    let (ours, floor) = (median(our_rates), median(floor_rates));
    println!("{name:<44} {ours:>12.0} {unit:<10} floor {floor:>12.0} ({floor_name}), ratio {:.2}", ours / floor);
}
