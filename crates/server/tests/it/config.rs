//! Settings: where they come from, what is refused.
#![allow(clippy::unwrap_used, missing_docs)]

use codegen_server::Config;

fn load(file: &str, env: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), file).unwrap();
    Config::load(Some(dir.path()), env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
        .map_err(|e| e.to_string())
}

fn shown(config: &Config, key: &str) -> (String, String) {
    let row = config.show().into_iter().find(|row| row.key == key).unwrap();
    (row.value, row.origin)
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_defaults() {
    let config =
        load("max_steps = 7\nmax_cost = 2\negress_allow = [\"a.example\"]", &[("CODEGEN_MAX_STEPS", "9")]).unwrap();
    assert_eq!(
        (config.max_steps, config.max_cost, config.egress_allow.as_slice()),
        (9, 2.0, ["a.example".to_owned()].as_slice())
    );
    assert_eq!(shown(&config, "max_steps"), ("9".to_owned(), "CODEGEN_MAX_STEPS".to_owned()));
    assert!(shown(&config, "max_cost").1.ends_with("config.toml"));
    assert_eq!(shown(&config, "rate_limits"), ("on".to_owned(), "default".to_owned()));
}

#[test]
fn secrets_are_not_shown() {
    let config = load("", &[("ANTHROPIC_API_KEY", "sk-secret")]).unwrap();
    assert_eq!(shown(&config, "anthropic_api_key"), ("set (hidden)".to_owned(), "ANTHROPIC_API_KEY".to_owned()));
    assert!(!format!("{config:?}").contains("sk-secret"));
}

#[test]
fn typing_errors_name_the_setting_that_was_meant() {
    assert!(load("max_stepz = 1", &[]).unwrap_err().contains("did you mean `max_steps`"));
    let strange = load("bogus = 1", &[]).unwrap_err();
    assert!(strange.contains("`bogus`") && !strange.contains("did you mean"), "{strange}");
    assert!(load("", &[("CODEGEN_RATE_LIMIT", "off")]).unwrap_err().contains("`CODEGEN_RATE_LIMITS`"));
    assert!(load("", &[("CODEGEN_API_BASE_URL", "x")]).is_ok());
    assert!(load("data_dir = \"/x\"", &[]).unwrap_err().contains("kept in it"));
}

#[test]
fn values_that_cannot_be_are_refused() {
    for file in [
        "addr = \"localhost\"",
        "max_steps = 0",
        "max_cost = -1",
        "egress = \"some\"",
        "rate_limits = \"maybe\"",
        "max_concurrent_runs = 0",
        "public_url = \"ftp://x\"",
        "anthropic_base_url = \"ftp://x\"",
        "openai_base_url = \"proxy.example\"",
        "ollama_base_url = \"ftp://x\"",
        "admin_token = \"short\"",
        "default_model = \"nonsense\"",
        "max_steps = {}",
        "egress_allow = [\"a[\"]",
    ] {
        assert!(load(file, &[]).is_err(), "{file}");
    }
}

#[test]
fn the_public_address_follows_the_listening_one() {
    let mut config = load("", &[]).unwrap();
    config.set_addr("0.0.0.0:9000".parse().unwrap());
    assert_eq!((config.public_url.as_str(), config.allow_local_repos), ("http://localhost:9000", false));
}
