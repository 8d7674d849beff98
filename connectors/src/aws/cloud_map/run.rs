//! The cycles of the connector: look, say what was seen, act where it may.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use catalog::{ConnectorName, ConnectorProblem, ProblemKind};
use serde::{Deserialize, Serialize};
use wire::{
    api_types::{ConnectorNodeView, ConnectorView},
    client::{ApiClient, ApiError},
};

use super::{
    client::{Access, Cloud},
    export::{CloudAction, ExportPlan, ExportRule, Exported, export},
    import::{ImportRule, import},
    mark::Owner,
    view::CloudView,
};
use crate::{
    metrics::Metrics,
    plan::{Caution, Plan, Sight, plan},
    shell::Post,
};

/// How many changes of Cloud Map are made in one cycle at most, so that it goes on looking meanwhile.
const ACTIONS_MAX: usize = 500;

/// Says what goes between Cloud Map and the mesh.
#[derive(Debug, Clone)]
pub struct CloudSettings {
    /// What comes in; none for nothing.
    pub import: Option<ImportRule>,
    /// What goes out.
    pub exports: Vec<ExportRule>,
    /// How often to look.
    pub interval: Duration,
    /// Another address of AWS than the region's own.
    pub endpoint: Option<String>,
    /// The region, if it is not the environment's.
    pub region: Option<String>,
    /// Which share of the account's limits to take, 0 to 1.
    pub budget: f64,
    /// Whether to ask ECS about the tasks behind instances.
    pub asks_ecs: bool,
    /// When so much goes at once that it is held.
    pub caution: Caution,
}

/// Is what would change now.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Shown {
    /// The writes to the catalog, in order.
    pub catalog: Vec<catalog::ConnectorWrite>,
    /// The changes of Cloud Map, in order.
    pub cloud_map: Vec<CloudAction>,
    /// What would not be done, and why.
    pub problems: Vec<ConnectorProblem>,
}

