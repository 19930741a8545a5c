//! `codegen org`: organizations, their members, invitations and service accounts.

use std::{fs::OpenOptions, io::BufWriter, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{client::Client, logins::Logins, out::say};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print what the server answers as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Role {
    Member,
    Manager,
    Admin,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Member => "MEMBER",
            Self::Manager => "MANAGER",
            Self::Admin => "ADMIN",
        }
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// List your organizations; a star marks the one that commands work in
    List,
    /// Work in another of your organizations from now on; `CODEGEN_ORG_ID` does so for one command
    Use {
        /// Its number or its name
        org: String,
    },
    /// Make an organization; you are its admin
    Create {
        /// Its name
        name: String,
    },
    /// Give the organization another name
    Rename {
        /// The new name
        name: String,
    },
    /// List the organization's people
    Members,
    /// Make a link that makes whoever opens it a member, once
    Invite {
        /// As what
        #[arg(long, ignore_case = true, default_value = "member")]
        role: Role,
        /// For whom, as a note; nothing is sent
        #[arg(long)]
        email: Option<String>,
        /// How long the link is good
        #[arg(long, value_name = "DAYS", default_value_t = 7)]
        expires_in_days: i64,
    },
    /// List invitations that nobody has accepted yet
    Invitations,
    /// Take an invitation back
    Withdraw {
        /// From `codegen org invitations`
        id: i64,
    },
    /// Accept an invitation
    Join {
        /// The link, or what is after its `#`
        link: String,
    },
    /// Change a member's role
    Role {
        /// Number, name or address of a member
        user: String,
        /// The new one
        #[arg(ignore_case = true)]
        role: Role,
    },
    /// Take a member out of the organization
    Remove {
        /// Number, name or address of a member
        user: String,
    },
    /// Members that are no people
    ServiceAccount {
        #[command(subcommand)]
        command: ServiceAccount,
    },
    /// Write the audit log out as JSON lines, oldest first
    AuditLog {
        /// Only actions that begin so, as `run.`
        #[arg(long)]
        action: Option<String>,
    },
    /// Write everything of the organization, without secrets, into one tar file
    Export {
        /// The file, which is not there yet
        file: PathBuf,
    },
    /// Delete the organization with everything in it
    Delete {
        /// Its name, so that no slip deletes another
        #[arg(long)]
        name: String,
    },
}

#[derive(clap::Subcommand)]
enum ServiceAccount {
    /// Make one; `codegen token create --service-account ID` makes its tokens
    Create {
        /// What it is for
        name: String,
        /// What it may do
        #[arg(long, ignore_case = true, default_value = "member")]
        role: Role,
    },
    /// List them
    List,
    /// Remove one and revoke its tokens
    Remove {
        /// From `codegen org service-account list`
        id: i64,
    },
}

