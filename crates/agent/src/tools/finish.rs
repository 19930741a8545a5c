//! Ends the run with the agent's own words, and with a structured result where one is asked for.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Output, Tool, ToolError, arguments};
use crate::{Outcome, models::ToolSpec, output::OutputSchema};

pub(crate) const NAME: &str = "finish";

pub(crate) struct Finish {
    pub(crate) output: Option<OutputSchema>,
}

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
pub(crate) fn outcome(input: &Value, wants_output: bool) -> Option<Outcome> {
    let Arguments { summary, success } = Arguments::deserialize(input).ok()?;
    Some(match input.get("output").filter(|_| wants_output) {
        _ if !success => Outcome::GaveUp(summary),
        Some(output) => Outcome::Answered { summary, output: output.clone() },
        None => Outcome::Finished(summary),
    })
}

#[async_trait]
impl Tool for Finish {
    fn spec(&self) -> ToolSpec {
        let mut parameters = json!({
            "type": "object",
            "properties": {
                "summary": {"type": "string", "description": "For the person: what was changed and how it was tested, or why the task cannot be done."},
                "success": {"type": "boolean", "description": "False when the task could not be done."}
            },
            "required": ["summary", "success"]
        });
        let description = match &self.output {
            None => "End the work. Call it once, when the task is done and tested, or when it cannot be done.",
            Some(schema) => {
                parameters["properties"]["output"] = schema.as_argument();
                "End the work. Call it once, when the task is done and tested, with the structured result in `output`; or \
                 when it cannot be done, with success false and without `output`."
            }
        };
        ToolSpec { name: NAME, description, parameters }
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn call(&self, input: &Value, _: &Context<'_>) -> Result<Output, ToolError> {
        let Arguments { success, .. } = arguments::<Arguments>(input)?;
        if let Some(schema) = self.output.as_ref().filter(|_| success) {
            let Some(output) = input.get("output") else {
                return Err(ToolError::ForModel(
                    "`output` is missing: call finish again with the structured result in it".to_owned(),
                ));
            };
            schema.check(output).await.map_err(|why| {
                ToolError::ForModel(format!(
                    "`output` does not fit its schema; call finish again with it put right:\n{why}"
                ))
            })?;
        }
        Ok(Output::text("The run ends here.".to_owned()))
    }
}
