//! An organization as a whole: written out into one archive, and deleted.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufWriter, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use anyhow::Context as _;
use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use codegen_store::Store;
use serde_json::json;
use tokio_util::io::ReaderStream;
use tracing::info;
use utoipa::IntoParams;

use super::{
    auth::{Admin, Asked},
    body::{Fields, Input},
    error::{ApiError, Loc, Refusal, Refusals, ValidationError},
    limits::Limit,
    users::Nothing,
};
use crate::{App, forge::git::without_credentials, token};

/// Everything of the organization in one tar file: its rows as JSON lines, a file for each kind, and its blobs. Secrets are
/// not in it.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/export", tag = "organizations",
    operation_id = "export_organization", params(("org_id" = i64, Path)),
    responses((status = 200, description = "A tar file", body = Vec<u8>, content_type = "application/x-tar"),
        (status = 409, description = "Another export is being made", body = Refusal), Refusals))]
pub async fn export(State(app): State<Arc<App>>, asked: Asked<Admin, Nothing>) -> Result<Response, ApiError> {
    let org_id = asked.by.0.org_id;
    // Each takes the disk for as much as the organization has; they come one after the other.
    let Ok(_one) = app.requests.exports.try_lock() else {
        let sentence = "Another export is being made; try again later.";
        return Err(ApiError::Refused(StatusCode::CONFLICT, sentence.to_owned()));
    };
    let made = {
        let app = app.clone();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            runtime.block_on(write_archive(&app.store, &app.config.data_dir, org_id, app.now()))
        })
    };
    let archive = made.await.map_err(|error| ApiError::internal(&error))?;
    let archive = archive.map_err(|error| ApiError::internal(&format!("{error:#}")))?;
    let length = archive.metadata().map_err(|error| ApiError::internal(&error))?.len();
    let headers = [
        (header::CONTENT_TYPE, "application/x-tar".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"organization-{org_id}.tar\"")),
    ];
    let bytes = ReaderStream::with_capacity(tokio::fs::File::from_std(archive), 64 << 10);
    Ok((headers, Body::from_stream(bytes)).into_response())
}

/// A file that is gone with its last handle.
fn nameless(data_dir: &Path) -> io::Result<File> {
    let path = data_dir.join(format!(".export-{}", token::random(16)));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

async fn write_archive(store: &Store, data_dir: &Path, org_id: i64, now: i64) -> anyhow::Result<File> {
    let file = nameless(data_dir).context("making the archive's file")?;
    let mut archive = tar::Builder::new(file);
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(now / 1000).unwrap_or(0));
    let mut counts = BTreeMap::new();
    for kind in Store::exported() {
        let mut lines = BufWriter::new(nameless(data_dir).context("making a file for rows")?);
        let count = store.export_rows(org_id, kind, |mut row| {
            // The one column of a row that may hold a password beside what it is for.
            if let Some(origin) = row.get_mut("origin").filter(|_| kind == "repos") {
                *origin = origin.as_str().map(without_credentials).into();
            }
            serde_json::to_writer(&mut lines, &row)?;
            lines.write_all(b"\n")
        });
        counts.insert(kind.to_owned(), count.await.with_context(|| format!("writing {kind} out"))?);
        let mut lines = lines.into_inner().context("writing rows")?;
        lines.rewind()?;
        header.set_size(lines.metadata()?.len());
        archive.append_data(&mut header, format!("{kind}.jsonl"), lines)?;
    }
    let mut blobs = 0_u64;
    for (run_id, name) in store.blob_names(org_id).await? {
        // One that retention has dropped meanwhile is not there.
        if let Some(bytes) = store.blob(org_id, run_id, &name).await? {
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, format!("blobs/{run_id}/{name}"), bytes.as_slice())?;
            blobs += 1;
        }
    }
    counts.insert("blobs".to_owned(), blobs);
    // Last, so that an archive that was cut off has none.
    let manifest = json!({
        "format": 1, "codegen": env!("CARGO_PKG_VERSION"), "organization_id": org_id, "created_at": now, "counts": counts,
    });
    let manifest = format!("{manifest:#}\n");
    header.set_size(manifest.len() as u64);
    archive.append_data(&mut header, "manifest.json", manifest.as_bytes())?;
    let mut file = archive.into_inner()?;
    file.rewind()?;
    Ok(file)
}

/// Which organization is meant, in words.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documentation")]
pub struct ConfirmQuery {
    /// The organization's name, so that no slip of a number deletes another.
    #[param(min_length = 1)]
    name: String,
}

/// The name of what is to be deleted.
pub struct Confirm(String);

impl Input for Confirm {
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.query_needed_text("name")?))
    }
}

/// Deletes the organization with everything in it. It is nobody's at once; its runs are stopped, and its rows, mirrors and
/// sandboxes removed soon after.
#[utoipa::path(delete, path = "/v1/organizations/{org_id}", tag = "organizations", operation_id = "delete_organization",
    params(("org_id" = i64, Path), ConfirmQuery), responses((status = 204, description = "Deleted"), Refusals))]
pub async fn delete(State(app): State<Arc<App>>, asked: Asked<Admin, Confirm>) -> Result<StatusCode, ApiError> {
    let (by, Confirm(name)) = (asked.by.0, asked.input);
    let org = app.store.org(by.org_id).await?;
    if org.name != name {
        let loc = vec![Loc::Key("query".to_owned()), Loc::Key("name".to_owned())];
        let msg = "Value error, this is not the organization's name".to_owned();
        return Err(ApiError::Invalid(vec![ValidationError { loc, msg, r#type: "value_error" }]));
    }
    app.store.delete_org(by.org_id, app.now()).await?;
    // Its own audit log goes with it.
    info!(org.id = by.org_id, user.id = by.member.user.id, token.id = by.token.id, "an organization was deleted");
    Ok(StatusCode::NO_CONTENT)
}
