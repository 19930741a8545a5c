//! Reading a column as what it means.

use sqlx::Row as _;

use crate::dialect::Row;

/// A 0/1 column.
pub fn flag(row: &Row, column: &str) -> sqlx::Result<bool> {
    Ok(row.try_get::<i64, _>(column)? != 0)
}

/// A column that holds one of an enum's words.
pub fn word<T>(row: &Row, column: &str, parse: impl Fn(&str) -> Option<T>) -> sqlx::Result<T> {
    let text: String = row.try_get(column)?;
    parse(&text).ok_or_else(|| unreadable(column, format!("unknown word {text:?}")))
}

/// The error of a column whose content is not what this codegen writes.
pub fn unreadable(column: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: source.into() }
}
