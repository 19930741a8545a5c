//! What leaves a sandbox: an HTTP and CONNECT proxy on a unix socket, one per sandbox, that lets through what a policy names.
//! Knows nothing of orgs or SQL, and reads no environment.

mod address;
mod policy;
mod proxy;
mod registries;
mod upstream;

use std::{
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use address::{is_never_reachable, is_public};
pub use policy::{Mode, Origin, Policy};
pub use registries::{cargo_config, client_env, configured_registries, package_registries};
pub use upstream::Upstream;

/// Something a sandbox asked for and did not get.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refusal {
    /// As the sandbox asked for it.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// One sentence, which also says what setting would allow it; the sandbox got the same.
    pub reason: String,
}

/// How much one sandbox may ask of its gateway.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's head; at least 8 KiB.
    pub header_bytes: usize,
    /// From the connection, or the end of the previous request, to the end of the next head.
    pub header_timeout: Duration,
    /// From the request to a connection with the host, resolution included.
    pub connect_timeout: Duration,
    /// Connections at once; further ones wait.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(20),
            connections: 256,
        }
    }
}

/// What a gateway can be given beside its policy.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The proxy that this host itself must use.
    pub upstream: Option<Upstream>,
    /// How much the sandbox may ask for.
    pub limits: Limits,
}

/// One sandbox's way out. It ends, with every connection, when dropped or closed.
#[derive(Debug)]
pub struct Gateway {
    socket: PathBuf,
    /// Inode of the socket, which tells it from a later gateway's.
    inode: u64,
    refusals: Option<mpsc::Receiver<Refusal>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Gateway {
    /// Listens on a unix socket. Must be called within a tokio runtime.
    pub fn listen(socket: &Path, policy: Policy) -> io::Result<Self> {
        Self::listen_with(socket, policy, Options::default())
    }

    /// Listens on a unix socket, with an upstream proxy or other limits.
    ///
    /// Everybody who can reach the socket's folder may connect (the sandbox's processes have ids of their own),
    /// so the folder is what keeps others out. A socket that is there is replaced: who owns the sandbox owns its way out.
    pub fn listen_with(socket: &Path, policy: Policy, options: Options) -> io::Result<Self> {
        let rules = policy::Rules::compile(&policy)?;
        // Through the folder's descriptor, because the path of a socket may have no more than 107 bytes.
        let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket's path has no folder"));
        };
        let folder = std::fs::File::open(folder)?;
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        remove_socket(&short, socket)?;
        let listener = UnixListener::bind(&short)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
        let inode = std::fs::symlink_metadata(socket)?.ino();

        // A sandbox that hammers a closed door must not fill the memory: beyond this many unread refusals the rest is dropped.
        let (sender, refusals) = mpsc::channel(256);
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let connections = Arc::new(Semaphore::new(options.limits.connections));
        let proxy = Arc::new(proxy::Proxy {
            rules,
            options,
            refusals: sender,
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
        });
        let accepting = shutdown.clone();
        tasks.spawn(async move {
            accepting.run_until_cancelled(accept(listener, proxy, connections)).await;
        });
        Ok(Self { socket: socket.to_owned(), inode, refusals: Some(refusals), shutdown, tasks })
    }

    /// What was refused, as it happens. The first caller gets it; a later one gets a channel that is already closed.
    pub fn refusals(&mut self) -> mpsc::Receiver<Refusal> {
        self.refusals.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// The socket it listens on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends every connection, removes the socket, and returns when nothing is left running.
    pub async fn close(self) {
        self.end();
        self.tasks.wait().await;
    }

    fn end(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        if std::fs::symlink_metadata(&self.socket).is_ok_and(|meta| meta.ino() == self.inode) {
            std::fs::remove_file(&self.socket).ok(); // Gone with its folder just now.
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if !self.shutdown.is_cancelled() {
            self.end();
        }
    }
}

async fn accept(listener: UnixListener, proxy: Arc<proxy::Proxy>, connections: Arc<Semaphore>) {
    while let Ok(permit) = connections.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let proxy = proxy.clone();
                proxy.tasks.clone().spawn(proxy.serve(stream, permit));
            }
            Err(error) => {
                // Out of file descriptors, most likely: others will be closed in a while.
                tracing::warn!(%error, "accepting a sandbox's connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn remove_socket(socket: &Path, shown: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(socket) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        let text = format!("{}: is there already and is no socket", shown.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    std::fs::remove_file(socket)
}

/// A sandbox's connection.
pub(crate) type Client = UnixStream;
