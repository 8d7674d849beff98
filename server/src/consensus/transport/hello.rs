//! How two servers present themselves to each other, and when one refuses the other.

use std::cmp::Ordering;

use catalog::{Membership, Mesh, ServerId};
use serde::{Deserialize, Serialize};

use crate::consensus::bootstrap::{Candidate, Commitment};

/// The version of what is spoken on the Raft port.
pub(crate) const PROTOCOL_VERSION: u16 = 1;

/// Is what a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Purpose {
    /// To get to know each other, and to ask for a pledge.
    Meet,
    /// Raft messages, one way.
    Messages,
    /// One snapshot.
    Snapshot,
    /// Writes to be proposed by the leader, and their outcomes.
    Forward,
    /// One question to the leader, and its answer.
    Ask,
    /// One question about what the server knows for itself, and its answer.
    Gather,
}

/// Is what a server tells others about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) candidate: Candidate,
    /// Where agents reach it.
    pub(crate) agent_address: String,
    pub(crate) commitment: Commitment,
    /// Where other servers are reached that it has met.
    #[serde(default)]
    pub(crate) known: Vec<String>,
    /// Its number in Raft; none before it is a member.
    #[serde(default)]
    pub(crate) raft_id: Option<u64>,
    /// How often the cluster was recovered by force, as far as it knows.
    #[serde(default)]
    pub(crate) epoch: u64,
}

/// Is the first frame of whoever dials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    pub(crate) purpose: Purpose,
    pub(crate) about: About,
}

/// Is the answer to a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HelloAnswer {
    /// The connection may be used for its purpose.
    Welcome(Box<About>),
    /// The connection is closed.
    Refused(Refusal),
}

/// Says why one server does not talk to another. The texts are written to be read on either side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Refusal {
    /// They speak different versions.
    #[error(
        "server `{server}` speaks version {ours} on the Raft port, not {theirs}: run servers of neighbouring releases"
    )]
    Version { server: ServerId, ours: u16, theirs: u16 },
    /// The name in the greeting is not that of the certificate.
    #[error("the certificate is that of server `{certified}`, the greeting that of server `{claimed}`")]
    WrongName { certified: ServerId, claimed: ServerId },
    /// Somebody else has the same name.
    #[error("two servers are started as `{server}`: give each server a --node of its own")]
    DuplicateName { server: ServerId },
    /// They belong to different clusters.
    #[error(
        "server `{server}` belongs to cluster {ours}, not to {theirs}: correct --retry-join, or one server's data directory"
    )]
    OtherCluster { server: ServerId, ours: String, theirs: String },
    /// The name is a member's, the data directory is not.
    #[error(
        "server `{server}` is a member with another disk: its data directory was lost or replaced; put it back, or start the new server under another --node and take the lost one out with `weft operator raft remove-peer {server}`"
    )]
    OtherDisk { server: ServerId },
    /// The server was taken out of the cluster.
    #[error(
        "server `{server}` was taken out of the cluster: to let its machine join again, start it with an empty data directory"
    )]
    Removed { server: ServerId },
    /// The cluster was rebuilt from another server.
    #[error(
        "server `{server}` belongs to the cluster as it was before it was recovered from another server: to let its machine join again, start it with an empty data directory"
    )]
    OldEpoch { server: ServerId },
    /// They would not make the same cluster.
    #[error("server `{server}` has {setting} = {ours}, the other one {theirs}: start both with the same")]
    Settings { server: ServerId, setting: String, ours: String, theirs: String },
    /// The server does not take part in Raft yet.
    #[error("server `{server}` has not joined the cluster yet")]
    NotReady { server: ServerId },
}

impl Refusal {
    /// Returns the label under which the refusal is counted; none for one that time heals.
    pub(crate) fn label(&self) -> Option<&'static str> {
        match self {
            Self::Version { .. } => Some("version"),
            Self::WrongName { .. } => Some("wrong_name"),
            Self::DuplicateName { .. } => Some("duplicate_name"),
            Self::OtherCluster { .. } => Some("other_cluster"),
            Self::OtherDisk { .. } => Some("other_disk"),
            Self::Removed { .. } => Some("removed"),
            Self::OldEpoch { .. } => Some("old_epoch"),
            Self::Settings { .. } => Some("other_settings"),
            Self::NotReady { .. } => None,
        }
    }

    /// Reports whether the server that is refused can never be of use under its name and disk.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::OtherDisk { .. } | Self::Removed { .. } | Self::OldEpoch { .. })
    }
}

