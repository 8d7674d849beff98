//! Relaxations: a namespace or the mesh in audit mode for a limited time.

use ::catalog::{Command, Namespace, PolicyChange, RelaxedScope, WatchKey};
use axum::response::Response;
use http::Method;
use wire::api_types::{RelaxRequest, RelaxationView};
use wire::crypto;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::query::parameter;
use super::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/mesh/relaxations", Right::MeshRead, list).answers("[RelaxationView]"),
        route(Method::PUT, "/v1/mesh/relaxation", Right::MeshWrite, relax)
            .takes("RelaxRequest")
            .answers("RelaxationView?"),
        route(Method::DELETE, "/v1/mesh/relaxation", Right::MeshWrite, end)
            .reads(&["namespace", "whole-mesh"])
            .answers("bool"),
    ]
}

/// Answers with the relaxations that are in force.
async fn list(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::Mesh]).await?;
    let relaxations: Vec<RelaxationView> =
        reading.catalog.relaxations(crypto::now()).map(RelaxationView::from).collect();
    call.answer(&reading, &relaxations)
}

/// Relaxes a namespace or the mesh, and answers with what was made. One that is there already is replaced.
async fn relax(call: Call) -> Result<Response, ApiError> {
    let request: RelaxRequest = call.decode()?;
    let scope = request.scope();
    let committed = call.write(Command::Policy { change: request.into_change() }).await?;
    let catalog = call.state.consensus().catalog();
    let made = catalog.relaxations(crypto::now()).find(|one| one.scope == scope && one.modified == committed.index);
    match made {
        Some(relaxation) => call.json(&RelaxationView::from(relaxation)),
        // Somebody else has changed it in the meantime, or it is over.
        None => call.json(&serde_json::Value::Null),
    }
}

/// Ends a relaxation before its time: of the namespace that `namespace` names, or with `whole-mesh` of the mesh.
async fn end(call: Call) -> Result<Response, ApiError> {
    let namespace = call.query.get("namespace");
    let scope = match (namespace, call.query.flag("whole-mesh")?) {
        (None, true) => RelaxedScope::Mesh,
        (Some(text), false) => {
            let namespace: Namespace =
                text.parse().map_err(|error: ::catalog::NameError| parameter("namespace", text, error.to_string()))?;
            RelaxedScope::Namespace(namespace)
        }
        (None, false) => {
            let expected = "name one namespace, or send `whole-mesh`";
            return Err(ApiError::ParameterMissing { name: "namespace", expected });
        }
        (Some(_), true) => {
            return Err(ApiError::ParametersConflict { first: "namespace", second: "whole-mesh" });
        }
    };
    call.write(Command::Policy { change: PolicyChange::EndRelaxation { scope } }).await?;
    call.json(&true)
}
