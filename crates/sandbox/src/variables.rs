//! Variables of every command, whatever the engine.

use std::collections::BTreeMap;

use crate::Spec;

/// What commands start with before the engine's toolchains and the spec's own variables. `proxy_port` is where they
/// find the gateway on their loopback.
pub(crate) fn common(spec: &Spec, home: &str, proxy_port: Option<u16>) -> BTreeMap<String, String> {
    let heap = (spec.limits.memory_mib * 3 / 4).clamp(256, 8192);
    let mut env: BTreeMap<String, String> = [
        ("HOME", home),
        ("USER", "agent"),
        ("LOGNAME", "agent"),
        ("SHELL", "/bin/bash"),
        ("LANG", "C.UTF-8"),
        ("IS_SANDBOX", "True"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("PIP_NO_INPUT", "1"),
        ("PYTHONUNBUFFERED", "1"),
        ("COREPACK_ENABLE_DOWNLOAD_PROMPT", "0"),
        ("NPM_CONFIG_YES", "true"),
        ("YARN_ENABLE_IMMUTABLE_INSTALLS", "false"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    env.insert("NODE_OPTIONS".into(), format!("--max-old-space-size={heap}"));
    if let Some(port) = proxy_port {
        let proxy = format!("http://127.0.0.1:{port}");
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
            env.insert(name.into(), proxy.clone());
        }
        for name in ["NO_PROXY", "no_proxy"] {
            env.insert(name.into(), "localhost,127.0.0.1,::1".into());
        }
        let java = format!(
            "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort={port} -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort={port} -Dhttp.nonProxyHosts=localhost|127.0.0.1"
        );
        env.insert("MAVEN_OPTS".into(), java.clone());
        env.insert("GRADLE_OPTS".into(), java);
    }
    env
}
