//! How a whole mesh stands, as `weft status` shows it.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{
    AgentRecord, Attestation, AuthMethodName, Catalog, CatalogIndex, CheckStatus, Lifetime, MemberRole, Owner,
    Platform, ServerId, ServiceKey, Timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::rfc3339;

/// The fact about a node under which its agent says what release it runs.
pub const NODE_VERSION: &str = "weft-version";

/// Answers `GET /v1/status/mesh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct MeshStatus {
    /// The server that answers.
    #[schema(value_type = String)]
    pub server: ServerId,
    /// The leader, if it knows one.
    #[schema(value_type = Option<String>)]
    pub leader: Option<ServerId>,
    /// The last log entry that it has applied.
    #[schema(value_type = u64)]
    pub applied_index: CatalogIndex,
    /// The time by the clock of the server that answers.
    #[serde(default, with = "rfc3339::optional_text", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub now: Option<Timestamp>,
    /// The servers.
    pub servers: Vec<ServerStatus>,
    /// How many of the voters that are healthy may be lost before nothing can be written; null where no leader says who is.
    pub quorum_margin: Option<usize>,
    /// The agents, by platform and then by release.
    #[schema(value_type = BTreeMap<String, BTreeMap<String, usize>>)]
    pub agents: BTreeMap<Platform, BTreeMap<String, usize>>,
    /// The nodes in the catalog that no agent speaks for: no server holds a session of theirs; the first hundred of them.
    pub sessions_lost: Vec<String>,
    /// How many there are.
    pub sessions_lost_count: usize,
    /// The certificates of the authority that sign now.
    pub certificates: Vec<CertificateAge>,
    /// The services, as `namespace/name`, that are not all well; the first hundred of them.
    pub services_unwell: Vec<ServiceHealth>,
    /// How many services there are by the health of their instances.
    pub services: ServiceCounts,
    /// The instances that can be dialled past their agents; the first hundred of them.
    #[serde(default)]
    pub bypassable: Vec<BypassableInstance>,
    /// How many there are.
    #[serde(default)]
    pub bypassable_count: usize,
    /// The services that agents of several auth methods may stand before; the first hundred of them.
    #[serde(default)]
    pub shared: Vec<SharedService>,
    /// How many there are.
    #[serde(default)]
    pub shared_count: usize,
    /// How the disk of the server that answers does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskStatus>,
    /// How many services more can have virtual addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_numbers_left: Option<u32>,
}

/// Names an instance that can be dialled past its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct BypassableInstance {
    /// The service, as `namespace/name`.
    pub service: String,
    /// The node.
    pub node: String,
    /// Whether no caller is told of it, for its namespace refuses such.
    pub withheld: bool,
}

/// Names a service that several auth methods grant: it is one by consent of whoever wrote their rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct SharedService {
    /// The service, as `namespace/name`.
    pub service: String,
    /// The auth methods that let agents in that may stand before it.
    pub methods: Vec<String>,
}

/// Says how long a server's disk takes to sync its log, by the last few seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct DiskStatus {
    /// Whether it is too slow to lead with: a leader whose disk is hands over.
    pub slow: bool,
    /// What half of the syncs take less than, in milliseconds; null where there were none.
    #[serde(default)]
    pub typical_ms: Option<u64>,
    /// The disk is slow where nine of ten syncs take longer than this.
    pub limit_ms: u64,
}

/// Shows a server of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ServerStatus {
    /// The server's name.
    #[serde(rename = "ID")]
    #[schema(value_type = String)]
    pub id: ServerId,
    /// Its address for Raft.
    pub address: String,
    /// What it is meant to be: `learner`, `voter` or `leaving`.
    #[schema(value_type = String)]
    pub role: MemberRole,
    /// The release that it said it runs.
    pub release: String,
    /// The highest version of log entries that it reads.
    pub reads: u16,
    /// Whether the leader hears it; null where no leader says so.
    #[serde(default)]
    pub alive: Option<bool>,
}

/// Says how much is left of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CertificateAge {
    /// `root` or `intermediate`.
    pub certificate: String,
    /// When it expires.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub not_after: Timestamp,
    /// How much of its life is left, in hundredths.
    pub left_percent: u64,
    /// `passing`; `warning` with less than 33 hundredths left, `critical` with less than 15.
    #[schema(value_type = String)]
    pub status: CheckStatus,
}

/// Counts services by the health of their instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceCounts {
    /// Those all of whose instances pass.
    pub passing: usize,
    /// Those that can be called although some instance does not pass.
    pub warning: usize,
    /// Those without an instance that may be called.
    pub critical: usize,
}

/// Shows the health of a service's instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceHealth {
    /// The service, as `namespace/name`.
    pub service: String,
    /// Instances all of whose checks pass.
    pub passing: usize,
    /// Instances of which a check warns.
    pub warning: usize,
    /// Instances that must not be called.
    pub critical: usize,
}

