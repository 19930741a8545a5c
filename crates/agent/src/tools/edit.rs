//! Replaces exact text in a file, and says what is there instead when it is not found.

use async_trait::async_trait;
use codegen_sandbox::files;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Output, Tool, ToolError, arguments, read::MAX_BYTES, refused, text::cut_line};
use crate::models::ToolSpec;

/// Comparisons of lines that the search for a near miss may cost.
const WORK: usize = 4_000_000;

pub(crate) struct Edit;

#[derive(Deserialize)]
struct Arguments {
    path: String,
    old: String,
    new: String,
    #[serde(default)]
    replace_all: bool,
}

#[async_trait]
impl Tool for Edit {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "edit",
            description: "Replace exact text in a file. `old` must be in the file exactly once, whitespace included (without the line numbers that `read` shows), or `replace_all` be true.",
            parameters: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "Absolute, or relative to the workspace."},
                    "old": {"type": "string", "description": "The text to replace."},
                    "new": {"type": "string", "description": "What takes its place."},
                    "replace_all": {"type": "boolean", "description": "Replace every occurrence."}
                },
                "required": ["path", "old", "new"]
            }),
        }
    }

    fn read_only(&self) -> bool {
        false
    }

    async fn call(&self, input: &Value, context: &Context<'_>) -> Result<Output, ToolError> {
        let Arguments { path, old, new, replace_all } = arguments(input)?;
        let path = context.absolute(&path)?;
        if context.again && files::written(context.sandbox, context.call_id, &path).await.map_err(refused)? {
            return Ok(Output::text(format!("{}: replaced", context.shown(&path))));
        }
        let bytes = files::read(context.sandbox, &path, MAX_BYTES).await.map_err(refused)?;
        let shown = context.shown(&path);
        let text = String::from_utf8(bytes)
            .map_err(|_| ToolError::ForModel(format!("{shown} is not UTF-8 text; change it with the shell")))?;
        let edited = replace(shown, &text, &old, &new, replace_all).map_err(ToolError::ForModel)?;
        files::write_once(context.sandbox, Some(context.call_id), &path, edited.text.as_bytes())
            .await
            .map_err(refused)?;
        Ok(Output::text(edited.said))
    }
}

#[derive(Debug)]
struct Edited {
    text: String,
    said: String,
}

fn replace(path: &str, text: &str, old: &str, new: &str, replace_all: bool) -> Result<Edited, String> {
    if old.is_empty() {
        return Err("`old` is empty; use `write` for a new file".to_owned());
    }
    if old == new {
        return Err("`old` and `new` are the same; nothing to do".to_owned());
    }
    // Models write \n; a file with \r\n keeps its line ends.
    let crlf = text.contains("\r\n") && !old.contains('\r');
    let (old, new) =
        if crlf { (old.replace('\n', "\r\n"), new.replace('\n', "\r\n")) } else { (old.to_owned(), new.to_owned()) };
    let lines: Vec<usize> =
        text.match_indices(&old).map(|(at, _)| text.split_at(at).0.matches('\n').count() + 1).take(1000).collect();
    match lines.as_slice() {
        [] => Err(not_found(path, text, &old)),
        [line] => Ok(Edited { text: text.replacen(&old, &new, 1), said: format!("{path}: replaced at line {line}") }),
        lines if replace_all => {
            Ok(Edited { text: text.replace(&old, &new), said: format!("{path}: replaced {} times", lines.len()) })
        }
        lines => {
            let some: Vec<String> = lines.iter().take(10).map(ToString::to_string).collect();
            Err(format!(
                "`old` is {} times in {path}, at lines {}; add lines around it to make it unique, or set replace_all",
                lines.len(),
                some.join(", ")
            ))
        }
    }
}

