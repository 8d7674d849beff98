//! Config entries. The only kind that something carries out so far is `mesh`; the others are refused by name.

use ::catalog::{Catalog, Command, MeshEntry, Refusal, WatchKey};
use axum::response::Response;
use http::Method;
use wire::consul;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

const MESH: &str = "mesh";

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::PUT, "/v1/config", Right::Management, write),
        route(Method::GET, "/v1/config/{kind}", Right::Management, list),
        route(Method::GET, "/v1/config/{kind}/{name}", Right::Management, read),
        route(Method::DELETE, "/v1/config/{kind}/{name}", Right::Management, delete),
    ]
}

/// Writes the `mesh` entry; `cas` makes the write conditional.
async fn write(call: Call) -> Result<Response, ApiError> {
    let request: consul::MeshConfigEntry = call.decode()?;
    let entry = request.into_entry().map_err(|error| call.body_error(&error))?;
    call.write_mesh(entry).await
}

/// Answers with the entries of a kind: one at most.
async fn list(call: Call) -> Result<Response, ApiError> {
    call.check_kind()?;
    let reading = call.read(vec![WatchKey::Mesh]).await?;
    let entries: Vec<_> = written(&reading.catalog).map(consul::MeshConfigEntry::from).into_iter().collect();
    call.answer(&reading, &entries)
}

/// Answers with the `mesh` entry.
async fn read(call: Call) -> Result<Response, ApiError> {
    call.check_kind()?;
    call.check_name()?;
    let reading = call.read(vec![WatchKey::Mesh]).await?;
    let entry = written(&reading.catalog).ok_or_else(|| no_entry(MESH, MESH))?;
    call.answer(&reading, &consul::MeshConfigEntry::from(entry))
}

/// Takes the `mesh` entry back to its default: deny what no intention allows, and no guardrails.
async fn delete(call: Call) -> Result<Response, ApiError> {
    call.check_kind()?;
    call.check_name()?;
    call.write_mesh(MeshEntry::default()).await
}

/// Returns the `mesh` entry where somebody has written one.
fn written(catalog: &Catalog) -> Option<&MeshEntry> {
    let entry = catalog.mesh_entry();
    (entry.modified.0 > 0).then_some(entry)
}

fn no_entry(kind: &str, name: &str) -> ApiError {
    ApiError::NotFound { what: "config entry", name: format!("{kind}/{name}") }
}

impl Call {
    /// Writes the `mesh` entry. A `cas` that was overtaken is answered with `false`, as Consul's clients expect.
    async fn write_mesh(&self, entry: MeshEntry) -> Result<Response, ApiError> {
        let compare = self.compare()?;
        match self.write(Command::WriteMesh { entry, compare }).await {
            Err(ApiError::Refused(Refusal::EntryChanged { .. })) if compare.is_some() => self.json(&false),
            written => written.and_then(|_| self.json(&true)),
        }
    }

    fn check_kind(&self) -> Result<(), ApiError> {
        match self.path_text("kind") {
            MESH => Ok(()),
            other => Err(ApiError::Path {
                what: "kind",
                value: other.to_owned(),
                reason: "weft carries out no config entries of this kind yet; the one there is is `mesh`".to_owned(),
            }),
        }
    }

    fn check_name(&self) -> Result<(), ApiError> {
        match self.path_text("name") {
            MESH => Ok(()),
            other => Err(no_entry(MESH, other)),
        }
    }
}
