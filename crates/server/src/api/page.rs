//! Pages: the one place where lists of the contract are made.

use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

/// Where a page begins and how long it is.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// Items left out.
    #[param(required = false, minimum = 0, default = 0)]
    pub skip: i64,
    /// Most items.
    #[param(required = false, minimum = 1, maximum = 100, default = 100)]
    pub limit: i64,
}

/// Part of a list.
#[derive(Serialize, ToSchema)]
pub struct Page<T> {
    /// The part.
    pub items: Vec<T>,
    /// Items in all.
    pub total: i64,
    /// From 1.
    pub page: i64,
    /// Most items of a page.
    pub size: i64,
    /// Pages in all.
    pub pages: i64,
    /// What to give as `before` for the next page, of lists that have keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

impl Paging {
    /// Number of this page, from 1.
    pub fn number(&self) -> i64 {
        self.skip / self.limit + 1
    }

    /// Pages of so many items.
    pub fn pages(&self, total: i64) -> i64 {
        (total + self.limit - 1) / self.limit
    }

    /// The page with these items.
    pub fn page<T>(&self, items: Vec<T>, total: i64) -> Page<T> {
        Page { items, total, page: self.number(), size: self.limit, pages: self.pages(total), next: None }
    }
}

/// A time of the store as the contract writes it.
pub fn time(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S.%3f+00:00").to_string()
}
