//! Simulated agents: the sync machine, what it keeps on disk, and what should be registered and followed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agent::renewal::Leaves;
use agent::sync::{self, Desired, Known, Start, Sync, View};
use catalog::{
    AgentId, AgentRecord, CatalogIndex, Check, CheckKey, CheckStatus, Incarnation, Instance, NodeName, Owner,
    RequestId, ServiceKey, Topic,
};
use wire::agent_protocol::{GroupEpoch, Subject};

use super::checks::Checked;
use super::hubs::agent_address;
use super::leaves::SimLeaf;
use super::mesh::Mesh;
use super::operator::{SERVICES, instance, plain_node, service};
use super::streams::StreamEvent;

/// What an agent has on its disk.
#[derive(Debug, Clone)]
struct Kept {
    view: View,
    restraint: View,
    known: Option<Known>,
    servers: Vec<String>,
    group: Option<GroupEpoch>,
    leaves: BTreeMap<Subject, SimLeaf>,
}

/// One agent, running or not.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(super) node: NodeName,
    /// Its live record, as far as anybody has told.
    pub(super) record: Option<AgentId>,
    /// Whether its record is about to end.
    pub(super) is_replaced: bool,
    /// Counts starts and ends.
    pub(super) life: u64,
    pub(super) process: Option<Sync>,
    kept: Option<Kept>,
    pub(super) is_changed: bool,
    pub(super) link: Option<u64>,
    pub(super) paused_until: Duration,
    pub(super) wakes_at: Option<Duration>,
    pub(super) desired: Desired,
    pub(super) needs: BTreeSet<Topic>,
    version: u64,
    pub(super) incarnation: Option<Incarnation>,
    /// Writes without an answer, and the connection that each went over.
    pub(super) pending: BTreeMap<u64, (u64, RequestId)>,
    /// What the rest of the agent goes by.
    pub(super) published: View,
    /// What restrains it.
    pub(super) restraint: View,
    /// The index that what decides calls is of, as the agent says.
    pub(super) settled_at: Option<CatalogIndex>,
    pub(super) is_leaving: bool,
    /// Its leaves, where certificates are rotated.
    pub(super) leaves: Option<Leaves<SimLeaf>>,
    /// The leaf that it has asked for, and the connection that it asked over.
    pub(super) asked_leaf: Option<(u64, u64, Subject)>,
    /// How many roots are distrusted, as far as it enforces it.
    pub(super) distrusted: usize,
    /// The roots by which it recognises others.
    pub(super) roots_in_force: BTreeSet<String>,
}

pub(super) fn node_name(id: u64) -> NodeName {
    format!("vm-{id}").parse().expect("the name is a node's")
}

/// Returns the services that an agent stands before.
pub(super) fn services_of(id: u64) -> Vec<ServiceKey> {
    let names: &[&str] = match id % 3 {
        0 => &["db", "web"],
        1 => &["web"],
        _ => &["api"],
    };
    names.iter().map(|name| service(name)).collect()
}

impl Agent {
    pub(super) fn new(id: u64) -> Agent {
        let node = node_name(id);
        let own = services_of(id)
            .into_iter()
            .flat_map(|service| [Topic::Config(service.clone()), Topic::Intentions(service)]);
        Agent {
            desired: Desired {
                node: plain_node(&node, Owner::External),
                instances: BTreeMap::new(),
                checks: BTreeMap::new(),
            },
            node,
            record: None,
            is_replaced: false,
            life: 0,
            process: None,
            kept: None,
            is_changed: false,
            link: None,
            paused_until: Duration::ZERO,
            wakes_at: None,
            needs: own.chain([Topic::Mesh, Topic::Roots, Topic::Revocations]).collect(),
            version: 0,
            incarnation: None,
            pending: BTreeMap::new(),
            published: View::new(),
            restraint: View::new(),
            settled_at: None,
            is_leaving: false,
            leaves: None,
            asked_leaf: None,
            distrusted: 0,
            roots_in_force: BTreeSet::new(),
        }
    }

