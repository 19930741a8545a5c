//! SQL that is put together from parts. sqlx's own builder writes `?` for parameters of either database, which PostgreSQL
//! does not read.

use std::fmt::Write as _;

use sqlx::{
    Arguments as _, AssertSqlSafe, Encode, Type,
    any::AnyArguments,
    query::{Query, QueryAs},
};

use crate::{
    Result,
    dialect::{Db, Row},
};

/// A statement with its parameters.
pub struct Builder {
    sql: String,
    arguments: AnyArguments,
    count: usize,
}

impl Builder {
    /// Begins with this text.
    pub fn new(sql: &str) -> Self {
        Self { sql: sql.to_owned(), arguments: AnyArguments::default(), count: 0 }
    }

    /// Adds text, which must be codegen's own.
    pub fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    /// Adds a parameter.
    ///
    /// # Errors
    /// When the value cannot be sent.
    pub fn bind<'v>(&mut self, value: impl Encode<'v, Db> + Type<Db>) -> Result<&mut Self> {
        self.arguments.add(value).map_err(sqlx::Error::Encode)?;
        self.count += 1;
        // Writing to a String cannot fail.
        write!(self.sql, "${}", self.count).unwrap_or_default();
        Ok(self)
    }

    /// The statement.
    pub fn query(self) -> Query<'static, Db, AnyArguments> {
        sqlx::query_with(AssertSqlSafe(self.sql), self.arguments)
    }

    /// The statement, whose rows are read as `T`.
    pub fn query_as<T: for<'r> sqlx::FromRow<'r, Row>>(self) -> QueryAs<'static, Db, T, AnyArguments> {
        sqlx::query_as_with(AssertSqlSafe(self.sql), self.arguments)
    }
}
