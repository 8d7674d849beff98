//! `/v1/agent/...` about the node as a whole: its machine, maintenance, definitions read again, leaving.

use axum::response::Response;
use http::Method;
use wire::consul::{AgentHost, AgentVersion};

use super::error::ApiError;
use super::rights::Right;
use super::route::{Call, Route, done, route};
use super::services::change;
use crate::core::Request;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/agent/version", Right::AnyToken, version).answers("AgentVersion"),
        route(Method::GET, "/v1/agent/host", Right::AgentRead, host).answers("AgentHost"),
        route(Method::PUT, "/v1/agent/maintenance", Right::Judged, maintain).reads(&["enable", "reason"]),
        route(Method::PUT, "/v1/agent/reload", Right::AgentWrite, reload),
        route(Method::PUT, "/v1/agent/leave", Right::AgentWrite, leave),
    ]
}

/// Answers with the version of this binary.
async fn version(call: Call) -> Result<Response, ApiError> {
    call.json(&AgentVersion::here())
}

/// Answers with what the machine is like.
async fn host(call: Call) -> Result<Response, ApiError> {
    call.json(&AgentHost::here())
}

/// Puts the node into maintenance, where nobody calls any of its services, or takes it out.
async fn maintain(call: Call) -> Result<Response, ApiError> {
    call.need_node_write()?;
    let reason = call.maintenance("Maintenance mode is enabled for this node")?;
    change(&call, |reply| Request::MaintainNode { reason, reply }).await
}

/// Reads the files of definitions again; what they said before stays in force where that fails.
async fn reload(call: Call) -> Result<Response, ApiError> {
    change(&call, Request::Reload).await
}

/// Has the agent leave the catalog, finish what is in flight, and end; answers at once.
async fn leave(call: Call) -> Result<Response, ApiError> {
    tracing::info!("somebody asked the agent to leave");
    call.state.leaving.cancel();
    Ok(done())
}

impl Call {
    /// Reads `enable` and `reason`: the reason of a maintenance that begins, or nothing where one ends.
    pub(super) fn maintenance(&self, default: &str) -> Result<Option<String>, ApiError> {
        let enable = self.query.flag("enable")?.ok_or_else(|| ApiError::Parameter {
            name: "enable",
            value: String::new(),
            expected: "use `true` or `false`",
        })?;
        let given = self.query.get("reason").filter(|reason| !reason.is_empty());
        Ok(enable.then(|| given.unwrap_or(default).to_owned()))
    }
}