/// Is what one server makes of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They may talk.
    Welcome,
    /// The other one is this process itself.
    ThisServer,
    /// The other one is refused.
    Refuse(Refusal),
    /// The other one is right, and would refuse this server.
    OwnFault(Refusal),
}

/// Judges a server that proved to be `certified` and presents itself as `theirs`; `known` is the list of servers as this one
/// has it, which may be older than theirs.
pub(crate) fn judge(own: &About, theirs: &About, certified: &ServerId, known: &Membership) -> Verdict {
    let (ours, candidate) = (&own.candidate, &theirs.candidate);
    if candidate.server != *certified {
        let claimed = candidate.server.clone();
        return Verdict::Refuse(Refusal::WrongName { certified: certified.clone(), claimed });
    }
    if candidate.server == ours.server && candidate.disk_id == ours.disk_id {
        return Verdict::ThisServer;
    }
    if let (Some(mesh), Some(other)) = (own.commitment.mesh(), theirs.commitment.mesh())
        && mesh.cluster_id != other.cluster_id
    {
        return match (own.commitment.membership(), theirs.commitment.membership()) {
            (None, None) => settings(ours, candidate),
            (Some(_), _) => Verdict::Refuse(other_cluster(&ours.server, mesh, other)),
            (None, Some(_)) => Verdict::OwnFault(other_cluster(&candidate.server, other, mesh)),
        };
    }
    match (own.commitment.membership(), theirs.commitment.membership()) {
        (Some(_), Some(_)) => fellow(own, theirs, known),
        (Some(mesh), None) => applicant(mesh, candidate, known),
        (None, Some(_)) if candidate.server == ours.server => {
            Verdict::OwnFault(Refusal::OtherDisk { server: ours.server.clone() })
        }
        (None, Some(_)) => Verdict::Welcome,
        (None, None) if candidate.server == ours.server => {
            Verdict::Refuse(Refusal::DuplicateName { server: ours.server.clone() })
        }
        (None, None) => settings(ours, candidate),
    }
}

fn other_cluster(server: &ServerId, ours: &Mesh, theirs: &Mesh) -> Refusal {
    let (ours, theirs) = (ours.cluster_id.clone(), theirs.cluster_id.clone());
    Refusal::OtherCluster { server: server.clone(), ours, theirs }
}

/// Judges by the settings with which two servers would make a cluster.
fn settings(ours: &Candidate, theirs: &Candidate) -> Verdict {
    match ours.settings.difference(&theirs.settings) {
        Some((setting, ours_is, theirs_is)) => Verdict::Refuse(Refusal::Settings {
            server: ours.server.clone(),
            setting: setting.to_owned(),
            ours: ours_is,
            theirs: theirs_is,
        }),
        None => Verdict::Welcome,
    }
}

/// Judges a server that became a member of this cluster at some time. It may have been taken out since, and it may have come
/// later than anything that this server has heard of.
fn fellow(own: &About, theirs: &About, known: &Membership) -> Verdict {
    let candidate = &theirs.candidate;
    match own.epoch.cmp(&theirs.epoch) {
        Ordering::Greater => return Verdict::Refuse(Refusal::OldEpoch { server: candidate.server.clone() }),
        Ordering::Less => return Verdict::OwnFault(Refusal::OldEpoch { server: own.candidate.server.clone() }),
        Ordering::Equal => {}
    }
    let removed = || Verdict::Refuse(Refusal::Removed { server: candidate.server.clone() });
    if known.is_retired(&candidate.disk_id) {
        return removed();
    }
    match (known.member_named(&candidate.server), theirs.raft_id) {
        (Some(member), _) if member.disk_id == candidate.disk_id => Verdict::Welcome,
        (Some(member), Some(raft_id)) if raft_id > member.raft_id => Verdict::Welcome,
        (Some(_), _) => Verdict::Refuse(Refusal::OtherDisk { server: candidate.server.clone() }),
        // Numbers are given in order: whoever has one that was given already, and is not on the list, was on it once.
        (None, Some(raft_id)) if raft_id < known.next_raft_id => removed(),
        (None, _) => Verdict::Welcome,
    }
}

