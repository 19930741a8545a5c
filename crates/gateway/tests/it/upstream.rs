//! A host that must use a proxy itself.

use codegen_gateway::{Options, Policy, Upstream};
use tokio::io::AsyncWriteExt;

use crate::fixture::{Server, allow, gateway_with, open, read_until};

fn through(proxy: &Server, no_proxy: &str) -> Options {
    let env = [("https_proxy", format!("http://ann:pass@127.0.0.1:{}", proxy.port)), ("no_proxy", no_proxy.to_owned())];
    let upstream = Upstream::from_env(&env.map(|(k, v)| (k.to_owned(), v)).into()).unwrap();
    Options { upstream, ..Options::default() }
}

#[tokio::test]
async fn tunnels_and_requests_go_through_the_hosts_own_proxy() {
    let proxy = Server::start("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let place = gateway_with(open(), through(&proxy, ""));
    let mut stream = place.connect().await;
    stream.write_all(b"CONNECT nowhere.invalid:443 HTTP/1.1\r\n\r\n").await.unwrap();
    read_until(&mut stream, "200").await;
    assert!(place.get("http://nowhere.invalid/x").await.starts_with("HTTP/1.1 200"));
    let asked = proxy.asked();
    assert!(asked[0].starts_with("CONNECT nowhere.invalid:443 HTTP/1.1\r\n"), "{asked:?}");
    assert!(asked[1].starts_with("GET http://nowhere.invalid/x HTTP/1.1\r\n"), "{asked:?}");
    assert!(asked.iter().all(|a| a.contains("proxy-authorization: Basic YW5uOnBhc3M=")), "{asked:?}");
}

#[tokio::test]
async fn the_policy_holds_in_front_of_the_hosts_proxy() {
    let proxy = Server::start("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let place = gateway_with(allow(&["localhost"]), through(&proxy, ""));
    for target in ["evil.example:443", "localhost:443", "127.0.0.1:443"] {
        assert!(place.tunnel(target).await.starts_with("HTTP/1.1 403"), "{target}");
    }
    assert!(proxy.asked().is_empty());
}

#[tokio::test]
async fn a_host_in_no_proxy_is_reached_directly() {
    let proxy = Server::start("").await;
    let server = Server::start("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ndirect").await;
    let policy = Policy { allow_private: vec![server.origin()], ..allow(&[]) };
    let place = gateway_with(policy, through(&proxy, "127.0.0.1"));
    assert!(place.get(&format!("http://127.0.0.1:{}/", server.port)).await.ends_with("direct"));
    assert!(proxy.asked().is_empty());
}
