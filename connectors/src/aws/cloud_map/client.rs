//! Cloud Map by its own SDK: looking, and acting.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_servicediscovery::{
    Client,
    types::{
        CustomHealthStatus, FilterCondition, HealthCheckCustomConfig, HealthStatus, HealthStatusFilter,
        NamespaceSummary, OperationStatus, ServiceFilter, ServiceFilterName, ServiceSummary, ServiceTypeOption, Tag,
    },
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use aws_smithy_types::{retry::RetryConfig, timeout::TimeoutConfig};
use catalog::{ConnectorProblem, ProblemKind};

use super::{
    budget::{Api, Budget, CloudError},
    ecs,
    export::CloudAction,
    mark::{OWNER, Owner},
    view::{CloudInstance, CloudService, CloudView, Health, TaskWord},
};
use crate::metrics::Metrics;

/// How long the list of a service's instances counts while its revision does not change.
const LIST_AGE_MAX: Duration = Duration::from_secs(300);
/// How long the list of namespaces counts: they are few, seldom come or go, and AWS lets them be asked for less often than
/// anything else.
const NAMESPACES_AGE_MAX: Duration = Duration::from_secs(10);
/// How long an operation may take to be carried out.
const OPERATION_MAX: Duration = Duration::from_secs(30);
/// How many instances one answer of DiscoverInstances has at most.
const DISCOVERED_MAX: i32 = 1000;

/// Says where Cloud Map is and how it may be called.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// Another address than the region's own.
    pub(super) endpoint: Option<String>,
    /// The region, if it is not the environment's.
    pub(super) region: Option<String>,
    /// Which share of the account's limits to take.
    pub(super) budget: f64,
    /// Whether to ask ECS about the tasks behind instances.
    pub(super) asks_ecs: bool,
}

/// Calls Cloud Map, and remembers what need not be asked again.
#[derive(Debug)]
pub(super) struct Cloud {
    client: Client,
    ecs: Option<aws_sdk_ecs::Client>,
    budget: Budget,
    /// The namespaces, by name, and when they were asked for.
    namespaces: Option<(Instant, Vec<CloudNamespace>)>,
    listed: HashMap<String, Listed>,
    /// What ECS said last of the tasks behind instances.
    tasks: BTreeMap<String, TaskWord>,
}

#[derive(Debug)]
struct Listed {
    revision: Option<i64>,
    at: Instant,
    instances: Vec<(String, BTreeMap<String, String>)>,
}

/// Answers names below `localhost` with this machine, as RFC 6761 §6.3 wants it, and asks the system for all others: Cloud
/// Map's data plane is called by a name of its own beside the endpoint's, which few systems know of.
#[derive(Debug, Clone)]
struct LocalNames;

impl ResolveDns for LocalNames {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        if is_local(name) {
            return DnsFuture::ready(Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]));
        }
        DnsFuture::new(async move {
            let found = tokio::net::lookup_host((name, 0)).await.map_err(ResolveDnsError::new)?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Reports whether a name is below `localhost`.
fn is_local(name: &str) -> bool {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().ends_with(".localhost")
}

async fn load(access: &Access) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        // What is repeated, and when, is the budget's to say.
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(Duration::from_secs(5)).build());
    if let Some(region) = &access.region {
        loader = loader.region(aws_config::Region::new(region.clone()));
    }
    if let Some(endpoint) = &access.endpoint {
        loader = loader.endpoint_url(endpoint);
        let host = endpoint.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
        if host.is_some_and(|host| is_local(&host)) {
            let client = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
            loader = loader.http_client(client.build_with_resolver(LocalNames));
        }
    }
    loader.load().await
}

impl Cloud {
    pub(super) async fn new(access: &Access, metrics: Metrics) -> Self {
        let config = load(access).await;
        Self {
            client: Client::new(&config),
            ecs: access.asks_ecs.then(|| aws_sdk_ecs::Client::new(&config)),
            budget: Budget::new(access.budget, metrics),
            namespaces: None,
            listed: HashMap::new(),
            tasks: BTreeMap::new(),
        }
    }

