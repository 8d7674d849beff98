//! What the chain promises: what is derived, that nothing in it can be changed unseen, and what it forgets.

use super::*;
use crate::{
    Actor, Catalog,
    catalog::tests::{digest, every_kind, log_of},
};

fn texts(catalog: &Catalog) -> Vec<String> {
    catalog.audit_lines(CatalogIndex(0)).map(|line| line.text.to_string()).collect()
}

/// Verifies lines against a head, as `weft audit verify` does.
fn verify(lines: &[String], wanted: Option<AuditHead>) -> Result<AuditHead, AuditFault> {
    let mut verifier = AuditVerifier::new(digest, wanted);
    lines.iter().try_for_each(|line| verifier.line(line))?;
    verifier.finish()
}

#[test]
fn the_lines_are_the_chain_that_the_catalog_keeps_and_tell_no_secret() {
    let catalog = log_of(&every_kind());
    let lines = texts(&catalog);
    assert_eq!(verify(&lines, Some(catalog.audit_head())), Ok(catalog.audit_head()));
    assert_eq!(catalog.audit_head().sequence, lines.len() as u64);
    let all = lines.concat();
    for secret in ["secret1", "join1", "AA==", "ciphertext"] {
        assert!(!all.contains(secret), "{secret} stands in {all}");
    }
    assert!(all.contains("\"Kind\":\"write-intention\",\"Summary\":\"allow default/web => shop/api\""), "{all}");
    assert!(!all.contains("update-checks") && !all.contains("open-session") && !all.contains("\"register\""), "{all}");
    let from = catalog.audit_lines(CatalogIndex(14)).next().map(|line| line.index);
    assert_eq!(from, Some(CatalogIndex(14)));
}

#[test]
fn every_edit_gap_repeat_and_exchange_of_lines_is_noticed() {
    let catalog = log_of(&every_kind());
    let (lines, head) = (texts(&catalog), catalog.audit_head());
    for at in 0..lines.len() {
        let mut without = lines.clone();
        without.remove(at);
        // Without its first lines, a chain is one that an older export begins.
        assert_eq!(verify(&without, Some(head)).is_err(), at != 0, "without line {at}");
        let mut twice = lines.clone();
        twice.insert(at, lines[at].clone());
        assert!(verify(&twice, Some(head)).is_err(), "line {at} twice");
        // A line is tied to the one before it and the one after it, and so is the whole chain.
        let around = at.saturating_sub(1)..(at + 2).min(lines.len());
        let (before, end) = (at - around.start, verify(&lines[around.clone()], None).unwrap());
        for (position, _) in lines[at].char_indices() {
            let mut edited = lines[around.clone()].to_vec();
            let mut bytes = edited[before].clone().into_bytes();
            bytes[position] = if bytes[position] == b'0' { b'1' } else { b'0' };
            edited[before] = String::from_utf8(bytes).unwrap();
            assert!(verify(&edited, Some(end)).is_err(), "line {at} changed at {position}");
            if position % 101 == 0 {
                let all = [&lines[..around.start], &edited, &lines[around.end..]].concat();
                assert!(verify(&all, Some(head)).is_err(), "line {at} of all changed at {position}");
            }
        }
        if at > 0 {
            let mut exchanged = lines.clone();
            exchanged.swap(at - 1, at);
            assert!(verify(&exchanged, Some(head)).is_err(), "lines {} and {at} exchanged", at - 1);
        }
        let cut = lines[..at].to_vec();
        assert!(matches!(verify(&cut, Some(head)), Err(AuditFault::Head { .. })), "cut at {at}");
    }
    // A head in the middle is that of an older export: lines after it are welcome.
    let middle = { verify(&lines[..3], None).unwrap() };
    assert_eq!(verify(&lines, Some(middle)), Ok(head));
}

#[test]
fn a_refused_write_is_recorded_with_its_kind_and_a_stranger_records_nothing() {
    let mut catalog = log_of(&every_kind());
    let before = catalog.audit_head();
    let refused = every_kind().into_iter().find(|one| one.request_id.as_str() == "r1").unwrap();
    let index = |catalog: &Catalog| CatalogIndex(catalog.index().0 + 1);
    let again = crate::Envelope { request_id: "again".parse().unwrap(), ..refused.clone() };
    catalog.apply(index(&catalog), &again, digest);
    let line = catalog.audit_lines(catalog.index()).next().unwrap().text.to_string();
    assert!(line.contains("\"Outcome\":\"refused\",\"Refusal\":\"already-bootstrapped\""), "{line}");
    let stranger = crate::Envelope {
        request_id: "stranger".parse().unwrap(),
        actor: Actor::Join,
        command: crate::Command::Enrol {
            secret: crate::SecretHash("guessed".to_owned()),
            key: crate::KeyFingerprint("key-x".to_owned()),
            node: "n9".parse().unwrap(),
            platform: crate::Platform::Vm,
        },
        ..refused
    };
    let applied = catalog.apply(index(&catalog), &stranger, digest);
    assert!(matches!(applied.outcome, crate::Outcome::Refused(_)) && applied.touched.is_empty());
    assert_eq!(catalog.audit_head().sequence, before.sequence + 1);
}