/// Prints the answer, as JSON or by a line.
fn show(answer: &Value, as_json: bool, line: impl Fn(&Value) -> String) {
    if as_json {
        say!("{answer}");
    } else if let Some(items) = answer.as_array() {
        items.iter().for_each(|item| say!("{}", line(item)));
    } else {
        say!("{}", line(answer));
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("-").to_owned()
}

/// Number, name and role.
fn member(value: &Value) -> String {
    let name = value["github_username"].as_str().or(value["name"].as_str()).unwrap_or("-");
    format!("{:>6}  {:<8} {name:<24} {}", value["id"].to_string(), text(value, "role"), text(value, "email"))
        .trim_end_matches([' ', '-'])
        .to_owned()
}

fn named(value: &Value) -> String {
    format!("{:>6}  {}", value["id"].to_string(), text(value, "name"))
}

/// The number of a member who is named in whichever way.
async fn user_id(client: &Client, user: &str) -> Result<i64> {
    if let Ok(id) = user.parse() {
        return Ok(id);
    }
    let people = client.items(&client.org_path("/users")).await?;
    let is_meant = |person: &&Value| ["github_username", "email"].iter().any(|key| person[*key] == user);
    let found: Vec<&Value> = people.iter().filter(is_meant).collect();
    match found.as_slice() {
        [one] => one["id"].as_i64().context("the server's user has no id"),
        [] => bail!("no member is called {user:?}; `codegen org members` lists them"),
        [..] => bail!("{} members are called {user:?}; name one by number", found.len()),
    }
}

/// Runs one of the subcommands.
pub async fn org(args: Args) -> Result<()> {
    let client = Client::from_login()?;
    let json = args.json;
    match args.command {
        Command::List => {
            let line = |org: &Value| format!("{} {}", if org["id"] == client.org_id() { '*' } else { ' ' }, named(org));
            show(&client.items("/v1/organizations").await?.into(), json, line);
        }
        Command::Use { org } => {
            let orgs = client.items("/v1/organizations").await?;
            let found = orgs
                .iter()
                .find(|one| one["id"].as_i64().is_some_and(|id| org == id.to_string()) || one["name"] == org.as_str());
            let found =
                found.with_context(|| format!("you are in no organization {org:?}; `codegen org list` lists them"))?;
            let mut logins = Logins::load()?;
            let profile = logins.in_use();
            let login = logins.profiles.get_mut(&profile);
            let login = login.context("there is no log-in to change: this one comes from the environment")?;
            login.org_id = found["id"].as_i64().context("the server's organization has no id")?;
            logins.save()?;
            show(found, json, named);
        }
        Command::Create { name } => {
            show(&client.post("/v1/organizations", &json!({"name": name})).await?, json, named);
        }
        Command::Rename { name } => {
            show(&client.patch(&client.org_path(""), &json!({"name": name})).await?, json, named);
        }
        Command::Members => show(&client.items(&client.org_path("/users")).await?.into(), json, member),
        Command::Invite { role, email, expires_in_days } => {
            let body = json!({"role": role.word(), "email": email, "expires_in_days": expires_in_days});
            let made = client.post(&client.org_path("/invitations"), &body).await?;
            show(&made, json, |made| text(made, "url"));
        }
        Command::Invitations => {
            let open = client.items(&client.org_path("/invitations")).await?;
            let line = |one: &Value| format!("{}  until {}", member(one), text(one, "expires_at"));
            show(&open.into(), json, line);
        }
        Command::Withdraw { id } => client.delete(&client.org_path(&format!("/invitations/{id}"))).await?,
        Command::Join { link } => {
            let secret = link.rsplit('#').next().unwrap_or(&link);
            let joined = client.post("/v1/invitations/accept", &json!({"invitation": secret})).await?;
            let line = |joined: &Value| {
                let (name, role) = (text(joined, "organization_name"), text(joined, "role"));
                format!("You are in {name} ({}) as {role}.", joined["organization_id"])
            };
            show(&joined, json, line);
        }
        Command::Role { user, role } => {
            let id = user_id(&client, &user).await?;
            let body = json!({"role": role.word()});
            show(&client.patch(&client.org_path(&format!("/users/{id}")), &body).await?, json, member);
        }
        Command::Remove { user } => {
            let id = user_id(&client, &user).await?;
            client.delete(&client.org_path(&format!("/users/{id}"))).await?;
        }
        Command::ServiceAccount { command } => {
            let place = client.org_path("/service-accounts");
            match command {
                ServiceAccount::Create { name, role } => {
                    let body = json!({"name": name, "role": role.word()});
                    show(&client.post(&place, &body).await?, json, member);
                }
                ServiceAccount::List => show(&client.items(&place).await?.into(), json, member),
                ServiceAccount::Remove { id } => client.delete(&format!("{place}/{id}")).await?,
            }
        }
        Command::AuditLog { action } => {
            let query = action.map(|action| format!("?action={action}")).unwrap_or_default();
            let lines = client.text(&client.org_path(&format!("/audit-log/export{query}"))).await?;
            lines.lines().for_each(|line| say!("{line}"));
        }
        Command::Export { file } => {
            let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
            let mut out = BufWriter::new(new.with_context(|| format!("making {}", file.display()))?);
            if let Err(error) = client.download(&client.org_path("/export"), &mut out).await {
                // Half an archive is none; that it cannot be removed either is not the news.
                std::fs::remove_file(&file).ok();
                return Err(error);
            }
        }
        Command::Delete { name } => {
            let name: String = name
                .bytes()
                .map(|byte| match byte {
                    b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
                    other => format!("%{other:02X}"),
                })
                .collect();
            client.delete(&client.org_path(&format!("?name={name}"))).await?;
        }
    }
    Ok(())
}
