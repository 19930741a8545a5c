//! Searches file contents with ripgrep's engine.

use async_trait::async_trait;
use codegen_sandbox::files::{self, Search};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Context, Output, Tool, ToolError, arguments, refused,
    text::{CAP, cut_line, elide},
};
use crate::models::ToolSpec;

const LIMIT: usize = 300;
const LINE_CHARS: usize = 300;

pub(crate) struct Grep;

#[derive(Deserialize)]
struct Arguments {
    pattern: String,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    glob: Option<String>,
    #[serde(default)]
    ignore_case: bool,
}

#[async_trait]
impl Tool for Grep {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "grep",
            description: "Search file contents for a regular expression (ripgrep's syntax). Ignored files (.gitignore) are left out. Gives path:line:text.",
            parameters: json!({
                "type": "object",
                "properties": {
                    "pattern": {"type": "string"},
                    "path": {"type": "string", "description": "Folder or file to search; the workspace when left out."},
                    "glob": {"type": "string", "description": "Only files that match, such as `*.py`."},
                    "ignore_case": {"type": "boolean"}
                },
                "required": ["pattern"]
            }),
        }
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn call(&self, input: &Value, context: &Context<'_>) -> Result<Output, ToolError> {
        let Arguments { pattern, path, glob, ignore_case } = arguments(input)?;
        let dir = context.dir(path.as_deref())?;
        let search = Search {
            folder: dir.clone().into(),
            pattern,
            files: glob.filter(|glob| !glob.is_empty()),
            ignore_case,
            // One more than is shown tells whether there are more.
            most: LIMIT + 1,
        };
        let found = files::grep(context.sandbox, &search).await.map_err(refused)?;
        if found.is_empty() {
            return Ok(Output::text(format!("no line matches {} in {dir}", search.pattern)));
        }
        let lines = found.iter().take(LIMIT).map(|found| {
            let path = context.shown_below(&dir, &found.path);
            format!("{path}:{}:{}", found.line, cut_line(&found.text, LINE_CHARS))
        });
        let mut text = lines.collect::<Vec<_>>().join("\n");
        if found.len() > LIMIT {
            text.push_str(&format!("\n[more than {LIMIT} lines; narrow the search]"));
        }
        Ok(match elide(&text, CAP) {
            Some(cut) => Output { text: cut, full: Some(text), ..Output::default() },
            None => Output::text(text),
        })
    }
}
