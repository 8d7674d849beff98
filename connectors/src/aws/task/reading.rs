//! What the endpoint's answers mean. What is not needed in them is not read, so that a newer platform's more does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use catalog::CheckStatus;
use serde::Deserialize;
use wire::surroundings::{Neighbour, ObserveError, Observed};

/// What a health check said, as far as it is passed on.
const OUTPUT_CHARS_MAX: usize = 512;

/// Is a task.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Task {
    cluster: String,
    #[serde(rename = "TaskARN")]
    task_arn: String,
    family: String,
    revision: String,
    #[serde(default)]
    service_name: Option<String>,
    desired_status: String,
    #[serde(default)]
    pub(super) availability_zone: Option<String>,
    #[serde(default)]
    launch_type: Option<String>,
    #[serde(default)]
    containers: Vec<Container>,
}

/// Is a container of a task.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    pub(super) name: String,
    #[serde(default)]
    known_status: String,
    #[serde(default)]
    health: Option<Health>,
    #[serde(default)]
    networks: Vec<Network>,
}

#[derive(Debug, Deserialize)]
struct Health {
    #[serde(default)]
    status: String,
    #[serde(default)]
    output: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    #[serde(default)]
    network_mode: String,
    #[serde(default, rename = "IPv4Addresses")]
    ipv4_addresses: Vec<IpAddr>,
    #[serde(default, rename = "IPv6Addresses")]
    ipv6_addresses: Vec<IpAddr>,
}

fn read<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, ObserveError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ObserveError { reason: format!("the task's metadata endpoint shows no {what}: {error}") })
}

impl Container {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ObserveError> {
        read("container", bytes)
    }

    /// Returns the task's own address: of no use outside of the machine in other network modes than this one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let own = self.networks.iter().filter(|network| network.network_mode == "awsvpc");
        own.flat_map(|network| network.ipv4_addresses.iter().chain(&network.ipv6_addresses)).next().copied()
    }

    /// Says how the container is, where its state means something for callers: it has a health check, or must run.
    fn status(&self, is_expected: bool) -> Option<(CheckStatus, String)> {
        let health = self.health.as_ref().filter(|health| !health.status.is_empty());
        if self.known_status != "RUNNING" {
            let is_told = is_expected || health.is_some();
            return is_told.then(|| (CheckStatus::Critical, format!("the container is {}", self.known_status)));
        }
        let Some(health) = health else {
            return is_expected
                .then(|| (CheckStatus::Passing, "the container runs; it has no health check".to_owned()));
        };
        let status = if health.status == "HEALTHY" { CheckStatus::Passing } else { CheckStatus::Critical };
        let output: String = health.output.chars().take(OUTPUT_CHARS_MAX).collect();
        let output = if output.trim().is_empty() { String::new() } else { format!(": {}", output.trim()) };
        Some((status, format!("the container is {}{output}", health.status)))
    }
}

impl Task {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ObserveError> {
        read("task", bytes)
    }

    /// Returns the id, the last part of the ARN.
    pub(super) fn id(&self) -> Result<&str, ObserveError> {
        let id = self.task_arn.rsplit('/').next().filter(|id| !id.is_empty() && self.task_arn.contains(":task/"));
        id.ok_or_else(|| ObserveError { reason: format!("`{}` is no task's ARN", wire::harmless(&self.task_arn)) })
    }

    /// Returns what people and selectors may want to know of the node.
    pub(super) fn meta(&self) -> BTreeMap<String, String> {
        let known = [
            ("ecs-task-arn", Some(&self.task_arn)),
            ("ecs-cluster", Some(&self.cluster)),
            ("ecs-family", Some(&self.family)),
            ("ecs-revision", Some(&self.revision)),
            ("ecs-service", self.service_name.as_ref()),
            ("ecs-launch-type", self.launch_type.as_ref()),
        ];
        let known = known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone())));
        known.filter(|(_, value)| !value.is_empty()).collect()
    }

    /// Says how the task is. A container that has a health check once is expected from then on.
    pub(super) fn observed(&self, own: &str, expected: &mut BTreeSet<String>) -> Observed {
        let mut neighbours = BTreeMap::new();
        for container in self.containers.iter().filter(|container| container.name != own) {
            if let Some(status) = container.status(expected.contains(&container.name)) {
                neighbours.insert(container.name.clone(), status);
            }
        }
        expected.extend(neighbours.keys().cloned());
        for missing in expected.iter() {
            neighbours
                .entry(missing.clone())
                .or_insert_with(|| (CheckStatus::Critical, "the task has no such container now".to_owned()));
        }
        let neighbours =
            neighbours.into_iter().map(|(name, (status, output))| Neighbour { name, status, output }).collect();
        Observed { is_ending: self.desired_status == "STOPPED", neighbours }
    }
}
