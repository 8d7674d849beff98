//! `LoadBalancer` and `PrioritizeByLocality` of a `service-resolver`, as Consul writes them.

use std::time::Duration;

use ::catalog::{Balance, HashBy, HashPolicy, Hashing, IssuedCookie};
use serde_json::{Value, json};

use super::route_entry::Shown;
use crate::decode::{DecodeError, Fields};

/// Is how a resolver has instances chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct BalanceEntry {
    pub(super) balance: Option<Balance>,
    pub(super) hashing: Hashing,
    pub(super) choices: Option<u32>,
    pub(super) by_locality: Option<bool>,
}

impl BalanceEntry {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let by_locality = read_locality(fields)?;
        let entry = fields.object("LoadBalancer", |balancer| {
            let policy = balancer.text("Policy")?;
            let balance = match policy.as_str() {
                "" | "least_request" => Balance::LeastRequest,
                "round_robin" => Balance::RoundRobin,
                "random" => Balance::Random,
                "ring_hash" => Balance::RingHash,
                _ => {
                    let words = "use least_request, round_robin, random or ring_hash";
                    return Err(balancer.refuse("Policy", format!("`{}`: {words}", policy.escape_debug())));
                }
            };
            let choices = balancer.object("LeastRequestConfig", |least| least.number("ChoiceCount"))?.flatten();
            let sizes = balancer.object("RingHashConfig", |ring| {
                Ok((ring.number("MinimumRingSize")?, ring.number("MaximumRingSize")?))
            })?;
            let (ring_min, ring_max) = sizes.unwrap_or_default();
            let is_said = |size: &u32| *size != 0;
            let hashing = Hashing {
                policies: balancer.objects("HashPolicies", read_policy)?,
                ring_min: ring_min.filter(is_said),
                ring_max: ring_max.filter(is_said),
            };
            let choices = choices.filter(is_said);
            Ok(Self { balance: Some(balance), hashing, choices, by_locality: None })
        })?;
        Ok(Self { by_locality, ..entry.unwrap_or_default() })
    }

    pub(super) fn show(&self, shown: &mut Shown) {
        let policy = self.balance.map(|balance| match balance {
            Balance::LeastRequest => "least_request",
            Balance::RoundRobin => "round_robin",
            Balance::Random => "random",
            Balance::RingHash => "ring_hash",
        });
        let mut balancer = Shown::default();
        balancer.put("Policy", policy);
        balancer.put("LeastRequestConfig", self.choices.map(|choices| json!({ "ChoiceCount": choices })));
        let mut ring = Shown::default();
        ring.put("MinimumRingSize", self.hashing.ring_min);
        ring.put("MaximumRingSize", self.hashing.ring_max);
        balancer.put("RingHashConfig", ring.done());
        balancer.put("HashPolicies", self.hashing.policies.iter().map(show_policy).collect::<Vec<_>>());
        shown.put("LoadBalancer", balancer.done());
        let mode = |by_locality| json!({ "Mode": if by_locality { "failover" } else { "none" } });
        shown.put("PrioritizeByLocality", self.by_locality.map(mode));
    }
}

/// Reads whether instances of the caller's own zone come first.
pub(super) fn read_locality(fields: &mut Fields) -> Result<Option<bool>, DecodeError> {
    let mode = fields.object("PrioritizeByLocality", |locality| {
        let mode = locality.text("Mode")?;
        match mode.as_str() {
            "" => Ok(None),
            "none" => Ok(Some(false)),
            "failover" => Ok(Some(true)),
            _ => Err(locality.refuse("Mode", format!("`{}`: use failover or none", mode.escape_debug()))),
        }
    })?;
    Ok(mode.flatten())
}

fn read_policy(policy: &mut Fields) -> Result<HashPolicy, DecodeError> {
    let (field, value) = (policy.text("Field")?, policy.text("FieldValue")?);
    let is_source = policy.flag("SourceIP")?.unwrap_or(false);
    let issued = policy.object("CookieConfig", |cookie| {
        let (session, ttl, path) = (cookie.flag("Session")?, cookie.duration("TTL")?, cookie.text("Path")?);
        if session == Some(true) && ttl.is_some() {
            return Err(cookie.refuse("TTL", "a cookie of a session ends with it: leave one of the two out"));
        }
        let ttl_s = ttl.map(|ttl: Duration| ttl.as_secs().max(1));
        Ok(IssuedCookie { ttl_s, path: (!path.is_empty()).then_some(path) })
    })?;
    let by = match (field.as_str(), is_source) {
        ("", true) if value.is_empty() => HashBy::Source,
        ("header", false) => HashBy::Header(value.to_ascii_lowercase()),
        ("query_parameter", false) => HashBy::Query(value),
        ("cookie", false) => return Ok(policy_of(HashBy::Cookie { name: value, issued }, policy.flag("Terminal")?)),
        (_, true) => return Err(policy.refuse("SourceIP", "it stands alone: leave Field and FieldValue out")),
        _ => {
            let reason = format!("`{}`: use header, cookie or query_parameter, or SourceIP", field.escape_debug());
            return Err(policy.refuse("Field", reason));
        }
    };
    if issued.is_some() {
        return Err(policy.refuse("CookieConfig", "it is of a cookie only: set Field to cookie"));
    }
    Ok(policy_of(by, policy.flag("Terminal")?))
}

fn policy_of(by: HashBy, terminal: Option<bool>) -> HashPolicy {
    HashPolicy { by, terminal: terminal.unwrap_or(false) }
}

fn show_policy(policy: &HashPolicy) -> Value {
    let mut shown = Shown::default();
    let mut field = |field: &str, value: &str| {
        shown.put("Field", field);
        shown.put("FieldValue", value);
    };
    match &policy.by {
        HashBy::Header(name) => field("header", name),
        HashBy::Query(name) => field("query_parameter", name),
        HashBy::Cookie { name, issued } => {
            field("cookie", name);
            if let Some(issued) = issued {
                let mut cookie = Shown::default();
                cookie.put("Session", issued.ttl_s.is_none());
                cookie.put("TTL", issued.ttl_s.map(|ttl| format!("{ttl}s")));
                cookie.put("Path", issued.path.as_deref());
                shown.put("CookieConfig", cookie.done());
            }
        }
        HashBy::Source => shown.put("SourceIP", true),
    }
    shown.put("Terminal", policy.terminal);
    shown.done()
}
