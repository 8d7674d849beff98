//! Health checks as a service definition, a file or `agent/check/register` writes them.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{CheckId, CheckStatus, InstanceId, Namespace};
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Method, Uri};
use serde_json::Value;

use super::default_partition;
use crate::decode::{DecodeError, Fields, Shape};

/// How long a check may take where nobody says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Kinds of check that Consul has and weft does not make.
const OTHER_KINDS: [&str; 13] = [
    "ScriptArgs",
    "Args",
    "Script",
    "Shell",
    "DockerContainerID",
    "GRPC",
    "H2PING",
    "UDP",
    "OSService",
    "AliasNode",
    "AliasService",
    "ProxyHTTP",
    "ProxyGRPC",
];

/// One check, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckDefinition {
    /// The check's id; the reader gives one where there is none.
    pub id: Option<CheckId>,
    /// The name that people see; may be empty.
    pub name: String,
    /// The instance that it checks, where it stands apart from a service's definition; none for the node.
    pub service_id: Option<InstanceId>,
    /// The namespace of that instance.
    pub namespace: Namespace,
    /// How it is made.
    pub kind: CheckKind,
    /// What it says until it is first made.
    pub status: CheckStatus,
    /// What the operator noted about it.
    pub notes: String,
}

/// How a check is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// One HTTP request, without following redirects: 2xx passes, 429 warns, anything else is critical.
    Http {
        /// What is asked for; an `http` URL with a host and without credentials.
        url: String,
        /// By which method, upper case.
        method: String,
        /// With which headers; names and values that HTTP allows.
        header: BTreeMap<String, Vec<String>>,
        /// With which body; may be empty.
        body: String,
        /// How often.
        interval: Duration,
        /// How long one may take.
        timeout: Duration,
    },
    /// One TCP connection.
    Tcp {
        /// `host:port`.
        address: String,
        /// How often.
        interval: Duration,
        /// How long one may take.
        timeout: Duration,
    },
    /// The application reports by itself, and is critical when it has not for so long.
    Ttl {
        /// How long.
        ttl: Duration,
    },
}

impl CheckKind {
    /// Returns the kind as the catalog writes it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Tcp { .. } => "tcp",
            Self::Ttl { .. } => "ttl",
        }
    }
}

impl Shape for CheckDefinition {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        // Kinds first: that a script is not run matters more than what else is wrong.
        fields.unsupported(&OTHER_KINDS)?;
        let id = match (fields.parsed("CheckID")?, fields.parsed("ID")?) {
            (Some(id), Some(other)) if id != other => {
                return Err(fields.refuse("ID", format!("it differs from CheckID, which is `{id}`; keep one of them")));
            }
            (id, other) => id.or(other),
        };
        default_partition(fields, "Partition")?;
        let definition = Self {
            id,
            name: fields.text("Name")?,
            service_id: fields.parsed("ServiceID")?,
            namespace: fields.parsed("Namespace")?.unwrap_or_default(),
            kind: read_kind(fields)?,
            status: fields.parsed("Status")?.unwrap_or(CheckStatus::Critical),
            notes: fields.text("Notes")?,
        };
        // Redirects are never followed, so both values come to the same.
        fields.flag("DisableRedirects")?;
        fields.unsupported(&[
            "DeregisterCriticalServiceAfter",
            "TLSServerName",
            "TLSSkipVerify",
            "TCPUseTLS",
            "GRPCUseTLS",
            "H2PingUseTLS",
            "SuccessBeforePassing",
            "FailuresBeforeWarning",
            "FailuresBeforeCritical",
            "OutputMaxSize",
            "Token",
            "EnterpriseMeta",
            "ExposedPort",
        ])?;
        Ok(definition)
    }
}

fn read_kind(fields: &mut Fields) -> Result<CheckKind, DecodeError> {
    let (http, tcp, ttl) = (fields.text("HTTP")?, fields.text("TCP")?, fields.duration("TTL")?);
    let (method, header, body) = (fields.text("Method")?, read_header(fields)?, fields.text("Body")?);
    let (interval, timeout) = (fields.duration("Interval")?, fields.duration("Timeout")?);
    let kinds = usize::from(!http.is_empty()) + usize::from(!tcp.is_empty()) + usize::from(ttl.is_some());
    if kinds != 1 {
        return Err(fields.refuse("HTTP", "a check has exactly one of HTTP, TCP and TTL; set one of them"));
    }
    if let Some(ttl) = ttl {
        return Ok(CheckKind::Ttl { ttl });
    }
    let Some(interval) = interval else {
        return Err(DecodeError::Missing { path: fields.path_to("Interval") });
    };
    let timeout = timeout.unwrap_or(TIMEOUT);
    if http.is_empty() {
        return match split_address(&tcp) {
            Some(_) => Ok(CheckKind::Tcp { address: tcp, interval, timeout }),
            None => Err(fields.refuse("TCP", "it is not an address; write `host:port`")),
        };
    }
    check_url(&http).map_err(|reason| fields.refuse("HTTP", reason))?;
    let method = if method.is_empty() { Method::GET.to_string() } else { method.to_ascii_uppercase() };
    // HTTP calls any token a method; those of the standard are all in capitals.
    if !method.bytes().all(|byte| byte.is_ascii_uppercase()) || method == "CONNECT" {
        return Err(fields.refuse("Method", "it is not a method of HTTP; use GET, HEAD or another"));
    }
    Ok(CheckKind::Http { url: http, method, header, body, interval, timeout })
}

fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    if host.is_empty() { None } else { Some((host, port)) }
}

