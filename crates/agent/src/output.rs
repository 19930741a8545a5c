//! Structured results: the JSON schema that a caller gives, what a model is shown of it, and the check of what it writes.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use boon::{Compiler, Draft, SchemaIndex, Schemas, UrlLoader};
use serde_json::{Map, Value};

use crate::output_work;

/// Bytes of a schema: it is sent with every question to the model.
pub const LARGEST_SCHEMA: usize = 64 << 10;
/// Bytes of a result.
const LARGEST_OUTPUT: usize = 1 << 20;
/// Levels of a schema, and of a result.
const DEEPEST: usize = 64;
/// Each pattern is compiled, which may take milliseconds.
const MOST_PATTERNS: usize = 50;
/// Schemas that hold for one value at once; each of them may lead to several others.
const MOST_AT_ONCE: u64 = 10_000;
/// How long one check may take: a schema can ask for as much work as it likes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Characters of what a model is told at once.
const LONGEST_REFUSAL: usize = 4000;
/// The checker calls itself for each level of schema and value.
const STACK: usize = 32 << 20;
/// Where the checker looks for the schema; nothing is there.
const HERE: &str = "schema:/output";

/// Keywords that hold one schema for a part of the value, or for a name in it.
const PARTS: [&str; 9] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "items",
    "prefixItems",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords that hold schemas for parts of the value, by name.
const NAMED_PARTS: [&str; 2] = ["properties", "patternProperties"];
/// Keywords that hold schemas, by name, which nothing is checked against unless they are referred to.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];
/// Keywords that hold schemas for the value itself.
const WHOLE: [&str; 7] = ["allOf", "anyOf", "oneOf", "not", "if", "then", "else"];
/// Keywords that hold schemas for the value itself, by name.
const NAMED_WHOLE: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords that give a schema another name than its place.
const NAMES: [&str; 7] = ["$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$dynamicRef", "$recursiveRef"];

/// A schema that results are checked against.
#[derive(Clone)]
pub struct OutputSchema {
    schema: Arc<Value>,
    compiled: Arc<(Schemas, SchemaIndex)>,
}

impl fmt::Debug for OutputSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OutputSchema").field(&self.schema).finish()
    }
}

/// Nothing is fetched: a schema holds all that it refers to.
struct Nowhere;

impl UrlLoader for Nowhere {
    fn load(&self, _: &str) -> Result<Value, Box<dyn std::error::Error>> {
        Err("schemas elsewhere are not fetched".into())
    }
}

impl OutputSchema {
    /// Reads a schema; a sentence without a capital or full stop where it cannot be used.
    ///
    /// # Errors
    /// That sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LARGEST_SCHEMA {
            return Err(format!("it has at most {} KiB", LARGEST_SCHEMA >> 10));
        }
        let schema: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
        if !schema.is_object() {
            return Err("it is a JSON object".to_owned());
        }
        if depth(&schema) > DEEPEST {
            return Err(format!("it has at most {DEEPEST} levels"));
        }
        let read = move || {
            Walk { root: &schema, patterns: 0, counted: HashMap::new() }.visit(&schema)?;
            let mut compiler = Compiler::new();
            compiler.set_default_draft(Draft::V2020_12);
            compiler.enable_format_assertions();
            compiler.use_loader(Box::new(Nowhere));
            let mut schemas = Schemas::new();
            let refused = |error: &dyn fmt::Display| {
                format!("it is not a valid JSON schema: {}", in_a_line(&format!("{error:#}")))
            };
            compiler.add_resource(HERE, schema.clone()).map_err(|error| refused(&error))?;
            let compiled = compiler.compile(HERE, &mut schemas).map_err(|error| refused(&error))?;
            Ok(Self { schema: Arc::new(schema), compiled: Arc::new((schemas, compiled)) })
        };
        let reading = std::thread::Builder::new().stack_size(STACK).spawn(read);
        let read = reading.map_err(|error| format!("it cannot be read now: {error}"))?.join();
        read.unwrap_or_else(|_| Err("it cannot be read".to_owned()))
    }

    /// Checks a result; what is wrong with it, for the model, a line each.
    pub(crate) async fn check(&self, output: &Value) -> Result<(), String> {
        if output.to_string().len() > LARGEST_OUTPUT {
            return Err(format!("it is larger than {} KiB", LARGEST_OUTPUT >> 10));
        }
        if depth(output) > DEEPEST {
            return Err(format!("it has more than {DEEPEST} levels"));
        }
        let (done, checked) = tokio::sync::oneshot::channel();
        let (schema, compiled, output) = (self.schema.clone(), self.compiled.clone(), output.clone());
        let check = move || {
            let (schemas, index) = &*compiled;
            // Once it has begun the checker cannot be stopped.
            if !output_work::is_bounded(&schema, &output) {
                done.send(Err("checking it is too much work; give a smaller or simpler one".to_owned())).ok();
                return;
            }
            let found = schemas.validate(&output, *index).map_err(|error| refusal(&error.to_string()));
            // Nobody waits any more where it took too long.
            done.send(found).ok();
        };
        if let Err(error) = std::thread::Builder::new().stack_size(STACK).spawn(check) {
            return Err(format!("it cannot be checked now: {error}"));
        }
        match tokio::time::timeout(PATIENCE, checked).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err("it cannot be checked".to_owned()),
            Err(_) => Err(format!("checking it takes longer than {} s; give a simpler one", PATIENCE.as_secs())),
        }
    }

    /// The schema as the part `output` of a tool's arguments: what refers to its root refers to that part.
    pub(crate) fn as_argument(&self) -> Value {
        let mut schema = (*self.schema).clone();
        if let Value::Object(fields) = &mut schema {
            for key in ["$schema", "$id", "id"] {
                fields.remove(key);
            }
        }
        refer_to_argument(&mut schema);
        schema
    }
}

