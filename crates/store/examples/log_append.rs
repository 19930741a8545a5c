//! Load of `bench/log_append.py`: `log_append PLACE RUNS ROWS SECONDS`, where PLACE is a new data directory or a PostgreSQL URL.
//!
//! Each run appends batches of rows, the next one when the last is acknowledged, which is when it is durable. Prints JSON: rows
//! and batches a second, how long a batch took, and how many rows there were in all.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use codegen_store::{NewLog, NewRun, NewUser, Store};

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, place, runs, rows, seconds] = args.as_slice() else { panic!("see the first lines of this file") };
    let (runs, rows, seconds): (usize, usize, u64) =
        (runs.parse().unwrap(), rows.parse().unwrap(), seconds.parse().unwrap());
    let store = match place.starts_with("postgres") {
        true => Store::connect(place, None).await.unwrap(),
        false => Store::open(place.as_ref()).await.unwrap(),
    };
    let (org, user) = store.bootstrap("Acme", NewUser::default(), "hash", 1).await.unwrap().unwrap();
    let mut claims = Vec::new();
    for _ in 0..runs {
        let asks = NewRun { user_id: user.id, prompt: "append".to_owned(), ..NewRun::default() };
        let run = store.create_run(org.id, asks, 2).await.unwrap();
        claims.push(store.claim_run_by_id(run.id, "w", 3).await.unwrap().unwrap().claim());
    }
    let text = "a line of what a command said, or a word of a model. ".repeat(3);
    let body = format!(r#"{{"kind":"notice","text":"{text}"}}"#);
    let entries: Vec<NewLog> =
        (0..rows).map(|_| NewLog { kind: "notice".to_owned(), body: body.clone(), contract: false }).collect();
    // What comes first is warm-up.
    let (begin, end) = (Instant::now() + Duration::from_secs(1), Instant::now() + Duration::from_secs(1 + seconds));
    let tasks: Vec<_> = claims
        .into_iter()
        .map(|claim| {
            let (store, entries) = (store.clone(), entries.clone());
            tokio::spawn(async move {
                let (mut took, mut batches) = (Vec::new(), 0);
                while Instant::now() < end {
                    let asked = Instant::now();
                    store.append_log_batch(&claim, entries.clone(), 4).await.unwrap();
                    batches += 1;
                    if asked >= begin && Instant::now() < end {
                        took.push(asked.elapsed().as_secs_f64() * 1000.0);
                    }
                }
                (took, batches)
            })
        })
        .collect();
    let (mut took, mut all) = (Vec::new(), 0);
    for task in tasks {
        let (some, batches) = task.await.unwrap();
        took.extend(some);
        all += batches * rows;
    }
    took.sort_by(f64::total_cmp);
    let at = |part: f64| took[((took.len() as f64 * part) as usize).min(took.len() - 1)];
    let batches = took.len() as f64 / seconds as f64;
    println!(
        r#"{{"rows_per_s": {:.0}, "batches_per_s": {batches:.0}, "p50_ms": {:.2}, "p99_ms": {:.2}, "rows": {all}}}"#,
        batches * rows as f64,
        at(0.5),
        at(0.99)
    );
    store.close().await;
}
