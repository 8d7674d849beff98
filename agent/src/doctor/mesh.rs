//! What the servers' own word says about the mesh as a whole.

use std::time::Duration;

use catalog::{Action, CheckStatus, Timestamp};
use wire::{
    diagnosis::Finding,
    mesh_status::{CertificateAge, DiskStatus, MeshStatus},
    rfc3339,
};

/// Clocks further apart than this are worth a look: tokens and certificates are judged by them.
const SKEW_WARNING: Duration = Duration::from_secs(5);
/// Clocks further apart than this break logins and fresh certificates.
const SKEW_PROBLEM: Duration = Duration::from_secs(60);

/// Syncs that take longer than this part of what a leader may take are felt by whoever writes.
const SYNC_WARNING: u64 = 3;
/// With fewer numbers left than this, a service may soon get none.
const NUMBERS_WARNING: u32 = 100_000;

/// Judges how the mesh stands.
pub fn of_mesh(mesh: &MeshStatus) -> Vec<Finding> {
    let mut findings = vec![quorum(mesh)];
    findings.extend(mesh.certificates.iter().map(certificate));
    findings.push(sessions(mesh));
    findings.push(releases(mesh));
    findings.extend(mesh.disk.map(|status| disk(mesh, status)));
    findings.extend(mesh.address_numbers_left.map(numbers));
    findings.extend(mesh.services_unwell.iter().filter(|service| service.status() == CheckStatus::Critical).map(
        |service| {
            let advice = "`weft catalog services`, and `weft doctor` on its machines, tell why";
            Finding::warning("services", format!("`{}` has no instance that may be called", service.service), advice)
        },
    ));
    findings
}

fn quorum(mesh: &MeshStatus) -> Finding {
    let Some(leader) = &mesh.leader else {
        let advice =
            "start the servers that are down; if a majority is lost for good, see `weft operator recover-quorum`";
        return Finding::problem("quorum", "no server leads: nothing can be written", advice);
    };
    let dead: Vec<&str> =
        mesh.servers.iter().filter(|server| server.alive == Some(false)).map(|server| server.id.as_str()).collect();
    let count = mesh.servers.len();
    if !dead.is_empty() {
        let left = mesh.quorum_margin.map_or_else(String::new, |margin| format!("; {margin} more may be lost"));
        let advice = "start them again, or take them out with `weft operator raft remove-peer`";
        return Finding::problem("quorum", format!("{leader} does not hear {}{left}", dead.join(", ")), advice);
    }
    match mesh.quorum_margin {
        Some(0) if count == 1 => {
            Finding::warning("quorum", "there is one server, and nothing is written without it", "run three")
        }
        Some(0) => Finding::warning("quorum", format!("none of {count} servers may be lost"), "run three, or five"),
        Some(margin) => {
            Finding::fine("quorum", format!("{leader} leads {count} servers, of which {margin} may be lost"))
        }
        None => Finding::fine("quorum", format!("{leader} leads {count} servers")),
    }
}

fn certificate(age: &CertificateAge) -> Finding {
    let end = rfc3339::format(age.not_after);
    let found = format!("the CA's {} ends {end}, {} % of its life is left", age.certificate, age.left_percent);
    // The servers replace an intermediate by themselves, so an old one says that they could not.
    let advice = if age.certificate == "root" {
        "rotate it with `weft ca rotate`"
    } else {
        "servers replace it by themselves while one leads: look at the leader's log"
    };
    match age.status {
        CheckStatus::Passing => Finding::fine("certificates", found),
        CheckStatus::Warning => Finding::warning("certificates", found, advice),
        CheckStatus::Critical => Finding::problem("certificates", found, advice),
    }
}

fn sessions(mesh: &MeshStatus) -> Finding {
    if mesh.sessions_lost_count == 0 {
        let agents: usize = mesh.agents.values().flat_map(|releases| releases.values()).sum();
        return Finding::fine("agents", format!("the servers hear all of {agents} agents"));
    }
    let named: Vec<&str> = mesh.sessions_lost.iter().take(5).map(String::as_str).collect();
    let more = if mesh.sessions_lost_count > named.len() { ", ..." } else { "" };
    let found = format!("{} nodes have no agent that is heard: {}{more}", mesh.sessions_lost_count, named.join(", "));
    Finding::warning("agents", found, "start their agents, or `weft force-leave NODE` those that are gone")
}

fn releases(mesh: &MeshStatus) -> Finding {
    let releases = mesh.releases();
    let own = env!("CARGO_PKG_VERSION");
    let named: Vec<&str> = releases.keys().map(|name| if name.is_empty() { "unknown" } else { name }).collect();
    if releases.len() > 1 {
        let found = format!("several releases run: {}", named.join(", "));
        return Finding::warning("releases", found, "`weft status --versions` tells which; finish the upgrade");
    }
    match releases.keys().next() {
        Some(only) if only != own => {
            let found = format!("the mesh runs {}, this command is of {own}", named.join(""));
            Finding::warning("releases", found, "use the command of the same release")
        }
        _ => Finding::fine("releases", format!("everything runs {own}")),
    }
}

