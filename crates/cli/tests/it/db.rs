//! The commands of `docs/database.md`, as they stand there, and databases that move.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, text},
    server::Server,
};

/// The URL of a new, empty schema of the test server.
fn postgres() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/postgres");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn output(fixture: &Fixture, args: &[&str], env: &[(&str, &str)]) -> std::process::Output {
    fixture.codegen().args(args).envs(env.iter().copied()).output().unwrap()
}

fn succeeds(fixture: &Fixture, args: &[&str], env: &[(&str, &str)]) -> String {
    let output = output(fixture, args, env);
    assert!(output.status.success(), "{args:?}: {}", text(&output));
    text(&output)
}

/// Runs and their prompts, as a server with these settings tells them.
fn runs(fixture: &Fixture, env: &[(&str, &str)], token: &str) -> Vec<Value> {
    let server = Server::start(fixture, env);
    server.log_in(token);
    let runs = server.json(&["agents"])["items"].as_array().unwrap().clone();
    assert_eq!(server.terminate(), Some(0));
    runs.into_iter().map(|run| json!([run["id"], run["status"], run["result"], run["summary"]])).collect()
}

/// A data directory with a run that is done, and its token.
fn used(fixture: &Fixture) -> (String, Vec<Value>) {
    let script = format!("scripted:{}", fixture.mending().display());
    let env = [("CODEGEN_DEFAULT_MODEL", script.as_str())];
    let server = Server::logged_in(fixture, &env);
    let repo = server.add_repo();
    let run = server.client(&["agent", "--prompt", "Mend it.", "--repo-id", &repo, "--follow"]);
    assert!(run.status.success(), "{}", text(&run));
    let token = server.token.clone().unwrap();
    drop(server);
    let runs = runs(fixture, &[], &token);
    assert_eq!(runs.len(), 1);
    (token, runs)
}

#[test]
fn the_commands_of_the_page_on_the_database_do_what_it_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/database.md");
    let page = std::fs::read_to_string(page).unwrap();
    let fixture = Fixture::new();
    let (token, before) = used(&fixture);
    let (place, url) = (fixture.dir.path().display().to_string(), postgres());
    let mut said = String::new();
    for block in page.split("```sh\n").skip(1) {
        for line in block.split_once("```").unwrap().0.lines() {
            let line = line.strip_prefix("codegen ").unwrap();
            let words: Vec<String> = line
                .split_whitespace()
                .map(|word| {
                    let word = word.replace("postgres://codegen@db.example.com/codegen", &url);
                    word.replace("/backups/", &format!("{place}/")).replace("/srv/", &format!("{place}/"))
                })
                .collect();
            said += &succeeds(&fixture, &words.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        }
    }
    assert!(said.contains("is of this version already"), "{said}");
    for folder in ["codegen-restored", "codegen-other"] {
        let folder = fixture.dir.path().join(folder);
        assert_eq!(runs(&fixture, &[("CODEGEN_DATA_DIR", folder.to_str().unwrap())], &token), before);
    }
    assert!(fixture.dir.path().join("codegen-restored/mirrors/1.git").exists());
    assert!(!fixture.dir.path().join("codegen-other/mirrors/1.git").exists());
    assert_eq!(runs(&fixture, &[("DATABASE_URL", &url)], &token), before);
}

