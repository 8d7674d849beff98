//! What only the leader knows or may do, asked of it through any server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::{AccessorId, Actor, Command, Envelope, MembershipChange, Outcome};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use wire::{crypto, one_line};

use super::inbox::Request;
use super::status::Role;
use super::steward::GroupHealth;
use super::transport::frame::{Frame, FrameError};
use super::transport::hello::Purpose;
use super::transport::{jittered, read_alive, write_alive};
use super::{Committed, Consensus, Deadline};

/// How long a leader tries to hand over, in election timeouts.
const HANDOVER_TIMEOUTS: u32 = 2;
/// For so long the leader's word on the servers is passed on.
const SEEN_KEPT: Duration = Duration::from_secs(1);
/// For so long it is waited for by whoever can do without.
const SEEN_PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts to ask the leader.
const PAUSE: Duration = Duration::from_millis(100);

/// Is one question to the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Question {
    /// How are the servers?
    Health,
    /// Hand leadership to this server, or to whichever has most of the log.
    TransferLeader {
        /// Which, by Raft id.
        to: Option<u64>,
        /// Who asks.
        by: Asker,
    },
    /// Begin to take this server out.
    Remove {
        /// Which, by Raft id.
        raft_id: u64,
        /// Who asks.
        by: Asker,
    },
}

/// Is somebody with a token who asks for a change, whom the leader judges: the server that was asked may not know yet that a
/// right was taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asker {
    /// The public name of the token.
    pub(crate) accessor: AccessorId,
    /// From where, as `address:port`.
    pub(crate) source: Option<String>,
}

/// Answers a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The servers are like this.
    Health(Box<GroupHealth>),
    /// It is done, or under way.
    Done,
    /// It will not be done.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// Whoever asks has no right to it.
    Denied {
        /// What is lacking.
        needs: String,
    },
    /// Whoever was asked does not lead, or has led for too short a time to know how the others do.
    NotLeader,
}

/// Explains why the leader gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody leads, or the leader is out of reach.
    #[error("No cluster leader answered ({reason}): try again once `weft status` shows a leader")]
    NoLeader {
        /// What happened.
        reason: String,
    },
}

/// Is what the leader said of the servers, and when.
#[derive(Debug)]
pub(super) struct Seen {
    at: Instant,
    health: Arc<GroupHealth>,
}