/// A gap that stands for the lines from `from` to `to`, as servers write it.
fn gap(lines: &[String], from: usize, to: usize) -> String {
    let (before, last) = (&lines[from - 2], &lines[to - 1]);
    let hash = |line: &String| AuditHash(digest(line.as_bytes()));
    let link: Link = serde_json::from_str(last).unwrap();
    format!(
        "{{\"Sequence\":{to},\"Index\":{},\"Previous\":\"{}\",\"Forgotten\":{{\"From\":{from},\"Hash\":\"{}\"}}}}",
        link.index,
        hash(before),
        hash(last)
    )
}

#[test]
fn forgotten_lines_are_told_and_what_is_around_them_is_still_a_chain() {
    let catalog = log_of(&every_kind());
    let (lines, head) = (texts(&catalog), catalog.audit_head());
    let with = |from: usize, to: usize| {
        let mut all = lines[..from - 1].to_vec();
        all.push(gap(&lines, from, to));
        all.extend_from_slice(&lines[to..]);
        all
    };
    let mut verifier = AuditVerifier::new(digest, Some(head));
    with(3, 5).iter().for_each(|line| verifier.line(line).unwrap());
    assert_eq!((verifier.forgotten(), verifier.first()), (3, Some(1)));
    assert_eq!(verifier.finish(), Ok(head));
    // An older export may have some of what was forgotten since.
    let mut verifier = AuditVerifier::new(digest, Some(head));
    lines[..4].iter().chain(&with(3, 6)[2..]).for_each(|line| verifier.line(line).unwrap());
    assert_eq!(verifier.forgotten(), 2);
    assert_eq!(verifier.finish(), Ok(head));

    let wrong_hash = |line: &str, at: &str| {
        let position = line.find(at).unwrap() + at.len();
        let digit = if line.as_bytes()[position] == b'0' { "1" } else { "0" };
        format!("{}{digit}{}", &line[..position], &line[position + 1..])
    };
    for (what, edited) in [
        ("its predecessor", wrong_hash(&gap(&lines, 3, 5), "\"Previous\":\"")),
        ("its last line", wrong_hash(&gap(&lines, 3, 5), "\"Hash\":\"")),
        ("its beginning", gap(&lines, 4, 5)),
        ("its end", gap(&lines, 3, 4)),
    ] {
        let mut all = with(3, 5);
        all[2] = edited;
        assert!(verify(&all, Some(head)).is_err(), "{what} is wrong");
    }
    let mut twice = with(3, 5);
    twice.insert(3, gap(&lines, 3, 5));
    assert!(matches!(verify(&twice, None), Err(AuditFault::Gap { .. })));
}

#[test]
fn a_head_is_read_as_it_is_written() {
    let head = AuditHead { sequence: 7, hash: AuditHash([0xab; 32]) };
    assert_eq!(head.to_string().parse(), Ok(head));
    for wrong in ["", "7", "7:", "7:ab", "x:00", &format!("7:{}", "AB".repeat(32)), &format!("7:{}é", "a".repeat(62))]
    {
        assert!(wrong.parse::<AuditHead>().is_err(), "{wrong}");
    }
}

/// Applies a command, and returns the line on it, if there is one.
fn line_on(catalog: &mut Catalog, command: crate::Command) -> Option<String> {
    let index = CatalogIndex(catalog.index().0 + 1);
    let envelope = crate::Envelope {
        version: command.reads_from(),
        request_id: format!("line-{index}").parse().unwrap(),
        actor: Actor::Server("s1".parse().unwrap()),
        source_address: None,
        proposed_at: crate::Timestamp(index.0),
        command,
    };
    catalog.apply(index, &envelope, digest);
    let line = catalog.audit_line_of(&envelope.request_id).map(|line| line.text.to_string());
    assert_eq!(line, catalog.audit_lines(index).next().map(|line| line.text.to_string()));
    line
}

