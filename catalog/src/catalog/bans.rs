//! Who is kept out, and how that begins and ends.

use std::sync::Arc;

use super::{Attempt, Catalog, Touched};
use crate::{AuthMethodName, Ban, Banned, KeyFingerprint, NodeName, Outcome, Refusal, WatchKey};

impl Catalog {
    /// Returns all bans.
    pub fn bans(&self) -> impl Iterator<Item = &Ban> {
        self.bans.values().map(|ban| &**ban)
    }

    pub(super) fn ban(&mut self, banned: Banned, node: Option<NodeName>, touched: &mut Touched) {
        let ban = Ban { banned: banned.clone(), node, since: self.clock };
        self.bans.insert(banned, Arc::new(ban));
        touched.changed(WatchKey::Revocations);
    }

    pub(super) fn lift(&mut self, banned: &Banned, touched: &mut Touched) -> Attempt {
        self.bans.remove(banned).ok_or_else(|| Refusal::not_found("ban", banned))?;
        touched.changed(WatchKey::Revocations);
        Ok(Outcome::Done)
    }

    /// Lifts what keeps out the keys that were on a node, or one key.
    pub(super) fn lift_agent(&mut self, named: &str, touched: &mut Touched) -> Attempt {
        let is_named = |ban: &&Ban| match &ban.banned {
            Banned::Key { key } => key.0 == named || ban.node.as_ref().is_some_and(|node| node.as_str() == named),
            Banned::Login { .. } => false,
        };
        let found: Vec<Banned> = self.bans().filter(is_named).map(|ban| ban.banned.clone()).collect();
        if found.is_empty() {
            return Err(Refusal::not_found("revoked agent", named));
        }
        found.iter().try_for_each(|banned| self.lift(banned, touched).map(drop))?;
        Ok(Outcome::Done)
    }

    /// An operator's join token lets a key in again that was revoked.
    pub(super) fn lift_key(&mut self, key: &KeyFingerprint, touched: &mut Touched) {
        if self.bans.remove(&Banned::Key { key: key.clone() }).is_some() {
            touched.changed(WatchKey::Revocations);
        }
    }

    /// Refuses whoever an operator revoked, whatever a platform says of them.
    pub(super) fn check_not_banned(
        &self,
        method: &AuthMethodName,
        subject: Option<&str>,
        key: Option<&KeyFingerprint>,
    ) -> Result<(), Refusal> {
        let key = key.map(|key| Banned::Key { key: key.clone() });
        let login =
            |subject: Option<&str>| Banned::Login { method: method.clone(), subject: subject.map(str::to_owned) };
        let mut asked = [key, subject.map(|subject| login(Some(subject))), Some(login(None))].into_iter().flatten();
        match asked.find(|banned| self.bans.contains_key(banned)) {
            Some(banned) => Err(Refusal::Banned { who: banned.to_string() }),
            None => Ok(()),
        }
    }
}
