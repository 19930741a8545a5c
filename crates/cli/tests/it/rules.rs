//! The commands of `docs/rules.md`, as they stand there.

use serde_json::Value;

use crate::{
    fixture::{Fixture, text},
    server::Server,
};

/// Words of a line as a shell takes them, as far as the page uses it.
fn split(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(n, part)| match n % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

#[test]
fn the_commands_of_the_page_on_rules_do_what_it_says() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rules.md");
    let page = std::fs::read_to_string(page).unwrap();
    let block = page.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0;
    let fixture = Fixture::new();
    let server = Server::logged_in(&fixture, &[]);
    assert_eq!(server.add_repo(), "1");
    let mut said = Vec::new();
    for line in block.lines() {
        let words = split(line.strip_prefix("codegen ").unwrap());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = server.client(&words);
        assert!(output.status.success(), "{line}: {}", text(&output));
        said.push(text(&output));
    }
    assert!(said.iter().any(|words| words.contains("off Write commit messages")), "{said:?}");
    let texts = |args: &[&str]| -> Vec<Value> {
        server.json(args)["items"].as_array().unwrap().iter().map(|rule| rule["text"].clone()).collect()
    };
    assert!(texts(&["rules", "list"]).is_empty());
    assert_eq!(texts(&["rules", "list", "--repo-id", "1"]), ["Run make lint before you finish."]);
    assert_eq!(texts(&["rules", "list", "--mine"]), ["Answer in German."]);
}
