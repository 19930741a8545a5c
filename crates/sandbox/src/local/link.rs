//! One client's connection to the supervisor: a request, an answer, then perhaps a followed command.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::{fs::FileExt, net::UnixStream},
};

use serde::Serialize;

use super::wire::{EXIT_FRAME, KILL, MAX_FRAME, Request};
use crate::{Exit, Fence};

/// A command being followed.
pub struct Follower {
    /// Which.
    pub command: u64,
    /// Its spool, and how far it was sent.
    pub spool: File,
    /// As above.
    pub offset: u64,
}

/// A connection.
pub struct Link {
    /// Non-blocking.
    pub stream: UnixStream,
    /// Of its request, once there was one.
    pub fence: Option<Fence>,
    /// What it follows.
    pub follower: Option<Follower>,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    last: bool,
}

/// What came in.
pub enum Incoming {
    /// Nothing complete yet.
    Nothing,
    /// A whole request and its standard input.
    Request(Box<Request>, Vec<u8>),
    /// The wish to kill.
    Kill,
    /// The end, or nonsense.
    Closed,
}

impl Link {
    /// A new connection.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, fence: None, follower: None, input: Vec::new(), output: Vec::new(), sent: 0, last: false })
    }

    /// Reads what is there.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Incoming {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Incoming::Closed,
                Ok(length) => self.input.extend_from_slice(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Incoming::Closed,
            }
        }
        if self.fence.is_some() {
            let kill = self.input.contains(&KILL);
            self.input.clear();
            return if kill { Incoming::Kill } else { Incoming::Nothing };
        }
        let Some((head, rest)) = frame(&self.input) else { return Incoming::Nothing };
        if head.len() > MAX_FRAME {
            return Incoming::Closed;
        }
        let Some((stdin, _)) = frame(rest) else { return Incoming::Nothing };
        let Ok(request) = serde_json::from_slice::<Request>(head) else { return Incoming::Closed };
        let stdin = stdin.to_vec();
        self.input.clear();
        self.fence = Some(request.fence);
        Incoming::Request(Box::new(request), stdin)
    }

    /// Queues a frame of JSON.
    pub fn answer(&mut self, answer: &impl Serialize) {
        let json = serde_json::to_vec(answer).unwrap_or_default(); // our own plain types always serialise
        self.output.extend((json.len() as u32).to_le_bytes());
        self.output.extend(json);
    }

    /// Closes after what is queued.
    pub fn finish(&mut self) {
        self.last = true;
    }

    /// Closes at the next pump, whatever is queued.
    pub fn cut(&mut self) {
        self.output.clear();
        self.sent = 0;
        self.follower = None;
        self.last = true;
    }

    /// Whether it waits for room to write.
    pub fn wants_to_write(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Sends what can be sent, filling up from the spool; false when the connection is over.
    pub fn pump(&mut self, exit: Option<&Exit>, buffer: &mut [u8]) -> bool {
        loop {
            if !self.wants_to_write() {
                self.output.clear();
                self.sent = 0;
                if self.last {
                    return false;
                }
                let Some(follower) = &mut self.follower else { return true };
                match follower.spool.read_at(buffer, follower.offset) {
                    Ok(0) => {
                        let Some(exit) = exit else { return true };
                        self.output.push(EXIT_FRAME);
                        self.answer(exit);
                        self.last = true;
                    }
                    Ok(length) => {
                        follower.offset += length as u64;
                        self.output.extend_from_slice(buffer.get(..length).unwrap_or_default());
                    }
                    Err(_) => return false,
                }
            }
            match self.stream.write(self.output.get(self.sent..).unwrap_or_default()) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

/// A length, then as many bytes; and what follows.
fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}
