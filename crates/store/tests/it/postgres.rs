//! A PostgreSQL server for the tests.

use std::{path::Path, process::Command};

/// The URL of a new, empty schema on the test server, which is started where none runs.
pub async fn new_schema() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/postgres");
    let asked = tokio::task::spawn_blocking(|| Command::new(script).output().unwrap()).await.unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    String::from_utf8(asked.stdout).unwrap().trim().to_owned()
}
