//! A collector of spans, as agents export them: OTLP over gRPC on a port of loopback.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// Is a span as a test looks at it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) trace: Vec<u8>,
    pub(crate) kind: SpanKind,
    attributes: Vec<KeyValue>,
}

impl Seen {
    /// Returns what the span says under a key, as text; empty where it says nothing.
    pub(crate) fn attribute(&self, key: &str) -> String {
        let found = self.attributes.iter().find(|attribute| attribute.key == key);
        match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            other => other.map(|value| format!("{value:?}")).unwrap_or_default(),
        }
    }
}

impl From<Span> for Seen {
    fn from(span: Span) -> Self {
        Self { kind: span.kind(), trace: span.trace_id, attributes: span.attributes }
    }
}

/// Remembers every span that was sent to it.
#[derive(Clone)]
pub(crate) struct Collector {
    /// Where agents send them.
    pub(crate) endpoint: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self { endpoint, seen: Arc::default() };
        let service = TraceServiceServer::new(collector.clone());
        let incoming = futures_util::stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        collector
    }

    /// Returns the spans of a request, by its id.
    pub(crate) fn of(&self, request_id: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|span| span.attribute("weft.request_id") == request_id).cloned().collect()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter();
        let spans = spans.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.seen.lock().unwrap().extend(spans.map(Seen::from));
        Ok(Response::new(ExportTraceServiceResponse { partial_success: None }))
    }
}
