//! The metrics of applications, fetched when somebody asks for the agent's and told on one page with them.

mod page;
#[cfg(test)]
mod tests;
mod text;

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use catalog::{Instance, ServiceKey};
use futures_util::future::join_all;
use http::header::{ACCEPT, CONNECTION, HOST};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tracing::{debug, warn};

use super::admin::OPENMETRICS;
use crate::checks::{LeadsOn, connect};
use crate::core::Status;
use crate::proxy::Proxy;

/// What one application tells may take this long, and be this large.
const TIMEOUT: Duration = Duration::from_secs(2);
const BYTES_MAX: usize = 1024 * 1024;
const LINES_MAX: usize = 50_000;
/// What the page is once applications are on it, since most of them write this form.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An application that is asked for its metrics.
struct Asked {
    service: ServiceKey,
    /// The instance's id, where the agent stands before several of the service that are asked.
    instance: Option<String>,
}

/// Answers with the agent's own metrics, and with those of the applications that are asked for, none of them where the
/// agent's own calls would be carried on.
pub(super) async fn answer(own: String, running: Option<(Arc<Status>, Arc<Proxy>)>) -> Response {
    let only_own = |own: String| ([(http::header::CONTENT_TYPE, OPENMETRICS)], own).into_response();
    let Some((status, proxy)) = running else { return only_own(own) };
    let services = status.services.iter();
    let asked: Vec<(&Instance, &Uri)> =
        services.filter_map(|it| Some((&it.instance, it.metrics_url.as_ref()?))).collect();
    if asked.is_empty() {
        return only_own(own);
    }
    let leads_on: LeadsOn = Arc::new(move |address| proxy.leads_on(address));
    let fetched =
        join_all(asked.iter().map(|(_, url)| async { tokio::time::timeout(TIMEOUT, fetch(url, &leads_on)).await }))
            .await;
    let fetched: Vec<Option<String>> = fetched.into_iter().map(|text| text.ok().flatten()).collect();
    let asked = Asked::of(asked.into_iter().map(|(instance, _)| instance));
    match merged(&own, &asked, &fetched) {
        Ok(page) => ([(http::header::CONTENT_TYPE, PROMETHEUS)], page).into_response(),
        Err(error) => {
            warn!(%error, "the agent's own metrics cannot be read; those of applications do not follow");
            only_own(own)
        }
    }
}

impl Asked {
    /// Names instances by their services, and by their ids where that would not tell them apart.
    fn of<'a>(instances: impl Iterator<Item = &'a Instance> + Clone) -> Vec<Self> {
        let is_one_of_several = |one: &Instance| {
            let service = one.service_key();
            instances.clone().filter(|it| it.service_key() == service).nth(1).is_some()
        };
        let asked = instances.clone().map(|it| Self {
            service: it.service_key(),
            instance: is_one_of_several(it).then(|| it.key.id.to_string()),
        });
        asked.collect()
    }

    /// Returns labels with the given name for the service.
    fn labels(&self, service: &str) -> String {
        let mut labels = format!("{service}=\"{}\"", self.service);
        if let Some(instance) = &self.instance {
            let instance = instance.replace('\\', "\\\\").replace('"', "\\\"");
            labels.push_str(&format!(",weft_instance=\"{instance}\""));
        }
        labels
    }
}

/// Puts what applications answered on one page with the agent's own: what is no metrics is left out and counts as no
/// answer, and so is what an application tells in weft's name. Whose a sample is stands on it where several are asked,
/// whatever they answer, so that no label comes and goes with an application.
///
/// # Errors
///
/// Where the agent's own text cannot be read.
fn merged(own: &str, asked: &[Asked], fetched: &[Option<String>]) -> Result<String, text::NoMetrics> {
    let labels = |of: &Asked| if asked.len() > 1 { of.labels("weft_service") } else { String::new() };
    let mut told = vec![(String::new(), text::read(own, usize::MAX)?)];
    let mut ups = String::from("# HELP weft_application_metrics_up Whether the application's own metrics follow\n");
    ups.push_str("# TYPE weft_application_metrics_up gauge\n");
    for (asked, fetched) in asked.iter().zip(fetched) {
        let read = fetched.as_deref().map(|text| text::read(text, LINES_MAX));
        let up = u8::from(matches!(read, Some(Ok(_))));
        ups.push_str(&format!("weft_application_metrics_up{{{}}} {up}\n", asked.labels("service")));
        match read {
            Some(Ok(read)) => told.push((labels(asked), read.without_reserved())),
            Some(Err(text::NoMetrics { line })) => {
                debug!(service = %asked.service, line, "what the application tells is no metrics");
            }
            None => {}
        }
    }
    told.push((String::new(), text::read(&ups, usize::MAX)?));
    Ok(page::write(&told))
}

/// Asks one application; none where it does not answer as it should.
async fn fetch(url: &Uri, leads_on: &LeadsOn) -> Option<String> {
    let authority = url.authority()?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = connect(host, authority.port_u16().unwrap_or(80), leads_on).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::builder()
        .uri(url.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, authority.as_str())
        .header(ACCEPT, "text/plain; version=0.0.4")
        .header(CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())
        .ok()?;
    // Driven here, so that it ends with this call whatever happens.
    let exchange = async {
        let answer = sender.send_request(request).await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let body = Limited::new(answer.into_body(), BYTES_MAX).collect().await.ok()?;
        String::from_utf8(body.to_bytes().into()).ok()
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        _ = connection => exchange.await,
    }
}