fn check_url(url: &str) -> Result<(), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "it is not a URL; write `http://host:port/path`")?;
    if uri.scheme() == Some(&Scheme::HTTPS) {
        return Err("checks over HTTPS are not made yet; use an http URL, or a TCP check");
    }
    if uri.scheme() != Some(&Scheme::HTTP) || uri.host().is_none_or(str::is_empty) {
        return Err("it is not an http URL with a host; write `http://host:port/path`");
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("a URL holds no credentials; send them in Header");
    }
    Ok(())
}

fn read_header(fields: &mut Fields) -> Result<BTreeMap<String, Vec<String>>, DecodeError> {
    let header = fields.map("Header", |value, path| {
        let values = match value {
            Value::Array(values) => values,
            single => vec![single],
        };
        let texts = values.into_iter().map(|value| match value {
            Value::String(text) if HeaderValue::from_str(&text).is_ok() => Ok(text),
            // The value may be a credential, so the error does not repeat it.
            _ => Err(DecodeError::Value { path: path.to_owned(), reason: "it is not a header's value".to_owned() }),
        });
        texts.collect()
    })?;
    match header.keys().find(|name| HeaderName::from_bytes(name.as_bytes()).is_err()) {
        Some(name) => Err(fields.refuse("Header", format!("`{}` is not a header's name", name.escape_debug()))),
        None => Ok(header),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::from_value;

    fn read(value: Value) -> Result<CheckDefinition, DecodeError> {
        from_value(value, "check")
    }

    #[track_caller]
    fn refused(value: Value, want: &str) {
        let error = read(value).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn reads_an_http_check_in_either_spelling() {
        let want = CheckKind::Http {
            url: "http://127.0.0.1:8080/health".to_owned(),
            method: "POST".to_owned(),
            header: BTreeMap::from([("Accept".to_owned(), vec!["a".to_owned(), "b".to_owned()])]),
            body: "x".to_owned(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
        };
        let api = json!({
            "HTTP": "http://127.0.0.1:8080/health", "Method": "POST", "Header": {"Accept": ["a", "b"]}, "Body": "x",
            "Interval": "10s", "Timeout": "1s", "TTL": "", "ScriptArgs": [], "GRPCUseTLS": false, "AliasNode": ""
        });
        let file = json!({
            "http": "http://127.0.0.1:8080/health", "method": "post", "header": {"Accept": ["a", "b"]}, "body": "x",
            "interval": 10_000_000_000_u64, "timeout": "1s"
        });
        assert_eq!(read(api).unwrap().kind, want);
        assert_eq!(read(file).unwrap().kind, want);
    }

    #[test]
    fn reads_tcp_and_ttl_checks() {
        let tcp = read(json!({"TCP": "db:5432", "Interval": "5s", "CheckID": "tcp", "Status": "passing"})).unwrap();
        assert_eq!((tcp.kind.as_str(), tcp.status), ("tcp", CheckStatus::Passing));
        assert_eq!(tcp.id, Some("tcp".parse().unwrap()));
        let ttl = read(json!({"TTL": "30s", "ServiceID": "web-1"})).unwrap();
        assert_eq!(ttl.kind, CheckKind::Ttl { ttl: Duration::from_secs(30) });
        assert_eq!((ttl.status, ttl.service_id), (CheckStatus::Critical, Some("web-1".parse().unwrap())));
    }

    #[test]
    fn a10_script_checks_and_other_kinds_are_refused_by_name() {
        for (name, value) in [
            ("ScriptArgs", json!(["/bin/sh"])),
            ("Args", json!(["/bin/sh"])),
            ("Script", json!("x")),
            ("DockerContainerID", json!("x")),
            ("GRPC", json!("127.0.0.1:1")),
            ("H2PING", json!("127.0.0.1:1")),
            ("UDP", json!("127.0.0.1:1")),
            ("OSService", json!("x")),
            ("AliasService", json!("web")),
        ] {
            refused(json!({ name: value, "Interval": "10s" }), &format!("`check.{name}` is not supported by weft"));
        }
    }

    #[test]
    fn a_check_is_of_exactly_one_kind() {
        refused(json!({}), "exactly one of HTTP, TCP and TTL");
        refused(json!({"TTL": "1s", "TCP": "a:1", "Interval": "1s"}), "exactly one of HTTP, TCP and TTL");
        refused(json!({"HTTP": "http://a/"}), "`check.Interval` is missing");
        refused(json!({"TCP": "a", "Interval": "1s"}), "write `host:port`");
        refused(json!({"TCP": "a:70000", "Interval": "1s"}), "write `host:port`");
    }

    #[test]
    fn a9_only_http_urls_are_checked() {
        let check = |url: &str| json!({"HTTP": url, "Interval": "10s"});
        refused(check("file:///etc/passwd"), "`check.HTTP`");
        refused(check("gopher://a/"), "not an http URL");
        refused(check("https://a/"), "HTTPS are not made yet");
        refused(check("/health"), "not an http URL");
        refused(check("http://user:secret@a/"), "no credentials");
        refused(check("http://a b/"), "not a URL");
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        refused(
            json!({"TTL": "1s", "DeregisterCriticalServiceAfter": "90m"}),
            "DeregisterCriticalServiceAfter` is not",
        );
        refused(json!({"TTL": "1s", "SuccessBeforePassing": 3}), "SuccessBeforePassing` is not supported");
        refused(json!({"TTL": "1s", "CheckID": "a", "ID": "b"}), "it differs from CheckID");
        refused(json!({"TTL": "1s", "Status": "maintenance"}), "no check status");
        refused(json!({"HTTP": "http://a/", "Interval": "1s", "Header": {"X": ["a\nb"]}}), "`check.Header.X`");
        refused(json!({"HTTP": "http://a/", "Interval": "1s", "Header": {"a b": ["x"]}}), "not a header's name");
        refused(json!({"HTTP": "http://a/", "Interval": "1s", "Method": "GET X"}), "`check.Method`");
    }
}
