//! Watching the requests of a service while they happen.
//!
//! Whoever may, asks a server. It tells all servers, and each tells the agents that stand before the service and have
//! their session there ([`TapOrder`], a frame of the stream). Each such agent opens a connection of its own to the server
//! that was asked, and sends what it sees as frames of [`TapFrame`] in the body of `POST /v1/tap`, until the time is over or
//! nobody reads them any more.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use catalog::{NodeName, ServiceKey, Timestamp};
use serde::{Deserialize, Serialize};

/// How long requests are watched where nobody says otherwise.
pub const TAP_DEFAULT: Duration = Duration::from_secs(60);
/// The longest that requests are watched at once.
pub const TAP_MAX: Duration = Duration::from_secs(600);
/// Headers that may be asked for at once.
pub const TAP_HEADERS_MAX: usize = 16;

/// Headers whose values are never shown, for they are as good as their owner.
const SECRET_HEADERS: [&str; 9] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "x-auth-token",
    "x-consul-token",
    "x-csrf-token",
    "x-amz-security-token",
];

/// Tells an agent to send what it sees of a service's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapOrder {
    /// What the agent shows to the server that asked, drawn for this once.
    pub id: String,
    /// The service that is called.
    pub service: ServiceKey,
    /// Which requests.
    pub wanted: TapFilter,
    /// For how long, in milliseconds.
    pub lasts_ms: u64,
    /// Where the server that asked is reached, as `host:port`.
    pub server: String,
}

/// Says which requests are wanted, and what of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapFilter {
    /// Only those of this method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only those whose path starts so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Only those that were answered so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusFilter>,
    /// Only those of this caller, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The request's headers that are shown; none where nobody names any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
}

impl TapFilter {
    /// Reports whether a request is one of those.
    #[must_use]
    pub fn matches(&self, event: &TapEvent) -> bool {
        self.method.as_ref().is_none_or(|method| *method == event.method)
            && self.path.as_ref().is_none_or(|path| event.path.starts_with(path.as_str()))
            && self.status.is_none_or(|status| status.matches(event.status))
            && self.source.as_ref().is_none_or(|source| *source == event.source)
    }
}

/// Is a status, or a class of them, such as `503` or `5xx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StatusFilter {
    /// This one.
    Exactly(u16),
    /// Those that begin with this digit.
    Class(u16),
}

/// Explains why a text is no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no status of an answer: write one such as `503`, or a class such as `5xx`", .0.escape_debug())]
pub struct StatusFilterError(String);

impl StatusFilter {
    fn matches(self, status: u16) -> bool {
        match self {
            Self::Exactly(wanted) => status == wanted,
            Self::Class(digit) => status / 100 == digit,
        }
    }
}

impl FromStr for StatusFilter {
    type Err = StatusFilterError;

    fn from_str(text: &str) -> Result<Self, StatusFilterError> {
        let wrong = || StatusFilterError(text.to_owned());
        let (digits, is_class) = text.strip_suffix("xx").map_or((text, false), |digit| (digit, true));
        let number: u16 = digits.parse().map_err(|_| wrong())?;
        match (is_class, number) {
            (true, 1..=5) => Ok(Self::Class(number)),
            (false, 100..=599) => Ok(Self::Exactly(number)),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for StatusFilter {
    type Error = StatusFilterError;

    fn try_from(text: String) -> Result<Self, StatusFilterError> {
        text.parse()
    }
}

impl From<StatusFilter> for String {
    fn from(filter: StatusFilter) -> Self {
        filter.to_string()
    }
}

impl fmt::Display for StatusFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(status) => write!(f, "{status}"),
            Self::Class(digit) => write!(f, "{digit}xx"),
        }
    }
}

