//! What generated clients of the Codegen API v1 rely upon, held against our own document: `contract.json` has each of its
//! operations with parameters, bodies and responses, without words for people. Additions are allowed.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

const BOUNDS: [&str; 10] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
];

/// A schema in the one form in which spellings of the same are equal: `$ref` or inline, `nullable` or a list of types,
/// `anyOf` with null, `allOf` of one.
#[derive(Debug, Default)]
struct Shape {
    any: bool,
    null: bool,
    default: Option<Value>,
    kinds: BTreeMap<String, Kind>,
}

#[derive(Debug, Default)]
struct Kind {
    words: Option<BTreeSet<String>>,
    bounds: BTreeMap<&'static str, String>,
    items: Option<Box<Shape>>,
    properties: BTreeMap<String, Shape>,
    required: BTreeSet<String>,
    /// Of further properties; none where they are open.
    extra: Option<Box<Shape>>,
}

fn resolved(doc: &Value, schema: &Value) -> Map<String, Value> {
    let mut merged = schema.as_object().cloned().unwrap_or_default();
    if let Some(Value::String(place)) = merged.remove("$ref") {
        let target = doc.pointer(place.trim_start_matches('#')).unwrap_or_else(|| panic!("{place} is not there"));
        for (key, value) in resolved(doc, target) {
            merged.entry(key).or_insert(value);
        }
    }
    if let Some(Value::Array(parts)) = merged.remove("allOf") {
        for part in &parts {
            for (key, value) in resolved(doc, part) {
                merged.entry(key).or_insert(value);
            }
        }
    }
    merged
}

fn shape(doc: &Value, schema: &Value) -> Shape {
    let schema = resolved(doc, schema);
    let mut shape = Shape {
        null: schema.get("nullable") == Some(&Value::Bool(true)),
        default: schema.get("default").filter(|value| !value.is_null()).cloned(),
        ..Shape::default()
    };
    if let Some(branches) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
        for branch in branches {
            let branch = self::shape(doc, branch);
            if branch.any {
                return branch;
            }
            shape.null |= branch.null;
            shape.kinds.extend(branch.kinds);
        }
        return shape;
    }
    let mut types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(some)) => some.iter().filter_map(Value::as_str).collect(),
        _ if schema.contains_key("enum") || schema.contains_key("const") => vec!["string"],
        _ if schema.contains_key("properties") => vec!["object"],
        _ => {
            shape.any = true;
            return shape;
        }
    };
    shape.null |= types.contains(&"null");
    types.retain(|one| *one != "null");
    for one in types {
        let mut kind = Kind::default();
        let words = schema.get("const").map(|word| vec![word.clone()]);
        let words = words.or_else(|| schema.get("enum").and_then(Value::as_array).cloned());
        kind.words = words.map(|words| words.iter().map(ToString::to_string).collect());
        if one != "array" && one != "object" {
            let bound = |key: &&'static str| Some((*key, schema.get(*key)?));
            let spell = |value: &Value| value.as_f64().map_or_else(|| value.to_string(), |number| number.to_string());
            kind.bounds = BOUNDS.iter().filter_map(bound).map(|(key, value)| (key, spell(value))).collect();
        }
        if one == "array" {
            kind.items = Some(Box::new(self::shape(doc, schema.get("items").unwrap_or(&Value::Null))));
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let named = properties.iter().map(|(name, schema)| (name.clone(), self::shape(doc, schema)));
            kind.properties = named.collect();
        }
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        kind.required = required.filter_map(Value::as_str).map(str::to_owned).collect();
        let extra = schema.get("additionalProperties").filter(|extra| extra.is_object());
        kind.extra = extra.map(|extra| Box::new(self::shape(doc, extra))).filter(|extra| !extra.any);
        shape.kinds.insert(one.to_owned(), kind);
    }
    shape
}

