//! How auth methods, their rules and logins change the state.

use std::{sync::Arc, time::Duration};

use super::{Attempt, Catalog, Touched};
use crate::{
    Admission, AgentId, AgentRecord, Attestation, AuthConfig, AuthMethod, AuthMethodName, BindingRule, BindingRuleId,
    CatalogIndex, LoginChange, Outcome, Refusal, SecretHash, Selector, Timestamp, Token, Variable, WatchKey,
    login::UsedBearer,
};

/// How many credentials that agents enrolled with are remembered at once: all of a day, in a mesh of some ten thousands.
const BEARERS_MAX: usize = 131_072;
/// How many of these may be one identity's: whoever is given as many as they like must not shut all others out.
pub(super) const BEARERS_OF_ONE_MAX: usize = BEARERS_MAX / 8;

/// How many binding rules one method has: all of them are asked at each login.
const RULES_MAX: usize = 1_024;
/// How many live tokens somebody may have by logging in: one credential, sent again and again, must not fill the state.
const LOGIN_TOKENS_MAX: usize = 16;
/// For so long beyond its end a credential is remembered: what is proposed now may carry the time of a clock that is behind.
const BEARER_KEPT_BEYOND: Duration = Duration::from_secs(600);

impl Catalog {
    pub(super) fn change_logins(
        &mut self,
        index: CatalogIndex,
        now: Timestamp,
        change: &LoginChange,
        touched: &mut Touched,
    ) -> Attempt {
        match change {
            LoginChange::WriteMethod { method, replace } => self.write_auth_method(index, method, *replace, touched),
            LoginChange::DeleteMethod { name } => self.delete_auth_method(name, touched),
            LoginChange::WriteRule { rule, replace } => self.write_binding_rule(index, rule, *replace, touched),
            LoginChange::DeleteRule { id } => self.delete_binding_rule(index, id, touched),
            LoginChange::GrantToken { token, method, judged_at } => {
                self.check_judged(method, *judged_at)?;
                self.check_not_banned(method, token.login_subject.as_deref(), None)?;
                self.check_few_logins(method, token, now)?;
                self.grant_token(index, token, touched)
            }
            LoginChange::Admit { admission } => self.admit(index, now, admission, touched),
            LoginChange::RevokeProvisional { enrolled } => self.revoke_provisional(index, *enrolled, touched),
        }
    }

    /// Returns an auth method.
    #[must_use]
    pub fn auth_method(&self, name: &AuthMethodName) -> Option<&AuthMethod> {
        self.auth_methods.get(name).map(|method| &**method)
    }

    /// Returns all auth methods by name.
    pub fn auth_methods(&self) -> impl Iterator<Item = &AuthMethod> {
        self.auth_methods.values().map(|method| &**method)
    }

    /// Returns a binding rule.
    #[must_use]
    pub fn binding_rule(&self, id: &BindingRuleId) -> Option<&BindingRule> {
        self.binding_rules.get(id).map(|rule| &**rule)
    }

    /// Returns all binding rules by id.
    pub fn binding_rules(&self) -> impl Iterator<Item = &BindingRule> {
        self.binding_rules.values().map(|rule| &**rule)
    }

    fn write_auth_method(
        &mut self,
        index: CatalogIndex,
        method: &AuthMethod,
        replace: bool,
        touched: &mut Touched,
    ) -> Attempt {
        let previous = self.auth_method(&method.name);
        match (previous, replace) {
            (Some(_), false) => return Err(Refusal::exists("auth method", &method.name)),
            (None, true) => return Err(Refusal::not_found("auth method", &method.name)),
            (Some(_), true) | (None, false) => {}
        }
        let variables = method.config.variables();
        if let Some((rule, variable)) =
            self.binding_rules().filter(|rule| rule.method == method.name).find_map(|rule| {
                Some((rule, variables_of(rule).into_iter().find(|variable| !variables.contains(variable))?))
            })
        {
            return Err(Refusal::invalid(
                "ClaimMappings",
                format!("binding rule {} needs `{variable}`: map a claim to it, or change the rule first", rule.id),
            ));
        }
        for rule in self.binding_rules().filter(|rule| rule.method == method.name) {
            check_tells_apart(&method.config, rule, "BoundIAMPrincipalARNs")?;
        }
        let created = previous.map_or(index, |previous| previous.created);
        let rules_modified = previous.map_or(index, |previous| previous.rules_modified);
        let written = AuthMethod { created, rules_modified, modified: index, ..method.clone() };
        self.auth_methods.insert(written.name.clone(), Arc::new(written));
        touched.changed(WatchKey::AuthMethods);
        Ok(Outcome::Done)
    }

