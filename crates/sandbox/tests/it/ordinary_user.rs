//! The same tests again as an ordinary user, when this run is root's.

use std::{os::unix::process::CommandExt, process::Command};

const UID: u32 = 4242;

#[test]
fn the_tests_pass_as_an_ordinary_user_too() {
    if !is_root() {
        return;
    }
    let scratch = tempfile::tempdir_in("/tmp").unwrap();
    std::os::unix::fs::chown(scratch.path(), Some(UID), Some(UID)).unwrap();
    let program = scratch.path().join("it");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new(&program)
        .args(["--test-threads=2", "--skip=ordinary_user"])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("TMPDIR", scratch.path())
        .current_dir(scratch.path())
        .uid(UID)
        .gid(UID)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t0"))
}
