//! What was seen of Cloud Map at one moment.

use std::collections::{BTreeMap, BTreeSet};

use catalog::ConnectorProblem;

/// Says how healthy Cloud Map takes an instance for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It is handed out.
    Healthy,
    /// It is not.
    Unhealthy,
    /// Nobody looks.
    Unknown,
}

/// Is one instance, as it is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudInstance {
    /// Its id within the service.
    pub id: String,
    /// Its attributes, those of Cloud Map's own among them.
    pub attributes: BTreeMap<String, String>,
    /// How healthy it is.
    pub health: Health,
}

/// Is one service with its instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudService {
    /// Its id, unique in the region.
    pub id: String,
    /// Its name within the namespace.
    pub name: String,
    /// The namespace's name.
    pub namespace: String,
    /// Whether health is told by whoever registers.
    pub has_custom_health: bool,
    /// Its tags; none where nobody asked for them.
    pub tags: Option<BTreeMap<String, String>>,
    /// Its instances; none where they could not be listed to the end.
    pub instances: Option<Vec<CloudInstance>>,
}

/// Is what ECS says of a task behind an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskWord {
    /// It may be called.
    Serves,
    /// It is called no more, and why.
    Ended(String),
    /// ECS has said nothing of it yet: how it is is not known.
    Unknown,
}

/// Is all that was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CloudView {
    /// The ids of the namespaces by their names, of those that alone are called so.
    pub namespaces: BTreeMap<String, String>,
    /// The names that several namespaces have: those of private DNS may, each in a network of its own.
    pub shared_names: BTreeSet<String>,
    /// The services that were seen.
    pub services: Vec<CloudService>,
    /// The namespaces whose services could not be listed to the end.
    pub unseen: BTreeSet<String>,
    /// Whether the namespaces were listed to the end.
    pub is_complete: bool,
    /// What ECS says of the tasks behind instances, by their ids; nothing of those that nobody asks it about.
    pub tasks: BTreeMap<String, TaskWord>,
    /// What kept anything from being seen.
    pub problems: Vec<ConnectorProblem>,
}
