//! Config entries. The only kind that something carries out so far is `mesh`; the others are refused by name.

use ::catalog::{Catalog, CatalogIndex, Command, MeshEntry, Refusal, WatchKey};
use axum::response::Response;
use http::Method;
use wire::consul;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

const MESH: &str = "mesh";
/// What an entry is called in errors.
const ENTRY: &str = "config entry";

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::PUT, "/v1/config", Right::MeshWrite, write),
        route(Method::GET, "/v1/config/{kind}", Right::MeshRead, list),
        route(Method::GET, "/v1/config/{kind}/{name}", Right::MeshRead, read),
        route(Method::DELETE, "/v1/config/{kind}/{name}", Right::MeshWrite, delete),
    ]
}

/// Writes the `mesh` entry; `cas` makes the write conditional.
async fn write(call: Call) -> Result<Response, ApiError> {
    let request: consul::MeshConfigEntry = call.decode()?;
    let entry = request.into_entry().map_err(|error| call.body_error(&error))?;
    let compare = call.compare()?;
    call.change(Command::WriteMesh { entry, compare }, compare).await
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
    let reading = call.read(vec![WatchKey::Mesh]).await?;
    let name = call.path_text("name");
    match written(&reading.catalog).filter(|_| name == MESH) {
        Some(entry) => call.answer(&reading, &consul::MeshConfigEntry::from(entry)),
        None => Ok(call.not_found(&reading, ENTRY, &entry_name(name))),
    }
}

/// Removes the `mesh` entry, which leaves its default: deny what no intention allows, and no guardrails. `cas` makes the
/// removal conditional.
async fn delete(call: Call) -> Result<Response, ApiError> {
    call.check_kind()?;
    let name = call.path_text("name");
    if name != MESH {
        return Err(ApiError::NotFound { what: ENTRY, name: entry_name(name) });
    }
    let compare = call.compare()?;
    call.change(Command::DeleteMesh { compare }, compare).await
}

/// Returns the `mesh` entry where somebody has written one.
fn written(catalog: &Catalog) -> Option<&MeshEntry> {
    let entry = catalog.mesh_entry();
    (entry.modified.0 > 0).then_some(entry)
}

fn entry_name(name: &str) -> String {
    format!("{MESH}/{name}")
}

impl Call {
    /// Changes the `mesh` entry. A `cas` that was overtaken is answered with `false`, as Consul's clients expect it of
    /// config entries.
    async fn change(&self, command: Command, compare: Option<CatalogIndex>) -> Result<Response, ApiError> {
        match self.write(command).await {
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
}
