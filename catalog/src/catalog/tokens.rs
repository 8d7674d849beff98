//! Tokens as they are held: found by everything that applying a command asks them by, so that none is looked for one by one.

use std::{ops::Bound, sync::Arc};

use imbl::{OrdMap, OrdSet};

use crate::{AccessorId, JoinToken, Rights, SecretHash, Timestamp, Token};

/// Who logged in: the auth method, and whom it vouched for.
type Login = (String, Option<String>);

/// Holds the tokens of the API.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tokens {
    held: OrdMap<AccessorId, Arc<Token>>,
    by_secret: OrdMap<SecretHash, AccessorId>,
    by_end: OrdSet<(Timestamp, AccessorId)>,
    by_login: OrdMap<Login, OrdSet<AccessorId>>,
    /// Those that may do everything, and never end.
    lasting: OrdSet<AccessorId>,
}

fn login_of(token: &Token) -> Option<Login> {
    Some((token.auth_method.clone()?, token.login_subject.clone()))
}

impl Tokens {
    pub(crate) fn get(&self, accessor: &AccessorId) -> Option<&Arc<Token>> {
        self.held.get(accessor)
    }

    pub(crate) fn by_secret(&self, secret: &SecretHash) -> Option<&Arc<Token>> {
        self.held.get(self.by_secret.get(secret)?)
    }

    /// Returns all of them, by accessor.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Token>> {
        self.held.values()
    }

    /// Puts a token in the place of the one with its accessor.
    pub(crate) fn put(&mut self, token: Arc<Token>) {
        self.remove(&token.accessor);
        let accessor = &token.accessor;
        self.by_secret.insert(token.secret.clone(), accessor.clone());
        match token.expires_at {
            Some(end) => drop(self.by_end.insert((end, accessor.clone()))),
            None if token.rights == Rights::Management => drop(self.lasting.insert(accessor.clone())),
            None => {}
        }
        if let Some(login) = login_of(&token) {
            self.by_login.entry(login).or_default().insert(accessor.clone());
        }
        self.held.insert(accessor.clone(), token);
    }

    pub(crate) fn remove(&mut self, accessor: &AccessorId) -> Option<Arc<Token>> {
        let token = self.held.remove(accessor)?;
        self.by_secret.remove(&token.secret);
        self.lasting.remove(accessor);
        if let Some(end) = token.expires_at {
            self.by_end.remove(&(end, accessor.clone()));
        }
        if let Some(login) = login_of(&token)
            && let Some(of_login) = self.by_login.get_mut(&login)
        {
            of_login.remove(accessor);
            if of_login.is_empty() {
                self.by_login.remove(&login);
            }
        }
        Some(token)
    }

    /// Returns when the first of them ends that ends at all.
    pub(crate) fn next_end(&self) -> Option<Timestamp> {
        self.by_end.get_min().map(|(end, _)| *end)
    }

    /// Returns the first of them that has ended by then.
    pub(crate) fn first_ended(&self, now: Timestamp) -> Option<AccessorId> {
        self.by_end.get_min().filter(|(end, _)| *end <= now).map(|(_, accessor)| accessor.clone())
    }

    /// Returns those that one login method made; all of them, or of one subject.
    pub(crate) fn of_login(&self, method: &str, subject: Option<&str>) -> Vec<Arc<Token>> {
        let from = Bound::Included((method.to_owned(), subject.map(str::to_owned)));
        let of_method = self.by_login.range((from, Bound::Unbounded)).take_while(|((by, _), _)| by == method);
        let asked = of_method.filter(|((_, whom), _)| subject.is_none() || whom.as_deref() == subject);
        asked.flat_map(|(_, accessors)| accessors.iter().filter_map(|one| self.held.get(one).cloned())).collect()
    }

    /// Returns how many tokens of one login live, as far as `most`.
    pub(crate) fn live_logins(&self, method: &str, subject: &str, now: Timestamp, most: usize) -> usize {
        let login = (method.to_owned(), Some(subject.to_owned()));
        let tokens = self.by_login.get(&login).into_iter().flat_map(OrdSet::iter).filter_map(|one| self.held.get(one));
        tokens.filter(|token| token.expires_at.is_none_or(|end| now < end)).take(most).count()
    }

    /// Reports whether another than this one may do everything, and never ends.
    pub(crate) fn has_lasting_besides(&self, accessor: &AccessorId) -> bool {
        self.lasting.iter().any(|one| one != accessor)
    }
}

/// Holds the join tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct JoinTokens {
    held: OrdMap<AccessorId, Arc<JoinToken>>,
    by_secret: OrdMap<SecretHash, AccessorId>,
    by_end: OrdSet<(Timestamp, AccessorId)>,
}

