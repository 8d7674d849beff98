//! Why a call has no answer of success.

use std::io;
use std::path::PathBuf;

use http::{Method, StatusCode};

/// Longest part of an error's text that is repeated.
const MESSAGE_CHARACTERS_MAX: usize = 1024;

/// Names what kept a call from its answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address has another form.
    #[error("`{}` is not the address of an API", address.escape_debug())]
    Address {
        /// The text as it was given.
        address: String,
    },
    /// The file of trusted certificates cannot be used.
    #[error("cannot read the CA certificates in `{}`", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// Nothing says whom to trust.
    #[error("no CA certificates are named for {address}")]
    NoCaFile {
        /// The address that was to be called.
        address: String,
    },
    /// A token would cross a network in clear text.
    #[error("the token is not sent to {address}, which is neither this machine nor reached by https")]
    TokenInClear {
        /// The address that was to be called.
        address: String,
    },
    /// The token cannot stand in a header.
    #[error("the token holds characters that no token has")]
    TokenForm,
    /// Nobody answers there.
    #[error("cannot reach {address}")]
    Unreachable {
        /// The address that was called.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The request cannot be put together.
    #[error("the request for {path} cannot be made")]
    Request {
        /// The path that was to be asked.
        path: String,
        /// Why not.
        #[source]
        source: http::Error,
    },
    /// The body cannot be written.
    #[error("the body for {path} cannot be written")]
    Encode {
        /// The path that was to be asked.
        path: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A read got no answer.
    #[error("{address} gave no answer: {reason}")]
    NoAnswer {
        /// The address that was called.
        address: String,
        /// What happened.
        reason: String,
        /// What happened underneath.
        #[source]
        source: Option<hyper::Error>,
    },
    /// A write got no answer: it may have been carried out or not.
    #[error("it is unknown whether {address} carried the change out: {reason}")]
    OutcomeUnknown {
        /// The address that was called.
        address: String,
        /// What happened.
        reason: String,
        /// What happened underneath.
        #[source]
        source: Option<hyper::Error>,
    },
    /// The answer is larger than any that makes sense.
    #[error("the answer to {path} is larger than {limit_bytes} bytes")]
    AnswerTooLarge {
        /// The path that was asked.
        path: String,
        /// The bound.
        limit_bytes: usize,
    },
    /// The answer says that it did not work.
    #[error("{method} {path} was answered with {}: {message}", status.as_u16())]
    Status {
        /// The method.
        method: Method,
        /// The path that was asked.
        path: String,
        /// The status.
        status: StatusCode,
        /// The first line of the answer, without control characters.
        message: String,
    },
    /// The answer is not what the path answers with.
    #[error("the answer to {path} cannot be read")]
    Decode {
        /// The path that was asked.
        path: String,
        /// Where reading failed.
        #[source]
        source: serde_json::Error,
    },
}

impl ApiError {
    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Address { .. } => Some("write `host:port`, `http://host:port` or `https://host:port`"),
            Self::CaFile { .. } => Some("--cacert or WEFT_CACERT names a file of PEM certificates"),
            Self::NoCaFile { .. } => Some("name the file of the CA's certificates with --cacert or WEFT_CACERT"),
            Self::TokenInClear { .. } => Some("use an https address, or run this beside the agent or server"),
            Self::TokenForm => Some("copy the SecretID again, without quotes or line breaks"),
            Self::Unreachable { .. } => {
                Some("is a weft server or agent running there? set --http-addr or WEFT_HTTP_ADDR to another address")
            }
            Self::OutcomeUnknown { .. } => Some("look at the present state before you repeat it"),
            Self::Status { status, .. } if *status == StatusCode::FORBIDDEN => {
                Some("set WEFT_HTTP_TOKEN_FILE or --token-file to the file of a token that may do this")
            }
            Self::Decode { .. } => {
                Some("is it a weft server or agent that answers there, and of a release near this one?")
            }
            Self::NoAnswer { .. } => {
                Some("is that the port of the HTTP API, 8500 by default? where it is served over TLS write `https://`")
            }
            Self::Request { .. } | Self::Encode { .. } | Self::AnswerTooLarge { .. } | Self::Status { .. } => None,
        }
    }

    /// Returns the status of the answer, if there was one.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Returns the first line of an error's text, as it may be shown on a terminal.
pub(super) fn first_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MESSAGE_CHARACTERS_MAX)]);
    let line = text.lines().next().unwrap_or_default();
    let mut shown = String::new();
    for character in line.chars().take(MESSAGE_CHARACTERS_MAX) {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}
