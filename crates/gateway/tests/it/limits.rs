//! What one sandbox may ask of its gateway.

use std::time::{Duration, Instant};

use codegen_gateway::{Gateway, Limits, Options};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::fixture::{Server, gateway, gateway_with, only, open, read_until};

fn limited(limits: Limits) -> Options {
    Options { limits, ..Options::default() }
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let place = gateway(open());
    let (mut reader, mut writer) = place.connect().await.into_split();
    let head = format!("GET http://example.com/ HTTP/1.1\r\nX-Large: {}\r\n\r\n", "x".repeat(128 * 1024));
    let sending = tokio::spawn(async move { writer.write_all(head.as_bytes()).await });
    let mut answer = vec![0; 12];
    reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), "HTTP/1.1 431");
    drop(reader);
    sending.await.unwrap().ok(); // Whether the rest could be sent does not matter.
}

#[tokio::test]
async fn a_slow_head_ends_the_connection() {
    let limits = Limits { header_timeout: Duration::from_millis(100), ..Limits::default() };
    let place = gateway_with(open(), limited(limits));
    let mut stream = place.connect().await;
    stream.write_all(b"GET http://example.com/ HTTP/1.1\r\nX-Slow: ").await.unwrap();
    let start = Instant::now();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_socket_deep_in_folders_is_listened_on() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("x".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let gateway = Gateway::listen(&deep.join("gateway.sock"), open()).unwrap();
    let beside = folder.path().join("link");
    std::os::unix::fs::symlink(&deep, &beside).unwrap();
    UnixStream::connect(beside.join("gateway.sock")).await.unwrap();
    gateway.close().await;
    assert!(!deep.join("gateway.sock").exists());
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_one_to_end() {
    let server = Server::start("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let place = gateway_with(only(&server), limited(Limits { connections: 1, ..Limits::default() }));
    let mut first = place.connect().await;
    first.write_all(format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\n\r\n", server.port).as_bytes()).await.unwrap();
    read_until(&mut first, "200").await;

    let url = format!("http://127.0.0.1:{}/", server.port);
    let second = place.get(&url);
    tokio::pin!(second);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut second).await.is_err());
    drop(first);
    assert!(second.await.starts_with("HTTP/1.1 200"));
}
