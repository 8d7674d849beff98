//! Answers each question: by what the agent knows, by asking whoever knows other names, or by a refusal.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hickory_proto::op::{Edns, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use wire::random::Seeded;

use super::answer::{Answer, answer};
use super::forward::Forwarder;
use super::names::Names;
use super::pace::Pace;
use super::zones::Zones;

/// The largest answer over UDP: it fits into one packet everywhere, so that no piece of it can be exchanged for another.
const UDP_BYTES_MAX: u16 = 1232;

/// Answers questions.
#[derive(Debug)]
pub(super) struct Answerer {
    zones: Zones,
    /// Whether only this machine can ask.
    is_on_loopback: bool,
    names: Names,
    forwarder: Option<Forwarder>,
    pace: Pace,
    seed: u64,
    asked: AtomicU64,
}

/// Is an answer and how it is marked.
#[derive(Debug, Default)]
struct Reply {
    answer: Answer,
    /// Whether the name is one of ours.
    is_own: bool,
    /// Whether whoever asked is to come again over TCP, for what comes from there is from whom it says.
    is_cut: bool,
}

impl Reply {
    fn refusal(code: ResponseCode) -> Self {
        Self { answer: Answer { code, ..Answer::default() }, ..Self::default() }
    }
}

impl Answerer {
    pub(super) fn new(zones: Zones, is_on_loopback: bool, names: Names, forwarder: Option<Forwarder>) -> Self {
        let seed = Seeded::from_entropy().next();
        Self { zones, is_on_loopback, names, forwarder, pace: Pace::default(), seed, asked: AtomicU64::new(0) }
    }

    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.message_type != MessageType::Query {
            return Reply::refusal(ResponseCode::FormErr);
        }
        if request.metadata.op_code != OpCode::Query {
            return Reply::refusal(ResponseCode::NotImp);
        }
        if request.protocol() == Protocol::Udp
            && !self.is_on_loopback
            && !self.pace.admits(request.src().ip(), Instant::now())
        {
            return Reply { is_cut: true, ..Reply::default() };
        }
        let Ok(info) = request.request_info() else { return Reply::refusal(ResponseCode::FormErr) };
        if request.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return Reply::refusal(ResponseCode::BADVERS);
        }
        let (asked, name) = (info.query.query_type(), &info.query.original().name);
        match self.zones.of(name) {
            _ if info.query.query_class() != DNSClass::IN || matches!(asked, RecordType::AXFR | RecordType::IXFR) => {
                Reply::refusal(ResponseCode::Refused)
            }
            Some(zone) => Reply { answer: self.own(zone, name, asked).await, is_own: true, is_cut: false },
            None => match &self.forwarder {
                Some(forwarder) if request.metadata.recursion_desired && self.may_recurse(request) => {
                    Reply { answer: forwarder.ask(name, asked).await, ..Reply::default() }
                }
                _ => Reply::refusal(ResponseCode::Refused),
            },
        }
    }

    /// Reports whether somebody may have other names looked up: this machine may. What was led to loopback keeps the sender's
    /// address, and is of this machine all the same.
    fn may_recurse(&self, request: &Request) -> bool {
        self.is_on_loopback || request.src().ip().to_canonical().is_loopback()
    }

    async fn own(&self, zone: &Name, name: &Name, asked: RecordType) -> Answer {
        let datacenter = self.names.datacenter();
        let asked_for = self.zones.asked(zone, name, &datacenter);
        let draw = self.asked.fetch_add(1, Ordering::Relaxed);
        let mut draws = Seeded::new(wire::random::drawn(self.seed, draw));
        match self.names.known(&asked_for).await {
            Ok(known) => answer(zone, name, asked, &datacenter, &known, &mut draws),
            Err(_) => Answer { code: ResponseCode::ServFail, ..Answer::default() },
        }
    }

    async fn respond(&self, request: &Request, mut handle: impl ResponseHandler) -> ResponseInfo {
        let Reply { answer, is_own, is_cut } = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = is_own;
        metadata.recursion_available = self.forwarder.is_some() && self.may_recurse(request);
        metadata.truncation = is_cut;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, UDP_BYTES_MAX));
            edns.set_rcode_high(u16::from(answer.code).to_be_bytes()[1] >> 4);
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(metadata, &answer.records, [], &answer.authority, &answer.additionals);
        match handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(error = wire::one_line(&error), "an answer was not sent");
                ResponseInfo::from(hickory_proto::op::Header { metadata, counts: Default::default() })
            }
        }
    }
}

impl RequestHandler for Answerer {
    fn handle_request<'a, 'b, 'c, R, T>(
        &'a self,
        request: &'b Request,
        response_handle: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'c>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
        R: ResponseHandler + 'c,
        T: Time + 'c,
    {
        Box::pin(self.respond(request, response_handle))
    }
}
