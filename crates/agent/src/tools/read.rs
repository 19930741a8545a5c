//! Reads a file with line numbers.

use async_trait::async_trait;
use codegen_sandbox::files;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Context, Output, Tool, ToolError, arguments, refused,
    text::{CAP, cut_line},
};
use crate::models::ToolSpec;

/// Larger files are read with the shell.
pub(super) const MAX_BYTES: u64 = 16 * 1024 * 1024;
const LINES: usize = 2000;
const LINE_CHARS: usize = 2000;

pub(crate) struct Read;

#[derive(Deserialize)]
struct Arguments {
    path: String,
    #[serde(default)]
    offset: Option<usize>,
    #[serde(default)]
    limit: Option<usize>,
}

#[async_trait]
impl Tool for Read {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "read",
            description: "Read a text file. Lines come with their numbers, which are not part of the file.",
            parameters: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "Absolute, or relative to the workspace."},
                    "offset": {"type": "integer", "minimum": 1, "description": "First line to read; 1 when left out."},
                    "limit": {"type": "integer", "minimum": 1, "description": "Number of lines; 2000 when left out."}
                },
                "required": ["path"]
            }),
        }
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn call(&self, input: &Value, context: &Context<'_>) -> Result<Output, ToolError> {
        let Arguments { path, offset, limit } = arguments(input)?;
        let path = context.absolute(&path)?;
        let bytes = files::read(context.sandbox, &path, MAX_BYTES).await.map_err(refused)?;
        if bytes.iter().take(8000).any(|b| *b == 0) {
            return Err(ToolError::ForModel(format!("{path} is a binary file of {} bytes", bytes.len())));
        }
        numbered(
            &path,
            &String::from_utf8_lossy(&bytes),
            offset.unwrap_or(1).max(1),
            limit.unwrap_or(LINES).clamp(1, LINES),
        )
    }
}

/// Lines `from` and on, numbered, within the cap of one result.
fn numbered(path: &str, text: &str, from: usize, limit: usize) -> Result<Output, ToolError> {
    let total = text.lines().count();
    if total == 0 {
        return Ok(Output::text(format!("{path} is empty")));
    }
    if from > total {
        return Err(ToolError::ForModel(format!("{path} has only {total} lines")));
    }
    let mut out = String::new();
    let mut next = from;
    for line in text.lines().skip(from - 1).take(limit) {
        let line = format!("{next:>6}\t{}\n", cut_line(line, LINE_CHARS));
        if out.len() + line.len() > CAP {
            break;
        }
        out.push_str(&line);
        next += 1;
    }
    if next <= total {
        out.push_str(&format!("[{total} lines in all; go on with offset {next}]"));
    }
    Ok(Output::text(out))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_are_numbered_from_the_offset_and_the_rest_is_announced() {
        let out = numbered("f", "a\nb\nc\nd\n", 2, 2).unwrap().text;
        assert_eq!(out, "     2\tb\n     3\tc\n[4 lines in all; go on with offset 4]");
        assert!(numbered("f", "a\n", 3, 2).is_err());
    }
}
