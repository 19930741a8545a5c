//! One connection of a sandbox: its requests are checked, sent on, or refused in a sentence.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{Either, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Host;

use crate::{
    Client, Options, Refusal,
    address::{is_never_reachable, is_public},
    policy::{Reach, Rules, normal_host},
};

/// Our name in `Via`, by which a request that comes back to us is known.
const PSEUDONYM: &str = "codegen-gateway";

/// What every connection shares.
pub struct Proxy {
    /// The policy.
    pub rules: Rules,
    /// Upstream proxy and limits.
    pub options: Options,
    /// Where refusals go.
    pub refusals: mpsc::Sender<Refusal>,
    /// Ends every connection.
    pub shutdown: CancellationToken,
    /// Every connection and tunnel.
    pub tasks: TaskTracker,
}

type Reply = Response<Either<Incoming, Full<Bytes>>>;

/// Why a request was not sent on.
enum Failure {
    /// The policy is against it: 403, and reported.
    Refused(String),
    /// The request makes no sense to a proxy: 400.
    Malformed(String),
    /// The host could not be reached: 502, or 504 when it took too long.
    Unreachable(StatusCode, String),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where a checked request goes.
enum Route {
    /// To one of these addresses, each of which was checked.
    Direct(Vec<SocketAddr>),
    /// To the host's own proxy.
    Upstream,
}

impl Proxy {
    /// Serves one connection until either side ends it. The permit is held by its tunnel too.
    pub async fn serve(self: Arc<Self>, stream: Client, permit: OwnedSemaphorePermit) {
        let permit = Arc::new(permit);
        let proxy = self.clone();
        let service = service_fn(move |request| {
            let (proxy, permit) = (proxy.clone(), permit.clone());
            async move { Ok::<_, Infallible>(proxy.answer(request, permit).await) }
        });
        let limits = &self.options.limits;
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(limits.header_bytes.max(8192))
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        if let Some(Err(error)) = self.shutdown.run_until_cancelled(connection).await {
            tracing::debug!(%error, "a sandbox's connection ended");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, permit: Arc<OwnedSemaphorePermit>) -> Reply {
        let target = request.uri().clone();
        let result = match *request.method() {
            Method::CONNECT => self.clone().tunnel(request, permit).await,
            _ => self.forward(request).await,
        };
        let (status, sentence) = match result {
            Ok(reply) => return reply,
            Err(Failure::Refused(reason)) => {
                let host = target.host().unwrap_or_default().to_owned();
                let port = target.port_u16().unwrap_or(80);
                tracing::info!(host, port, reason, "a sandbox's request was refused");
                // Full means that nobody reads them; the sandbox is told in any case.
                self.refusals.try_send(Refusal { host, port, reason: reason.clone() }).ok();
                (StatusCode::FORBIDDEN, reason)
            }
            Err(Failure::Malformed(reason)) => (StatusCode::BAD_REQUEST, reason),
            Err(Failure::Unreachable(status, reason)) => (status, reason),
        };
        let mut reply = Response::new(Either::Right(Full::from(format!("{sentence}\n"))));
        *reply.status_mut() = status;
        reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        reply
    }

    async fn tunnel(
        self: Arc<Self>,
        request: Request<Incoming>,
        permit: Arc<OwnedSemaphorePermit>,
    ) -> Result<Reply, Failure> {
        let (host, port) = authority(request.uri(), None)?;
        let mut outside: Box<dyn Stream> = match self.route(&host, port).await? {
            Route::Direct(addresses) => Box::new(self.connect(&host, port, &addresses).await?),
            Route::Upstream => {
                let through = async {
                    match &self.options.upstream {
                        Some(upstream) => upstream.tunnel(&host, port).await,
                        None => Err(io::Error::other("no upstream proxy")),
                    }
                };
                Box::new(within(self.options.limits.connect_timeout, &host, port, through).await?)
            }
        };
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let copying = async {
                let inside = hyper::upgrade::on(request).await.map_err(io::Error::other)?;
                tokio::io::copy_bidirectional(&mut TokioIo::new(inside), &mut outside).await
            };
            if let Some(Err(error)) = shutdown.run_until_cancelled(copying).await {
                tracing::debug!(%error, "a tunnel ended");
            }
            drop(permit);
        });
        Ok(Response::new(Either::Right(Full::default())))
    }

