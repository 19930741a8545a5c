//! The table of settings: each with its key, words for people, default, and how it is read and written.

use super::{Config, Egress, limits, log_in, offered, worker};

#[path = "config_values.rs"]
mod values;

pub(super) use values::{above_zero, hidden, per_host, url, whole};
use values::{base, flag, key, on_off, put};

/// One setting.
pub struct Setting {
    /// Key in `config.toml`.
    pub key: &'static str,
    /// What it is, in a sentence.
    pub doc: &'static str,
    /// The default, for people.
    pub default: &'static str,
    /// Whether its value is never shown.
    pub secret: bool,
    /// The vendor's own variable, where there is one.
    pub vendor: Option<&'static str>,
    pub(super) get: fn(&Config) -> Option<String>,
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
}

impl Setting {
    /// Codegen's variable for it.
    pub fn variable(&self) -> String {
        format!("CODEGEN_{}", self.key.to_uppercase())
    }

    /// All variables it is read from, the winning one first.
    pub fn variables(&self) -> Vec<String> {
        std::iter::once(self.variable()).chain(self.vendor.map(str::to_owned)).collect()
    }
}

pub(super) const fn plain(
    key: &'static str,
    doc: &'static str,
    default: &'static str,
    get: fn(&Config) -> Option<String>,
    set: fn(&mut Config, &str) -> Result<(), String>,
) -> Setting {
    Setting { key, doc, default, secret: false, vendor: None, get, set }
}

const fn of_vendor(
    key: &'static str,
    doc: &'static str,
    vendor: &'static str,
    get: fn(&Config) -> Option<String>,
    set: fn(&mut Config, &str) -> Result<(), String>,
) -> Setting {
    Setting { key, doc, default: "", secret: false, vendor: Some(vendor), get, set }
}

pub(super) const fn secret(setting: Setting) -> Setting {
    Setting { secret: true, ..setting }
}

