//! What the agent says of itself at its admin listener: what is missing, and when its certificates end.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use catalog::Timestamp;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wire::diagnosis::Finding;

/// The agent answers within this, or does not.
const TIMEOUT: Duration = Duration::from_secs(5);
/// No answer is longer.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// A leaf is renewed when half of its life is over; with less than this left, renewing fails.
const LEAF_LEFT_MIN: Duration = Duration::from_secs(600);
/// What helps where the agent cannot write.
const DISK: &str =
    "give the agent's user room and the right to write in its data_dir; its log says what the disk answers";
/// How the metric of certificates' ends is written.
const LEAF_EXPIRY: &str = "weft_leaf_certificate_expiry_timestamp_seconds{subject=\"";

/// Asks the agent.
pub(super) async fn ask(admin: SocketAddr, now: Timestamp) -> Vec<Finding> {
    let answers = tokio::time::timeout(TIMEOUT, async { (get(admin, "/ready").await, get(admin, "/metrics").await) });
    let (ready, metrics) = match answers.await {
        Ok((Some(ready), Some(metrics))) => (ready, metrics),
        Ok(_) | Err(_) => {
            let advice = "start it (`systemctl start weft-agent`); `journalctl --unit weft-agent` tells why it ended";
            return vec![Finding::problem("agent", format!("no agent answers at {admin}"), advice)];
        }
    };
    let mut findings = readiness(&ready);
    findings.extend(leaves(&metrics.1, now));
    findings
}

fn readiness((status, body): &(StatusCode, String)) -> Vec<Finding> {
    if *status == StatusCode::OK {
        return vec![Finding::fine("agent", "the agent serves all of its services")];
    }
    body.lines().map(|line| Finding::problem("agent", line, advice(line))).collect()
}

/// Says what to do about one line of what is missing, by what the line begins or ends with: between is what it is about.
fn advice(missing: &str) -> &'static str {
    const ADVICE: [(&str, &str, &str); 8] = [
        (
            "the agent is joining",
            "",
            "see `journalctl --unit weft-agent`: a server must be reachable on its port for agents (8300), and the join token \
             good",
        ),
        ("the agent is draining", "", "it is about to end, because somebody stopped it or told it to leave"),
        ("upstream: ", "", "let nothing else listen there, or set another local_bind_port"),
        (
            "redirection: ",
            "",
            "let nothing else listen there, or name another port by `outbound_listener_port` and have `weft redirect apply` \
             lead there",
        ),
        (
            "refused: ",
            "",
            "mend the definition as it says, and `systemctl reload weft-agent`; `weft validate` finds it before",
        ),
        ("the last good state cannot be saved", "", DISK),
        ("leaves cannot be saved", "", DISK),
        ("", ": not on disk yet", DISK),
    ];
    let known = ADVICE.iter().find(|(begin, end, _)| missing.starts_with(begin) && missing.ends_with(end));
    known.map_or(
        "is the agent entitled to the service? `weft catalog nodes` shows its node, `weft join-token create --service` and \
         `weft join` entitle it anew",
        |(_, _, advice)| advice,
    )
}

/// Judges the certificates by the agent's own metrics.
fn leaves(metrics: &str, now: Timestamp) -> Vec<Finding> {
    let ends = metrics.lines().filter_map(|line| {
        let (subject, end) = line.strip_prefix(LEAF_EXPIRY)?.split_once("\"} ")?;
        Some((subject, end.trim().parse::<u64>().ok()?))
    });
    let mut soonest = None;
    let mut findings = Vec::new();
    for (subject, end) in ends {
        let left = Duration::from_secs(end.saturating_sub(now.0 / 1000));
        let at = wire::rfc3339::format(Timestamp(end * 1000));
        let advice = "a server must be reachable and lead; `journalctl --unit weft-agent` tells why it was not renewed";
        if left.is_zero() {
            let finding = format!("the certificate of `{subject}` has expired, at {at}: it opens nothing any more");
            findings.push(Finding::problem("certificates", finding, advice));
        } else if left < LEAF_LEFT_MIN {
            findings.push(Finding::warning(
                "certificates",
                format!("the certificate of `{subject}` ends at {at}"),
                advice,
            ));
        }
        soonest = soonest.into_iter().chain([end]).min();
    }
    if let (Some(end), true) = (soonest, findings.is_empty()) {
        let at = wire::rfc3339::format(Timestamp(end * 1000));
        findings.push(Finding::fine("certificates", format!("none of the agent's certificates ends before {at}")));
    }
    findings
}

/// Asks for one path; none where nobody answers in HTTP.
async fn get(address: SocketAddr, path: &str) -> Option<(StatusCode, String)> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request =
        Request::builder().uri(path).header(http::header::HOST, "localhost").body(Empty::<Bytes>::new()).ok()?;
    let exchange = async {
        let answer = sender.send_request(request).await.ok()?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BYTES_MAX).collect().await.ok()?;
        Some((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use wire::diagnosis::Verdict;

    use super::*;

    #[test]
    fn every_line_of_what_is_missing_has_its_advice() {
        assert_eq!(readiness(&(StatusCode::OK, "ready\n".to_owned()))[0].verdict, Verdict::Fine);
        let lines = [
            ("the agent is joining the mesh", "journalctl"),
            ("the agent is draining", "about to end"),
            ("upstream: port 9191 is taken", "local_bind_port"),
            ("redirection: cannot listen on 127.0.0.1:15101: in use", "outbound_listener_port"),
            ("refused: `/etc/weft/web.hcl`: `Port` is none", "weft validate"),
            ("the last good state cannot be saved: no room", "data_dir"),
            ("leaf of default/web: not on disk yet", "data_dir"),
            ("leaf of default/upstream: not signed by a server yet", "entitled"),
            ("leaf of default/joining: expired", "entitled"),
        ];
        let text: String = lines.iter().map(|(line, _)| format!("{line}\n")).collect();
        let findings = readiness(&(StatusCode::SERVICE_UNAVAILABLE, text));
        assert_eq!(findings.len(), lines.len());
        for (finding, (line, part)) in findings.iter().zip(lines) {
            assert!(finding.advice.contains(part), "{line}: {}", finding.advice);
        }
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Problem));
    }

    #[test]
    fn certificates_that_were_not_renewed_are_found() {
        let metrics =
            |end: u64| format!("# HELP x y\n{LEAF_EXPIRY}agent\"}} 90000\n{LEAF_EXPIRY}default/web\"}} {end}\n");
        let verdicts = |end, now| -> Vec<Verdict> {
            leaves(&metrics(end), Timestamp(now)).iter().map(|finding| finding.verdict).collect()
        };
        assert_eq!(verdicts(80_000, 0), [Verdict::Fine]);
        assert_eq!(verdicts(80_000, 79_500_000), [Verdict::Warning]);
        assert_eq!(verdicts(80_000, 80_000_000), [Verdict::Problem]);
        assert_eq!(verdicts(80_000, 95_000_000), [Verdict::Problem, Verdict::Problem]);
        assert!(leaves("", Timestamp(0)).is_empty());
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_a_problem() {
        let findings = ask("127.0.0.1:9".parse().unwrap(), Timestamp(0)).await;
        assert_eq!(findings.len(), 1);
        assert!(findings[0].finding.contains("no agent answers"), "{findings:?}");
    }
}
