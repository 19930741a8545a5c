//! Reads event streams, as the events of a run are sent.

/// One server-sent event.
#[derive(Debug, Default, PartialEq)]
pub struct SentEvent {
    /// Of an entry: its number.
    pub id: Option<String>,
    /// What it is.
    pub kind: String,
    /// JSON.
    pub data: String,
}

/// Cuts a byte stream into server-sent events (the HTML standard's event stream format, as far as our server uses it).
#[derive(Debug, Default)]
pub struct EventParser {
    buffer: Vec<u8>,
    event: SentEvent,
}

impl EventParser {
    /// The events that are complete with these bytes.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<SentEvent> {
        self.buffer.extend_from_slice(chunk);
        let mut events = Vec::new();
        while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if !event.data.is_empty() {
                    events.push(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => self.event.id = Some(value.to_owned()),
                "event" => value.clone_into(&mut self.event.kind),
                "data" => {
                    if !self.event.data.is_empty() {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                }
                _ => {}
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn events_do_not_depend_on_how_the_bytes_were_cut(cuts in prop::collection::vec(1usize..9, 1..40)) {
            let text = b": keep-alive\n\nid: 1\nevent: reply\ndata: {\"a\":1}\n\nevent: end\ndata: {}\n\n";
            let mut parser = EventParser::default();
            let mut events = Vec::new();
            let (mut rest, mut cuts) = (&text[..], cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                events.extend(parser.push(head));
                rest = tail;
            }
            prop_assert_eq!(events.len(), 2);
            prop_assert_eq!(events[0].id.as_deref(), Some("1"));
            prop_assert_eq!(&events[1].kind, "end");
        }
    }
}
