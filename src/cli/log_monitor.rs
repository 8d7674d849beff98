//! Hands log lines to whoever listens to this process over the API.

use std::io::{self, Write};

use tracing::{Level, Metadata, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{
    fmt::MakeWriter,
    layer::{Context, Filter},
};
use wire::log_monitor::{LineForm, hand_out, wanted};

/// The parts of weft: what others log of a connection may name what it carries, which is for the operator's own filter alone.
const PARTS: [&str; 6] = ["weft", "server", "agent", "connectors", "wire", "catalog"];

/// Takes the lines of one form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Monitor(pub(super) LineForm);

impl Monitor {
    fn takes(self, metadata: &Metadata<'_>) -> bool {
        let part = metadata.target().split("::").next().unwrap_or_default();
        *metadata.level() <= wanted(self.0) && PARTS.contains(&part)
    }
}

impl<S> Filter<S> for Monitor {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.takes(metadata)
    }

    // Asked again whenever somebody begins or ends to listen, so that an event costs nothing while nobody does.
    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.takes(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(wanted(self.0))
    }
}

/// Gathers one line; dropping it hands it out.
#[derive(Debug)]
pub(super) struct Line {
    form: LineForm,
    level: Level,
    bytes: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            hand_out(self.form, self.level, &self.bytes);
        }
    }
}

impl<'a> MakeWriter<'a> for Monitor {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { form: self.0, level: Level::ERROR, bytes: Vec::new() }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line { form: self.0, level: *metadata.level(), bytes: Vec::new() }
    }
}
