//! What tokens may do, and what becomes of tokens, policies and roles.

use std::sync::Arc;

use super::{Attempt, Catalog, Touched};
use crate::{
    AccessorId, AclChange, AclName, AclPolicy, AclRole, Actor, Authority, CatalogIndex, Envelope, Links, Namespace,
    Outcome, PolicyId, Refusal, Rights, RoleId, Rules, TemplatedPolicy, Timestamp, Token, WatchKey,
    validate::acl::check_namespaced,
};

impl Catalog {
    /// Returns what the holder of a token may do now; whether the token has expired is not asked here.
    #[must_use]
    pub fn authority(&self, token: &Token) -> Authority {
        if token.rights == Rights::Management {
            return Authority::management();
        }
        let mut authority = Authority::default();
        if token.auth_method.is_some() {
            authority.set_by_login();
        }
        self.add_links(&mut authority, &token.links(), &token.namespace);
        for role in token.roles.iter().filter_map(|id| self.role(id)) {
            if role.namespace == token.namespace {
                self.add_links(&mut authority, &role.links, &role.namespace);
            }
        }
        authority
    }

    /// Adds what everything but roles grants. A link to what is gone grants nothing.
    fn add_links(&self, authority: &mut Authority, links: &Links, namespace: &Namespace) {
        for policy in links.policies.iter().filter_map(|id| self.policy(id)) {
            if policy.namespace != *namespace {
                continue;
            }
            if AclPolicy::is_global_management(&policy.id) {
                authority.add_management();
            }
            authority.add(&policy.rules, namespace);
        }
        for name in &links.service_identities {
            authority.add(&Rules::of_service(name), namespace);
        }
        for policy in &links.templated_policies {
            authority.add(&policy.rules(), namespace);
        }
        if *namespace == Namespace::default_namespace() {
            for name in &links.node_identities {
                authority.add(&Rules::of_node(name), namespace);
            }
        }
    }

    /// Returns an ACL policy, one that weft comes with included.
    #[must_use]
    pub fn policy(&self, id: &PolicyId) -> Option<Arc<AclPolicy>> {
        self.acl_policies.get(id).cloned().or_else(|| AclPolicy::builtin_by_id(id).map(Arc::new))
    }

    /// Returns an ACL policy by its name within a namespace.
    #[must_use]
    pub fn policy_by_name(&self, namespace: &Namespace, name: &AclName) -> Option<Arc<AclPolicy>> {
        self.policies().into_iter().find(|policy| policy.name == *name && policy.namespace == *namespace)
    }

    /// Returns all ACL policies by id, those that weft comes with first.
    #[must_use]
    pub fn policies(&self) -> Vec<Arc<AclPolicy>> {
        AclPolicy::builtin().into_iter().map(Arc::new).chain(self.acl_policies.values().cloned()).collect()
    }

    /// Returns an ACL role.
    #[must_use]
    pub fn role(&self, id: &RoleId) -> Option<&AclRole> {
        self.acl_roles.get(id).map(|role| &**role)
    }

    /// Returns an ACL role by its name within a namespace.
    #[must_use]
    pub fn role_by_name(&self, namespace: &Namespace, name: &AclName) -> Option<&AclRole> {
        self.roles().find(|role| role.name == *name && role.namespace == *namespace)
    }

    /// Returns all ACL roles by id.
    pub fn roles(&self) -> impl Iterator<Item = &AclRole> {
        self.acl_roles.values().map(|role| &**role)
    }

    /// Returns when the first of the tokens ends that end at all.
    #[must_use]
    pub fn next_token_end(&self) -> Option<crate::Timestamp> {
        self.tokens.next_end()
    }

