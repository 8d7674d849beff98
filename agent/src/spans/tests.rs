//! Spans, as a real collector gets them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tonic::{Request, Response};

use super::*;
use crate::metrics::Metrics;
use crate::testing::agent::eventually;

/// Remembers spans, each with the service that its resource names.
#[derive(Clone, Default)]
pub(crate) struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, tonic::Status> {
        for resource_spans in request.into_inner().resource_spans {
            let resource = resource_spans.resource.unwrap();
            let named = resource.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
            let service = format!("{:?}", named.value.as_ref().unwrap().value);
            let spans = resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse { partial_success: None }))
    }
}

impl Collector {
    /// Starts a collector and returns it with its address.
    pub(crate) async fn start() -> (Self, SocketAddr) {
        Self::start_with(None).await
    }

    async fn start_with(identity: Option<tonic::transport::Identity>) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (collector, address) = (Self::default(), listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        let incoming = futures_util::stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let mut server = tonic::transport::Server::builder();
        if let Some(identity) = identity {
            server = server.tls_config(tonic::transport::ServerTlsConfig::new().identity(identity)).unwrap();
        }
        tokio::spawn(server.add_service(service).serve_with_incoming(incoming));
        (collector, address)
    }

    /// Returns the spans that came so far, each with its service.
    pub(crate) fn spans(&self) -> Vec<(String, Span)> {
        self.0.lock().unwrap().clone()
    }
}

/// Returns what a span says under a key, as text.
pub(crate) fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    found.map_or_else(String::new, |attribute| format!("{:?}", attribute.value.as_ref().unwrap().value))
}

pub(crate) fn settings(endpoint: &str, sample: f64) -> TracingSettings {
    TracingSettings { endpoint: endpoint.to_owned(), authorities: None, sample, node: "n1".parse().unwrap() }
}

fn headers(parent: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::header::HeaderName::from_static(TRACE_PARENT), parent.parse().unwrap())])
}

fn about() -> About {
    About { service: Arc::from("default/api"), attributes: Vec::new(), name: "GET".into(), is_error: false }
}

#[tokio::test]
async fn a_parents_word_counts_and_of_new_traces_a_share_is_recorded() {
    let metrics = Metrics::new();
    let start = |sample| Spans::start(&settings("http://127.0.0.1:9", sample), metrics.proxy.spans()).unwrap();
    let (all, none) = (start(1.0), start(0.0));
    let [recorded, unrecorded] = ["01", "00"].map(|flags| format!("00-{:032x}-{:016x}-{flags}", 7, 9));
    for spans in [&all, &none] {
        let mut head = headers(&recorded);
        let open = spans.begin(Direction::Inbound, &mut head, false).expect("the caller asked for it");
        assert_eq!((open.trace, open.parent), (TraceId::from(7_u128), SpanId::from(9_u64)));
        assert_eq!(head[TRACE_PARENT], format!("00-{:032x}-{}-01", 7, open.span));
        let mut head = headers(&unrecorded);
        assert!(spans.begin(Direction::Inbound, &mut head, false).is_none());
        assert_eq!(head[TRACE_PARENT], unrecorded, "what is not recorded goes on as it came");
    }
    let open = all.begin(Direction::Outbound, &mut headers(&unrecorded), true).unwrap();
    assert_eq!(open.parent, SpanId::INVALID);
    assert!(none.begin(Direction::Outbound, &mut headers(&unrecorded), true).is_none());
}

#[tokio::test]
async fn fault_44_a_collector_that_never_answers_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let metrics = Metrics::new();
    let spans = Spans::start(&settings(&endpoint, 1.0), metrics.proxy.spans()).unwrap();
    let parent = format!("00-{:032x}-{:016x}-01", 7, 9);
    let started = std::time::Instant::now();
    for _ in 0..WAITING_MAX + 2000 {
        spans.begin(Direction::Inbound, &mut headers(&parent), false).unwrap().end(about());
    }
    assert!(started.elapsed() < Duration::from_secs(10));
    let text = metrics.text();
    let dropped = text.lines().find_map(|line| line.strip_prefix("weft_proxy_spans_total{outcome=\"dropped\"} "));
    assert!(dropped.unwrap().parse::<u64>().unwrap() >= 1000, "{text}");
}

#[test]
fn what_is_no_endpoint_of_a_collector_or_has_a_password_in_it_is_refused() {
    for wrong in ["", "127.0.0.1:4317", "ftp://collector:4317", "http://", "https://user:secret@collector:4317"] {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let error = Spans::start(&settings(wrong, 1.0), Metrics::new().proxy.spans()).unwrap_err().to_string();
        assert!(error.contains("use `https://host:port`") && !error.contains("\n"), "{error}");
    }
}

#[tokio::test]
async fn a_collector_elsewhere_is_spoken_to_over_tls_and_must_be_who_it_says() {
    let authority = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (pem, key) = (authority.cert.pem(), authority.signing_key.serialize_pem());
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem();
    let (collector, address) = Collector::start_with(Some(tonic::transport::Identity::from_pem(&pem, key))).await;
    let endpoint = format!("https://localhost:{}", address.port());
    let parent = format!("00-{:032x}-{:016x}-01", 7, 9);
    for (authorities, outcome) in [(pem.clone(), "sent"), (stranger, "lost")] {
        let metrics = Metrics::new();
        let settings = TracingSettings { authorities: Some(authorities), ..settings(&endpoint, 1.0) };
        let spans = Spans::start(&settings, metrics.proxy.spans()).unwrap();
        spans.begin(Direction::Inbound, &mut headers(&parent), false).unwrap().end(about());
        let wanted = format!("weft_proxy_spans_total{{outcome=\"{outcome}\"}} 1");
        eventually(async || metrics.text().contains(&wanted)).await;
    }
    assert_eq!(collector.spans().len(), 1, "only whoever was vouched for got any");
    let clear = TracingSettings { authorities: Some(pem), ..settings("http://127.0.0.1:4317", 1.0) };
    let error = Spans::start(&clear, Metrics::new().proxy.spans()).unwrap_err().to_string();
    assert!(error.contains("use `https://`"), "{error}");
}
