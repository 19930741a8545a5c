//! Settings: defaults, then `config.toml` in the data directory, then the environment. The only place of the server that
//! reads the environment. Each setting is one line of [`SETTINGS`], from which `config show` and `docs/config.md` come.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use codegen_agent::models::Keys;
use ipnet::IpNet;
use secrecy::SecretString;

#[path = "config_limits.rs"]
mod limits;
#[path = "config_login.rs"]
mod log_in;
#[path = "config_api.rs"]
mod offered;
#[path = "config_table.rs"]
mod table;
#[path = "config_worker.rs"]
mod worker;

pub use log_in::LogIn;
pub use offered::OAuthProvider;
pub use table::{SETTINGS, Setting};

/// Variables of clients, some of which come near to a setting's.
const CLIENT_VARIABLES: [&str; 4] =
    ["CODEGEN_API_BASE_URL", "CODEGEN_API_TOKEN", "CODEGEN_API_KEY", "CODEGEN_BASE_URL"];

/// What sandboxes may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// Package registries, the repository's host and [`Config::egress_allow`].
    Registries,
    /// Every public host.
    Open,
    /// Only [`Config::egress_allow`].
    Closed,
}

/// What is kept of ended runs and of repositories, and for how long; 0 sets no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// Days of full outputs after their run's end.
    pub outputs_days: u64,
    /// Full outputs of ended runs together.
    pub outputs_mib: u64,
    /// Days of traces after their run's end.
    pub traces_days: u64,
    /// Days of mirrors after their last use.
    pub mirrors_days: u64,
    /// Mirrors together.
    pub mirrors_mib: u64,
    /// Hours of sandboxes after their run's end; 0 ends them with it.
    pub sandboxes_h: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            outputs_days: 90,
            outputs_mib: 10 << 10,
            traces_days: 0,
            mirrors_days: 30,
            mirrors_mib: 20 << 10,
            sandboxes_h: 0,
        }
    }
}

/// A run whose trace has as much ends.
#[derive(Debug, Clone, Copy)]
pub struct TraceLimits {
    /// Entries.
    pub entries: i64,
    /// Bytes of their bodies; full outputs and images that are kept apart do not count.
    pub bytes: u64,
}

impl Default for TraceLimits {
    fn default() -> Self {
        Self { entries: 100_000, bytes: 256 << 20 }
    }
}

/// All settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where `serve` listens.
    pub addr: SocketAddr,
    /// How people reach the server, without a slash at the end.
    pub public_url: String,
    /// Where the database, mirrors and sandboxes live.
    pub data_dir: PathBuf,
    /// Token of the admin, preset.
    pub admin_token: Option<SecretString>,
    /// Keys of the secrets in the database, in place of the data directory's.
    pub secret_key: Option<SecretString>,
    /// PostgreSQL's address, where the database is not SQLite's file in [`Config::data_dir`].
    pub database_url: Option<SecretString>,
    /// Seconds after which a worker that is not heard of loses its runs to others, on PostgreSQL.
    pub worker_lease_s: u64,
    /// Where a worker answers the other processes of its database.
    pub worker_addr: SocketAddr,
    /// How they reach it, where that does not follow from the address.
    pub worker_url: Option<String>,
    /// Runs at once.
    pub max_concurrent_runs: usize,
    /// Model of runs that name none.
    pub default_model: Option<String>,
    /// Whether requests are limited.
    pub rate_limits: bool,
    /// Requests of an address in 30 seconds; 0 for no limit.
    pub address_limit: u64,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether a folder of this machine may be added as a repository.
    pub allow_local_repos: bool,
    /// Whether webhooks and models of organizations may lead to private addresses.
    pub allow_private_addresses: bool,
    /// Token for GitHub's API.
    pub github_token: Option<SecretString>,
    /// GitHub's API.
    pub github_api_url: String,
    /// Other hosts that are GitHub: (host, API), the host with its port where only that one is meant.
    pub github_hosts: Vec<(String, String)>,
    /// Tokens of those hosts.
    pub github_host_tokens: Vec<(String, SecretString)>,
    /// What sandboxes may reach.
    pub egress: Egress,
    /// Hosts that sandboxes may reach besides, with `*` as a wildcard.
    pub egress_allow: Vec<String>,
    /// Memory of a sandbox.
    pub sandbox_memory_mib: u64,
    /// Processes and threads of a sandbox.
    pub sandbox_processes: u64,
    /// Model answers of a run.
    pub max_steps: u64,
    /// Tokens of a run.
    pub max_tokens: u64,
    /// US dollars of a run.
    pub max_cost: f64,
    /// Seconds of a run.
    pub max_time_s: u64,
    /// The largest trace of a run; no setting.
    pub trace: TraceLimits,
    /// What is kept, and for how long.
    pub keep: Keep,
    /// How people log in.
    pub log_in: LogIn,
    /// Seconds that a connection may wait without a request.
    pub idle_s: u64,
    /// Seconds that a body may take.
    pub body_s: u64,
    /// Hours without a word after which a session on someone's own machine ends; 0 for never.
    pub session_stale_h: u64,
    /// Services that people connect their accounts of.
    pub mcp_providers: Vec<OAuthProvider>,
    /// This server's secrets there, by name.
    pub mcp_client_secrets: Vec<(String, SecretString)>,
    /// Keys and addresses of models.
    pub models: Keys,
    origins: BTreeMap<&'static str, String>,
}

