//! What ARCHITECTURE.md promises of the tree, held true.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Which of our crates each may use: `cli -> server -> the rest`, `agent -> sandbox`, and nothing else.
const MAY_USE: [(&str, &[&str]); 7] = [
    ("store", &[]),
    ("sandbox", &[]),
    ("gateway", &[]),
    ("detect", &[]),
    ("agent", &["sandbox"]),
    ("server", &["store", "sandbox", "gateway", "agent", "detect"]),
    ("cli", &["server", "detect"]),
];

struct Source {
    /// From the root of the project, as `crates/store/src/runs.rs`.
    path: String,
    /// Without comments and text literals.
    code: String,
    lines: usize,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn folders() -> Vec<String> {
    let entries = fs::read_dir(root().join("crates")).unwrap().map(Result::unwrap);
    entries.filter(|e| e.path().join("Cargo.toml").exists()).map(|e| e.file_name().into_string().unwrap()).collect()
}

/// Every hand-written file of `crates/*/src`.
fn sources() -> Vec<Source> {
    let root = root();
    let mut waiting: Vec<PathBuf> = folders().iter().map(|name| root.join("crates").join(name).join("src")).collect();
    let mut found = Vec::new();
    while let Some(folder) = waiting.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.push(Source { path, lines: text.lines().count(), code: code_of(&text) });
            }
        }
    }
    assert!(found.len() > 30, "the sources were not found");
    found
}

/// Drops line comments and the insides of text literals, so that only code is looked at.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(literal) = rest.strip_prefix("r#\"") {
            literal.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if next == '"' {
            let mut escaped = false;
            let end = rest[1..].char_indices().find(|(_, c)| {
                let ends = *c == '"' && !escaped;
                escaped = *c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |(end, _)| end + 2)
        } else if rest.starts_with("'\"'") || rest.starts_with("b'\"'") {
            rest.find("\"'").map_or(rest.len(), |end| end + 2)
        } else {
            code.push(next);
            next.len_utf8()
        };
        rest = &rest[skipped..];
    }
    code
}

/// Fails with every file outside the allowed places whose code has one of the words.
fn only_in(allowed: &[&str], words: &[&str], promise: &str) {
    let wrong: Vec<String> = sources()
        .iter()
        .filter(|s| !allowed.iter().any(|place| s.path.starts_with(place)))
        .filter_map(|s| {
            words.iter().find(|word| has_word(&s.code, word)).map(|word| format!("{} has `{word}`", s.path))
        })
        .collect();
    assert!(wrong.is_empty(), "{promise}:\n{}", wrong.join("\n"));
}

fn has_word(code: &str, word: &str) -> bool {
    let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        !part_of_name(code[..at].chars().next_back()) && !part_of_name(code[at + word.len()..].chars().next())
    })
}

#[test]
fn sql_is_only_in_store() {
    only_in(&["crates/store/"], &["sqlx", "rusqlite"], "SQL belongs in `store`");
}

#[test]
fn axum_is_only_in_server_and_gateway() {
    only_in(&["crates/server/", "crates/gateway/"], &["axum"], "HTTP is served by `server` and `gateway`");
}

#[test]
fn unsafe_is_only_in_the_local_sandbox() {
    only_in(&["crates/sandbox/src/local/"], &["unsafe"], "`unsafe` belongs in `sandbox/src/local`");
}

#[test]
fn the_environment_is_read_only_where_settings_are() {
    let allowed = ["crates/server/src/config.rs", "crates/cli/"];
    let words = ["env::var", "env::vars", "env::var_os", "env::vars_os"];
    only_in(&allowed, &words, "environment variables are read in `server/src/config.rs` and `cli`");
}

#[test]
fn only_the_dialect_knows_which_database_it_is() {
    only_in(
        &["crates/store/src/dialect/"],
        &["SqlitePool", "PgPool", "SqliteConnectOptions", "PgConnectOptions"],
        "database kinds",
    );
}

#[test]
fn statements_are_put_together_by_the_stores_own_builder() {
    only_in(&[], &["QueryBuilder"], "sqlx's builder writes parameters that PostgreSQL does not read");
}

#[test]
fn no_file_is_over_500_lines() {
    let long: Vec<_> = sources().iter().filter(|s| s.lines > 500).map(|s| format!("{}: {}", s.path, s.lines)).collect();
    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
}

#[test]
fn crates_depend_in_one_direction() {
    let allowed = BTreeMap::from(MAY_USE);
    for name in folders() {
        let may_use =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("the new crate `{name}` needs a line in MAY_USE"));
        let manifest = fs::read_to_string(root().join("crates").join(&name).join("Cargo.toml")).unwrap();
        for line in manifest.lines() {
            let Some(rest) = line.trim().strip_prefix("codegen-") else { continue };
            let used = rest.split(['.', ' ', '=']).next().unwrap();
            assert!(may_use.contains(&used), "`{name}` must not use `{used}`");
        }
    }
}