/// What a client would trip over. `answer`: the server sends it, else it takes it.
fn compare(theirs: &Shape, ours: &Shape, place: &str, answer: bool, found: &mut Vec<String>) {
    let mut differs = |what: String| found.push(format!("{place}: {what}"));
    if theirs.any {
        return;
    }
    if ours.any {
        return differs("the type is left open".to_owned());
    }
    if theirs.null != ours.null && ours.null == answer {
        differs(format!("null is {}allowed", if ours.null { "" } else { "not " }));
    }
    if let (Some(theirs), Some(ours)) = (&theirs.default, &ours.default)
        && theirs != ours
    {
        differs(format!("the default is {ours}, not {theirs}"));
    }
    let narrower = answer && ours.kinds.keys().all(|kind| theirs.kinds.contains_key(kind));
    if !narrower && !theirs.kinds.keys().eq(ours.kinds.keys()) {
        differs(format!("the type is {:?}, not {:?}", ours.kinds.keys(), theirs.kinds.keys()));
    }
    for (name, theirs) in &theirs.kinds {
        let Some(ours) = ours.kinds.get(name) else { continue };
        let mut differs = |what: String| found.push(format!("{place}: {what}"));
        let restricts = answer && theirs.words.is_none();
        if theirs.words != ours.words && !restricts {
            differs(format!("the words are {:?}, not {:?}", ours.words, theirs.words));
        }
        for key in BOUNDS {
            let (theirs, ours) = (theirs.bounds.get(key), ours.bounds.get(key));
            if theirs != ours && !(theirs.is_none() && answer) {
                differs(format!("{key} is {ours:?}, not {theirs:?}"));
            }
        }
        for name in ours.required.iter().filter(|name| !answer && !theirs.required.contains(*name)) {
            differs(format!("{name} is required"));
        }
        for name in theirs.required.iter().filter(|name| !ours.required.contains(*name)) {
            differs(format!("{name} is not required"));
        }
        match (&theirs.extra, &ours.extra) {
            (Some(theirs), Some(ours)) => compare(theirs, ours, &format!("{place}{{*}}"), answer, found),
            (Some(_), None) => differs("values of further keys are left open".to_owned()),
            (None, _) => {}
        }
        if let (Some(theirs), Some(ours)) = (&theirs.items, &ours.items) {
            compare(theirs, ours, &format!("{place}[]"), answer, found);
        }
        for (key, theirs) in &theirs.properties {
            match ours.properties.get(key) {
                Some(ours) => compare(theirs, ours, &format!("{place}.{key}"), answer, found),
                None => found.push(format!("{place}.{key}: is missing")),
            }
        }
    }
}

/// Parameters by place and name; those of the path by their position, for their names are nobody's business.
fn parameters<'v>(operation: &'v Value, path: &str) -> BTreeMap<(String, String), &'v Value> {
    let position = |name: &str| {
        path.split('/').filter(|part| part.starts_with('{')).position(|part| part[1..part.len() - 1] == *name)
    };
    let all = operation["parameters"].as_array().into_iter().flatten();
    all.map(|parameter| {
        let (place, name) = (parameter["in"].as_str().unwrap(), parameter["name"].as_str().unwrap());
        let name = position(name).filter(|_| place == "path").map_or_else(|| name.to_lowercase(), |at| at.to_string());
        ((place.to_owned(), name), parameter)
    })
    .collect()
}

