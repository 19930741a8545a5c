//! `codegen user`.

use std::{io::Write as _, process::Stdio};

use serde_json::json;

use crate::{
    fixture::{Fixture, text},
    server::Server,
};

fn set_password(fixture: &Fixture, args: &[&str], password: &str) -> std::process::Output {
    let mut command = fixture.codegen();
    command.args(["user", "password"]).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    process.wait_with_output().unwrap()
}

#[test]
fn the_operator_sets_a_password_while_the_server_is_up_and_before_it_was() {
    let fixture = Fixture::new();
    let none = set_password(&fixture, &[], "correct horse battery\n");
    assert!(!none.status.success() && text(&none).contains("there is no user called admin"), "{}", text(&none));
    let server = Server::first(&fixture, &[]);
    let short = set_password(&fixture, &[], "short\n");
    assert!(!short.status.success() && text(&short).contains("12 to 256 characters"), "{}", text(&short));
    let set = set_password(&fixture, &["admin"], "correct horse battery\n");
    assert!(set.status.success() && text(&set).contains("admin (id 1) has a new password"), "{}", text(&set));
    assert!(!text(&set).contains("horse"));
    server.post("/v1/session", "none", &json!({"name": "admin", "password": "correct horse battery"}));
    assert_eq!(server.terminate(), Some(0));
    let again = set_password(&fixture, &["1"], "another long password");
    assert!(again.status.success(), "{}", text(&again));
    let server = Server::start(&fixture, &[]);
    server.post("/v1/session", "none", &json!({"name": "admin", "password": "another long password"}));
}
