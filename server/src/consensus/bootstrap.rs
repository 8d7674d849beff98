//! How servers that belong to no cluster make one: a machine of the form `step(input, now) -> outputs`.
//!
//! When exactly as many servers know each other as are expected, the one with the lowest name draws up the cluster, and
//! asks each of the others for a *pledge*. A server pledges to one cluster at a time, durably, before it says so. Only
//! when all have pledged does the coordinator make the cluster real, durably, and tell; the others follow when they see
//! it. Two clusters can therefore not share a server, and what cannot be completed never votes.
//!
//! A coordinator that is refused gives its cluster up, durably. Whoever had pledged to it learns that from the
//! coordinator itself, and is free again.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catalog::{Mesh, PathTemplate, ServerId, ServerMember, TrustDomain};
use serde::{Deserialize, Serialize};

/// A server that was not met for this long does not count any more: it may have been started by mistake.
const MET_AGE_MAX: Duration = Duration::from_secs(15);

/// Is what all servers of a new cluster must have been told alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) bootstrap_expect: usize,
    pub(crate) datacenter: String,
    pub(crate) trust_domain: Option<TrustDomain>,
    pub(crate) path_template: PathTemplate,
}

impl Settings {
    /// Names the first setting in which two servers differ, with the value here and there.
    pub(crate) fn difference(&self, theirs: &Self) -> Option<(&'static str, String, String)> {
        let domain = |settings: &Self| settings.trust_domain.as_ref().map_or("unset".to_owned(), ToString::to_string);
        [
            ("bootstrap_expect", self.bootstrap_expect.to_string(), theirs.bootstrap_expect.to_string()),
            ("datacenter", self.datacenter.clone(), theirs.datacenter.clone()),
            ("trust_domain", domain(self), domain(theirs)),
            ("path_template", self.path_template.to_string(), theirs.path_template.to_string()),
        ]
        .into_iter()
        .find(|(_, ours, theirs)| ours != theirs)
    }
}

/// Is a server as it presents itself to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Candidate {
    pub(crate) server: ServerId,
    /// The random mark of its data directory.
    pub(crate) disk_id: String,
    /// Where it is reached for Raft.
    pub(crate) raft_address: String,
    /// The highest version of an envelope that it reads; the first release did not say.
    #[serde(default = "first_version")]
    pub(crate) reads: u16,
    pub(crate) settings: Settings,
}

fn first_version() -> u16 {
    1
}

/// Is what a server is bound to. It is on its disk before anybody hears of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Commitment {
    /// It is free.
    #[default]
    None,
    /// It is bound to this cluster, which may or may not come to be.
    Pledged(Mesh),
    /// It is a member of this cluster.
    Member(Mesh),
}

impl Commitment {
    /// Returns the cluster that the server is bound to or a member of.
    pub(crate) fn mesh(&self) -> Option<&Mesh> {
        match self {
            Self::None => None,
            Self::Pledged(mesh) | Self::Member(mesh) => Some(mesh),
        }
    }

    /// Returns the cluster that the server is a member of.
    pub(crate) fn membership(&self) -> Option<&Mesh> {
        match self {
            Self::None | Self::Pledged(_) => None,
            Self::Member(mesh) => Some(mesh),
        }
    }
}

/// Answers a request for a pledge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PledgeAnswer {
    /// The pledge is on disk.
    Given,
    /// The server does not pledge.
    Refused {
        /// Why, naming what it is bound to instead.
        reason: String,
    },
}

/// Is one thing that happened to the machine.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "inputs are few and never kept")]
pub(crate) enum Input {
    /// Time has passed; `cluster_id` names the cluster that this server draws up now, if it does.
    Tick { cluster_id: String },
    /// Another server presented itself.
    Met {
        candidate: Candidate,
        commitment: Commitment,
        /// What this server was bound to when it asked, if the other one presented itself in answer to that.
        asked_with: Option<Commitment>,
    },
    /// A coordinator asks for this server's pledge.
    PledgeAsked { from: ServerId, mesh: Mesh },
    /// The members of a cluster that exists have taken this server in.
    Admitted { mesh: Mesh },
    /// A server answered to this one's request for a pledge to the cluster of that id.
    PledgeAnswered { from: ServerId, cluster_id: String, answer: PledgeAnswer },
}

/// Is one thing that the shell must carry out, in the order given: what follows `Persist` rests on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Make this durable.
    Persist(Commitment),
    /// Ask this server for its pledge, on the connection on which it presented itself.
    AskPledge { to: ServerId, mesh: Mesh },
    /// Answer the request for a pledge.
    Answer(PledgeAnswer),
    /// The cluster is real: start Raft.
    Activate(Mesh),
    /// This coordinator gave a cluster up because a server refused.
    GaveUp { refused_by: ServerId, reason: String },
    /// Nobody can tell which servers should make the cluster.
    TooMany { servers: BTreeSet<ServerId> },
}

