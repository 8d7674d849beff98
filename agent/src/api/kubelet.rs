//! The listener for the kubelet, which asks a pod at its address: the agent's own health, and the applications'.
//!
//! It is open to the pod's network. It tells nobody more than whether something is well, and nobody can make it ask an
//! application more than once at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::admin::Readiness;
use super::error::text;
use super::listener;
use crate::checks::ApplicationProbe;

/// What an application answered, for everybody who asked meanwhile.
type Answer = Shared<BoxFuture<'static, Result<(), String>>>;

/// A question to the application that is under way. It ends by itself, whether or not anybody waits for its answer.
struct Running {
    task: AbortHandle,
    answer: Answer,
}

/// A probe, and how far it is.
struct Asked {
    probe: ApplicationProbe,
    running: Mutex<Option<Running>>,
}

impl Asked {
    /// Asks the application, or waits with whoever asks it already.
    async fn ask(&self) -> Result<(), String> {
        let (answer, is_own) = self.under_way();
        let answered = answer.await;
        if is_own || answered.is_ok() {
            return answered;
        }
        // It was asked before, perhaps long before: that it failed then says nothing about now.
        self.under_way().0.await
    }

    /// Returns the answer to the question that is under way, or to one that begins with this, and whether it does.
    fn under_way(&self) -> (Answer, bool) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_ref().filter(|running| !running.task.is_finished()) {
            return (running.answer.clone(), false);
        }
        let asking = tokio::spawn(self.probe.clone().ask());
        let task = asking.abort_handle();
        let answer = async { asking.await.unwrap_or_else(|ended| Err(wire::one_line(&ended))) }.boxed().shared();
        (running.insert(Running { task, answer }).answer.clone(), true)
    }
}

/// The probes by their paths.
type Probes = Arc<BTreeMap<String, Asked>>;

/// Serves `/live`, `/ready` and `/app-health/CONTAINER/PROBE` until the agent has stopped.
pub(crate) fn serve_health(
    listener: TcpListener,
    readiness: Readiness,
    probes: &[ApplicationProbe],
) -> impl Future<Output = ()> + use<> {
    let asked = |probe: &ApplicationProbe| Asked { probe: probe.clone(), running: Mutex::default() };
    let probes: Probes = Arc::new(probes.iter().map(|probe| (probe.path().to_owned(), asked(probe))).collect());
    let ready = async move || match readiness.missing().len() {
        0 => text(StatusCode::OK, "ready\n"),
        // What is missing is for whoever is on the machine: `/ready` of the admin listener lists it.
        missing => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing} missing\n")),
    };
    let router = Router::new()
        .route("/live", get(async || text(StatusCode::OK, "live\n")))
        .route("/ready", get(ready))
        .route("/app-health/{container}/{probe}", get(application))
        .with_state(probes);
    listener::serve(listener, router, CancellationToken::new())
}

async fn application(State(probes): State<Probes>, Path((container, probe)): Path<(String, String)>) -> Response {
    let Some(asked) = probes.get(&format!("{container}/{probe}")) else {
        return text(StatusCode::NOT_FOUND, "no such probe\n");
    };
    match asked.ask().await {
        Ok(()) => text(StatusCode::OK, "the application is well\n"),
        Err(why) => {
            debug!(probe = asked.probe.path(), error = why, "application is not well");
            text(StatusCode::SERVICE_UNAVAILABLE, "the application is not well\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn however_many_ask_the_application_is_asked_once_at_a_time() {
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", application.local_addr().unwrap());
        let probe = ApplicationProbe::http("app/readiness", &url, [], Duration::from_secs(20)).unwrap();
        let asked = Asked { probe, running: Mutex::default() };
        // Only these connections are answered; one more would have to wait for ever.
        let answering = async |times: usize| {
            for _ in 0..times {
                let (mut stream, _) = application.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        };
        let (answers, ()) = tokio::join!(join_all((0..20).map(|_| asked.ask())), answering(1));
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        let (again, ()) = tokio::join!(asked.ask(), answering(1));
        assert_eq!(again, Ok(()), "what was answered before is no answer now");
        let (first, second, ()) = tokio::join!(asked.ask(), asked.ask(), async {
            drop(application.accept().await.unwrap());
            answering(1).await;
        });
        assert!(first.is_err(), "its own question failed");
        assert_eq!(second, Ok(()), "what failed before anybody asked is no answer either");
    }

    #[tokio::test]
    async fn whoever_asks_and_goes_leaves_no_answer_for_the_next() {
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", application.local_addr().unwrap());
        let patience = Duration::from_secs(1);
        let probe = ApplicationProbe::http("app/liveness", &url, [], patience).unwrap();
        let asked = Arc::new(Asked { probe, running: Mutex::default() });
        let asker = tokio::spawn({
            let asked = Arc::clone(&asked);
            async move { asked.ask().await }
        });
        let (mut left, _) = application.accept().await.unwrap();
        asker.abort();
        assert!(asker.await.unwrap_err().is_cancelled());
        // Nobody waits for it any more, and yet it ends.
        let ended = tokio::time::timeout(5 * patience, left.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "the question goes on for ever");
        let (answered, ()) = tokio::join!(asked.ask(), async {
            let (mut stream, _) = application.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            // Closed by whoever asked, when it has read the answer.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        assert_eq!(answered, Ok(()), "a question that somebody left is nobody's failure");
    }
}
