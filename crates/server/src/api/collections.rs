//! Reads lists, maps and required keys of a request in FastAPI's words, beside what `body.rs` reads.

use std::collections::BTreeMap;

use serde_json::{Map, Value, value::RawValue};

use super::{
    body::{Fields, NUL, object},
    error::{Loc, ValidationError},
};

impl Fields<'_> {
    /// An integer of the query that must be there.
    pub fn query_needed_int(&mut self, key: &str) -> Option<i64> {
        match self.query_int(key)? {
            Some(number) => Some(number),
            None => {
                self.fail(&["query", key], "missing", "Field required");
                None
            }
        }
    }

    /// A text of the query that must be there, with at least a character.
    pub fn query_needed_text(&mut self, key: &str) -> Option<String> {
        let text = self.query_text(key);
        if text.is_none() {
            let (word, msg) = match self.raw_query(key) {
                None => ("missing", "Field required"),
                Some(_) => ("string_too_short", "String should have at least 1 character"),
            };
            self.fail(&["query", key], word, msg);
        }
        text
    }

    /// A text in the path of visible ASCII characters.
    pub fn path_word(&mut self, key: &str, longest: usize) -> Option<String> {
        let text = self.path_text(key)?;
        self.check_word(&["path", key], text, longest)
    }

    /// A text of the body of visible ASCII characters.
    pub fn word(&mut self, key: &str, longest: usize) -> Option<String> {
        let text = self.text(key)?;
        self.check_word(&["body", key], text, longest)
    }

    fn check_word(&mut self, loc: &[&str], text: String, longest: usize) -> Option<String> {
        let fits = (1..=longest).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !fits {
            let msg = format!("String should match pattern '^[A-Za-z0-9_-]{{1,{longest}}}$'");
            self.fail(loc, "string_pattern_mismatch", msg);
        }
        fits.then_some(text)
    }

    /// A word of the body, one of some, that must be there.
    pub fn needed_word(&mut self, key: &str, words: &[&str]) -> Option<String> {
        if !self.required(key) {
            return None;
        }
        match self.optional_word(key, words)? {
            Some(word) => Some(word),
            None => {
                self.fail(&["body", key], "literal_error", super::body::one_of(words));
                None
            }
        }
    }

    /// A bounded integer of the body that may be absent or null.
    pub fn optional_within(&mut self, key: &str, least: i64, most: i64) -> Option<Option<i64>> {
        let value = self.optional_int(key)?;
        match value {
            Some(value) if value < least => {
                let msg = format!("Input should be greater than or equal to {least}");
                self.fail(&["body", key], "greater_than_equal", msg);
                None
            }
            Some(value) if value > most => {
                let msg = format!("Input should be less than or equal to {most}");
                self.fail(&["body", key], "less_than_equal", msg);
                None
            }
            _ => Some(value),
        }
    }

    /// A list of texts that may be absent or null.
    pub fn optional_list(&mut self, key: &str) -> Option<Option<Vec<String>>> {
        if self.raw(key).is_none() {
            return Some(None);
        }
        self.optional_texts(key).map(Some)
    }

    /// A map of integers; absent or null is none.
    pub fn optional_ints(&mut self, key: &str) -> Option<Option<BTreeMap<String, i64>>> {
        self.optional_map(key, |value| value.as_i64().ok_or(("int_type", "Input should be a valid integer")))
    }

    /// A map of texts without NUL; absent or null is none.
    pub fn optional_text_map(&mut self, key: &str) -> Option<Option<BTreeMap<String, String>>> {
        self.optional_map(key, |value| match value.as_str() {
            Some(text) if text.contains('\0') => Err(NUL),
            Some(text) => Ok(text.to_owned()),
            None => Err(("string_type", "Input should be a valid string")),
        })
    }

    fn optional_map<T>(
        &mut self,
        key: &str,
        read: impl Fn(&Value) -> Result<T, Failure>,
    ) -> Option<Option<BTreeMap<String, T>>> {
        let Some(raw) = self.raw(key) else { return Some(None) };
        let Ok(map) = serde_json::from_str::<Map<String, Value>>(raw.get()) else {
            self.fail(&["body", key], "dict_type", "Input should be a valid dictionary");
            return None;
        };
        let (mut all, entries) = (BTreeMap::new(), map.len());
        for (name, value) in map {
            match if name.contains('\0') { Err(NUL) } else { read(&value) } {
                Ok(value) => drop(all.insert(name, value)),
                Err((r#type, msg)) => {
                    let loc = ["body", key, &name].iter().map(|part| Loc::Key((*part).to_owned())).collect();
                    self.failures.push(ValidationError { loc, msg: msg.to_owned(), r#type });
                }
            }
        }
        (all.len() == entries).then_some(Some(all))
    }

    /// Objects of the body, one at least.
    pub fn objects(&mut self, key: &str, most: usize) -> Option<Vec<Value>> {
        if !self.required(key) {
            return None;
        }
        let items: Option<Vec<Box<RawValue>>> = self.raw(key).and_then(|raw| serde_json::from_str(raw.get()).ok());
        let Some(items) = items else {
            self.fail(&["body", key], "list_type", "Input should be a valid list");
            return None;
        };
        if items.is_empty() {
            self.fail(&["body", key], "too_short", "List should have at least 1 item after validation, not 0");
        }
        if items.len() > most {
            let msg = format!("List should have at most {most} items after validation, not {}", items.len());
            self.fail(&["body", key], "too_long", msg);
            return None;
        }
        let mut all = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match object(item.get()) {
                Ok(value) => all.push(value),
                Err((r#type, msg)) => self.fail_item(key, index, r#type, msg),
            }
        }
        (!all.is_empty() && all.len() == items.len()).then_some(all)
    }

    /// An object of the body that must be there.
    pub fn object(&mut self, key: &str) -> Option<String> {
        if !self.required(key) {
            return None;
        }
        match self.optional_object(key)? {
            Some(text) => Some(text),
            None => {
                self.fail(&["body", key], "dict_type", "Input should be a valid dictionary");
                None
            }
        }
    }
}

/// FastAPI's word, and a sentence.
type Failure = (&'static str, &'static str);