    /// Looks at the namespaces that are wanted; `tagged` names the services whose tags matter, by namespace and name.
    pub(super) async fn look(
        &mut self,
        is_wanted: impl Fn(&str) -> bool,
        tagged: &BTreeSet<(String, String)>,
    ) -> CloudView {
        let mut view = CloudView::default();
        let namespaces = match self.namespaces().await {
            Ok(namespaces) => namespaces,
            Err(error) => {
                view.problems.push(degraded("Cloud Map", &error));
                return view;
            }
        };
        view.is_complete = true;
        (view.namespaces, view.shared_names) = by_name(&namespaces);
        for namespace in namespaces.iter().filter(|namespace| is_wanted(&namespace.name)) {
            match self.services(&namespace.id).await {
                Ok(services) => {
                    for summary in services {
                        let service = self.service(namespace, &summary, tagged, &mut view.problems).await;
                        view.services.extend(service);
                    }
                }
                Err(error) => {
                    view.unseen.insert(namespace.name.clone());
                    view.problems.push(degraded(&format!("Cloud Map namespace {}", namespace.name), &error));
                }
            }
        }
        self.listed.retain(|id, _| view.services.iter().any(|service| service.id == *id));
        if let Some(client) = &self.ecs {
            ecs::look(client, &self.budget, &mut self.tasks, &mut view).await;
        }
        view
    }

