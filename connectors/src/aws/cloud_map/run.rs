//! The cycles of the connector: look, say what was seen, act where it may.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use catalog::{CheckStatus, ConnectorName, ConnectorProblem, ProblemKind, ServiceKey};
use serde::{Deserialize, Serialize};
use wire::{
    api_types::{ConnectorNodeView, ConnectorView},
    client::{Answer, ApiClient, ApiError},
    consul::HealthEntry,
};

use super::{
    budget::CloudError,
    client::{Access, Cloud},
    export::{CloudAction, ExportPlan, ExportRule, Exported, export, withdraw},
    import::{ImportRule, import},
    mark::Owner,
    view::CloudView,
};
use crate::{
    metrics::Metrics,
    plan::{Caution, Plan, Sight, plan},
    shell::Post,
};

/// For how long Cloud Map is changed in one cycle: as long as until the next look, but no less and no more than this.
const ACTING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

const HEALTH: &str = "/v1/health/service";

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
    /// What kept Cloud Map from being changed last.
    unsent: Vec<ConnectorProblem>,
    /// How many cycles there were: each begins with another rule, so that none waits for ever behind one that fails.
    cycles: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Roots {
    trust_domain: String,
}

/// Says why it is not known what the catalog has of a service.
#[derive(Debug, thiserror::Error)]
enum NotRead {
    #[error(
        "the servers show only a part of `{0}` to this token, and by a part nothing is sent: give it `read` on the service \
         and on the nodes that it is on"
    )]
    Hidden(ServiceKey),
    #[error(transparent)]
    Api(#[from] ApiError),
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
        Self { settings, cloud, unsent: Vec::new(), cycles: 0 }
    }

    /// Looks, says what it saw, and acts, for as long as this process runs the connector; then waits until it does again.
    ///
    /// # Errors
    /// Never: whatever fails is a problem to be shown, and tried again.
    pub async fn watch(mut self, mut post: Post) -> Result<(), std::convert::Infallible> {
        loop {
            post.until_active().await;
            self.cycle(&post).await;
            tokio::time::sleep(self.settings.interval).await;
        }
    }

    async fn cycle(&mut self, post: &Post) {
        let client = post.servers.client();
        let owner = match owner(&client, &post.name).await {
            Ok(owner) => owner,
            Err(error) => {
                post.servers.turn_away();
                let reason = wire::one_line(&error);
                let problem = ConnectorProblem { kind: ProblemKind::Degraded, subject: "servers".to_owned(), reason };
                return self.say(post, &Sight { problems: vec![problem], ..Sight::default() });
            }
        };
        let caution = self.caution(&client, &post.name).await;
        let view = self.look().await;
        let sight = self.sight(&view, &owner);
        // What comes in does not wait for what goes out.
        self.say(post, &sight);
        let mut plans = self.exports(&client, &view, (&owner, caution)).await;
        let mut unsent: Vec<ConnectorProblem> = plans.iter_mut().flat_map(|plan| plan.problems.drain(..)).collect();
        unsent.extend(self.act(post, plans, &owner).await);
        self.unsent = unsent;
        self.cycles = self.cycles.wrapping_add(1);
        self.say(post, &sight);
    }

    /// Says what was seen, and what keeps Cloud Map from being changed.
    fn say(&self, post: &Post, sight: &Sight) {
        // Another process may have taken over while this one was busy.
        if post.is_active() {
            let mut sight = sight.clone();
            sight.problems.extend(self.unsent.iter().cloned());
            sight.problems.sort();
            post.see(sight);
        }
    }

    /// Changes Cloud Map until it is time to look again, and returns what did not succeed.
    async fn act(&mut self, post: &Post, plans: Vec<ExportPlan>, owner: &Owner) -> Vec<ConnectorProblem> {
        let (until, mut problems) = (Instant::now() + self.settings.interval.clamp(ACTING.0, ACTING.1), Vec::new());
        let actions =
            plans.into_iter().flat_map(|plan| plan.actions.into_iter().map(move |it| (plan.subject.clone(), it)));
        for (subject, action) in actions {
            if !post.is_active() || Instant::now() >= until {
                break;
            }
            let Err(error) = self.cloud.act(&action, owner).await else { continue };
            tracing::warn!(error = wire::one_line(&error), ?action, "Cloud Map was not changed");
            let kind = match error {
                CloudError::Quota { .. } | CloudError::Refused { .. } => ProblemKind::Refused,
                CloudError::Credentials { .. } | CloudError::Passing { .. } => ProblemKind::Degraded,
            };
            problems.push(ConnectorProblem { kind, subject, reason: error.to_string() });
            if matches!(error, CloudError::Credentials { .. }) {
                break;
            }
        }
        problems
    }

    /// Returns what to change in Cloud Map, service by service.
    async fn exports(&self, client: &ApiClient, view: &CloudView, by: (&Owner, Caution)) -> Vec<ExportPlan> {
        let rules = &self.settings.exports;
        let mut plans = Vec::with_capacity(rules.len());
        for at in 0..rules.len() {
            let rule = &rules[self.cycles.wrapping_add(at) % rules.len()];
            plans.push(self.export(client, view, rule, by).await);
        }
        plans.extend(withdraw(view, rules, by.0, by.1));
        plans
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
                ExportPlan { problems: vec![problem], ..ExportPlan::default() }
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
        for exported in self.exports(client, &view, (&owner, caution)).await {
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

async fn instances(client: &ApiClient, rule: &ExportRule) -> Result<Vec<Exported>, NotRead> {
    let asked = client.get(HEALTH).segment(&rule.service.name);
    all(&rule.service, &asked.query("ns", rule.service.namespace.as_str()).send().await?)
}

/// Reads all the instances of a service out of an answer: one that leaves some out is none to remove others by.
fn all(service: &ServiceKey, answer: &Answer) -> Result<Vec<Exported>, NotRead> {
    if answer.is_filtered() {
        return Err(NotRead::Hidden(service.clone()));
    }
    let decoded = serde_json::from_slice::<Vec<HealthEntry>>(&answer.body);
    let entries = decoded.map_err(|source| ApiError::Decode { path: HEALTH.to_owned(), source })?;
    Ok(entries.into_iter().map(exported).collect())
}

fn exported(entry: HealthEntry) -> Exported {
    let is_healthy = entry.status() != CheckStatus::Critical;
    let own = entry.service.address;
    Exported {
        name: format!("{}/{}", entry.node.name, entry.service.id),
        address: if own.is_empty() { entry.node.address } else { own },
        port: entry.service.port,
        is_healthy,
        node_meta: entry.node.meta,
        meta: entry.service.meta,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m3_a_token_that_may_not_read_everything_empties_nothing() {
        let service: ServiceKey = "shop/api".parse().unwrap();
        let mut answer =
            Answer { status: http::StatusCode::OK, headers: http::HeaderMap::new(), body: bytes::Bytes::from("[]") };
        assert_eq!(all(&service, &answer).unwrap(), []);
        answer.headers.insert("X-Consul-Results-Filtered-By-ACLs", http::HeaderValue::from_static("true"));
        let error = all(&service, &answer).unwrap_err().to_string();
        assert!(error.contains("`shop/api`") && error.contains("`read`"), "{error}");
    }
}