/// Looks at every schema of a schema, each once.
struct Walk<'s> {
    root: &'s Value,
    patterns: usize,
    /// Of schemas that are known not to lead to themselves, how many hold with each for one value.
    counted: HashMap<*const Value, u64>,
}

impl<'s> Walk<'s> {
    fn visit(&mut self, schema: &'s Value) -> Result<(), String> {
        let Value::Object(fields) = schema else { return Ok(()) };
        if !std::ptr::eq(schema, self.root)
            && let Some(name) = NAMES.iter().find(|name| fields.get(**name).is_some_and(Value::is_string))
        {
            return Err(format!("{name} is not taken; refer to a place in the schema, as in \"#/$defs/item\""));
        }
        if let Some(reference) = fields.get("$ref") {
            self.target(reference)?;
        }
        self.patterns += usize::from(fields.contains_key("pattern"));
        self.patterns += fields.get("patternProperties").and_then(Value::as_object).map_or(0, serde_json::Map::len);
        if self.patterns > MOST_PATTERNS {
            return Err(format!("it has at most {MOST_PATTERNS} patterns"));
        }
        let texts = fields.get("pattern").and_then(Value::as_str).into_iter();
        let names = fields.get("patternProperties").and_then(Value::as_object).into_iter();
        texts.chain(names.flat_map(Map::keys).map(String::as_str)).try_for_each(output_work::fits)?;
        self.descend(schema, &mut Vec::new())?;
        for part in below(fields, &PARTS).chain(below(fields, &WHOLE)) {
            self.visit(part)?;
        }
        for keywords in [&NAMED_PARTS, &DEFINITIONS, &NAMED_WHOLE] {
            for part in below_names(fields, keywords) {
                self.visit(part)?;
            }
        }
        Ok(())
    }

    /// Follows what is checked against the same value, and counts it. One that leads to itself would be checked for ever, and
    /// several that each lead to the next one several times for as good as ever.
    fn descend(&mut self, schema: &'s Value, open: &mut Vec<*const Value>) -> Result<u64, String> {
        let place: *const Value = schema;
        if let Some(count) = self.counted.get(&place) {
            return Ok(*count);
        }
        if open.contains(&place) {
            return Err("a schema in it refers to itself for the same value".to_owned());
        }
        if open.len() >= DEEPEST {
            return Err(format!("more than {DEEPEST} schemas in it lead from one to the next for the same value"));
        }
        open.push(place);
        let mut count = 1;
        if let Some(reference) = schema.get("$ref") {
            self.target(reference)?;
        }
        for same in schema.as_object().into_iter().flat_map(|fields| for_the_same(fields, self.root)) {
            count += self.descend(same, open)?;
        }
        if count > MOST_AT_ONCE {
            return Err(format!("more than {MOST_AT_ONCE} schemas in it hold for the same value"));
        }
        open.pop();
        self.counted.insert(place, count);
        Ok(count)
    }

    fn target(&self, reference: &Value) -> Result<&'s Value, String> {
        let text = reference.as_str().ok_or("a $ref in it is not a text")?;
        let shown = || text.chars().take(100).collect::<String>();
        if !text.starts_with('#') {
            return Err(format!("it refers to {:?}, and schemas elsewhere are not fetched", shown()));
        }
        referred(self.root, text).ok_or_else(|| format!("it refers to {:?}, which is not in it", shown()))
    }
}

