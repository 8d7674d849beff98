//! Removes tokens whose time is over. They count for nothing from that instant on; this keeps them from piling up.

use std::time::Duration;

use catalog::{AclChange, Catalog, Command, Timestamp, WatchKey};
use tokio::time::Instant;
use tracing::{debug, warn};
use wire::crypto;

use super::Consensus;
use super::status::Role;
use super::transport::jittered;

/// The longest that it waits at once: whatever it missed, it sees then.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Between two looks. The catalog's clock follows in steps where it is far behind, so that one may not be enough.
const PACE: Duration = Duration::from_secs(5);

/// Sees to it that tokens that have ended are removed, whenever this server leads.
pub(crate) async fn run(consensus: Consensus) {
    let mut standing = consensus.shared.standing.subscribe();
    loop {
        if standing.wait_for(|standing| standing.role == Role::Leader).await.is_err() {
            return;
        }
        let catalog = consensus.catalog();
        match wait_before_next(&catalog, crypto::now()) {
            Some(wait) => {
                let keys = [WatchKey::Tokens];
                consensus.changed(&keys, catalog.index_of(&keys), Instant::now() + wait).await;
            }
            None => remove(&consensus).await,
        }
        tokio::time::sleep(jittered(PACE)).await;
    }
}

/// Returns how long no token ends; none where one has ended.
fn wait_before_next(catalog: &Catalog, now: Timestamp) -> Option<Duration> {
    let wait = catalog.next_token_end().map_or(WAIT_MAX, |end| end.since(now));
    if wait.is_zero() { None } else { Some(wait.min(WAIT_MAX)) }
}

async fn remove(consensus: &Consensus) {
    let command = Command::Acl { change: AclChange::ReapTokens };
    match consensus.propose_as_server(command).await {
        Ok(committed) => debug!(index = committed.index.0, "tokens that had ended were removed"),
        Err(error) => warn!(error = %error, "tokens that have ended are not removed yet"),
    }
}

#[cfg(test)]
mod tests {
    use catalog::{Actor, Envelope};

    use super::*;

    #[test]
    fn it_waits_for_the_first_token_to_end_and_no_longer_than_an_hour() {
        let mut catalog = Catalog::default();
        assert_eq!(wait_before_next(&catalog, Timestamp(0)), Some(WAIT_MAX));
        let secret = catalog::SecretHash("s".to_owned());
        let accessor = "00000000-0000-0000-0000-000000000001".parse().unwrap();
        let token = catalog::Token::new(accessor, secret, catalog::Rights::Rules, Timestamp(0));
        let token = catalog::Token { expires_at: Some(Timestamp(10_000)), ..token };
        let envelope = Envelope {
            version: 2,
            request_id: "r1".parse().unwrap(),
            actor: Actor::Server("s1".parse().unwrap()),
            source_address: None,
            proposed_at: Timestamp(1),
            command: Command::Acl { change: AclChange::CreateToken { token: Box::new(token) } },
        };
        catalog.apply(catalog::CatalogIndex(1), &envelope, crypto::sha256);
        assert_eq!(wait_before_next(&catalog, Timestamp(4_000)), Some(Duration::from_secs(6)));
        assert_eq!(wait_before_next(&catalog, Timestamp(10_000)), None);
        assert_eq!(wait_before_next(&catalog, Timestamp(99_000)), None);
    }
}
