//! Answers that are lost on their way to a client.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::json;

use crate::{
    fixture::{Fixture, text},
    server::Server,
};

/// Between client and server: lets the first `lost` POSTs through and loses their answers. Counts POSTs.
fn relay(server: SocketAddr, lost: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let posts = Arc::new(AtomicUsize::new(0));
    let counted = posts.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, posts) = (client.unwrap(), counted.clone());
            thread::spawn(move || pass_on(client, server, lost, &posts));
        }
    });
    (address, posts)
}

fn pass_on(mut client: TcpStream, server: SocketAddr, lost: usize, posts: &AtomicUsize) {
    let mut upstream = TcpStream::connect(server).unwrap();
    let mut first = [0; 4096];
    let Ok(length) = client.read(&mut first) else { return };
    let loses = first.starts_with(b"POST") && posts.fetch_add(1, Ordering::SeqCst) < lost;
    upstream.write_all(&first[..length]).unwrap();
    let (mut from, mut to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
    thread::spawn(move || std::io::copy(&mut from, &mut to));
    if loses {
        // The server has done it when it begins to answer.
        upstream.read_exact(&mut [0]).unwrap();
        client.shutdown(Shutdown::Both).unwrap();
    } else {
        std::io::copy(&mut upstream, &mut client).ok();
    }
}

#[test]
fn a_run_whose_first_answers_are_lost_is_started_once() {
    let fixture = Fixture::new();
    let model = fixture
        .script(&json!([{"text": "", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]}]));
    let server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &format!("scripted:{}", model.display()))]);
    let repo = server.add_repo();
    let (address, posts) = relay(server.url.strip_prefix("http://").unwrap().parse().unwrap(), 2);
    let mut command = fixture.codegen();
    command
        .env("CODEGEN_API_BASE_URL", format!("http://{address}"))
        .env("CODEGEN_API_TOKEN", server.token.as_ref().unwrap());
    let started = command.args(["agent", "--prompt", "Go.", "--repo-id", &repo, "--json"]).output().unwrap();
    assert!(started.status.success(), "{}", text(&started));
    assert_eq!(posts.load(Ordering::SeqCst), 3);
    let runs = server.json(&["agents"]);
    let runs = runs["items"].as_array().or(runs.as_array()).unwrap();
    assert_eq!(runs.len(), 1, "{runs:?}");
}