/// The place in a schema that a reference names.
fn referred<'s>(root: &'s Value, reference: &str) -> Option<&'s Value> {
    root.pointer(&percent_decoded(reference.strip_prefix('#')?))
}

/// Schemas that hold for the same value as the one that has these fields.
pub(crate) fn for_the_same<'s>(fields: &'s Map<String, Value>, root: &'s Value) -> impl Iterator<Item = &'s Value> {
    let referred = fields.get("$ref").and_then(Value::as_str).and_then(|reference| referred(root, reference));
    referred.into_iter().chain(below(fields, &WHOLE)).chain(below_names(fields, &NAMED_WHOLE))
}

/// Schemas that keywords of a schema hold, alone or in lists.
fn below<'s>(
    schema: &'s Map<String, Value>,
    keywords: &'static [&'static str],
) -> impl Iterator<Item = &'s Value> + use<'s> {
    keywords.iter().filter_map(|keyword| schema.get(*keyword)).flat_map(|held| match held {
        Value::Array(schemas) => schemas.as_slice(),
        schema => std::slice::from_ref(schema),
    })
}

/// Schemas that keywords of a schema hold by name.
fn below_names<'s>(
    schema: &'s Map<String, Value>,
    keywords: &'static [&'static str],
) -> impl Iterator<Item = &'s Value> + use<'s> {
    keywords.iter().filter_map(|keyword| schema.get(*keyword)?.as_object()).flat_map(serde_json::Map::values)
}

fn refer_to_argument(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    for (keyword, held) in fields.iter_mut() {
        let keyword = keyword.as_str();
        match held {
            Value::String(text) if keyword == "$ref" => {
                if let Some(pointer) = text.strip_prefix('#') {
                    *text = format!("#/properties/output{pointer}");
                }
            }
            Value::Array(schemas) if PARTS.contains(&keyword) || WHOLE.contains(&keyword) => {
                schemas.iter_mut().for_each(refer_to_argument);
            }
            Value::Object(named) if [NAMED_PARTS, DEFINITIONS, NAMED_WHOLE].concat().contains(&keyword) => {
                named.values_mut().for_each(refer_to_argument);
            }
            held if PARTS.contains(&keyword) || WHOLE.contains(&keyword) => refer_to_argument(held),
            _ => {}
        }
    }
}

/// What the checker says, without its first line, which names the schema.
fn refusal(said: &str) -> String {
    let lines = said.lines().skip(1).map(str::trim_end);
    let mut text = String::new();
    for line in lines {
        // Writing to a text does not fail.
        writeln!(text, "{}", line.replace("at ''", "at the top")).ok();
        if text.len() > LONGEST_REFUSAL {
            text.push_str("and more\n");
            break;
        }
    }
    text.trim_end().chars().take(2 * LONGEST_REFUSAL).collect()
}

fn in_a_line(said: &str) -> String {
    let words: Vec<&str> = said.split_whitespace().collect();
    words.join(" ").replace(HERE, "").chars().take(500).collect()
}

