//! Config entries of the kinds that something carries out. The others are refused by name.

use ::catalog::{
    Catalog, CatalogIndex, Command, ConfigChange, ConfigKey, Intention, IntentionOwner, MeshEntry, Namespace,
    PolicyChange, Refusal, ServicePattern, WatchKey,
};
use axum::response::Response;
use http::Method;
use wire::consul::{
    CONFIG_KINDS, ConfigEntry, MESH, MeshConfigEntry, SERVICE_INTENTIONS, ServiceIntentions, TrafficEntry,
};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::query::parameter;
use super::reads::Reading;
use super::route::{Route, route};

/// What an entry is called in errors.
const ENTRY: &str = "config entry";

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::PUT, "/v1/config", Right::Judged, write).reads(&["cas"]).takes("object").answers("bool"),
        route(Method::GET, "/v1/config/{kind}", Right::Judged, list).answers("[object]"),
        route(Method::GET, "/v1/config/{kind}/{name}", Right::Judged, read).answers("object"),
        route(Method::DELETE, "/v1/config/{kind}/{name}", Right::Judged, delete)
            .reads(&["cas", "owner"])
            .answers("bool"),
    ]
}

/// A kind that something carries out.
#[derive(Clone, Copy)]
enum Kind {
    Mesh,
    ServiceIntentions,
    /// One that shapes the traffic of services.
    Traffic(&'static str),
}

/// Writes an entry; `cas` makes the write conditional.
async fn write(call: Call) -> Result<Response, ApiError> {
    let entry: ConfigEntry = call.decode()?;
    let compare = call.compare()?;
    let command = entry.into_command(&call.namespace()?, compare).map_err(|error| call.body_error(&error))?;
    call.change(command, compare).await
}

/// Answers with the entries of a kind: of `service-intentions`, one a destination.
async fn list(call: Call) -> Result<Response, ApiError> {
    match call.kind()? {
        Kind::Mesh => {
            let reading = call.read_mesh().await?;
            let entries: Vec<_> = written(&reading.catalog).map(MeshConfigEntry::from).into_iter().collect();
            call.answer(&reading, &entries)
        }
        Kind::ServiceIntentions => {
            let wanted = call.query.get("ns").filter(|namespace| *namespace != "*");
            let reading = call.read(vec![WatchKey::Intentions]).await?;
            let is_wanted = |one: &&ServicePattern| wanted.is_none_or(|namespace| one.namespace_text() == namespace);
            let entries: Vec<ServiceIntentions> =
                reading.catalog.destinations().filter(is_wanted).filter_map(|one| toward(&reading, one)).collect();
            call.answer(&reading, &entries)
        }
        Kind::Traffic(kind) => {
            let wanted = call.query.get("ns").filter(|namespace| *namespace != "*");
            let reading = call.read(vec![WatchKey::Config]).await?;
            let is_wanted = |key: &ConfigKey| {
                let is_in = |wanted| key.service().is_none_or(|service| service.namespace.as_str() == wanted);
                key.kind() == kind && wanted.is_none_or(is_in)
            };
            let entries = reading.catalog.config().iter();
            let entries: Vec<TrafficEntry> = entries
                .filter(|entry| is_wanted(&entry.key()) && reading.keeps(reading.may_read(&entry.key())))
                .map(|entry| TrafficEntry::from(&**entry))
                .collect();
            call.answer(&reading, &entries)
        }
    }
}

/// Answers with one entry.
async fn read(call: Call) -> Result<Response, ApiError> {
    let name = call.path_text("name");
    match call.kind()? {
        Kind::Mesh => {
            let reading = call.read_mesh().await?;
            match written(&reading.catalog).filter(|_| name == MESH) {
                Some(entry) => call.answer(&reading, &MeshConfigEntry::from(entry)),
                None => Ok(call.not_found(&reading, ENTRY, &format!("{MESH}/{name}"))),
            }
        }
        Kind::ServiceIntentions => {
            let destination = call.destination()?;
            let reading = call.read(vec![WatchKey::Destination(destination.clone())]).await?;
            match toward(&reading, &destination) {
                Some(entry) => call.answer(&reading, &entry),
                None if reading.authority.intention_write(&destination) || !reading.has_left_out() => {
                    Ok(call.not_found(&reading, ENTRY, &entry_name(&destination)))
                }
                None => Err(call.denied(format_args!("`intentions = \"read\"` on {destination}"))),
            }
        }
        Kind::Traffic(kind) => {
            let key = call.traffic_key(kind)?;
            let reading = call.read(vec![WatchKey::Config]).await?;
            if !reading.may_read(&key) {
                return Err(call.denied(match key.service() {
                    Some(service) => format!("`service:read` on {service}"),
                    None => "`mesh = \"read\"`".to_owned(),
                }));
            }
            match reading.catalog.config().get(&key) {
                Some(entry) => call.answer(&reading, &TrafficEntry::from(entry)),
                None => Ok(call.not_found(&reading, ENTRY, &key)),
            }
        }
    }
}

/// Removes an entry. That of the mesh leaves its default: deny what no intention allows, and no guardrails. That of a
/// destination goes with the intentions of one owner only. `cas` makes the removal conditional.
async fn delete(call: Call) -> Result<Response, ApiError> {
    let compare = call.compare()?;
    match call.kind()? {
        Kind::Mesh => {
            let name = call.path_text("name");
            if name != MESH {
                return Err(ApiError::NotFound { what: ENTRY, name: format!("{MESH}/{name}") });
            }
            call.change(Command::DeleteMesh { compare }, compare).await
        }
        Kind::ServiceIntentions => {
            let destination = call.destination()?;
            let owner = call.owner()?;
            let change = PolicyChange::DeleteDestination { destination, owner, compare };
            call.change(Command::Policy { change }, compare).await
        }
        Kind::Traffic(kind) => {
            let change = ConfigChange::Delete { key: call.traffic_key(kind)?, compare };
            call.change(Command::Config { change }, compare).await
        }
    }
}

/// Returns the `mesh` entry where somebody has written one.
fn written(catalog: &Catalog) -> Option<&MeshEntry> {
    let entry = catalog.mesh_entry();
    (entry.modified.0 > 0).then_some(entry)
}

/// Returns what the caller may see of the intentions toward a destination; none where that is nothing.
fn toward(reading: &Reading, destination: &ServicePattern) -> Option<ServiceIntentions> {
    let all = reading.catalog.intentions_toward(destination);
    let shown: Vec<&Intention> = all.into_iter().filter(|intention| reading.shows(intention)).collect();
    ServiceIntentions::show(destination, shown, reading.catalog.destination_modified(destination))
}

impl Reading {
    /// Reports whether the caller may see an entry that shapes traffic.
    fn may_read(&self, key: &ConfigKey) -> bool {
        key.service().map_or_else(|| self.authority.mesh_read(), |service| self.authority.service_read(service))
    }
}

fn entry_name(destination: &ServicePattern) -> String {
    format!("{SERVICE_INTENTIONS}/{destination}")
}

impl Call {
    /// Changes an entry. A `cas` that was overtaken is answered with `false`, as Consul's clients expect it of config
    /// entries.
    async fn change(&self, command: Command, compare: Option<CatalogIndex>) -> Result<Response, ApiError> {
        match self.write(command).await {
            Err(ApiError::Refused(Refusal::EntryChanged { .. })) if compare.is_some() => self.json(&false),
            written => written.and_then(|_| self.json(&true)),
        }
    }

