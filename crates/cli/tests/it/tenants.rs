//! `codegen org` and `codegen token` against a real server.

use serde_json::Value;

use crate::{
    fixture::{Fixture, text},
    server::Server,
};

/// A command without `--json`, which has to succeed.
fn line(server: &Server<'_>, args: &[&str]) -> String {
    let output = server.client(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What a command is refused with.
fn refusal(server: &Server<'_>, args: &[&str]) -> String {
    let output = server.client(args);
    assert!(!output.status.success(), "{args:?}: {}", text(&output));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn an_organization_is_made_filled_with_members_looked_at_and_deleted() {
    let fixture = Fixture::new();
    let server = Server::logged_in(&fixture, &[]);
    assert!(line(&server, &["org", "list"]).ends_with("codegen"));
    assert_eq!(line(&server, &["org", "rename", "Acme"]).split_whitespace().last(), Some("Acme"));
    assert!(line(&server, &["org", "members"]).contains("ADMIN"));
    assert!(refusal(&server, &["org", "role", "admin", "member"]).contains("last admin"));
    assert!(refusal(&server, &["org", "remove", "nobody"]).contains("no member is called"));

    let link = line(&server, &["org", "invite", "--role", "manager", "--email", "ben@example.com"]);
    assert!(link.starts_with(&server.url) && link.contains("/join#cgi_"), "{link}");
    let open = server.json(&["org", "invitations"]);
    assert_eq!((open[0]["role"].as_str(), open[0]["email"].as_str()), (Some("MANAGER"), Some("ben@example.com")));
    assert!(refusal(&server, &["org", "join", &link]).contains("a member of this organization already"));
    line(&server, &["org", "withdraw", &open[0]["id"].to_string()]);
    assert!(refusal(&server, &["org", "join", &link]).contains("does not hold"));

    let robot = server.json(&["org", "service-account", "create", "deploys"])["id"].to_string();
    assert!(line(&server, &["org", "service-account", "list"]).contains("deploys"));
    let token = line(&server, &["token", "create", "actions", "--service-account", &robot, "--scope", "runs:write"]);
    assert!(token.starts_with("cgn_") && token.len() == 42, "{token}");
    assert!(line(&server, &["token", "list", "--service-account", &robot]).contains("runs:write"));
    line(&server, &["org", "service-account", "remove", &robot]);

    let log = line(&server, &["org", "audit-log", "--action", "service_account."]);
    let actions: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(actions.len(), 2, "{log}");
    let file = fixture.dir.path().join("acme.tar");
    line(&server, &["org", "export", file.to_str().unwrap()]);
    let names: Vec<String> = tar::Archive::new(std::fs::File::open(&file).unwrap())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.contains(&"runs.jsonl".to_owned()) && names.last().unwrap() == "manifest.json", "{names:?}");
    assert!(refusal(&server, &["org", "export", file.to_str().unwrap()]).contains("exists"));

    assert!(line(&server, &["org", "create", "Side & Co"]).ends_with("Side & Co"));
    let second = server.json(&["org", "list"])[1]["id"].to_string();
    let mut delete = fixture.codegen();
    delete.env("CODEGEN_ORG_ID", &second).args(["org", "delete", "--name", "Acme"]);
    assert!(text(&delete.output().unwrap()).contains("not the organization's name"));
    let mut delete = fixture.codegen();
    delete.env("CODEGEN_ORG_ID", &second).args(["org", "delete", "--name", "Side & Co"]);
    let deleted = delete.output().unwrap();
    assert!(deleted.status.success(), "{}", text(&deleted));
    assert_eq!(server.json(&["org", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_token_is_made_listed_and_revoked() {
    let fixture = Fixture::new();
    let server = Server::logged_in(&fixture, &[]);
    let made = server.json(&["token", "create", "laptop", "--expires-in-days", "3"]);
    let id = made["id"].to_string();
    let asks = |token: &str| fixture.codegen().env("CODEGEN_API_TOKEN", token).args(["agents"]).output().unwrap();
    let mut login = fixture.codegen();
    login.args(["login", "--url", &server.url, "--token", made["token"].as_str().unwrap()]);
    assert!(login.output().unwrap().status.success());
    assert!(asks(made["token"].as_str().unwrap()).status.success());
    server.log_in(server.token.as_deref().unwrap());
    let listed = line(&server, &["token", "list"]);
    assert!(listed.contains("laptop") && !listed.contains(made["token"].as_str().unwrap()), "{listed}");
    line(&server, &["token", "revoke", &id]);
    assert!(text(&asks(made["token"].as_str().unwrap())).contains("invalid API token"));
    assert!(refusal(&server, &["token", "revoke", &id]).contains("Token not found"));
}
