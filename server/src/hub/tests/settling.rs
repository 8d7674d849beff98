//! When all of what decides calls was told.

use catalog::{Action, Intention, WriteMode};

use super::*;

fn toward(service: &str) -> Topic {
    Topic::Intentions(service.parse().unwrap())
}

/// Denies one more caller.
fn intend(log: &mut Log, destination: &str) {
    let caller = format!("caller-{}", log.catalog.index());
    let intention = Intention::new(caller.parse().unwrap(), destination.parse().unwrap(), Action::Deny);
    log.write(Command::WriteIntention { intention: Box::new(intention), mode: WriteMode::Upsert });
}

/// Returns what a session is told: topics, and the index at each place where all was told.
fn told(outputs: &[Output]) -> Vec<Result<Topic, CatalogIndex>> {
    let frames = outputs.iter().map(|output| match output {
        Output::Send { frame, .. } => match frame.content() {
            ServerFrame::Event(event) => Ok(event.topic().clone()),
            ServerFrame::Settled { index } => Err(*index),
            other => panic!("{other:?}"),
        },
        Output::Close { .. } => panic!("{output:?}"),
    });
    frames.collect()
}

#[test]
fn p5_what_decides_calls_is_settled_after_all_of_it_and_nothing_else_is() {
    let (mut hub, mut log, session, _) = with_session(TINY, &["web", "api"]);
    let at = log.catalog.index();
    for topic in [toward("web"), toward("api")] {
        assert_eq!(told(&step(&mut hub, subscribe(session, &topic, None), 0)), [Ok(topic), Err(at)]);
    }
    let endpoints = endpoints("db");
    assert_eq!(told(&step(&mut hub, subscribe(session, &endpoints, None), 0)), [Ok(endpoints.clone())]);
    // Two writes that the hub hears of together are told as one, and settled as of the last.
    intend(&mut log, "*");
    log.register("vm-2", "db");
    let mut sent = told(&step(&mut hub, log.applied(), 1));
    assert_eq!(sent.pop(), Some(Err(log.catalog.index())));
    sent.sort();
    assert_eq!(sent, [Ok(toward("api")), Ok(toward("web")), Ok(endpoints.clone())]);
    log.write(deregister("vm-2"));
    assert_eq!(told(&step(&mut hub, log.applied(), 2)), [Ok(endpoints)]);
    assert!(hub.unsettled.is_empty());
}

#[test]
fn p5_nothing_is_settled_while_this_server_is_behind_on_what_decides_calls() {
    let (mut hub, mut log, session, _) = with_session(TINY, &["web", "api"]);
    let ahead = CatalogIndex(log.catalog.index().0 + 2);
    step(&mut hub, subscribe(session, &toward("web"), Some(ahead)), 0);
    let sent = step(&mut hub, subscribe(session, &toward("api"), None), 0);
    assert_eq!(told(&sent), [Ok(toward("api"))]);
    intend(&mut log, "api");
    assert_eq!(told(&step(&mut hub, log.applied(), 1)), [Ok(toward("api"))]);
    intend(&mut log, "web");
    let sent = told(&step(&mut hub, log.applied(), 2));
    assert_eq!(sent, [Ok(toward("web")), Err(ahead)]);

    // What is followed no longer is waited for no longer.
    step(&mut hub, subscribe(session, &toward("web"), Some(CatalogIndex(ahead.0 + 9))), 3);
    intend(&mut log, "api");
    assert_eq!(told(&step(&mut hub, log.applied(), 3)), [Ok(toward("api"))]);
    let sent = step(&mut hub, Input::Unsubscribe { session, topic: toward("web") }, 3);
    assert_eq!(told(&sent), [Err(log.catalog.index())]);
    // Being behind on what decides nothing holds nothing up.
    step(&mut hub, subscribe(session, &endpoints("db"), Some(CatalogIndex(ahead.0 + 9))), 3);
    intend(&mut log, "api");
    assert_eq!(told(&step(&mut hub, log.applied(), 4)), [Ok(toward("api")), Err(log.catalog.index())]);
}

#[test]
fn p5_fault_22_an_agent_one_release_behind_is_told_of_nothing_settled() {
    let (mut hub, mut log, session, agent) = with_session(TINY, &["web"]);
    let incarnation = log.open_session(&agent);
    let (session, knows) = (SessionId(session.0 + 1), Capabilities::default());
    let services = vec!["web".parse().unwrap()];
    step(&mut hub, Input::Connected { session, agent, incarnation, services, gateway: None, knows }, 0);
    step(&mut hub, log.applied(), 0);
    assert_eq!(told(&step(&mut hub, subscribe(session, &toward("web"), None), 0)), [Ok(toward("web"))]);
    intend(&mut log, "web");
    assert_eq!(told(&step(&mut hub, log.applied(), 1)), [Ok(toward("web"))]);
}