    pub(super) fn change_acl(
        &mut self,
        index: CatalogIndex,
        envelope: &Envelope,
        change: &AclChange,
        touched: &mut Touched,
    ) -> Attempt {
        let maker = self.login_behind(&envelope.actor);
        match change {
            AclChange::CreateToken { token } => match maker {
                Some(maker) => self.create_token_of_login(index, envelope.proposed_at, &maker, token, touched),
                None => self.create_token(index, token, touched),
            },
            AclChange::UpdateToken { accessor, description, rights, links } => {
                if let Some(maker) = maker {
                    self.check_of_login(&maker, accessor)?;
                }
                self.update_token(index, accessor, description, rights, links, touched)
            }
            AclChange::CreatePolicy { policy } => {
                if self.policy(&policy.id).is_some() {
                    return Err(Refusal::exists("policy", &policy.id));
                }
                self.put_policy(index, policy, index, touched)
            }
            AclChange::UpdatePolicy { policy } => {
                let previous = self.changeable_policy(&policy.id)?;
                let policy = AclPolicy { namespace: previous.namespace.clone(), ..(**policy).clone() };
                self.put_policy(index, &policy, previous.created, touched)
            }
            AclChange::DeletePolicy { id } => {
                self.changeable_policy(id)?;
                self.acl_policies.remove(id);
                touched.changed(WatchKey::AclPolicies);
                Ok(Outcome::Done)
            }
            AclChange::CreateRole { role } => {
                if self.role(&role.id).is_some() {
                    return Err(Refusal::exists("role", &role.id));
                }
                self.put_role(index, role, index, touched)
            }
            AclChange::UpdateRole { role } => {
                let previous = self.role(&role.id).ok_or_else(|| Refusal::not_found("role", &role.id))?;
                let created = previous.created;
                let role = AclRole { namespace: previous.namespace.clone(), ..(**role).clone() };
                self.put_role(index, &role, created, touched)
            }
            AclChange::DeleteRole { id } => {
                self.acl_roles.remove(id).ok_or_else(|| Refusal::not_found("role", id))?;
                touched.changed(WatchKey::AclRoles);
                Ok(Outcome::Done)
            }
            AclChange::ReapTokens => Ok(self.reap_tokens(touched)),
        }
    }

    /// Returns the token of a login behind an actor; none where nobody logged in.
    fn login_behind(&self, actor: &Actor) -> Option<Token> {
        let Actor::Token(accessor) = actor else { return None };
        self.token(accessor).filter(|token| token.auth_method.is_some()).cloned()
    }

    /// Makes a token that a login's token asks for: it is of the same login, and ends with what made it at the latest, so
    /// that whoever revokes the login reaches it too.
    fn create_token_of_login(
        &mut self,
        index: CatalogIndex,
        now: Timestamp,
        maker: &Token,
        token: &Token,
        touched: &mut Touched,
    ) -> Attempt {
        let token = Token {
            auth_method: maker.auth_method.clone(),
            login_subject: maker.login_subject.clone(),
            expires_at: [maker.expires_at, token.expires_at].into_iter().flatten().min(),
            ..token.clone()
        };
        if let Some(method) = maker.auth_method.as_ref().and_then(|method| method.parse().ok()) {
            self.check_few_logins(&method, &token, now)?;
        }
        self.create_token(index, &token, touched)
    }

    /// Refuses what a login's token would give to a token that outlives the login: only its own, or everything if it may do
    /// everything.
    fn check_of_login(&self, maker: &Token, accessor: &AccessorId) -> Result<(), Refusal> {
        let is_own =
            |token: &Token| (&token.auth_method, &token.login_subject) == (&maker.auth_method, &maker.login_subject);
        if self.authority(maker).is_management() || self.token(accessor).is_none_or(is_own) {
            return Ok(());
        }
        Err(Refusal::NotOfLogin { accessor: accessor.clone() })
    }

    /// Makes a token.
    pub(super) fn create_token(&mut self, index: CatalogIndex, token: &Token, touched: &mut Touched) -> Attempt {
        if self.tokens.get(&token.accessor).is_some() {
            return Err(Refusal::exists("token", &token.accessor));
        }
        self.check_links(&token.links(), &token.namespace)?;
        self.write_token(index, token, touched)
    }

    fn update_token(
        &mut self,
        index: CatalogIndex,
        accessor: &AccessorId,
        description: &str,
        rights: &Rights,
        links: &Links,
        touched: &mut Touched,
    ) -> Attempt {
        let previous = self.token(accessor).ok_or_else(|| Refusal::not_found("token", accessor))?.clone();
        self.check_links(links, &previous.namespace)?;
        if *rights == Rights::Management && previous.namespace != Namespace::default_namespace() {
            return Err(Refusal::invalid(
                "policies",
                "`global-management` is of the whole mesh: no token of a namespace has it",
            ));
        }
        if *rights != Rights::Management {
            self.check_not_last_management(&previous, "takes its rights")?;
        }
        let token = Token { description: description.to_owned(), rights: rights.clone(), ..previous };
        self.write_token(index, &token.with_links(links.clone()), touched)
    }

