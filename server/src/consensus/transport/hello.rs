//! How two servers present themselves to each other, and when one refuses the other.

use catalog::{Mesh, ServerId};
use serde::{Deserialize, Serialize};

use crate::consensus::bootstrap::{Candidate, Commitment, describe};
use crate::raft::REPLACE;

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
    #[error("server `{server}` is a member with another disk: its data directory was lost or replaced; {REPLACE}")]
    OtherDisk { server: ServerId },
    /// The cluster is made already, of other servers.
    #[error(
        "server `{server}` is not a member of {cluster}: it cannot be added to a cluster that is bootstrapped already"
    )]
    NotMember { server: ServerId, cluster: String },
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
            Self::NotMember { .. } => Some("not_member"),
            Self::Settings { .. } => Some("other_settings"),
            Self::NotReady { .. } => None,
        }
    }

    /// Reports whether the server that is refused can never be of use under its name and disk.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::OtherDisk { .. } | Self::NotMember { .. })
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

/// Judges a server that proved to be `certified` and presents itself as `theirs`.
pub(crate) fn judge(own: &About, theirs: &About, certified: &ServerId) -> Verdict {
    let (ours, candidate) = (&own.candidate, &theirs.candidate);
    if candidate.server != *certified {
        let claimed = candidate.server.clone();
        return Verdict::Refuse(Refusal::WrongName { certified: certified.clone(), claimed });
    }
    if candidate.server == ours.server && candidate.disk_id == ours.disk_id {
        return Verdict::ThisServer;
    }
    match (own.commitment.membership(), theirs.commitment.membership()) {
        (Some(mesh), _) => match outsider(mesh, candidate, &theirs.commitment, &ours.server) {
            Some(refusal) => Verdict::Refuse(refusal),
            None => Verdict::Welcome,
        },
        (None, Some(mesh)) => match outsider(mesh, ours, &own.commitment, &candidate.server) {
            Some(refusal) => Verdict::OwnFault(refusal),
            None => Verdict::Welcome,
        },
        (None, None) if candidate.server == ours.server => {
            Verdict::Refuse(Refusal::DuplicateName { server: ours.server.clone() })
        }
        (None, None) => match ours.settings.difference(&candidate.settings) {
            Some((setting, ours_is, theirs_is)) => Verdict::Refuse(Refusal::Settings {
                server: ours.server.clone(),
                setting: setting.to_owned(),
                ours: ours_is,
                theirs: theirs_is,
            }),
            None => Verdict::Welcome,
        },
    }
}

/// Says why `candidate` is none of the servers of `mesh`, in the words of its member `member`.
fn outsider(mesh: &Mesh, candidate: &Candidate, commitment: &Commitment, member: &ServerId) -> Option<Refusal> {
    if let Some(other) = commitment.mesh().filter(|other| other.cluster_id != mesh.cluster_id) {
        let (ours, theirs) = (mesh.cluster_id.clone(), other.cluster_id.clone());
        return Some(Refusal::OtherCluster { server: member.clone(), ours, theirs });
    }
    match mesh.servers.iter().find(|known| known.id == candidate.server) {
        None => Some(Refusal::NotMember { server: candidate.server.clone(), cluster: describe(mesh) }),
        Some(known) if known.disk_id != candidate.disk_id => {
            Some(Refusal::OtherDisk { server: candidate.server.clone() })
        }
        Some(_) => None,
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
        About { candidate, agent_address: "127.0.0.1:2".to_owned(), commitment, known: Vec::new() }
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

    #[track_caller]
    fn check(own: &About, theirs: &About, want: impl Fn(&Verdict) -> bool) {
        let verdict = judge(own, theirs, &theirs.candidate.server);
        assert!(want(&verdict), "{verdict:?}");
    }

    #[test]
    fn members_of_one_cluster_welcome_each_other() {
        let cluster = mesh("one", &[("a", "da"), ("b", "db")]);
        let member = Commitment::Member(cluster.clone());
        let (a, b) = (about("a", "da", member.clone()), about("b", "db", member));
        check(&a, &b, |verdict| *verdict == Verdict::Welcome);
        let late = about("b", "db", Commitment::Pledged(cluster));
        check(&a, &late, |verdict| *verdict == Verdict::Welcome);
        check(&late, &a, |verdict| *verdict == Verdict::Welcome);
    }

    #[test]
    fn r2_the_name_must_be_the_certificates() {
        let (a, b) = (about("a", "da", Commitment::None), about("b", "db", Commitment::None));
        let verdict = judge(&a, &b, &"c".parse().unwrap());
        assert!(matches!(verdict, Verdict::Refuse(Refusal::WrongName { .. })), "{verdict:?}");
    }

    #[test]
    fn a_lost_disk_is_refused_under_its_old_name_whoever_dials() {
        let member = about("a", "da", Commitment::Member(mesh("one", &[("a", "da"), ("b", "db")])));
        let lost = about("b", "new", Commitment::None);
        let refusal = Refusal::OtherDisk { server: "b".parse().unwrap() };
        check(&member, &lost, |verdict| *verdict == Verdict::Refuse(refusal.clone()));
        check(&lost, &member, |verdict| *verdict == Verdict::OwnFault(refusal.clone()));
        assert!(refusal.is_final());
        let text = refusal.to_string();
        assert!(text.starts_with("server `b` is a member with another disk: its data directory was lost"), "{text}");
        assert!(text.contains("data directory back (no older copy), or leave it stopped"), "{text}");
        assert!(!text.contains("start it under a new --node id"), "no cluster lets one in: {text}");
    }

    #[test]
    fn r4_another_cluster_and_a_stranger_are_refused() {
        let member = about("a", "da", Commitment::Member(mesh("one", &[("a", "da"), ("b", "db")])));
        let other = about("b", "db", Commitment::Member(mesh("two", &[("b", "db")])));
        let pledged = about("b", "db", Commitment::Pledged(mesh("two", &[("b", "db")])));
        check(&member, &other, |v| matches!(v, Verdict::Refuse(Refusal::OtherCluster { .. })));
        check(&other, &member, |v| matches!(v, Verdict::Refuse(Refusal::OtherCluster { .. })));
        check(&member, &pledged, |v| matches!(v, Verdict::Refuse(Refusal::OtherCluster { .. })));
        check(&pledged, &member, |v| matches!(v, Verdict::OwnFault(Refusal::OtherCluster { .. })));
        let stranger = about("d", "dd", Commitment::None);
        check(&member, &stranger, |v| matches!(v, Verdict::Refuse(Refusal::NotMember { .. })));
        check(&stranger, &member, |v| matches!(v, Verdict::OwnFault(Refusal::NotMember { .. })));
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
