//! `codegen integrations` and `codegen tools`: what the organization is connected to, and what its agents can call.

use anyhow::Result;
use serde_json::Value;

use crate::{
    client::Client,
    out::{padded, say},
    render::plain_text,
};

#[derive(clap::Args)]
pub struct Args {
    /// `list` may be written, as elsewhere
    #[arg(value_parser = ["list"], hide = true)]
    list: Option<String>,
    /// Print what the server answers as JSON
    #[arg(long)]
    json: bool,
}

/// Lists the organization's integrations.
pub async fn integrations(args: Args) -> Result<()> {
    let client = Client::from_login()?;
    let all = client.get(&client.org_path("/integrations")).await?;
    if args.json {
        say!("{all}");
        return Ok(());
    }
    for one in all["integrations"].as_array().into_iter().flatten() {
        let name = plain_text(one["integration_type"].as_str().unwrap_or("?"));
        say!("{} {}", padded(&name, 24), if one["active"] == true { "connected" } else { "not connected" });
    }
    Ok(())
}

/// Lists the tools that agents and MCP clients can call.
pub async fn tools(args: Args) -> Result<()> {
    let client = Client::from_login()?;
    let all = client.get(&client.org_path("/tools")).await?;
    if args.json {
        say!("{all}");
        return Ok(());
    }
    for tool in all["tools"].as_array().into_iter().flatten() {
        let field = |key: &str| plain_text(tool[key].as_str().unwrap_or("?"));
        let first = field("description");
        say!("{} {}", padded(&field("name"), 32), first.lines().next().unwrap_or_default());
        let parameters = tool["parameters"]["properties"].as_object();
        for (name, parameter) in parameters.into_iter().flatten() {
            let words = parameter["description"].as_str().map(plain_text).unwrap_or_default();
            let needed =
                tool["parameters"]["required"].as_array().is_some_and(|all| all.contains(&Value::from(name.as_str())));
            say!("    {} {words}{}", padded(name, 28), if needed { " (required)" } else { "" });
        }
    }
    Ok(())
}
