//! How a server becomes a member of a cluster that exists: it asks any member, which has it taken in as a learner.

use std::time::Duration;

use catalog::{ENVELOPE_VERSION, MemberFacts, Membership, MembershipChange, Mesh, Outcome, ServerId, ServerMember};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tracing::{info, warn};

use super::bootstrap::{Candidate, Commitment};
use super::steward;
use super::transport::Context;
use super::transport::dial::DialError;
use super::transport::frame::{self, Frame, FrameError};

/// How long a member may take to have a newcomer written to the log; longer than it waits for a leader itself.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(20);

/// Is a server that asks to become a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applicant {
    pub(crate) candidate: Candidate,
    pub(crate) facts: MemberFacts,
}

/// Answers an [`Applicant`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Admission {
    /// It is a member.
    Granted {
        /// The mesh, with the servers of today; the newcomer is one of them.
        mesh: Box<Mesh>,
        /// How often the cluster was recovered by force.
        epoch: u64,
    },
    /// It cannot become one as it is.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// It may ask again.
    NotNow {
        /// Why.
        reason: String,
    },
}

/// Returns what this server says of itself.
pub(crate) fn own_facts(raft_address: &str, agent_address: &str, keys: &[String]) -> MemberFacts {
    MemberFacts {
        raft_address: raft_address.to_owned(),
        agent_address: agent_address.to_owned(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        reads: ENVELOPE_VERSION,
        keys: keys.to_vec(),
    }
}

/// Lists the servers as an address book has them.
fn servers(membership: &Membership) -> Vec<ServerMember> {
    let server = |member: &catalog::Member| ServerMember {
        id: member.id.clone(),
        raft_id: member.raft_id,
        disk_id: member.disk_id.clone(),
        raft_address: member.facts.raft_address.clone(),
        reads: member.facts.reads,
    };
    membership.members.values().map(|member| server(member)).collect()
}

/// Has a newcomer taken in, and answers it.
pub(super) async fn answer(context: &Context, peer: &ServerId, applicant: Applicant) -> Admission {
    let Applicant { candidate, facts } = applicant;
    let not_now = |reason: &str| Admission::NotNow { reason: reason.to_owned() };
    if candidate.server != *peer {
        return Admission::Refused { reason: format!("server `{peer}` asks for server `{}`", candidate.server) };
    }
    let catalog = context.consensus.catalog();
    let Some(mesh) = catalog.mesh() else { return not_now("the cluster is not established yet") };
    if let Some(reason) = unfit(mesh, &candidate) {
        return Admission::Refused { reason };
    }
    let change = MembershipChange::Add { id: candidate.server.clone(), disk_id: candidate.disk_id.clone(), facts };
    match steward::shell::propose(&context.consensus, change).await {
        Ok(Outcome::MemberAdded { raft_id }) => {
            info!(server = %peer, raft_id, address = candidate.raft_address, "server taken in");
            let catalog = context.consensus.catalog();
            let (Some(mesh), membership) = (catalog.mesh(), catalog.membership()) else {
                return not_now("the cluster is not established yet");
            };
            if membership.member(raft_id).is_none() {
                return not_now("the newcomer is not known here yet");
            }
            let mesh = Mesh { servers: servers(membership), ..mesh.clone() };
            Admission::Granted { mesh: Box::new(mesh), epoch: membership.epoch }
        }
        Ok(Outcome::Refused(refusal)) => Admission::Refused { reason: refusal.to_string() },
        Ok(outcome) => not_now(&format!("the log answered {outcome:?}")),
        Err(error) => not_now(&error.to_string()),
    }
}

/// Says in which setting a newcomer differs from the mesh.
fn unfit(mesh: &Mesh, candidate: &Candidate) -> Option<String> {
    let theirs = &candidate.settings;
    let domain = theirs.trust_domain.as_ref().unwrap_or(&mesh.trust_domain);
    let rows = [
        ("datacenter", mesh.datacenter.clone(), theirs.datacenter.clone()),
        ("trust_domain", mesh.trust_domain.to_string(), domain.to_string()),
        ("path_template", mesh.template.to_string(), theirs.path_template.to_string()),
    ];
    rows.into_iter().find(|(_, fixed, asked)| fixed != asked).map(|(setting, fixed, asked)| {
        format!("{setting} is `{asked}`, and the cluster was bootstrapped with `{fixed}`: start it with the same")
    })
}

/// Asks a member to be taken in, on the connection on which the two have met.
pub(super) async fn ask(
    context: &Context,
    mut stream: TlsStream<TcpStream>,
    peer: &ServerId,
    address: &str,
) -> Result<(), DialError> {
    let about = context.joiner.about();
    if about.commitment != Commitment::None {
        return Ok(());
    }
    let greeting = |source| DialError::Greeting { address: address.to_owned(), source };
    // Its keys it names once it is in the list.
    let facts = own_facts(&about.candidate.raft_address, &about.agent_address, &[]);
    let applicant = Applicant { candidate: about.candidate.clone(), facts };
    frame::write(&mut stream, &Frame::Admit(Box::new(applicant))).await.map_err(greeting)?;
    let read = tokio::time::timeout(ADMISSION_TIMEOUT, frame::read(&mut stream)).await;
    let admission = match read.unwrap_or_else(|_| Err(FrameError::Io(std::io::ErrorKind::TimedOut.into()))) {
        Ok((Frame::Admitted(admission), _)) => *admission,
        Ok((other, _)) => return Err(greeting(other.unexpected())),
        Err(error) => return Err(greeting(error)),
    };
    match admission {
        Admission::Granted { mesh, epoch } => context.joiner.admitted(*mesh, epoch).await,
        Admission::Refused { reason } => context.joiner.refused(peer, reason),
        Admission::NotNow { reason } => warn!(peer = %peer, reason, "not taken in yet"),
    }
    Ok(())
}
