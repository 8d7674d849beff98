//! The one write that is under way, and when it is sent again.

use std::time::Duration;

use catalog::RequestId;
use wire::agent_protocol::{AgentWrite, WriteRequest};

use wire::random::Seeded;

/// A write without an answer after this long is sent again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The wait before the first repeat is drawn from up to this.
const BACKOFF_BASE: Duration = Duration::from_millis(200);
/// No wait before a repeat is drawn from more.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A server cannot silence an agent for longer.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct UnderWay {
    request: WriteRequest,
    send_at: Duration,
    failures: u32,
}

/// Numbers writes and repeats one under its number until it is answered.
#[derive(Debug)]
pub(super) struct Writes {
    /// Makes the request ids of this run different from those of any other run and agent.
    run: u64,
    count: u64,
    under_way: Option<UnderWay>,
}

impl Writes {
    pub(super) fn new(seed: u64) -> Self {
        Self { run: seed, count: 0, under_way: None }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_none()
    }

    pub(super) fn is_under_way(&self, request_id: &RequestId) -> bool {
        self.under_way.as_ref().is_some_and(|write| write.request.request_id == *request_id)
    }

    pub(super) fn start(&mut self, command: AgentWrite, now: Duration) {
        self.count += 1;
        let request_id = RequestId::try_from(format!("agent-{:016x}-{}", self.run, self.count))
            .expect("a prefix and two numbers are a request id");
        self.under_way = Some(UnderWay { request: WriteRequest { request_id, command }, send_at: now, failures: 0 });
    }

    pub(super) fn clear(&mut self) {
        self.under_way = None;
    }

    /// Returns the write if it is to be sent now, for the first time or again.
    pub(super) fn send(&mut self, now: Duration) -> Option<WriteRequest> {
        let write = self.under_way.as_mut().filter(|write| now >= write.send_at)?;
        write.send_at = now + ANSWER_TIMEOUT;
        Some(write.request.clone())
    }

    pub(super) fn retry(&mut self, retry_after: Option<Duration>, now: Duration, jitter: &mut Seeded) {
        if let Some(write) = &mut self.under_way {
            let least = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
            write.send_at = now + least + jitter.backoff(write.failures, BACKOFF_BASE, BACKOFF_MAX);
            write.failures = write.failures.saturating_add(1);
        }
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.under_way.as_ref().map(|write| write.send_at)
    }
}
