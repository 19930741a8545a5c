//! Connections: each is bounded in what may wait for a client that does not read, here and in the kernel.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use axum::extract::ConnectInfo;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};

use super::router;
use crate::App;

/// A client that takes nothing of what waits for it is disconnected after this.
const STALLED: Duration = Duration::from_secs(60);
/// Time for requests under way when the server goes down.
const DRAIN: Duration = Duration::from_secs(8);
/// Bytes that wait here for one client, give or take one piece of an answer.
const WAITING: usize = 64 << 10;
/// Bytes that wait in the kernel, which doubles it for its own use. By itself it would let megabytes wait for each viewer
/// that does not read; this still fills a line of 6 Mbit/s with 300 ms of latency.
const WAITING_IN_KERNEL: usize = 128 << 10;
/// Where connections cannot be taken (too many open files), it is tried again after this.
const REST: Duration = Duration::from_secs(1);

/// Answers requests until the app's shutdown token is cancelled, and those under way for a while longer.
///
/// # Errors
/// None so far.
pub async fn serve(app: Arc<App>, listener: TcpListener) -> Result<()> {
    let shutdown = app.shutdown.clone();
    let service = TowerToHyperService::new(router(app));
    let mut http = http1::Builder::new();
    http.max_buf_size(WAITING).timer(TokioTimer::new());
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_one(error.kind()) => continue,
                Err(error) => {
                    tracing::error!(%error, "taking a connection; it is tried again in {REST:?}");
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(REST) => continue,
                    }
                }
            },
        };
        set_up(&stream);
        let service = service.clone();
        let answer = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer));
            service.call(request)
        });
        let connection = http.serve_connection(TokioIo::new(stream), answer);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                // The client went away, or what it sent is no HTTP.
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    drop(listener);
    tokio::time::timeout(DRAIN, graceful.shutdown()).await.ok(); // Who takes longer is cut off with the process.
    Ok(())
}

/// Errors here mean that the peer is gone.
fn set_up(stream: &TcpStream) {
    // Small events shall not wait for the acknowledgement of the one before.
    stream.set_nodelay(true).ok();
    // Who takes nothing for so long is gone, or might as well be; what waits for it in the kernel is freed.
    rustix::net::sockopt::set_tcp_user_timeout(stream, u32::try_from(STALLED.as_millis()).unwrap_or(u32::MAX)).ok();
    rustix::net::sockopt::set_socket_send_buffer_size(stream, WAITING_IN_KERNEL).ok();
}

/// Whether it is about a connection that broke off before it was taken.
fn is_of_one(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}
