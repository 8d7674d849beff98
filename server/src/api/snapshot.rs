//! Backups: the whole state as one file, out of a server and back into the cluster.

use std::time::Duration;

use ::catalog::{AuditHash, BACKUP_PIECE_BYTES_MAX, BackupStep, Catalog, Command, Outcome, RequestId, Restored};
use axum::response::{IntoResponse, Response};

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use wire::api_types::RestoreAnswer;
use wire::backup::{self, ARCHIVE_BYTES_MAX, Backup};
use wire::crypto;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};
use super::writes::random_request_id;
use crate::ca::SealedPart;
use crate::consensus::Committed;

/// How long a backup may take to arrive: 256 MiB over a slow line.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(15 * 60);

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/snapshot", Right::Management, save).answers("bytes"),
        route(Method::PUT, "/v1/snapshot", Right::Management, restore)
            .with_body(ARCHIVE_BYTES_MAX, UPLOAD_TIMEOUT)
            .reads(&["force-cluster"])
            .takes("bytes")
            .answers("RestoreAnswer"),
    ]
}

/// Answers with a backup. The audit trail has that it was taken before it leaves, unless `stale` is asked for: that is for
/// when there is no leader, by which nothing can be written, so that the log and the metrics have it alone.
async fn save(call: Call) -> Result<Response, ApiError> {
    let is_stale = call.query.has("stale");
    if is_stale {
        if call.state.consensus().status().leader.is_some() {
            return Err(ApiError::StaleBackup);
        }
    } else {
        call.state.consensus().read_index().await?;
    }
    let catalog = call.state.consensus().catalog();
    let index = catalog.index();
    if !is_stale {
        call.write(Command::Backup { step: BackupStep::Saved { index } }).await?;
    }
    let (server, taken_at) = (call.state.server().clone(), crypto::now());
    let file = off_thread(move || backup::write(&catalog, &server, taken_at)).await??;
    let by = call.caller.accessor().map(ToString::to_string).unwrap_or_default();
    if is_stale {
        call.state.metrics().backup_unaudited();
        tracing::warn!(
            index = index.0,
            bytes = file.len(),
            by,
            "a backup was taken that the audit trail does not have"
        );
    } else {
        tracing::info!(index = index.0, bytes = file.len(), by, "a backup was taken");
    }
    let mut response = (StatusCode::OK, file).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-gzip"));
    response.headers_mut().insert(HeaderName::from_static("x-consul-index"), HeaderValue::from(index.0.max(1)));
    Ok(response)
}

/// Puts a backup in force, all of it or nothing.
async fn restore(call: Call) -> Result<Response, ApiError> {
    let other_cluster = call.query.flag("force-cluster")?;
    let file = call.body.clone();
    let Backup { meta, state, catalog } = off_thread(move || backup::read(&file)).await??;
    call.state.consensus().read_index().await?;
    let running = call.state.consensus().catalog();
    let is_own = running.is_own_backup(&catalog)?;
    if !is_own && !other_cluster {
        let ours = running.mesh().map(|mesh| mesh.cluster_id.clone()).unwrap_or_default();
        return Err(ApiError::OtherCluster { theirs: meta.cluster_id, ours });
    }
    let state = match is_own {
        true => state,
        false => call.resealed(&running, &catalog)?,
    };
    drop(catalog);
    let upload = random_request_id();
    let (index, restored) = match call.upload(&upload, &state, !is_own).await {
        Ok(done) => done,
        Err(error) => {
            // Left alone it is forgotten after a while; another restore should not have to wait for that.
            let _ = call.step(BackupStep::Abandon { upload }).await;
            return Err(error);
        }
    };
    let Restored { tokens_back, tokens_left_out, nodes_left_out, nodes_forsaken } = restored;
    tracing::warn!(
        index,
        of_index = meta.index,
        of_cluster = meta.cluster_id,
        tokens_back,
        tokens_left_out,
        nodes_left_out,
        nodes_forsaken,
        "a backup was restored"
    );
    let mut response = call.json(&RestoreAnswer { tokens_back, tokens_left_out, nodes_left_out, nodes_forsaken })?;
    response.headers_mut().insert(HeaderName::from_static("x-consul-index"), HeaderValue::from(index));
    Ok(response)
}

impl Call {
    /// Carries a state through the log, and returns the index at which it took effect, and what came of it.
    async fn upload(&self, upload: &RequestId, state: &str, other_cluster: bool) -> Result<(u64, Restored), ApiError> {
        let sha256 = AuditHash(crypto::sha256(state.as_bytes()));
        let (id, bytes) = (|| upload.clone(), state.len() as u64);
        self.step(BackupStep::Begin { upload: id(), bytes, sha256 }).await?;
        let mut offset = 0;
        while offset < state.len() {
            let text = piece_at(state, offset).to_owned();
            let next = offset + text.len();
            self.step(BackupStep::Piece { upload: id(), offset: offset as u64, text }).await?;
            offset = next;
        }
        // It is read here, where nobody else waits for it; the other servers read theirs meanwhile.
        if let Some(arrived) = self.state.consensus().catalog().arrived_backup() {
            off_thread(move || arrived.read(crypto::sha256)).await?;
        }
        let form = Catalog::form_of(state.as_bytes()).map_err(wire::backup::BackupError::State)?;
        let committed = self.step(BackupStep::Commit { upload: id(), other_cluster, form: Some(form) }).await?;
        match committed.outcome {
            Outcome::Restored { restored } => Ok((committed.index.0, restored)),
            other => Err(ApiError::Internal { reason: format!("a restore was answered with {other:?}") }),
        }
    }

    /// Takes one step under a request id of its own: the caller's marks the request as a whole.
    async fn step(&self, step: BackupStep) -> Result<Committed, ApiError> {
        self.write_part(Command::Backup { step }).await
    }

    /// Returns another cluster's state with its secrets sealed for this one.
    fn resealed(&self, running: &Catalog, backup: &Catalog) -> Result<String, ApiError> {
        let id_of = |catalog: &Catalog| catalog.mesh().map(|mesh| mesh.cluster_id.clone()).unwrap_or_default();
        let (ours, theirs) = (id_of(running), id_of(backup));
        let keys = self.state.cluster_keys();
        let resealed = backup.resealed(|of, id, sealed| {
            let part = SealedPart::of(of);
            let plain = keys.open(&part.context(&theirs, id), sealed)?;
            Ok(keys.seal(&part.context(&ours, id), &plain))
        });
        let state = resealed.map_err(ApiError::ForeignSecret)?.snapshot();
        String::from_utf8(state).map_err(|error| ApiError::Internal { reason: error.to_string() })
    }
}

/// Returns the longest piece that begins at `offset` and ends between two characters.
fn piece_at(state: &str, offset: usize) -> &str {
    let end = (offset + BACKUP_PIECE_BYTES_MAX).min(state.len());
    let end = (offset..=end).rev().find(|at| state.is_char_boundary(*at)).unwrap_or(end);
    &state[offset..end]
}

/// Does what takes long for a large state where no other request waits for it.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::Internal { reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_up_the_whole_and_end_between_characters() {
        let state = format!("a{}", "ä".repeat(BACKUP_PIECE_BYTES_MAX));
        let (mut offset, mut whole) = (0, String::new());
        while offset < state.len() {
            let piece = piece_at(&state, offset);
            assert!((1..=BACKUP_PIECE_BYTES_MAX).contains(&piece.len()));
            whole.push_str(piece);
            offset += piece.len();
        }
        assert!(whole == state, "the pieces are not the whole");
    }
}
