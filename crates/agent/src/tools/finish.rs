//! Ends the run with the agent's own words.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Output, Tool, ToolError, arguments};
use crate::{Outcome, models::ToolSpec};

pub(crate) const NAME: &str = "finish";

pub(crate) struct Finish;

#[derive(Deserialize)]
struct Arguments {
    summary: String,
    #[serde(default = "yes")]
    success: bool,
}

fn yes() -> bool {
    true
}

/// What a finished call of this tool means; none when its arguments do not fit.
pub(crate) fn outcome(input: &Value) -> Option<Outcome> {
    let Arguments { summary, success } = Arguments::deserialize(input).ok()?;
    Some(if success { Outcome::Finished(summary) } else { Outcome::GaveUp(summary) })
}

#[async_trait]
impl Tool for Finish {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: NAME,
            description: "End the work. Call it once, when the task is done and tested, or when it cannot be done.",
            parameters: json!({
                "type": "object",
                "properties": {
                    "summary": {"type": "string", "description": "For the person: what was changed and how it was tested, or why the task cannot be done."},
                    "success": {"type": "boolean", "description": "False when the task could not be done."}
                },
                "required": ["summary", "success"]
            }),
        }
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn call(&self, input: &Value, _: &Context<'_>) -> Result<Output, ToolError> {
        arguments::<Arguments>(input)?;
        Ok(Output::text("The run ends here.".to_owned()))
    }
}
