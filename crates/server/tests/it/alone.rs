//! Tests that measure, or change, what their whole process shares.
#![allow(clippy::unwrap_used, missing_docs)]

/// Runs an ignored test of this binary by its name, without others beside it, and requires that it passes.
pub fn in_a_process_of_its_own(test: &str) {
    let alone = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture"])
        .output()
        .unwrap();
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
    assert!(String::from_utf8_lossy(&alone.stdout).contains("1 passed"));
}