#[test]
fn after_a_copy_to_postgresql_the_search_finds_what_it_found_before() {
    let fixture = Fixture::new();
    let say = |text| json!({"text": text, "calls": [{"name": "finish", "input": {"summary": "S\u{e9}ance\\ended\t'quoted'", "success": true}}]});
    let script = format!("scripted:{}", fixture.script(&json!([say("Looked at the caf\u{e9}.")])).display());
    let server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &script), ("CODEGEN_RATE_LIMITS", "off")]);
    for prompt in ["Find the old words.", "Find others."] {
        let run = server.client(&["agent", "--prompt", prompt, "--follow"]);
        assert!(run.status.success(), "{}", text(&run));
    }
    let looked = |server: &Server<'_>| -> Vec<Value> {
        ["old words", "cafe", "seance", "\"ended quoted\"", "find", "nowhere"]
            .map(|words| server.json(&["search", words])["items"].take())
            .into_iter()
            .map(|items| {
                items.as_array().unwrap().iter().map(|item| json!([item["run"]["id"], item["matches"]])).collect()
            })
            .collect()
    };
    let counts = |found: &[Value]| found.iter().map(|one| one.as_array().unwrap().len()).collect::<Vec<_>>();
    // The search follows the logs in a moment.
    let mut before = looked(&server);
    while counts(&before) != [1, 2, 2, 2, 2, 0] {
        before = looked(&server);
    }
    let token = server.token.clone().unwrap();
    assert_eq!(server.terminate(), Some(0));
    let url = postgres();
    let said = succeeds(&fixture, &["db", "copy", "--to", &url, "--json"], &[]);
    let copied: Value = serde_json::from_str(&said).unwrap();
    assert!(copied["rows"]["search"].as_i64() > Some(0) && copied["rows"]["search_state"] == 2, "{said}");
    let server = Server::start(&fixture, &[("DATABASE_URL", &url)]);
    server.log_in(&token);
    assert_eq!(looked(&server), before);
}

#[test]
fn a_backup_of_postgresql_made_while_its_server_runs_is_restored_into_either_database() {
    let fixture = Fixture::new();
    let (token, before) = used(&fixture);
    let (first, second) = (postgres(), postgres());
    succeeds(&fixture, &["db", "copy", "--to", &first], &[]);
    let refused = output(&fixture, &["db", "copy", "--to", &first], &[]);
    assert!(!refused.status.success() && text(&refused).contains("is not empty"), "{}", text(&refused));

    let server = Server::start(&fixture, &[("DATABASE_URL", &first)]);
    let file = fixture.dir.path().join("all.tar");
    let file = file.to_str().unwrap();
    let made = succeeds(&fixture, &["backup", file, "--json"], &[("DATABASE_URL", &first)]);
    assert_eq!(serde_json::from_str::<Value>(&made).unwrap()["mirrors"], 1, "{made}");
    let live = output(&fixture, &["db", "copy", "--to", &second], &[]);
    assert!(!live.status.success() && text(&live).contains("another codegen is using"), "{}", text(&live));
    let full = output(&fixture, &["db", "restore", file], &[("DATABASE_URL", &first)]);
    assert!(!full.status.success(), "{}", text(&full));
    drop(server);
    let full = output(&fixture, &["db", "restore", file], &[("DATABASE_URL", &first)]);
    assert!(!full.status.success() && text(&full).contains("is not empty"), "{}", text(&full));
    let there = output(&fixture, &["db", "restore", file], &[]);
    assert!(!there.status.success() && text(&there).contains("is there already"), "{}", text(&there));

    let sqlite = fixture.dir.path().join("sqlite").display().to_string();
    succeeds(&fixture, &["restore", file, "--data-dir", &sqlite], &[]);
    assert_eq!(runs(&fixture, &[("CODEGEN_DATA_DIR", &sqlite)], &token), before);
    let other = fixture.dir.path().join("other").display().to_string();
    let env = [("DATABASE_URL", second.as_str()), ("CODEGEN_DATA_DIR", other.as_str())];
    succeeds(&fixture, &["restore", file], &env);
    assert!(Path::new(&other).join("mirrors/1.git").exists());
    assert!(!Path::new(&other).join("codegen.db").exists());
    assert_eq!(runs(&fixture, &env, &token), before);
}

#[test]
fn migrating_makes_a_database_and_says_its_version_in_json() {
    let fixture = Fixture::new();
    for env in [vec![], vec![("DATABASE_URL", postgres())]] {
        let env: Vec<(&str, &str)> = env.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let first: Value = serde_json::from_str(&succeeds(&fixture, &["db", "migrate", "--json"], &env)).unwrap();
        assert_eq!(first["from"], Value::Null, "{first}");
        assert!(first["applied"].as_array().unwrap().contains(&first["to"]), "{first}");
        let second: Value = serde_json::from_str(&succeeds(&fixture, &["db", "migrate", "--json"], &env)).unwrap();
        assert_eq!((&second["from"], &second["applied"]), (&first["to"], &json!([])), "{second}");
    }
}
