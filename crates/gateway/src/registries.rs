//! Package registries: the public ones, and those that the host's own clients are set up with; and the settings that
//! make the same clients inside a sandbox use them, without anybody's credentials.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use url::Url;

use crate::Origin;

const PUBLIC: [&str; 21] = [
    "pypi.org",
    "files.pythonhosted.org",
    "registry.npmjs.org",
    "registry.yarnpkg.com",
    "crates.io",
    "index.crates.io",
    "static.crates.io",
    "proxy.golang.org",
    "sum.golang.org",
    "repo.maven.apache.org",
    "repo1.maven.org",
    "plugins.gradle.org",
    "rubygems.org",
    "deb.debian.org",
    "security.debian.org",
    "archive.ubuntu.com",
    "packagist.org",
    "repo.packagist.org",
    "api.nuget.org",
    "hex.pm",
    "repo.hex.pm",
];

type Env = BTreeMap<String, String>;

/// Every registry a sandbox needs: the public ones on 443 and 80, then those of [`configured_registries`].
pub fn package_registries(home: &Path, env: &Env) -> Vec<Origin> {
    let public = PUBLIC.iter().flat_map(|host| [443, 80].map(|port| Origin { host: (*host).to_owned(), port }));
    let mut all: Vec<Origin> = public.collect();
    for origin in configured_registries(home, env) {
        if !all.contains(&origin) {
            all.push(origin);
        }
    }
    all
}

/// The registries that the host's own settings name. The operator has chosen them, so they may be on private addresses.
pub fn configured_registries(home: &Path, env: &Env) -> Vec<Origin> {
    let host = HostSettings { home, etc: Path::new("/etc"), env };
    let origins: BTreeSet<Origin> = host.urls().iter().filter_map(origin).collect();
    origins.into_iter().collect()
}

/// Variables that make pip, uv, npm, yarn and Go inside a sandbox use the host's registries; no value holds credentials.
pub fn client_env(home: &Path, env: &Env) -> Env {
    HostSettings { home, etc: Path::new("/etc"), env }.client_env()
}

/// Text of a `config.toml` that makes Cargo inside a sandbox use the host's registries, which it takes from no variable;
/// none where the host uses crates.io itself.
pub fn cargo_config(home: &Path, env: &Env) -> Option<String> {
    HostSettings { home, etc: Path::new("/etc"), env }.cargo_config()
}

struct HostSettings<'a> {
    home: &'a Path,
    etc: &'a Path,
    env: &'a Env,
}

