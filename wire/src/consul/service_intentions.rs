//! The `service-intentions` config entry: all intentions toward one destination in one document.
//!
//! weft keeps each intention by itself, with an owner. The document shows them all; written, it speaks for one owner, and
//! those of others may stand in it as they are.

use ::catalog::{
    Action, CatalogIndex, Effect, IntentionOwner, JwtRequirement, Namespace, PolicyChange, ServicePattern,
    SourcePattern, Timestamp,
};
use serde::{Deserialize, Serialize};

use super::default_partition;
use super::intention::{CONSUL, Instant, Intention, SPIFFE};
use super::permission::{IntentionJwt, IntentionPermission, read_jwt, read_rule};
use crate::decode::{DecodeError, Fields};
use crate::rfc3339;

/// The kind of these entries.
pub const SERVICE_INTENTIONS: &str = "service-intentions";

/// Writes or shows a `service-intentions` config entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceIntentions {
    /// Always `service-intentions`.
    pub kind: String,
    /// The destination's name, `*` for all.
    pub name: String,
    /// The destination's namespace, `*` for all.
    pub namespace: String,
    /// In whose name it is written; without one, in that of nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<IntentionOwner>,
    /// The intentions.
    pub sources: Vec<IntentionSource>,
    /// What the tokens of all requests must say that some intention of it allows; shown with each of them.
    #[serde(skip)]
    jwt: Option<JwtRequirement>,
    /// The index at which the oldest of them was first written.
    pub create_index: CatalogIndex,
    /// The index of the last change of any, its removal included.
    pub modify_index: CatalogIndex,
}

/// Writes or shows one intention of a `service-intentions` config entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct IntentionSource {
    /// The source's name, `*` for all, or a SPIFFE ID.
    pub name: String,
    /// The source's namespace, `*` for all; empty for a SPIFFE ID.
    pub namespace: String,
    /// `consul`, or `spiffe` for a SPIFFE ID.
    #[serde(rename = "Type")]
    pub source_type: String,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<IntentionOwner>,
    /// What happens; none where permissions say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// What happens by request; empty where an action says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<super::IntentionPermission>,
    /// What every request's token must say besides.
    #[serde(rename = "JWT", default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<super::IntentionJwt>,
    /// What the operator noted about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Free facts about it.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub meta: std::collections::BTreeMap<String, String>,
    /// When an allow ends.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339::optional_text")]
    pub expires_at: Option<Timestamp>,
    /// Whether its denial is only logged and counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// 9 for the most specific pair, down to 1.
    #[serde(default)]
    pub precedence: u8,
    /// What was written, as the catalog keeps it; none where this was not read from what somebody wrote.
    #[serde(skip)]
    rule: Option<(Effect, Option<JwtRequirement>)>,
}

