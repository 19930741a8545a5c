//! What is refused, and what the sandbox and the trace are told.

use codegen_gateway::{Mode, Policy};

use crate::fixture::{Server, allow, gateway, only, open};

#[tokio::test]
async fn a_host_off_the_list_is_refused_with_the_setting_and_reported() {
    let mut place = gateway(allow(&["*.pypi.org"]));
    let mut refusals = place.gateway.refusals();
    for answer in [place.tunnel("evil.example:443").await, place.get("http://evil.example/").await] {
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(answer.contains("the setting `egress_allow` can name it."), "{answer}");
    }
    let refusal = refusals.recv().await.unwrap();
    assert_eq!((refusal.host.as_str(), refusal.port), ("evil.example", 443));
    assert!(refusal.reason.contains("not on the allow-list"), "{}", refusal.reason);
    assert_eq!(refusals.recv().await.unwrap().port, 80);
}

#[tokio::test]
async fn a_closed_sandbox_reaches_nothing() {
    let server = Server::start("").await;
    let place = gateway(Policy { mode: Mode::Closed, ..only(&server) });
    let answer = place.tunnel(&server.origin().to_string()).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("`egress`"), "{answer}");
}

#[tokio::test]
async fn only_web_ports_are_open() {
    let place = gateway(open());
    for port in [22, 25, 3128, 8080] {
        let answer = place.tunnel(&format!("example.com:{port}")).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains(&format!("`example.com:{port}`")), "{answer}");
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_this_machine_is_refused_although_it_is_on_the_list() {
    let place = gateway(allow(&["localhost"]));
    let answer = place.tunnel("localhost:443").await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("at a private or special address"), "{answer}");
}

#[tokio::test]
async fn private_and_special_addresses_are_refused_to_an_open_policy() {
    let place = gateway(open());
    for host in [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[2002:7f00:1::]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::169.254.169.254]",
    ] {
        for answer in [place.tunnel(&format!("{host}:443")).await, place.get(&format!("http://{host}/")).await] {
            assert!(answer.starts_with("HTTP/1.1 403"), "{host}: {answer}");
        }
    }
}

#[tokio::test]
async fn metadata_is_refused_even_to_an_exception() {
    let allow_private = ["169.254.169.254:80", "[fd00:ec2::254]:80"].map(|o| o.parse().unwrap()).to_vec();
    let place = gateway(Policy { allow_private, ..open() });
    for url in ["http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/"] {
        let answer = place.get(url).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("no setting allows that"), "{answer}");
    }
}

#[tokio::test]
async fn a_request_that_leads_back_to_the_gateway_is_refused() {
    let server = Server::start("").await;
    let place = gateway(only(&server));
    let url = format!("http://127.0.0.1:{}/", server.port);
    let answer = place
        .ask(&format!("GET {url} HTTP/1.1\r\nHost: x\r\nVia: 1.1 codegen-gateway\r\nConnection: close\r\n\r\n"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("back to this gateway"), "{answer}");
    // The gateway as the sandbox sees it: its own loopback, which out here is the host's.
    assert!(place.get("http://127.0.0.1:3128/").await.starts_with("HTTP/1.1 403"));
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn what_is_no_proxy_request_is_malformed() {
    let place = gateway(open());
    for request in [
        "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n",
        "GET ftp://example.com/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET https://example.com/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET http://user@example.com/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "CONNECT example.com HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "CONNECT example.com:99999 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let answer = place.ask(request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{request:?}: {answer}");
    }
}
