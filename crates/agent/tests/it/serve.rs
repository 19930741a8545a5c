//! A model server on a real socket that says what it is told to.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use codegen_agent::{
    Delta, Entry, Reply,
    models::{Model, ModelError, Request, ToolSpec},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// One answer.
pub struct Answer {
    pub status: u16,
    pub headers: &'static str,
    pub pieces: Vec<Vec<u8>>,
    /// Keeps the connection open and says nothing more.
    pub stalls: bool,
}

pub fn whole(status: u16, headers: &'static str, body: &str) -> Answer {
    Answer { status, headers, pieces: vec![body.as_bytes().to_vec()], stalls: false }
}

/// A stream cut into pieces of a few bytes, through characters and lines.
pub fn cut(stream: &str) -> Answer {
    let pieces = stream.as_bytes().chunks(7).map(<[u8]>::to_vec).collect();
    Answer { status: 200, headers: "content-type: text/event-stream\r\n", pieces, stalls: false }
}

pub struct Server {
    pub url: String,
    /// Request heads and bodies.
    pub asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    pub async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut answers) = (asked.clone(), VecDeque::from(answers));
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut bytes = Vec::new();
                let (head, body) = loop {
                    let mut buffer = [0; 4096];
                    let n = socket.read(&mut buffer).await.unwrap();
                    bytes.extend_from_slice(&buffer[..n]);
                    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
                    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
                    let length = head.split("content-length: ").nth(1).and_then(|s| s.lines().next()?.parse().ok());
                    if bytes.len() >= end + 4 + length.unwrap_or(0) {
                        break (head, serde_json::from_slice(&bytes[end + 4..]).unwrap());
                    }
                };
                seen.lock().unwrap().push((head, body));
                let Answer { status, headers, pieces, stalls } =
                    answers.pop_front().expect("an answer for each question");
                let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}\r\n");
                socket.write_all(head.as_bytes()).await.unwrap();
                for piece in pieces {
                    socket.write_all(&piece).await.unwrap();
                    socket.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
                if stalls {
                    tokio::spawn(async move {
                        std::future::pending::<()>().await;
                        drop(socket);
                    });
                }
            }
        });
        Self { url, asked }
    }
}

/// Asks once; the reply and its streamed text.
pub async fn ask(model: &dyn Model, history: &[Entry]) -> (Result<Reply, ModelError>, String) {
    let tools = [ToolSpec { name: "shell", description: "Runs.", parameters: json!({"type": "object"}) }];
    let mut streamed = String::new();
    let request = Request { system: "Be good.", history, tools: &tools };
    let reply = model
        .reply(request, &mut |delta| {
            if let Delta::Text { text } = delta {
                streamed.push_str(&text);
            }
        })
        .await;
    (reply, streamed)
}

/// Asks a server that begins an answer and then stalls; the time goes by as soon as the first text is there.
pub async fn ask_stalling(model: &dyn Model, history: &[Entry]) -> Result<Reply, ModelError> {
    let begun = std::sync::Once::new();
    model.reply(Request { system: "", history, tools: &[] }, &mut |_| begun.call_once(tokio::time::pause)).await
}
