//! What the binding rules make of an identity.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{BindKind, BindingRule, Variable};
use crate::{
    AuthMethod, AuthMethodName, Catalog, CatalogIndex, NETWORK_BYTES_MAX, NodeName, Refusal, Selector, ServiceKey,
};

/// Is what an auth method found out about somebody, named as its claim mappings say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginClaims {
    /// Who it is, in the method's own words; for people and the log.
    pub subject: String,
    /// The variables with one value. One that the credential does not have is missing or empty.
    pub values: BTreeMap<String, String>,
    /// The variables with a list.
    pub lists: BTreeMap<String, Vec<String>>,
    /// What the type of method knows by itself, by name; a dot leads into it: `serviceaccount.name`.
    pub facts: BTreeMap<String, String>,
}

/// Is what somebody is here, by all the rules that select them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The services.
    pub services: BTreeSet<ServiceKey>,
    /// The nodes.
    pub nodes: BTreeSet<NodeName>,
    /// The names of roles.
    pub roles: BTreeSet<String>,
    /// The names of policies.
    pub policies: BTreeSet<String>,
    /// The networks to be a gateway into.
    pub gateways: BTreeSet<String>,
    /// The index of the state that this was judged by.
    pub judged_at: CatalogIndex,
}

impl Bound {
    /// Returns the network that an agent may be a gateway into: it stands in one, so that several mean none.
    #[must_use]
    pub fn gateway(&self) -> Option<String> {
        self.gateways.first().filter(|_| self.gateways.len() == 1).cloned()
    }

    fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.nodes.is_empty()
            && self.roles.is_empty()
            && self.policies.is_empty()
            && self.gateways.is_empty()
    }
}

/// Is the binding rules of one method, with their selectors compiled: read once for many logins.
#[derive(Debug)]
pub struct BindingRules {
    method: Arc<AuthMethod>,
    rules: Vec<(Arc<BindingRule>, Selects)>,
}

/// Says whom a rule is for.
#[derive(Debug)]
enum Selects {
    Everybody,
    Some(Box<Selector>),
    /// What cannot be read selects nobody.
    Nobody,
}

impl BindingRules {
    /// Reads the rules of `method`.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] without such a method.
    pub fn of(catalog: &Catalog, method: &AuthMethodName) -> Result<Self, Refusal> {
        let found = catalog.auth_methods.get(method).ok_or_else(|| Refusal::not_found("auth method", method))?;
        let rules = catalog.binding_rules.values().filter(|rule| rule.method == *method);
        let compiled = |rule: &Arc<BindingRule>| {
            let selects = match Selector::parse(&rule.selector) {
                _ if rule.selector.is_empty() => Selects::Everybody,
                Ok(selector) => Selects::Some(Box::new(selector)),
                Err(_) => Selects::Nobody,
            };
            (Arc::clone(rule), selects)
        };
        Ok(Self { method: Arc::clone(found), rules: rules.map(compiled).collect() })
    }

    /// Reports whether these are the rules of the method as `catalog` has them: every change of a rule makes its method anew.
    #[must_use]
    pub fn are_those_of(&self, catalog: &Catalog) -> bool {
        catalog.auth_methods.get(&self.method.name).is_some_and(|method| Arc::ptr_eq(method, &self.method))
    }

    /// Asks the rules what somebody with these claims is here; `judged_at` is the index of the state that they are of.
    ///
    /// # Errors
    /// [`Refusal::LoginUnbound`] where no rule is for them, and [`Refusal::LoginName`] where a rule that is gives a name that
    /// cannot be: such a login is denied as a whole.
    pub fn bind(&self, claims: &LoginClaims, judged_at: CatalogIndex) -> Result<Bound, Refusal> {
        let mut bound = Bound {
            services: BTreeSet::new(),
            nodes: BTreeSet::new(),
            roles: BTreeSet::new(),
            policies: BTreeSet::new(),
            gateways: BTreeSet::new(),
            judged_at,
        };
        let document = document(&self.method, claims);
        for (rule, selects) in &self.rules {
            let is_for_them = match selects {
                Selects::Everybody => true,
                // What a selector cannot decide, it does not select.
                Selects::Some(selector) => selector.selects(&document) == Ok(true),
                Selects::Nobody => false,
            };
            if !is_for_them {
                continue;
            }
            apply(rule, &self.method, claims, &mut bound).ok_or_else(|| Refusal::LoginName {
                rule: rule.id.clone(),
                bind: rule.bind.to_string(),
                name: rule.name.to_string(),
            })?;
        }
        if bound.is_empty() {
            let (method, subject) = (self.method.name.clone(), claims.subject.clone());
            return Err(Refusal::LoginUnbound { method, subject });
        }
        Ok(bound)
    }
}

impl Catalog {
    /// Asks the binding rules of `method` what somebody with these claims is here.
    ///
    /// # Errors
    /// As [`BindingRules::of`] and [`BindingRules::bind`].
    pub fn bind(&self, method: &AuthMethodName, claims: &LoginClaims) -> Result<Bound, Refusal> {
        BindingRules::of(self, method)?.bind(claims, self.index())
    }
}

/// Every variable that the method has is there, as Consul does it: one that the credential lacks is empty.
fn document(method: &AuthMethod, claims: &LoginClaims) -> serde_json::Value {
    let (mut values, mut lists) = (BTreeMap::new(), BTreeMap::new());
    let mut document = serde_json::Map::new();
    for variable in method.config.variables() {
        match variable {
            Variable::Value(name) => {
                let value = claims.values.get(&name).cloned().unwrap_or_default();
                values.insert(name, value);
            }
            Variable::List(name) => {
                let list = claims.lists.get(&name).cloned().unwrap_or_default();
                lists.insert(name, list);
            }
            Variable::Fact(name) => {
                let value = claims.facts.get(&name).cloned().unwrap_or_default();
                put(&mut document, &name, value);
            }
        }
    }
    document.insert("value".to_owned(), json!(values));
    document.insert("list".to_owned(), json!(lists));
    document.into()
}

/// Puts a value where its name leads; a name that leads through another value is nowhere.
fn put(object: &mut serde_json::Map<String, serde_json::Value>, name: &str, value: String) {
    match name.split_once('.') {
        None => {
            object.insert(name.to_owned(), value.into());
        }
        Some((first, rest)) => {
            let inner = object.entry(first).or_insert_with(|| json!({}));
            if let Some(inner) = inner.as_object_mut() {
                put(inner, rest, value);
            }
        }
    }
}

fn apply(rule: &BindingRule, method: &AuthMethod, claims: &LoginClaims, bound: &mut Bound) -> Option<()> {
    let name = rule.name.fill(claims)?;
    match rule.bind {
        BindKind::Service => {
            let (namespace, name) = match name.split_once('/') {
                Some((namespace, name)) => (namespace.parse().ok()?, name),
                None => (method.namespace.clone(), name.as_str()),
            };
            bound.services.insert(ServiceKey::new(namespace, name.parse().ok()?));
        }
        BindKind::Node => {
            bound.nodes.insert(name.parse().ok()?);
        }
        BindKind::Role => {
            bound.roles.insert(name);
        }
        BindKind::Policy => {
            bound.policies.insert(name);
        }
        BindKind::Gateway => {
            if name.is_empty() || name.len() > NETWORK_BYTES_MAX {
                return None;
            }
            bound.gateways.insert(name);
        }
    }
    Some(())
}
