//! How the document says which words a text can be.

use codegen_store::EVENTS;
use utoipa::openapi::schema::{Array, ArrayBuilder, Object, ObjectBuilder, Type};

use super::{rights::SCOPES, run_filters::STATUSES};

/// How far a webhook's delivery is.
pub const DELIVERY_STATES: [&str; 3] = ["pending", "delivered", "failed"];

fn one(words: impl IntoIterator<Item = &'static str>) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}

fn some(words: impl IntoIterator<Item = &'static str>) -> Array {
    ArrayBuilder::new()
        .schema_type([Type::Array, Type::Null].into_iter().collect::<utoipa::openapi::schema::SchemaType>())
        .items(one(words))
        .build()
}

/// How a run stands.
pub fn run_status() -> Object {
    one(STATUSES)
}

/// How far a delivery is.
pub fn delivery_state() -> Object {
    one(DELIVERY_STATES)
}

/// What endpoints are told of.
pub fn events() -> Array {
    some(EVENTS)
}

/// What a token may do.
pub fn scopes() -> Array {
    some(SCOPES.map(|(word, _)| word))
}
