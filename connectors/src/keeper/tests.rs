//! What a keeper asks of the servers, in which order, and when it may.

use super::*;
use crate::plan::tests::{check, own};
use crate::plan::{SCOPE, Wanted};

const LEASE: Duration = Duration::from_secs(30);

/// A keeper, and servers that answer as they are told.
struct Rig {
    keeper: Keeper,
    now: Instant,
    start: Instant,
}

impl Rig {
    fn new() -> Self {
        let settings = Settings {
            name: "ecs".parse().unwrap(),
            kind: "aws".to_owned(),
            holder: "p1".to_owned(),
            lease: LEASE,
            shares: Vec::new(),
            caution: Caution::default(),
        };
        let now = Instant::now();
        Self { keeper: Keeper::new(settings), now, start: now }
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        let wall = Timestamp(u64::try_from((self.now - self.start).as_millis()).unwrap());
        self.keeper.step(input, self.now, wall)
    }

    fn later(&mut self, seconds: u64) -> Vec<Output> {
        self.now += Duration::from_secs(seconds);
        self.step(Input::Tick)
    }

    fn answered(&mut self, answer: Answer) -> Vec<Output> {
        self.step(Input::Answered(answer))
    }

    fn sees(&mut self, count: u16) -> Vec<Output> {
        self.step(Input::Seen(sight(count)))
    }

    /// Holds the lease, and knows that the catalog has this many nodes.
    fn active(kept: u16) -> Self {
        let mut rig = Self::new();
        assert!(matches!(rig.step(Input::Tick)[..], [Output::Change(ConnectorChange::Acquire { .. })]));
        let outputs = rig.answered(Answer::Granted(Incarnation(7)));
        assert_eq!(outputs, [Output::Active(true), Output::Read]);
        let nodes = (0..kept).map(|number| own(&format!("n{number}"), 80, "a")).collect();
        assert_eq!(rig.answered(Answer::Kept(nodes, None)), []);
        rig
    }
}

fn sight(count: u16) -> Sight {
    let nodes = (0..count).map(|number| own(&format!("n{number}"), 80, "a"));
    let nodes = nodes.map(|node| (node.node.name.clone(), Wanted::Node(Box::new(node)))).collect();
    Sight { nodes, is_complete: true, ..Sight::default() }
}

