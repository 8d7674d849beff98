//! Names: whether the agent answers for them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use wire::diagnosis::Finding;

/// The agent answers within this, or does not.
const TIMEOUT: Duration = Duration::from_secs(2);
/// No name is longer.
const LABEL_MAX: usize = 63;

/// Asks for the start of the domain's authority, which there is whatever the catalog holds.
pub(super) async fn ask(server: SocketAddr, domain: &str) -> Finding {
    let advice = "is another program on that port? `journalctl --unit weft-agent` tells what the agent listens on";
    match tokio::time::timeout(TIMEOUT, exchange(server, domain)).await {
        Ok(Ok(0)) => Finding::fine("dns", format!("the agent answers for `{domain}` at {server}")),
        Ok(Ok(code)) => {
            Finding::problem("dns", format!("{server} answers for `{domain}` with the error code {code}"), advice)
        }
        Ok(Err(error)) => Finding::problem("dns", format!("cannot ask {server} for `{domain}`: {error}"), advice),
        Err(_) => Finding::problem("dns", format!("nobody answers for `{domain}` at {server}"), advice),
    }
}

/// Returns the answer's code; 0 says that there is no error.
async fn exchange(server: SocketAddr, domain: &str) -> std::io::Result<u8> {
    let malformed = || std::io::Error::other("the answer is no answer to this question");
    let question = question(domain).ok_or_else(malformed)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut answer = [0; 1232];
    let length = socket.recv(&mut answer).await?;
    match answer.get(..length) {
        Some([one, two, flags, code, ..]) if [*one, *two] == question[..2] && flags & 0x80 != 0 => Ok(code & 0x0f),
        _ => Err(malformed()),
    }
}

/// Writes a question for the SOA of a domain (RFC 1035 §4.1).
fn question(domain: &str) -> Option<Vec<u8>> {
    let id: [u8; 2] = wire::crypto::random();
    let mut bytes = [&id[..], &[0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in domain.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|_| (1..=LABEL_MAX).contains(&label.len()))?;
        bytes.push(length);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 6, 0, 1]);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use wire::diagnosis::Verdict;

    use super::*;

    /// Asks somebody who answers with what `answer` makes of the question.
    async fn asked(answer: impl FnOnce(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> Finding {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let mut question = [0; 512];
            let (length, from) = server.recv_from(&mut question).await.unwrap();
            if let Some(answer) = answer(&question[..length]) {
                server.send_to(&answer, from).await.unwrap();
            }
            server
        });
        let finding = ask(address, "mesh.").await;
        answering.await.unwrap();
        finding
    }

    fn with_code(question: &[u8], code: u8) -> Option<Vec<u8>> {
        let mut answer = question.to_vec();
        (answer[2], answer[3]) = (0x81, code);
        Some(answer)
    }

    #[tokio::test]
    async fn whoever_answers_for_the_domain_is_fine_and_nobody_else() {
        assert_eq!(asked(|question| with_code(question, 0)).await.verdict, Verdict::Fine);
        let refused = asked(|question| with_code(question, 5)).await;
        assert!(refused.verdict == Verdict::Problem && refused.finding.contains("code 5"), "{refused:?}");
        assert_eq!(asked(|question| Some(question.to_vec())).await.verdict, Verdict::Problem, "it is a question");
        assert_eq!(asked(|_| Some(vec![0; 3])).await.verdict, Verdict::Problem);
        assert_eq!(asked(|_| None).await.verdict, Verdict::Problem);
    }

    #[test]
    fn a_question_is_written_as_the_standard_says() {
        let question = question("mesh.example").unwrap();
        assert_eq!(question[2..], *b"\x01\0\0\x01\0\0\0\0\0\0\x04mesh\x07example\0\0\x06\0\x01");
        assert!(super::question("a..b").is_none() && super::question(&"a".repeat(64)).is_none());
    }
}
