//! All targets in one: the first byte chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use standin_fuzz::TARGETS;

fuzz_target!(|data: &[u8]| {
    if let Some((choice, rest)) = data.split_first() {
        let (_, target) = TARGETS[usize::from(*choice) % TARGETS.len()];
        target(rest);
    }
});
