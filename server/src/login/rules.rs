//! Binding rules as logins ask them: compiled once, for as long as they stay what they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use catalog::{AuthMethodName, BindingRules, Catalog, Refusal};

/// Holds the rules of the methods that were asked for.
#[derive(Debug, Default)]
pub(super) struct HeldRules(Mutex<BTreeMap<AuthMethodName, Arc<BindingRules>>>);

impl HeldRules {
    /// Returns the rules of a method as `catalog` has them.
    pub(super) fn of(&self, catalog: &Catalog, method: &AuthMethodName) -> Result<Arc<BindingRules>, Refusal> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(method).cloned();
        if let Some(held) = held.filter(|held| held.are_those_of(catalog)) {
            return Ok(held);
        }
        // Compiled outside the lock: logins by other methods do not wait for it.
        let read = BindingRules::of(catalog, method).map(Arc::new);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &read {
            Ok(rules) => drop(all.insert(method.clone(), Arc::clone(rules))),
            Err(_) => drop(all.remove(method)),
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use catalog::{Actor, BindKind, BindingRule, CatalogIndex, Command, Envelope, LoginChange, LoginClaims, Timestamp};

    use super::*;

    fn apply(catalog: &mut Catalog, change: LoginChange) {
        let index = CatalogIndex(catalog.index().0 + 1);
        let command = Command::Login { change };
        let envelope = Envelope {
            version: command.reads_from(),
            request_id: format!("r{index}").parse().unwrap(),
            actor: Actor::ClusterKey,
            source_address: None,
            proposed_at: Timestamp(index.0),
            command,
        };
        let outcome = catalog.apply(index, &envelope, wire::crypto::sha256).outcome;
        assert_eq!(outcome, catalog::Outcome::Done);
    }

    fn rule(number: u8, selector: &str, name: &str) -> LoginChange {
        let rule = BindingRule {
            id: format!("00000000-0000-0000-0000-0000000000{number:02}").parse().unwrap(),
            description: String::new(),
            method: "jwt".parse().unwrap(),
            selector: selector.to_owned(),
            bind: BindKind::Service,
            name: name.parse().unwrap(),
            created: CatalogIndex(0),
            modified: CatalogIndex(0),
        };
        LoginChange::WriteRule { rule: Box::new(rule), replace: false }
    }

    #[test]
    fn rules_are_compiled_once_until_one_of_them_or_their_method_changes() {
        let (mut catalog, held) = (Catalog::default(), HeldRules::default());
        let name: AuthMethodName = "jwt".parse().unwrap();
        assert!(matches!(held.of(&catalog, &name), Err(Refusal::NotFound { .. })));
        let method = crate::login::testing::method(&crate::login::testing::Issuer::new());
        apply(&mut catalog, LoginChange::WriteMethod { method: Box::new(method), replace: false });
        apply(&mut catalog, rule(1, "value.team matches `^pay`", "pay"));
        let first = held.of(&catalog, &name).unwrap();
        catalog.apply_empty(CatalogIndex(catalog.index().0 + 1));
        assert!(Arc::ptr_eq(&first, &held.of(&catalog, &name).unwrap()), "nothing has changed for them");
        let claims = LoginClaims {
            values: BTreeMap::from([("team".to_owned(), "payments".to_owned())]),
            ..LoginClaims::default()
        };
        let services = |held: &HeldRules, catalog: &Catalog| {
            let bound = held.of(catalog, &name).unwrap().bind(&claims, catalog.index()).unwrap();
            (bound.services.iter().map(|service| service.name.to_string()).collect::<Vec<_>>(), bound.judged_at)
        };
        assert_eq!(services(&held, &catalog), (vec!["pay".to_owned()], catalog.index()));
        apply(&mut catalog, rule(2, "", "all"));
        assert_eq!(services(&held, &catalog).0, ["all", "pay"]);
        // What an older state says is asked of that state.
        let before = catalog.clone();
        let id = "00000000-0000-0000-0000-000000000002".parse().unwrap();
        apply(&mut catalog, LoginChange::DeleteRule { id });
        assert_eq!(services(&held, &catalog).0, ["pay"]);
        assert_eq!(services(&held, &before).0, ["all", "pay"]);
        apply(&mut catalog, LoginChange::DeleteMethod { name: name.clone() });
        assert!(held.of(&catalog, &name).is_err());
    }
}
