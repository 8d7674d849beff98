//! The sync machines of simulated agents: what they want done, and what they hear.

use std::sync::Arc;
use std::time::Duration;

use agent::sync::{self, Sync, View, WriteResult};
use catalog::{Event, Outcome, Topic};
use server::hub::SessionId;
use wire::agent_protocol::{ClientFrame, ServerFrame};
use wire::frame::FrameDecoder;

use super::checks::{Checked, check};
use super::connections::{Connection, Heard, Said, Stage};
use super::mesh::Mesh;
use super::operator::LAST_CALLER;
use super::plan::Planted;
use super::streams::StreamEvent;

/// How long an agent waits for the answer to a write.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(14);

impl Mesh {
    pub(super) fn agent_step(&mut self, id: u64, input: sync::Input) -> Checked {
        let now = self.schedule.now();
        let Some(machine) = &mut self.agent(id).process else { return Ok(()) };
        let mut outputs = Vec::new();
        machine.step(input, now, &mut |output| outputs.push(output));
        for output in outputs {
            self.agent_wants(id, output)?;
        }
        let agent = self.agent(id);
        let Some(at) = agent.process.as_ref().and_then(Sync::wake_at) else { return Ok(()) };
        if agent.wakes_at.is_none_or(|planned| at < planned) {
            agent.wakes_at = Some(at);
            let life = agent.life;
            let after = at.saturating_sub(now).max(Duration::from_millis(1));
            self.plan_stream(after, StreamEvent::AgentTicks { agent: id, life });
        }
        Ok(())
    }

    fn agent_wants(&mut self, id: u64, output: sync::Output) -> Checked {
        let now = self.schedule.now();
        match output {
            sync::Output::Connect { attempt, server } => self.agent_connects(id, attempt, &server),
            sync::Output::Disconnect { .. } => {
                self.trace.note(now, "disconnect", &[id]);
                self.agent_hangs_up(id);
            }
            sync::Output::Send { attempt, frame } => {
                if let ClientFrame::Subscribe { topic, from } = &frame {
                    self.count_subscription(id, topic, from.is_some());
                }
                if let Some(link) = self.link(id, attempt) {
                    self.send_up(link, Said::Frame(frame));
                }
            }
            sync::Output::Write { attempt, request } => {
                let Some(link) = self.link(id, attempt) else { return Ok(()) };
                let number = self.streams.number();
                let agent = self.agent(id);
                agent.pending.insert(number, (link, request.request_id.clone()));
                let life = agent.life;
                self.send_up(link, Said::Write { number, request });
                self.plan_stream(ANSWER_TIMEOUT, StreamEvent::Unanswered { agent: id, life, number });
            }
            sync::Output::Opened { incarnation, .. } => {
                self.trace.note(now, "session", &[id, incarnation.0]);
                self.summary.streams.sessions += 1;
                self.agent(id).incarnation = Some(incarnation);
            }
            sync::Output::Publish(view) => self.agent_publishes(id, view)?,
            sync::Output::Persist => {
                let agent = self.agent(id);
                let life = agent.life;
                if !std::mem::replace(&mut agent.is_changed, true) {
                    let after = self.random.millis(0..150);
                    self.plan_stream(after, StreamEvent::AgentSaves { agent: id, life });
                }
            }
            sync::Output::Dropped { topic, error } => {
                check!(false, "agent {id} dropped what an honest server said of {topic}: {error}");
            }
            sync::Output::Refused { error } => {
                self.summary.streams.refused += 1;
                check!(self.is_without_record(id), "agent {id} may not register what it may: {error}");
            }
            sync::Output::Left => {
                self.summary.streams.left += 1;
                let life = self.agent(id).life;
                self.agent_saves(id, life)?;
                self.agent_crashes(id, true);
            }
        }
        Ok(())
    }

    fn agent_connects(&mut self, id: u64, attempt: u64, server: &str) {
        self.agent_hangs_up(id);
        let server = server.trim_start_matches("server-").trim_end_matches(":8300").parse().expect("it is a server");
        let agent = self.agent(id);
        let (life, Some(record)) = (agent.life, agent.record.clone()) else { return };
        let link = self.connect(id, record, life, attempt, server);
        self.agent(id).link = Some(link);
        self.trace.note(self.schedule.now(), "connect", &[id, attempt, server]);
    }

    /// Returns the agent's connection if it is the one that its machine means.
    fn link(&self, id: u64, attempt: u64) -> Option<u64> {
        let link = self.streams.agents[&id].link?;
        self.streams.connections.get(&link).filter(|connection| connection.attempt == attempt).map(|_| link)
    }

    /// Drops an agent's connection; the writes that went over it will not be answered, or only just.
    pub(super) fn agent_hangs_up(&mut self, id: u64) {
        let agent = self.agent(id);
        let Some(link) = agent.link.take() else { return };
        let life = agent.life;
        let pending = agent.pending.iter().filter(|(_, (over, _))| *over == link).map(|(number, _)| *number);
        for number in pending.collect::<Vec<_>>() {
            let after = self.random.millis(0..500);
            self.plan_stream(after, StreamEvent::Unanswered { agent: id, life, number });
        }
        let asked = self.agent(id).asked_leaf.as_ref().filter(|(_, over, _)| *over == link).map(|(number, ..)| *number);
        if let Some(number) = asked {
            let after = self.random.millis(0..500);
            self.plan_stream(after, StreamEvent::AgentHasNoLeaf { agent: id, life, number });
        }
        let is_loud = self.random.happens(80);
        self.cut(link, is_loud);
    }

