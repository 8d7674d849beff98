//! The metrics of applications, fetched when somebody asks for the agent's and appended to them.

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use catalog::ServiceKey;
use futures_util::future::join_all;
use http::header::{ACCEPT, CONNECTION, HOST};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;

use super::admin::OPENMETRICS;
use crate::checks::{LeadsOn, connect};
use crate::core::Status;
use crate::proxy::Proxy;

/// What one application tells may take this long, and be this large.
const TIMEOUT: Duration = Duration::from_secs(2);
const BYTES_MAX: usize = 1024 * 1024;
/// What text of several processes is, since applications may write the older form.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers with the agent's own metrics, and after them those of the applications that are asked for, none of them
/// where the agent's own calls would be carried on.
pub(super) async fn answer(own: String, running: Option<(Arc<Status>, Arc<Proxy>)>) -> Response {
    let only_own = |own: String| ([(http::header::CONTENT_TYPE, OPENMETRICS)], own).into_response();
    let Some((status, proxy)) = running else { return only_own(own) };
    let services = status.services.iter();
    let asked: Vec<(ServiceKey, &Uri)> =
        services.filter_map(|it| Some((it.instance.service_key(), it.metrics_url.as_ref()?))).collect();
    if asked.is_empty() {
        return only_own(own);
    }
    let leads_on: LeadsOn = Arc::new(move |address| proxy.leads_on(address));
    let fetched =
        join_all(asked.iter().map(|(_, url)| async { tokio::time::timeout(TIMEOUT, fetch(url, &leads_on)).await }))
            .await;
    let mut text = without_end(&own).to_owned();
    text.push_str("# HELP weft_application_metrics_up Whether the application's own metrics follow\n");
    text.push_str("# TYPE weft_application_metrics_up gauge\n");
    let theirs: Vec<Option<String>> = fetched.into_iter().map(|theirs| theirs.ok().flatten()).collect();
    for ((service, _), theirs) in asked.iter().zip(&theirs) {
        let up = u8::from(theirs.is_some());
        text.push_str(&format!("weft_application_metrics_up{{service=\"{service}\"}} {up}\n"));
    }
    for theirs in theirs.iter().flatten() {
        text.push_str(without_end(theirs));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    ([(http::header::CONTENT_TYPE, PROMETHEUS)], text).into_response()
}

/// Returns the text before the mark that ends it, for more comes.
fn without_end(text: &str) -> &str {
    text.trim_end().strip_suffix("# EOF").unwrap_or(text)
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