impl HostSettings<'_> {
    fn urls(&self) -> Vec<Url> {
        let pip = self.pip();
        let mut texts: Vec<String> = pip.index.into_iter().chain(pip.extra).collect();
        texts.extend(self.npm().into_values());
        texts.extend(self.go_proxies());
        texts.extend(self.cargo().values().flat_map(|source| source.values().cloned()));
        texts.extend(
            self.env
                .iter()
                .filter(|(k, _)| k.starts_with("CARGO_REGISTRIES_") && k.ends_with("_INDEX"))
                .map(|(_, v)| v.clone()),
        );
        texts.extend(self.apt());
        texts.iter().filter_map(|text| web_url(text)).collect()
    }

    fn client_env(&self) -> Env {
        let mut inside = Env::new();
        let pip = self.pip();
        let clean = |text: &String| web_url(text).map(without_credentials);
        if let Some(url) = pip.index.as_ref().and_then(clean) {
            inside.insert("UV_DEFAULT_INDEX".into(), url.clone());
            inside.insert("PIP_INDEX_URL".into(), url);
        }
        let extra: Vec<_> = pip.extra.iter().filter_map(clean).collect();
        if !extra.is_empty() {
            inside.insert("UV_INDEX".into(), extra.join(" "));
            inside.insert("PIP_EXTRA_INDEX_URL".into(), extra.join(" "));
        }
        if !pip.trusted.is_empty() {
            inside.insert("PIP_TRUSTED_HOST".into(), pip.trusted.join(" "));
        }
        for (key, url) in self.npm() {
            let Some(url) = clean(&url) else { continue };
            if key == "registry" {
                inside.insert("YARN_NPM_REGISTRY_SERVER".into(), url.clone());
                inside.insert("YARN_REGISTRY".into(), url.clone());
            }
            inside.insert(format!("npm_config_{key}"), url);
        }
        let go = self.go_setting("GOPROXY").map(|value| {
            // The separators mean different things, so they stay; `direct` and `off` are no URLs.
            let parts = value.split_inclusive([',', '|']).map(|part| {
                let end =
                    part.len() - part.chars().next_back().filter(|c| [',', '|'].contains(c)).map_or(0, char::len_utf8);
                let (entry, separator) = part.split_at(end);
                web_url(entry).map_or_else(|| entry.to_owned(), without_credentials) + separator
            });
            parts.collect::<String>()
        });
        inside.extend(go.map(|value| ("GOPROXY".to_owned(), value)));
        for key in ["GONOSUMDB", "GOSUMDB"] {
            inside.extend(self.go_setting(key).filter(|v| !v.contains('@')).map(|value| (key.to_owned(), value)));
        }
        inside
    }

    fn cargo_config(&self) -> Option<String> {
        let mut text = String::new();
        for (table, fields) in self.cargo() {
            let mut lines = String::new();
            for (field, value) in fields {
                let value = match web_url(&value) {
                    Some(url) if value.starts_with("sparse+") => format!("sparse+{}", without_credentials(url)),
                    Some(url) => without_credentials(url),
                    None if field == "replace-with" => value,
                    None => continue,
                };
                lines += &format!("{field} = {}\n", toml::Value::String(value));
            }
            if !lines.is_empty() {
                text += &format!("[{table}]\n{lines}");
            }
        }
        (!text.is_empty()).then_some(text)
    }

    fn pip(&self) -> Pip {
        let mut files =
            vec![self.etc.join("pip.conf"), self.home.join(".pip/pip.conf"), self.home.join(".config/pip/pip.conf")];
        files.extend(self.env.get("PIP_CONFIG_FILE").map(PathBuf::from));
        let mut settings = Env::new();
        for (key, value) in files.iter().flat_map(|file| ini(&read(file))) {
            settings.insert(key, value);
        }
        for (variable, key) in [
            ("UV_DEFAULT_INDEX", "index-url"),
            ("PIP_INDEX_URL", "index-url"),
            ("PIP_EXTRA_INDEX_URL", "extra-index-url"),
            ("PIP_TRUSTED_HOST", "trusted-host"),
        ] {
            settings.extend(self.env.get(variable).map(|value| (key.to_owned(), value.clone())));
        }
        let words = |key: &str| -> Vec<String> {
            settings.get(key).map(|v| v.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
        };
        Pip { index: words("index-url").pop(), extra: words("extra-index-url"), trusted: words("trusted-host") }
    }

    /// `registry` and `@scope:registry`, as npm names them.
    fn npm(&self) -> Env {
        let mut files = vec![self.etc.join("npmrc"), self.home.join(".npmrc")];
        for variable in
            ["NPM_CONFIG_GLOBALCONFIG", "npm_config_globalconfig", "NPM_CONFIG_USERCONFIG", "npm_config_userconfig"]
        {
            files.extend(self.env.get(variable).map(PathBuf::from));
        }
        let settings = files.iter().flat_map(|file| ini(&read(file)));
        let mut registries: Env =
            settings.filter(|(k, _)| k == "registry" || (k.starts_with('@') && k.ends_with(":registry"))).collect();
        for variable in ["NPM_CONFIG_REGISTRY", "npm_config_registry"] {
            registries.extend(self.env.get(variable).map(|value| ("registry".to_owned(), value.clone())));
        }
        registries
    }

    fn go_setting(&self, key: &str) -> Option<String> {
        let kept = || ini(&read(&self.home.join(".config/go/env"))).into_iter().find(|(k, _)| k == key).map(|(_, v)| v);
        self.env.get(key).cloned().or_else(kept).filter(|value| !value.is_empty())
    }

    fn go_proxies(&self) -> Vec<String> {
        self.go_setting("GOPROXY").map(|v| v.split([',', '|']).map(str::to_owned).collect()).unwrap_or_default()
    }

    /// Tables (`source.NAME`, `registries.NAME`) with those of their fields that say where crates come from.
    fn cargo(&self) -> BTreeMap<String, Env> {
        let folder = self.env.get("CARGO_HOME").map_or_else(|| self.home.join(".cargo"), PathBuf::from);
        let mut tables = BTreeMap::<String, Env>::new();
        for file in ["config", "config.toml"] {
            let Ok(config) = read(&folder.join(file)).parse::<toml::Table>() else { continue };
            for group in ["source", "registries"] {
                for (name, fields) in config.get(group).and_then(toml::Value::as_table).into_iter().flatten() {
                    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
                    for field in ["registry", "index", "replace-with"] {
                        if let Some(value) = fields.get(field).and_then(toml::Value::as_str).filter(|_| plain) {
                            let table = tables.entry(format!("{group}.{name}")).or_default();
                            table.insert(field.to_owned(), value.to_owned());
                        }
                    }
                }
            }
        }
        tables
    }

    fn apt(&self) -> Vec<String> {
        let mut files = vec![self.etc.join("apt/sources.list")];
        let more = std::fs::read_dir(self.etc.join("apt/sources.list.d")).into_iter().flatten().flatten();
        files.extend(more.map(|entry| entry.path()));
        let mut urls = Vec::new();
        for file in files {
            for line in read(&file).lines().map(str::trim) {
                let words = line.starts_with("deb ") || line.starts_with("deb-src ") || line.starts_with("URIs:");
                if words {
                    urls.extend(line.split_whitespace().filter(|w| w.contains("://")).map(str::to_owned));
                }
            }
        }
        urls
    }
}