/// Looks at Cloud Map for a connector.
#[derive(Debug)]
pub struct CloudMap {
    settings: CloudSettings,
    cloud: Cloud,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Roots {
    trust_domain: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: EntryNode,
    service: EntryService,
    checks: Vec<EntryCheck>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EntryNode {
    node: String,
    address: String,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EntryService {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EntryCheck {
    status: String,
}

impl CloudMap {
    /// Reads the credentials' chain and prepares calls. Nothing is sent.
    pub async fn new(settings: CloudSettings, metrics: Metrics) -> Self {
        let access = Access {
            endpoint: settings.endpoint.clone(),
            region: settings.region.clone(),
            budget: settings.budget,
            asks_ecs: settings.asks_ecs,
        };
        let cloud = Cloud::new(&access, metrics).await;
        Self { settings, cloud }
    }

    /// Looks, says what it saw, and acts, for as long as this process runs the connector; then waits until it does again.
    ///
    /// # Errors
    /// Never: whatever fails is a problem to be shown, and tried again.
    pub async fn watch(mut self, mut post: Post) -> Result<(), std::convert::Infallible> {
        loop {
            post.until_active().await;
            let mut seen = self.cycle(&post).await;
            if post.is_active() {
                seen.problems.sort();
                post.see(seen);
            }
            tokio::time::sleep(self.settings.interval).await;
        }
    }

    async fn cycle(&mut self, post: &Post) -> Sight {
        let client = post.servers.client();
        let owner = match owner(&client, &post.name).await {
            Ok(owner) => owner,
            Err(error) => {
                post.servers.turn_away();
                let reason = wire::one_line(&error);
                let problem = ConnectorProblem { kind: ProblemKind::Degraded, subject: "servers".to_owned(), reason };
                return Sight { problems: vec![problem], ..Sight::default() };
            }
        };
        let caution = self.caution(&client, &post.name).await;
        let view = self.look().await;
        let mut sight = self.sight(&view, &owner);
        for rule in self.settings.exports.clone() {
            let ExportPlan { actions, mut problems } = self.export(&client, &view, &rule, (&owner, caution)).await;
            sight.problems.append(&mut problems);
            for action in actions.iter().take(ACTIONS_MAX) {
                // Another process may have taken over while this one was busy.
                if !post.is_active() {
                    return sight;
                }
                if let Err(error) = self.cloud.act(action, &owner).await {
                    let subject = format!("Cloud Map service {}/{}", rule.namespace, rule.service.name);
                    let kind = match error {
                        super::CloudError::Quota { .. } | super::CloudError::Refused { .. } => ProblemKind::Refused,
                        _ => ProblemKind::Degraded,
                    };
                    tracing::warn!(error = wire::one_line(&error), ?action, "Cloud Map was not changed");
                    sight.problems.push(ConnectorProblem { kind, subject, reason: error.to_string() });
                    if matches!(error, super::CloudError::Credentials { .. }) {
                        break;
                    }
                }
            }
        }
        sight
    }

    async fn look(&mut self) -> CloudView {
        let (import, exports) = (self.settings.import.clone(), self.settings.exports.clone());
        let is_wanted = |namespace: &str| {
            import.as_ref().is_some_and(|rule| rule.target(namespace).is_some())
                || exports.iter().any(|rule| rule.namespace == namespace)
        };
        let tagged: BTreeSet<(String, String)> =
            exports.iter().map(|rule| (rule.namespace.clone(), rule.service.name.to_string())).collect();
        self.cloud.look(is_wanted, &tagged).await
    }

    fn sight(&self, view: &CloudView, owner: &Owner) -> Sight {
        match &self.settings.import {
            Some(rule) => import(view, rule, owner),
            // Nothing is to come in: what came once goes.
            None => Sight { is_complete: true, problems: view.problems.clone(), ..Sight::default() },
        }
    }

    /// Returns when so much goes at once that it is held: what an operator confirmed is not. Where that cannot be seen,
    /// nothing was.
    async fn caution(&self, client: &ApiClient, name: &ConnectorName) -> Caution {
        let views: Result<Vec<ConnectorView>, ApiError> = client.get("/v1/connectors").json().await;
        let own = views.into_iter().flatten().find(|view| view.name == *name);
        Caution { confirmed: own.and_then(|view| view.confirmed), ..self.settings.caution }
    }

    async fn export(
        &self,
        client: &ApiClient,
        view: &CloudView,
        rule: &ExportRule,
        (owner, caution): (&Owner, Caution),
    ) -> ExportPlan {
        match instances(client, rule).await {
            Ok(instances) => export(view, rule, &instances, owner, caution),
            Err(error) => {
                let (subject, reason) = (format!("service {}", rule.service), wire::one_line(&error));
                let problem = ConnectorProblem { kind: ProblemKind::Degraded, subject, reason };
                ExportPlan { actions: Vec::new(), problems: vec![problem] }
            }
        }
    }

    /// Returns what would change if this process ran the connector now.
    ///
    /// # Errors
    /// [`ApiError`] where the servers do not answer.
    pub async fn plan(&mut self, client: &ApiClient, name: &ConnectorName) -> Result<Shown, ApiError> {
        let owner = owner(client, name).await?;
        let kept: Vec<ConnectorNodeView> = client.get("/v1/connector").segment(name).segment("nodes").json().await?;
        let kept = kept.into_iter().map(ConnectorNodeView::into_node);
        let kept = kept.map(|node| (node.node.name.clone(), node)).collect();
        let view = self.look().await;
        let sight = self.sight(&view, &owner);
        let caution = self.caution(client, name).await;
        let plan: Plan = plan(name, &sight, &kept, caution);
        let mut problems = [plan.problems(name), sight.problems].concat();
        let mut cloud_map = Vec::new();
        for rule in self.settings.exports.clone() {
            let exported = self.export(client, &view, &rule, (&owner, caution)).await;
            cloud_map.extend(exported.actions);
            problems.extend(exported.problems);
        }
        problems.sort();
        Ok(Shown { catalog: plan.writes, cloud_map, problems })
    }
}

/// Names the mesh by its trust domain, which no other has.
async fn owner(client: &ApiClient, name: &ConnectorName) -> Result<Owner, ApiError> {
    let roots: Roots = client.get("/v1/connect/ca/roots").query("stale", "").json().await?;
    Ok(Owner { mesh: roots.trust_domain, connector: name.clone() })
}

async fn instances(client: &ApiClient, rule: &ExportRule) -> Result<Vec<Exported>, ApiError> {
    let asked = client.get("/v1/health/service").segment(&rule.service.name);
    let entries: Vec<Entry> = asked.query("ns", rule.service.namespace.as_str()).json().await?;
    Ok(entries.into_iter().map(exported).collect())
}

fn exported(entry: Entry) -> Exported {
    let own = entry.service.address;
    Exported {
        name: format!("{}/{}", entry.node.node, entry.service.id),
        address: if own.is_empty() { entry.node.address } else { own },
        port: entry.service.port,
        is_healthy: entry.checks.iter().all(|check| check.status != "critical"),
        node_meta: entry.node.meta.unwrap_or_default(),
        meta: entry.service.meta.unwrap_or_default(),
    }
}
