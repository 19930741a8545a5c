//! Finds files by name.

use async_trait::async_trait;
use codegen_sandbox::files;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Output, Tool, ToolError, arguments, refused};
use crate::models::ToolSpec;

const LIMIT: usize = 500;

pub(crate) struct Glob;

#[derive(Deserialize)]
struct Arguments {
    pattern: String,
    #[serde(default)]
    path: Option<String>,
}

#[async_trait]
impl Tool for Glob {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "glob",
            description: "Find files by a glob pattern such as `src/**/*.rs`. The newest come first; ignored files (.gitignore) are left out.",
            parameters: json!({
                "type": "object",
                "properties": {
                    "pattern": {"type": "string"},
                    "path": {"type": "string", "description": "Folder to search; the workspace when left out."}
                },
                "required": ["pattern"]
            }),
        }
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn call(&self, input: &Value, context: &Context<'_>) -> Result<Output, ToolError> {
        let Arguments { pattern, path } = arguments(input)?;
        let dir = context.dir(path.as_deref())?;
        // One more than is shown tells whether there are more.
        let found = files::glob(context.sandbox, &dir, &pattern, LIMIT + 1).await.map_err(refused)?;
        if found.is_empty() {
            return Ok(Output::text(format!("no file matches {pattern} in {dir}")));
        }
        let paths = found.iter().take(LIMIT).map(|path| context.shown_below(&dir, path));
        let mut text = paths.collect::<Vec<_>>().join("\n");
        if found.len() > LIMIT {
            text.push_str(&format!("\n[more than {LIMIT}; narrow the pattern]"));
        }
        Ok(Output::text(text))
    }
}
