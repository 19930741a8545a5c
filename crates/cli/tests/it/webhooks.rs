//! Webhooks and their secrets across the end of a server, and the commands for them.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    sync::mpsc,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, text},
    server::Server,
};

const OPEN: (&str, &str) = ("CODEGEN_ALLOW_PRIVATE_ADDRESSES", "on");

/// Takes every event, but leaves the first `unanswered` without an answer.
struct Receiver {
    url: String,
    came: mpsc::Receiver<(String, Value)>,
}

impl Receiver {
    fn start(unanswered: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (tell, came) = mpsc::channel();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let (mut id, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    // A connection that broke off carries no request.
                    if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    let (name, value) = line.split_once(':').unwrap_or_default();
                    match name.to_ascii_lowercase().as_str() {
                        "webhook-id" => id = value.trim().to_owned(),
                        "content-length" => length = value.trim().parse().unwrap(),
                        _ => {}
                    }
                }
                let mut body = vec![0; length];
                if length == 0 || reader.read_exact(&mut body).is_err() {
                    continue;
                }
                if held.len() < unanswered {
                    held.push(reader);
                } else {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    reader.into_inner().write_all(answer).ok();
                }
                if tell.send((id, serde_json::from_slice(&body).unwrap())).is_err() {
                    return;
                }
            }
        });
        Self { url, came }
    }

    fn next(&self) -> (String, Value) {
        self.came.recv_timeout(Duration::from_secs(120)).unwrap()
    }
}

#[test]
fn an_event_outlives_a_server_that_is_killed_before_during_or_after_its_delivery() {
    for end in ["webhook.before", "webhook.after", "SIGKILL"] {
        let fixture = Fixture::new();
        let receiver = Receiver::start(usize::from(end == "SIGKILL"));
        let (plan, model) = (format!("{end}=1"), format!("scripted:{}", fixture.mending().display()));
        let mut env = vec![OPEN, ("CODEGEN_DEFAULT_MODEL", model.as_str())];
        if end != "SIGKILL" {
            env.push(("FAILPOINT", plan.as_str()));
        }
        let mut server = Server::logged_in(&fixture, &env);
        let added = server.json(&["webhooks", "add", &receiver.url, "--event", "run.created"]);
        // The server may be gone before it answers.
        server.client(&["agent", "--prompt", "Go."]);
        let first = (end != "webhook.before").then(|| receiver.next());
        if end == "SIGKILL" {
            server.process.kill().unwrap();
        }
        assert!(!server.process.wait().unwrap().success(), "{end}");
        assert!(receiver.came.try_recv().is_err(), "{end}");
        let token = server.token.take().unwrap();
        drop(server);

        let server = Server::start(&fixture, &[OPEN]);
        let (id, event) = receiver.next();
        assert_eq!((&event["type"], &event["data"]["agent_run_id"]), (&json!("run.created"), &json!(1)), "{end}");
        if let Some((earlier, same)) = first {
            assert_eq!(id, earlier, "{end}: the receiver can tell that it has seen it");
            assert_eq!(event["timestamp"], same["timestamp"], "{end}");
        }
        server.log_in(&token);
        let deliveries = loop {
            let page = server.json(&["webhooks", "deliveries", &added["id"].to_string()]);
            if page["items"][0]["state"] == "delivered" {
                break page;
            }
        };
        assert_eq!((&deliveries["total"], &deliveries["items"][0]["attempts"]), (&json!(1), &json!(2)), "{end}");
    }
}

#[test]
fn webhooks_are_added_changed_pinged_and_removed_by_commands() {
    let fixture = Fixture::new();
    let receiver = Receiver::start(0);
    let server = Server::logged_in(&fixture, &[OPEN]);
    let added =
        text(&server.client(&["webhooks", "add", &receiver.url, "--event", "run.failed", "--description", "ops"]));
    assert!(added.contains("secret (shown once): whsec_") && added.contains("run.failed"), "{added}");
    assert_eq!(server.json(&["webhooks", "edit", "1", "--all-events"])["events"], json!([]));
    assert_eq!(server.json(&["webhooks", "off", "1"])["enabled"], false);
    assert_eq!(server.json(&["webhooks", "on", "1"])["enabled"], true);
    let ping = server.json(&["webhooks", "ping", "1"]);
    let (id, event) = receiver.next();
    assert_eq!((json!(id), &event["type"]), (ping["request"]["webhook_id"].clone(), &json!("ping")));
    while server.json(&["webhooks", "deliveries", "1"])["items"][0]["state"] != "delivered" {}
    let replayed = server.client(&["webhooks", "replay", "1", &ping["id"].to_string()]);
    assert!(replayed.status.success(), "{}", text(&replayed));
    assert_eq!(receiver.next().0, id);
    let rotated = text(&server.client(&["webhooks", "rotate", "1", "--overlap-hours", "48"]));
    assert!(rotated.contains("whsec_") && rotated.contains("valid until"), "{rotated}");
    let list = text(&server.client(&["webhooks", "list"]));
    assert!(list.contains(&receiver.url) && !list.contains("whsec_"), "{list}");
    assert!(server.client(&["webhooks", "remove", "1"]).status.success());
    assert_eq!(server.json(&["webhooks", "list"])["total"], 0);
    let gone = server.client(&["webhooks", "ping", "1"]);
    assert!(!gone.status.success() && text(&gone).contains("Webhook not found."), "{}", text(&gone));
}

#[test]
fn a_restored_backup_says_that_the_key_of_its_secrets_is_missing_and_works_once_it_is_there() {
    let fixture = Fixture::new();
    let receiver = Receiver::start(0);
    let mut server = Server::logged_in(&fixture, &[OPEN]);
    let token = server.token.take().unwrap();
    server.json(&["webhooks", "add", &receiver.url]);
    let rotate = server.client(&["secrets", "rotate"]);
    assert!(rotate.status.success() && text(&rotate).contains("restart the server"), "{}", text(&rotate));
    let backup = fixture.dir.path().join("backup.tar");
    let made = server.client(&["backup", backup.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made));
    drop(server);

    let keys = fs::read_to_string(fixture.dir.path().join("data/secret.key")).unwrap();
    let archive = fs::read(&backup).unwrap();
    for key in keys.lines() {
        assert!(!archive.windows(key.len()).any(|part| part == key.as_bytes()), "the backup holds the key");
    }
    let restored = fixture.dir.path().join("restored");
    let place = ("CODEGEN_DATA_DIR", restored.to_str().unwrap());
    let said = fixture.codegen().arg("restore").arg(&backup).env(place.0, place.1).output().unwrap();
    assert!(text(&said).contains("1 encrypted secrets") && text(&said).contains("secret.key"), "{}", text(&said));

    let server = Server::start(&fixture, &[OPEN, place]);
    server.log_in(&token);
    server.json(&["webhooks", "ping", "1"]);
    let error = loop {
        let page = server.json(&["webhooks", "deliveries", "1"]);
        if let Some(error) = page["items"][0]["error"].as_str() {
            break error.to_owned();
        }
    };
    assert!(error.contains("secret.key"), "{error}");
    drop(server);

    let file = restored.join("secret.key");
    let made_meanwhile = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{made_meanwhile}{keys}")).unwrap();
    let server = Server::start(&fixture, &[OPEN, place]);
    server.log_in(&token);
    server.json(&["webhooks", "ping", "1"]);
    assert_eq!(receiver.next().1["type"], "ping");
}
