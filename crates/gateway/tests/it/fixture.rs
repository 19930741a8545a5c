//! A gateway in a temporary folder, a raw client of its socket, and servers on this machine to be reached through it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use codegen_gateway::{Gateway, Mode, Options, Origin, Policy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
};

pub struct Place {
    pub gateway: Gateway,
    pub socket: PathBuf,
    _folder: tempfile::TempDir,
}

pub fn gateway(policy: Policy) -> Place {
    gateway_with(policy, Options::default())
}

pub fn gateway_with(policy: Policy, options: Options) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gateway.sock");
    Place { gateway: Gateway::listen_with(&socket, policy, options).unwrap(), socket, _folder: folder }
}

pub fn open() -> Policy {
    Policy { mode: Mode::Open, allow_private: vec![] }
}

pub fn allow(patterns: &[&str]) -> Policy {
    Policy { mode: Mode::Allow(patterns.iter().map(ToString::to_string).collect()), allow_private: vec![] }
}

/// Nothing but one server on this machine.
pub fn only(server: &Server) -> Policy {
    Policy { allow_private: vec![server.origin()], ..allow(&[]) }
}

impl Place {
    pub async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// Sends one request on a connection of its own; the whole answer as text.
    pub async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    pub async fn get(&self, url: &str) -> String {
        self.ask(&format!("GET {url} HTTP/1.1\r\nHost: ignored\r\nConnection: close\r\n\r\n")).await
    }

    pub async fn tunnel(&self, target: &str) -> String {
        self.ask(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")).await
    }
}

/// Reads from a stream until the text has arrived.
pub async fn read_until(stream: &mut UnixStream, text: &str) -> String {
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains(text) {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the connection ended before {text:?}: {:?}", String::from_utf8_lossy(&answer));
        answer.extend(&buffer[..count]);
    }
    String::from_utf8(answer).unwrap()
}

/// A server that answers every request of a connection with the same bytes, and keeps what it was asked.
pub struct Server {
    pub port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let kept = kept.clone();
                tokio::spawn(async move {
                    let mut request = String::new();
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        request += std::str::from_utf8(&buffer[..count]).unwrap();
                        let whole = request.ends_with("\r\n\r\n")
                            && (!request.contains("chunked") || request.ends_with("0\r\n\r\n"));
                        if whole {
                            kept.lock().unwrap().push(std::mem::take(&mut request));
                            stream.write_all(answer.as_bytes()).await.ok();
                        }
                    }
                });
            }
        });
        Self { port, asked }
    }

    pub fn origin(&self) -> Origin {
        Origin { host: "127.0.0.1".into(), port: self.port }
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}
