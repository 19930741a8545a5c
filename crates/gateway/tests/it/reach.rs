//! What gets through, over the exception for a server on this machine.

use codegen_gateway::{Gateway, Policy};
use tokio::io::AsyncWriteExt;

use crate::fixture::{Server, allow, gateway, only, read_until};

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nX-Kept: yes\r\n\r\nhello";

#[tokio::test]
async fn a_plain_request_arrives_without_the_headers_of_the_hop() {
    let server = Server::start(HELLO).await;
    let place = gateway(only(&server));
    let url = format!("http://127.0.0.1:{}/a/b?c=d", server.port);
    let answer = place
        .ask(&format!(
            "GET {url} HTTP/1.1\r\nHost: other.example\r\nProxy-Authorization: Basic x\r\nProxy-Connection: close\r\n\
             Connection: close, X-Private\r\nX-Private: 1\r\nX-Public: 2\r\n\r\n"
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
    assert!(answer.contains("x-kept: yes") && !answer.contains("timeout=5"), "{answer}");
    let asked = server.asked().remove(0).to_lowercase();
    assert!(asked.starts_with("get /a/b?c=d http/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("host: 127.0.0.1:{}\r\n", server.port)), "{asked}");
    assert!(asked.contains("x-public: 2"), "{asked}");
    for gone in ["other.example", "proxy-", "x-private"] {
        assert!(!asked.contains(gone), "{asked}");
    }
}

#[tokio::test]
async fn one_connection_takes_several_requests() {
    let server = Server::start(HELLO).await;
    let place = gateway(only(&server));
    let mut stream = place.connect().await;
    for _ in 0..3 {
        let request = format!("GET http://127.0.0.1:{}/ HTTP/1.1\r\nHost: x\r\n\r\n", server.port);
        stream.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut stream, "hello").await;
    }
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn chunked_bodies_pass_in_both_directions() {
    let server =
        Server::start("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n").await;
    let place = gateway(only(&server));
    let answer = place
        .ask(&format!(
            "POST http://127.0.0.1:{}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            server.port
        ))
        .await;
    assert!(answer.contains("one") && answer.contains("two"), "{answer}");
    assert!(server.asked()[0].contains("4\r\nbody\r\n0\r\n\r\n"), "{:?}", server.asked());
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways() {
    let server = Server::start("whatever the host says").await;
    let place = gateway(only(&server));
    let mut stream = place.connect().await;
    stream.write_all(format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\n\r\n", server.port).as_bytes()).await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    stream.write_all(b"not even HTTP\r\n\r\n").await.unwrap();
    read_until(&mut stream, "whatever the host says").await;
    assert_eq!(server.asked(), ["not even HTTP\r\n\r\n"]);
}

#[tokio::test]
async fn an_exception_by_name_holds_for_that_name_and_port_alone() {
    let server = Server::start(HELLO).await;
    let place = gateway(Policy {
        allow_private: vec![format!("LOCALHOST.:{}", server.port).parse().unwrap()],
        ..allow(&["*"])
    });
    assert!(place.get(&format!("http://localhost:{}/", server.port)).await.starts_with("HTTP/1.1 200"));
    assert!(place.get(&format!("http://127.0.0.1:{}/", server.port)).await.starts_with("HTTP/1.1 403"));
    assert!(place.get("http://localhost/").await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_a_bad_gateway_and_no_refusal() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let exception = format!("127.0.0.1:{port}");
    let mut place = gateway(Policy { allow_private: vec![exception.parse().unwrap()], ..allow(&[]) });
    let mut refusals = place.gateway.refusals();
    let answer = place.get(&format!("http://{exception}/")).await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("cannot be reached"), "{answer}");
    assert!(refusals.try_recv().is_err());
}

#[tokio::test]
async fn the_socket_is_removed_and_its_connections_end() {
    let server = Server::start(HELLO).await;
    let place = gateway(only(&server));
    let mut stream = place.connect().await;
    stream.write_all(format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\n\r\n", server.port).as_bytes()).await.unwrap();
    read_until(&mut stream, "200").await;
    place.gateway.close().await;
    assert!(!place.socket.exists());
    assert!(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.is_ok());

    let dropped = gateway(only(&server));
    drop(dropped.gateway);
    assert!(!dropped.socket.exists());
}

#[tokio::test]
async fn the_newest_gateway_has_the_socket_and_a_file_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gateway.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let gateway = Gateway::listen(&socket, allow(&[])).unwrap();
    let newer = Gateway::listen(&socket, allow(&[])).unwrap();
    gateway.close().await;
    assert!(socket.exists(), "an older gateway leaves a newer one's socket alone");
    newer.close().await;
    assert!(!socket.exists());
    std::fs::write(&socket, "precious").unwrap();
    assert_eq!(Gateway::listen(&socket, allow(&[])).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}