/// Is another server as it was met last.
#[derive(Debug, Clone)]
struct Met {
    candidate: Candidate,
    is_free: bool,
    at: Duration,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    own: Candidate,
    commitment: Commitment,
    met: BTreeMap<ServerId, Met>,
    /// Who has pledged to the cluster that this server coordinates.
    pledges: BTreeSet<ServerId>,
    /// The crowd that was complained about last.
    too_many: BTreeSet<ServerId>,
}

impl Bootstrap {
    /// Returns the machine of a server that is bound to `commitment` since an earlier start.
    pub(crate) fn new(own: Candidate, commitment: Commitment) -> Self {
        Self { own, commitment, met: BTreeMap::new(), pledges: BTreeSet::new(), too_many: BTreeSet::new() }
    }

    /// Returns this server as it presents itself.
    pub(crate) fn own(&self) -> &Candidate {
        &self.own
    }

    /// Returns what this server is bound to.
    pub(crate) fn commitment(&self) -> &Commitment {
        &self.commitment
    }

    /// Returns the servers that were complained about last as too many.
    #[cfg(test)]
    pub(crate) fn too_many(&self) -> &BTreeSet<ServerId> {
        &self.too_many
    }

    /// Returns where the servers that were met are reached.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.met.values().map(|met| met.candidate.raft_address.as_str())
    }

    /// Reacts to one input. `now` is the time since any fixed start and never goes back.
    pub(crate) fn step(&mut self, input: Input, now: Duration, out: &mut dyn FnMut(Output)) {
        if self.commitment.membership().is_some() {
            if let Input::PledgeAsked { mesh, .. } = input {
                out(Output::Answer(self.answer_as_bound(&mesh)));
            }
            return;
        }
        match input {
            Input::Tick { cluster_id } => self.coordinate(cluster_id, now, out),
            Input::Met { candidate, commitment, asked_with } => {
                self.meet(candidate, &commitment, asked_with.as_ref(), now, out);
            }
            Input::PledgeAsked { from, mesh } => self.pledge(&from, mesh, out),
            // Whoever is pledged may be counted on by others already.
            Input::Admitted { mesh } if self.commitment == Commitment::None => self.activate(mesh, out),
            Input::Admitted { .. } => {}
            Input::PledgeAnswered { from, cluster_id, answer } => self.count(from, &cluster_id, answer, out),
        }
    }

    /// Draws up a cluster if this server is the one to do so.
    fn coordinate(&mut self, cluster_id: String, now: Duration, out: &mut dyn FnMut(Output)) {
        self.met.retain(|_, met| now.saturating_sub(met.at) <= MET_AGE_MAX);
        if self.commitment != Commitment::None {
            return;
        }
        let expected = self.own.settings.bootstrap_expect;
        // It makes no cluster: it waits to be taken into one.
        if expected == 0 {
            return;
        }
        // Whoever waits for nobody else does not look around either.
        let others: Vec<&Met> = if expected == 1 { Vec::new() } else { self.met.values().collect() };
        if others.len() + 1 > expected {
            let servers: BTreeSet<ServerId> = self.met.keys().chain([&self.own.server]).cloned().collect();
            if servers != self.too_many {
                self.too_many.clone_from(&servers);
                out(Output::TooMany { servers });
            }
            return;
        }
        let is_lowest = others.iter().all(|met| self.own.server < met.candidate.server);
        if others.len() + 1 < expected || !is_lowest || others.iter().any(|met| !met.is_free) {
            return;
        }
        let members = std::iter::once(&self.own).chain(others.into_iter().map(|met| &met.candidate));
        let mesh = draw_up(cluster_id, &self.own.settings, members);
        self.pledges = BTreeSet::from([self.own.server.clone()]);
        if expected == 1 {
            return self.activate(mesh, out);
        }
        self.bind(Commitment::Pledged(mesh), out);
    }

    fn meet(
        &mut self,
        candidate: Candidate,
        theirs: &Commitment,
        asked_with: Option<&Commitment>,
        now: Duration,
        out: &mut dyn FnMut(Output),
    ) {
        if candidate.server == self.own.server || self.own.settings.difference(&candidate.settings).is_some() {
            self.met.remove(&candidate.server);
            return;
        }
        let from = candidate.server.clone();
        let disk_id = candidate.disk_id.clone();
        self.met.insert(from.clone(), Met { candidate, is_free: *theirs == Commitment::None, at: now });
        let Commitment::Pledged(mesh) = &self.commitment else { return };
        if theirs.membership() == Some(mesh) {
            let mesh = mesh.clone();
            return self.activate(mesh, out);
        }
        if self.is_coordinator_of(mesh) {
            if asked_with.is_some() && names(mesh, &from) && !self.pledges.contains(&from) {
                out(Output::AskPledge { to: from, mesh: mesh.clone() });
            }
            return;
        }
        // The coordinator was bound to the cluster before anybody else. What it says now, asked by somebody who is bound,
        // can only mean that it gave the cluster up. An answer that crossed the pledge would prove nothing.
        let is_coordinator = coordinator(mesh).is_some_and(|member| member.id == from && member.disk_id == disk_id);
        if is_coordinator && theirs.mesh() != Some(mesh) && asked_with == Some(&self.commitment) {
            self.bind(Commitment::None, out);
        }
    }

    fn pledge(&mut self, from: &ServerId, mesh: Mesh, out: &mut dyn FnMut(Output)) {
        if let Some(reason) = self.objection(from, &mesh) {
            out(Output::Answer(PledgeAnswer::Refused { reason }));
            return;
        }
        if self.commitment == Commitment::None {
            self.bind(Commitment::Pledged(mesh.clone()), out);
        }
        out(Output::Answer(self.answer_as_bound(&mesh)));
    }

    /// Says why this server would not be a member of `mesh`, whatever it is bound to.
    fn objection(&self, from: &ServerId, mesh: &Mesh) -> Option<String> {
        let own = &self.own;
        if coordinator(mesh).is_none_or(|member| member.id != *from) {
            return Some(format!("server `{from}` does not coordinate the cluster that it proposes"));
        }
        if !mesh.servers.iter().any(|member| member.id == own.server && member.disk_id == own.disk_id) {
            return Some(format!("the cluster has another data directory for server `{}`", own.server));
        }
        let fits = mesh.servers.len() == own.settings.bootstrap_expect
            && mesh.datacenter == own.settings.datacenter
            && mesh.template == own.settings.path_template
            && own.settings.trust_domain.as_ref().is_none_or(|domain| *domain == mesh.trust_domain);
        (!fits).then(|| format!("the cluster does not fit the settings of server `{}`", own.server))
    }

    /// Answers a request for a pledge by what this server is bound to.
    fn answer_as_bound(&self, mesh: &Mesh) -> PledgeAnswer {
        match self.commitment.mesh() {
            Some(bound) if bound == mesh => PledgeAnswer::Given,
            bound => {
                let to = bound.map_or("nothing".to_owned(), describe);
                PledgeAnswer::Refused { reason: format!("server `{}` is bound to {to}", self.own.server) }
            }
        }
    }

    fn count(&mut self, from: ServerId, cluster_id: &str, answer: PledgeAnswer, out: &mut dyn FnMut(Output)) {
        let Commitment::Pledged(mesh) = &self.commitment else { return };
        if mesh.cluster_id != cluster_id || !self.is_coordinator_of(mesh) || !names(mesh, &from) {
            return;
        }
        match answer {
            PledgeAnswer::Given => {
                self.pledges.extend([from, self.own.server.clone()]);
                if mesh.servers.iter().all(|member| self.pledges.contains(&member.id)) {
                    let mesh = mesh.clone();
                    self.activate(mesh, out);
                }
            }
            PledgeAnswer::Refused { reason } => {
                self.pledges.clear();
                // What it is bound to will show when it is met again.
                self.met.remove(&from);
                self.bind(Commitment::None, out);
                out(Output::GaveUp { refused_by: from, reason });
            }
        }
    }

    fn is_coordinator_of(&self, mesh: &Mesh) -> bool {
        coordinator(mesh).is_some_and(|member| member.id == self.own.server)
    }

    fn bind(&mut self, commitment: Commitment, out: &mut dyn FnMut(Output)) {
        self.commitment = commitment.clone();
        out(Output::Persist(commitment));
    }

    fn activate(&mut self, mesh: Mesh, out: &mut dyn FnMut(Output)) {
        self.bind(Commitment::Member(mesh.clone()), out);
        out(Output::Activate(mesh));
    }
}

