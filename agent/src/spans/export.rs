//! Sending spans that are over: in batches, by the local service that they are of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Finished, TracingError, TracingSettings};
use crate::metrics::SpanMetrics;

/// Spans are sent once this many wait, or this long after the first of them.
const BATCH_MAX: usize = 512;
const BATCH_WAIT: Duration = Duration::from_millis(1000);
/// Time for one batch.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Makes an exporter for each local service: spans of one service say so together.
#[derive(Debug)]
pub(super) struct Exporters {
    settings: TracingSettings,
    by_service: BTreeMap<Arc<str>, SpanExporter>,
}

impl Exporters {
    /// Prepares to export; nobody is dialled yet.
    ///
    /// # Errors
    ///
    /// [`TracingError::Exporter`].
    pub(super) fn new(settings: &TracingSettings) -> Result<Self, TracingError> {
        build(settings, "default/weft")?;
        Ok(Self { settings: settings.clone(), by_service: BTreeMap::new() })
    }

    /// Sends spans of one service; says whether they arrived.
    async fn export(&mut self, service: Arc<str>, spans: Vec<SpanData>) -> bool {
        let exporter = match self.by_service.get(&service) {
            Some(exporter) => exporter,
            None => match build(&self.settings, &service) {
                Ok(exporter) => self.by_service.entry(service).or_insert(exporter),
                Err(error) => {
                    tracing::debug!(error = %wire::one_line(&error), "spans not sent");
                    return false;
                }
            },
        };
        match tokio::time::timeout(TIMEOUT, exporter.export(spans)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(error = %wire::one_line(&error), "spans not sent");
                false
            }
            Err(_) => false,
        }
    }
}

fn build(settings: &TracingSettings, service: &str) -> Result<SpanExporter, TracingError> {
    let mut builder =
        SpanExporter::builder().with_tonic().with_endpoint(settings.endpoint.clone()).with_timeout(TIMEOUT);
    if settings.endpoint.starts_with("https:") {
        let tls = ClientTlsConfig::new();
        builder = builder.with_tls_config(match &settings.authorities {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        });
    }
    let mut exporter =
        builder.build().map_err(|source| TracingError::Exporter { endpoint: settings.endpoint.clone(), source })?;
    let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
    exporter.set_resource(
        &Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", name.to_owned()),
                KeyValue::new("service.namespace", namespace.to_owned()),
                KeyValue::new("service.instance.id", format!("{}/{service}", settings.node)),
                KeyValue::new("host.name", settings.node.to_string()),
                KeyValue::new("telemetry.sdk.name", "opentelemetry"),
                KeyValue::new("telemetry.sdk.language", "rust"),
            ])
            .build(),
    );
    Ok(exporter)
}

/// Sends spans until nobody makes any.
pub(super) async fn run(mut exporters: Exporters, mut finished: mpsc::Receiver<Finished>, metrics: SpanMetrics) {
    while let Some(first) = finished.recv().await {
        let mut batch: BTreeMap<Arc<str>, Vec<SpanData>> = BTreeMap::new();
        let deadline = Instant::now() + BATCH_WAIT;
        let mut next = Some(first);
        let mut count = 0;
        while let Some(Finished { service, data }) = next {
            batch.entry(service).or_default().push(data);
            count += 1;
            next = match count < BATCH_MAX {
                true => tokio::time::timeout_at(deadline, finished.recv()).await.ok().flatten(),
                false => None,
            };
        }
        for (service, spans) in batch {
            let count = spans.len() as u64;
            if exporters.export(service, spans).await {
                metrics.sent.inc_by(count)
            } else {
                metrics.lost.inc_by(count)
            };
        }
    }
}
