//! Logins by the word of AWS: an agent signs a question with its role's credentials, a server asks it, and AWS answers who
//! signed.
//!
//! What travels holds no more than what the signature covers and a server cannot know: the endpoint, the time, a session
//! token and the signature. The question itself, the names of its headers, the mesh and the agent's key are put in by the
//! server, so that a signature over anything else does not fit, and nothing of a caller's own reaches AWS.

mod check;
mod endpoints;
mod reply;
mod sign;
#[cfg(test)]
mod testing;

use std::time::Duration;

use catalog::Timestamp;
use serde::{Deserialize, Serialize};

pub use check::AwsLogins;
pub use sign::AwsCredentials;

/// The one question that is asked: who has signed this.
const QUESTION: &str = "Action=GetCallerIdentity&Version=2011-06-15";
const CONTENT_TYPE: &str = "application/x-www-form-urlencoded; charset=utf-8";
/// The header that names the mesh which a login is for.
const CLUSTER_HEADER: &str = "x-weft-cluster";
/// The header that names the key of the agent that logs in.
const KEY_HEADER: &str = "x-weft-key";
const DATE_HEADER: &str = "x-amz-date";
const TOKEN_HEADER: &str = "x-amz-security-token";
/// How old a signature may be.
const AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// How far the signer's clock may be ahead.
const AHEAD_MAX: Duration = Duration::from_secs(5 * 60);

/// Is a signed question, as it travels: JSON with these fields, in this order, and no spaces.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    /// The endpoint that it was signed for.
    endpoint: String,
    /// When it was signed.
    date: String,
    /// The token of the credentials' session; those of a user have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    security_token: Option<String>,
    /// The header `Authorization`.
    authorization: String,
}

impl std::fmt::Debug for Signed {
    /// Leaves out what is as good as a password.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Signed({}, {})", self.endpoint, self.date)
    }
}

impl Signed {
    /// Returns the names of the headers that the signature must cover, exactly.
    fn signed_headers(&self) -> &'static str {
        match self.security_token {
            Some(_) => "content-type;host;x-amz-date;x-amz-security-token;x-weft-cluster;x-weft-key",
            None => "content-type;host;x-amz-date;x-weft-cluster;x-weft-key",
        }
    }
}

/// Reads the time of a signature: `20261121T080000Z`.
fn read_date(text: &str) -> Option<Timestamp> {
    let is_form = text.len() == 16
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 => b == b'T',
            15 => b == b'Z',
            _ => b.is_ascii_digit(),
        });
    if !is_form {
        return None;
    }
    let (year, month, day) = (&text[..4], &text[4..6], &text[6..8]);
    let (hour, minute, second) = (&text[9..11], &text[11..13], &text[13..15]);
    wire::rfc3339::parse(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")).ok()
}
