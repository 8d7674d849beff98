//! Carries the `raft` crate's log lines, which are slog's, into `tracing`.

use std::fmt::{self, Write};

use slog::{Drain, KV, Level, Logger, Never, OwnedKVList, Record};

/// Returns a logger for the `raft` crate.
///
/// Its `info` lines speak of every vote and become `debug`; its own `debug` and `trace` lines speak of every message
/// and are dropped.
pub(crate) fn logger() -> Logger {
    Logger::root(Tracing, slog::o!())
}

struct Tracing;

impl Drain for Tracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let enabled = match record.level() {
            Level::Critical | Level::Error => tracing::enabled!(tracing::Level::ERROR),
            Level::Warning => tracing::enabled!(tracing::Level::WARN),
            Level::Info => tracing::enabled!(tracing::Level::DEBUG),
            Level::Debug | Level::Trace => false,
        };
        if !enabled {
            return Ok(());
        }
        let mut line = Line(record.msg().to_string());
        // Writing into a string fails never; a value that refuses to be formatted is left out of the line.
        let _ = record.kv().serialize(record, &mut line);
        let _ = values.serialize(record, &mut line);
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(detail = %line.0, "raft reports an error"),
            Level::Warning => tracing::warn!(detail = %line.0, "raft warns"),
            _ => tracing::debug!(detail = %line.0, "raft reports"),
        }
        Ok(())
    }
}

/// Collects the key-value pairs of a record behind its message.
struct Line(String);

impl slog::Serializer for Line {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(slog::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_value_pairs_follow_the_message() {
        let mut line = Line("became leader".to_owned());
        slog::Serializer::emit_u64(&mut line, "term", 7).unwrap();
        slog::Serializer::emit_str(&mut line, "role", "leader").unwrap();
        assert_eq!(line.0, "became leader term=7 role=leader");
    }
}
