//! Reading a column as what it means, and what a column cannot hold.

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

/// Text of a model, a program or a repository, which may have what PostgreSQL refuses in texts.
pub fn without_nul(text: impl Into<String>) -> String {
    let text = text.into();
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}
