//! Writes a whole file.

use async_trait::async_trait;
use codegen_sandbox::files;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Output, Tool, ToolError, arguments, refused};
use crate::models::ToolSpec;

pub(crate) struct Write;

#[derive(Deserialize)]
struct Arguments {
    path: String,
    content: String,
}

#[async_trait]
impl Tool for Write {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "write",
            description: "Write a whole file; folders on its way are made. Replaces what was there: use `edit` for a change to a file.",
            parameters: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "Absolute, or relative to the workspace."},
                    "content": {"type": "string", "description": "The whole content."}
                },
                "required": ["path", "content"]
            }),
        }
    }

    fn read_only(&self) -> bool {
        false
    }

    async fn call(&self, input: &Value, context: &Context<'_>) -> Result<Output, ToolError> {
        let Arguments { path, content } = arguments(input)?;
        let path = context.absolute(&path)?;
        files::write_once(context.sandbox, Some(context.call_id), &path, content.as_bytes()).await.map_err(refused)?;
        let lines = content.lines().count();
        Ok(Output::text(format!("wrote {} ({lines} lines, {} bytes)", context.shown(&path), content.len())))
    }
}
