//! How a failure is told: what failed, why, and what to do.

use std::{error::Error, fmt, io, process::ExitCode};

use super::output::printable;

/// Is a failure that comes with advice.
#[derive(Debug)]
pub(super) struct Hinted {
    message: String,
    hint: String,
}

/// Makes a failure that comes with advice.
pub(super) fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hinted { message: message.into(), hint: hint.into() })
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Hinted {}

fn hint_of(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let own = cause.downcast_ref::<Hinted>().map(|hinted| hinted.hint.clone());
        own.or_else(|| cause.downcast_ref::<wire::client::ApiError>().and_then(|error| error.hint()).map(String::from))
    })
}

/// Tells a failure on standard error; returns the status to end with.
#[expect(clippy::print_stderr, reason = "errors go to standard error")]
pub(super) fn tell(error: &anyhow::Error) -> ExitCode {
    let is_broken_pipe = |cause: &(dyn Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    // Whoever reads our output has had enough of it; that is no failure.
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {}", printable(&error.to_string()));
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {}", printable(&cause.to_string()));
    }
    if let Some(hint) = hint_of(error) {
        eprintln!("hint: {}", printable(&hint));
    }
    ExitCode::from(2)
}