impl Consensus {
    /// Asks the leader, wherever it is.
    ///
    /// # Errors
    /// [`AskError::NoLeader`]; what was asked for may have happened all the same.
    pub(crate) async fn ask_leader(&self, question: Question) -> Result<Answer, AskError> {
        let no_leader = |reason: String| AskError::NoLeader { reason };
        let deadline = Deadline::now() + self.shared.timing.write_deadline;
        loop {
            let leader = self.leader_until(deadline).await.ok_or_else(|| no_leader("none is known".to_owned()))?;
            let answer = if self.shared.members.own_raft_id() == Some(leader) {
                Ok(self.answer_as_leader(question.clone()).await)
            } else {
                let asking = self.ask_other(leader, question.clone());
                let asked = tokio::time::timeout_at(deadline, asking).await;
                asked.unwrap_or_else(|_| Err("it took too long".to_owned()))
            };
            let reason = match answer {
                Ok(Answer::NotLeader) => "it has just changed, or has not heard the others yet".to_owned(),
                Ok(answer) => return Ok(answer),
                Err(reason) => reason,
            };
            let pause = jittered(PAUSE);
            if Deadline::now() + pause >= deadline {
                return Err(no_leader(reason));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns how the servers do as the leader saw them within about a second; none where no leader says it soon.
    pub(crate) async fn seen_health(&self) -> Option<Arc<GroupHealth>> {
        self.status().leader?;
        if let Some(seen) = self.shared.seen.load_full().filter(|seen| seen.at.elapsed() < SEEN_KEPT) {
            return Some(Arc::clone(&seen.health));
        }
        let asked = tokio::time::timeout(SEEN_PATIENCE, self.ask_leader(Question::Health)).await;
        let Ok(Ok(Answer::Health(health))) = asked else { return None };
        let health = Arc::new(*health);
        self.shared.seen.store(Some(Arc::new(Seen { at: Instant::now(), health: Arc::clone(&health) })));
        Some(health)
    }

    async fn ask_other(&self, leader: u64, question: Question) -> Result<Answer, String> {
        let context = self.shared.forwarder.context().ok_or("this server is starting")?;
        let member = self.shared.members.member(leader).ok_or("its address is not known")?;
        let dialled = context.dial(&member.raft_address, Some(&member.id), Purpose::Ask).await;
        let mut stream = dialled.map_err(|error| one_line(&error))?.stream;
        write_alive(&mut stream, &Frame::Ask(Box::new(question))).await.map_err(|error| one_line(&error))?;
        loop {
            match read_alive(&mut stream).await {
                Ok((Frame::Alive, _)) => {}
                Ok((Frame::Answered(answer), _)) => return Ok(*answer),
                Ok((other, _)) => return Err(other.unexpected().to_string()),
                Err(error) => return Err(one_line(&error)),
            }
        }
    }

    /// Answers a question on the server that leads.
    async fn answer_as_leader(&self, question: Question) -> Answer {
        let Some(health) = self.shared.health.load_full() else { return Answer::NotLeader };
        if self.shared.standing.borrow().role != Role::Leader {
            return Answer::NotLeader;
        }
        let is_known = health.is_known_since(self.shared.timing.election_timeout());
        match question {
            Question::Health => Answer::Health(Box::new(GroupHealth::clone(&health))),
            Question::TransferLeader { to, by } => self.transfer(&health, is_known, to, by).await,
            Question::Remove { raft_id, by } => {
                if let Some(reason) = health.objection_to_removing(raft_id) {
                    return if is_known { Answer::Refused { reason } } else { Answer::NotLeader };
                }
                self.propose_for(by, MembershipChange::Remove { raft_id })
                    .await
                    .map_or_else(|why| why, |()| Answer::Done)
            }
        }
    }

    /// Writes a change of the servers in the name of whoever asks, if they may ask for it by what this leader knows; returns
    /// why not otherwise.
    async fn propose_for(&self, by: Asker, change: MembershipChange) -> Result<(), Answer> {
        let refused = |error: &dyn std::fmt::Display| Answer::Refused { reason: error.to_string() };
        self.read_index().await.map_err(|error| refused(&error))?;
        let (catalog, now) = (self.catalog(), crypto::now());
        let token = catalog.token(&by.accessor).filter(|token| token.expires_at.is_none_or(|end| now < end));
        let token = token.ok_or_else(|| Answer::Denied { needs: "a live token".to_owned() })?;
        let command = Command::Membership { change };
        catalog
            .permits(&catalog.authority(token), &command)
            .map_err(|lack| Answer::Denied { needs: lack.to_string() })?;
        let envelope = Envelope {
            version: command.reads_from(),
            request_id: crypto::uuid_v4().parse().expect("a UUID is a request id: 36 letters, digits and hyphens"),
            actor: Actor::Token(by.accessor),
            source_address: by.source,
            proposed_at: now,
            command,
        };
        match self.propose(envelope).await {
            Ok(Committed { outcome: Outcome::Refused(refusal), .. }) => Err(refused(&refusal)),
            Ok(_) => Ok(()),
            Err(error) => Err(refused(&error)),
        }
    }

    async fn transfer(&self, health: &GroupHealth, is_known: bool, to: Option<u64>, by: Asker) -> Answer {
        let refused = |reason: &str| Answer::Refused { reason: reason.to_owned() };
        let unheard = |reason: &str| if is_known { refused(reason) } else { Answer::NotLeader };
        let to = match to {
            None => health.best_successor(),
            Some(to) if to == health.leader => return Answer::Done,
            Some(to) if health.could_lead(to) => Some(to),
            Some(_) => return unheard("that server does not vote, or has not been heard of lately: choose another"),
        };
        let Some(to) = to else { return unheard("no other server that votes is reachable") };
        if let Err(answer) = self.propose_for(by, MembershipChange::HandOver { to: Some(to) }).await {
            return answer;
        }
        let mut standing = self.shared.standing.subscribe();
        self.shared.inbox.tell(Request::TransferLeader { to });
        let patience = self.shared.timing.election_timeout().saturating_mul(HANDOVER_TIMEOUTS);
        let handed = tokio::time::timeout(patience, standing.wait_for(|standing| standing.role != Role::Leader)).await;
        match handed {
            Ok(_) => Answer::Done,
            Err(_) => refused("the other server did not take over in time: it may be behind; try again"),
        }
    }
}

/// Answers one question of a peer.
pub(super) async fn serve<R, W>(consensus: &Consensus, reader: &mut R, writer: &mut W) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let question = match read_alive(reader).await?.0 {
        Frame::Ask(question) => *question,
        other => return Err(other.unexpected()),
    };
    let answering = consensus.answer_as_leader(question);
    tokio::pin!(answering);
    let mut alive = tokio::time::interval(super::transport::ALIVE_INTERVAL);
    let answer = loop {
        tokio::select! {
            answer = &mut answering => break answer,
            _ = alive.tick() => write_alive(writer, &Frame::Alive).await?,
        }
    };
    write_alive(writer, &Frame::Answered(Box::new(answer))).await
}
