//! Cuts and decodes text for models and readers.

/// Characters of one result that a model is shown.
pub(crate) const CAP: usize = 30_000;

/// Leaves out the middle of what is longer than `cap` characters; `None` when it fits.
pub(crate) fn elide(text: &str, cap: usize) -> Option<String> {
    if text.len() <= cap {
        return None;
    }
    let chars = text.chars().count();
    if chars <= cap {
        return None;
    }
    let head = cap * 2 / 3;
    let tail = cap - head;
    let boundary = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(i, _)| i);
    let (first, last) = text.split_at(boundary(head));
    let last_start = boundary(chars - tail) - first.len();
    let (_, last) = last.split_at(last_start);
    Some(format!("{first}\n[... {} characters left out of the middle ...]\n{last}", chars - cap))
}

/// Cuts one line to `cap` characters.
pub(crate) fn cut_line(line: &str, cap: usize) -> String {
    match line.char_indices().nth(cap) {
        Some((end, _)) => format!("{} [line cut]", line.split_at(end).0),
        None => line.to_owned(),
    }
}

/// Decodes bytes that come in pieces, replacing what is not UTF-8, without breaking characters at the seams.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    rest: Vec<u8>,
}

impl Decoder {
    /// The text that is complete with these bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.rest.len());
        let mut done = 0;
        for chunk in self.rest.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let at_end = done + invalid.len() == self.rest.len();
            if at_end && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none()) {
                break;
            }
            text.push('\u{FFFD}');
            done += invalid.len();
        }
        self.rest.drain(..done);
        clean(text)
    }

    /// What is left when no more comes.
    pub(crate) fn finish(self) -> String {
        if self.rest.is_empty() { String::new() } else { '\u{FFFD}'.to_string() }
    }
}

/// NUL is refused by databases and some model APIs.
fn clean(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_text_is_left_whole_and_long_text_loses_its_middle() {
        assert_eq!(elide("äöü", 3), None);
        let cut = elide(&format!("A{}Z", "ä".repeat(100)), 30).unwrap();
        assert!(cut.starts_with("Aä") && cut.ends_with("äZ") && cut.contains("72 characters left out"), "{cut}");
    }

    proptest! {
        #[test]
        fn pieces_decode_as_the_whole_does(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..64) {
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            let mut decoder = Decoder::default();
            let text = decoder.push(a) + &decoder.push(b) + &decoder.finish();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).replace('\0', "\u{FFFD}"));
        }
    }
}
