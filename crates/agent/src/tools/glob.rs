//! Finds files by name.

use async_trait::async_trait;
use codegen_sandbox::files;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Output, Tool, ToolError, arguments};
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
            description: "Find files by a glob pattern such as `src/**/*.rs`. Ignored files (.gitignore) are left out.",
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
        let found = files::glob(context.sandbox, &pattern, &dir, LIMIT).await?;
        if found.paths.is_empty() {
            return Ok(Output::text(format!("no file matches {pattern} in {dir}")));
        }
        let mut text = found.paths.join("\n");
        if found.more {
            text.push_str(&format!("\n[more than {LIMIT}; narrow the pattern]"));
        }
        Ok(Output::text(text))
    }
}
