//! How one of several instances is chosen, as operators write it.

use serde::{Deserialize, Serialize};

use super::ServiceResolver;
use crate::Refusal;

/// How many policies say what a request's hash is made of at most.
const POLICIES_MAX: usize = 8;
/// How many places a ring has at most.
const RING_MAX: u32 = 65_536;
/// How many places a ring has where nothing is said: at least, and at most.
const RING_DEFAULT: (u32, u32) = (1_024, RING_MAX);
/// Between how few and how many instances the least loaded is looked for.
const CHOICES: std::ops::RangeInclusive<u32> = 2..=10;
const NAME_BYTES_MAX: usize = 128;
const PATH_BYTES_MAX: usize = 256;
const COOKIE_TTL_S_MAX: u64 = 400 * 24 * 60 * 60;

/// Names how one of several instances is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Of two drawn at random the one with less to do for its weight, and that answers faster.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// The one that what the request says leads to on a ring, so that the same goes to the same.
    RingHash,
}

/// Says what requests are told apart by where the same is to go to the same instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hashing {
    /// What the hash is made of, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<HashPolicy>,
    /// How many places the ring has at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring_min: Option<u32>,
    /// How many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring_max: Option<u32>,
}

/// Is one thing that the hash of a request is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashPolicy {
    /// What.
    pub by: HashBy,
    /// Whether the policies after it are for requests only that it says nothing of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminal: bool,
}

/// Names a thing that the hash of a request is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashBy {
    /// The values of a header.
    Header(String),
    /// The first value of a parameter of the query.
    Query(String),
    /// A cookie.
    Cookie {
        /// Its name.
        name: String,
        /// What a caller gets that has none; nothing where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        issued: Option<IssuedCookie>,
    },
    /// The address that the call comes from.
    Source,
}

/// Says what cookie a caller gets that has none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedCookie {
    /// How long it lives, in seconds; as long as its holder's session where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// The path that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl Hashing {
    /// Reports whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Says how one of a way's instances is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balancing {
    /// How.
    pub policy: Balance,
    /// What requests are told apart by; of use to a ring only.
    pub hashing: Hashing,
    /// Among how many the least loaded is looked for; none where two are.
    pub choices: Option<u32>,
    /// Whether those of the caller's own zone come first.
    pub by_locality: bool,
}

impl Balancing {
    /// Reads it from a resolver; `by_locality` holds where it says nothing of zones.
    pub(super) fn of(resolver: Option<&ServiceResolver>, by_locality: bool) -> Self {
        let Some(resolver) = resolver else { return Self { by_locality, ..Self::default() } };
        Self {
            policy: resolver.balance.unwrap_or_default(),
            hashing: resolver.hashing.clone(),
            choices: resolver.choices,
            by_locality: resolver.by_locality.unwrap_or(by_locality),
        }
    }

    /// Returns between how few and how many places the ring has.
    #[must_use]
    pub fn ring(&self) -> (usize, usize) {
        let (min, max) = RING_DEFAULT;
        let max = self.hashing.ring_max.unwrap_or(max).clamp(1, RING_MAX);
        let min = self.hashing.ring_min.unwrap_or(min).clamp(1, max);
        (min as usize, max as usize)
    }
}

/// Checks what a resolver says of how instances are chosen.
pub(super) fn check_balance(resolver: &ServiceResolver) -> Result<(), Refusal> {
    let invalid = |field: &str, problem: String| Err(Refusal::invalid(format!("load_balancer: {field}"), problem));
    let policy = resolver.balance.unwrap_or_default();
    if !resolver.hashing.is_empty() && policy != Balance::RingHash {
        return invalid("hash_policies", "only a ring goes by them: set policy to ring_hash".to_owned());
    }
    match resolver.choices {
        Some(_) if policy != Balance::LeastRequest => {
            return invalid("choice_count", "only least_request goes by it".to_owned());
        }
        Some(choices) if !CHOICES.contains(&choices) => {
            return invalid("choice_count", format!("use {} to {}", CHOICES.start(), CHOICES.end()));
        }
        _ => {}
    }
    let Hashing { policies, ring_min, ring_max } = &resolver.hashing;
    let bounds = [ring_min, ring_max].into_iter().flatten();
    if bounds.clone().any(|size| *size == 0 || *size > RING_MAX) {
        return invalid("ring_hash_config", format!("a ring has 1 to {RING_MAX} places"));
    }
    if ring_min.zip(*ring_max).is_some_and(|(min, max)| min > max) {
        return invalid("ring_hash_config", "it has more places at least than at most".to_owned());
    }
    if policies.len() > POLICIES_MAX {
        return invalid("hash_policies", format!("there are {}: use at most {POLICIES_MAX}", policies.len()));
    }
    for (number, policy) in (1..).zip(policies) {
        if let Err(problem) = check_policy(policy) {
            return invalid(&format!("hash_policies, {number}"), problem);
        }
    }
    Ok(())
}

fn check_policy(policy: &HashPolicy) -> Result<(), String> {
    let is_token = |name: &str| {
        (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    match &policy.by {
        HashBy::Header(name) if !is_token(name) || name.bytes().any(|b| b.is_ascii_uppercase() || b == b'_') => {
            Err(format!("`{}` is no header", name.escape_debug()))
        }
        HashBy::Query(name) if name.is_empty() || name.len() > NAME_BYTES_MAX => {
            Err(format!("a parameter's name has 1 to {NAME_BYTES_MAX} bytes"))
        }
        HashBy::Cookie { name, .. } if !is_token(name) => Err(format!("`{}` is no cookie", name.escape_debug())),
        HashBy::Cookie { issued: Some(IssuedCookie { ttl_s: Some(ttl), .. }), .. } if *ttl > COOKIE_TTL_S_MAX => {
            Err("a cookie lives for 400 days at most".to_owned())
        }
        HashBy::Cookie { issued: Some(IssuedCookie { path: Some(path), .. }), .. }
            if !path.starts_with('/')
                || path.len() > PATH_BYTES_MAX
                || !path.bytes().all(|b| b.is_ascii_graphic() && b != b';' && b != b',') =>
        {
            Err("a cookie's path starts with `/` and has no `;`".to_owned())
        }
        _ => Ok(()),
    }
}
