//! Redirection: whether somebody takes what the kernel's rules lead away.

use std::collections::BTreeSet;

use wire::diagnosis::Finding;

use crate::redirect;
use crate::sockets::Listening;

/// How a rule says where it leads.
const LEADS_TO: &str = "redirect to :";

/// Judges the rules that are in force on this machine.
pub(super) fn of_machine(listening: &[Listening]) -> Vec<Finding> {
    match redirect::show() {
        Ok(Some(rules)) => judge(&rules, listening),
        // Most machines redirect nothing, and many have no `nft`.
        Ok(None) | Err(redirect::RedirectError::Missing) => Vec::new(),
        Err(error) => {
            let finding = format!("cannot see whether connections are redirected: {}", wire::one_line(&error));
            vec![Finding::unknown("redirection", finding, "run this as root")]
        }
    }
}

fn judge(rules: &str, listening: &[Listening]) -> Vec<Finding> {
    let ports: BTreeSet<u16> = rules
        .split(LEADS_TO)
        .skip(1)
        .filter_map(|rest| rest.split(|next: char| !next.is_ascii_digit()).next()?.parse().ok())
        .collect();
    ports
        .into_iter()
        .map(|port| {
            if listening.iter().any(|socket| socket.address.port() == port) {
                return Finding::fine(
                    "redirection",
                    format!("connections are led to port {port}, which is listened on"),
                );
            }
            Finding::problem(
                "redirection",
                format!("connections are led to port {port}, where nobody listens: they are refused"),
                "start the agent (`systemctl start weft-agent`), or end it with `weft redirect remove`",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use wire::diagnosis::Verdict;

    use super::*;

    #[test]
    fn rules_that_lead_nowhere_are_found() {
        let rules = "table inet weft {\n  chain outbound {\n    meta skuid 33 udp dport 53 redirect to :8600\n    meta skuid 33 ip \
                     daddr 240.0.0.0/4 meta l4proto tcp redirect to :15101\n  }\n}\n";
        let listening = [Listening { address: "127.0.0.1:8600".parse().unwrap(), user: 0 }];
        let verdicts: Vec<Verdict> = judge(rules, &listening).iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Fine, Verdict::Problem]);
        assert!(judge("table inet weft {\n}\n", &listening).is_empty());
    }
}
