//! What commands say when they cannot do what was asked, and where `codegen run` keeps its data.

use serde_json::Value;

use crate::{
    fixture::{Fixture, text},
    server::Server,
};

#[test]
fn a_data_directory_that_cannot_be_made_is_named_with_the_option_for_another() {
    let fixture = Fixture::new();
    let args = ["serve", "--addr", "127.0.0.1:0", "--data-dir", "/proc/nope"];
    let output = fixture.codegen().args(args).output().unwrap();
    assert!(!output.status.success());
    let said = text(&output);
    assert!(said.contains("/proc/nope") && said.contains("--data-dir"), "{said}");
}

#[test]
fn a_backup_of_a_damaged_database_names_it_and_what_to_do() {
    let fixture = Fixture::new();
    let data = fixture.dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("codegen.db"), "no database ".repeat(1000)).unwrap();
    let output = fixture.codegen().arg("backup").arg(fixture.dir.path().join("copy")).output().unwrap();
    assert!(!output.status.success());
    let said = text(&output);
    assert!(said.contains("codegen.db is damaged") && said.contains("codegen restore"), "{said}");
    assert!(!fixture.dir.path().join("copy").exists(), "nothing half made is left");
}

#[test]
fn a_log_filter_that_is_not_understood_is_said_and_left_out() {
    let fixture = Fixture::new();
    let ran = |filter: &str| {
        let script = fixture.mending();
        let mut run = fixture.codegen();
        run.env("CODEGEN_LOG", filter).args(["run", "Mend it.", "--script"]).arg(script);
        run.output().unwrap()
    };
    let output = ran("codegen=loud");
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("CODEGEN_LOG=codegen=loud is not understood"), "{said}");
    let said = text(&ran("codegen=error"));
    assert!(!said.contains("CODEGEN_LOG"), "{said}");
}

#[test]
fn a_status_that_there_is_none_of_is_refused_with_those_that_there_are() {
    let fixture = Fixture::new();
    let server = Server::logged_in(&fixture, &[]);
    let output = server.client(&["agents", "--status", "nope"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output);
    assert!(said.contains("nope") && said.contains("MAX_ITERATIONS_REACHED") && said.contains("ACTIVE"), "{said}");
    assert!(server.client(&["agents", "--status", "active"]).status.success());
}

#[test]
fn df_and_prune_find_what_single_runs_left_with_and_without_a_server() {
    let fixture = Fixture::new();
    let script = fixture.mending();
    let run = fixture.codegen().args(["run", "Mend it.", "--script"]).arg(script).output().unwrap();
    assert!(run.status.success(), "{}", text(&run));
    let json = |args: &[&str]| -> Value {
        let output = fixture.codegen().args(args).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
    };
    let shown = text(&fixture.codegen().arg("df").output().unwrap());
    assert!(shown.contains("data-run, of `codegen run`") && shown.contains("mirror"), "{shown}");
    let planned = json(&["prune", "--all", "--older-than", "0m", "--dry-run", "--json"]);
    assert_eq!(planned["beside"][0]["traces"].as_array().unwrap().len(), 1, "{planned}");

    let _server = Server::first(&fixture, &[]);
    let pruned = json(&["prune", "--all", "--older-than", "0m", "--json"]);
    let beside = &pruned["beside"][0];
    assert!(beside["data_dir"].as_str().unwrap().ends_with("data-run"), "{pruned}");
    assert_eq!(
        (beside["traces"][0]["id"].as_i64(), beside["mirrors"][0]["id"].as_i64()),
        (Some(1), Some(1)),
        "{pruned}"
    );
    let left = json(&["df", "--json"]);
    assert!(left["items"].is_array() && !left["beside"][0].to_string().contains("\"mirror\""), "{left}");
    assert!(!fixture.dir.path().join("data-run/mirrors/1.git").exists());
}