    fn delete_auth_method(&mut self, name: &AuthMethodName, touched: &mut Touched) -> Attempt {
        if self.auth_methods.remove(name).is_none() {
            return Err(Refusal::not_found("auth method", name));
        }
        let rules: Vec<BindingRuleId> =
            self.binding_rules().filter(|rule| rule.method == *name).map(|rule| rule.id.clone()).collect();
        for id in rules {
            self.binding_rules.remove(&id);
        }
        for token in self.tokens.of_login(name.as_str(), None) {
            self.tokens.remove(&token.accessor);
            touched.changed(WatchKey::Tokens);
        }
        touched.changed(WatchKey::AuthMethods);
        Ok(Outcome::Done)
    }

    fn write_binding_rule(
        &mut self,
        index: CatalogIndex,
        rule: &BindingRule,
        replace: bool,
        touched: &mut Touched,
    ) -> Attempt {
        let previous = self.binding_rule(&rule.id);
        match (previous, replace) {
            (Some(_), false) => return Err(Refusal::exists("binding rule", &rule.id)),
            (None, true) => return Err(Refusal::not_found("binding rule", &rule.id)),
            (Some(previous), true) if previous.method != rule.method => {
                let problem = format!("the rule is of method `{}`: make a new one for another", previous.method);
                return Err(Refusal::invalid("AuthMethod", problem));
            }
            (Some(_), true) | (None, false) => {}
        }
        let method =
            self.auth_method(&rule.method).ok_or_else(|| Refusal::not_found("auth method", &rule.method))?.clone();
        let variables = method.config.variables();
        if let Some(unknown) = variables_of(rule).into_iter().find(|variable| !variables.contains(variable)) {
            let known: Vec<String> = variables.iter().map(ToString::to_string).collect();
            return Err(Refusal::invalid(
                "binding rule",
                format!("method `{}` has no `{unknown}`: it has {}", rule.method, known.join(", ")),
            ));
        }
        check_tells_apart(&method.config, rule, "Selector")?;
        let is_of_method = |held: &&BindingRule| held.method == rule.method;
        if previous.is_none() && self.binding_rules().filter(is_of_method).count() >= RULES_MAX {
            let problem =
                format!("method `{}` has {RULES_MAX} rules, and no more are asked at each login", rule.method);
            return Err(Refusal::invalid("AuthMethod", problem + ": let a rule name what it binds by a variable"));
        }
        let created = previous.map_or(index, |previous| previous.created);
        let written = BindingRule { created, modified: index, ..rule.clone() };
        self.binding_rules.insert(written.id.clone(), Arc::new(written));
        self.mark_rules(method, index, touched);
        Ok(Outcome::Done)
    }

    fn delete_binding_rule(&mut self, index: CatalogIndex, id: &BindingRuleId, touched: &mut Touched) -> Attempt {
        let rule = self.binding_rules.remove(id).ok_or_else(|| Refusal::not_found("binding rule", id))?;
        if let Some(method) = self.auth_method(&rule.method).cloned() {
            self.mark_rules(method, index, touched);
        }
        touched.changed(WatchKey::AuthMethods);
        Ok(Outcome::Done)
    }

    fn mark_rules(&mut self, method: AuthMethod, index: CatalogIndex, touched: &mut Touched) {
        let method = AuthMethod { rules_modified: index, ..method };
        self.auth_methods.insert(method.name.clone(), Arc::new(method));
        touched.changed(WatchKey::AuthMethods);
    }

    /// Refuses a login that was judged by rules that are no longer what they were. Rules are not asked again here: what
    /// regular expressions mean must not become part of the log's meaning.
    fn check_judged(&self, method: &AuthMethodName, judged_at: CatalogIndex) -> Result<(), Refusal> {
        let method = self.auth_method(method).ok_or_else(|| Refusal::not_found("auth method", method))?;
        if method.modified > judged_at || method.rules_modified > judged_at {
            return Err(Refusal::LoginRulesChanged { method: method.name.clone() });
        }
        Ok(())
    }

    pub(super) fn check_few_logins(
        &self,
        method: &AuthMethodName,
        token: &Token,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Some(subject) = &token.login_subject else { return Ok(()) };
        if self.tokens.live_logins(method.as_str(), subject, now, LOGIN_TOKENS_MAX) < LOGIN_TOKENS_MAX {
            return Ok(());
        }
        Err(Refusal::TooManyLogins { method: method.clone(), subject: subject.clone(), most: LOGIN_TOKENS_MAX })
    }

