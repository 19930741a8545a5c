//! A sandbox seen from the server: requests to its supervisor.

use std::{
    io::{self, IoSliceMut},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::mpsc,
};

use super::{
    wake,
    wire::{Answer, Ask, EXIT_FRAME, KILL, MAX_FRAME, Process, Request, WORKSPACE},
};
use crate::{Error, Event, Exec, Fence, Isolation, Running, Sandbox, Stream};

/// A live sandbox of the local engine.
#[derive(Debug)]
pub struct LocalSandbox {
    isolation: Isolation,
    way: Way,
    /// Tells the supervisor that it has an owner.
    _hold: UnixStream,
}

/// The way to a supervisor, for one owner.
#[derive(Debug, Clone)]
struct Way {
    id: String,
    folder: Arc<OwnedFd>,
    supervisor: Process,
    fence: Fence,
}

/// Longest frame of a spool a client accepts.
const MAX_OUTPUT: usize = 1 << 20;
/// A supervisor answers at once. One that does not for this long is stopped or lost, and its sandbox is taken for gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// One that does not for this long may have been stopped by someone, and is let go on.
const STOPPED: Duration = Duration::from_millis(300);
/// How often a silent command's supervisor is asked whether it lives.
const PULSE: Duration = Duration::from_secs(30);
/// Of a request sent at once.
const PART: usize = 1 << 20;

fn io_error(what: &str) -> impl FnOnce(io::Error) -> Error {
    let what = what.to_owned();
    move |error| Error::Io(what, error)
}

fn socket_path(folder: &OwnedFd) -> PathBuf {
    // Through the descriptor, because the path of a socket may have no more than 107 bytes.
    format!("/proc/self/fd/{}/sock", folder.as_raw_fd()).into()
}

fn encode(fence: Fence, ask: Ask, stdin: &[u8]) -> Result<Vec<u8>, Error> {
    let json = serde_json::to_vec(&Request { fence, ask })
        .map_err(|error| Error::Io("encoding a request".into(), error.into()))?;
    if json.len() > MAX_FRAME || stdin.len() > MAX_FRAME {
        return Err(Error::Start("its arguments or its input are longer than a gigabyte".into()));
    }
    let mut bytes = Vec::with_capacity(json.len() + stdin.len() + 8);
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend(json);
    bytes.extend((stdin.len() as u32).to_le_bytes());
    bytes.extend(stdin);
    Ok(bytes)
}

async fn read_frame(stream: &mut UnixStream, most: usize) -> io::Result<Vec<u8>> {
    let length = stream.read_u32_le().await? as usize;
    if length > most {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

impl LocalSandbox {
    /// Connects as the owner with `fence`.
    pub async fn open(
        id: &str,
        isolation: Isolation,
        folder: OwnedFd,
        supervisor: Process,
        fence: Fence,
    ) -> Result<Self, Error> {
        let way = Way { id: id.to_owned(), folder: Arc::new(folder), supervisor, fence };
        let hold = ask(&way, Ask::Hold, &[]).await?.ok_or_else(|| Error::Gone(id.to_owned()))?;
        Ok(Self { isolation, way, _hold: hold })
    }
}

async fn bounded<T>(way: &Way, step: impl Future<Output = io::Result<T>>) -> Result<T, Error> {
    let mut step = pin!(step);
    let done = match tokio::time::timeout(STOPPED, &mut step).await {
        Ok(done) => Ok(done),
        Err(_) => {
            wake(way.supervisor);
            tokio::time::timeout(PATIENCE, step).await
        }
    };
    match done {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) | Err(_) => Err(Error::Gone(way.id.clone())),
    }
}

/// One request; none when it names a command that the sandbox does not know.
async fn ask(way: &Way, ask: Ask, stdin: &[u8]) -> Result<Option<UnixStream>, Error> {
    let mut stream = bounded(way, UnixStream::connect(socket_path(&way.folder))).await?;
    for part in encode(way.fence, ask, stdin)?.chunks(PART) {
        bounded(way, stream.write_all(part)).await?;
    }
    let answer = bounded(way, read_frame(&mut stream, MAX_OUTPUT)).await?;
    match decode(&way.id, &answer)? {
        Answer::Ok => Ok(Some(stream)),
        Answer::Fenced => Err(Error::Fenced(way.id.clone())),
        Answer::Unknown => Ok(None),
        Answer::Refused(sentence) => Err(Error::Start(sentence)),
    }
}

fn decode(id: &str, bytes: &[u8]) -> Result<Answer, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Io(format!("reading the answer of sandbox {id}"), error.into()))
}