/// Describes a cluster by its id and its servers.
pub(crate) fn describe(mesh: &Mesh) -> String {
    let servers: Vec<&str> = mesh.servers.iter().map(|member| member.id.as_str()).collect();
    format!("cluster {} of the servers {}", mesh.cluster_id, servers.join(", "))
}

/// Returns who draws up and activates a cluster: the first of its servers by name.
fn coordinator(mesh: &Mesh) -> Option<&ServerMember> {
    mesh.servers.iter().min_by(|a, b| a.id.cmp(&b.id))
}

fn names(mesh: &Mesh, server: &ServerId) -> bool {
    mesh.servers.iter().any(|member| member.id == *server)
}

/// Numbers the members by the order of their names and fixes the mesh's facts.
fn draw_up<'a>(cluster_id: String, settings: &Settings, members: impl Iterator<Item = &'a Candidate>) -> Mesh {
    let members: BTreeMap<&ServerId, &Candidate> = members.map(|member| (&member.server, member)).collect();
    let servers = (1..).zip(members.into_values()).map(|(raft_id, member)| ServerMember {
        id: member.server.clone(),
        raft_id,
        disk_id: member.disk_id.clone(),
        raft_address: member.raft_address.clone(),
        reads: member.reads,
    });
    let trust_domain = settings.trust_domain.clone().unwrap_or_else(|| {
        format!("{cluster_id}.weft")
            .parse()
            .expect("a cluster id has the letters, digits and hyphens of a trust domain")
    });
    Mesh {
        datacenter: settings.datacenter.clone(),
        trust_domain,
        template: settings.path_template.clone(),
        servers: servers.collect(),
        cluster_id,
    }
}
