//! Who may do what, asked of every route that there is: the table comes from the server, the requests from its API
//! document, so that a new route is asked too.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write as _;

use codegen_server::{Route, SCOPES, Who, route_table};
use codegen_store::{NewToken, Role};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::api::{TOKEN, TestApp, sha256};

/// No row has this id.
pub const ABSENT: i64 = 999_999_999;

/// Requests that every route takes as valid, made from the API document.
pub struct Samples {
    document: Value,
    /// Texts that no document can tell, by the name of their field.
    texts: Vec<(&'static str, String)>,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Sample {
    pub path: String,
    pub body: Option<Value>,
}

impl Samples {
    pub fn new(texts: &[(&'static str, &str)]) -> Self {
        let texts = texts.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        Self { document: codegen_server::openapi(), texts }
    }

    /// A valid request to this route; `id` gives the value of each id in it.
    pub fn of(&self, route: &Route, id: &dyn Fn(&str) -> i64) -> Sample {
        let operation = &self.document["paths"][&route.path][route.method.as_str().to_lowercase()];
        let mut path = String::new();
        for (index, part) in route.path.split(['{', '}']).enumerate() {
            match self.texts.iter().find(|(name, _)| *name == part) {
                _ if index % 2 == 0 => path.push_str(part),
                Some((_, text)) => path.push_str(text),
                None => write!(path, "{}", id(part)).unwrap(),
            }
        }
        let query = operation["parameters"].as_array().into_iter().flatten().filter(|parameter| {
            let name = parameter["name"].as_str().unwrap();
            parameter["in"] == "query"
                && (parameter["required"] == true || name.ends_with("_id") && name != "last_event_id")
        });
        let mut joint = '?';
        for parameter in query {
            let name = parameter["name"].as_str().unwrap();
            let value = self.value(name, &parameter["schema"], id);
            write!(path, "{joint}{name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)).unwrap();
            joint = '&';
        }
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let body = (!schema.is_null()).then(|| self.value("", schema, id));
        Sample { path, body }
    }

    fn value(&self, name: &str, schema: &Value, id: &dyn Fn(&str) -> i64) -> Value {
        if let Some(target) = schema["$ref"].as_str() {
            let target = target.rsplit('/').next().unwrap();
            return self.value(name, &self.document["components"]["schemas"][target], id);
        }
        for choice in ["oneOf", "anyOf", "allOf"] {
            let choices = schema[choice].as_array().into_iter().flatten();
            if let Some(first) = choices.clone().find(|choice| choice["type"] != "null") {
                return self.value(name, first, id);
            }
        }
        if let Some(first) = schema["enum"].as_array().and_then(|words| words.first()) {
            return first.clone();
        }
        if schema["format"] == "uri" {
            return json!("https://h.example/");
        }
        if let Some((_, text)) = self.texts.iter().find(|(known, _)| *known == name) {
            return json!(text);
        }
        let types = match &schema["type"] {
            Value::Array(types) => types.clone(),
            one => vec![one.clone()],
        };
        match types.iter().filter_map(Value::as_str).find(|word| *word != "null") {
            Some("integer") if name.ends_with("_id") => json!(id(name)),
            Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
            Some("boolean") => json!(false),
            Some("array") if schema["minItems"] == 1 => json!([self.value(name, &schema["items"], id)]),
            Some("array") => json!([]),
            Some("object") | None => {
                let fields = schema["properties"].as_object().into_iter().flatten();
                let required = schema["required"].as_array().cloned().unwrap_or_default();
                let wanted = fields.filter(|(name, _)| required.contains(&json!(name)) || name.ends_with("_id"));
                Value::Object(
                    wanted.map(|(name, schema)| (name.clone(), self.value(name, schema, id))).collect::<Map<_, _>>(),
                )
            }
            Some(_) => json!("x"),
        }
    }
}

impl TestApp {
    /// The answer's status and text; of a stream, which has no end, its status.
    pub async fn sends(&self, method: &Method, sample: &Sample, token: Option<&str>) -> (u16, String) {
        let mut request = self.asks(method.clone(), &sample.path, token);
        if let Some(body) = &sample.body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        if kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return (status, String::new());
        }
        (status, answer.text().await.unwrap())
    }

    /// A further token of the first admin, with these scopes.
    async fn scoped(&self, name: &str, scopes: &str) -> String {
        let token = format!("cgn_scoped_{name}");
        let new = NewToken {
            user_id: 1,
            name: name.to_owned(),
            hash: sha256(&token),
            scopes: Some(scopes.to_owned()),
            ..NewToken::default()
        };
        self.app.store.create_token(new, 0).await.unwrap();
        token
    }
}

/// A folder that is a git repository, and texts for requests.
pub fn samples(app: &TestApp) -> Samples {
    let origin = app.dir().join("ann/sample");
    std::fs::create_dir_all(&origin).unwrap();
    super::git_host::git(&origin, &["init", "-q"]);
    super::git_host::commit_file(&origin, "a", "b");
    Samples::new(&[
        ("url", origin.to_str().unwrap()),
        ("session_id", "11111111-2222-4333-8444-555555555555"),
        ("password", "correct horse battery"),
        ("provider", "openai"),
        ("*path", "no-such-file.js"),
    ])
}

fn let_in(status: u16) -> bool {
    !matches!(status, 401 | 403 | 500 | 503)
}

/// Whether the request names an organization elsewhere than in its path.
fn names_an_org(sample: &Sample) -> bool {
    sample.path.contains("?org_id=")
        || sample.path.contains("&org_id=")
        || sample.body.as_ref().is_some_and(|body| body.get("org_id").is_some())
}

#[tokio::test]
async fn every_route_lets_in_exactly_those_whom_the_table_says() {
    let app = TestApp::new().await;
    let samples = samples(&app);
    let other = app.app.store.create_org("others", 0).await.unwrap().id;
    let stranger = app.member(other, "stranger", Role::Admin).await;
    let (member, manager) = (app.member(1, "mem", Role::Member).await, app.member(1, "man", Role::Manager).await);
    let people = [(Who::Person, &*stranger), (Who::Member, &*member), (Who::Manager, &*manager), (Who::Admin, TOKEN)];
    let rank = |who| {
        [Who::Anyone, Who::Caller, Who::Person, Who::Member, Who::Manager, Who::Admin].iter().position(|w| *w == who)
    };
    let mut wrong = String::new();
    let table = route_table();
    for route in &table {
        let sample = samples.of(route, &|name| if name == "org_id" { 1 } else { ABSENT });
        let place = format!("{} {}", route.method, sample.path);
        if route.who == Who::Anyone {
            let (status, text) = app.sends(&route.method, &sample, None).await;
            if status >= 500 {
                writeln!(wrong, "{place} answers {status} without a token: {text}").unwrap();
            }
            continue;
        }
        for token in [None, Some("cgn_nobody_s")] {
            let (status, text) = app.sends(&route.method, &sample, token).await;
            if status != 401 {
                writeln!(wrong, "{place} answers {status} to {token:?}: {text}").unwrap();
            }
        }
        let least = if matches!(route.who, Who::Caller | Who::Person) && names_an_org(&sample) {
            Who::Member
        } else {
            route.who
        };
        for (who, token) in people {
            let (status, text) = app.sends(&route.method, &sample, Some(token)).await;
            let right = if rank(who) >= rank(least) { let_in(status) } else { status == 403 };
            if !right {
                writeln!(wrong, "{place}, for {least:?}, answers {status} to {who:?}: {text}").unwrap();
            }
        }
    }
    assert!(table.len() > 40, "the table is too short: {}", table.len());
    assert!(
        wrong.is_empty(),
        "{wrong}(a 422 means that `samples` has to know a valid value of a field; the route's body is {})",
        "made from its schema"
    );
}

#[tokio::test]
async fn every_route_asks_a_token_with_scopes_for_its_own() {
    let app = TestApp::new().await;
    let samples = samples(&app);
    let mut tokens = Vec::new();
    for (word, scope) in SCOPES {
        let without = SCOPES.iter().filter(|(_, s)| s.area != scope.area || (scope.write && !s.write));
        let without: Vec<&str> = without.map(|(word, _)| *word).collect();
        let name = word.replace(':', "_");
        let only = app.scoped(&format!("only_{name}"), word).await;
        tokens.push((scope, only, app.scoped(&format!("without_{name}"), &without.join(" ")).await));
    }
    let none = app.scoped("none", "").await;
    for route in route_table().iter().filter(|route| route.who != Who::Anyone) {
        let sample = samples.of(route, &|name| if name == "org_id" { 1 } else { ABSENT });
        let place = format!("{} {}", route.method, sample.path);
        let Some(needed) = route.scope else {
            let (status, text) = app.sends(&route.method, &sample, Some(&none)).await;
            assert!(let_in(status), "{place} answers {status}: {text}");
            continue;
        };
        let (_, only, without) = tokens.iter().find(|(scope, ..)| *scope == needed).unwrap();
        for refused in [without, &none] {
            let (status, text) = app.sends(&route.method, &sample, Some(refused)).await;
            assert_eq!(status, 403, "{place}: {text}");
            assert!(text.contains(&needed.to_string()), "{place} names what is missing: {text}");
        }
        let (status, text) = app.sends(&route.method, &sample, Some(only)).await;
        assert!(let_in(status), "{place} answers {status}: {text}");
    }
}

#[test]
fn the_documented_table_of_rights_is_the_one_that_is_enforced() {
    let mut table = String::from("| route | role | scope |\n| --- | --- | --- |\n");
    for Route { method, path, who, scope } in route_table() {
        let who = match who {
            Who::Anyone => "anyone",
            Who::Caller => "any token",
            Who::Person => "any person",
            Who::Member => "MEMBER",
            Who::Manager => "MANAGER",
            Who::Admin => "ADMIN",
        };
        let scope = scope.map_or_else(|| "-".to_owned(), |scope| format!("`{scope}`"));
        writeln!(table, "| `{method} {path}` | {who} | {scope} |").unwrap();
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/roles.md");
    let text = std::fs::read_to_string(file).unwrap();
    let mark = "<!-- Made from the route table: UPDATE=1 cargo test -p codegen-server -->\n";
    let (before, written) = text.split_once(mark).expect("docs/roles.md has the mark");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, format!("{before}{mark}{table}")).unwrap();
        return;
    }
    assert_eq!(written, table, "docs/roles.md is not of this code: UPDATE=1 cargo test -p codegen-server");
}