    fn check(&self, id: &str, of: Option<&Instance>, status: CheckStatus) -> Check {
        Check {
            key: CheckKey {
                node: self.node.clone(),
                namespace: Default::default(),
                id: id.parse().expect("it is a check's id"),
            },
            name: id.to_owned(),
            status,
            notes: String::new(),
            output: String::new(),
            instance: of.map(|instance| instance.key.id.clone()),
            kind: "ttl".to_owned(),
            created: Default::default(),
            modified: Default::default(),
        }
    }

    fn put(&mut self, instance: Instance) {
        let check = self.check(&format!("alive-{}", instance.key.id), Some(&instance), CheckStatus::Passing);
        self.desired.checks.insert(check.key.clone(), check);
        self.desired.instances.insert(instance.key.clone(), instance);
    }

    fn take(&mut self, instance: &Instance) {
        self.desired.instances.remove(&instance.key);
        self.desired.checks.retain(|_, check| check.instance.as_ref() != Some(&instance.key.id));
    }
}

impl Mesh {
    pub(super) fn agent(&mut self, id: u64) -> &mut Agent {
        self.streams.agents.get_mut(&id).expect("the agent exists")
    }

    /// An agent has a new record: whatever ran under the old one ends, and it starts with nothing.
    pub(super) fn agent_is_enrolled(&mut self, record: AgentRecord) {
        let Some(id) = self.streams.agents.iter().find(|(_, agent)| agent.node == record.node).map(|(id, _)| *id)
        else {
            return;
        };
        self.agent_ends(id);
        let after = self.random.millis(1..500);
        let agent = self.agent(id);
        agent.desired.node.owner = Owner::Agent(record.id.clone());
        agent.record = Some(record.id);
        agent.is_replaced = false;
        agent.kept = None;
        let life = agent.life;
        self.plan_stream(after, StreamEvent::AgentStarts { agent: id, life });
    }

    /// Ends an agent's process, if it runs, with everything in its memory.
    fn agent_ends(&mut self, id: u64) {
        let agent = self.agent(id);
        agent.life += 1;
        agent.process = None;
        agent.pending.clear();
        (agent.leaves, agent.asked_leaf) = (None, None);
        (agent.is_changed, agent.is_leaving) = (false, false);
        (agent.wakes_at, agent.incarnation, agent.paused_until) = (None, None, Duration::ZERO);
        (agent.published, agent.restraint, agent.settled_at) = (View::new(), View::new(), None);
        if let Some(link) = agent.link.take() {
            let is_loud = self.random.happens(50);
            self.cut(link, is_loud);
        }
    }

    /// Kills an agent; it comes back after a while, with what it kept on disk or without.
    pub(super) fn agent_crashes(&mut self, id: u64, keeps: bool) {
        if self.agent(id).process.is_none() {
            return;
        }
        self.summary.streams.agent_crashes += 1;
        self.trace.note(self.schedule.now(), "agent-crash", &[id, u64::from(keeps)]);
        self.agent_ends(id);
        let after = self.random.millis(10..3000);
        let agent = self.agent(id);
        if !keeps {
            agent.kept = None;
        }
        let life = agent.life;
        self.plan_stream(after, StreamEvent::AgentStarts { agent: id, life });
    }

    /// Ends an agent for as long as is said; it comes back with what it kept.
    pub(super) fn agent_is_away(&mut self, id: u64, away: Duration) {
        self.agent_ends(id);
        let life = self.agent(id).life;
        self.plan_stream(away, StreamEvent::AgentStarts { agent: id, life });
    }