struct Pip {
    index: Option<String>,
    extra: Vec<String>,
    trusted: Vec<String>,
}

/// A file that is not there, or cannot be read, says nothing.
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `key = value` lines; a value may go on in indented lines, as pip has it. Sections are not told apart.
fn ini(text: &str) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';', '[']) {
            continue;
        }
        match (line.starts_with([' ', '\t']), pairs.last_mut(), content.split_once('=')) {
            (true, Some((_, value)), _) => *value += &format!(" {content}"),
            (_, _, Some((key, value))) => {
                pairs.push((key.trim().to_owned(), value.trim().trim_matches('"').to_owned()));
            }
            _ => {}
        }
    }
    pairs
}

fn web_url(text: &str) -> Option<Url> {
    let text = text.trim();
    let url = Url::parse(text.strip_prefix("sparse+").unwrap_or(text)).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

fn origin(url: &Url) -> Option<Origin> {
    Some(Origin { host: url.host_str()?.to_owned(), port: url.port_or_known_default()? })
}

fn without_credentials(mut url: Url) -> String {
    // Both refuse only URLs without a host, which `web_url` has kept out.
    url.set_username("").ok();
    url.set_password(None).ok();
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn host(write: impl Fn(&dyn Fn(&str, &str))) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        write(&|path, text| {
            let path = place.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        });
        place
    }

    fn settings<'a>(place: &'a tempfile::TempDir, env: &'a Env) -> HostSettings<'a> {
        HostSettings { home: place.path(), etc: place.path(), env }
    }

    #[test]
    fn the_hosts_own_settings_are_found_and_their_credentials_are_not_passed_on() {
        let place = host(|file| {
            file(
                ".config/pip/pip.conf",
                "[global]\nindex-url = https://ann:secret@pip.example/simple\nextra-index-url =\n  http://one.example:8081/\n  https://two.example/\n",
            );
            file(
                ".npmrc",
                "registry=https://npm.example/r/\n@acme:registry=https://bob:secret@acme.example/\n//npm.example/r/:_authToken=secret\n",
            );
            file(
                ".cargo/config.toml",
                "[source.crates-io]\nreplace-with = \"mirror\"\n[source.mirror]\nregistry = \"sparse+https://x:secret@cargo.example/index/\"\n[registries.own]\nindex = \"https://own.example/git\"\ntoken = \"secret\"\n",
            );
            file(".config/go/env", "GOPROXY=https://u:secret@go.example|https://go2.example,direct\n");
            file(
                "apt/sources.list",
                "deb [signed-by=/k] http://apt.example/debian stable main\n# deb http://commented.example x y\n",
            );
            file("apt/sources.list.d/more.sources", "Types: deb\nURIs: https://apt2.example/ https://apt3.example/\n");
        });
        let env = Env::new();
        let settings = settings(&place, &env);
        let hosts: BTreeSet<String> = settings.urls().iter().filter_map(origin).map(|o| o.to_string()).collect();
        let expected = [
            "acme.example:443",
            "apt.example:80",
            "apt2.example:443",
            "apt3.example:443",
            "cargo.example:443",
            "go.example:443",
            "go2.example:443",
            "npm.example:443",
            "one.example:8081",
            "own.example:443",
            "pip.example:443",
            "two.example:443",
        ];
        assert_eq!(hosts.iter().map(String::as_str).collect::<Vec<_>>(), expected);

        let inside = settings.client_env();
        assert_eq!(inside["PIP_INDEX_URL"], "https://pip.example/simple");
        assert_eq!(inside["PIP_EXTRA_INDEX_URL"], "http://one.example:8081/ https://two.example/");
        assert_eq!(inside["npm_config_registry"], "https://npm.example/r/");
        assert_eq!(inside["npm_config_@acme:registry"], "https://acme.example/");
        assert_eq!(inside["GOPROXY"], "https://go.example/|https://go2.example/,direct");
        let cargo = settings.cargo_config().unwrap();
        assert!(cargo.contains("[source.mirror]\nregistry = \"sparse+https://cargo.example/index/\"\n"), "{cargo}");
        assert!(!format!("{inside:?}{cargo}").contains("secret"), "{inside:?}{cargo}");
    }

    #[test]
    fn a_variable_wins_over_a_file() {
        let place = host(|file| file(".npmrc", "registry=https://file.example/\n"));
        let env = Env::from([
            ("npm_config_registry".into(), "https://variable.example/".into()),
            ("PIP_INDEX_URL".into(), "https://a:b@pip.example/simple".into()),
        ]);
        let inside = settings(&place, &env).client_env();
        assert_eq!(inside["npm_config_registry"], "https://variable.example/");
        assert_eq!(inside["PIP_INDEX_URL"], "https://pip.example/simple");
    }

    #[test]
    fn a_host_without_settings_adds_nothing() {
        let (place, env) = (host(|_| {}), Env::new());
        let settings = settings(&place, &env);
        assert!(settings.urls().is_empty() && settings.client_env().is_empty() && settings.cargo_config().is_none());
    }
}
