//! A line of the access log. A query is left out, for it may hold what is nobody's business.

use http::header::HeaderValue;
use http::uri::PathAndQuery;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Decided, End, Notes};
use crate::access_log::{Field, Fields};
use crate::metrics::{Direction, PairCounters};

/// Is one line.
pub(super) struct Line<'a> {
    pub(super) notes: &'a Notes,
    pub(super) direction: Direction,
    pub(super) counters: &'a PairCounters,
    pub(super) end: &'a End,
    pub(super) fields: Fields,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { notes, counters, end, .. } = self;
        let mut line = Writer { map: serializer.serialize_map(None)?, fields: self.fields };
        let text =
            |value: &Option<HeaderValue>| value.as_ref().and_then(|value| value.to_str().ok().map(str::to_owned));
        let trace = text(&notes.trace);
        let of_trace = |place: usize| trace.as_ref().and_then(|trace| trace.split('-').nth(place));
        line.write(Field::Time, Some(wire::crypto::now().0))?;
        line.write(Field::Direction, Some(self.direction.as_str()))?;
        line.write(Field::Source, Some(&counters.source))?;
        line.write(Field::Destination, Some(&counters.destination))?;
        line.write(Field::From, Some(notes.from))?;
        line.write(Field::Method, Some(notes.method.as_str()))?;
        line.write(Field::Authority, notes.authority.as_ref())?;
        line.write(Field::Path, Some(notes.target.as_ref().map_or("", PathAndQuery::path)))?;
        line.write(Field::UserAgent, text(&notes.user_agent))?;
        line.write(Field::Status, Some(end.status.as_u16()))?;
        line.write(Field::Reason, Some(end.reason))?;
        line.write(Field::Decision, notes.decided.as_ref().map(|Decided { decision, .. }| decision))?;
        line.write(Field::Rule, notes.decided.as_ref().map(|Decided { rule, .. }| rule))?;
        line.write(Field::BytesSent, Some(end.bytes_sent))?;
        line.write(Field::BytesReceived, Some(end.bytes_recv))?;
        line.write(Field::Duration, Some(end.duration_ms))?;
        line.write(Field::RequestId, text(&notes.request_id))?;
        line.write(Field::TraceId, of_trace(1))?;
        line.write(Field::SpanId, of_trace(2))?;
        line.map.end()
    }
}

struct Writer<M> {
    map: M,
    fields: Fields,
}

impl<M: SerializeMap> Writer<M> {
    /// Writes a field that was chosen and of which there is something to tell.
    fn write<T: Serialize>(&mut self, field: Field, value: Option<T>) -> Result<(), M::Error> {
        match value.filter(|_| self.fields.has(field)) {
            Some(value) => self.map.serialize_entry(field.name(), &value),
            None => Ok(()),
        }
    }
}
