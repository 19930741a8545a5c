//! The commands of pages of `docs/`, as they stand there, in a shell.

use std::{path::Path, process::Command};

use serde_json::json;

use crate::{
    fixture::{Fixture, text},
    models::{KEY, provider},
    server::Server,
};

/// The blocks of commands of a page.
pub fn blocks(page: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let page = std::fs::read_to_string(page).unwrap();
    page.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0.to_owned()).collect()
}

/// What a block says, run where a person would who is logged in.
pub fn shell(server: &Server<'_>, block: &str) -> String {
    let mut command = Command::new("bash");
    for (key, value) in server.fixture.codegen().get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let ours = Path::new(env!("CARGO_BIN_EXE_codegen")).parent().unwrap();
    let output = command
        .args(["-euo", "pipefail", "-c", block])
        .env("PATH", format!("{}:{}", ours.display(), std::env::var("PATH").unwrap()))
        .env("NO_PROXY", "127.0.0.1")
        .env("CODEGEN_API_BASE_URL", &server.url)
        .env("CODEGEN_API_TOKEN", server.token.as_deref().unwrap())
        .env("CODEGEN_ORG_ID", "1")
        .current_dir(server.fixture.work())
        .output()
        .unwrap();
    assert!(output.status.success(), "{block}\n{}", text(&output));
    text(&output)
}

#[test]
fn the_commands_of_the_page_on_models_do_what_it_says() {
    let fixture = Fixture::new();
    let server = Server::logged_in(&fixture, &[("CODEGEN_ALLOW_PRIVATE_ADDRESSES", "on")]);
    for file in ["openai.key", "acme.key", "new.key"] {
        std::fs::write(fixture.work().join(file), format!("{KEY}\n")).unwrap();
    }
    let url = provider();
    let blocks = blocks("models.md");
    let [block] = blocks.as_slice() else { panic!("{blocks:?}") };
    // A provider that is here in place of those of the page.
    let here = block.replace("https://models.example.com/v1", &url);
    let here = here.replace("add openai ", &format!("add openai --base-url {url} "));
    let said = shell(&server, &here);
    assert!(said.contains("acme/big answered"), "{said}");
    assert!(said.contains("...0001") && !said.contains(KEY), "{said}");
    let left = server.json(&["models", "accounts"]);
    assert_eq!((&left["items"][0]["provider"], &left["total"]), (&json!("openai"), &json!(1)), "{left}");
    assert_eq!(server.json(&["models", "list"])["default_model"], "acme/big");
}

#[test]
fn the_commands_of_the_page_on_runs_do_what_it_says() {
    let fixture = Fixture::new();
    let input = json!({"summary": "The parser is off by one.", "success": true, "output": {"files": []}});
    let script = fixture.script(&json!([{"text": "", "calls": [{"name": "finish", "input": input}]}]));
    let model = format!("scripted:{}", script.display());
    let server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &model), ("CODEGEN_RATE_LIMITS", "off")]);
    assert_eq!(server.add_repo(), "1");
    // The page speaks of run 7, which its third block makes.
    for _ in 1..7 {
        let run = server.client(&["agent", "--prompt", "Look at the parser", "--tag", "nightly", "--follow"]);
        assert!(run.status.success(), "{}", text(&run));
    }
    // The search follows the logs in a moment.
    while server.json(&["search", "off by one"])["items"].as_array().unwrap().len() < 6 {}

    let blocks = blocks("runs.md");
    let [lists, search, structured, keeping] = blocks.as_slice() else { panic!("{blocks:?}") };
    let said = shell(&server, lists);
    assert!(said.contains("6  COMPLETE") && said.contains("\"total\":6"), "{said}");
    let said = shell(&server, search);
    assert!(said.contains("off by one") && said.contains("6  COMPLETE"), "{said}");
    let with_model = format!("export CODEGEN_DEFAULT_MODEL='{model}'\n{structured}");
    let said = shell(&server, &with_model);
    assert!(said.contains("\"output\":{\"files\":[]}"), "{said}");
    let output = server.client(&["agent", "--id", "7", "--follow"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(server.json(&["agent", "--id", "7"])["output"], json!({"files": []}));
    let said = shell(&server, keeping);
    assert!(said.contains("nightly") && said.contains("api"), "{said}");
    let gone = server.client(&["agent", "--id", "7"]);
    assert!(!gone.status.success() && text(&gone).contains("not found"), "{}", text(&gone));
}

#[test]
fn the_commands_of_the_pages_on_tokens_limits_webhooks_and_the_audit_log_work() {
    let fixture = Fixture::new();
    let server = Server::logged_in(&fixture, &[("CODEGEN_ALLOW_PRIVATE_ADDRESSES", "on")]);
    let [own, accounts] = &blocks("tokens.md")[..] else { panic!("tokens.md") };
    // The first token is that of the log-in, which would end with it.
    let said = shell(&server, &own.replace("revoke 7", "revoke 2"));
    assert!(said.contains("runs:write,repos:read"), "{said}");
    let left = server.client(&["token", "list"]);
    assert!(text(&left).contains("first") && !text(&left).contains(" ci "), "{}", text(&left));
    let (make, token) = accounts.split_once('\n').unwrap();
    let made = shell(&server, make);
    let account = made.split(|c: char| !c.is_ascii_digit()).find(|word| !word.is_empty()).unwrap();
    let said = shell(&server, &token.replace("12", account));
    assert!(said.contains("cgn_"), "{said}");

    let said: String = blocks("limits.md").iter().map(|block| shell(&server, block)).collect();
    assert!(
        said.to_lowercase().contains("x-ratelimit-remaining") && said.contains("\"runs_per_month\":1000"),
        "{said}"
    );

    for block in blocks("webhooks.md") {
        shell(&server, &block.replace("https://example.com/hooks", &provider()));
    }
    assert_eq!(server.json(&["webhooks", "deliveries", "1"])["items"][0]["event"], "ping");

    for block in blocks("audit-log.md") {
        shell(&server, &block);
    }
    let written = std::fs::read_to_string(fixture.work().join("audit.jsonl")).unwrap();
    assert!(written.contains("webhook.created") && !written.contains("whsec_"), "{written}");
}
