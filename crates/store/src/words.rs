//! Words as the search knows them, on either database: runs of letters and digits, without case and accents. Knows no SQL.

use std::ops::Range;

use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

/// Words that are shown around a place, and of them before it.
const SHOWN: usize = 24;
const BEFORE: usize = 6;

/// Something looked for: words side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Folded; never empty.
    pub words: Vec<String>,
    /// Whether the last word may go on.
    pub is_beginning: bool,
}

/// What a person looks for: words, of which the last letters may be missing, and phrases between quotation marks.
pub fn terms(text: &str) -> Vec<Term> {
    let mut terms = Vec::new();
    for (index, part) in text.split('"').enumerate() {
        let is_beginning = index % 2 == 0;
        let pieces: Vec<&str> = if is_beginning { part.split_whitespace().collect() } else { vec![part] };
        for piece in pieces {
            let words: Vec<String> = places(piece).map(|word| fold(&piece[word])).collect();
            if !words.is_empty() {
                terms.push(Term { words, is_beginning });
            }
        }
    }
    terms
}

/// A text's words, folded, with blanks between.
pub fn folded(text: &str) -> String {
    places(text).map(|word| fold(&text[word])).collect::<Vec<_>>().join(" ")
}

/// The words around the first place of a text that has a term, each word of a term between U+0002 and U+0003.
pub fn snippet(text: &str, terms: &[Term]) -> String {
    let places: Vec<Range<usize>> = places(text).collect();
    let words: Vec<String> = places.iter().map(|word| fold(&text[word.clone()])).collect();
    let mut found = vec![false; words.len()];
    for term in terms {
        for (at, side_by_side) in words.windows(term.words.len()).enumerate() {
            let fits = side_by_side.iter().zip(&term.words).enumerate().all(|(index, (word, wanted))| {
                let may_go_on = term.is_beginning && index + 1 == term.words.len();
                word == wanted || may_go_on && word.starts_with(wanted.as_str())
            });
            if fits {
                found[at..at + term.words.len()].fill(true);
            }
        }
    }
    let first = found.iter().position(|found| *found).unwrap_or_default();
    // Near the end of the text, more of what is before it.
    let begin = first.saturating_sub(BEFORE).min(words.len().saturating_sub(SHOWN));
    let end = (begin + SHOWN).min(words.len());
    let (start, stop) = match places.get(begin..end) {
        Some(shown) if !shown.is_empty() => (
            if begin == 0 { 0 } else { shown[0].start },
            if end == words.len() { text.len() } else { shown[shown.len() - 1].end },
        ),
        Some(_) | None => (0, text.len()),
    };
    let mut snippet = String::from(if begin == 0 { "" } else { "…" });
    let mut at = start;
    for (place, _) in places.iter().zip(&found).take(end).skip(begin).filter(|(_, found)| **found) {
        snippet.push_str(&text[at..place.start]);
        snippet.push('\u{2}');
        snippet.push_str(&text[place.clone()]);
        snippet.push('\u{3}');
        at = place.end;
    }
    snippet.push_str(&text[at..stop]);
    if end < words.len() {
        snippet.push('…');
    }
    snippet
}

/// Where a text's words are, in bytes.
fn places(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let is_in_word = |c: char| c.is_alphanumeric() || is_combining_mark(c);
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + text[rest..].find(is_in_word)?;
        let end = text[start..].find(|c| !is_in_word(c)).map_or(text.len(), |length| start + length);
        rest = end;
        Some(start..end)
    })
}

fn fold(word: &str) -> String {
    if word.is_ascii() {
        return word.to_ascii_lowercase();
    }
    word.nfd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart_whatever_stands_between_and_folded() {
        assert_eq!(folded("Die Überweisung: crates/store/a_b.rs, I\u{307}x E\u{301}T\u{c9} 42"), {
            "die uberweisung crates store a b rs ix ete 42"
        });
        let words = |text: &str| -> Vec<(String, bool)> {
            terms(text).into_iter().map(|term| (term.words.join("+"), term.is_beginning)).collect()
        };
        let expected = [("foo", true), ("two+words", false), ("b+ar", true)];
        assert_eq!(words("foo \"Two words\" b*ar - \" ( \""), expected.map(|(words, b)| (words.to_owned(), b)));
    }

    #[test]
    fn a_snippet_shows_the_words_as_they_are_written_and_what_is_around() {
        let marked =
            |text: &str, wanted: &str| snippet(text, &terms(wanted)).replace('\u{2}', "<").replace('\u{3}', ">");
        assert_eq!(marked("Mend the Über-Parser!", "uber pars"), "Mend the <Über>-<Parser>!");
        assert_eq!(marked("find value, find a value", "\"find value\""), "<find> <value>, find a value");
        let long: Vec<String> = (0..100).map(|n| format!("w{n}")).collect();
        let middle = marked(&long.join(" "), "w50 w99");
        assert!(middle.starts_with("…w44 ") && middle.contains(" <w50> ") && middle.ends_with(" w67…"), "{middle}");
        let end = marked(&long.join(" "), "w99");
        assert!(end.starts_with("…w76 ") && end.ends_with(" <w99>"), "{end}");
        assert_eq!(marked("", "x"), "");
        assert_eq!(marked("-- ok --", "x"), "-- ok --");
    }
}
