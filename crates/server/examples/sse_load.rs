//! Load client of `bench/sse.py`: one thread that holds many event streams and notes when each entry came.
//!
//! `sse_load HOST:PORT PATH TOKEN VIEWERS OUT` says `ready` once all streams are open, ends when they do, and writes a line
//! per viewer and entry to OUT: entry number and unix microseconds.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    io::{BufWriter, Read as _, Write as _},
    net::TcpStream,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::event::epoll;

/// One stream; what was read of a line that is not complete yet, as far as it matters.
struct Viewer {
    stream: TcpStream,
    line: Vec<u8>,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, address, path, token, viewers, out] = args.as_slice() else { panic!("see the first lines of this file") };
    let viewers: usize = viewers.parse().unwrap();
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let mut all = Vec::with_capacity(viewers);
    for n in 0..viewers {
        let mut stream = TcpStream::connect(address).unwrap();
        let asks = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(asks.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        epoll::add(&poll, &stream, epoll::EventData::new_u64(n as u64), epoll::EventFlags::IN).unwrap();
        all.push(Viewer { stream, line: Vec::new() });
    }
    let (mut records, mut open, mut begun) = (Vec::with_capacity(viewers * 1000), viewers, 0);
    let mut buffer = vec![0; 256 << 10];
    let mut events = Vec::with_capacity(1024);
    while open > 0 {
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        for event in events.drain(..) {
            let viewer = &mut all[usize::try_from(event.data.u64()).unwrap()];
            let read = match viewer.stream.read(&mut buffer) {
                Ok(0) => {
                    epoll::delete(&poll, &viewer.stream).unwrap();
                    open -= 1;
                    continue;
                }
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => panic!("{error}"),
            };
            let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
            for piece in buffer[..read].split_inclusive(|b| *b == b'\n') {
                if viewer.line.len() < 64 {
                    viewer.line.extend_from_slice(&piece[..piece.len().min(64)]);
                }
                if piece.ends_with(b"\n") {
                    if let Some(id) = viewer.line.strip_prefix(b"id: ") {
                        let id: u32 = std::str::from_utf8(id).unwrap().trim().parse().unwrap();
                        if id == 1 {
                            begun += 1;
                            if begun == viewers {
                                println!("ready");
                            }
                        }
                        records.push((id, now));
                    } else if viewer.line.starts_with(b"event: end") {
                        epoll::delete(&poll, &viewer.stream).unwrap();
                        open -= 1;
                    }
                    viewer.line.clear();
                }
            }
        }
    }
    let mut out = BufWriter::new(std::fs::File::create(out).unwrap());
    for (id, at) in records {
        writeln!(out, "{id} {at}").unwrap();
    }
}
