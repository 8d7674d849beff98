//! What every server knows for itself, asked of all of them.

use std::time::Duration;

use catalog::{ServerId, ServerMember};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use wire::one_line;
use wire::report::{Seen, SeenBuilder};
use wire::tap::TapOrder;

use super::Consensus;
use super::transport::frame::{Frame, FrameError};
use super::transport::hello::Purpose;
use super::transport::{read_alive, write_alive};
use crate::reports::ROWS_TOLD_MAX;

/// Servers that do not answer within this are left out, and named.
const PATIENCE: Duration = Duration::from_secs(3);

/// Is one question to a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Inquiry {
    /// What have the agents seen whose sessions are with you?
    Seen,
    /// Tell your agents that somebody watches.
    Tap(Box<TapOrder>),
}

/// Answers an [`Inquiry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// They have seen this.
    Seen(Box<Seen>),
    /// It is done.
    Done,
}

/// Is what all agents have seen, as far as servers could be asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeenByAll {
    /// What they saw.
    pub(crate) seen: Seen,
    /// The servers that did not answer: what is told by their agents is missing.
    pub(crate) silent: Vec<ServerId>,
}

impl Consensus {
    /// Asks all servers what their agents have seen. It is soft state, and never waits for a leader.
    pub(crate) async fn seen_by_all(&self) -> SeenByAll {
        let mut asked = JoinSet::new();
        let members = self.shared.members.all();
        for member in members.iter().filter(|member| member.id != self.shared.server) {
            let (consensus, member) = (self.clone(), member.clone());
            asked.spawn(async move {
                let answer = tokio::time::timeout(PATIENCE, consensus.inquire(&member, Inquiry::Seen)).await;
                let answer = answer.unwrap_or_else(|_| Err("it took too long".to_owned()));
                (member.id, answer)
            });
        }
        let mut joined = SeenBuilder::default();
        joined.add_seen(&self.seen_here());
        let mut silent = Vec::new();
        while let Some(answered) = asked.join_next().await {
            match answered {
                Ok((_, Ok(Reply::Seen(seen)))) => joined.add_seen(&seen),
                Ok((server, Ok(Reply::Done))) => silent.push(server),
                Ok((server, Err(reason))) => {
                    tracing::debug!(peer = %server, error = reason, "server did not say what its agents have seen");
                    silent.push(server);
                }
                Err(error) => tracing::debug!(%error, "asking a server was cut short"),
            }
        }
        silent.sort();
        SeenByAll { seen: joined.finish(ROWS_TOLD_MAX), silent }
    }

    /// Has all agents told whom an order is for, as far as servers can be reached.
    pub(crate) async fn order_tap(&self, order: TapOrder) {
        self.shared.taps.announce(order.clone());
        let mut asked = JoinSet::new();
        for member in self.shared.members.all().iter().filter(|member| member.id != self.shared.server) {
            let (consensus, member, inquiry) = (self.clone(), member.clone(), Inquiry::Tap(Box::new(order.clone())));
            asked.spawn(async move {
                let answer = tokio::time::timeout(PATIENCE, consensus.inquire(&member, inquiry)).await;
                if !matches!(answer, Ok(Ok(Reply::Done))) {
                    tracing::debug!(peer = %member.id, "server did not tell its agents that somebody watches");
                }
            });
        }
        asked.join_all().await;
    }

    fn seen_here(&self) -> Seen {
        self.shared.reports.seen(&self.catalog(), &self.shared.server)
    }

    /// Asks one server, over a connection of its own.
    async fn inquire(&self, member: &ServerMember, inquiry: Inquiry) -> Result<Reply, String> {
        let context = self.shared.forwarder.context().ok_or("this server is starting")?;
        let dialled = context.dial(&member.raft_address, Some(&member.id), Purpose::Gather).await;
        let mut stream = dialled.map_err(|error| one_line(&error))?.stream;
        write_alive(&mut stream, &Frame::Inquire(Box::new(inquiry))).await.map_err(|error| one_line(&error))?;
        match read_alive(&mut stream).await {
            Ok((Frame::Replied(reply), _)) => Ok(*reply),
            Ok((other, _)) => Err(other.unexpected().to_string()),
            Err(error) => Err(one_line(&error)),
        }
    }
}

/// Answers one inquiry of a peer.
pub(super) async fn serve<R, W>(consensus: &Consensus, reader: &mut R, writer: &mut W) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let inquiry = match read_alive(reader).await?.0 {
        Frame::Inquire(inquiry) => *inquiry,
        other => return Err(other.unexpected()),
    };
    let reply = match inquiry {
        Inquiry::Seen => Reply::Seen(Box::new(consensus.seen_here())),
        Inquiry::Tap(order) => {
            consensus.shared.taps.announce(*order);
            Reply::Done
        }
    };
    write_alive(writer, &Frame::Replied(Box::new(reply))).await
}
