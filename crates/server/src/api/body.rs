//! Reads a request's path, query and body, collecting every failure in FastAPI's words.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::error::{Loc, ValidationError};
use crate::App;

/// What an operation takes, read from [`Fields`]; `None` only where a failure was recorded.
pub trait Input: Sized + Send {
    /// Bytes of body it takes; 0 where it takes none.
    const BODY: usize = 0;
    /// Whether it takes an `Idempotency-Key`.
    const KEYED: bool = false;
    /// Which limit it counts against.
    const LIMIT: super::limits::Limit = super::limits::Limit::Read;

    /// The organization it is about, where the operation is one of an organization.
    fn org_id(fields: &mut Fields<'_>) -> Option<i64> {
        fields.path_id("org_id")
    }

    /// Reads it.
    fn read(fields: &mut Fields<'_>) -> Option<Self>;
}

/// Usual size of a body.
pub const USUAL: usize = 20 << 20;
/// Size of a body with images.
pub const WITH_IMAGES: usize = 140 << 20;

/// Most levels of an object that is kept: parsers stop at about 128, and answers wrap it in a few more.
const DEEPEST: usize = 100;

/// A request taken apart.
pub struct Fields<'a> {
    /// For checks against the settings.
    pub app: &'a App,
    path: HashMap<String, String>,
    query: HashMap<String, String>,
    body: HashMap<String, Box<RawValue>>,
    /// What is wrong so far.
    pub failures: Vec<ValidationError>,
}

/// PostgreSQL keeps no NUL in a text, so no database is given one.
pub(super) const NUL: (&str, &str) = ("value_error", "Value error, a text has no NUL character");
const INT: (&str, &str) = ("int_parsing", "Input should be a valid integer, unable to parse string as an integer");

impl<'a> Fields<'a> {
    /// Takes a request apart; a body only where the operation takes one.
    pub fn new(app: &'a App, path: HashMap<String, String>, query: Option<&str>, body: Option<(bool, &[u8])>) -> Self {
        let query = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
        let mut fields = Self { app, path, query, body: HashMap::new(), failures: Vec::new() };
        match body {
            None => {}
            Some((_, [])) => fields.fail(&["body"], "missing", "Field required"),
            Some((false, _)) => fields.not_an_object(),
            Some((true, bytes)) => match serde_json::from_slice(bytes) {
                Ok(body) => fields.body = body,
                Err(error) if error.is_data() && first(bytes) != Some(b'{') => fields.not_an_object(),
                Err(error) => {
                    let lines = bytes.split_inclusive(|b| *b == b'\n').take(error.line().saturating_sub(1));
                    let offset = lines.map(<[u8]>::len).sum::<usize>() + error.column().saturating_sub(1);
                    let loc = vec![Loc::Key("body".to_owned()), Loc::Index(i64::try_from(offset).unwrap_or(i64::MAX))];
                    fields.failures.push(ValidationError {
                        loc,
                        msg: "JSON decode error".to_owned(),
                        r#type: "json_invalid",
                    });
                }
            },
        }
        fields
    }

    /// A tool's arguments: what an operation would look for in its path, its query or its body.
    pub fn of_arguments(app: &'a App, texts: HashMap<String, String>, body: Option<(bool, &[u8])>) -> Self {
        Self { query: texts.clone(), ..Self::new(app, texts, None, body) }
    }

    fn not_an_object(&mut self) {
        self.fail(
            &["body"],
            "model_attributes_type",
            "Input should be a valid dictionary or object to extract fields from",
        );
    }

    /// The whole body, as JSON.
    pub fn whole(&self) -> String {
        serde_json::to_string(&self.body).unwrap_or_default()
    }

    /// Whether the body could be read at all; where not, its fields are not reported as missing.
    fn body_is_broken(&self) -> bool {
        let body = Loc::Key("body".to_owned());
        self.failures
            .iter()
            .any(|f| f.loc.first() == Some(&body) && (f.loc.len() == 1 || matches!(f.loc.get(1), Some(Loc::Index(_)))))
    }