#[test]
fn lines_say_which_token_let_an_agent_in_and_whose_records_end() {
    use crate::catalog::tests::{enrol, join_token};
    let mut catalog = log_of(&every_kind()[..3]);
    let token = join_token(7, &["web"]);
    line_on(&mut catalog, crate::Command::CreateJoinToken { token: token.clone() });
    let line = line_on(&mut catalog, enrol(7, "key-7", "n7")).unwrap();
    assert!(line.contains(&format!("node n7 (vm), key key-7, join token {}", token.accessor)), "{line}");
    let agent = catalog.agent_on(&"n7".parse().unwrap()).unwrap().id.clone();
    let line = line_on(&mut catalog, crate::Command::RevokeAgent { agent: agent.clone() }).unwrap();
    assert!(line.contains(&format!("\"Summary\":\"agent {agent} of node n7\"")), "{line}");
    let session = crate::SessionRef { agent: agent.clone(), incarnation: crate::Incarnation(9) };
    let change = |change| crate::Command::Sessions { change };
    let ended = change(crate::SessionChange::Ended { sessions: vec![session.clone()] });
    let line = line_on(&mut catalog, ended).unwrap();
    assert!(line.contains(&format!("\"end-agents\",\"Summary\":\"stayed away: agent {agent}\"")), "{line}");
    let line = line_on(&mut catalog, change(crate::SessionChange::Unused { agents: vec![agent] })).unwrap();
    assert!(line.contains("never opened a session"), "{line}");
    assert_eq!(line_on(&mut catalog, change(crate::SessionChange::Lost { sessions: vec![session] })), None);
}

#[test]
fn the_line_on_many_records_that_end_at_once_names_each_of_them() {
    use crate::catalog::tests::{enrol, join_token};
    let mut catalog = log_of(&every_kind()[..3]);
    let node = |number: usize| format!("n{number:0126}");
    for number in 0..crate::SESSIONS_ENDED_MAX {
        let token = u8::try_from(10 + number).unwrap();
        line_on(&mut catalog, crate::Command::CreateJoinToken { token: join_token(token, &["web"]) });
        line_on(&mut catalog, enrol(token, &format!("key-{number}"), &node(number)));
    }
    let agents: Vec<_> = catalog.agent_records().map(|record| record.id.clone()).collect();
    assert_eq!(agents.len(), crate::SESSIONS_ENDED_MAX);
    let change = crate::SessionChange::Unused { agents: agents.clone() };
    let line = line_on(&mut catalog, crate::Command::Sessions { change }).unwrap();
    assert!(line.contains("\"Summary\":\"never opened a session: 24 agents\""), "{line}");
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    for (number, agent) in agents.iter().enumerate() {
        let named = format!("agent {agent} of node {}", catalog.agent_record(agent).unwrap().node);
        assert!(told["Content"].as_array().unwrap().contains(&named.into()), "{number}: {line}");
    }
}

#[test]
fn fault_11_a_recovery_stands_in_the_chain_with_who_survived_and_who_did_not() {
    let mut catalog = log_of(&every_kind()[..3]);
    let facts = crate::MemberFacts {
        raft_address: "10.0.0.2:8301".to_owned(),
        agent_address: "10.0.0.2:8300".to_owned(),
        release: "0.1.0".to_owned(),
        reads: 2,
        keys: Vec::new(),
    };
    let change = crate::MembershipChange::Add { id: "s2".parse().unwrap(), disk_id: "d2".to_owned(), facts };
    line_on(&mut catalog, crate::Command::Membership { change });
    let (index, before) = (CatalogIndex(catalog.index().0 + 1), catalog.audit_head());
    catalog.recover_membership(index, 1, digest);
    let lines = texts(&catalog);
    assert_eq!(verify(&lines, Some(catalog.audit_head())), Ok(catalog.audit_head()));
    assert_eq!(catalog.audit_head().sequence, before.sequence + 1);
    let last = lines.last().unwrap();
    assert!(last.contains("\"Actor\":\"server:s1\"") && last.contains("\"Kind\":\"recover-quorum\""), "{last}");
    assert!(last.contains("epoch 1 with server s1 alone, without s2"), "{last}");
    assert_eq!(catalog.index_of(&[crate::WatchKey::Audit]), index);
    assert_eq!(Catalog::restore(&catalog.snapshot()).unwrap(), catalog);
}

#[test]
fn the_line_on_an_auth_method_says_whose_word_counts_from_then_on() {
    let mut catalog = log_of(&every_kind()[..3]);
    let method = Box::new(crate::catalog::login_tests::method("okta"));
    let change = crate::LoginChange::WriteMethod { method, replace: false };
    let line = line_on(&mut catalog, crate::Command::Login { change }).unwrap();
    assert!(line.contains("\"Summary\":\"auth method okta of type jwt: for the cluster\""), "{line}");
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    let config = &told["Content"]["config"];
    assert_eq!(config["issuer"], "https://issuer.example");
    assert_eq!(config["keys"]["url"]["url"], "https://issuer.example/keys");
    assert_eq!(config["audiences"][0], "weft");
}