    fn grant_token(&mut self, index: CatalogIndex, token: &Token, touched: &mut Touched) -> Attempt {
        if self.tokens.get(&token.accessor).is_some() || self.tokens.by_secret(&token.secret).is_some() {
            return Err(Refusal::exists("token", &token.accessor));
        }
        self.check_links(&token.links(), &token.namespace)?;
        self.tokens.put(Arc::new(Token { created: index, modified: index, ..token.clone() }));
        touched.changed(WatchKey::Tokens);
        Ok(Outcome::Done)
    }

    fn admit(&mut self, index: CatalogIndex, now: Timestamp, login: &Admission, touched: &mut Touched) -> Attempt {
        self.check_judged(&login.method, login.judged_at)?;
        self.check_not_banned(&login.method, Some(&login.subject), Some(&login.key))?;
        if now >= login.bearer_ends {
            return Err(Refusal::BearerExpired);
        }
        self.forget_ended_bearers();
        self.check_admission(index, login)?;
        let attestation = Attestation::Login { method: login.method.clone(), subject: login.subject.clone() };
        let previous = self.agent_on(&login.node).cloned();
        let mut earlier = Vec::new();
        if let Some(previous) = &previous {
            if previous.key != login.key && !may_take_over(previous, login) {
                return Err(Refusal::NodeTaken { node: login.node.clone() });
            }
            let same = previous.key == login.key
                && previous.services == login.services
                && previous.gateway == login.gateway
                && previous.platform == login.platform
                && previous.attestation == attestation;
            if same {
                self.remember_bearer(login);
                let mut record = previous.clone();
                self.hold_earlier(&mut record, login.provisional.into_iter(), index, touched);
                if record.earlier != previous.earlier {
                    record.modified = index;
                    self.begin_record(&record, touched);
                }
                return Ok(Outcome::Enrolled { record: Box::new(record) });
            }
            // As with join tokens: what is no longer granted must not live on in a certificate.
            let keeps_all = previous.services.iter().all(|service| login.services.contains(service));
            let revoke = previous.key != login.key || !keeps_all;
            self.end_record(previous, index, revoke, touched);
            if !revoke {
                earlier = previous.earlier.clone();
                earlier.push(previous.enrolled);
            }
        }
        self.remember_bearer(login);
        let enrolled = self.number_at(index);
        let mut record = AgentRecord {
            id: AgentId::enrolled_at(enrolled),
            node: login.node.clone(),
            platform: login.platform,
            key: login.key.clone(),
            services: login.services.clone(),
            gateway: login.gateway.clone(),
            attestation,
            earlier: Vec::new(),
            enrolled,
            incarnation: None,
            server: None,
            presence: Default::default(),
            modified: index,
        };
        self.hold_earlier(&mut record, earlier.into_iter().chain(login.provisional), index, touched);
        self.begin_record(&record, touched);
        Ok(Outcome::Enrolled { record: Box::new(record) })
    }

    /// Refuses a login that counts for somebody else, or somewhere else.
    fn check_admission(&self, index: CatalogIndex, login: &Admission) -> Result<(), Refusal> {
        match self.bearers.get(&login.bearer) {
            Some(used) if used.key != login.key => return Err(Refusal::BearerUsed),
            Some(_) => {}
            None if login.is_of_one_key => {}
            None if self.bearers.len() >= BEARERS_MAX => return Err(Refusal::TooManyBearers),
            None => self.check_few_bearers(login)?,
        }
        if !login.nodes.is_empty() && !login.nodes.contains(&login.node) {
            let wanted: Vec<String> = login.nodes.iter().map(ToString::to_string).collect();
            return Err(Refusal::LoginElsewhere { wanted: wanted.join(", "), found: login.node.clone() });
        }
        if let Some(elsewhere) = self.agent_by_key(&login.key).filter(|record| record.node != login.node) {
            return Err(Refusal::exists("agent key", format!("of node {}", elsewhere.node)));
        }
        self.check_no_other_owner(&login.node)?;
        if let Some(provisional) = login.provisional {
            self.check_provisional(index, provisional)?;
        }
        Ok(())
    }

    fn check_few_bearers(&self, login: &Admission) -> Result<(), Refusal> {
        let (method, subject) = (login.method.clone(), login.subject.clone());
        match self.bearers_of.get(&(method.clone(), subject.clone())) {
            Some(held) if *held >= BEARERS_OF_ONE_MAX => {
                Err(Refusal::TooManyBearersOf { method, subject, most: BEARERS_OF_ONE_MAX })
            }
            _ => Ok(()),
        }
    }

