//! Hands log lines to whoever listens to this process over the API.

use tracing::{Level, Metadata, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{
    fmt::MakeWriter,
    layer::{Context, Filter},
};
use wire::log_monitor::{LineForm, hand_out, wanted};

use super::log_line::{Line, TakeLine};

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

/// Hands lines of one form and level out.
#[derive(Debug)]
pub(super) struct HandOut {
    form: LineForm,
    level: Level,
}

impl TakeLine for HandOut {
    fn take(&mut self, line: Vec<u8>) {
        hand_out(self.form, self.level, &line);
    }
}

impl<'a> MakeWriter<'a> for Monitor {
    type Writer = Line<HandOut>;

    fn make_writer(&'a self) -> Line<HandOut> {
        Line::new(HandOut { form: self.0, level: Level::ERROR })
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<HandOut> {
        Line::new(HandOut { form: self.0, level: *metadata.level() })
    }
}