    async fn read_mesh(&self) -> Result<Reading, ApiError> {
        let reading = self.read(vec![WatchKey::Mesh]).await?;
        if reading.authority.mesh_read() { Ok(reading) } else { Err(self.denied("`mesh = \"read\"`")) }
    }

    fn kind(&self) -> Result<Kind, ApiError> {
        match self.path_text("kind") {
            MESH => Ok(Kind::Mesh),
            SERVICE_INTENTIONS => Ok(Kind::ServiceIntentions),
            other => {
                CONFIG_KINDS.into_iter().find(|kind| *kind == other).map(Kind::Traffic).ok_or_else(|| ApiError::Path {
                    what: "kind",
                    value: other.to_owned(),
                    reason: format!(
                        "weft carries out no config entries of this kind yet, but {}",
                        CONFIG_KINDS.join(", ")
                    ),
                })
            }
        }
    }

    /// Reads which entry that shapes traffic path and `ns` name.
    fn traffic_key(&self, kind: &'static str) -> Result<ConfigKey, ApiError> {
        let name = self.path_text("name");
        let refused = |reason| ApiError::Path { what: "name", value: name.to_owned(), reason };
        let namespace: Namespace = self.namespace()?;
        let key = TrafficEntry::key(kind, name, &namespace).map_err(refused)?;
        key.ok_or_else(|| refused(format!("`{kind}` is of another form")))
    }

    /// Reads the destination that path and `ns` name; either may be `*`.
    fn destination(&self) -> Result<ServicePattern, ApiError> {
        let name = self.path_text("name");
        let namespace = self.query.get("ns").unwrap_or_default();
        ServiceIntentions::destination_of(name, namespace, &::catalog::Namespace::default()).map_err(|reason| {
            ApiError::Path { what: "name", value: name.to_owned(), reason: format!("{reason} (ns is `{namespace}`)") }
        })
    }

    /// Reads in whose name intentions are changed.
    pub(super) fn owner(&self) -> Result<Option<IntentionOwner>, ApiError> {
        let read = |text: &str| {
            text.parse().map_err(|error: ::catalog::NameError| parameter("owner", text, error.to_string()))
        };
        self.query.get("owner").map(read).transpose()
    }
}
