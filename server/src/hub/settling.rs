//! When an agent has been told all of what was committed: topics arrive one after the other, and what decides calls counts
//! only as a whole.

use std::sync::Arc;
use std::time::Duration;

use catalog::Topic;
use wire::agent_protocol::{Capability, ServerFrame};

use super::{Frame, Hub, Output, SessionId};

impl Hub {
    /// Notes that a session is sent news of a topic.
    pub(super) fn unsettle(&mut self, session: SessionId, topic: &Topic) {
        let understands =
            |hub: &Self| hub.sessions.get(&session).is_some_and(|open| open.knows.has(Capability::Settled));
        if topic.decides_calls() && understands(self) {
            self.unsettled.insert(session);
        }
    }

    /// Tells those that were sent news that this is all of it: every topic that decides calls, as of the index that is
    /// applied here. Whoever waits for this server to catch up on one of them is told when it has.
    pub(super) fn settle(&mut self, now: Duration, out: &mut dyn FnMut(Output)) {
        let ready: Vec<SessionId> =
            self.unsettled.iter().copied().filter(|session| !self.waits_for_decisive(*session)).collect();
        if ready.is_empty() {
            return;
        }
        // It holds a number only, so that it fits.
        let Ok(frame) = Frame::new(ServerFrame::Settled { index: self.catalog.index() }).map(Arc::new) else { return };
        for session in ready {
            self.unsettled.remove(&session);
            self.send(session, Arc::clone(&frame), now, out);
        }
    }

    fn waits_for_decisive(&self, session: SessionId) -> bool {
        let of_session = self.behind.range((session, Topic::Mesh)..).take_while(|(whose, _)| *whose == session);
        of_session.into_iter().any(|(_, topic)| topic.decides_calls())
    }
}