    fn remember_bearer(&mut self, login: &Admission) {
        if login.is_of_one_key {
            return;
        }
        self.restore_bearer(UsedBearer {
            bearer: login.bearer.clone(),
            key: login.key.clone(),
            ends: login.bearer_ends,
            whose: Some((login.method.clone(), login.subject.clone())),
        });
    }

    pub(crate) fn restore_bearer(&mut self, used: UsedBearer) {
        self.forget_bearer(&used.bearer);
        self.bearer_ends.insert((used.ends, used.bearer.clone()));
        if let Some(whose) = &used.whose {
            *self.bearers_of.entry(whose.clone()).or_insert(0) += 1;
        }
        self.bearers.insert(used.bearer.clone(), Arc::new(used));
    }

    fn forget_bearer(&mut self, bearer: &SecretHash) {
        let Some(used) = self.bearers.remove(bearer) else { return };
        self.bearer_ends.remove(&(used.ends, used.bearer.clone()));
        let Some(whose) = &used.whose else { return };
        match self.bearers_of.get(whose).copied() {
            Some(held) if held > 1 => drop(self.bearers_of.insert(whose.clone(), held - 1)),
            _ => drop(self.bearers_of.remove(whose)),
        }
    }

    /// Forgets credentials that are past their end by the catalog's own clock: they are refused as expired.
    fn forget_ended_bearers(&mut self) {
        while let Some(first) = self.bearer_ends.get_min().cloned() {
            if self.clock.since(first.0) < BEARER_KEPT_BEYOND {
                return;
            }
            self.forget_bearer(&first.1);
        }
    }

    fn revoke_provisional(&mut self, index: CatalogIndex, enrolled: CatalogIndex, touched: &mut Touched) -> Attempt {
        self.check_provisional(index, enrolled)?;
        if !self.is_revoked(enrolled) {
            self.revoke_serials(enrolled, index, touched);
        }
        Ok(Outcome::Done)
    }

    /// Refuses a number that a record has, or will have.
    fn check_provisional(&self, index: CatalogIndex, enrolled: CatalogIndex) -> Result<(), Refusal> {
        if enrolled < self.number_at(index) && self.agent_record(&AgentId::enrolled_at(enrolled)).is_none() {
            return Ok(());
        }
        Err(Refusal::invalid("enrolled", format!("index {enrolled} is not one of agents without a record")))
    }
}

/// A platform that vouches for one node by name vouches for whoever is on it now: a pod or task that comes back under its
/// old name with a new key is let in. It has no say over nodes that came by a join token, or by another method, and nobody has
/// over a node of another identity: session and pod names are chosen by whoever starts them.
fn may_take_over(previous: &AgentRecord, login: &Admission) -> bool {
    let vouched = Attestation::Login { method: login.method.clone(), subject: login.subject.clone() };
    previous.attestation == vouched && login.nodes.contains(&login.node)
}

/// Returns everything that a rule needs to know of an identity. The selector was read before the rule was proposed.
fn variables_of(rule: &BindingRule) -> Vec<Variable> {
    let selector = Selector::parse(&rule.selector).ok();
    let asked = selector.iter().flat_map(|selector| selector.paths()).filter_map(Variable::of_path);
    asked.chain(rule.name.variables()).collect()
}

/// Refuses a rule that would make one of several identities: roles of two accounts have one name as easily as not.
fn check_tells_apart(config: &AuthConfig, rule: &BindingRule, field: &str) -> Result<(), Refusal> {
    let AuthConfig::AwsIam(aws) = config else { return Ok(()) };
    let fact = |name: &str| Variable::Fact(name.to_owned());
    let asked = variables_of(rule);
    if !rule.name.variables().any(|variable| variable == fact("entity_name")) || asked.contains(&fact("entity_id")) {
        return Ok(());
    }
    match aws.beside_names().into_iter().find(|name| !asked.contains(&fact(name))) {
        None => Ok(()),
        Some(name) => {
            let what = if name == "account_id" { "accounts" } else { "kinds" };
            let problem = format!(
                "binding rule {} names by `entity_name`, and the method takes principals of several {what}, where two may \
                 have one name: have its selector or its name ask for `{name}`, too",
                rule.id
            );
            Err(Refusal::invalid(field, problem))
        }
    }
}
