//! Connections that only read. Where the database is at the other end of a network, a reading outlasts the loss of its
//! connection: it is asked again until the database is back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _,
    future::{self, BoxFuture},
    stream::{self, BoxStream},
};
use sqlx::{
    AnyPool, Either, Error, Execute, Executor, SqlSafeStr as _, SqlStr,
    any::{Any, AnyArguments, AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo},
};

use super::{
    Kind,
    in_place::{Query, Quick},
    is_lost,
};

/// Pause before a lost reading is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// A pool of reading connections; clones share it.
#[derive(Debug, Clone)]
pub struct Readers {
    pool: AnyPool,
    kind: Kind,
    /// For how long a lost reading is asked again.
    patience: Duration,
    /// Answer in the place of the pool.
    quick: Option<Arc<Quick>>,
}

impl Readers {
    pub(super) fn new(pool: AnyPool, kind: Kind, patience: Duration) -> Self {
        Self { pool, kind, patience, quick: None }
    }

    /// The same, answered by these.
    pub(super) fn answered_by(&self, quick: Arc<Quick>) -> Self {
        Self { quick: Some(quick), ..self.clone() }
    }

    fn patience(&self) -> Patience {
        Patience(Instant::now() + self.patience)
    }

    #[cfg(test)]
    pub(super) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Closes every connection; later readings fail.
    pub async fn close(&self) {
        if let Some(quick) = &self.quick {
            quick.close();
        }
        self.pool.close().await;
    }
}

/// How long a lost reading is asked again.
struct Patience(Instant);

impl Patience {
    /// Waits a little after a loss.
    ///
    /// # Errors
    /// The error itself where it stays, or there was enough waiting.
    async fn after(&self, error: Error) -> Result<(), Error> {
        if !is_lost(&error) || Instant::now() >= self.0 {
            return Err(error);
        }
        tracing::warn!(%error, "reading from the database; it is tried again");
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

impl Query {
    fn stream(&self, pool: &AnyPool) -> BoxStream<'static, Result<Either<AnyQueryResult, AnyRow>, Error>> {
        match &self.arguments {
            Some(arguments) => {
                let mut again = AnyArguments::default();
                again.values.0.extend(arguments.values.0.iter().cloned());
                pool.fetch_many(sqlx::query_with::<Any, _>(self.sql.clone(), again).persistent(self.persistent))
            }
            None => pool.fetch_many(sqlx::raw_sql(self.sql.clone())),
        }
    }
}

impl<'p> Executor<'p> for &'p Readers {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        if let Some(quick) = &self.quick {
            let query = Query::of(query);
            return async move { quick.steps(query?).await }.try_flatten_stream().boxed();
        }
        if self.patience.is_zero() {
            return self.pool.fetch_many(query);
        }
        let query = match Query::of(query) {
            Ok(query) => query,
            Err(error) => return stream::once(future::ready(Err(error))).boxed(),
        };
        // Once a row was handed out there is no beginning again.
        let begun = async move {
            let patience = self.patience();
            loop {
                let mut rows = query.stream(&self.pool);
                match rows.try_next().await {
                    Ok(first) => return Ok::<_, Error>(stream::iter(first.map(Ok)).chain(rows)),
                    Err(error) => patience.after(error).await?,
                }
            }
        };
        stream::once(begun).try_flatten().boxed()
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<AnyRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        if self.quick.is_some() {
            return self.fetch(query).try_collect().boxed();
        }
        if self.patience.is_zero() {
            return self.pool.fetch_all(query);
        }
        async move {
            let (query, patience) = (Query::of(query)?, self.patience());
            loop {
                let rows = query.stream(&self.pool).try_filter_map(|step| future::ready(Ok(step.right())));
                match rows.try_collect().await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => patience.after(error).await?,
                }
            }
        }
        .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<AnyRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        if let Some(quick) = &self.quick {
            let query = Query::of(query);
            return async move { quick.first(query?).await }.boxed();
        }
        if self.patience.is_zero() {
            return self.pool.fetch_optional(query);
        }
        async move {
            let (query, patience) = (Query::of(query)?, self.patience());
            loop {
                let mut rows = query.stream(&self.pool).try_filter_map(|step| future::ready(Ok(step.right())));
                match rows.try_next().await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => patience.after(error).await?,
                }
            }
        }
        .boxed()
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [AnyTypeInfo]) -> BoxFuture<'e, Result<AnyStatement, Error>>
    where
        'p: 'e,
    {
        self.pool.prepare_with(sql.into_sql_str(), parameters)
    }
}
