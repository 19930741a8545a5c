//! How much work a structured result may be: a schema that refers to itself may ask for more than any machine can do, and the
//! checker cannot be stopped. So the work is counted before, each pair of a schema and a value once.

use std::collections::HashMap;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

/// Steps of a check; a thousand of them take about a millisecond.
const MOST_STEPS: u64 = 5_000_000;
/// Bytes of a pattern that is compiled.
const LARGEST_PATTERN: usize = 256 << 10;
/// Bytes of a text that a pattern or a format looks at in a step.
const BYTES_A_STEP: usize = 8;

/// What a pattern takes when it is compiled, as far as that matters; syntax is the checker's affair.
///
/// # Errors
/// A sentence without a capital or full stop, where it is too much.
pub fn fits(pattern: &str) -> Result<(), String> {
    match compiled(pattern) {
        Err(regex::Error::CompiledTooBig(_)) => {
            let shown: String = pattern.chars().take(100).collect();
            Err(format!("the pattern {shown:?} in it is too large; repeat less, or less often"))
        }
        _ => Ok(()),
    }
}

fn compiled(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&with_ascii_classes(pattern)).size_limit(LARGEST_PATTERN).build()
}

/// Schemas have JavaScript's patterns, whose classes are of ASCII, and which know control characters as `\cA`.
fn with_ascii_classes(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len());
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match rest.next() {
            Some('d') => text.push_str("[0-9]"),
            Some('D') => text.push_str("[^0-9]"),
            Some('w') => text.push_str("[0-9A-Za-z_]"),
            Some('W') => text.push_str("[^0-9A-Za-z_]"),
            Some('c') => {
                rest.next();
                text.push_str("\\x01");
            }
            Some(other) => text.extend(['\\', other]),
            None => text.push('\\'),
        }
    }
    text
}

/// Whether a value can be checked against a schema in reasonable time. The schema must not lead to itself for one value.
pub fn is_bounded(schema: &Value, value: &Value) -> bool {
    let mut counting = Counting { root: schema, known: HashMap::new(), patterns: HashMap::new(), left: MOST_STEPS };
    counting.steps(schema, value).is_some()
}

struct Counting<'v> {
    root: &'v Value,
    /// Steps of pairs that were counted.
    known: HashMap<(*const Value, *const Value), u64>,
    patterns: HashMap<&'v str, Option<Regex>>,
    /// Steps that the counting itself may take yet.
    left: u64,
}

impl<'v> Counting<'v> {
    /// Steps of a check; none where they are too many.
    fn steps(&mut self, schema: &'v Value, value: &'v Value) -> Option<u64> {
        let Value::Object(rules) = schema else { return Some(1) };
        let pair: (*const Value, *const Value) = (schema, value);
        if let Some(steps) = self.known.get(&pair) {
            return Some(*steps);
        }
        let mut sum = 1 + self.own(rules, value);
        self.left = self.left.checked_sub(sum)?;
        for same in crate::output::for_the_same(rules, self.root) {
            sum = bounded(sum, self.steps(same, value)?)?;
        }
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    for part in of_item(rules, index) {
                        sum = bounded(sum, self.steps(part, item)?)?;
                    }
                }
            }
            Value::Object(fields) => {
                for (name, field) in fields {
                    for part in self.of_field(rules, name) {
                        sum = bounded(sum, self.steps(part, field)?)?;
                    }
                }
            }
            _ => {}
        }
        self.known.insert(pair, sum);
        Some(sum)
    }

    /// Steps of what a schema says of the value itself.
    fn own(&self, rules: &Map<String, Value>, value: &Value) -> u64 {
        let words = rules.get("enum").and_then(Value::as_array).map_or(0, Vec::len);
        let size = match value {
            Value::String(text) if rules.contains_key("pattern") || rules.contains_key("format") => {
                text.len() / BYTES_A_STEP
            }
            Value::Array(items) => items.len(),
            Value::Object(fields) => fields.len(),
            _ => 0,
        };
        (words + size) as u64
    }

    /// Schemas that hold for a field.
    fn of_field(&mut self, rules: &'v Map<String, Value>, name: &str) -> Vec<&'v Value> {
        let mut parts = Vec::new();
        parts.extend(rules.get("properties").and_then(|named| named.get(name)));
        for (pattern, part) in rules.get("patternProperties").and_then(Value::as_object).into_iter().flatten() {
            let known = self.patterns.entry(pattern).or_insert_with(|| compiled(pattern).ok());
            if known.as_ref().is_none_or(|known| known.is_match(name)) {
                parts.push(part);
            }
        }
        if parts.is_empty() {
            parts.extend(rules.get("additionalProperties"));
        }
        parts.extend(rules.get("unevaluatedProperties"));
        parts
    }
}

/// Schemas that hold for an item.
fn of_item(rules: &Map<String, Value>, index: usize) -> impl Iterator<Item = &Value> {
    let placed = rules.get("prefixItems").or_else(|| rules.get("items")).and_then(Value::as_array);
    let rest = match placed {
        Some(placed) => placed.get(index).or_else(|| match rules.get("items") {
            Some(Value::Array(_)) | None => rules.get("additionalItems"),
            items => items,
        }),
        None => rules.get("items"),
    };
    rest.into_iter().chain(rules.get("contains")).chain(rules.get("unevaluatedItems"))
}

fn bounded(sum: u64, more: u64) -> Option<u64> {
    Some(sum.saturating_add(more)).filter(|sum| *sum <= MOST_STEPS)
}