    async fn namespaces(&mut self) -> Result<Vec<CloudNamespace>, CloudError> {
        if let Some((_, known)) = self.namespaces.as_ref().filter(|(at, _)| at.elapsed() < NAMESPACES_AGE_MAX) {
            return Ok(known.clone());
        }
        let (at, mut found, mut token) = (Instant::now(), BTreeMap::new(), None);
        loop {
            let call = || self.client.list_namespaces().set_next_token(token.clone()).send();
            let page = self.budget.call(Api::ListNamespaces, call).await?;
            found.extend(page.namespaces().iter().filter_map(CloudNamespace::read).map(|one| (one.id.clone(), one)));
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                let found: Vec<CloudNamespace> = found.into_values().collect();
                self.namespaces = Some((at, found.clone()));
                return Ok(found);
            }
        }
    }

    async fn services(&self, namespace: &str) -> Result<Vec<ServiceSummary>, CloudError> {
        let filter = ServiceFilter::builder()
            .name(ServiceFilterName::NamespaceId)
            .condition(FilterCondition::Eq)
            .values(namespace)
            .build()
            .map_err(|error| CloudError::Passing { api: "list_services", reason: error.to_string() })?;
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let call = || self.client.list_services().filters(filter.clone()).set_next_token(token.clone()).send();
            let page = self.budget.call(Api::ListServices, call).await?;
            found.extend(page.services().iter().cloned());
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    async fn service(
        &mut self,
        namespace: &CloudNamespace,
        summary: &ServiceSummary,
        tagged: &BTreeSet<(String, String)>,
        problems: &mut Vec<ConnectorProblem>,
    ) -> Option<CloudService> {
        let (id, name) = (summary.id()?.to_owned(), summary.name()?.to_owned());
        let subject = format!("Cloud Map service {}/{name}", namespace.name);
        let tags = match summary.arn().filter(|_| tagged.contains(&(namespace.name.clone(), name.clone()))) {
            Some(arn) => match self.tags(arn).await {
                Ok(tags) => Some(tags),
                Err(error) => {
                    problems.push(degraded(&subject, &error));
                    None
                }
            },
            None => None,
        };
        let instances = match self.instances(&namespace.http_name, &id, &name).await {
            Ok(instances) => Some(instances),
            Err(error) => {
                problems.push(degraded(&subject, &error));
                None
            }
        };
        let has_custom_health = summary.health_check_custom_config().is_some();
        Some(CloudService { id, name, namespace: namespace.name.clone(), has_custom_health, tags, instances })
    }

    async fn tags(&self, arn: &str) -> Result<BTreeMap<String, String>, CloudError> {
        let call = || self.client.list_tags_for_resource().resource_arn(arn).send();
        let answer = self.budget.call(Api::ListTags, call).await?;
        Ok(answer.tags().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect())
    }

    /// Returns a service's instances with their health. A change of health does not change the revision (a trap of Cloud
    /// Map's), so that health is asked for each time, and the list, which is true at once, where the revision has changed.
    async fn instances(&mut self, namespace: &str, id: &str, name: &str) -> Result<Vec<CloudInstance>, CloudError> {
        let call = || {
            let asked = self.client.discover_instances().namespace_name(namespace).service_name(name);
            asked.health_status(HealthStatusFilter::All).max_results(DISCOVERED_MAX).send()
        };
        let found = self.budget.call(Api::DiscoverInstances, call).await?;
        let health: HashMap<String, Health> = found
            .instances()
            .iter()
            .filter_map(|one| Some((one.instance_id()?.to_owned(), health_of(one.health_status()))))
            .collect();
        let revision = found.instances_revision();
        // It is compared for a change, never for more: it may go down.
        let is_fresh = |held: &Listed| {
            revision.is_some()
                && held.revision == revision
                && held.at.elapsed() < LIST_AGE_MAX
                && (held.instances.len() >= 1000 || held.instances.len() == health.len())
        };
        if !self.listed.get(id).is_some_and(is_fresh) {
            let listed = Listed { revision, at: Instant::now(), instances: self.list(id).await? };
            self.listed.insert(id.to_owned(), listed);
        }
        let listed = self.listed.get(id).map(|held| held.instances.clone()).unwrap_or_default();
        let instance = |(id, attributes): (String, BTreeMap<String, String>)| {
            let health = health.get(&id).copied().unwrap_or(Health::Unknown);
            CloudInstance { id, attributes, health }
        };
        Ok(listed.into_iter().map(instance).collect())
    }

    async fn list(&self, service: &str) -> Result<Vec<(String, BTreeMap<String, String>)>, CloudError> {
        // By id: a page may repeat what the one before had, where something changes in between.
        let (mut found, mut token) = (BTreeMap::new(), None);
        loop {
            let call = || self.client.list_instances().service_id(service).set_next_token(token.clone()).send();
            let page = self.budget.call(Api::ListInstances, call).await?;
            for instance in page.instances() {
                let attributes = instance.attributes().into_iter().flatten();
                let attributes = attributes.map(|(key, value)| (key.clone(), value.clone())).collect();
                found.extend(instance.id().map(|id| (id.to_owned(), attributes)));
            }
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                return Ok(found.into_iter().collect());
            }
        }
    }

    /// Carries out one change, to its end. Doing it twice is harmless.
    pub(super) async fn act(&mut self, action: &CloudAction, owner: &Owner) -> Result<(), CloudError> {
        let operation = match action {
            CloudAction::CreateService { service, namespace, namespace_id } => {
                return self.create(service, namespace, namespace_id, owner).await;
            }
            CloudAction::Register { service, id, attributes } => {
                let attributes: HashMap<String, String> = attributes.clone().into_iter().collect();
                // A repeat after a lost answer is the same request; the next registration is another.
                let request =
                    wire::crypto::sha256_hex(format!("{service}\n{id}\n{}", wire::crypto::uuid_v4()).as_bytes());
                let call = || {
                    let asked = self.client.register_instance().service_id(service).instance_id(id);
                    asked.creator_request_id(&request[..60]).set_attributes(Some(attributes.clone())).send()
                };
                self.listed.remove(service);
                self.budget.call(Api::Register, call).await?.operation_id().map(str::to_owned)
            }
            CloudAction::Deregister { service, id } => {
                let call = || self.client.deregister_instance().service_id(service).instance_id(id).send();
                self.listed.remove(service);
                match self.budget.call(Api::Deregister, call).await {
                    Ok(answer) => answer.operation_id().map(str::to_owned),
                    Err(error) if error.has_code("InstanceNotFound") => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            CloudAction::SetHealth { service, id, healthy } => {
                let status = if *healthy { CustomHealthStatus::Healthy } else { CustomHealthStatus::Unhealthy };
                let call = || {
                    let asked = self.client.update_instance_custom_health_status().service_id(service).instance_id(id);
                    asked.status(status.clone()).send()
                };
                return self.budget.call(Api::SetHealth, call).await.map(|_| ());
            }
        };
        match operation {
            Some(operation) => self.finish(&operation).await,
            None => Ok(()),
        }
    }

    async fn create(&self, name: &str, namespace: &str, namespace_id: &str, owner: &Owner) -> Result<(), CloudError> {
        let request = wire::crypto::sha256_hex(format!("{}\n{namespace}/{name}", owner.text()).as_bytes());
        let tag = Tag::builder().key(OWNER).value(owner.text()).build();
        let tag = tag.map_err(|error| CloudError::Passing { api: "create_service", reason: error.to_string() })?;
        let call = || {
            let asked = self.client.create_service().name(name).namespace_id(namespace_id).tags(tag.clone());
            let asked = asked.r#type(ServiceTypeOption::Http).creator_request_id(&request[..60]);
            asked.health_check_custom_config(HealthCheckCustomConfig::builder().build()).send()
        };
        match self.budget.call(Api::CreateService, call).await {
            Ok(_) => Ok(()),
            // The list may not have it yet, or its answer was lost; whose it is, the next cycle sees.
            Err(error) if error.has_code("ServiceAlreadyExists") => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits until an operation is carried out: of each instance only one may be under way.
    async fn finish(&self, operation: &str) -> Result<(), CloudError> {
        let (deadline, mut rest) = (Instant::now() + OPERATION_MAX, Duration::from_millis(50));
        loop {
            let call = || self.client.get_operation().operation_id(operation).send();
            let answer = self.budget.call(Api::GetOperation, call).await?;
            let state = answer.operation();
            let failed = |reason: &str| CloudError::Passing { api: "get_operation", reason: reason.to_owned() };
            match state.and_then(|state| state.status()) {
                Some(OperationStatus::Success) => return Ok(()),
                Some(OperationStatus::Fail) => {
                    let why = state.and_then(|state| state.error_message()).unwrap_or("the operation failed");
                    return Err(failed(why));
                }
                _ if Instant::now() >= deadline => return Err(failed("the operation is not done yet")),
                _ => tokio::time::sleep(rest).await,
            }
            rest = (rest * 2).min(Duration::from_secs(2));
        }
    }
}

/// Is a namespace as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CloudNamespace {
    id: String,
    /// What it is called; several may be called so.
    name: String,
    /// What `DiscoverInstances` knows it by: its name, or where another one has that, one with a hash behind it.
    http_name: String,
}

impl CloudNamespace {
    fn read(summary: &NamespaceSummary) -> Option<Self> {
        let (id, name) = (summary.id()?.to_owned(), summary.name()?.to_owned());
        let http = summary.properties().and_then(|properties| properties.http_properties());
        let http_name = http.and_then(|http| http.http_name()).filter(|http_name| !http_name.is_empty());
        let http_name = http_name.unwrap_or(&name).to_owned();
        Some(Self { id, name, http_name })
    }
}

/// Returns the ids of those whose name is their own, and the names that several have.
fn by_name(namespaces: &[CloudNamespace]) -> (BTreeMap<String, String>, BTreeSet<String>) {
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    let mut shared = BTreeSet::new();
    for namespace in namespaces {
        if ids.insert(namespace.name.clone(), namespace.id.clone()).is_some() {
            shared.insert(namespace.name.clone());
        }
    }
    ids.retain(|name, _| !shared.contains(name));
    (ids, shared)
}

fn health_of(status: Option<&HealthStatus>) -> Health {
    match status {
        Some(HealthStatus::Healthy) => Health::Healthy,
        Some(HealthStatus::Unhealthy) => Health::Unhealthy,
        _ => Health::Unknown,
    }
}

pub(super) fn degraded(subject: &str, error: &CloudError) -> ConnectorProblem {
    ConnectorProblem { kind: ProblemKind::Degraded, subject: subject.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use aws_sdk_servicediscovery::types::{HttpProperties, NamespaceProperties};

    use super::*;

    #[test]
    fn m2_namespaces_of_one_name_are_told_apart_and_asked_for_by_the_name_that_is_their_own() {
        let summary = |id: &str, name: &str, http_name: Option<&str>| {
            let http = http_name.map(|name| HttpProperties::builder().http_name(name).build());
            let properties = NamespaceProperties::builder().set_http_properties(http).build();
            NamespaceSummary::builder().id(id).name(name).properties(properties).build()
        };
        let listed = [
            summary("ns-1", "shop.local", Some("shop.local")),
            summary("ns-2", "shop.local", Some("shop.local-4f2a")),
            summary("ns-3", "pay", None),
        ];
        let found: Vec<CloudNamespace> = listed.iter().filter_map(CloudNamespace::read).collect();
        let asked: Vec<&str> = found.iter().map(|one| one.http_name.as_str()).collect();
        assert_eq!(asked, ["shop.local", "shop.local-4f2a", "pay"]);
        for order in [found.clone(), found.into_iter().rev().collect()] {
            let (ids, shared) = by_name(&order);
            assert_eq!(ids, BTreeMap::from([("pay".to_owned(), "ns-3".to_owned())]), "in whatever order they come");
            assert_eq!(shared, BTreeSet::from(["shop.local".to_owned()]));
        }
    }

    #[tokio::test]
    async fn only_names_below_localhost_are_this_machine_without_asking() {
        for name in ["aws.localhost", "data-aws.localhost", "Data-AWS.LOCALHOST."] {
            let found = LocalNames.resolve_dns(name).await.unwrap();
            assert_eq!(found, [IpAddr::V4(Ipv4Addr::LOCALHOST)], "{name}");
        }
        for name in ["localhost", "data-localhost", "aws.localhost.example", "notlocalhost", ""] {
            assert!(!is_local(name), "{name}");
        }
    }
}