fn differences(reference: &Value, ours: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (path, methods) in reference["paths"].as_object().unwrap() {
        for (method, theirs) in methods.as_object().unwrap() {
            let place = format!("{method} {path}");
            let Some(mine) = ours["paths"].get(path).and_then(|methods| methods.get(method)) else {
                found.push(format!("{place}: is missing"));
                continue;
            };
            if theirs["operationId"] != mine["operationId"] {
                found.push(format!("{place}: operationId is {}", mine["operationId"]));
            }
            let (wanted, has) = (parameters(theirs, path), parameters(mine, path));
            for (key, wanted) in &wanted {
                let place = format!("{place} {key:?}");
                // The token is declared as a security scheme.
                match has.get(key) {
                    None if key.1 == "authorization" => {}
                    None => found.push(format!("{place}: is missing")),
                    Some(has) => {
                        if wanted["required"].as_bool().unwrap_or_default()
                            != has["required"].as_bool().unwrap_or_default()
                        {
                            found.push(format!("{place}: required is {}", has["required"]));
                        }
                        let (wanted, has) = (shape(reference, &wanted["schema"]), shape(ours, &has["schema"]));
                        compare(&wanted, &has, &place, false, &mut found);
                    }
                }
            }
            for (key, has) in has.iter().filter(|(key, _)| !wanted.contains_key(*key) && key.0 != "path") {
                if has["required"] == true {
                    found.push(format!("{place} {key:?}: is added and required"));
                }
            }
            let body = |doc: &Value, operation: &Value| {
                let schema = operation["requestBody"]["content"].get("application/json")?.get("schema")?;
                Some((operation["requestBody"]["required"] == true, shape(doc, schema)))
            };
            match (body(reference, theirs), body(ours, mine)) {
                (None, None) => {}
                (Some((theirs, wanted)), Some((mine, has))) => {
                    if theirs != mine {
                        found.push(format!("{place} body: required is {mine}"));
                    }
                    compare(&wanted, &has, &format!("{place} body"), false, &mut found);
                }
                (theirs, _) => {
                    found.push(format!("{place} body: is {}", if theirs.is_some() { "missing" } else { "added" }))
                }
            }
            for (code, theirs) in theirs["responses"].as_object().unwrap() {
                let place = format!("{place} {code}");
                let Some(mine) = mine["responses"].get(code) else {
                    found.push(format!("{place}: is missing"));
                    continue;
                };
                for (kind, theirs) in theirs["content"].as_object().into_iter().flatten() {
                    match mine["content"].get(kind) {
                        None => found.push(format!("{place}: has no {kind}")),
                        Some(mine) => {
                            let (theirs, mine) = (shape(reference, &theirs["schema"]), shape(ours, &mine["schema"]));
                            compare(&theirs, &mine, &place, true, &mut found);
                        }
                    }
                }
            }
        }
    }
    found
}

fn reference() -> Value {
    serde_json::from_str(include_str!("contract.json")).unwrap()
}

#[test]
fn our_document_has_every_operation_of_the_contract_as_clients_know_it() {
    let reference = reference();
    let operations: usize =
        reference["paths"].as_object().unwrap().values().map(|m| m.as_object().unwrap().len()).sum();
    assert_eq!(operations, 25);
    let found = differences(&reference, &codegen_server::openapi());
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_kind_of_difference_is_found() {
    let run = "/v1/organizations/{org_id}/agent/run";
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 9] = [
        ("is missing", |doc| drop(doc["paths"].as_object_mut().unwrap().remove("/v1/users/me"))),
        ("operationId", |doc| doc["paths"]["/v1/users/me"]["get"]["operationId"] = "me".into()),
        ("maximum is None", |doc| {
            let skip = &mut doc["paths"]["/v1/organizations"]["get"]["parameters"][1]["schema"];
            drop(skip.as_object_mut().unwrap().remove("maximum"));
        }),
        ("prompt is not required", |doc| {
            doc["components"]["schemas"]["CreateAgentRunInput"]["required"] = Value::Array(vec![])
        }),
        ("the type is", |doc| {
            doc["components"]["schemas"]["CreateAgentRunInput"]["properties"]["prompt"]["type"] = "integer".into();
        }),
        ("429: is missing", |doc| {
            drop(doc["paths"]["/v1/users/me"]["get"]["responses"].as_object_mut().unwrap().remove("429"));
        }),
        ("the words are", |doc| doc["components"]["schemas"]["EditState"]["enum"] = vec!["open"].into()),
        ("null is allowed", |doc| {
            doc["components"]["schemas"]["EditPRResponse"]["properties"]["success"]["type"] =
                vec!["boolean", "null"].into();
        }),
        ("body: is missing", |doc| {
            drop(
                doc["paths"]["/v1/organizations/{org_id}/agent/run"]["post"]
                    .as_object_mut()
                    .unwrap()
                    .remove("requestBody"),
            );
        }),
    ];
    for (what, change) in changes {
        let mut doc = codegen_server::openapi();
        assert!(doc["paths"].get(run).is_some());
        change(&mut doc);
        let found = differences(&reference(), &doc);
        assert!(found.iter().any(|difference| difference.contains(what)), "{what}: {found:?}");
    }
}
