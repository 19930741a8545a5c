//! Servers and workers of one PostgreSQL database, each a process with a data directory of its own, and a connection between
//! them and the database that can be cut.

use std::{
    io::{BufRead as _, BufReader},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{fixture::Fixture, server::Server};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

pub struct Cluster {
    pub fixture: Fixture,
    pub relay: Relay,
    model: String,
    settings: Vec<(String, String)>,
}

/// A `codegen worker`.
pub struct Worker {
    pub process: Child,
    said: PathBuf,
}

impl Cluster {
    /// Of processes with these settings, whose model follows this script.
    pub fn new(replies: &serde_json::Value, settings: &[(&str, &str)]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/postgres");
        let asked = Command::new(script).output().unwrap();
        assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
        let relay = Relay::to(String::from_utf8(asked.stdout).unwrap().trim());
        let fixture = Fixture::new();
        let model = format!("scripted:{}", fixture.script(replies).display());
        let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self { fixture, relay, model, settings }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = self.fixture.codegen();
        command
            .env("CODEGEN_DATA_DIR", self.fixture.dir.path().join(name))
            .env("DATABASE_URL", &self.relay.url)
            .env("CODEGEN_SECRET_KEY", KEY)
            .env("CODEGEN_DEFAULT_MODEL", &self.model)
            .env("CODEGEN_RATE_LIMITS", "off")
            .envs(self.settings.iter().cloned());
        command
    }

    /// `codegen serve --no-worker`; the first one has the log-in of the client commands.
    pub fn server(&self, name: &str) -> Server<'_> {
        let mut command = self.command(name);
        command.args(["serve", "--no-worker", "--addr", "127.0.0.1:0"]).stderr(self.said(name));
        Server::spawn(&self.fixture, command)
    }

    pub fn first_server(&self, name: &str) -> Server<'_> {
        let mut server = self.server(name);
        server.read_token();
        server.log_in(server.token.as_deref().unwrap());
        server
    }

    /// `codegen worker`.
    pub fn worker(&self, name: &str) -> Worker {
        let mut command = self.command(name);
        command.arg("worker").stdout(Stdio::piped()).stderr(self.said(name));
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with("codegen works on runs as "), "{line}");
        Worker { process, said: self.fixture.dir.path().join(format!("{name}.log")) }
    }

    fn said(&self, name: &str) -> std::fs::File {
        let path = self.fixture.dir.path().join(format!("{name}.log"));
        std::fs::File::options().create(true).append(true).open(path).unwrap()
    }
}

impl Worker {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// What it wrote to standard error.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap()
    }

    /// The runs that it claimed, in their order.
    pub fn claimed(&self) -> Vec<String> {
        let said = self.said();
        let claimed = said.lines().filter(|line| line.contains(" claimed"));
        claimed.filter_map(|line| Some(line.split(" claimed").next()?.rsplit("run ").next()?.to_owned())).collect()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Between processes and their database.
pub struct Relay {
    pub url: String,
    away: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<(TcpStream, UnixStream)>>>,
}

impl Relay {
    fn to(url: &str) -> Self {
        let socket = url.split("host=").nth(1).unwrap().split('&').next().unwrap();
        let socket = PathBuf::from(socket).join(".s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let relay = Self {
            url: format!("postgres://codegen@127.0.0.1:{port}/postgres?{}", url.split_once('&').unwrap().1),
            away: Arc::default(),
            open: Arc::default(),
        };
        let (away, open) = (relay.away.clone(), relay.open.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut open = open.lock().unwrap();
                if away.load(Ordering::SeqCst) {
                    continue;
                }
                let server = UnixStream::connect(&socket).unwrap();
                pass_on(&client, &server);
                open.push((client, server));
            }
        });
        relay
    }

    /// Cuts every connection and takes none for a while.
    pub fn cut_for(&self, time: Duration) {
        let mut open = self.open.lock().unwrap();
        self.away.store(true, Ordering::SeqCst);
        for (client, server) in open.drain(..) {
            // Those that have ended already are gone.
            client.shutdown(Shutdown::Both).ok();
            server.shutdown(Shutdown::Both).ok();
        }
        drop(open);
        thread::sleep(time);
        self.away.store(false, Ordering::SeqCst);
    }
}

fn pass_on(client: &TcpStream, server: &UnixStream) {
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    thread::spawn(move || {
        std::io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Both).ok();
    });
    thread::spawn(move || {
        std::io::copy(&mut back_from, &mut back_to).ok();
        back_to.shutdown(Shutdown::Both).ok();
    });
}

/// Looks again and again, where nothing tells of it.
pub fn until(what: &str, within: Duration, mut is: impl FnMut() -> bool) {
    let asked = Instant::now();
    while !is() {
        assert!(asked.elapsed() < within, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}