/// All settings, in the order in which people read them.
pub static SETTINGS: &[Setting] = &[
    plain(
        "data_dir",
        "Where the database, mirrors and sandboxes live; `--data-dir` comes first.",
        "`codegen` in the user's data folder (`$XDG_DATA_HOME`, else `~/.local/share`)",
        |c| Some(c.data_dir.display().to_string()),
        |_, _| Err("cannot be set in the file that is kept in it".to_owned()),
    ),
    plain(
        "addr",
        "Where `serve` listens.",
        "`127.0.0.1:8080`",
        |c| Some(c.addr.to_string()),
        |c, v| put(&mut c.addr, v, "must be an address and port, such as 127.0.0.1:8080"),
    ),
    plain(
        "public_url",
        "How people reach the server.",
        "from `addr`",
        |c| Some(c.public_url.clone()),
        |c, v| {
            c.public_url = url(v)?;
            Ok(())
        },
    ),
    secret(plain(
        "admin_token",
        "An API token of the admin, for automated set-up; only its hash is kept.",
        "made and shown once at the first start",
        |c| hidden(&c.admin_token),
        |c, v| {
            if v.len() < 16 || !v.bytes().all(|b| b.is_ascii_graphic()) {
                return Err("must have at least 16 characters, all of them visible ASCII".to_owned());
            }
            c.admin_token = Some(v.into());
            Ok(())
        },
    )),
    secret(plain(
        "secret_key",
        "Key of the secrets in the database: 32 bytes in base64. Several separated by commas: the first encrypts, all decrypt.",
        "made at the first start, in `secret.key` of the data directory",
        |c| hidden(&c.secret_key),
        |c, v| {
            crate::secrets::Keys::parse(v).map_err(|error| format!("cannot be used: {error}"))?;
            c.secret_key = Some(v.into());
            Ok(())
        },
    )),
    secret(of_vendor(
        "database_url",
        "PostgreSQL 15 or later, as `postgres://user:password@host/database`, for several servers and workers; without it \
         the database is SQLite's in `data_dir`, which is one process's. `codegen run` does not use it.",
        "DATABASE_URL",
        |c| hidden(&c.database_url),
        |c, v| {
            if !["postgres://", "postgresql://"].iter().any(|scheme| v.trim().starts_with(scheme)) {
                return Err("must begin with postgres://".to_owned());
            }
            c.database_url = Some(v.trim().into());
            Ok(())
        },
    )),
    worker::LEASE,
    worker::ADDR,
    worker::URL,
    log_in::IDLE,
    log_in::MAX,
    log_in::ISSUER,
    log_in::CLIENT_ID,
    log_in::CLIENT_SECRET,
    log_in::NAME,
    log_in::SCOPES,
    log_in::GROUP_CLAIM,
    log_in::GROUP_ROLES,
    log_in::DEFAULT_ROLE,
    log_in::ORG,
    log_in::DOMAINS,
    offered::IDLE,
    offered::BODY,
    offered::SESSION_STALE,
    offered::MCP_PROVIDERS,
    offered::MCP_CLIENT_SECRETS,
    plain(
        "max_concurrent_runs",
        "Runs at once; others wait.",
        "twice the number of cores, at least 2",
        |c| Some(c.max_concurrent_runs.to_string()),
        |c, v| {
            let wrong = "must be a whole number from 1 to 10000";
            let runs = v.trim().parse().map_err(|_| wrong.to_owned())?;
            if !(1..=10_000).contains(&runs) {
                return Err(wrong.to_owned());
            }
            c.max_concurrent_runs = runs;
            Ok(())
        },
    ),
    plain(
        "default_model",
        "Model of runs that name none, as `provider/name`.",
        "a model of the first provider that has a key",
        |c| c.default_model(),
        |c, v| {
            if !codegen_agent::models::is_known(v) {
                return Err(format!("is {v:?}, which is no model: write it as provider/name"));
            }
            c.default_model = Some(v.to_owned());
            Ok(())
        },
    ),
    plain(
        "rate_limits",
        "Whether requests are limited, per token and per address.",
        "`on`",
        |c| on_off(c.rate_limits),
        |c, v| {
            c.rate_limits = flag(v)?;
            Ok(())
        },
    ),
    limits::ADDRESS,
    limits::PROXIES,
    plain(
        "allow_local_repos",
        "Whether a folder of this machine may be added as a repository.",
        "`on` where `addr` is a loopback address",
        |c| on_off(c.allow_local_repos),
        |c, v| {
            c.allow_local_repos = flag(v)?;
            Ok(())
        },
    ),
    plain(
        "allow_private_addresses",
        "Whether webhooks and models that organizations set up may lead to private and loopback addresses.",
        "`off`",
        |c| on_off(c.allow_private_addresses),
        |c, v| {
            c.allow_private_addresses = flag(v)?;
            Ok(())
        },
    ),
    secret(of_vendor(
        "github_token",
        "Token for pull requests at GitHub.",
        "GITHUB_TOKEN",
        |c| hidden(&c.github_token),
        |c, v| key(&mut c.github_token, v),
    )),
    plain(
        "github_api_url",
        "GitHub's API.",
        "`https://api.github.com`",
        |c| Some(c.github_api_url.clone()),
        |c, v| {
            c.github_api_url = url(v)?;
            Ok(())
        },
    ),
    plain(
        "github_hosts",
        "Other hosts that are GitHub, as `host=API address` (`ghe.example.com=https://ghe.example.com/api/v3`); a list, or separated by commas.",
        "none",
        |c| Some(c.github_hosts.iter().map(|(host, api)| format!("{host}={api}")).collect::<Vec<_>>().join(",")),
        |c, v| {
            c.github_hosts = per_host(v)?.map(|(host, api)| Ok((host, url(&api)?))).collect::<Result<_, String>>()?;
            Ok(())
        },
    ),
    secret(plain(
        "github_host_tokens",
        "Tokens for those hosts, as `host=token`; a list, or separated by commas. `github_token` is not sent to them.",
        "none",
        |c| (!c.github_host_tokens.is_empty()).then(String::new),
        |c, v| {
            c.github_host_tokens = per_host(v)?
                .map(|(host, token)| {
                    let mut slot = None;
                    key(&mut slot, &token)?;
                    Ok((host, slot.unwrap_or_default()))
                })
                .collect::<Result<_, String>>()?;
            Ok(())
        },
    )),
    plain(
        "egress",
        "What sandboxes may reach: `registries` (package registries and the repository's host), `open` (every public host) or `closed`.",
        "`registries`",
        |c| {
            let word = match c.egress {
                Egress::Registries => "registries",
                Egress::Open => "open",
                Egress::Closed => "closed",
            };
            Some(word.to_owned())
        },
        |c, v| {
            c.egress = match v {
                "registries" => Egress::Registries,
                "open" => Egress::Open,
                "closed" => Egress::Closed,
                _ => return Err("must be registries, open or closed".to_owned()),
            };
            Ok(())
        },
    ),
    plain(
        "egress_allow",
        "Hosts that sandboxes may reach besides, `*` as a wildcard; a list, or separated by commas.",
        "none",
        |c| Some(c.egress_allow.join(",")),
        |c, v| {
            c.egress_allow = v.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_owned).collect();
            if let Some(host) = c.egress_allow.iter().find(|host| host.contains(['/', ' '])) {
                return Err(format!("has {host:?}, which is no host name"));
            }
            // Here and not at each run's gateway.
            codegen_gateway::Mode::Allow(c.egress_allow.clone()).check().map_err(|error| error.to_string())
        },
    ),
    plain(
        "sandbox_memory_mib",
        "Memory of a sandbox in MiB.",
        "`4096`",
        |c| Some(c.sandbox_memory_mib.to_string()),
        |c, v| above_zero(&mut c.sandbox_memory_mib, v),
    ),
    plain(
        "sandbox_processes",
        "Processes and threads of a sandbox.",
        "`2048`",
        |c| Some(c.sandbox_processes.to_string()),
        |c, v| above_zero(&mut c.sandbox_processes, v),
    ),
    plain(
        "max_steps",
        "Model answers after which a run ends.",
        "`250`",
        |c| Some(c.max_steps.to_string()),
        |c, v| above_zero(&mut c.max_steps, v),
    ),
    plain(
        "max_tokens",
        "Tokens after which a run ends.",
        "`20000000`",
        |c| Some(c.max_tokens.to_string()),
        |c, v| above_zero(&mut c.max_tokens, v),
    ),
    plain(
        "max_cost",
        "US dollars after which a run ends.",
        "`20`",
        |c| Some(c.max_cost.to_string()),
        |c, v| {
            let cost: f64 = v.trim().parse().map_err(|_| "must be a number".to_owned())?;
            if !cost.is_finite() || cost <= 0.0 {
                return Err("must be a number above 0".to_owned());
            }
            c.max_cost = cost;
            Ok(())
        },
    ),
    plain(
        "max_time_s",
        "Seconds after which a run ends.",
        "`14400`",
        |c| Some(c.max_time_s.to_string()),
        |c, v| above_zero(&mut c.max_time_s, v),
    ),
    plain(
        "keep_outputs_days",
        "Days after a run's end in which the full outputs of its commands are kept (the trace has their ends, the diff stays); `0`: for ever.",
        "`90`",
        |c| Some(c.keep.outputs_days.to_string()),
        |c, v| whole(&mut c.keep.outputs_days, v),
    ),
    plain(
        "max_outputs_mib",
        "MiB of full outputs of ended runs; beyond, those of the run that ended first go first; `0`: no limit.",
        "`10240`",
        |c| Some(c.keep.outputs_mib.to_string()),
        |c, v| whole(&mut c.keep.outputs_mib, v),
    ),
    plain(
        "keep_traces_days",
        "Days after a run's end in which its trace is kept; what people wrote, the result and the diff stay; `0`: for ever.",
        "`0`",
        |c| Some(c.keep.traces_days.to_string()),
        |c, v| whole(&mut c.keep.traces_days, v),
    ),
    plain(
        "keep_mirrors_days",
        "Days in which a repository's mirror is kept without a run; the next run fetches it again, runs' own commits stay; `0`: for ever.",
        "`30`",
        |c| Some(c.keep.mirrors_days.to_string()),
        |c, v| whole(&mut c.keep.mirrors_days, v),
    ),
    plain(
        "max_mirrors_mib",
        "MiB of mirrors; beyond, the one not used for the longest time goes first, never one of a live run; `0`: no limit.",
        "`20480`",
        |c| Some(c.keep.mirrors_mib.to_string()),
        |c, v| whole(&mut c.keep.mirrors_mib, v),
    ),
    plain(
        "keep_sandboxes_h",
        "Hours after a run's end in which its sandbox is kept; `0`: it ends with the run.",
        "`0`",
        |c| Some(c.keep.sandboxes_h.to_string()),
        |c, v| whole(&mut c.keep.sandboxes_h, v),
    ),
    secret(of_vendor(
        "anthropic_api_key",
        "Key for Anthropic's models.",
        "ANTHROPIC_API_KEY",
        |c| hidden(&c.models.anthropic),
        |c, v| key(&mut c.models.anthropic, v),
    )),
    of_vendor(
        "anthropic_base_url",
        "Address of Anthropic's API, or of one like it; a path is kept.",
        "ANTHROPIC_BASE_URL",
        |c| c.models.anthropic_base_url.clone(),
        |c, v| base(&mut c.models.anthropic_base_url, v),
    ),
    secret(of_vendor(
        "openai_api_key",
        "Key for OpenAI's models.",
        "OPENAI_API_KEY",
        |c| hidden(&c.models.openai),
        |c, v| key(&mut c.models.openai, v),
    )),
    of_vendor(
        "openai_base_url",
        "Address of OpenAI's API, or of one like it (vLLM, ...).",
        "OPENAI_BASE_URL",
        |c| c.models.openai_base_url.clone(),
        |c, v| base(&mut c.models.openai_base_url, v),
    ),
    secret(of_vendor(
        "gemini_api_key",
        "Key for Gemini.",
        "GEMINI_API_KEY",
        |c| hidden(&c.models.gemini),
        |c, v| key(&mut c.models.gemini, v),
    )),
    of_vendor(
        "gemini_base_url",
        "Address of Gemini's OpenAI-compatible API.",
        "GEMINI_BASE_URL",
        |c| c.models.gemini_base_url.clone(),
        |c, v| base(&mut c.models.gemini_base_url, v),
    ),
    secret(of_vendor(
        "xai_api_key",
        "Key for Grok.",
        "XAI_API_KEY",
        |c| hidden(&c.models.xai),
        |c, v| key(&mut c.models.xai, v),
    )),
    of_vendor(
        "xai_base_url",
        "Address of xAI's API.",
        "XAI_BASE_URL",
        |c| c.models.xai_base_url.clone(),
        |c, v| base(&mut c.models.xai_base_url, v),
    ),
    secret(of_vendor(
        "openrouter_api_key",
        "Key for OpenRouter.",
        "OPENROUTER_API_KEY",
        |c| hidden(&c.models.openrouter),
        |c, v| key(&mut c.models.openrouter, v),
    )),
    of_vendor(
        "openrouter_base_url",
        "Address of OpenRouter's API.",
        "OPENROUTER_BASE_URL",
        |c| c.models.openrouter_base_url.clone(),
        |c, v| base(&mut c.models.openrouter_base_url, v),
    ),
    of_vendor(
        "ollama_base_url",
        "Address of Ollama; without it, this machine's.",
        "OLLAMA_BASE_URL",
        |c| c.models.ollama_base_url.clone(),
        // Ollama's own variable may leave the scheme out.
        |c, v| {
            base(
                &mut c.models.ollama_base_url,
                &if v.contains("://") { v.to_owned() } else { format!("http://{}", v.trim()) },
            )
        },
    ),
];