/// More names of one kind are not listed.
const LISTED_MAX: usize = 100;

impl CertificateAge {
    /// Judges a certificate's age at `now`.
    pub fn new(certificate: &str, not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> Self {
        let life = Lifetime { begin: not_before, end: not_after };
        let (left_percent, status) = (life.left_percent(now), life.age(now));
        Self { certificate: certificate.to_owned(), not_after, left_percent, status }
    }
}

impl ServiceHealth {
    /// Returns how the service is as a whole.
    pub fn status(&self) -> CheckStatus {
        match (self.passing + self.warning, self.warning + self.critical) {
            (0, _) => CheckStatus::Critical,
            (_, 0) => CheckStatus::Passing,
            _ => CheckStatus::Warning,
        }
    }
}

impl MeshStatus {
    /// Shows what `catalog` says of the mesh at `now`; `server` answers, and knows `leader`. Who is alive is not in it: see
    /// [`MeshStatus::seen`].
    pub fn new(server: ServerId, leader: Option<ServerId>, catalog: &Catalog, now: Timestamp) -> Self {
        let servers = catalog
            .membership()
            .members
            .values()
            .map(|member| ServerStatus {
                id: member.id.clone(),
                address: member.facts.raft_address.clone(),
                role: member.role,
                release: member.facts.release.clone(),
                reads: member.facts.reads,
                alive: None,
            })
            .collect();
        let lost: Vec<String> = lost_sessions(catalog).collect();
        let health = services(catalog);
        let mut counts = ServiceCounts::default();
        for service in &health {
            match service.status() {
                CheckStatus::Passing => counts.passing += 1,
                CheckStatus::Warning => counts.warning += 1,
                CheckStatus::Critical => counts.critical += 1,
            }
        }
        let unwell = health.into_iter().filter(|service| service.status() != CheckStatus::Passing);
        let (bypassable, shared) = (bypassable(catalog), shared(catalog.agent_records()));
        Self {
            server,
            leader,
            applied_index: catalog.index(),
            now: Some(now),
            servers,
            quorum_margin: None,
            agents: agents(catalog),
            sessions_lost_count: lost.len(),
            sessions_lost: lost.into_iter().take(LISTED_MAX).collect(),
            certificates: certificates(catalog, now),
            services_unwell: unwell.take(LISTED_MAX).collect(),
            services: counts,
            bypassable_count: bypassable.len(),
            bypassable: bypassable.into_iter().take(LISTED_MAX).collect(),
            shared_count: shared.len(),
            shared: shared.into_iter().take(LISTED_MAX).collect(),
            disk: None,
            address_numbers_left: Some(catalog.address_numbers_left()),
        }
    }

    /// Adds how the disk of the server that answers does.
    #[must_use]
    pub fn with_disk(self, disk: Option<DiskStatus>) -> Self {
        Self { disk, ..self }
    }

    /// Adds what the leader sees: which servers are alive, and how many voters may be lost.
    #[must_use]
    pub fn seen(mut self, is_alive: impl Fn(&ServerId) -> Option<bool>, quorum_margin: usize) -> Self {
        for server in &mut self.servers {
            server.alive = is_alive(&server.id);
        }
        self.quorum_margin = Some(quorum_margin);
        self
    }

    /// Counts what runs by its release: servers, and agents.
    pub fn releases(&self) -> BTreeMap<String, (usize, usize)> {
        let mut releases: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for server in &self.servers {
            releases.entry(server.release.clone()).or_default().0 += 1;
        }
        for (release, count) in self.agents.values().flatten() {
            releases.entry(release.clone()).or_default().1 += count;
        }
        releases
    }
}

fn agents(catalog: &Catalog) -> BTreeMap<Platform, BTreeMap<String, usize>> {
    let mut agents: BTreeMap<Platform, BTreeMap<String, usize>> = BTreeMap::new();
    for record in catalog.agent_records() {
        let release = catalog.node(&record.node).and_then(|node| node.meta.get(NODE_VERSION));
        let release = release.map_or("unknown", String::as_str).to_owned();
        *agents.entry(record.platform).or_default().entry(release).or_default() += 1;
    }
    agents
}

/// Names the nodes of agents whose session was given up after the grace period, or whose record has ended.
fn lost_sessions(catalog: &Catalog) -> impl Iterator<Item = String> {
    let held = catalog.nodes().filter(|node| matches!(node.owner, Owner::Agent(_)));
    held.filter(|node| catalog.agent_on(&node.name).is_none_or(|record| record.presence.lost_at.is_some()))
        .map(|node| node.name.to_string())
}

fn certificates(catalog: &Catalog, now: Timestamp) -> Vec<CertificateAge> {
    let root = catalog.active_root().map(|root| CertificateAge::new("root", root.not_before, root.not_after, now));
    let signer = catalog.active_intermediate();
    let signer = signer.map(|it| CertificateAge::new("intermediate", it.not_before, it.not_after, now));
    root.into_iter().chain(signer).collect()
}

fn bypassable(catalog: &Catalog) -> Vec<BypassableInstance> {
    let instances = catalog.nodes().flat_map(|node| catalog.instances_on(&node.name));
    let bypassable = instances.filter(|instance| instance.is_bypassable());
    let shown = bypassable.map(|instance| BypassableInstance {
        service: instance.service_key().to_string(),
        node: instance.key.node.to_string(),
        withheld: catalog.is_withheld(instance),
    });
    shown.collect()
}

fn shared<'a>(records: impl Iterator<Item = &'a AgentRecord>) -> Vec<SharedService> {
    let mut granted: BTreeMap<&ServiceKey, BTreeSet<&AuthMethodName>> = BTreeMap::new();
    for record in records {
        if let Attestation::Login { method, .. } = &record.attestation {
            for service in &record.services {
                granted.entry(service).or_default().insert(method);
            }
        }
    }
    let shared = granted.into_iter().filter(|(_, methods)| methods.len() > 1);
    let shown = |(service, methods): (&ServiceKey, BTreeSet<&AuthMethodName>)| SharedService {
        service: service.to_string(),
        methods: methods.into_iter().map(ToString::to_string).collect(),
    };
    shared.map(shown).collect()
}