impl JoinTokens {
    pub(crate) fn get(&self, accessor: &AccessorId) -> Option<&Arc<JoinToken>> {
        self.held.get(accessor)
    }

    pub(crate) fn by_secret(&self, secret: &SecretHash) -> Option<&Arc<JoinToken>> {
        self.held.get(self.by_secret.get(secret)?)
    }

    /// Returns all of them, by accessor.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<JoinToken>> {
        self.held.values()
    }

    /// Puts a join token in the place of the one with its accessor.
    pub(crate) fn put(&mut self, token: Arc<JoinToken>) {
        self.remove(&token.accessor);
        self.by_secret.insert(token.secret.clone(), token.accessor.clone());
        self.by_end.insert((token.expires_at, token.accessor.clone()));
        self.held.insert(token.accessor.clone(), token);
    }

    pub(crate) fn remove(&mut self, accessor: &AccessorId) -> Option<Arc<JoinToken>> {
        let token = self.held.remove(accessor)?;
        self.by_secret.remove(&token.secret);
        self.by_end.remove(&(token.expires_at, accessor.clone()));
        Some(token)
    }

    /// Returns the one that ends first.
    pub(crate) fn first_to_end(&self) -> Option<&(Timestamp, AccessorId)> {
        self.by_end.get_min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accessor(number: u8) -> AccessorId {
        format!("00000000-0000-0000-0000-0000000000{number:02x}").parse().unwrap()
    }

    /// Its number, its end, who logged in to get it, and whether it may do everything.
    type Drawn = (u8, Option<u64>, Option<(u8, Option<u8>)>, bool);

    fn token((number, end, login, manages): Drawn) -> Token {
        let rights = if manages { Rights::Management } else { Rights::Rules };
        let plain = Token::new(accessor(number), SecretHash(format!("s{number}-{end:?}")), rights, Timestamp(0));
        Token {
            expires_at: end.map(Timestamp),
            auth_method: login.map(|(method, _)| format!("m{method}")),
            login_subject: login.and_then(|(_, subject)| subject).map(|subject| format!("u{subject}")),
            ..plain
        }
    }

    fn any_token() -> impl Strategy<Value = Token> {
        let login = prop::option::of((0u8..3, prop::option::of(0u8..3)));
        (0u8..8, prop::option::of(0u64..6), login, any::<bool>()).prop_map(token)
    }

    proptest! {
        /// What is found is what looking at every token finds, whatever was put, replaced and removed before.
        #[test]
        fn every_question_is_answered_as_by_looking_at_all(
            steps in prop::collection::vec((any_token(), any::<bool>()), 0..40),
        ) {
            let mut tokens = Tokens::default();
            for (token, is_removed) in steps {
                if is_removed { drop(tokens.remove(&token.accessor)) } else { tokens.put(Arc::new(token)) }
                let all: Vec<Token> = tokens.all().map(|token| Token::clone(token)).collect();
                prop_assert_eq!(tokens.next_end(), all.iter().filter_map(|token| token.expires_at).min());
                prop_assert_eq!(tokens.by_secret.len(), all.len());
                for token in &all {
                    prop_assert_eq!(tokens.by_secret(&token.secret).map(|it| &**it), Some(token));
                    let lasts = |it: &&Token| it.rights == Rights::Management && it.expires_at.is_none();
                    let besides = all.iter().filter(lasts).any(|it| it.accessor != token.accessor);
                    prop_assert_eq!(tokens.has_lasting_besides(&token.accessor), besides);
                }
                for now in (0..6).map(Timestamp) {
                    let has_ended = all.iter().any(|token| token.expires_at.is_some_and(|end| end <= now));
                    prop_assert_eq!(tokens.first_ended(now).is_some(), has_ended);
                }
                for method in ["m0", "m1", "m2"] {
                    let of_method = |it: &&Token| it.auth_method.as_deref() == Some(method);
                    prop_assert_eq!(tokens.of_login(method, None).len(), all.iter().filter(of_method).count());
                    for subject in ["u0", "u1", "u2"] {
                        let is_same = |it: &&Token| it.login_subject.as_deref() == Some(subject);
                        let of_both = all.iter().filter(of_method).filter(is_same);
                        prop_assert_eq!(tokens.of_login(method, Some(subject)).len(), of_both.clone().count());
                        let live = of_both.filter(|it| it.expires_at.is_none_or(|end| Timestamp(3) < end)).count();
                        prop_assert_eq!(tokens.live_logins(method, subject, Timestamp(3), 99), live);
                    }
                }
            }
            for number in 0..8 {
                tokens.remove(&accessor(number));
            }
            prop_assert_eq!(tokens, Tokens::default());
        }
    }
}