    pub(super) fn agent_starts(&mut self, id: u64, life: u64) -> Checked {
        let seed = self.random.next();
        let servers = self.servers.keys().map(|id| agent_address(*id)).collect();
        let agent = self.agent(id);
        if agent.life != life || agent.process.is_some() {
            return Ok(());
        }
        let leaves = agent.kept.as_ref().map(|kept| kept.leaves.clone()).unwrap_or_default();
        let start = match agent.kept.clone() {
            Some(Kept { view, restraint, known, servers: learned, group, .. }) => {
                Start { servers, learned, group, view, restraint, known, seed }
            }
            None => Start { servers, seed, ..Start::default() },
        };
        let machine = Sync::new(start);
        (agent.published, agent.restraint) = (machine.view().clone(), machine.restraint().clone());
        // What was needed when it was saved, and is not any more, is followed anew if it is needed again.
        agent.published.retain(|topic, _| agent.needs.contains(topic));
        agent.process = Some(machine);
        let (needs, desired) = (agent.needs.clone(), agent.desired.clone());
        self.trace.note(self.schedule.now(), "agent-start", &[id, life]);
        self.leaves_start(id, leaves);
        self.agent_step(id, sync::Input::Needs(needs))?;
        self.agent_step(id, sync::Input::Desired(Box::new(desired)))
    }

    pub(super) fn agent_ticks(&mut self, id: u64, life: u64) -> Checked {
        let now = self.schedule.now();
        let agent = self.agent(id);
        if agent.life != life {
            return Ok(());
        }
        agent.wakes_at.take_if(|at| now >= *at);
        self.agent_step(id, sync::Input::Tick)
    }

    /// An agent's disk takes what is to outlive the process; the machine hears of it, and not before.
    pub(super) fn agent_saves(&mut self, id: u64, life: u64) -> Checked {
        let agent = self.agent(id);
        let Some(machine) = agent.process.as_ref().filter(|_| agent.life == life) else { return Ok(()) };
        let (view, restraint) = (machine.view().clone(), machine.restraint().clone());
        let (known, servers) = (machine.known(), machine.servers().to_vec());
        let (version, group) = (machine.known_version(), machine.group().cloned());
        let leaves = agent.leaves.as_ref().map(|leaves| leaves.held().clone()).unwrap_or_default();
        agent.kept = Some(Kept { view, restraint, known, servers, group, leaves });
        agent.is_changed = false;
        self.agent_step(id, sync::Input::Saved { version })
    }

    /// What should be registered or followed becomes something else.
    pub(super) fn agent_acts(&mut self, id: u64) -> Checked {
        if self.streams.operator.is_done {
            return Ok(());
        }
        let after = self.random.millis(50..1000);
        self.plan_stream(after, StreamEvent::AgentActs { agent: id });
        let (what, which) = (self.random.within(0..10), self.random.within(0..3));
        let names: Vec<ServiceKey> = services_of(id);
        let of = self.random.within(0..names.len() as u64) as usize;
        let name = names[of].name.to_string();
        let followed = self.random.choose(&SERVICES);
        let agent = self.agent(id);
        agent.version += 1;
        let version = agent.version.to_string();
        let mut instance = instance(&agent.node, &name, &format!("{name}-{which}"));
        instance.meta.insert("version".to_owned(), version.clone());
        let held = agent.desired.instances.contains_key(&instance.key);
        match what {
            0..4 if held => agent.take(&instance),
            0..6 => agent.put(instance),
            6 | 7 => {
                for check in agent.desired.checks.values_mut().skip(which as usize) {
                    check.status = match check.status {
                        CheckStatus::Passing => CheckStatus::Critical,
                        _ => CheckStatus::Passing,
                    };
                }
            }
            8 => drop(agent.desired.node.meta.insert("version".to_owned(), version)),
            _ => {
                let topic = match which {
                    0 if !names.contains(&service(followed)) => Topic::Config(service(followed)),
                    _ => Topic::Endpoints(service(followed)),
                };
                if agent.needs.remove(&topic) {
                    // What is followed anew later may come from a server that is behind.
                    agent.published.remove(&topic);
                } else {
                    agent.needs.insert(topic);
                }
                let needs = agent.needs.clone();
                return self.agent_step(id, sync::Input::Needs(needs));
            }
        }
        let desired = agent.desired.clone();
        self.agent_step(id, sync::Input::Desired(Box::new(desired)))
    }

    /// An agent takes its node out of the catalog before it ends.
    pub(super) fn agent_leaves(&mut self, id: u64) -> Checked {
        let agent = self.agent(id);
        agent.is_leaving = agent.process.is_some();
        self.agent_step(id, sync::Input::Leave)
    }
}