fn written(outputs: &[Output]) -> Vec<String> {
    match outputs {
        [Output::Change(ConnectorChange::Write { term, writes, .. })] => {
            assert_eq!(*term, Incarnation(7));
            let removes =
                |write: &ConnectorWrite| if matches!(write, ConnectorWrite::Remove { .. }) { "-" } else { "" };
            writes.iter().map(|write| format!("{}{}", removes(write), write.node())).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn is_renewal(outputs: &[Output]) -> bool {
    matches!(outputs, [Output::Change(ConnectorChange::Renew { .. })])
}

#[test]
fn a_process_without_the_lease_writes_nothing_and_asks_again() {
    let mut rig = Rig::new();
    rig.step(Input::Tick);
    assert_eq!(rig.sees(2), [], "one question at a time");
    assert_eq!(rig.answered(Answer::Elsewhere("connector `ecs` runs as `p2`".to_owned())), []);
    assert!(!rig.keeper.is_active());
    assert_eq!(rig.later(1), []);
    assert!(matches!(rig.later(5)[..], [Output::Change(ConnectorChange::Acquire { .. })]));
    let outputs = rig.answered(Answer::Granted(Incarnation(7)));
    assert_eq!(outputs, [Output::Active(true), Output::Read]);
    assert_eq!(written(&rig.answered(Answer::Kept(vec![], None))), ["n0", "n1"], "what was seen meanwhile counts");
}

#[test]
fn what_comes_is_written_before_what_goes_and_then_it_rests() {
    let mut rig = Rig::active(5);
    let mut sight = sight(3);
    let new = own("m1", 80, "a");
    sight.nodes.insert(new.node.name.clone(), Wanted::Node(Box::new(new)));
    assert_eq!(written(&rig.step(Input::Seen(sight))), ["m1"]);
    assert_eq!(written(&rig.answered(Answer::Written(vec![]))), ["-n3", "-n4"]);
    let outputs = rig.answered(Answer::Written(vec![]));
    assert!(is_renewal(&outputs), "how it fares is told: {outputs:?}");
    assert_eq!(rig.answered(Answer::Granted(Incarnation(7))), []);
    assert_eq!(rig.later(5), []);
    assert_eq!((rig.keeper.status().nodes, rig.keeper.status().problems), (4, vec![]));
}

#[test]
fn a_lease_that_cannot_be_renewed_ends_for_its_holder_before_anybody_else_may_have_it() {
    let mut rig = Rig::active(0);
    let outputs = rig.later(10);
    assert!(is_renewal(&outputs), "{outputs:?}");
    rig.answered(Answer::Failed("nobody answers".to_owned()));
    assert!(rig.keeper.is_active());
    for _ in 0..3 {
        rig.later(5);
        rig.answered(Answer::Failed("nobody answers".to_owned()));
    }
    let outputs = rig.later(5);
    assert_eq!(outputs.first(), Some(&Output::Active(false)), "30 s after it was asked for");
    assert!(!rig.keeper.is_active());
    assert!(rig.keeper.status().problems[0].reason.contains("could not be renewed"));
}

#[test]
fn whoever_hears_that_another_has_the_lease_stops_at_once() {
    let mut rig = Rig::active(1);
    rig.sees(2);
    let outputs = rig.answered(Answer::Elsewhere("the write is of term 7".to_owned()));
    assert_eq!(outputs.first(), Some(&Output::Active(false)));
    assert!(matches!(outputs[1..], [Output::Change(ConnectorChange::Acquire { .. })]));
}

#[test]
fn m2_what_belongs_to_others_is_reported_left_alone_and_tried_again_later() {
    let mut rig = Rig::active(0);
    assert_eq!(written(&rig.sees(2)), ["n0", "n1"]);
    let reason = "node `n0` belongs to agent:7, and only its owner writes it".to_owned();
    let refused = vec![RefusedWrite { node: "n0".parse().unwrap(), reason, conflict: true }];
    rig.answered(Answer::Written(refused));
    let status = rig.keeper.status();
    assert_eq!((status.nodes, status.problems[0].kind), (1, ProblemKind::Conflict), "{status:?}");
    rig.answered(Answer::Granted(Incarnation(7)));
    assert_eq!(rig.later(5), []);
    rig.later(15);
    rig.answered(Answer::Granted(Incarnation(7)));
    assert!(is_renewal(&rig.later(11)));
    assert_eq!(written(&rig.answered(Answer::Granted(Incarnation(7)))), ["n0"]);
}

#[test]
fn checks_of_a_node_that_is_yet_to_come_are_written_soon_after_it_has() {
    let mut rig = Rig::active(0);
    let checks = vec![check("web-0", catalog::CheckStatus::Passing)];
    let checks = [("web-0".parse().unwrap(), Wanted::Checks(checks))].into();
    assert_eq!(
        written(&rig.step(Input::Seen(Sight { nodes: checks, is_complete: true, ..Sight::default() }))),
        ["web-0"]
    );
    let reason = "there is no node `web-0`".to_owned();
    let refused = vec![RefusedWrite { node: "web-0".parse().unwrap(), reason, conflict: false }];
    rig.answered(Answer::Written(refused));
    rig.answered(Answer::Granted(Incarnation(7)));
    assert_eq!(rig.later(1), []);
    let mut outputs = rig.later(1);
    if is_renewal(&outputs) {
        outputs = rig.answered(Answer::Granted(Incarnation(7)));
    }
    assert_eq!(written(&outputs), ["web-0"]);
}

#[test]
fn one_write_that_the_servers_refuse_does_not_keep_the_others_back() {
    let mut rig = Rig::active(0);
    assert_eq!(written(&rig.sees(3)).len(), 3);
    let outputs = rig.answered(Answer::Refused("no right on `web`".to_owned()));
    assert!(is_renewal(&outputs), "may it do anything? {outputs:?}");
    assert_eq!(written(&rig.answered(Answer::Granted(Incarnation(7)))), ["n0"]);
    assert_eq!(written(&rig.answered(Answer::Refused("no right on `web`".to_owned()))), ["n1"]);
    assert_eq!(written(&rig.answered(Answer::Written(vec![]))), ["n2"]);
    rig.answered(Answer::Written(vec![]));
    assert_eq!((rig.keeper.status().nodes, rig.keeper.status().problems.len()), (2, 1));
}

#[test]
fn a_token_that_may_do_nothing_is_said_once_and_not_tried_with_every_node() {
    let mut rig = Rig::active(0);
    assert_eq!(written(&rig.sees(500)).len(), CONNECTOR_WRITES_MAX);
    assert!(is_renewal(&rig.answered(Answer::Refused("the token is unknown".to_owned()))));
    let mut asked = 0;
    for _ in 0..20 {
        let outputs = rig.answered(Answer::Refused("the token is unknown".to_owned()));
        assert_eq!(outputs, [], "it rests");
        assert_eq!(rig.keeper.status().problems.len(), 1);
        rig.now = rig.keeper.wakes_at(rig.now);
        let outputs = rig.step(Input::Tick);
        if !rig.keeper.is_active() {
            break;
        }
        assert!(is_renewal(&outputs), "{outputs:?}");
        asked += 1;
    }
    assert!((5..12).contains(&asked), "until the lease is over: {asked}");
}

#[test]
fn nodes_that_the_token_may_not_write_are_tried_at_a_pace_and_hold_up_no_others() {
    let mut rig = Rig::active(0);
    let mut outputs = rig.sees(400);
    let (mut tried, mut asked) = (std::collections::BTreeSet::new(), 0);
    // All but the last hundred are refused.
    while rig.keeper.status().nodes < 100 {
        let answer = match &outputs[..] {
            [Output::Change(ConnectorChange::Write { writes, .. })] => {
                asked += 1;
                let number = |write: &ConnectorWrite| write.node().as_str()[1..].parse::<u16>().unwrap();
                let is_bad = writes.iter().any(|write| number(write) < 300);
                if let (true, [one]) = (is_bad, &writes[..]) {
                    assert!(tried.insert(one.node().clone()), "{} twice, before all had their turn", one.node());
                }
                if is_bad { Answer::Refused("no right".to_owned()) } else { Answer::Written(vec![]) }
            }
            outputs if is_renewal(outputs) => Answer::Granted(Incarnation(7)),
            [] => {
                rig.now = rig.keeper.wakes_at(rig.now);
                outputs = rig.step(Input::Tick);
                continue;
            }
            other => panic!("{other:?}"),
        };
        outputs = rig.answered(answer);
    }
    let took = rig.now - rig.start;
    assert!(asked < 800, "{asked}");
    assert!(took >= Duration::from_secs(20) && took < Duration::from_secs(120), "{took:?}");
}

#[test]
fn m3_after_a_lost_answer_the_catalog_is_read_before_anything_is_written_again() {
    let mut rig = Rig::active(0);
    rig.sees(2);
    assert_eq!(rig.answered(Answer::Failed("it is unknown whether it was carried out".to_owned())), []);
    assert_eq!(rig.later(1), [Output::Read]);
    let nodes = vec![own("n0", 80, "a")];
    assert_eq!(written(&rig.answered(Answer::Kept(nodes, None))), ["n1"]);
}

#[test]
fn a_mass_removal_waits_for_an_operators_word_and_that_is_looked_for() {
    let mut rig = Rig::active(10);
    let outputs = rig.sees(2);
    assert!(is_renewal(&outputs), "{outputs:?}");
    let held = rig.keeper.status().problems;
    assert_eq!((held[0].kind, held[0].subject.as_str()), (ProblemKind::Held, "8 nodes"));
    assert!(held[0].reason.contains("weft connector confirm ecs --removals 8"), "{held:?}");
    assert_eq!(rig.answered(Answer::Granted(Incarnation(7))), [Output::Read]);
    let nodes = || (0..10).map(|number| own(&format!("n{number}"), 80, "a")).collect();
    assert_eq!(rig.answered(Answer::Kept(nodes(), None)), []);
    assert!(is_renewal(&rig.later(10)));
    assert_eq!(rig.answered(Answer::Granted(Incarnation(7))), [Output::Read]);
    let outputs = rig.answered(Answer::Kept(nodes(), Some(8)));
    assert_eq!(written(&outputs).len(), 8);
}

#[test]
fn m5_while_the_platform_cannot_be_seen_nothing_goes_and_that_is_said() {
    let mut rig = Rig::active(3);
    let reason = "the credentials have expired".to_owned();
    let problem = ConnectorProblem { kind: ProblemKind::Degraded, subject: "aws".to_owned(), reason };
    let unseen = std::collections::BTreeSet::from(["a".to_owned()]);
    let blind = Sight { problems: vec![problem], is_complete: true, unseen, ..Sight::default() };
    assert!(is_renewal(&rig.step(Input::Seen(blind))), "told, and nothing written");
    assert_eq!(rig.keeper.status().problems[0].kind, ProblemKind::Degraded);
    assert_eq!(rig.keeper.status().nodes, 3);
    assert!(own("n0", 80, "a").node.meta.contains_key(SCOPE));
}

#[test]
fn a_process_that_stops_gives_its_lease_back() {
    let mut rig = Rig::active(0);
    assert!(matches!(rig.step(Input::Stop)[..], [Output::Change(ConnectorChange::Release { .. })]));
    assert_eq!(rig.answered(Answer::Released), [Output::Active(false), Output::Done]);
    let mut idle = Rig::new();
    idle.step(Input::Tick);
    idle.step(Input::Stop);
    assert_eq!(idle.answered(Answer::Elsewhere("`p2` runs it".to_owned())), [Output::Done]);
    let mut cut = Rig::active(0);
    cut.step(Input::Stop);
    assert_eq!(cut.answered(Answer::Failed("nobody answers".to_owned())), [Output::Active(false), Output::Done]);
}
