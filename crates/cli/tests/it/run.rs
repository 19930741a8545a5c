//! `codegen run`.

use serde_json::{Value, json};

use crate::fixture::{Fixture, git, text};

#[test]
fn a_run_mends_the_test_pushes_its_branch_and_opens_a_pull_request() {
    let fixture = Fixture::new();
    let script = fixture.mending();
    let output = fixture
        .codegen()
        .args(["run", "The test fails. Mend it.", "--push", "--pr", "--script"])
        .arg(script)
        .arg("--repo")
        .arg(fixture.origin())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("status        COMPLETE"), "{}", text(&output));
    let branches = git(&fixture.origin(), &["branch", "--list", "codegen/*", "--format=%(refname:short)"]);
    let code = git(&fixture.origin(), &["show", &format!("{branches}:total.py")]);
    assert_eq!(code, "def total(xs):\n    return sum(xs)");
    assert!(text(&output).contains("pull request"), "{}", text(&output));
}

#[test]
fn a_run_starts_from_uncommitted_changes_and_leaves_a_local_branch_and_the_working_tree_alone() {
    let fixture = Fixture::new();
    std::fs::write(fixture.work().join("notes.txt"), "not committed\n").unwrap();
    let script = fixture.mending();
    let output = fixture.codegen().args(["run", "Mend it.", "--script"]).arg(script).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(git(&fixture.work(), &["status", "--porcelain"]), "?? notes.txt");
    assert_eq!(git(&fixture.work(), &["symbolic-ref", "--short", "HEAD"]), "main");
    let branch = git(&fixture.work(), &["branch", "--list", "codegen/*", "--format=%(refname:short)"]);
    assert_eq!(git(&fixture.work(), &["show", &format!("{branch}:notes.txt")]), "not committed");
    assert_eq!(git(&fixture.origin(), &["branch", "--list", "codegen/*"]), "", "nothing was asked to be pushed");
}

#[test]
fn a_branch_of_the_same_name_is_left_alone_and_the_work_gets_another() {
    let fixture = Fixture::new();
    let script = fixture.mending();
    for name in ["first", "second"] {
        // Each data directory counts its runs from 1.
        let data = fixture.dir.path().join(name);
        let run =
            fixture.codegen().env("CODEGEN_DATA_DIR", data).args(["run", "Mend it.", "--script"]).arg(&script).output();
        assert_eq!(run.as_ref().unwrap().status.code(), Some(0), "{}", text(&run.unwrap()));
    }
    let branches = git(&fixture.work(), &["branch", "--list", "codegen/*", "--format=%(refname:short)"]);
    let branches: Vec<&str> = branches.lines().collect();
    assert!(matches!(branches[..], [first, second] if second.starts_with(&format!("{first}-"))), "{branches:?}");
    assert_eq!(
        git(&fixture.work(), &["show", &format!("{}:total.py", branches[1])]),
        "def total(xs):\n    return sum(xs)"
    );
}

#[test]
fn json_prints_one_event_a_line() {
    let fixture = Fixture::new();
    let script = fixture.mending();
    let output = fixture.codegen().args(["run", "Mend it.", "--json", "--script"]).arg(script).output().unwrap();
    let lines: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.iter().any(|l| l["kind"] == "call_finished" && l["exit_code"] == 1), "{lines:?}");
}

#[test]
fn a_run_that_leaves_its_script_says_so_and_does_not_exit_with_success() {
    let fixture = Fixture::new();
    let script = fixture.script(&json!([
        {"text": "", "calls": [{"name": "shell", "input": {"command": "echo one"}}]},
        {"text": "", "expect": "two", "calls": []},
    ]));
    let output = fixture.codegen().args(["run", "Mend it.", "--script"]).arg(script).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("script"), "{}", text(&output));
}

#[test]
fn without_a_model_a_run_says_which_key_to_set() {
    let fixture = Fixture::new();
    let output = fixture.codegen().args(["run", "Mend it."]).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert!(text(&output).contains("ANTHROPIC_API_KEY"), "{}", text(&output));
}

#[test]
fn a_folder_without_a_repository_is_refused_with_a_sentence() {
    let fixture = Fixture::new();
    let output = fixture.codegen().args(["run", "Mend it.", "--repo", "/nowhere/at/all"]).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert!(text(&output).contains("/nowhere/at/all"), "{}", text(&output));
}
