//! What is not tried on a machine that lacks what it needs.

use std::io::Write as _;

/// Says so where it is seen, also while the harness captures what a test prints. It is a failure where `STANDIN_TESTS_REQUIRE` names the need, or
/// `all`, among others with commas.
pub(crate) fn skipped(need: &str, what: &str, why: &str) {
    let required = std::env::var("STANDIN_TESTS_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|required| required == need || required == "all");
    assert!(!is_required, "{what} was not tried: {why}; and `{need}` is required");
    let mut stderr = std::io::stderr();
    drop(writeln!(stderr, "\nSKIPPED (needs {need}): {what}: {why}"));
}
