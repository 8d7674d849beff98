//! How a failure is told: what failed, why, and what to do.

use std::{
    error::Error,
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use super::output::printable;

/// Is a failure that comes with advice.
#[derive(Debug)]
pub(super) struct Hinted {
    message: String,
    hint: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// Makes a failure that comes with advice.
pub(super) fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hinted { message: message.into(), hint: hint.into(), source: None })
}

/// Makes a failure of what another failure caused, with advice.
pub(super) fn hinted_by(source: anyhow::Error, message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hinted { message: message.into(), hint: hint.into(), source: Some(source.into()) })
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

fn hint_of(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let own = cause.downcast_ref::<Hinted>().map(|hinted| hinted.hint.as_str());
        own.or_else(|| cause.downcast_ref::<wire::client::ApiError>().and_then(wire::client::ApiError::hint))
            .or_else(|| {
                cause.downcast_ref::<agent::joining::JoiningError>().and_then(agent::joining::JoiningError::hint)
            })
            .or_else(|| cause.downcast_ref::<agent::EnrolError>().and_then(hint_of_enrolment))
            .map(str::to_owned)
    })
}

fn hint_of_enrolment(error: &agent::EnrolError) -> Option<&'static str> {
    match error {
        agent::EnrolError::Refused { .. } => Some(
            "make a join token for this node with `weft join-token create`, and name its file with --join-token-file",
        ),
        agent::EnrolError::NoToken | agent::EnrolError::NoServer | agent::EnrolError::Answer { .. } => None,
    }
}

/// Tells a failure on standard error; returns the status to end with.
pub(super) fn tell(error: &anyhow::Error) -> ExitCode {
    let mut text = format!("error: {}\n", printable(&error.to_string()));
    for cause in error.chain().skip(1) {
        text += &format!("  caused by: {}\n", printable(&cause.to_string()));
    }
    if let Some(hint) = hint_of(error) {
        text += &format!("hint: {}\n", printable(&hint));
    }
    // Where nobody listens the status still tells.
    let _unheard = io::stderr().lock().write_all(text.as_bytes());
    ExitCode::from(2)
}
