//! The certificate authority: the roots that identities are verified with, how it rotates, and how old it is.

use std::time::Duration;

use ::catalog::{AgentRecord, CaChange, Catalog, Command, Outcome, RotationStep, Timestamp, WatchKey};
use axum::response::Response;
use http::Method;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use wire::api_types::{
    CaConfigurationRequest, CaConfigurationView, CaIntermediateRequest, CaReplacedRoot, CaRotateRequest,
    CaRotationStatus, CaRotationView, CertificateAge,
};
use wire::{consul, crypto};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};
use crate::ca::{self, AuthorityError};

/// Nodes that an answer names.
const NAMED_MAX: usize = 20;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/connect/ca/roots", Right::AnyToken, roots).answers("CaRoots"),
        route(Method::GET, "/v1/agent/connect/ca/roots", Right::AnyToken, roots).answers("CaRoots"),
        route(Method::GET, "/v1/connect/ca/configuration", Right::OperatorRead, configuration)
            .answers("CaConfigurationView"),
        route(Method::PUT, "/v1/connect/ca/configuration", Right::OperatorWrite, configure)
            .reads(&["cas"])
            .takes("CaConfigurationView")
            .answers("bool"),
        route(Method::GET, "/v1/connect/ca/rotation", Right::OperatorRead, rotation).answers("CaRotationView"),
        route(Method::DELETE, "/v1/connect/ca/rotation", Right::OperatorWrite, cancel).answers("bool"),
        route(Method::PUT, "/v1/connect/ca/rotate", Right::OperatorWrite, rotate)
            .takes("CaRotateRequest")
            .answers("CaRotationView"),
        route(Method::PUT, "/v1/connect/ca/intermediate", Right::Management, set_intermediate)
            .takes("CaIntermediateRequest")
            .answers("CaRotationView"),
        route(Method::PUT, "/v1/connect/ca/distrust/{root}", Right::Management, distrust).answers("bool"),
        route(Method::GET, "/v1/status/certificates", Right::OperatorRead, certificates)
            .answers("[ServedCertificateAge]"),
    ]
}

/// Answers with the roots of the mesh's own trust domain.
async fn roots(call: Call) -> Result<Response, ApiError> {
    let reading = call.read_with_authority(vec![WatchKey::Roots, WatchKey::Mesh]).await?;
    let roots =
        consul::CaRoots::new(&reading.catalog).map_err(|error| ApiError::Internal { reason: error.to_string() })?;
    call.answer(&reading, &roots)
}

/// Answers with how long certificates live.
async fn configuration(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::CaRotation]).await?;
    let leaf = call.state.leaf_ttl();
    let view = CaConfigurationView::new(reading.catalog.ca_config(), leaf, ca::INTERMEDIATE_TTL, ca::ROOT_TTL);
    call.answer(&reading, &view)
}

/// Sets how long certificates live, for what is signed from now on; `cas` makes the write conditional.
async fn configure(call: Call) -> Result<Response, ApiError> {
    let request: CaConfigurationRequest = call.decode()?;
    let compare = call.compare()?;
    call.change_ca(CaChange::Configure { config: request.config, compare }).await?;
    call.json(&true)
}

/// Answers with how a rotation stands, and whether one would be safe now.
async fn rotation(call: Call) -> Result<Response, ApiError> {
    let reading = call.read_with_authority(vec![WatchKey::CaRotation, WatchKey::Roots, WatchKey::Agents]).await?;
    let view = call.rotation_view(&reading.catalog, crypto::now())?;
    call.answer(&reading, &view)
}

/// Begins a rotation; the leader takes it through its steps.
async fn rotate(call: Call) -> Result<Response, ApiError> {
    let request: CaRotateRequest = if call.body.is_empty() { CaRotateRequest::default() } else { call.decode()? };
    let reading = call.read_with_authority(vec![WatchKey::Roots]).await?;
    // A repeat would draw another root.
    if call.has_begun_rotation(request.distrust_old, &reading.catalog) {
        return call.json(&call.rotation_view(&reading.catalog, crypto::now())?);
    }
    let keys = call.state.cluster_keys();
    let change = ca::rotation(keys, &reading.catalog, request.distrust_old, crypto::now());
    call.bring_in(change).await
}

/// Takes a root that is not active yet out of the bundle again.
async fn cancel(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::CaRotation]).await?;
    let rotation = reading.catalog.ca_rotation();
    let root = rotation.map(|rotation| rotation.root_id.clone());
    let root = root.ok_or_else(|| ApiError::NotFound { what: "rotation", name: "under way".to_owned() })?;
    call.change_ca(CaChange::CancelRotation { root }).await?;
    call.json(&true)
}

/// Has an intermediate of the operator's own sign, once its root is trusted everywhere.
async fn set_intermediate(call: Call) -> Result<Response, ApiError> {
    let request: CaIntermediateRequest = call.decode()?;
    let reading = call.read_with_authority(vec![WatchKey::Roots]).await?;
    if call.has_brought_in(&request.intermediate_cert, &reading.catalog) {
        return call.json(&call.rotation_view(&reading.catalog, crypto::now())?);
    }
    let parts = (request.root_cert.as_str(), request.intermediate_cert.as_str(), &request.private_key);
    let leaf_ttl = reading.catalog.ca_config().leaf_ttl().unwrap_or(call.state.leaf_ttl());
    let change = ca::operators(call.state.cluster_keys(), &reading.catalog, parts, leaf_ttl, crypto::now());
    call.bring_in(change).await
}