/// Shows the place that is most like what was looked for.
fn not_found(path: &str, text: &str, old: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let wanted: Vec<&str> = old.lines().collect();
    let first = wanted.iter().find(|l| !l.trim().is_empty()).copied().unwrap_or_default();
    let mut best: Option<(usize, f64)> = None;
    if lines.len().saturating_mul(wanted.len()) <= WORK {
        for start in 0..lines.len() {
            let same = wanted
                .iter()
                .zip(lines.iter().skip(start))
                .filter(|(a, b)| !a.trim().is_empty() && a.trim() == b.trim())
                .count();
            let score = same as f64;
            if same > 0 && best.is_none_or(|(_, s)| score > s) {
                best = Some((start, score));
            }
        }
    }
    let whole = wanted.iter().filter(|l| !l.trim().is_empty()).count();
    let only_whitespace = best.is_some_and(|(_, score)| score as usize == whole);
    if best.is_none() && lines.len() <= 50_000 {
        best = lines
            .iter()
            .map(|line| likeness(first, line))
            .enumerate()
            .filter(|(_, score)| *score >= 0.5)
            .max_by(|(_, a), (_, b)| a.total_cmp(b));
    }
    let Some((start, _)) = best else {
        return format!("`old` is not in {path}, nor anything like it; read the file again");
    };
    let from = start.saturating_sub(if only_whitespace { 0 } else { 1 });
    let count = wanted.len().clamp(1, 30) + if only_whitespace { 0 } else { 2 };
    let place: Vec<String> = lines
        .iter()
        .enumerate()
        .skip(from)
        .take(count)
        .map(|(i, line)| format!("{:>6}\t{}", i + 1, cut_line(line, 400)))
        .collect();
    let what = if only_whitespace { "it differs in whitespace only from these lines" } else { "the closest lines are" };
    format!("`old` is not in {path}; {what}:\n{}", place.join("\n"))
}

/// Share of character pairs that two lines have in common, 0 to 1.
fn likeness(a: &str, b: &str) -> f64 {
    let pairs = |s: &str| -> Vec<(char, char)> {
        let chars: Vec<char> = s.trim().chars().take(300).collect();
        let mut pairs: Vec<_> = chars.iter().copied().zip(chars.iter().copied().skip(1)).collect();
        pairs.sort_unstable();
        pairs
    };
    let (a, b) = (pairs(a), pairs(b));
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let (mut left, mut right, mut common) = (a.iter().peekable(), b.iter().peekable(), 0_usize);
    while let (Some(x), Some(y)) = (left.peek(), right.peek()) {
        match x.cmp(y) {
            std::cmp::Ordering::Less => drop(left.next()),
            std::cmp::Ordering::Greater => drop(right.next()),
            std::cmp::Ordering::Equal => {
                common += 1;
                left.next();
                right.next();
            }
        }
    }
    2.0 * common as f64 / (a.len() + b.len()) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = "def total(xs):\n    return sum(xs) + 1\n\ndef one():\n    return 1\n";

    #[test]
    fn unique_text_is_replaced_and_its_line_named() {
        let edited = replace("t.py", TEXT, "sum(xs) + 1", "sum(xs)", false).unwrap();
        assert!(edited.text.contains("return sum(xs)\n"));
        assert_eq!(edited.said, "t.py: replaced at line 2");
    }

    #[test]
    fn text_that_is_there_twice_names_its_lines_or_is_replaced_everywhere() {
        let refused = replace("t.py", TEXT, "return", "give", false).unwrap_err();
        assert!(refused.contains("2 times") && refused.contains("lines 2, 5"), "{refused}");
        assert_eq!(replace("t.py", TEXT, "return", "give", true).unwrap().text.matches("give").count(), 2);
    }

    #[test]
    fn a_difference_in_whitespace_is_said_to_be_one() {
        let refused = replace("t.py", TEXT, "def one():\n  return 1", "x", false).unwrap_err();
        assert!(refused.contains("whitespace") && refused.contains("     5\t    return 1"), "{refused}");
    }

    #[test]
    fn a_near_miss_shows_the_closest_lines_and_nonsense_none() {
        let refused = replace("t.py", TEXT, "return sum(xs) + 2", "x", false).unwrap_err();
        assert!(refused.contains("     2\t    return sum(xs) + 1"), "{refused}");
        assert!(replace("t.py", TEXT, "ZZZZ QQQQ", "x", false).unwrap_err().contains("read the file again"));
    }

    #[test]
    fn a_file_with_crlf_keeps_its_line_ends() {
        assert_eq!(replace("f", "a\r\nb\r\n", "a\nb", "c\nd", false).unwrap().text, "c\r\nd\r\n");
    }
}
