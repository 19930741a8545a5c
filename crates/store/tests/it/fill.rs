//! Two rows in every table of a schema, made from the schema itself, so that no table can be forgotten.

use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

/// Left out of copies, and filled again from what is there.
pub const DERIVED: [&str; 1] = ["search_state"];

/// The tables of a SQLite database, but for the search and what keeps the migrations.
pub async fn tables(sqlite: &mut AnyConnection) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite_%'
             AND name NOT LIKE '_sqlx_%' ORDER BY name",
    )
    .fetch_all(sqlite)
    .await
    .unwrap();
    tables.into_iter().filter(|table| !DERIVED.contains(&table.as_str())).collect()
}

/// Columns of a table and their types.
pub async fn columns(sqlite: &mut AnyConnection, table: &str) -> Vec<(String, String)> {
    sqlx::query_as("SELECT name, type FROM pragma_table_info($1) ORDER BY cid")
        .bind(table.to_owned())
        .fetch_all(sqlite)
        .await
        .unwrap()
}

/// Statements that fill each table of the schema of a SQLite database, in that database or in a PostgreSQL one.
pub async fn statements(sqlite: &mut AnyConnection, for_postgres: bool) -> Vec<String> {
    let mut statements = Vec::new();
    for table in tables(sqlite).await {
        let columns = columns(sqlite, &table).await;
        let refers: Vec<String> = sqlx::query_scalar("SELECT \"from\" FROM pragma_foreign_key_list($1)")
            .bind(table.clone())
            .fetch_all(&mut *sqlite)
            .await
            .unwrap();
        let nullable: Vec<String> =
            sqlx::query_scalar("SELECT name FROM pragma_table_info($1) WHERE \"notnull\" = 0 AND pk = 0")
                .bind(table.clone())
                .fetch_all(&mut *sqlite)
                .await
                .unwrap();
        let names: Vec<String> = columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        for n in 1..=2 {
            let values: Vec<String> = columns
                .iter()
                .map(|(name, kind)| match (name.as_str(), kind.as_str()) {
                    (name, _) if n == 2 && nullable.iter().any(|one| one == name) => "NULL".to_owned(),
                    (name, _) if refers.iter().any(|one| one == name) => n.to_string(),
                    ("phase", _) => "'queued'".to_owned(),
                    ("reason", _) => "'complete'".to_owned(),
                    ("role", _) => "'ADMIN'".to_owned(),
                    ("images" | "tags", _) => "'[]'".to_owned(),
                    ("deleted_at" | "stop_requested" | "archived" | "crashes" | "attempt", _) => "0".to_owned(),
                    ("id", _) => n.to_string(),
                    (name, _) if name.ends_with("_at") => (1_700_000_000_000_i64 + n).to_string(),
                    (_, "BIGINT" | "INTEGER") => (9_007_199_254_740_993_i64 + n).to_string(),
                    (_, "DOUBLE PRECISION") => format!("0.{n}"),
                    (_, "BLOB") if for_postgres => format!("'\\x00ff5c0a0{n}'"),
                    (_, "BLOB") => format!("x'00ff5c0a0{n}'"),
                    (name, "TEXT") => format!("'{name} {n}: é\\n\\N \t\r\n\"q\" \\u0000'"),
                    (name, kind) => panic!("{table}.{name} has the type {kind}"),
                })
                .collect();
            statements.push(format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), values.join(", ")));
        }
        let made: String = sqlx::query_scalar("SELECT sql FROM sqlite_schema WHERE name = $1")
            .bind(table.clone())
            .fetch_one(&mut *sqlite)
            .await
            .unwrap();
        if made.contains("AUTOINCREMENT") && for_postgres {
            statements.push(format!("SELECT setval(pg_get_serial_sequence('{table}', 'id'), 2)"));
        }
    }
    statements
}

/// Every row of these columns, in words.
pub async fn rows(conn: &mut AnyConnection, table: &str, columns: &[(String, String)]) -> Vec<String> {
    let names: Vec<String> = columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let sql = format!("SELECT {} FROM {table}", names.join(", "));
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(conn).await.unwrap();
    let mut rows: Vec<String> = rows
        .iter()
        .map(|row| {
            let words = columns.iter().enumerate().map(|(at, (_, kind))| match kind.as_str() {
                "TEXT" => format!("{:?}", row.get::<Option<String>, _>(at)),
                "BLOB" => format!("{:?}", row.get::<Option<Vec<u8>>, _>(at)),
                "DOUBLE PRECISION" => format!("{:?}", row.get::<Option<f64>, _>(at)),
                _ => format!("{:?}", row.get::<Option<i64>, _>(at)),
            });
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    rows.sort();
    rows
}
