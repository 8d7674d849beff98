//! Where this process runs, by what its platform puts into every container's environment.

use catalog::{NodeName, Platform};

/// Says where a task of ECS is told what it is.
pub const ECS_METADATA: &str = "ECS_CONTAINER_METADATA_URI_V4";

/// Says what an agent's platform tells about it without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The platform.
    pub platform: Platform,
    /// The name that the platform gave the machine or pod, where it can be a node name.
    pub node: Option<NodeName>,
    /// The failure zone, where the environment names it.
    pub zone: Option<String>,
}

/// Reads the surroundings from environment variables, given as a function so that a test can make them up.
///
/// ECS sets `ECS_CONTAINER_METADATA_URI_V4` in every container (task metadata endpoint version 4), Kubernetes sets
/// `KUBERNETES_SERVICE_HOST` in every pod. What sets neither is taken for a virtual machine. ECS comes first: an ECS task
/// may well be told of a Kubernetes API, and a pod never has the metadata endpoint of a task.
#[must_use]
pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Surroundings {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let platform = if is_set(ECS_METADATA) {
        Platform::Ecs
    } else if is_set("KUBERNETES_SERVICE_HOST") {
        Platform::Kubernetes
    } else {
        Platform::Vm
    };
    let node = variable("HOSTNAME").and_then(|name| name.parse().ok());
    Surroundings { platform, node, zone: variable("WEFT_ZONE").filter(|zone| !zone.is_empty()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variables: &[(&str, &str)], want: Platform, node: Option<&str>) {
        let found =
            detect(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()));
        assert_eq!(found.platform, want, "{variables:?}");
        assert_eq!(found.node.as_ref().map(NodeName::as_str), node, "{variables:?}");
    }

    #[test]
    fn the_platform_is_read_from_what_it_puts_into_every_container() {
        check(&[], Platform::Vm, None);
        check(&[("HOSTNAME", "db-7.example.com")], Platform::Vm, Some("db-7.example.com"));
        check(&[("HOSTNAME", "no good")], Platform::Vm, None);
        check(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("HOSTNAME", "web-0")], Platform::Kubernetes, Some("web-0"));
        check(&[("ECS_CONTAINER_METADATA_URI_V4", "http://169.254.170.2/v4/x")], Platform::Ecs, None);
        check(&[("ECS_CONTAINER_METADATA_URI_V4", "x"), ("KUBERNETES_SERVICE_HOST", "y")], Platform::Ecs, None);
        check(&[("ECS_CONTAINER_METADATA_URI_V4", "")], Platform::Vm, None);
    }
}