    /// Records a failure.
    pub fn fail(&mut self, loc: &[&str], r#type: &'static str, msg: impl Into<String>) {
        let loc = loc.iter().map(|part| Loc::Key((*part).to_owned())).collect();
        self.failures.push(ValidationError { loc, msg: msg.into(), r#type });
    }

    /// Records a failure at an item of a list in the body.
    pub fn fail_item(&mut self, key: &str, index: usize, r#type: &'static str, msg: impl Into<String>) {
        let index = i64::try_from(index).unwrap_or(i64::MAX);
        let loc = vec![Loc::Key("body".to_owned()), Loc::Key(key.to_owned()), Loc::Index(index)];
        self.failures.push(ValidationError { loc, msg: msg.into(), r#type });
    }

    /// A text in the path.
    pub fn path_text(&self, key: &str) -> Option<String> {
        self.path.get(key).cloned()
    }

    /// An id in the path.
    pub fn path_id(&mut self, key: &str) -> Option<i64> {
        let Some(text) = self.path.get(key).cloned() else {
            // A path always has it; a tool's arguments need not.
            self.fail(&["path", key], "missing", "Field required");
            return None;
        };
        self.parse_int(&["path", key], &text)
    }

    fn parse_int(&mut self, loc: &[&str], text: &str) -> Option<i64> {
        let text = text.trim();
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let number = text.parse().ok();
        if number.is_none() {
            let long = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let (word, msg) = if long {
                ("int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size")
            } else {
                INT
            };
            self.fail(loc, word, msg);
        }
        number
    }

    /// An optional integer of the query.
    pub fn query_int(&mut self, key: &str) -> Option<Option<i64>> {
        match self.query.get(key).cloned() {
            None => Some(None),
            Some(text) => self.parse_int(&["query", key], &text).map(Some),
        }
    }

    /// An optional time of the query, ISO 8601; without a time of day its day's beginning in UTC. In unix milliseconds.
    pub fn query_time(&mut self, key: &str) -> Option<Option<i64>> {
        let Some(text) = self.raw_query(key).map(str::to_owned) else { return Some(None) };
        // A plus sign that was not escaped has become a blank.
        let zoned = text.replace(' ', "+").parse::<jiff::Timestamp>();
        let day = || Some(text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp());
        let time = zoned.ok().or_else(day);
        if time.is_none() {
            self.fail(&["query", key], "datetime_parsing", "Input should be a valid datetime or date");
        }
        time.map(|time| Some(time.as_millisecond()))
    }

    /// `skip` and `limit`.
    pub fn page(&mut self) -> Option<super::page::Paging> {
        let skip = self.query_int("skip").and_then(|skip| self.within("skip", skip.unwrap_or(0), 0, i64::MAX));
        let limit = self.query_int("limit").and_then(|limit| self.within("limit", limit.unwrap_or(100), 1, 100));
        Some(super::page::Paging { skip: skip?, limit: limit? })
    }

    /// What stands in the query.
    pub(super) fn raw_query(&self, key: &str) -> Option<&str> {
        self.query.get(key).map(String::as_str)
    }

    /// An optional text of the query.
    pub fn query_text(&mut self, key: &str) -> Option<String> {
        let text = self.query.get(key).filter(|text| !text.is_empty()).cloned()?;
        if text.contains('\0') {
            self.fail(&["query", key], NUL.0, NUL.1);
        }
        Some(text)
    }

    /// A bounded integer of the query.
    pub fn query_within(&mut self, key: &str, default: i64, least: i64, most: i64) -> Option<i64> {
        let value = self.query_int(key)?.unwrap_or(default);
        self.within(key, value, least, most)
    }

    fn within(&mut self, key: &str, value: i64, least: i64, most: i64) -> Option<i64> {
        if value < least {
            self.fail(
                &["query", key],
                "greater_than_equal",
                format!("Input should be greater than or equal to {least}"),
            );
        } else if value > most {
            self.fail(&["query", key], "less_than_equal", format!("Input should be less than or equal to {most}"));
        } else {
            return Some(value);
        }
        None
    }

    /// An optional flag of the query.
    pub fn query_flag(&mut self, key: &str) -> Option<bool> {
        match self.query.get(key).map(|text| text.to_ascii_lowercase()).as_deref() {
            None | Some("false" | "0" | "off" | "no" | "n" | "f") => Some(false),
            Some("true" | "1" | "on" | "yes" | "y" | "t") => Some(true),
            Some(_) => {
                self.fail(
                    &["query", key],
                    "bool_parsing",
                    "Input should be a valid boolean, unable to interpret input",
                );
                None
            }
        }
    }

    /// An optional word of the query, one of some.
    pub fn query_word(&mut self, key: &str, words: &[&str]) -> Option<Option<String>> {
        match self.query.get(key).cloned() {
            None => Some(None),
            Some(text) if words.contains(&text.as_str()) => Some(Some(text)),
            Some(_) => {
                self.fail(&["query", key], "enum", one_of(words));
                None
            }
        }
    }

    /// The raw JSON of a key; none where it is absent or null.
    pub(super) fn raw(&self, key: &str) -> Option<&RawValue> {
        self.body.get(key).map(|raw| &**raw).filter(|raw| raw.get() != "null")
    }

    /// Whether a key that must be there is; null is another failure than absence.
    pub(super) fn required(&mut self, key: &str) -> bool {
        let there = self.body.contains_key(key);
        if !there && !self.body_is_broken() {
            self.fail(&["body", key], "missing", "Field required");
        }
        there
    }

    /// A text of the body that must be there.
    pub fn text(&mut self, key: &str) -> Option<String> {
        if !self.required(key) {
            return None;
        }
        match self.optional_text(key)? {
            Some(text) => Some(text),
            None => {
                self.fail(&["body", key], "string_type", "Input should be a valid string");
                None
            }
        }
    }

    /// A text of the body that may be absent or null.
    pub fn optional_text(&mut self, key: &str) -> Option<Option<String>> {
        let Some(raw) = self.raw(key) else { return Some(None) };
        let Ok(text) = serde_json::from_str::<String>(raw.get()) else {
            self.fail(&["body", key], "string_type", "Input should be a valid string");
            return None;
        };
        if text.contains('\0') {
            self.fail(&["body", key], NUL.0, NUL.1);
            return None;
        }
        Some(Some(text))
    }

    /// An optional word of the body, one of some.
    pub fn optional_word(&mut self, key: &str, words: &[&str]) -> Option<Option<String>> {
        let Some(raw) = self.raw(key) else { return Some(None) };
        match serde_json::from_str::<String>(raw.get()) {
            Ok(text) if words.contains(&text.as_str()) => Some(Some(text)),
            Ok(_) | Err(_) => {
                self.fail(&["body", key], "literal_error", one_of(words));
                None
            }
        }
    }

    /// An integer of the body that must be there.
    pub fn int(&mut self, key: &str) -> Option<i64> {
        if !self.required(key) {
            return None;
        }
        match self.optional_int(key)? {
            Some(number) => Some(number),
            None => {
                self.fail(&["body", key], "int_type", "Input should be a valid integer");
                None
            }
        }
    }

    /// An integer of the body that may be absent or null. As FastAPI does, a text of digits and `1.0` pass.
    pub fn optional_int(&mut self, key: &str) -> Option<Option<i64>> {
        let Some(raw) = self.raw(key) else { return Some(None) };
        let loc = ["body", key];
        match serde_json::from_str::<serde_json::Value>(raw.get()) {
            Ok(serde_json::Value::String(text)) => self.parse_int(&loc, &text).map(Some),
            Ok(serde_json::Value::Number(number)) => {
                if let Some(number) = number.as_i64() {
                    return Some(Some(number));
                }
                match number.as_f64() {
                    #[allow(clippy::cast_possible_truncation, reason = "whole and small")]
                    Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => return Some(Some(float as i64)),
                    Some(float) if float.fract() != 0.0 => {
                        self.fail(
                            &loc,
                            "int_from_float",
                            "Input should be a valid integer, got a number with a fractional part",
                        );
                    }
                    Some(_) | None => {
                        self.fail(
                            &loc,
                            "int_parsing_size",
                            "Unable to parse input string as an integer, exceeded maximum size",
                        );
                    }
                }
                None
            }
            Ok(_) | Err(_) => {
                self.fail(&loc, "int_type", "Input should be a valid integer");
                None
            }
        }
    }

    /// A bounded integer of the body that may be absent or null.
    pub fn optional_int_within(&mut self, key: &str, least: i64, most: i64) -> Option<Option<i64>> {
        let Some(number) = self.optional_int(key)? else { return Some(None) };
        #[allow(clippy::cast_precision_loss, reason = "bounds are small")]
        let within = self.bounded(key, number as f64, least as f64, most as f64);
        within.then_some(Some(number))
    }

    /// A bounded number of the body that may be absent or null.
    pub fn optional_number_within(&mut self, key: &str, least: f64, most: f64) -> Option<Option<f64>> {
        let Some(raw) = self.raw(key) else { return Some(None) };
        let Ok(number) = serde_json::from_str::<f64>(raw.get()) else {
            self.fail(&["body", key], "float_type", "Input should be a valid number");
            return None;
        };
        self.bounded(key, number, least, most).then_some(Some(number))
    }

    fn bounded(&mut self, key: &str, number: f64, least: f64, most: f64) -> bool {
        if number < least {
            let msg = format!("Input should be greater than or equal to {least}");
            self.fail(&["body", key], "greater_than_equal", msg);
        } else if number > most {
            self.fail(&["body", key], "less_than_equal", format!("Input should be less than or equal to {most}"));
        }
        (least..=most).contains(&number)
    }

    /// A list of texts that may be absent or null.
    pub fn optional_texts(&mut self, key: &str) -> Option<Vec<String>> {
        let Some(raw) = self.raw(key) else { return Some(Vec::new()) };
        let Ok(items) = serde_json::from_str::<Vec<Box<RawValue>>>(raw.get()) else {
            self.fail(&["body", key], "list_type", "Input should be a valid list");
            return None;
        };
        let mut texts = Some(Vec::with_capacity(items.len()));
        for (index, item) in items.iter().enumerate() {
            match serde_json::from_str::<String>(item.get()) {
                Ok(text) if text.contains('\0') => {
                    self.fail_item(key, index, NUL.0, NUL.1);
                    texts = None;
                }
                Ok(text) => texts.iter_mut().for_each(|texts| texts.push(text.clone())),
                Err(_) => {
                    self.fail_item(key, index, "string_type", "Input should be a valid string");
                    texts = None;
                }
            }
        }
        texts
    }

    /// Whether a key of the body is there and not null.
    pub fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// Whether the body has this key, be it null.
    pub fn is_given(&self, key: &str) -> bool {
        self.body.contains_key(key)
    }

    /// A flag of the body that may be absent or null.
    pub fn optional_flag(&mut self, key: &str) -> Option<Option<bool>> {
        let Some(raw) = self.raw(key) else { return Some(None) };
        match raw.get() {
            "true" => Some(Some(true)),
            "false" => Some(Some(false)),
            _ => {
                self.fail(&["body", key], "bool_type", "Input should be a valid boolean");
                None
            }
        }
    }

    /// An object that may be absent or null, byte for byte. One that usual parsers cannot read is refused: it would make
    /// every list that it is part of unreadable.
    pub fn optional_object(&mut self, key: &str) -> Option<Option<String>> {
        match self.raw(key).map(|raw| raw.get().to_owned()) {
            None => Some(None),
            Some(text) => match object(&text) {
                Ok(_) => Some(Some(text)),
                Err((r#type, msg)) => {
                    self.fail(&["body", key], r#type, msg);
                    None
                }
            },
        }
    }
}

/// An object of a body that can be kept, or what is wrong with it.
pub(super) fn object(text: &str) -> Result<serde_json::Value, (&'static str, String)> {
    if !text.starts_with('{') {
        return Err(("dict_type", "Input should be a valid dictionary".to_owned()));
    }
    serde_json::from_str(text).ok().filter(|value| depth(value) <= DEEPEST).ok_or_else(|| {
        (
            "value_error",
            format!("Value error, it has over {DEEPEST} levels, a number that is too large or a broken \\u escape"),
        )
    })
}

/// Levels of lists and objects; a parsed value has few enough for the stack.
fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        serde_json::Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

fn first(bytes: &[u8]) -> Option<u8> {
    bytes.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    match quoted.split_last() {
        Some((last, [])) => format!("Input should be {last}"),
        Some((last, others)) => format!("Input should be {} or {last}", others.join(", ")),
        None => String::new(),
    }
}
