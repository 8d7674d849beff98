//! The token by which the cluster's connector calls the servers: made where its Secret holds none that they know.
//!
//! The servers draw it, so it is made before it can be kept. Whoever is killed in between, or was too late, leaves a token that
//! nobody has: those are ended by whoever finds the one that is kept.

use catalog::AccessorId;
use http::StatusCode;
use serde_json::json;
use tracing::info;
use wire::acl::TokenView;
use wire::client::{ApiClient, ApiError};

use super::{Bootstrap, BootstrapError, accessor_of, token_in};

/// The policy that the token is linked to.
const POLICY: &str = "kubernetes-connector";
/// What it grants: the connector's lease, and the nodes, services and intentions of every namespace.
const RULES: &str = r#"mesh = "write"
node_prefix "" {
  policy = "write"
}
namespace_prefix "" {
  service_prefix "" {
    policy     = "write"
    intentions = "write"
  }
}
"#;

impl Bootstrap {
    /// Has the connector's secret hold a token that the servers know; `plain` carries no token, `api` a management one.
    pub(super) async fn give_connector_a_token(
        &self,
        plain: &ApiClient,
        api: &ApiClient,
        name: &str,
    ) -> Result<(), BootstrapError> {
        let server = |source| BootstrapError::Server { what: "give the connector a token", source: Box::new(source) };
        let found = self.read_secret(name).await?;
        let kept = match token_in(&found) {
            Some(kept) => accessor_of(&plain.clone().with_token(kept)).await.map_err(server)?,
            None => None,
        };
        // Tells the tokens that were made here from all others.
        let noted = format!("the connector of this cluster; kept in secret {}/{name}", self.config.namespace);
        if let Some(kept) = kept {
            return end_others(api, &noted, &kept).await.map_err(server);
        }
        let made = make(api, &noted).await.map_err(server)?;
        let Some(secret) = &made.secret else { return Ok(()) };
        if self.keep(found, secret).await? {
            info!(secret = name, "the connector has a token");
            return Ok(());
        }
        end(api, &made.accessor).await.map_err(server)
    }
}

/// Makes a token, and the policy that it is linked to where there is none of that name.
async fn make(api: &ApiClient, noted: &str) -> Result<TokenView, ApiError> {
    match api.get("/v1/acl/policy/name").segment(POLICY).send().await {
        Ok(_) => {}
        Err(ApiError::Status { status: StatusCode::NOT_FOUND, .. }) => {
            let policy = json!({ "Name": POLICY, "Description": "what a cluster's connector does", "Rules": RULES });
            api.put("/v1/acl/policy").body(&policy)?.send().await?;
        }
        Err(error) => return Err(error),
    }
    let token = json!({ "Description": noted, "Policies": [{ "Name": POLICY }] });
    api.put("/v1/acl/token").body(&token)?.json().await
}

/// Ends the tokens of this description but one.
async fn end_others(api: &ApiClient, noted: &str, kept: &AccessorId) -> Result<(), ApiError> {
    let all: Vec<TokenView> = api.get("/v1/acl/tokens").json().await?;
    for other in all.iter().filter(|token| token.description == noted && token.accessor != *kept) {
        end(api, &other.accessor).await?;
    }
    Ok(())
}

async fn end(api: &ApiClient, accessor: &AccessorId) -> Result<(), ApiError> {
    match api.delete("/v1/acl/token").segment(accessor.as_str()).send().await {
        Ok(_) | Err(ApiError::Status { status: StatusCode::NOT_FOUND, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