fn services(catalog: &Catalog) -> Vec<ServiceHealth> {
    let mut found: BTreeMap<String, ServiceHealth> = BTreeMap::new();
    for instance in catalog.nodes().flat_map(|node| catalog.instances_on(&node.name)) {
        let service = instance.service_key().to_string();
        let entry = found.entry(service.clone());
        let health = entry.or_insert(ServiceHealth { service, passing: 0, warning: 0, critical: 0 });
        match catalog.health(&instance.key) {
            CheckStatus::Passing => health.passing += 1,
            CheckStatus::Warning => health.warning += 1,
            CheckStatus::Critical => health.critical += 1,
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p9_a_certificate_warns_at_a_third_and_alarms_at_fifteen_hundredths() {
        for (now, percent, status) in [
            (0, 100, CheckStatus::Passing),
            (1000, 100, CheckStatus::Passing),
            (67_000, 33, CheckStatus::Passing),
            (68_000, 32, CheckStatus::Warning),
            (85_000, 15, CheckStatus::Warning),
            (86_000, 14, CheckStatus::Critical),
            (200_000, 0, CheckStatus::Critical),
        ] {
            let age = CertificateAge::new("root", Timestamp(0), Timestamp(100_000), Timestamp(now));
            assert_eq!(age.status, status, "at {now}: {age:?}");
            assert!(age.left_percent.abs_diff(percent) <= 1, "at {now}: {age:?}");
        }
    }

    #[test]
    fn a_service_is_shared_where_agents_of_several_auth_methods_may_stand_before_it() {
        let record = |index: u64, method: Option<&str>, services: &[&str]| AgentRecord {
            id: catalog::AgentId::enrolled_at(CatalogIndex(index)),
            node: format!("n{index}").parse().unwrap(),
            platform: Platform::Kubernetes,
            key: catalog::KeyFingerprint(format!("key-{index}")),
            services: services.iter().map(|service| service.parse().unwrap()).collect(),
            gateway: None,
            attestation: method.map_or_else(
                || Attestation::JoinToken("00000000-0000-4000-8000-000000000000".parse().unwrap()),
                |method| Attestation::Login { method: method.parse().unwrap(), subject: "s".to_owned() },
            ),
            earlier: Vec::new(),
            enrolled: CatalogIndex(index),
            incarnation: None,
            server: None,
            presence: catalog::Presence::default(),
            modified: CatalogIndex(index),
        };
        let records = [
            record(1, Some("east"), &["api", "web"]),
            record(2, Some("west"), &["api"]),
            record(3, Some("east"), &["api"]),
            record(4, Some("east"), &["web"]),
            record(5, None, &["web"]),
        ];
        let methods = ["east", "west"].map(str::to_owned).to_vec();
        assert_eq!(shared(records.iter()), [SharedService { service: "default/api".to_owned(), methods }]);
    }

    #[test]
    fn a_service_is_critical_only_where_nobody_may_be_called() {
        let health =
            |passing, warning, critical| ServiceHealth { service: "default/a".into(), passing, warning, critical };
        assert_eq!(health(2, 0, 0).status(), CheckStatus::Passing);
        assert_eq!(health(1, 0, 5).status(), CheckStatus::Warning);
        assert_eq!(health(0, 1, 0).status(), CheckStatus::Warning);
        assert_eq!(health(0, 0, 1).status(), CheckStatus::Critical);
    }
}