    /// Refuses what would leave nobody who may do everything for good.
    pub(super) fn check_not_last_management(&self, token: &Token, what: &str) -> Result<(), Refusal> {
        if token.rights != Rights::Management || self.tokens.has_lasting_besides(&token.accessor) {
            return Ok(());
        }
        Err(Refusal::invalid(
            format!("token `{}`", token.accessor),
            format!("it is the last management token that does not expire: make another before somebody {what}"),
        ))
    }

    /// Checks that everything linked to is there and of the same namespace: rights do not cross into another one.
    pub(super) fn check_links(&self, links: &Links, namespace: &Namespace) -> Result<(), Refusal> {
        check_namespaced(links, namespace)?;
        for id in &links.policies {
            let policy = self.policy(id).ok_or_else(|| Refusal::not_found("policy", id))?;
            if policy.namespace != *namespace {
                return Err(elsewhere("policies", &policy.name, &policy.namespace, namespace));
            }
        }
        for id in &links.roles {
            let role = self.role(id).ok_or_else(|| Refusal::not_found("role", id))?;
            if role.namespace != *namespace {
                return Err(elsewhere("roles", &role.name, &role.namespace, namespace));
            }
        }
        Ok(())
    }

    /// Returns a policy that may be changed: not one that weft comes with.
    fn changeable_policy(&self, id: &PolicyId) -> Result<Arc<AclPolicy>, Refusal> {
        if let Some(builtin) = AclPolicy::builtin_by_id(id) {
            let problem = "weft comes with it, and it stays as it is: make a policy of your own";
            return Err(Refusal::invalid(format!("policy `{}`", builtin.name), problem));
        }
        self.policy(id).ok_or_else(|| Refusal::not_found("policy", id))
    }

    fn put_policy(
        &mut self,
        index: CatalogIndex,
        policy: &AclPolicy,
        created: CatalogIndex,
        touched: &mut Touched,
    ) -> Attempt {
        if self.policy_by_name(&policy.namespace, &policy.name).is_some_and(|other| other.id != policy.id) {
            return Err(Refusal::exists("policy", &policy.name));
        }
        if !policy.rules.is_within(&policy.namespace) {
            let problem =
                format!("they reach beyond the namespace `{}`: only its services and `acl`", policy.namespace);
            return Err(Refusal::invalid("rules", problem));
        }
        let written = AclPolicy { created, modified: index, ..policy.clone() };
        self.acl_policies.insert(policy.id.clone(), Arc::new(written));
        touched.changed(WatchKey::AclPolicies);
        Ok(Outcome::Done)
    }

    fn put_role(
        &mut self,
        index: CatalogIndex,
        role: &AclRole,
        created: CatalogIndex,
        touched: &mut Touched,
    ) -> Attempt {
        if self.role_by_name(&role.namespace, &role.name).is_some_and(|other| other.id != role.id) {
            return Err(Refusal::exists("role", &role.name));
        }
        self.check_links(&role.links, &role.namespace)?;
        let written = AclRole { created, modified: index, ..role.clone() };
        self.acl_roles.insert(role.id.clone(), Arc::new(written));
        touched.changed(WatchKey::AclRoles);
        Ok(Outcome::Done)
    }

    fn reap_tokens(&mut self, touched: &mut Touched) -> Outcome {
        while let Some(accessor) = self.tokens.first_ended(self.clock) {
            self.tokens.remove(&accessor);
            touched.changed(WatchKey::Tokens);
        }
        Outcome::Done
    }
}

fn elsewhere(field: &str, name: &AclName, found: &Namespace, wanted: &Namespace) -> Refusal {
    Refusal::invalid(field, format!("`{name}` is of the namespace `{found}`, not of `{wanted}`: rights stay in theirs"))
}

impl TemplatedPolicy {
    /// Returns what it grants.
    #[must_use]
    pub fn rules(&self) -> Rules {
        match self {
            Self::Service { name } => Rules::of_service(name),
            Self::Node { name } => Rules::of_node(name),
            Self::Dns => Rules::of_dns(),
        }
    }
}