/// Judges what is decided where no intention speaks of a call.
pub fn of_default_policy(default: Action) -> Finding {
    match default {
        Action::Deny => Finding::fine("policy", "a call that no intention allows is refused"),
        Action::Allow => Finding::warning(
            "policy",
            "a call that no intention denies is allowed",
            "write the intentions that are wanted, then set default_intention_policy = \"deny\" in the `mesh` entry",
        ),
    }
}

/// Judges how long the disk of the server that answers takes to sync, as that server itself judges it.
fn disk(mesh: &MeshStatus, disk: DiskStatus) -> Finding {
    let (server, limit) = (&mesh.server, disk.limit_ms);
    let advice = "give the data directory a disk of its own";
    match disk.typical_ms {
        _ if disk.slow => {
            let found =
                format!("the disk of {server} is too slow to lead with: nine of ten syncs take more than {limit} ms");
            Finding::problem("disk", found, advice)
        }
        Some(typical) if typical > limit / SYNC_WARNING => {
            let found = format!("the disk of {server} takes {typical} ms for a sync; with {limit} ms it hands over");
            Finding::warning("disk", found, advice)
        }
        Some(typical) => Finding::fine("disk", format!("the disk of {server} takes {typical} ms for a sync")),
        None => Finding::fine("disk", format!("{server} has had nothing to sync just now")),
    }
}

/// Judges how many services more can have addresses of their own.
fn numbers(left: u32) -> Finding {
    if left >= NUMBERS_WARNING {
        return Finding::fine("addresses", format!("{left} services more can have virtual addresses"));
    }
    let advice = "look for agents that name ever new services as their upstreams; a service without one has no name";
    let found = format!("only {left} services more can have virtual addresses");
    if left == 0 { Finding::problem("addresses", found, advice) } else { Finding::warning("addresses", found, advice) }
}