/// Passes a followed command's frames on, for as long as its supervisor lives.
fn follow(stream: UnixStream, way: &Way) -> Running {
    let (way, supervisor) = (way.clone(), way.supervisor);
    let living = async move {
        loop {
            tokio::time::sleep(PULSE).await;
            if ask(&way, Ask::Hold, &[]).await.is_err() {
                return;
            }
        }
    };
    let (events, receiver) = mpsc::channel(64);
    let (kill, mut kills) = mpsc::channel::<()>(1);
    let (mut read, mut write) = stream.into_split();
    let reading = async move {
        loop {
            let Ok(tag) = read.read_u8().await else { return };
            let Ok(length) = read.read_u32_le().await else { return };
            if length as usize > MAX_OUTPUT {
                return;
            }
            let mut bytes = vec![0; length as usize];
            if read.read_exact(&mut bytes).await.is_err() {
                return;
            }
            let event = if tag == EXIT_FRAME {
                let Ok(exit) = serde_json::from_slice(&bytes) else { return };
                Event::Exited(exit)
            } else {
                Event::Output { fd: tag, bytes }
            };
            if events.send(event).await.is_err() || tag == EXIT_FRAME {
                return;
            }
        }
    };
    let killing = async move {
        while kills.recv().await.is_some() {
            wake(supervisor);
            if write.write_all(&[KILL]).await.is_err() {
                return;
            }
        }
        // Nobody can kill it any more; the write half stays open for the reader.
        std::future::pending::<()>().await;
    };
    tokio::spawn(async move {
        tokio::select! {
            () = reading => {}
            () = killing => {}
            () = living => {}
        }
    });
    Running { events: receiver, kill }
}

#[async_trait]
impl Sandbox for LocalSandbox {
    fn id(&self) -> &str {
        &self.way.id
    }

    fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    fn workspace(&self) -> &str {
        WORKSPACE
    }

    fn scratch(&self) -> &str {
        "/tmp"
    }

    fn mounted(&self, target: &str) -> String {
        target.to_owned()
    }

    async fn start(&self, mut exec: Exec) -> Result<Running, Error> {
        let stdin = std::mem::take(&mut exec.stdin);
        let stream = ask(&self.way, Ask::Start(exec), &stdin).await?;
        Ok(follow(stream.ok_or_else(|| Error::Gone(self.way.id.clone()))?, &self.way))
    }

    async fn reattach(&self, key: &str) -> Result<Option<Running>, Error> {
        let stream = ask(&self.way, Ask::Follow(key.to_owned()), &[]).await?;
        Ok(stream.map(|stream| follow(stream, &self.way)))
    }

    async fn connect(&self, port: u16) -> Result<Box<dyn Stream>, Error> {
        let request = encode(self.way.fence, Ask::Connect(port), &[])?;
        let id = self.way.id.clone();
        let stream = bounded(&self.way, UnixStream::connect(socket_path(&self.way.folder))).await?;
        let stream = stream.into_std().map_err(io_error("connecting"))?;
        let received = tokio::task::spawn_blocking(move || receive_socket(stream, &request)).await;
        let (answer, socket) = received
            .map_err(|error| Error::Io("connecting".into(), io::Error::other(error)))?
            .map_err(|_| Error::Gone(id.clone()))?;
        match (decode(&id, &answer)?, socket) {
            (Answer::Ok, Some(socket)) => {
                let socket = std::net::TcpStream::from(socket);
                socket.set_nonblocking(true).map_err(io_error("taking the socket"))?;
                Ok(Box::new(TcpStream::from_std(socket).map_err(io_error("taking the socket"))?))
            }
            (Answer::Ok, None) => Err(Error::Io("connecting".into(), io::Error::other("no socket came"))),
            (Answer::Fenced, _) => Err(Error::Fenced(id)),
            (Answer::Unknown, _) => Err(Error::Gone(id)),
            (Answer::Refused(sentence), _) => Err(Error::Io(
                format!("connecting to sandbox {id}"),
                io::Error::new(io::ErrorKind::ConnectionRefused, sentence),
            )),
        }
    }
}

fn receive_socket(mut stream: StdUnixStream, request: &[u8]) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    use io::{Read, Write};
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut length = [0; 4];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got =
        rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut length)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes != length.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let socket = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_OUTPUT {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok((answer, socket))
}