    async fn forward(&self, mut request: Request<Incoming>) -> Result<Reply, Failure> {
        if request.uri().scheme_str() != Some("http") {
            let text = "This is a proxy: it takes CONNECT host:port and http:// URLs.";
            return Err(Failure::Malformed(text.into()));
        }
        let (host, port) = authority(request.uri(), Some(80))?;
        let came_back = request.headers().get_all(header::VIA).iter().any(|v| contains(v.as_bytes(), PSEUDONYM));
        if came_back {
            return Err(Failure::Refused(format!(
                "{host}:{port} was refused: it leads back to this gateway, and no setting allows that."
            )));
        }
        let route = self.route(&host, port).await?;

        drop_hop_headers(request.headers_mut());
        request.headers_mut().remove(header::EXPECT); // Answered on this side of the gateway.
        // The host that was checked is the one that is asked, whatever the client's own header says.
        let target = if port == 80 { host.to_string() } else { format!("{host}:{port}") };
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let uri = match route {
            Route::Direct(_) => path,
            Route::Upstream => format!("http://{target}{path}"),
        };
        let malformed = |_| Failure::Malformed("the URL is not valid".into());
        *request.uri_mut() = uri.parse::<Uri>().map_err(malformed)?;
        *request.version_mut() = http::Version::HTTP_11;
        let target = HeaderValue::try_from(target).map_err(|_| Failure::Malformed("the host is not valid".into()))?;
        request.headers_mut().insert(header::HOST, target);
        request.headers_mut().append(header::VIA, HeaderValue::from_static("1.1 codegen-gateway"));

        let stream = match (&route, &self.options.upstream) {
            (Route::Upstream, Some(upstream)) => {
                if let Some(value) = upstream.authorization() {
                    request.headers_mut().insert(header::PROXY_AUTHORIZATION, value);
                }
                within(self.options.limits.connect_timeout, &host, port, upstream.connect()).await?
            }
            (Route::Direct(addresses), _) => self.connect(&host, port, addresses).await?,
            (Route::Upstream, None) => return Err(unreachable(&host, port, "no upstream proxy")),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&host, port, error))?;
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move { shutdown.run_until_cancelled(connection).await });
        let mut response = sender.send_request(request).await.map_err(|error| unreachable(&host, port, error))?;
        drop_hop_headers(response.headers_mut());
        Ok(response.map(Either::Left))
    }

    /// Checks the name, resolves it, and checks what it resolved to. Only what is returned is connected to, so that
    /// a name cannot answer with one address to the check and with another to the connection.
    async fn route(&self, host: &Host, port: u16) -> Result<Route, Failure> {
        let reach = self.rules.check(host, port).map_err(Failure::Refused)?;
        let upstream = self.options.upstream.as_ref().filter(|upstream| upstream.takes(host));
        let limit = self.options.limits.connect_timeout;
        let found: io::Result<Vec<SocketAddr>> = match host {
            Host::Ipv4(address) => Ok(vec![((*address), port).into()]),
            Host::Ipv6(address) => Ok(vec![((*address), port).into()]),
            Host::Domain(name) => match timeout(limit, tokio::net::lookup_host((name.as_str(), port))).await {
                Ok(found) => found.map(Iterator::collect),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            },
        };
        let found = match found {
            Ok(found) => found,
            // Behind a proxy a host often cannot resolve names of the outside; the proxy then decides where they lead.
            Err(_) if upstream.is_some() => return Ok(Route::Upstream),
            Err(error) => {
                let status = timed_out(&error);
                return Err(Failure::Unreachable(
                    status,
                    format!("{host}:{port}: the name does not resolve: {error}."),
                ));
            }
        };
        let open = |address: &SocketAddr| {
            let ip = address.ip();
            !is_never_reachable(ip) && (reach == Reach::Private || is_public(ip))
        };
        let checked: Vec<_> = found.into_iter().filter(open).collect();
        if checked.is_empty() {
            let reason = match reach {
                Reach::Public => format!(
                    "{host}:{port} was refused: it is at a private or special address, where only a registry that this \
                     host's own package clients are set up with may be."
                ),
                Reach::Private => format!(
                    "{host}:{port} was refused: it is at a metadata or multicast address, and no setting allows that."
                ),
            };
            return Err(Failure::Refused(reason));
        }
        Ok(if upstream.is_some() { Route::Upstream } else { Route::Direct(checked) })
    }

    async fn connect(&self, host: &Host, port: u16, addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
        let stream = within(self.options.limits.connect_timeout, host, port, TcpStream::connect(addresses)).await?;
        stream.set_nodelay(true).ok(); // Only slower without.
        Ok(stream)
    }
}

/// The host and port of a request, in the host's one spelling.
fn authority(uri: &Uri, default_port: Option<u16>) -> Result<(Host, u16), Failure> {
    let malformed = |text: &str| Failure::Malformed(format!("{uri}: {text}."));
    let authority = uri.authority().ok_or_else(|| malformed("there is no host"))?;
    if authority.as_str().contains('@') {
        return Err(malformed("a user in the URL is not taken"));
    }
    let port = match authority.port() {
        Some(port) => port.as_str().parse().map_err(|_| malformed("the port is not valid"))?,
        None if authority.as_str().ends_with(':') => return Err(malformed("the port is not valid")),
        None => default_port.ok_or_else(|| malformed("there is no port"))?,
    };
    let host = normal_host(authority.host())
        .map_err(|why| Failure::Refused(format!("{authority} was refused: {why}, and no setting allows that.")))?;
    Ok((host, port))
}

/// Headers that speak of one connection and not of the message (RFC 9110, 7.6.1).
fn drop_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
}

async fn within<T>(
    limit: Duration,
    host: &Host,
    port: u16,
    connecting: impl Future<Output = io::Result<T>>,
) -> Result<T, Failure> {
    let result = timeout(limit, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    result
        .map_err(|error| Failure::Unreachable(timed_out(&error), format!("{host}:{port} cannot be reached: {error}.")))
}

fn unreachable(host: &Host, port: u16, error: impl std::fmt::Display) -> Failure {
    Failure::Unreachable(StatusCode::BAD_GATEWAY, format!("{host}:{port} did not answer: {error}."))
}

fn timed_out(error: &io::Error) -> StatusCode {
    if error.kind() == io::ErrorKind::TimedOut { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY }
}

fn contains(value: &[u8], word: &str) -> bool {
    value.windows(word.len()).any(|window| window == word.as_bytes())
}