impl IntentionSource {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        default_partition(fields, "Partition")?;
        let source_type = fields.text("Type")?;
        if !matches!(source_type.as_str(), "" | CONSUL | SPIFFE) {
            return Err(DecodeError::Unsupported { path: fields.path_to("Type") });
        }
        let (effect, jwt) = read_rule(fields)?;
        let (action, permissions) = match &effect {
            Effect::Action(action) => (Some(*action), Vec::new()),
            Effect::Permissions(permissions) => (None, permissions.iter().map(IntentionPermission::from).collect()),
        };
        let source = Self {
            name: fields.required("Name")?,
            namespace: fields.text("Namespace")?,
            source_type,
            owner: fields.parsed("Owner")?,
            action,
            permissions,
            jwt: jwt.as_ref().map(IntentionJwt::from),
            rule: Some((effect, jwt)),
            description: fields.text("Description")?,
            meta: fields.text_map("Meta")?,
            expires_at: fields.parsed::<Instant>("ExpiresAt")?.map(|Instant(instant)| instant),
            audit: fields.flag("Audit")?.unwrap_or(false),
            precedence: 0,
        };
        fields.ignored(&["Precedence"]);
        fields.unsupported(&[
            "Peer",
            "SamenessGroup",
            "LegacyID",
            "LegacyMeta",
            "LegacyCreateTime",
            "LegacyUpdateTime",
        ])?;
        Ok(source)
    }

    fn pattern(&self, current: &Namespace) -> Result<SourcePattern, String> {
        if self.source_type == SPIFFE || self.name.starts_with("spiffe://") {
            return SourcePattern::parse(&self.name, current).map_err(|error| error.to_string());
        }
        let namespace = if self.namespace.is_empty() { current.as_str() } else { &self.namespace };
        pattern(&self.name, namespace).map(SourcePattern::Service)
    }

    fn into_intention(
        self,
        destination: &ServicePattern,
        current: &Namespace,
        asked_of_all: Option<&JwtRequirement>,
    ) -> Result<::catalog::Intention, DecodeError> {
        let value =
            |reason: String| DecodeError::Value { path: format!("Sources `{}`", self.name.escape_debug()), reason };
        let source = self.pattern(current).map_err(value)?;
        let (effect, jwt) =
            self.rule.ok_or_else(|| value("Action is missing; send `allow`, `deny` or Permissions".to_owned()))?;
        let mut intention = ::catalog::Intention::new(source, destination.clone(), Action::Deny);
        // A condition of the whole entry is one of each allow in it; on a deny it would mean nothing.
        let is_deny = effect == Effect::Action(Action::Deny);
        intention.jwt = match (jwt, asked_of_all) {
            (Some(_), Some(_)) => return Err(value("JWT stands here and in the entry; send one of them".to_owned())),
            (Some(own), None) => Some(own),
            (None, asked) => asked.filter(|_| !is_deny).cloned(),
        };
        intention.effect = effect;
        intention.description = self.description;
        intention.meta = self.meta;
        intention.expires_at = self.expires_at;
        intention.audit = self.audit;
        intention.owner = self.owner;
        Ok(intention)
    }
}

/// Reads a destination or a source of which the namespace stands apart.
fn pattern(name: &str, namespace: &str) -> Result<ServicePattern, String> {
    if name.contains('/') {
        return Err("write the namespace into the field Namespace".to_owned());
    }
    format!("{namespace}/{name}").parse().map_err(|error: ::catalog::PatternError| error.to_string())
}

impl ServiceIntentions {
    /// Reads what follows the kind.
    pub(super) fn read_rest(fields: &mut Fields) -> Result<Self, DecodeError> {
        default_partition(fields, "Partition")?;
        let jwt = fields.object("JWT", read_jwt)?.filter(|jwt| !jwt.providers.is_empty());
        fields.ignored(&["CreateIndex", "ModifyIndex", "Hash"]);
        let entry = Self {
            kind: SERVICE_INTENTIONS.to_owned(),
            name: fields.required("Name")?,
            namespace: fields.text("Namespace")?,
            owner: fields.parsed("Owner")?,
            sources: fields.objects("Sources", IntentionSource::read)?,
            jwt,
            create_index: CatalogIndex::default(),
            modify_index: CatalogIndex::default(),
        };
        if fields.says_something("Meta") {
            return Err(fields.refuse("Meta", "each intention has its own; put it into the sources"));
        }
        fields.ignored(&["Meta"]);
        Ok(entry)
    }

    /// Returns the destination that a name and a namespace, perhaps empty, write.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn destination_of(name: &str, namespace: &str, current: &Namespace) -> Result<ServicePattern, String> {
        pattern(name, if namespace.is_empty() { current.as_str() } else { namespace })
    }

    /// Returns the change that writes the entry. Names without a namespace are of `current`.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Value`] if a name is none.
    pub fn into_change(self, current: &Namespace, compare: Option<CatalogIndex>) -> Result<PolicyChange, DecodeError> {
        let destination = Self::destination_of(&self.name, &self.namespace, current)
            .map_err(|reason| DecodeError::Value { path: "Name".to_owned(), reason })?;
        // What stands in an entry of a namespace and names none is of that namespace, as Consul has it.
        let own = match self.namespace.parse() {
            Ok(namespace) => namespace,
            Err(_) => current.clone(),
        };
        let intentions =
            self.sources.into_iter().map(|source| source.into_intention(&destination, &own, self.jwt.as_ref()));
        Ok(PolicyChange::WriteDestination {
            intentions: intentions.collect::<Result<_, _>>()?,
            owner: self.owner,
            destination,
            compare,
        })
    }

    /// Shows what is written toward a destination; none where nothing is.
    pub fn show<'a>(
        destination: &ServicePattern,
        intentions: impl IntoIterator<Item = &'a ::catalog::Intention>,
        modified: CatalogIndex,
    ) -> Option<Self> {
        let intentions: Vec<&::catalog::Intention> = intentions.into_iter().collect();
        let create_index = intentions.iter().map(|intention| intention.created).min()?;
        Some(Self {
            kind: SERVICE_INTENTIONS.to_owned(),
            name: destination.name_text().to_owned(),
            namespace: destination.namespace_text().to_owned(),
            owner: None,
            sources: intentions.into_iter().map(IntentionSource::from).collect(),
            jwt: None,
            create_index,
            modify_index: modified,
        })
    }
}

