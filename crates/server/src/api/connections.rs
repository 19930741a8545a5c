//! Connections: how many there may be, for how long one may say nothing, and what may wait for a client that does not read,
//! here and in the kernel.

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
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

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
/// Open files for everything else: the database, git, sandboxes.
const RESERVED: u64 = 4096;

/// Answers requests until the app's shutdown token is cancelled, and those under way for a while longer. A connection that
/// sends no whole head of a request for as long as the setting `idle_s` says is closed.
///
/// # Errors
/// None so far.
pub async fn serve(app: Arc<App>, listener: TcpListener) -> Result<()> {
    let (shutdown, idle) = (app.shutdown.clone(), Duration::from_secs(app.config.idle_s));
    let most = usize::try_from(connections(raise_open_files())).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    let (free, mut told) = (Arc::new(Semaphore::new(most)), false);
    let service = TowerToHyperService::new(router(app));
    let mut http = http1::Builder::new();
    // The time of a head counts from the end of the answer before, too.
    http.max_buf_size(WAITING).timer(TokioTimer::new()).header_read_timeout(idle);
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
        // Whoever comes when all are taken is sent away at once, not kept waiting.
        let Ok(permit) = free.clone().try_acquire_owned() else {
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(most, "all {most} connections are taken; more are closed at once");
            }
            continue;
        };
        told &= free.available_permits() == 0;
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
            drop(permit);
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

/// Raises this process's limit of open files to what it may have, and says what it is now. Sandboxes are made by a process
/// that was there before and keep theirs.
fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(cause) => {
            tracing::warn!(%cause, "raising the limit of open files");
            limit.current
        }
    }
}

/// Connections that there is room for under a limit of open files.
fn connections(descriptors: Option<u64>) -> u64 {
    let Some(all) = descriptors else { return u64::MAX };
    all - RESERVED.min(all / 4)
}

#[cfg(test)]
mod tests {
    use super::connections;

    #[test]
    fn a_quarter_of_the_descriptors_and_at_most_4096_are_kept_for_other_things() {
        assert_eq!(connections(Some(1024)), 768);
        assert_eq!(connections(Some(20_000)), 15_904);
        assert_eq!(connections(None), u64::MAX);
    }
}