    fn count_subscription(&mut self, id: u64, topic: &Topic, is_resumed: bool) {
        let holds = self.agent(id).process.as_ref().is_some_and(|machine| machine.view().contains_key(topic));
        let is_lost = self.streams.lost.as_ref().is_some_and(|(agent, lost)| *agent == id && lost == topic);
        let counts = &mut self.summary.streams;
        if is_resumed {
            counts.resumed += 1;
        } else if holds {
            counts.restarted += 1;
            counts.noticed += u64::from(is_lost);
        }
    }

    /// What an agent holds was committed, and never goes back while it is followed.
    fn agent_publishes(&mut self, id: u64, view: View) -> Checked {
        self.summary.streams.published += 1;
        let before = std::mem::take(&mut self.agent(id).published);
        for (topic, state) in &view {
            let old = before.get(topic);
            if old.is_some_and(|old| Arc::ptr_eq(old, state)) {
                continue;
            }
            let index = state.index;
            let is_forward = old.is_none_or(|old| old.index <= index);
            let before = old.map(|old| old.index);
            check!(is_forward, "agent {id} went back on {topic} from {before:?} to {index}");
            let truth = self.streams.truth.at(topic, index);
            check!(
                truth == Some(&state.items),
                "agent {id} holds {:?} of {topic} at {index}, where servers had {truth:?}",
                state.items
            );
        }
        let agent = self.agent(id);
        agent.published = view;
        if let Some(machine) = &agent.process {
            (agent.restraint, agent.settled_at) = (machine.restraint().clone(), machine.settled_at());
        }
        self.agent_has_news(id);
        self.agent_is_not_wider(id)
    }

    pub(super) fn agent_hears(&mut self, number: u64, heard: Heard) -> Checked {
        let Some(connection) = self.streams.connections.get(&number) else { return Ok(()) };
        let Connection { agent: id, attempt, life, .. } = *connection;
        if self.agent(id).life != life {
            return Ok(());
        }
        match heard {
            Heard::Accepted => {
                let now = self.schedule.now();
                if let Some(leaves) = &mut self.agent(id).leaves {
                    leaves.retry_now(now);
                }
                self.agent_step(id, sync::Input::Connected { attempt })
            }
            Heard::Unknown => {
                self.agent_is_unknown(id);
                Ok(())
            }
            Heard::Signed { number, leaf } => {
                self.agent_is_signed(id, number, leaf.map(|leaf| *leaf));
                Ok(())
            }
            Heard::Frame { bytes, session } => {
                self.report_read(number, session, bytes.len());
                let mut decoder = FrameDecoder::default();
                decoder.push(&bytes);
                let Ok(Some(frame)) = decoder.decode::<ServerFrame>() else {
                    check!(false, "agent {id} cannot read a frame of {} bytes", bytes.len());
                    return Ok(());
                };
                if self.is_swallowed(id, &frame) {
                    return Ok(());
                }
                self.agent_step(id, sync::Input::Frame { attempt, frame })
            }
            Heard::Written { number, request_id, result } => {
                if self.agent(id).pending.remove(&number).is_none() {
                    return Ok(());
                }
                if let WriteResult::Answered(Outcome::Done) = &result {
                    self.summary.streams.written += 1;
                }
                self.agent_step(id, sync::Input::Written { request_id, result })
            }
            Heard::End if self.agent(id).link == Some(number) => {
                self.agent_hangs_up(id);
                self.agent_step(id, sync::Input::Closed { attempt })
            }
            Heard::End => Ok(()),
        }
    }

    fn report_read(&mut self, number: u64, session: Option<SessionId>, bytes: usize) {
        let Some(Connection { server, stage: Stage::Open(open), .. }) = self.streams.connections.get(&number) else {
            return;
        };
        if let Some(session) = session.filter(|session| session == open) {
            let Some(life) = self.servers.get(server).map(|it| it.life) else { return };
            let server = *server;
            let after = self.random.millis(0..20);
            self.plan_stream(after, StreamEvent::Read { server, life, session, bytes });
        }
    }

    /// Says whether the network swallows this frame, as the plan wants.
    fn is_swallowed(&mut self, id: u64, frame: &ServerFrame) -> bool {
        let ServerFrame::Event(Event::Delta { topic, upserts, .. }) = frame else { return false };
        let (now, trouble) = (self.schedule.now(), self.plan.trouble);
        let is_amid = now >= trouble / 2 && now < trouble;
        let is_it = self.streams.lost.is_none()
            && match self.plan.planted {
                Planted::LosesAnEvent => {
                    is_amid && matches!(topic, Topic::Intentions(_) | Topic::Endpoints(_) | Topic::Config(_))
                }
                Planted::LosesTheLastEvent => upserts.keys().any(|key| key.contains(LAST_CALLER)),
                _ => false,
            };
        if is_it {
            self.summary.streams.lost += 1;
            self.streams.lost = Some((id, topic.clone()));
        }
        is_it
    }

    pub(super) fn agent_notices(&mut self, number: u64) -> Checked {
        let Some(connection) = self.streams.connections.get(&number) else { return Ok(()) };
        let Connection { agent: id, attempt, .. } = *connection;
        let is_current = self.agent(id).link == Some(number);
        if is_current {
            self.agent_hangs_up(id);
        }
        self.end_knows(number);
        if is_current { self.agent_step(id, sync::Input::Closed { attempt }) } else { Ok(()) }
    }

    pub(super) fn agent_gives_up(&mut self, id: u64, life: u64, number: u64) -> Checked {
        let agent = self.agent(id);
        if agent.life != life {
            return Ok(());
        }
        let Some((_, request_id)) = agent.pending.remove(&number) else { return Ok(()) };
        let result = WriteResult::Unavailable { retry_after: None };
        self.agent_step(id, sync::Input::Written { request_id, result })
    }
}