/// Takes a root from everybody at once; what only it vouches for is cut.
async fn distrust(call: Call) -> Result<Response, ApiError> {
    call.check_no_body()?;
    let root = call.path_text("root").to_owned();
    call.change_ca(CaChange::Distrust { root }).await?;
    call.json(&true)
}

/// Answers with the ages of the certificates that the mesh and this server use, whether or not there is a leader.
async fn certificates(call: Call) -> Result<Response, ApiError> {
    let now = crypto::now();
    let ages: Vec<CertificateAge> = call
        .state
        .metrics()
        .lifetimes()
        .into_iter()
        .map(|(certificate, lifetime)| CertificateAge {
            certificate: certificate.to_owned(),
            begins_at: lifetime.begin,
            ends_at: lifetime.end,
            left_percent: lifetime.left_percent(now),
            status: lifetime.age(now),
        })
        .collect();
    call.json(&ages)
}

impl Call {
    /// Reports whether this very request has begun a rotation before.
    fn has_begun_rotation(&self, distrusts_old: bool, catalog: &Catalog) -> bool {
        match self.answered_earlier(catalog) {
            Some((_, Outcome::RotationBegun { root, distrusts_replaced })) => {
                *distrusts_replaced == distrusts_old && catalog.root(root).is_some()
            }
            _ => false,
        }
    }

    /// Reports whether this very request has brought in an intermediate before.
    fn has_brought_in(&self, certificate_pem: &str, catalog: &Catalog) -> bool {
        let Some((index, _)) = self.answered_earlier(catalog) else { return false };
        let Ok(certificate) = CertificateDer::from_pem_slice(certificate_pem.as_bytes()) else { return false };
        let id = crypto::sha256_hex(&certificate);
        catalog.intermediates().any(|one| one.created == index && one.id == id)
    }

    pub(super) async fn change_ca(&self, change: CaChange) -> Result<(), ApiError> {
        self.write(Command::Ca { change, not_before: None }).await.map(drop)
    }

    /// Proposes what was made, and answers with how the rotation stands then.
    async fn bring_in(&self, change: Result<CaChange, AuthorityError>) -> Result<Response, ApiError> {
        let change = change.map_err(|error| match error {
            AuthorityError::Given(_) | AuthorityError::Same { .. } | AuthorityError::Operators { .. } => {
                self.body_error(&wire::one_line(&error))
            }
            AuthorityError::NotReady => ApiError::NoAuthority,
            error => ApiError::Internal { reason: wire::one_line(&error) },
        })?;
        self.change_ca(change).await?;
        let view = self.rotation_view(&self.state.consensus().catalog(), crypto::now())?;
        self.json(&view)
    }

    fn rotation_view(&self, catalog: &Catalog, now: Timestamp) -> Result<CaRotationView, ApiError> {
        let leaf_ttl = catalog.ca_config().leaf_ttl().unwrap_or(self.state.leaf_ttl());
        let active = catalog.active_root().ok_or(ApiError::NoAuthority)?;
        let mut reasons = Vec::new();
        if let Some(rotation) = catalog.ca_rotation() {
            reasons.push(format!("a rotation to root {} is under way: wait for it, or cancel it", rotation.root_id));
        }
        if let Err(error) = ca::can_be_opened(self.state.cluster_keys(), catalog) {
            reasons.push(wire::one_line(&error));
        }
        if active.not_after <= now {
            reasons.push("the root has expired: agents must join again, whatever is done".to_owned());
        }
        let mut notes = Vec::new();
        if active.sealed_key.is_none() {
            notes.push(
                "the root's key is not here, so it cannot certify the next one: join tokens made before are void after"
                    .to_owned(),
            );
        }
        let without = catalog.agent_records().filter(|record| record.incarnation.is_none()).count();
        if without > 0 {
            notes.push(format!("{without} agents have joined and never connected; they are not waited for"));
        }
        notes.push(format!(
            "an agent that stays silent is waited for {} s, as long as a leaf lives",
            leaf_ttl.as_secs()
        ));
        Ok(CaRotationView {
            active_root: active.id.clone(),
            rotation: status(catalog, self.state.leaf_ttl()),
            replaced: replaced(catalog, self.state.leaf_ttl()),
            safe: reasons.is_empty(),
            reasons,
            notes,
        })
    }
}

fn status(catalog: &Catalog, unset: Duration) -> Option<CaRotationStatus> {
    let rotation = catalog.ca_rotation()?;
    let waited: Vec<&AgentRecord> = ca::agents_waited_for(catalog, rotation, unset).collect();
    Some(CaRotationStatus {
        root: rotation.root_id.clone(),
        replaces: rotation.replaces.clone(),
        step: match rotation.step {
            RotationStep::Distributing => "distributing".to_owned(),
            RotationStep::Reissuing => "reissuing".to_owned(),
        },
        distrust_old: rotation.distrust_replaced,
        started_at: rotation.started_at,
        waiting_for: waited.len(),
        nodes: waited.iter().take(NAMED_MAX).map(|record| record.node.to_string()).collect(),
        goes_on_at: ca::deadline(catalog, rotation, unset),
    })
}

fn replaced(catalog: &Catalog, unset: Duration) -> Vec<CaReplacedRoot> {
    let waiting = catalog.roots().filter(|root| !root.retired);
    let waiting = waiting.filter_map(|root| {
        let retires_at = root.replaced_at?.saturating_add(ca::patience_of_retirement(catalog, &root.id, unset));
        Some(CaReplacedRoot { id: root.id.clone(), retires_at })
    });
    waiting.collect()
}
