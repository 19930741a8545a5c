//! Passes bytes between a connection inside and the gateway's socket outside.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;

/// Bytes kept a direction; a slow side makes the other one wait.
const ROOM: usize = 64 << 10;

/// Two connected sockets, both non-blocking.
pub struct Relay {
    ends: [OwnedFd; 2],
    /// What was read from end i and is not yet written to the other.
    held: [Vec<u8>; 2],
    finished: [bool; 2],
    told: [bool; 2],
}

impl Relay {
    /// Of two non-blocking sockets.
    pub fn new(inside: OwnedFd, gateway: OwnedFd) -> Self {
        Self { ends: [inside, gateway], held: Default::default(), finished: [false; 2], told: [false; 2] }
    }

    /// What each end waits for.
    pub fn wants(&self) -> [(BorrowedFd<'_>, PollFlags); 2] {
        let [a, b] = &self.ends;
        let [held_a, held_b] = &self.held;
        let [finished_a, finished_b] = self.finished;
        let flags = |finished: bool, own: &[u8], other: &[u8]| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !finished && own.is_empty());
            flags.set(PollFlags::OUT, !other.is_empty());
            flags
        };
        [(a.as_fd(), flags(finished_a, held_a, held_b)), (b.as_fd(), flags(finished_b, held_b, held_a))]
    }

    /// Moves what can be moved; false when it is over.
    pub fn pump(&mut self, buffer: &mut [u8]) -> bool {
        let [a, b] = &self.ends;
        let [held_a, held_b] = &mut self.held;
        let [finished_a, finished_b] = &mut self.finished;
        let [told_a, told_b] = &mut self.told;
        pass(a, b, held_a, finished_a, told_a, buffer)
            && pass(b, a, held_b, finished_b, told_b, buffer)
            && !(*told_a && *told_b)
    }
}

fn pass(
    from: &OwnedFd,
    to: &OwnedFd,
    held: &mut Vec<u8>,
    finished: &mut bool,
    told: &mut bool,
    buffer: &mut [u8],
) -> bool {
    use rustix::io::Errno;
    if held.is_empty() && !*finished {
        let room = buffer.len().min(ROOM);
        match rustix::io::read(from, buffer.get_mut(..room).unwrap_or_default()) {
            Ok(0) => *finished = true,
            Ok(length) => held.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    if !held.is_empty() {
        match rustix::net::send(to, held, rustix::net::SendFlags::NOSIGNAL) {
            Ok(length) => drop(held.drain(..length)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    if *finished && held.is_empty() && !*told {
        *told = true;
        rustix::net::shutdown(to, rustix::net::Shutdown::Write).ok(); // it may be closed already
    }
    true
}