/// Levels of lists and objects; a parsed value has few enough for the stack.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn parse(schema: &Value) -> Result<OutputSchema, String> {
        OutputSchema::parse(&schema.to_string())
    }

    fn tree() -> Value {
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$ref": "#/$defs/node",
            "$defs": {"node": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                "required": ["name"],
                "additionalProperties": false,
            }},
        })
    }

    #[tokio::test]
    async fn a_result_is_told_all_that_is_wrong_with_it() {
        let schema = parse(&tree()).unwrap();
        schema.check(&json!({"name": "a", "next": {"name": "b", "next": null}})).await.unwrap();
        let why = schema.check(&json!({"name": 1, "other": 2})).await.unwrap_err();
        assert!(why.contains("/name") && why.contains("other") && !why.contains("schema:/"), "{why}");
        let why = schema.check(&json!({"name": "a", "next": {}})).await.unwrap_err();
        assert!(why.contains("/next") && why.contains("name"), "{why}");
    }

    #[test]
    fn a_schema_that_cannot_be_used_is_refused_with_a_reason() {
        let mut deep = json!({"type": "string"});
        for _ in 0..DEEPEST {
            deep = json!({"items": deep});
        }
        let many: Vec<Value> = (0..=MOST_PATTERNS).map(|n| json!({"pattern": format!("{n}")})).collect();
        for (schema, reason) in [
            (json!([]), "object"),
            (json!({"type": "strin"}), "valid JSON schema"),
            (json!({"pattern": "("}), "valid JSON schema"),
            (json!({"$ref": "https://example.com/a.json"}), "elsewhere"),
            (json!({"$ref": "file:///etc/passwd"}), "elsewhere"),
            (json!({"items": {"$ref": "other.json#/a"}}), "elsewhere"),
            (json!({"$ref": "#/$defs/none"}), "not in it"),
            (json!({"$ref": "#"}), "itself"),
            (json!({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}}), "itself"),
            (json!({"$schema": "https://example.com/mine"}), "valid JSON schema"),
            (json!({"properties": {"a": {"$id": "https://example.com/"}}}), "$id"),
            (json!({"$dynamicRef": "#a", "items": {"$dynamicAnchor": "a"}}), "$dynamic"),
            (json!({"description": "x".repeat(LARGEST_SCHEMA)}), "KiB"),
            (json!({"anyOf": many}), "patterns"),
            (deep, "levels"),
            (doubling(14), "hold for the same value"),
            (doubling(25), "hold for the same value"),
            (json!({"pattern": "(a{1000}){1000}"}), "too large"),
            (json!({"patternProperties": {"\\cA(\\pL{1000}){1000}": {}}}), "too large"),
        ] {
            let why = parse(&schema).unwrap_err();
            assert!(why.contains(reason), "{schema}: {why}");
        }
    }

    /// Each definition leads to the next one twice.
    fn doubling(levels: usize) -> Value {
        let step = |level: usize| {
            let next = json!({"$ref": format!("#/$defs/{}", level + 1)});
            (level.to_string(), if level < levels { json!({"allOf": [next, next]}) } else { json!({"type": "string"}) })
        };
        json!({"$ref": "#/$defs/0", "$defs": (0..=levels).map(step).collect::<Map<_, _>>()})
    }

    #[test]
    fn patterns_and_schemas_that_are_large_but_bounded_are_taken() {
        parse(&doubling(11)).unwrap();
        parse(&json!({"pattern": "^[\\w.-]{1,64}@(?:[A-Za-z0-9-]{1,63}\\.){1,8}[A-Za-z]{2,63}$"})).unwrap();
        parse(&json!({"patternProperties": {"^\\d{1,100}$": {}}})).unwrap();
    }

    #[tokio::test]
    async fn a_result_that_would_be_checked_for_ever_is_refused_at_once() {
        // Each level of the value is looked at twice as often as the one above it.
        let twice = json!({"properties": {"next": {"$ref": "#"}}});
        let schema = parse(&json!({"anyOf": [twice, twice.clone()]})).unwrap();
        let nested = |levels: usize| (0..levels).fold(json!({}), |value, _| json!({"next": value}));
        let began = std::time::Instant::now();
        let why = schema.check(&nested(DEEPEST - 1)).await.unwrap_err();
        assert!(why.contains("too much work") && began.elapsed() < PATIENCE, "{why}, {:?}", began.elapsed());
        schema.check(&nested(12)).await.unwrap();
    }

    #[tokio::test]
    async fn a_large_result_of_a_plain_schema_is_checked() {
        let item = json!({"type": "object", "properties": {"name": {"type": "string", "pattern": "^[a-z]+$"}, "n": {"enum": [1, 2]}}});
        let schema = parse(&json!({"type": "array", "items": item})).unwrap();
        let items: Vec<Value> = (0..30_000).map(|_| json!({"name": "abc", "n": 1})).collect();
        schema.check(&json!(items)).await.unwrap();
    }

    #[test]
    fn a_property_may_have_the_name_of_a_keyword() {
        parse(&json!({"properties": {"$ref": {"type": "string"}, "id": {"type": "string"}, "$id": {}}})).unwrap();
    }

    #[test]
    fn a_model_sees_references_that_hold_where_it_sees_the_schema() {
        let shown = parse(&tree()).unwrap().as_argument();
        assert_eq!(shown["$ref"], "#/properties/output/$defs/node");
        assert_eq!(shown["$defs"]["node"]["properties"]["next"]["anyOf"][0]["$ref"], "#/properties/output/$defs/node");
        assert!(shown.get("$schema").is_none());
        let with_data = json!({"properties": {"$ref": {"const": {"$ref": "#"}}}});
        assert_eq!(parse(&with_data).unwrap().as_argument(), with_data);
    }
}