/// Judges this machine's clock by a server's, which answered between two instants of this one.
pub fn of_clock(asked: Timestamp, server: Timestamp, answered: Timestamp) -> Finding {
    // Within the time that the answer took nothing can be told.
    let skew = Duration::from_millis(if server < asked {
        asked.0 - server.0
    } else {
        server.0.saturating_sub(answered.0.max(asked.0))
    });
    let side = if server < asked { "ahead of" } else { "behind" };
    let found = format!("this machine's clock is {:.1} s {side} the server's", skew.as_secs_f64());
    let advice = "have both set by NTP (`timedatectl set-ntp true`)";
    match skew {
        skew if skew > SKEW_PROBLEM => Finding::problem("clock", found, advice),
        skew if skew > SKEW_WARNING => Finding::warning("clock", found, advice),
        _ => Finding::fine("clock", "this machine and the server agree on the time"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use catalog::{CatalogIndex, MemberRole, Platform};
    use wire::diagnosis::Verdict;
    use wire::mesh_status::{ServerStatus, ServiceCounts, ServiceHealth};

    use super::*;

    fn well() -> MeshStatus {
        let server = |id: &str| ServerStatus {
            id: id.parse().unwrap(),
            address: String::new(),
            role: MemberRole::Voter,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            reads: 1,
            alive: Some(true),
        };
        let release = BTreeMap::from([(env!("CARGO_PKG_VERSION").to_owned(), 2)]);
        MeshStatus {
            server: "s1".parse().unwrap(),
            leader: Some("s2".parse().unwrap()),
            applied_index: CatalogIndex(7),
            now: None,
            servers: ["s1", "s2", "s3"].map(server).to_vec(),
            quorum_margin: Some(1),
            agents: BTreeMap::from([(Platform::Vm, release)]),
            sessions_lost: Vec::new(),
            sessions_lost_count: 0,
            certificates: vec![CertificateAge::new("root", Timestamp(0), Timestamp(100), Timestamp(10))],
            services_unwell: Vec::new(),
            services: ServiceCounts::default(),
            bypassable: Vec::new(),
            bypassable_count: 0,
            shared: Vec::new(),
            shared_count: 0,
            disk: Some(DiskStatus { slow: false, typical_ms: Some(4), limit_ms: 300 }),
            address_numbers_left: Some(4_000_000),
        }
    }

    /// Checks what is said of a mesh that is well but for one thing.
    #[track_caller]
    fn check(change: impl FnOnce(&mut MeshStatus), want: &[(Verdict, &str)]) {
        let mut mesh = well();
        change(&mut mesh);
        let findings = of_mesh(&mesh);
        let wrong: Vec<(Verdict, String)> = findings
            .iter()
            .filter(|finding| finding.verdict != Verdict::Fine)
            .map(|finding| (finding.verdict, format!("{}: {}", finding.check, finding.finding)))
            .collect();
        assert_eq!(wrong.len(), want.len(), "{wrong:#?}");
        for ((verdict, found), (wanted, text)) in wrong.iter().zip(want) {
            assert!(verdict == wanted && found.contains(text), "{verdict:?} {found}");
        }
        for finding in findings {
            assert_eq!(finding.verdict == Verdict::Fine, finding.advice.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_mesh_is_named_with_what_to_do() {
        use Verdict::{Problem, Warning};
        check(|_| {}, &[]);
        check(|mesh| mesh.leader = None, &[(Problem, "quorum: no server leads")]);
        check(|mesh| mesh.servers[2].alive = Some(false), &[(Problem, "s2 does not hear s3; 1 more may be lost")]);
        check(|mesh| mesh.quorum_margin = Some(0), &[(Warning, "none of 3 servers may be lost")]);
        check(
            |mesh| {
                mesh.servers.truncate(1);
                mesh.quorum_margin = Some(0);
            },
            &[(Warning, "one server")],
        );
        let aged = |now| vec![CertificateAge::new("root", Timestamp(0), Timestamp(100), Timestamp(now))];
        check(|mesh| mesh.certificates = aged(70), &[(Warning, "certificates: the CA's root ends")]);
        check(|mesh| mesh.certificates = aged(99), &[(Problem, "certificates: the CA's root ends")]);
        check(
            |mesh| {
                mesh.sessions_lost = vec!["vm-1".to_owned()];
                mesh.sessions_lost_count = 1;
            },
            &[(Warning, "agents: 1 nodes have no agent that is heard: vm-1")],
        );
        check(|mesh| mesh.servers[0].release = "0.0.9".to_owned(), &[(Warning, "several releases run: 0.0.9")]);
        let critical = ServiceHealth { service: "default/api".to_owned(), passing: 0, warning: 0, critical: 2 };
        check(|mesh| mesh.services_unwell = vec![critical], &[(Warning, "services: `default/api`")]);
    }

    #[test]
    fn a_mesh_that_allows_by_default_is_pointed_out() {
        assert_eq!(of_default_policy(Action::Deny).verdict, Verdict::Fine);
        let open = of_default_policy(Action::Allow);
        assert!(open.verdict == Verdict::Warning && open.advice.contains("default_intention_policy"), "{open:?}");
    }

    #[test]
    fn fault_12_a_disk_is_judged_as_its_server_judges_it() {
        use Verdict::{Problem, Warning};
        let disk = |slow, typical_ms| Some(DiskStatus { slow, typical_ms, limit_ms: 300 });
        check(|mesh| mesh.disk = disk(false, Some(100)), &[]);
        check(|mesh| mesh.disk = disk(false, None), &[]);
        check(|mesh| mesh.disk = None, &[]);
        check(|mesh| mesh.disk = disk(false, Some(101)), &[(Warning, "disk: the disk of s1 takes 101 ms for a sync")]);
        check(|mesh| mesh.disk = disk(true, Some(900)), &[(Problem, "nine of ten syncs take more than 300 ms")]);
    }

    #[test]
    fn p11_addresses_that_run_out_are_told_of_before_a_service_gets_none() {
        use Verdict::{Problem, Warning};
        let left = |left| move |mesh: &mut MeshStatus| mesh.address_numbers_left = Some(left);
        check(left(99_999), &[(Warning, "only 99999 services more")]);
        check(left(0), &[(Problem, "only 0 services more")]);
        check(|mesh| mesh.address_numbers_left = None, &[]);
    }

    #[test]
    fn a_clock_is_judged_by_no_more_than_is_known() {
        for (asked, server, answered, want) in [
            (100_000, 100_500, 101_000, Verdict::Fine),
            (100_000, 104_000, 101_000, Verdict::Fine),
            (100_000, 107_000, 101_000, Verdict::Warning),
            (100_000, 94_000, 101_000, Verdict::Warning),
            (100_000, 200_000, 101_000, Verdict::Problem),
            (100_000, 1_000, 101_000, Verdict::Problem),
            // An answer that took long says little.
            (100_000, 130_000, 131_000, Verdict::Fine),
        ] {
            let finding = of_clock(Timestamp(asked), Timestamp(server), Timestamp(answered));
            assert_eq!(finding.verdict, want, "{finding:?}");
        }
        let behind = of_clock(Timestamp(0), Timestamp(120_000), Timestamp(0));
        assert!(behind.finding.contains("120.0 s behind"), "{behind:?}");
        let ahead = of_clock(Timestamp(120_000), Timestamp(0), Timestamp(120_000));
        assert!(ahead.finding.contains("120.0 s ahead of"), "{ahead:?}");
    }
}
