//! Who may use the local API: tokens, judged by a server and remembered for a while.
//!
//! A server is asked for a token's rights, and its answer holds for thirty seconds. While no server answers, an answer
//! that was good holds on, so that an operator can still look at an agent whose servers are gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use catalog::{Authority, NodeName, Timestamp};
use wire::crypto::{self, Secret};

use super::error::ApiError;

/// How long a server's word on a token holds.
const FRESH: Duration = Duration::from_secs(30);
/// How long a server's word holds that it does not know a token: it may be made in the meantime.
const FRESH_UNKNOWN: Duration = Duration::from_secs(2);
/// More tokens than this are not remembered at once.
const REMEMBERED_MAX: usize = 1024;

/// The right that a route of the agent needs; declared beside its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Any token that is valid.
    AnyToken,
    /// `agent:read` on the agent's node.
    AgentRead,
    /// `agent:write` on the agent's node.
    AgentWrite,
    /// Any token that is valid; the handler asks for the rest, or shows only what the caller may see.
    Judged,
}

impl Right {
    /// Reports whether whoever has `authority` has the right on the agent of `node`.
    pub(super) fn is_held_by(self, authority: &Authority, node: &NodeName) -> bool {
        match self {
            Self::AnyToken | Self::Judged => true,
            Self::AgentRead => authority.agent_read(node),
            Self::AgentWrite => authority.agent_write(node),
        }
    }

    /// Returns what a caller has to have, as an error text says it.
    pub(super) fn needs(self) -> &'static str {
        match self {
            Self::AnyToken => "a valid token",
            Self::AgentRead => "`agent:read` on this node",
            Self::AgentWrite => "`agent:write` on this node",
            Self::Judged => "a token with the right to do so",
        }
    }
}

/// What a server says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is valid, until its end.
    Known {
        /// What it may do.
        authority: Arc<Authority>,
        /// When it ends; never where there is none.
        expires_at: Option<Timestamp>,
    },
    /// No such token is known.
    Unknown,
}

/// Why no server could be asked.
#[derive(Debug)]
pub(super) struct Unanswered(pub(super) String);

#[derive(Debug)]
struct Remembered {
    standing: Standing,
    asked: Instant,
}

/// Remembers what servers said of tokens, under hashes of their secrets.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    remembered: Mutex<BTreeMap<[u8; 32], Remembered>>,
}

impl Tokens {
    /// Returns how a token stands, by memory or by asking.
    pub(super) async fn standing(
        &self,
        token: &Secret,
        ask: impl AsyncFnOnce() -> Result<Standing, Unanswered>,
    ) -> Result<Standing, ApiError> {
        let hash = crypto::sha256(token.expose().as_bytes());
        let known = self.recall(&hash);
        if let Some((standing, age)) = &known {
            let fresh = if *standing == Standing::Unknown { FRESH_UNKNOWN } else { FRESH };
            if *age < fresh {
                return Ok(current(standing.clone()));
            }
        }
        match (ask().await, known) {
            (Ok(standing), _) => {
                self.remember(hash, standing.clone());
                Ok(current(standing))
            }
            (Err(_), Some((standing @ Standing::Known { .. }, _))) => Ok(current(standing)),
            (Err(Unanswered(reason)), _) => Err(ApiError::TokenUnchecked { reason }),
        }
    }

    fn recall(&self, hash: &[u8; 32]) -> Option<(Standing, Duration)> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(hash).map(|known| (known.standing.clone(), known.asked.elapsed()))
    }

    fn remember(&self, hash: [u8; 32], standing: Standing) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX && !remembered.contains_key(&hash) {
            let worth = |known: &Remembered| (known.standing != Standing::Unknown, known.asked);
            let least = remembered.iter().min_by_key(|(_, known)| worth(known)).map(|(hash, _)| *hash);
            if let Some(least) = least {
                remembered.remove(&least);
            }
        }
        remembered.insert(hash, Remembered { standing, asked: Instant::now() });
    }
}

/// A token ends when it ends, even while nobody can be asked.
fn current(standing: Standing) -> Standing {
    match standing {
        Standing::Known { expires_at: Some(end), .. } if crypto::now() >= end => Standing::Unknown,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn good() -> Standing {
        Standing::Known { authority: Arc::new(Authority::management()), expires_at: None }
    }

    fn no_server() -> Result<Standing, Unanswered> {
        Err(Unanswered("gone".to_owned()))
    }

    #[tokio::test]
    async fn a_server_is_asked_once_for_many_requests() {
        let tokens = Tokens::default();
        let asked = Cell::new(0);
        for _ in 0..3 {
            let ask = async || {
                asked.set(asked.get() + 1);
                Ok(good())
            };
            assert_eq!(tokens.standing(&Secret::new("t"), ask).await.unwrap(), good());
        }
        assert_eq!(asked.get(), 1);
    }

    #[tokio::test]
    async fn a_good_answer_holds_on_while_no_server_answers_and_only_then() {
        let tokens = Tokens::default();
        let token = Secret::new("t");
        tokens.standing(&token, async || Ok(good())).await.unwrap();
        let hash = crypto::sha256(b"t");
        let long_ago = Instant::now().checked_sub(FRESH * 2).unwrap();
        tokens.remembered.lock().unwrap().get_mut(&hash).unwrap().asked = long_ago;
        assert_eq!(tokens.standing(&token, async || no_server()).await.unwrap(), good());
        assert_eq!(tokens.standing(&token, async || Ok(Standing::Unknown)).await.unwrap(), Standing::Unknown);
    }

    #[tokio::test]
    async fn an_unknown_token_gets_nothing_while_no_server_answers() {
        let result = Tokens::default().standing(&Secret::new("t"), async || no_server()).await;
        assert!(matches!(result, Err(ApiError::TokenUnchecked { .. })));
    }

    #[tokio::test]
    async fn a_token_ends_at_its_end_even_from_memory() {
        let tokens = Tokens::default();
        let authority = Arc::new(Authority::management());
        let ended = Standing::Known { authority, expires_at: Some(Timestamp(1)) };
        assert_eq!(tokens.standing(&Secret::new("t"), async || Ok(ended.clone())).await.unwrap(), Standing::Unknown);
        assert_eq!(tokens.standing(&Secret::new("t"), async || no_server()).await.unwrap(), Standing::Unknown);
    }

    #[tokio::test]
    async fn a5_guesses_do_not_drive_out_good_tokens() {
        let tokens = Tokens::default();
        tokens.standing(&Secret::new("good"), async || Ok(good())).await.unwrap();
        for guess in 0..REMEMBERED_MAX * 2 {
            tokens.standing(&Secret::new(format!("guess-{guess}")), async || Ok(Standing::Unknown)).await.unwrap();
        }
        assert_eq!(tokens.remembered.lock().unwrap().len(), REMEMBERED_MAX);
        assert_eq!(tokens.standing(&Secret::new("good"), async || no_server()).await.unwrap(), good());
    }
}
