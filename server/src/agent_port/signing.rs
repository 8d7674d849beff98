//! Leaves that are being signed, so that one key asked for twice at a time is signed once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::{AgentId, KeyFingerprint};
use tokio::sync::OnceCell;
use wire::agent_protocol::{Leaf, Subject};

/// What a leaf is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    /// The agent that asks.
    pub(super) agent: AgentId,
    /// Whom the leaf is for.
    pub(super) subject: Subject,
    /// The key that it is for.
    pub(super) key: KeyFingerprint,
}

/// Gathers the questions for the same leaf while the first of them is being answered. It holds nothing longer.
#[derive(Debug, Default)]
pub(super) struct InProgress {
    cells: Mutex<HashMap<Asked, Arc<OnceCell<Leaf>>>>,
}

/// One question that waits for its leaf.
#[derive(Debug)]
struct Waiting<'a> {
    all: &'a InProgress,
    asked: Asked,
    cell: Arc<OnceCell<Leaf>>,
}

impl InProgress {
    /// Returns the leaf that `sign` makes, or the one that another question for the same is just being answered with.
    ///
    /// Where the first one fails, or whoever asked it goes away, the next one does it on its own account.
    pub(super) async fn once<E>(&self, asked: Asked, sign: impl Future<Output = Result<Leaf, E>>) -> Result<Leaf, E> {
        let cell = Arc::clone(self.lock().entry(asked.clone()).or_default());
        let waiting = Waiting { all: self, asked, cell };
        waiting.cell.get_or_try_init(|| sign).await.cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Asked, Arc<OnceCell<Leaf>>>> {
        // The map is consistent after every single operation.
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut cells = self.all.lock();
        // The map's own, and this one: whoever else waits holds another, taken under the same lock.
        if Arc::strong_count(&self.cell) == 2 {
            cells.remove(&self.asked);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use catalog::Timestamp;
    use tokio::sync::oneshot;

    use super::*;

    fn asked(subject: Subject, key: &str) -> Asked {
        Asked { agent: "a1".parse().unwrap(), subject, key: KeyFingerprint(key.to_owned()) }
    }

    fn leaf(number: u64) -> Leaf {
        Leaf { chain_pem: Vec::new(), not_after: Timestamp(number) }
    }

    #[tokio::test]
    async fn c13_one_key_asked_for_again_while_it_is_signed_is_signed_once() {
        let (all, signed) = (InProgress::default(), Cell::new(0));
        let (go, wait) = oneshot::channel::<()>();
        let first = all.once(asked(Subject::Agent, "k"), async {
            wait.await.unwrap();
            signed.set(signed.get() + 1);
            Ok::<_, Infallible>(leaf(1))
        });
        let again = || {
            all.once(asked(Subject::Agent, "k"), async {
                signed.set(signed.get() + 1);
                Ok::<_, Infallible>(leaf(2))
            })
        };
        let other = all.once(asked(Subject::Service("web".parse().unwrap()), "k"), async {
            // The others wait for what only this lets happen: it does not wait for them.
            go.send(()).unwrap();
            Ok::<_, Infallible>(leaf(3))
        });
        let answers = tokio::join!(first, again(), again(), other);
        assert_eq!(answers, (Ok(leaf(1)), Ok(leaf(1)), Ok(leaf(1)), Ok(leaf(3))));
        assert_eq!(signed.get(), 1);
        assert!(all.lock().is_empty(), "something is kept that nobody waits for");
        assert_eq!(again().await, Ok(leaf(2)), "a later question is a new one");
    }

    #[tokio::test]
    async fn c13_a_failed_or_abandoned_signing_is_the_next_ones_own() {
        let all = InProgress::default();
        let failing = all.once(asked(Subject::Agent, "k"), async {
            tokio::task::yield_now().await;
            Err::<Leaf, _>("busy")
        });
        let next = all.once(asked(Subject::Agent, "k"), async { Ok::<_, &str>(leaf(2)) });
        assert_eq!(tokio::join!(failing, next), (Err("busy"), Ok(leaf(2))));

        let abandoned = all.once(asked(Subject::Agent, "k"), std::future::pending::<Result<Leaf, &str>>());
        let next = all.once(asked(Subject::Agent, "k"), async { Ok::<_, &str>(leaf(3)) });
        {
            let mut abandoned = Box::pin(abandoned);
            assert!(futures_util::poll!(&mut abandoned).is_pending());
        }
        assert_eq!(next.await, Ok(leaf(3)));
        assert!(all.lock().is_empty());
    }
}
