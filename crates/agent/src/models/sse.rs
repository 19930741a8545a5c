//! Server-sent events out of bytes that come in pieces.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its `data` lines.
    pub(crate) data: String,
}

/// Longest event that is read; a server that sends a longer one is broken.
pub(crate) const MAX_EVENT: usize = 32 * 1024 * 1024;

/// Collects bytes and gives whole events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    read: usize,
    /// No line ends before this: what was looked through once is not again with each piece that comes.
    scanned: usize,
    data: Option<String>,
}

impl Parser {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.scanned -= self.read;
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// True when an event grew beyond all reason.
    pub(crate) fn is_too_long(&self) -> bool {
        self.buffer.len() > MAX_EVENT || self.data.as_ref().is_some_and(|data| data.len() > MAX_EVENT)
    }

    /// The next whole event.
    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            let Some(end) = line_end(&self.buffer, self.scanned) else {
                self.scanned = self.buffer.len();
                return None;
            };
            let line = self.buffer.get(self.read..end)?;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.read = end + 1;
            self.scanned = self.read;
            if line.is_empty() {
                if let Some(data) = self.data.take() {
                    return Some(Event { data });
                }
            } else if let Some(value) = line.strip_prefix(b"data:") {
                let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
                match &mut self.data {
                    None => self.data = Some(value.into_owned()),
                    Some(data) => {
                        data.push('\n');
                        data.push_str(&value);
                    }
                }
            }
        }
    }

    /// What is left when the bytes end: some servers leave the last blank line out.
    pub(crate) fn last(&mut self) -> Option<Event> {
        self.push(b"\n\n");
        self.next()
    }
}

/// Where the first line break is, looked for from here.
fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    Some(from + bytes.get(from..)?.iter().position(|b| *b == b'\n')?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut parser = Parser::default();
        let mut all = Vec::new();
        for piece in pieces {
            parser.push(piece);
            while let Some(event) = parser.next() {
                all.push(event.data);
            }
        }
        all.extend(parser.last().map(|e| e.data));
        all
    }

    proptest! {
        #[test]
        fn cuts_between_pieces_change_nothing(cuts in proptest::collection::vec(0_usize..60, 0..6)) {
            let text = ": ping\r\nevent: a\r\ndata: {\"ä\":1}\r\n\r\ndata:x\ndata: y\n\n\ndata: end".as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.sort_unstable();
            let (mut pieces, mut from) = (Vec::new(), 0);
            for cut in cuts.into_iter().chain([text.len()]) {
                pieces.extend(text.get(from..cut));
                from = cut;
            }
            prop_assert_eq!(events(&pieces), ["{\"ä\":1}", "x\ny", "end"]);
        }
    }
}
