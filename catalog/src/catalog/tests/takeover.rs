//! Taking a node over by a join token.

use super::*;

#[test]
fn c9_the_right_to_take_a_node_over_is_judged_again_when_the_join_token_is_used() {
    let mut log = Log::default();
    let team = Token {
        service_identities: vec!["web".parse().unwrap()],
        expires_at: Some(Timestamp(500)),
        ..Token::new(accessor(8), SecretHash("team".to_owned()), Rights::Rules, Timestamp(1))
    };
    let operator = Token::new(accessor(9), SecretHash("operator".to_owned()), Rights::Management, Timestamp(1));
    for token in [&team, &operator] {
        log.done(Command::Acl { change: crate::AclChange::CreateToken { token: Box::new(token.clone()) } });
    }
    let replacing = |number: u8, maker: u8| Command::CreateJoinToken {
        token: JoinToken { replace_node: true, maker: Some(accessor(maker)), ..join_token(number, &["web"]) },
    };
    log.done(Command::CreateJoinToken { token: join_token(1, &["web"]) });
    log.enrol(1, "key-a", "n1");
    log.done(replacing(2, 8));
    log.enrol(2, "key-b", "n1");
    // By the time that it is used, the node has a service that the maker has no say over.
    log.done(replacing(3, 8));
    log.done(Command::CreateJoinToken { token: join_token(4, &["db", "web"]) });
    log.enrol(4, "key-b", "n1");
    let refusal = log.refused(enrol(3, "key-c", "n1"));
    assert!(matches!(&refusal, Refusal::TakeoverLacks { lack, .. } if lack.contains("default/db")), "{refusal}");
    assert_eq!(refusal.kind(), RefusalKind::Forbidden);
    log.enrol(3, "key-d", "n2");
    // Nor does a right that has ended live on in a join token.
    log.done(replacing(5, 9));
    log.done(replacing(6, 9));
    log.enrol(5, "key-e", "n1");
    let spare = Token::new(accessor(10), SecretHash("spare".to_owned()), Rights::Management, Timestamp(1));
    log.done(Command::Acl { change: crate::AclChange::CreateToken { token: Box::new(spare) } });
    log.done(Command::DeleteToken { accessor: accessor(9) });
    assert!(matches!(log.refused(enrol(6, "key-f", "n1")), Refusal::TakeoverLacks { .. }));
    assert_eq!(log.catalog.agent_on(&"n1".parse().unwrap()).unwrap().key, KeyFingerprint("key-e".to_owned()));
}
