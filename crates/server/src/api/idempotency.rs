//! `Idempotency-Key`: the same request sent again has no second effect and gets the answer of the first.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use codegen_store::{Answer, Answered, Ask, RequestKey};
use sha2::{Digest as _, Sha256};
use utoipa::IntoParams;

use super::{
    agent_runs::{no_run, response, shown},
    body::Fields,
    error::{ApiError, Loc, ValidationError},
};
use crate::{App, Part, room};

/// The header.
const HEADER: &str = "idempotency-key";
/// On answers that were kept.
const REPLAYED: &str = "idempotent-replayed";
/// Characters of a key.
const LONGEST: usize = 255;

/// Under which key.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "documentation")]
pub struct KeyHeader {
    /// Visible ASCII characters. The same request sent again under it has no second effect and gets the first answer.
    #[param(rename = "Idempotency-Key", required = false, min_length = 1, max_length = 255, pattern = "^[!-~]*$")]
    key: Option<String>,
}

/// The request's key, if it has one; a bad one is a failure of the request.
pub fn read(
    headers: &HeaderMap,
    fields: &mut Fields<'_>,
    token_id: i64,
    path: String,
    body: &[u8],
) -> Option<RequestKey> {
    let mut values = headers.get_all(HEADER).iter();
    let value = values.next()?;
    let key = value.to_str().unwrap_or_default();
    let fits = (1..=LONGEST).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if !fits || values.next().is_some() {
        let msg = format!("Value error, an idempotency key is 1 to {LONGEST} visible ASCII characters without spaces");
        fields.fail(&["header", HEADER], "value_error", msg);
        return None;
    }
    let body_hash = Sha256::digest(body).iter().map(|b| format!("{b:02x}")).collect();
    Some(RequestKey { token_id, path, key: key.to_owned(), body_hash })
}

/// Does what is asked, once where the request has a key, and answers with the run.
pub async fn ask(app: &Arc<App>, org_id: i64, key: Option<RequestKey>, ask: Ask) -> Result<Response, ApiError> {
    let (is_message, repo_id) = match &ask {
        Ask::Create(new) => (false, new.repo_id),
        Ask::Message { .. } => (true, None),
        Ask::Stop { .. } => (false, None),
    };
    if matches!(ask, Ask::Create(_)) && app.part == Part::Whole && !room::is_there(&app.config.data_dir) {
        return Err(codegen_store::Error::Full.into());
    }
    let stopped = match &ask {
        Ask::Stop { run_id } => Some(*run_id),
        Ask::Create(_) | Ask::Message { .. } => None,
    };
    // What a run does is ended at once, whether or not that can be written down.
    let is_cut = || stopped.is_some_and(|run_id| app.live.stop(org_id, run_id));
    // The stop again, where the disk is full and there was still a little room for such words.
    let again = |error: &codegen_store::Error| match (error, stopped) {
        (codegen_store::Error::Full, Some(run_id)) if is_cut() && room::give_reserve(&app.config.data_dir) => {
            Some(Ask::Stop { run_id })
        }
        _ => None,
    };
    let refused = |error| match (error, repo_id) {
        (codegen_store::Error::NotFound, Some(id)) => ApiError::not_found(format!("Repository {id} not found.")),
        (codegen_store::Error::Full, _) if is_cut() => stopped_unwritten(),
        (other, _) => no_run(other),
    };
    let now = app.now();
    let Some(key) = key else {
        let mut asked = app.store.ask(org_id, ask, now).await;
        if let Some(ask) = asked.as_ref().err().and_then(again) {
            asked = app.store.ask(org_id, ask, now).await;
        }
        let run = asked.map_err(refused)?;
        let mut response = response(app, run)?;
        response.new_agent_run_id = is_message.then_some(response.id);
        return Ok(Json(response).into_response());
    };
    let _mark = app.requests.under_way.begin(&key)?;
    let for_answer = app.clone();
    let answer: Answer = Arc::new(move |run| {
        let mut response = shown(&for_answer, run)?;
        response.new_agent_run_id = is_message.then_some(response.id);
        Ok(serde_json::to_string(&response)?)
    });
    let json = [(header::CONTENT_TYPE, "application/json")];
    let mut answered = app.store.ask_once(org_id, key.clone(), ask, answer.clone(), now).await;
    if let Some(ask) = answered.as_ref().err().and_then(again) {
        answered = app.store.ask_once(org_id, key, ask, answer, now).await;
    }
    match answered.map_err(refused)? {
        Answered::Now(body) => Ok((json, body).into_response()),
        Answered::Before(body) => Ok((json, [(REPLAYED, "true")], body).into_response()),
        Answered::OtherBody => Err(other_body()),
    }
}

/// 507 for a stop that was done and not written down.
fn stopped_unwritten() -> ApiError {
    tracing::error!("the disk with the database is full; a run was stopped, which is written down once there is room");
    let sentence = "The server's disk is full, so that the stop could not be written down. What the run was doing was ended \
                    even so, and the run ends as stopped once there is room; should the server itself end before that, the run \
                    goes on at its next start.";
    ApiError::Refused(StatusCode::INSUFFICIENT_STORAGE, sentence.to_owned())
}

/// 422 for a key that came with another body before.
fn other_body() -> ApiError {
    let loc = vec![Loc::Key("header".to_owned()), Loc::Key(HEADER.to_owned())];
    let msg = "Value error, this idempotency key was used for another body".to_owned();
    ApiError::Invalid(vec![ValidationError { loc, msg, r#type: "value_error" }])
}

/// Requests with a key that are being answered in this process; the store decides about all others.
#[derive(Default)]
pub struct UnderWay(Mutex<HashSet<(i64, String, String)>>);

/// One of them, until it is dropped.
pub struct Mark<'a> {
    all: &'a UnderWay,
    one: (i64, String, String),
}

impl UnderWay {
    /// Marks a request as being answered.
    ///
    /// # Errors
    /// 409 while the same one is.
    pub fn begin(&self, key: &RequestKey) -> Result<Mark<'_>, ApiError> {
        let one = (key.token_id, key.path.clone(), key.key.clone());
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(one.clone()) {
            return Ok(Mark { all: self, one });
        }
        let sentence = "The first request with this idempotency key is still under way; try again.";
        Err(ApiError::Refused(StatusCode::CONFLICT, sentence.to_owned()))
    }
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.one);
    }
}