/// Judges a server that is no member, and may ask to become one.
fn applicant(mesh: &Mesh, candidate: &Candidate, known: &Membership) -> Verdict {
    if known.is_retired(&candidate.disk_id) {
        return Verdict::Refuse(Refusal::Removed { server: candidate.server.clone() });
    }
    // Until the log says who the servers are, those are that founded the cluster.
    let disk = known.member_named(&candidate.server).map(|member| &member.disk_id);
    let founder = || mesh.servers.iter().find(|server| server.id == candidate.server).map(|server| &server.disk_id);
    match if known.members.is_empty() { founder() } else { disk } {
        Some(disk) if *disk != candidate.disk_id => {
            Verdict::Refuse(Refusal::OtherDisk { server: candidate.server.clone() })
        }
        _ => Verdict::Welcome,
    }
}

#[cfg(test)]
mod tests {
    use catalog::{PathTemplate, ServerMember};

    use super::*;
    use crate::consensus::bootstrap::Settings;

    fn about(server: &str, disk_id: &str, commitment: Commitment) -> About {
        let settings = Settings {
            bootstrap_expect: 2,
            datacenter: "dc1".to_owned(),
            trust_domain: None,
            path_template: PathTemplate::default(),
        };
        let candidate = Candidate {
            server: server.parse().unwrap(),
            disk_id: disk_id.to_owned(),
            raft_address: "127.0.0.1:1".to_owned(),
            reads: 2,
            settings,
        };
        About {
            candidate,
            agent_address: "127.0.0.1:2".to_owned(),
            commitment,
            known: Vec::new(),
            raft_id: None,
            epoch: 0,
        }
    }

    fn mesh(cluster_id: &str, servers: &[(&str, &str)]) -> Mesh {
        let servers = (1..).zip(servers).map(|(raft_id, (id, disk_id))| ServerMember {
            id: id.parse().unwrap(),
            raft_id,
            disk_id: (*disk_id).to_owned(),
            raft_address: "127.0.0.1:1".to_owned(),
            reads: 2,
        });
        Mesh {
            cluster_id: cluster_id.to_owned(),
            datacenter: "dc1".to_owned(),
            trust_domain: "one.weft".parse().unwrap(),
            template: PathTemplate::default(),
            servers: servers.collect(),
        }
    }

    /// The list of servers of the cluster `one`: a, b and c, of which c was taken out.
    fn known() -> Membership {
        let mut known = Membership::founded_by(&mesh("one", &[("a", "da"), ("b", "db"), ("c", "dc")]));
        known.members.remove(&3);
        let retired = catalog::RetiredMember {
            id: "c".parse().unwrap(),
            disk_id: "dc".to_owned(),
            retired: catalog::CatalogIndex(9),
        };
        known.retired.insert(3, std::sync::Arc::new(retired));
        known
    }

    #[track_caller]
    fn check(own: &About, theirs: &About, want: impl Fn(&Verdict) -> bool) {
        let verdict = judge(own, theirs, &theirs.candidate.server, &known());
        assert!(want(&verdict), "{verdict:?}");
    }

    fn member(server: &str, disk_id: &str, raft_id: u64) -> About {
        let cluster = Commitment::Member(mesh("one", &[("a", "da"), ("b", "db"), ("c", "dc")]));
        About { raft_id: Some(raft_id), ..about(server, disk_id, cluster) }
    }

    #[test]
    fn members_of_one_cluster_welcome_each_other() {
        let (a, b) = (member("a", "da", 1), member("b", "db", 2));
        check(&a, &b, |verdict| *verdict == Verdict::Welcome);
        let late = about("b", "db", Commitment::Pledged(mesh("one", &[("a", "da"), ("b", "db"), ("c", "dc")])));
        check(&a, &late, |verdict| *verdict == Verdict::Welcome);
        check(&late, &a, |verdict| *verdict == Verdict::Welcome);
    }

    #[test]
    fn r2_the_name_must_be_the_certificates() {
        let (a, b) = (about("a", "da", Commitment::None), about("b", "db", Commitment::None));
        let verdict = judge(&a, &b, &"c".parse().unwrap(), &known());
        assert!(matches!(verdict, Verdict::Refuse(Refusal::WrongName { .. })), "{verdict:?}");
    }

