//! Log-ins, profiles, and what the terminal shows of an account; a run's branch in the own checkout.

use std::{
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Output, Stdio},
};

use crate::{
    fixture::{Fixture, git, text},
    server::Server,
};

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "{}", text(output));
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn several_log_ins_are_kept_by_name_in_a_file_of_their_owner_and_one_is_in_use() {
    let fixture = Fixture::new();
    let mut server = Server::first(&fixture, &[]);
    let token = server.token.take().unwrap();
    let client = |args: &[&str]| server.client(args);
    assert!(refusal(&client(&["profile"])).contains("codegen login"));
    let bad = client(&["login", "--token", "wrong", "--url", &server.url]);
    assert!(refusal(&bad).contains("Missing or invalid API token"));

    let mut piped = fixture.codegen();
    piped.args(["login", "--token", "-", "--url", &server.url]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut piped = piped.spawn().unwrap();
    writeln!(piped.stdin.take().unwrap(), "{token}").unwrap();
    succeeds(&piped.wait_with_output().unwrap());
    let file = fixture.dir.path().join("config/codegen/login.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);

    let other = server.json(&["token", "create", "second"])["token"].as_str().unwrap().to_owned();
    succeeds(&client(&["login", "--profile", "work", "--token", &other, "--url", &server.url]));
    let listed = server.json(&["profile", "list"]);
    let seen: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|p| (p["name"].clone(), p["in_use"].clone())).collect();
    assert_eq!(seen, [("default".into(), false.into()), ("work".into(), true.into())]);
    assert!(!listed.to_string().contains(&other), "tokens are not shown");

    succeeds(&client(&["profile", "use", "default"]));
    assert!(refusal(&client(&["profile", "use", "home"])).contains("there are default, work"));
    let mut named = fixture.codegen();
    let shown = succeeds(&named.env("CODEGEN_PROFILE", "work").args(["profile", "--json"]).output().unwrap());
    assert!(shown.contains("\"profile\":\"work\"") && !shown.contains(&other), "{shown}");
    let mut wrong = fixture.codegen();
    let wrong = refusal(&wrong.env("CODEGEN_PROFILE", "home").args(["agents"]).output().unwrap());
    assert!(wrong.contains("no profile \"home\""), "{wrong}");

    let mut elsewhere = fixture.codegen();
    elsewhere.env("CODEGEN_API_BASE_URL", "http://127.0.0.1:1").args(["agents"]);
    assert!(refusal(&elsewhere.output().unwrap()).contains("the log-in in use is of"), "no token for another server");

    assert!(succeeds(&client(&["logout"])).contains("Profile work is in use now"));
    succeeds(&client(&["agents"]));
    succeeds(&client(&["logout"]));
    assert!(refusal(&client(&["agents"])).contains("not logged in"));
    assert!(refusal(&client(&["logout"])).contains("not logged in"));
}

#[test]
fn the_log_in_of_an_older_version_is_read() {
    let fixture = Fixture::new();
    let mut server = Server::first(&fixture, &[]);
    let file = fixture.dir.path().join("config/codegen/login.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let kept = serde_json::json!({ "url": server.url, "token": server.token.take().unwrap(), "org_id": 1 });
    std::fs::write(&file, kept.to_string()).unwrap();
    let shown = succeeds(&server.client(&["profile"]));
    assert!(shown.contains(&server.url) && shown.contains("admin"), "{shown}");
}

#[test]
fn commands_work_in_the_organization_that_was_chosen() {
    let fixture = Fixture::new();
    let server = Server::logged_in(&fixture, &[]);
    let second = server.json(&["org", "create", "Second"])["id"].to_string();
    assert!(refusal(&server.client(&["org", "use", "Third"])).contains("no organization \"Third\""));
    succeeds(&server.client(&["org", "use", "Second"]));
    assert!(succeeds(&server.client(&["org", "list"])).lines().any(|line| line.starts_with(&format!("* {second:>6}"))));
    assert!(succeeds(&server.client(&["profile"])).contains(&format!("Second ({second})")));
    let integrations = server.json(&["integrations"]);
    assert_eq!(integrations["organization_id"].to_string(), second);
    assert!(succeeds(&server.client(&["integrations", "list"])).contains("slack"));
    assert!(succeeds(&server.client(&["tools"])).contains("create_agent_run"));
}

/// A clone of the origin, and the command in it.
fn pull_in(fixture: &Fixture, checkout: &Path, id: &str) -> Output {
    fixture.codegen().current_dir(checkout).args(["agent", "--id", id, "pull"]).output().unwrap()
}

#[test]
fn a_run_s_branch_is_checked_out_from_whichever_remote_has_it_and_nothing_of_ones_own_is_lost() {
    let fixture = Fixture::new();
    let model = format!("scripted:{}", fixture.mending().display());
    let server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &model)]);
    let repo = server.add_repo();
    let run = server.json(&["agent", "--prompt", "Mend it.", "--repo-id", &repo]);
    let id = run["id"].to_string();
    succeeds(&server.client(&["agent", "--id", &id, "--follow"]));
    let checkout = fixture.dir.path().join("mine");
    assert!(refusal(&pull_in(&fixture, fixture.dir.path(), &id)).contains("no git checkout"));

    git(fixture.dir.path(), &["clone", "-q", fixture.origin().to_str().unwrap(), "mine"]);
    git(&checkout, &["remote", "rename", "origin", "upstream"]);
    std::fs::write(checkout.join("total.py"), "mine\n").unwrap();
    assert!(refusal(&pull_in(&fixture, &checkout, &id)).contains("uncommitted changes"));
    assert_eq!(std::fs::read_to_string(checkout.join("total.py")).unwrap(), "mine\n");
    git(&checkout, &["checkout", "-q", "total.py"]);

    let told = succeeds(&pull_in(&fixture, &checkout, &id));
    let branch = told.split_whitespace().next().unwrap().to_owned();
    assert!(branch.starts_with(&format!("codegen/{id}-")), "{told}");
    assert_eq!(git(&checkout, &["branch", "--show-current"]), branch);
    assert!(std::fs::read_to_string(checkout.join("total.py")).unwrap().contains("return sum(xs)\n"));
    git(&checkout, &["checkout", "-q", "main"]);
    succeeds(&pull_in(&fixture, &checkout, &id));
    assert_eq!(git(&checkout, &["branch", "--show-current"]), branch, "a second time is no trouble");

    git(&checkout, &["commit", "-q", "--allow-empty", "-m", "Mine"]);
    let mine = git(&checkout, &["rev-parse", "HEAD"]);
    assert!(refusal(&pull_in(&fixture, &checkout, &id)).contains("has commits that upstream does not have"));
    assert_eq!(git(&checkout, &["rev-parse", "HEAD"]), mine);
    git(&checkout, &["remote", "remove", "upstream"]);
    assert!(refusal(&pull_in(&fixture, &checkout, &id)).contains("this checkout has no remote"));
}

#[test]
fn every_command_has_a_manual_page_and_a_mistyped_one_a_suggestion() {
    let fixture = Fixture::new();
    let page = succeeds(&fixture.codegen().args(["man", "org", "invite"]).output().unwrap());
    assert!(page.contains(".TH") && page.contains("expires\\-in\\-days"), "{page}");
    let dir = fixture.dir.path().join("man1");
    succeeds(&fixture.codegen().args(["man", "--all", dir.to_str().unwrap()]).output().unwrap());
    for name in ["codegen.1", "codegen-agent.1", "codegen-agent-pull.1"] {
        assert!(dir.join(name).exists(), "{name}");
    }
    assert!(refusal(&fixture.codegen().args(["agnets"]).output().unwrap()).contains("'agents'"));
}