/// Is one request that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TapEvent {
    /// When it was over, by the agent's clock.
    #[serde(with = "crate::rfc3339::text")]
    pub time: Timestamp,
    /// The node of the agent that saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Who asked.
    pub source: String,
    /// Who was asked.
    pub destination: String,
    /// The method.
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// How it was answered.
    pub status: u16,
    /// Why it ended, or was refused.
    pub reason: String,
    /// What the rules said: `allow`, `deny` or `audit`; nothing where they were not asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub decision: String,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// How long it took.
    pub duration_ms: f64,
    /// Bytes of its body.
    pub bytes_sent: u64,
    /// Bytes of the answer's body.
    pub bytes_recv: u64,
    /// Its id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// Its trace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trace_id: String,
    /// Those of its headers that were asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// Is what an agent sends of requests; the first frame is [`TapFrame::Hello`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TapFrame {
    /// Says for which order this is.
    Hello {
        /// The order's id.
        id: String,
    },
    /// Tells of one request.
    Event(Box<TapEvent>),
    /// Tells why there is no more.
    Ended {
        /// Why; one line.
        reason: String,
    },
}

/// Is one line of what a server answers to whoever watches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TapLine {
    /// A request.
    Event(Box<TapEvent>),
    /// Something about the watching itself.
    Notice {
        /// What.
        #[serde(rename = "Notice")]
        notice: String,
    },
}

/// Returns what is shown of a header's value.
#[must_use]
pub fn shown_header(name: &str, value: &[u8]) -> String {
    if SECRET_HEADERS.contains(&name) {
        return "<redacted>".to_owned();
    }
    crate::harmless(&String::from_utf8_lossy(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> TapEvent {
        TapEvent {
            time: Timestamp(1_700_000_000_000),
            node: "n1".parse().ok(),
            source: "default/web".to_owned(),
            destination: "default/api".to_owned(),
            method: "GET".to_owned(),
            path: "/v1/users".to_owned(),
            status: 503,
            reason: "done".to_owned(),
            decision: "allow".to_owned(),
            rule: String::new(),
            duration_ms: 1.5,
            bytes_sent: 0,
            bytes_recv: 7,
            request_id: String::new(),
            trace_id: String::new(),
            headers: BTreeMap::new(),
        }
    }

    #[test]
    fn a_filter_wants_what_it_names() {
        let none = TapFilter::default();
        let text = |text: &str| Some(text.to_owned());
        for (filter, want) in [
            (none.clone(), true),
            (TapFilter { method: text("GET"), path: text("/v1"), source: text("default/web"), ..none.clone() }, true),
            (TapFilter { status: Some("5xx".parse().unwrap()), ..none.clone() }, true),
            (TapFilter { status: Some("503".parse().unwrap()), ..none.clone() }, true),
            (TapFilter { status: Some("2xx".parse().unwrap()), ..none.clone() }, false),
            (TapFilter { method: text("POST"), ..none.clone() }, false),
            (TapFilter { path: text("/v2"), ..none.clone() }, false),
            (TapFilter { source: text("default/db"), ..none }, false),
        ] {
            assert_eq!(filter.matches(&event()), want, "{filter:?}");
        }
        for wrong in ["", "xx", "6xx", "99", "600", "2x", "ok"] {
            wrong.parse::<StatusFilter>().unwrap_err();
        }
    }

    #[test]
    fn a6_what_is_as_good_as_its_owner_is_never_shown() {
        assert_eq!(shown_header("authorization", b"Bearer x"), "<redacted>");
        assert_eq!(shown_header("cookie", b"session=x"), "<redacted>");
        assert_eq!(shown_header("x-env", b"prod"), "prod");
        assert!(!shown_header("x-env", b"a\nb\x1b[2J").contains(['\n', '\x1b']));
    }

    #[test]
    fn a_line_is_a_request_or_a_notice() {
        for line in [TapLine::Event(Box::new(event())), TapLine::Notice { notice: "over".to_owned() }] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<TapLine>(&text).unwrap(), line, "{text}");
        }
    }
}
