//! Which database a test is on: SQLite, or with `CODEGEN_TEST_DATABASE=postgres` PostgreSQL.

use std::{path::Path, process::Command};

/// The URL of the database that belongs to a test's directory, also when it is opened again; none on SQLite. A new one is a
/// schema of its own on the server that `scripts/postgres` starts.
pub fn url(dir: &Path) -> Option<String> {
    if !is_postgres() {
        return None;
    }
    let kept = dir.join("database_url");
    if let Ok(url) = std::fs::read_to_string(&kept) {
        return Some(url);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/postgres");
    let asked = Command::new(script).output().unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let url = String::from_utf8(asked.stdout).unwrap().trim().to_owned();
    std::fs::write(kept, &url).unwrap();
    Some(url)
}

/// Whether the suite runs on PostgreSQL.
pub fn is_postgres() -> bool {
    match std::env::var("CODEGEN_TEST_DATABASE").as_deref() {
        Ok("postgres") => true,
        Ok("sqlite") | Err(_) => false,
        Ok(other) => panic!("CODEGEN_TEST_DATABASE is sqlite or postgres, not {other}"),
    }
}