impl From<&::catalog::Intention> for IntentionSource {
    fn from(intention: &::catalog::Intention) -> Self {
        let shown = Intention::from(intention);
        debug_assert!(shown.action.is_some() || matches!(intention.effect, Effect::Permissions(_)));
        Self {
            name: shown.source_name,
            namespace: shown.source_namespace,
            source_type: shown.source_type,
            owner: shown.owner,
            action: shown.action,
            permissions: shown.permissions,
            jwt: shown.jwt,
            description: shown.description,
            meta: shown.meta,
            expires_at: shown.expires_at,
            audit: shown.audit,
            precedence: shown.precedence,
            rule: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConfigEntry;
    use super::*;
    use crate::decode::{Format, from_json, from_value};

    fn read(body: &str) -> Result<PolicyChange, String> {
        match from_json::<ConfigEntry>(body.as_bytes()).map_err(|error| error.to_string())? {
            ConfigEntry::ServiceIntentions(entry) => {
                entry.into_change(&Namespace::default(), None).map_err(|error| error.to_string())
            }
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn refused(body: &str, want: &str) {
        let error = read(body).unwrap_err();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn an_entry_is_read_from_hcl_as_consul_writes_it() {
        let text = br#"
            Kind = "service-intentions"
            Name = "api"
            Sources = [
              { Name = "web", Action = "allow", Description = "shop" },
              { Name = "*", Namespace = "*", Action = "deny", Type = "consul" },
            ]
        "#;
        let entry: ConfigEntry = from_value(Format::Hcl.read(text).unwrap(), "").unwrap();
        let ConfigEntry::ServiceIntentions(entry) = entry else { panic!("{entry:?}") };
        let change = entry.into_change(&Namespace::default(), Some(CatalogIndex(7))).unwrap();
        let PolicyChange::WriteDestination { destination, owner, intentions, compare } = change else {
            panic!("{change:?}")
        };
        assert_eq!((destination.to_string().as_str(), owner, compare), ("default/api", None, Some(CatalogIndex(7))));
        let keys: Vec<String> = intentions.iter().map(|one| one.key().to_string()).collect();
        assert_eq!(keys, ["default/web => default/api", "*/* => default/api"]);
    }

    #[test]
    fn a_token_that_an_entry_asks_for_is_asked_for_by_each_of_its_allows() {
        let text = br#"
            Kind = "service-intentions"
            Name = "api"
            JWT { Providers = [{ Name = "okta", VerifyClaims = [{ Path = ["aud"], Value = "api" }] }] }
            Sources = [
              { Name = "web", Permissions = [
                  { Action = "deny",  HTTP { PathPrefix = "/v2/admin" } },
                  { Action = "allow", HTTP { PathPrefix = "/v2", Methods = ["GET","POST"],
                                             Header = [{ Name = "x-env", Exact = "prod" }] } } ] },
              { Name = "*", Action = "deny" } ]
        "#;
        let entry: ConfigEntry = from_value(Format::Hcl.read(text).unwrap(), "").unwrap();
        let ConfigEntry::ServiceIntentions(entry) = entry else { panic!("{entry:?}") };
        let PolicyChange::WriteDestination { intentions, .. } = entry.into_change(&Namespace::default(), None).unwrap()
        else {
            panic!()
        };
        let asked: Vec<bool> = intentions.iter().map(|one| one.jwt.is_some()).collect();
        assert_eq!(asked, [true, false]);
        assert!(matches!(&intentions[0].effect, Effect::Permissions(all) if all.len() == 2));
        let shown = ServiceIntentions::show(&"api".parse().unwrap(), &intentions, CatalogIndex(9)).unwrap();
        let again = read(&serde_json::to_string(&shown).unwrap()).unwrap();
        let PolicyChange::WriteDestination { intentions: read_again, .. } = again else { panic!() };
        assert_eq!(read_again, intentions);
    }

    #[test]
    fn names_without_a_namespace_are_of_the_entrys() {
        let change = read(
            r#"{"Kind": "service-intentions", "Name": "api", "Namespace": "shop", "Owner": "team-a",
                "Sources": [{"Name": "web", "Action": "allow"}, {"Name": "spiffe://other.test/ns/a/sa/b", "Action": "deny"}]}"#,
        );
        let PolicyChange::WriteDestination { intentions, owner, .. } = change.unwrap() else { panic!() };
        let keys: Vec<String> = intentions.iter().map(|one| one.key().to_string()).collect();
        assert_eq!(keys, ["shop/web => shop/api", "spiffe://other.test/ns/a/sa/b => shop/api"]);
        assert_eq!(owner.unwrap().as_str(), "team-a");
    }

    #[test]
    fn what_was_read_can_be_sent_back() {
        let mut one = ::catalog::Intention::new("web".parse().unwrap(), "api".parse().unwrap(), Action::Allow);
        one.owner = Some("team-a".parse().unwrap());
        one.expires_at = Some(Timestamp(1_700_000_000_000));
        one.meta.insert("ticket".to_owned(), "7".to_owned());
        let other = ::catalog::Intention::new(
            "spiffe://other.test/ns/a/sa/b".parse().unwrap(),
            "api".parse().unwrap(),
            Action::Deny,
        );
        let shown = ServiceIntentions::show(&"api".parse().unwrap(), [&one, &other], CatalogIndex(9)).unwrap();
        assert_eq!(shown.modify_index, CatalogIndex(9));
        let PolicyChange::WriteDestination { intentions, .. } = read(&serde_json::to_string(&shown).unwrap()).unwrap()
        else {
            panic!()
        };
        assert_eq!(intentions, [one, other]);
        assert_eq!(ServiceIntentions::show(&"api".parse().unwrap(), [], CatalogIndex(9)), None);
    }

    #[test]
    fn h11_what_nothing_carries_out_is_refused_by_name() {
        let entry = |rest: &str| format!(r#"{{"Kind": "service-intentions", "Name": "api", {rest}}}"#);
        let source = |rest: &str| entry(&format!(r#""Sources": [{{"Name": "web", {rest}}}]"#));
        refused(&source(r#""Permissions": [{"Action": "allow", "Path": "/"}]"#), "`Sources[0].Permissions[0].Path`");
        refused(&source(r#""Action": "allow", "Peer": "other""#), "`Sources[0].Peer` is not supported");
        refused(&source(r#""Action": "perhaps""#), "`Sources[0].Action`: `perhaps` is no action");
        refused(&source(r#""Description": "x""#), "`Sources[0].Action`");
        refused(&source(r#""Action": "allow", "Owner": "Team A""#), "`Sources[0].Owner`");
        let both = r#""Sources": [{"Name": "web", "Action": "allow", "JWT": {"Providers": [{"Name": "a"}]}}],
            "JWT": {"Providers": [{"Name": "b"}]}"#;
        refused(&entry(both), "JWT stands here and in the entry");
        refused(&entry(r#""Sources": [], "Meta": {"a": "b"}"#), "`Meta`: each intention has its own");
        refused(r#"{"Kind": "service-intentions", "Name": "a/b", "Sources": []}"#, "`Name`: write the namespace");
        refused(r#"{"Kind": "service-intentions", "Name": "web", "Namespace": "*", "Sources": []}"#, "`Name`");
    }
}