/// What is wrong with the settings; a sentence that says where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `config.toml` cannot be read.
    #[error("reading {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// `config.toml` is not TOML.
    #[error("{} is not valid TOML", .0.display())]
    Toml(PathBuf, #[source] toml::de::Error),
    /// No such setting.
    #[error("unknown setting `{name}` in {place}{} (`codegen config show` lists all)", hint(.nearest))]
    Unknown {
        /// As it is written.
        name: String,
        /// Where.
        place: String,
        /// The known one that was meant, as far as one can guess.
        nearest: Option<String>,
    },
    /// A value that cannot be.
    #[error("{name} ({place}) {why}")]
    Value {
        /// Key or variable.
        name: String,
        /// Where.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// Settings that do not go together; a sentence.
    #[error("{0}")]
    Together(String),
    /// Nowhere to keep data.
    #[error("there is no home directory to keep data in: give a data directory with --data-dir or CODEGEN_DATA_DIR")]
    NoDataDir,
}

/// A line of `codegen config show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Key.
    pub key: &'static str,
    /// Value, hidden where it is a secret.
    pub value: String,
    /// `default`, the file, or the variable.
    pub origin: String,
}

impl Config {
    /// The defaults, in this data directory.
    pub fn defaults(data_dir: &Path) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (limits, budget) = (codegen_sandbox::Limits::default(), codegen_agent::Budget::default());
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: "http://127.0.0.1:8080".to_owned(),
            data_dir: data_dir.to_owned(),
            admin_token: None,
            secret_key: None,
            database_url: None,
            worker_lease_s: 75,
            worker_addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            worker_url: None,
            max_concurrent_runs: (cores * 2).max(2),
            default_model: None,
            rate_limits: true,
            address_limit: 3000,
            trusted_proxies: Vec::new(),
            allow_local_repos: true,
            allow_private_addresses: false,
            github_token: None,
            github_api_url: "https://api.github.com".to_owned(),
            github_hosts: Vec::new(),
            github_host_tokens: Vec::new(),
            egress: Egress::Registries,
            egress_allow: Vec::new(),
            sandbox_memory_mib: limits.memory_mib,
            sandbox_processes: limits.processes,
            max_steps: budget.max_steps,
            max_tokens: budget.max_tokens,
            max_cost: budget.max_cost,
            max_time_s: budget.max_time.as_secs(),
            trace: TraceLimits::default(),
            keep: Keep::default(),
            log_in: LogIn::default(),
            idle_s: 60,
            body_s: 300,
            session_stale_h: 24,
            mcp_providers: Vec::new(),
            mcp_client_secrets: Vec::new(),
            models: Keys::default(),
            origins: BTreeMap::new(),
        }
    }

    /// Reads the settings. A data directory given here comes before `CODEGEN_DATA_DIR`.
    ///
    /// # Errors
    /// A sentence that names the setting and where it is written.
    pub fn load(data_dir: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, Error> {
        let env: BTreeMap<String, String> = env.filter(|(_, value)| !value.is_empty()).collect();
        let (dir, dir_origin) = match (data_dir, env.get("CODEGEN_DATA_DIR")) {
            (Some(dir), _) => (dir.to_owned(), "--data-dir"),
            (None, Some(dir)) => (PathBuf::from(dir), "CODEGEN_DATA_DIR"),
            (None, None) => {
                let absolute = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
                let home = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
                (home.ok_or(Error::NoDataDir)?.join("codegen"), "default")
            }
        };
        let dir = std::path::absolute(&dir).map_err(|error| Error::Read(dir, error))?;
        let mut config = Self::defaults(&dir);
        config.origins.insert("data_dir", dir_origin.to_owned());
        config.read_file(&dir.join("config.toml"))?;
        config.read_env(&env)?;
        config.derive();
        if config.log_in.oidc_issuer.is_some() && config.log_in.oidc_client_id.is_none() {
            return Err(Error::Together(
                "oidc_issuer is set and oidc_client_id is not: the provider gives both".to_owned(),
            ));
        }
        if config.log_in.oidc_default_role.is_none() && config.log_in.oidc_group_roles.is_empty() {
            let sentence = "oidc_default_role is none and oidc_group_roles is not set: nobody could log in";
            return Err(Error::Together(sentence.to_owned()));
        }
        Ok(config)
    }

    /// Listens elsewhere than the settings say; what depends on it follows.
    pub fn set_addr(&mut self, addr: SocketAddr) {
        if addr != self.addr {
            self.addr = addr;
            self.origins.insert("addr", "--addr".to_owned());
        }
        self.derive();
    }

    /// When runs end.
    pub fn budget(&self) -> codegen_agent::Budget {
        codegen_agent::Budget {
            max_steps: self.max_steps,
            max_tokens: self.max_tokens,
            max_cost: self.max_cost,
            max_time: Duration::from_secs(self.max_time_s),
        }
    }

    /// Hard limits of sandboxes.
    pub fn limits(&self) -> codegen_sandbox::Limits {
        codegen_sandbox::Limits { memory_mib: self.sandbox_memory_mib, processes: self.sandbox_processes }
    }

    /// The model of runs that name none: the setting, else one of the first provider that is set up.
    pub fn default_model(&self) -> Option<String> {
        let keys = &self.models;
        let known = [
            (keys.anthropic.is_some() || keys.anthropic_base_url.is_some(), "anthropic/claude-sonnet-4-5"),
            (keys.openai.is_some(), "openai/gpt-5"),
            (keys.gemini.is_some(), "gemini/gemini-2.5-pro"),
            (keys.xai.is_some(), "xai/grok-4"),
            (keys.openrouter.is_some(), "openrouter/anthropic/claude-sonnet-4.5"),
        ];
        let first = || known.iter().find(|(set, _)| *set).map(|(_, name)| (*name).to_owned());
        self.default_model.clone().or_else(first)
    }

    /// Every setting with its value and where it came from, secrets hidden.
    pub fn show(&self) -> Vec<Shown> {
        SETTINGS
            .iter()
            .map(|setting| {
                let value = (setting.get)(self);
                Shown {
                    key: setting.key,
                    value: match value {
                        Some(_) if setting.secret => "set (hidden)".to_owned(),
                        Some(value) => value,
                        None => "not set".to_owned(),
                    },
                    origin: self.origins.get(setting.key).cloned().unwrap_or_else(|| "default".to_owned()),
                }
            })
            .collect()
    }

    /// The page `docs/config.md`.
    pub fn docs() -> String {
        let mut page = String::from(
            "# Settings\n\nGenerated from `crates/server/src/config_table.rs`; change that and run `UPDATE=1 cargo test -p codegen-server`.\n\n\
             Read in this order, the later winning: defaults, `config.toml` in the data directory, environment variables.\n\
             `codegen config show` prints the result without secrets and says where each value came from.\n\n\
             | key in `config.toml` | variables | default | what it is |\n| --- | --- | --- | --- |\n",
        );
        for setting in SETTINGS {
            let key =
                if setting.key == "data_dir" { "(not in the file)".to_owned() } else { format!("`{}`", setting.key) };
            let variables: Vec<String> = setting.variables().iter().map(|name| format!("`{name}`")).collect();
            let secret = if setting.secret { " Secret." } else { "" };
            page.push_str(&format!(
                "| {key} | {} | {} | {}{secret} |\n",
                variables.join(", "),
                setting.default,
                setting.doc
            ));
        }
        page
    }

    fn read_file(&mut self, path: &Path) -> Result<(), Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::Read(path.to_owned(), error)),
        };
        let place = path.display().to_string();
        for (key, value) in text.parse::<toml::Table>().map_err(|error| Error::Toml(path.to_owned(), error))? {
            let known = SETTINGS.iter().find(|setting| setting.key == key);
            let setting = known.ok_or_else(|| {
                let keys = SETTINGS.iter().map(|setting| setting.key.to_owned()).filter(|key| key != "data_dir");
                let (distance, nearest) = nearest(&key, keys);
                // With more than half of it wrong, another word was meant.
                let nearest = (distance <= key.len() / 2).then_some(nearest);
                Error::Unknown { nearest, name: key.clone(), place: place.clone() }
            })?;
            let wrong = |why: String| Error::Value { name: key.clone(), place: place.clone(), why };
            let text = plain_text(&value)
                .ok_or_else(|| wrong("must be a text, a number, true, false or a list of texts".to_owned()))?;
            (setting.set)(self, &text).map_err(wrong)?;
            self.origins.insert(setting.key, place.clone());
        }
        Ok(())
    }

    fn read_env(&mut self, env: &BTreeMap<String, String>) -> Result<(), Error> {
        for setting in SETTINGS.iter().filter(|setting| setting.key != "data_dir") {
            // The first variable is codegen's own and wins over a vendor's.
            let found = setting.variables().into_iter().find_map(|name| env.get(&name).map(|value| (name, value)));
            let Some((name, value)) = found else { continue };
            (setting.set)(self, value).map_err(|why| Error::Value {
                name: name.clone(),
                place: "environment".to_owned(),
                why,
            })?;
            self.origins.insert(setting.key, name);
        }
        // Other programs' CODEGEN_ variables pass; one that is nearly a setting's is a typing error.
        for name in env.keys().filter(|name| name.starts_with("CODEGEN_") && !CLIENT_VARIABLES.contains(&name.as_str()))
        {
            let (distance, nearest) = nearest(name, SETTINGS.iter().map(Setting::variable));
            if (1..=2).contains(&distance) {
                return Err(Error::Unknown {
                    name: name.clone(),
                    place: "the environment".to_owned(),
                    nearest: Some(nearest),
                });
            }
        }
        Ok(())
    }

    /// Fills in what follows from other settings.
    fn derive(&mut self) {
        if !self.origins.contains_key("public_url") {
            let host =
                if self.addr.ip().is_unspecified() { "localhost".to_owned() } else { self.addr.ip().to_string() };
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            self.public_url = format!("http://{host}:{}", self.addr.port());
        }
        if !self.origins.contains_key("allow_local_repos") {
            self.allow_local_repos = self.addr.ip().is_loopback();
        }
    }
}

fn plain_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default()
}

/// The known name with the smallest edit distance.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> (usize, String) {
    known.map(|key| (distance(name, &key), key)).min().unwrap_or_default()
}

fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.bytes().enumerate() {
            let replaced = row.get(j).copied().unwrap_or(0) + usize::from(x != y);
            let added = next.get(j).copied().unwrap_or(0) + 1;
            let removed = row.get(j + 1).copied().unwrap_or(0) + 1;
            next.push(replaced.min(added).min(removed));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// The environment that programs of the host are started with and set up by; settings come from [`Config`] alone.
pub fn host_env() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect()
}
