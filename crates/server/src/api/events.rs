//! A run's events as they happen (SSE): the durable log from `Last-Event-ID`, then live, without gaps.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        Sse,
        sse::{Event, KeepAlive},
    },
};
use codegen_agent::Delta;
use codegen_store::{LogRow, Phase};
use futures::Stream;
use serde_json::json;
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    agent_runs::{RunId, no_run},
    auth::{Asked, InOrg},
    error::{ApiError, Loc, Refusal, Refusals, ValidationError},
};
use crate::App;

const PAGE: i64 = 200;

/// One viewer of one run.
struct Viewer {
    app: Arc<App>,
    org_id: i64,
    run_id: i64,
    seen: i64,
    out: mpsc::Sender<Result<Event, Infallible>>,
}

/// Events of a run, from the entry after `Last-Event-ID`; ends with `event: end`.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/run/{agent_run_id}/events", tag = "agents",
    operation_id = "get_agent_run_events_v1_organizations__org_id__agent_run__agent_run_id__events_get",
    params(("agent_run_id" = i64, Path), ("org_id" = i64, Path), ("Last-Event-ID" = Option<i64>, Header)),
    responses((status = 200, description = "Server-sent events", body = String, content_type = "text/event-stream"),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn get(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    asked: Asked<InOrg, RunId>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let seen =
        match headers.get("last-event-id").map(|value| value.to_str().ok().and_then(|text| text.trim().parse().ok())) {
            None => 0,
            Some(Some(seen)) => seen,
            Some(None) => {
                let loc = vec![Loc::Key("header".to_owned()), Loc::Key("last-event-id".to_owned())];
                let msg = "Input should be a valid integer, unable to parse string as an integer".to_owned();
                return Err(ApiError::Invalid(vec![ValidationError { loc, msg, r#type: "int_parsing" }]));
            }
        };
    let run = app.store.run(asked.by.org_id, asked.input.0).await.map_err(no_run)?;
    let (out, events) = mpsc::channel(64);
    let mut viewer = Viewer { app, org_id: run.org_id, run_id: run.id, seen, out };
    tokio::spawn(async move {
        let shutdown = viewer.app.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            outcome = viewer.follow() => if let Err(error) = outcome {
                tracing::error!(run.id = viewer.run_id, %error, "following a run");
            },
        }
    });
    Ok(Sse::new(ReceiverStream::new(events)).keep_alive(KeepAlive::default()))
}

impl Viewer {
    /// Returns when the run has ended or the viewer has left.
    async fn follow(&mut self) -> Result<(), codegen_store::Error> {
        let app = self.app.clone();
        // Before the first reading, so that nothing falls in between.
        let mut changes = app.store.subscribe();
        let mut live = app.live.subscribe();
        loop {
            // Also what a lagging viewer missed is here: the store has it all.
            loop {
                let rows = app.store.log(self.run_id, self.seen, PAGE).await?;
                if rows.is_empty() {
                    break;
                }
                for row in rows {
                    self.seen = row.seq;
                    if !self.send(entry(&row)).await {
                        return Ok(());
                    }
                }
            }
            let run = app.store.run(self.org_id, self.run_id).await?;
            if run.phase == Phase::Done && run.log_seq <= self.seen {
                let end = json!({"kind": "end", "status": run.status(), "result": run.result});
                self.send(Event::default().event("end").data(end.to_string())).await;
                return Ok(());
            }
            if run.log_seq > self.seen {
                continue;
            }
            loop {
                tokio::select! {
                    biased;
                    change = changes.recv() => match change {
                        Ok(change) if change.run_id != self.run_id => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return Ok(()),
                    },
                    delta = live.recv() => match delta {
                        Ok((run_id, delta)) if run_id == self.run_id => if !self.send(shown(&delta)).await {
                            return Ok(());
                        },
                        Ok(_) | Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return Ok(()),
                    },
                    () = self.out.closed() => return Ok(()),
                }
            }
        }
    }

    async fn send(&self, event: Event) -> bool {
        self.out.send(Ok(event)).await.is_ok()
    }
}

fn entry(row: &LogRow) -> Event {
    Event::default().id(row.seq.to_string()).event(&row.kind).data(&row.body)
}

fn shown(delta: &Delta) -> Event {
    let kind = match delta {
        Delta::Text { .. } => "text",
        Delta::Call { .. } => "call",
        Delta::Output { .. } => "output",
    };
    Event::default().event(kind).data(serde_json::to_string(delta).unwrap_or_default())
}