    #[test]
    fn fault_19_a_lost_disk_is_refused_under_its_old_name_and_told_what_to_do() {
        let lost = about("b", "new", Commitment::None);
        let refusal = Refusal::OtherDisk { server: "b".parse().unwrap() };
        check(&member("a", "da", 1), &lost, |verdict| *verdict == Verdict::Refuse(refusal.clone()));
        assert!(refusal.is_final());
        let text = refusal.to_string();
        assert!(text.starts_with("server `b` is a member with another disk: its data directory was lost"), "{text}");
        assert!(text.contains("start the new server under another --node"), "{text}");
        assert!(text.ends_with("`weft operator raft remove-peer b`"), "{text}");
    }

    #[test]
    fn r4_another_cluster_is_refused() {
        let a = member("a", "da", 1);
        let other = about("b", "db", Commitment::Member(mesh("two", &[("b", "db")])));
        let pledged = about("b", "db", Commitment::Pledged(mesh("two", &[("b", "db")])));
        check(&a, &other, |v| matches!(v, Verdict::Refuse(Refusal::OtherCluster { .. })));
        check(&other, &a, |v| matches!(v, Verdict::Refuse(Refusal::OtherCluster { .. })));
        check(&a, &pledged, |v| matches!(v, Verdict::Refuse(Refusal::OtherCluster { .. })));
        check(&pledged, &a, |v| matches!(v, Verdict::OwnFault(Refusal::OtherCluster { .. })));
    }

    #[test]
    fn r4_a_removed_member_is_refused_for_good_and_a_newer_one_under_its_name_is_not() {
        let a = member("a", "da", 1);
        let removed = Refusal::Removed { server: "c".parse().unwrap() };
        assert!(removed.is_final());
        check(&a, &member("c", "dc", 3), |verdict| *verdict == Verdict::Refuse(removed.clone()));
        check(&a, &about("c", "dc", Commitment::None), |verdict| *verdict == Verdict::Refuse(removed.clone()));
        check(&a, &member("c", "forgotten", 3), |verdict| *verdict == Verdict::Refuse(removed.clone()));
        // The log of `a` may not hold yet that these were added.
        check(&a, &member("c", "dc2", 4), |verdict| *verdict == Verdict::Welcome);
        check(&a, &member("b", "db2", 5), |verdict| *verdict == Verdict::Welcome);
        check(&a, &member("b", "older", 1), |v| matches!(v, Verdict::Refuse(Refusal::OtherDisk { .. })));
    }

    #[test]
    fn r9_a_stranger_may_ask_to_join() {
        let (a, stranger) = (member("a", "da", 1), about("d", "dd", Commitment::None));
        check(&a, &stranger, |verdict| *verdict == Verdict::Welcome);
        check(&stranger, &a, |verdict| *verdict == Verdict::Welcome);
    }

    #[test]
    fn fault_11_members_from_before_a_recovery_are_refused_for_good() {
        let (old, recovered) = (member("a", "da", 1), About { epoch: 1, ..member("b", "db", 2) });
        let refusal = Refusal::OldEpoch { server: "a".parse().unwrap() };
        assert!(refusal.is_final());
        check(&recovered, &old, |verdict| *verdict == Verdict::Refuse(refusal.clone()));
        check(&old, &recovered, |verdict| *verdict == Verdict::OwnFault(refusal.clone()));
    }

    #[test]
    fn servers_with_different_settings_refuse_each_other_naming_both() {
        let (a, mut b) = (about("a", "da", Commitment::None), about("b", "db", Commitment::None));
        b.candidate.settings.bootstrap_expect = 3;
        check(&a, &b, |verdict| {
            let Verdict::Refuse(refusal) = verdict else { return false };
            refusal.to_string() == "server `a` has bootstrap_expect = 2, the other one 3: start both with the same"
        });
        b.candidate.settings = a.candidate.settings.clone();
        b.candidate.settings.datacenter = "dc2".to_owned();
        check(&a, &b, |v| matches!(v, Verdict::Refuse(Refusal::Settings { setting, .. }) if setting == "datacenter"));
    }

    #[test]
    fn fault_43_a_second_server_of_the_same_name_is_refused_and_oneself_is_recognised() {
        let (a, twin) = (about("a", "da", Commitment::None), about("a", "other", Commitment::None));
        check(&a, &twin, |v| matches!(v, Verdict::Refuse(Refusal::DuplicateName { .. })));
        check(&a, &a.clone(), |v| *v == Verdict::ThisServer);
    }
}
