//! Intentions, as the `connect/intentions` paths take and answer them.

use std::collections::BTreeMap;

use ::catalog::{Action, CatalogIndex, Effect, IntentionKey, IntentionOwner, JwtRequirement, SourcePattern, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::default_partition;
use super::permission::{IntentionJwt, IntentionPermission, read_rule};
use crate::decode::{DecodeError, Fields, Shape};
use crate::rfc3339;

/// The type of a source that is a service.
pub(super) const CONSUL: &str = "consul";
/// The type of a source that is a SPIFFE ID of another trust domain. Consul has no such type.
pub(super) const SPIFFE: &str = "spiffe";

/// Shows an intention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Intention {
    /// What the operator noted about it.
    pub description: String,
    /// The source's namespace, `*` for all; empty for a SPIFFE ID.
    #[serde(rename = "SourceNS")]
    pub source_namespace: String,
    /// The source's name, `*` for all, or a SPIFFE ID.
    pub source_name: String,
    /// The destination's namespace, `*` for all.
    #[serde(rename = "DestinationNS")]
    pub destination_namespace: String,
    /// The destination's name, `*` for all.
    pub destination_name: String,
    /// `consul`, or `spiffe` for a SPIFFE ID.
    pub source_type: String,
    /// What happens; none where permissions say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub action: Option<Action>,
    /// What happens by request; empty where an action says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<IntentionPermission>,
    /// What every request's token must say besides.
    #[serde(rename = "JWT", default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<IntentionJwt>,
    /// Free facts about it.
    pub meta: BTreeMap<String, String>,
    /// When an allow ends.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339::optional_text")]
    #[schema(value_type = Option<String>)]
    pub expires_at: Option<Timestamp>,
    /// Whose it is: the team that alone changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub owner: Option<IntentionOwner>,
    /// Whether its denial is only logged and counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// 9 for the most specific pair, down to 1.
    pub precedence: u8,
    /// The index at which it was first written.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl From<&::catalog::Intention> for Intention {
    fn from(intention: &::catalog::Intention) -> Self {
        let (source_namespace, source_name, source_type) = match &intention.source {
            SourcePattern::Service(pattern) => {
                (pattern.namespace_text().to_owned(), pattern.name_text().to_owned(), CONSUL)
            }
            SourcePattern::Spiffe(id) => (String::new(), id.to_string(), SPIFFE),
        };
        let (action, permissions) = match &intention.effect {
            Effect::Action(action) => (Some(*action), Vec::new()),
            Effect::Permissions(permissions) => (None, permissions.iter().map(IntentionPermission::from).collect()),
        };
        Self {
            description: intention.description.clone(),
            source_namespace,
            source_name,
            destination_namespace: intention.destination.namespace_text().to_owned(),
            destination_name: intention.destination.name_text().to_owned(),
            source_type: source_type.to_owned(),
            action,
            permissions,
            jwt: intention.jwt.as_ref().map(IntentionJwt::from),
            meta: intention.meta.clone(),
            expires_at: intention.expires_at,
            owner: intention.owner.clone(),
            audit: intention.audit,
            precedence: intention.precedence(),
            create_index: intention.created,
            modify_index: intention.modified,
        }
    }
}

impl Intention {
    /// Returns the source in weft's form: `namespace/name`, `namespace/*`, `*/*` or a SPIFFE ID.
    pub fn source(&self) -> String {
        match self.source_type.as_str() {
            SPIFFE => self.source_name.clone(),
            _ => format!("{}/{}", self.source_namespace, self.source_name),
        }
    }

    /// Returns the destination in weft's form: `namespace/name`, `namespace/*` or `*/*`.
    pub fn destination(&self) -> String {
        format!("{}/{}", self.destination_namespace, self.destination_name)
    }
}

/// Writes an intention on the pair that the request's query names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntentionRequest {
    /// What the body repeats of the pair; empty where it does not.
    pair: Pair,
    effect: Effect,
    jwt: Option<JwtRequirement>,
    description: String,
    meta: BTreeMap<String, String>,
    expires_at: Option<Timestamp>,
    owner: Option<IntentionOwner>,
    audit: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    source_namespace: String,
    source_name: String,
    destination_namespace: String,
    destination_name: String,
}

impl Shape for IntentionRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        default_partition(fields, "SourcePartition")?;
        default_partition(fields, "DestinationPartition")?;
        match fields.text("SourceType")?.as_str() {
            "" | CONSUL | SPIFFE => {}
            _ => return Err(DecodeError::Unsupported { path: fields.path_to("SourceType") }),
        }
        let (effect, jwt) = read_rule(fields)?;
        let request = Self {
            pair: Pair {
                source_namespace: fields.text("SourceNS")?,
                source_name: fields.text("SourceName")?,
                destination_namespace: fields.text("DestinationNS")?,
                destination_name: fields.text("DestinationName")?,
            },
            effect,
            jwt,
            description: fields.text("Description")?,
            meta: fields.text_map("Meta")?,
            expires_at: fields.parsed::<Instant>("ExpiresAt")?.map(|Instant(instant)| instant),
            owner: fields.parsed("Owner")?,
            audit: fields.flag("Audit")?.unwrap_or(false),
        };
        // An intention that a client has read, it may change and send back.
        fields.ignored(&["Precedence", "CreateIndex", "ModifyIndex", "CreatedAt", "UpdatedAt", "Hash"]);
        fields.unsupported(&["ID", "SourcePeer", "SourceSamenessGroup", "DefaultAddr", "DefaultPort"])?;
        Ok(request)
    }
}

/// Reads an instant.
pub(super) struct Instant(pub(super) Timestamp);

impl std::str::FromStr for Instant {
    type Err = rfc3339::InstantError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        rfc3339::parse(text).map(Self)
    }
}

impl IntentionRequest {
    /// Returns the intention on the pair `key`.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Value`] if the body names another pair.
    pub fn into_intention(self, key: &IntentionKey) -> Result<::catalog::Intention, DecodeError> {
        let (source_namespace, source_name) = match &key.source {
            SourcePattern::Service(pattern) => (pattern.namespace_text(), pattern.name_text().to_owned()),
            SourcePattern::Spiffe(id) => ("", id.to_string()),
        };
        let repeated = [
            ("SourceNS", &self.pair.source_namespace, source_namespace),
            ("SourceName", &self.pair.source_name, source_name.as_str()),
            ("DestinationNS", &self.pair.destination_namespace, key.destination.namespace_text()),
            ("DestinationName", &self.pair.destination_name, key.destination.name_text()),
        ];
        for (name, found, wanted) in repeated {
            if !found.is_empty() && found != wanted {
                let reason = format!("the query says `{wanted}`; leave it out of the body, or send the same");
                return Err(DecodeError::Value { path: name.to_owned(), reason });
            }
        }
        let mut intention = ::catalog::Intention::new(key.source.clone(), key.destination.clone(), Action::Deny);
        intention.effect = self.effect;
        intention.jwt = self.jwt;
        intention.description = self.description;
        intention.meta = self.meta;
        intention.expires_at = self.expires_at;
        intention.owner = self.owner;
        intention.audit = self.audit;
        Ok(intention)
    }
}

/// Answers `connect/intentions/check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CheckAnswer {
    /// Whether a connection is let through; false also where requests are judged one by one.
    pub allowed: bool,
}

impl CheckAnswer {
    /// Wraps the answer.
    pub fn new(allowed: bool) -> Self {
        Self { allowed }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::from_json;

    fn key(source: &str, destination: &str) -> IntentionKey {
        IntentionKey { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn read(body: &str) -> Result<::catalog::Intention, String> {
        let request = from_json::<IntentionRequest>(body.as_bytes()).map_err(|error| error.to_string())?;
        request.into_intention(&key("web", "api")).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn refused(body: &str, want: &str) {
        let error = read(body).unwrap_err();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn what_was_read_can_be_sent_back() {
        let mut intention = ::catalog::Intention::new("web".parse().unwrap(), "api".parse().unwrap(), Action::Allow);
        intention.description = "shop".to_owned();
        intention.meta.insert("owner".to_owned(), "team-a".to_owned());
        intention.expires_at = Some(Timestamp(1_700_000_000_000));
        intention.audit = true;
        intention.owner = Some("team-a".parse().unwrap());
        let text = serde_json::to_string(&Intention::from(&intention)).unwrap();
        assert_eq!(read(&text).unwrap(), intention);
    }

    #[test]
    fn an_intention_is_shown_in_consuls_names() {
        let mut intention = ::catalog::Intention::new("*".parse().unwrap(), "api".parse().unwrap(), Action::Deny);
        (intention.created, intention.modified) = (CatalogIndex(3), CatalogIndex(5));
        assert_eq!(
            serde_json::to_value(Intention::from(&intention)).unwrap(),
            json!({
                "Description": "", "SourceNS": "default", "SourceName": "*", "DestinationNS": "default",
                "DestinationName": "api", "SourceType": "consul", "Action": "deny", "Meta": {}, "Precedence": 8,
                "CreateIndex": 3, "ModifyIndex": 5,
            })
        );
    }

    #[test]
    fn a_foreign_source_is_shown_as_its_spiffe_id() {
        let source = "spiffe://other.test/ns/a/sa/b";
        let intention = ::catalog::Intention::new(source.parse().unwrap(), "api".parse().unwrap(), Action::Allow);
        let shown = Intention::from(&intention);
        assert_eq!((shown.source().as_str(), shown.destination().as_str()), (source, "default/api"));
        assert_eq!(shown.source_type, "spiffe");
    }

    #[test]
    fn h11_what_is_not_carried_out_is_not_stored() {
        refused(r#"{"Action": "perhaps"}"#, "`Action`: `perhaps` is no action");
        refused("{}", "`Action`: it is missing");
        refused(r#"{"Action": "allow", "SourcePeer": "other"}"#, "`SourcePeer` is not supported");
        refused(r#"{"Action": "allow", "LegacyID": "x"}"#, "unknown field `LegacyID`");
        assert!(
            read(r#"{"Action": "allow", "Permissions": [], "JWT": {"Providers": []}, "SourceType": "consul"}"#).is_ok()
        );
    }

    #[test]
    fn a_body_that_names_another_pair_is_refused() {
        refused(
            r#"{"Action": "allow", "SourceName": "web", "DestinationName": "db"}"#,
            "`DestinationName`: the query says `api`",
        );
        refused(r#"{"Action": "allow", "SourceNS": "shop"}"#, "`SourceNS`: the query says `default`");
    }

    #[test]
    fn h11_permissions_say_one_thing_each_in_fields_that_are_known() {
        let permission = |rest: &str| format!(r#"{{"Permissions": [{{{rest}}}]}}"#);
        let header = |rest: &str| permission(&format!(r#""Action": "allow", "HTTP": {{"Header": [{{{rest}}}]}}"#));
        refused(&permission(r#""HTTP": {"PathExact": "/"}"#), "`Permissions[0].Action`");
        refused(&permission(r#""Action": "allow", "HTTP": {"Path": "/"}"#), "unknown field `Permissions[0].HTTP.Path`");
        refused(
            &permission(r#""Action": "allow", "HTTP": {"PathExact": "/", "PathPrefix": "/"}"#),
            "`Permissions[0].HTTP.PathPrefix`: the path is asked for twice",
        );
        refused(&header(r#""Name": "x""#), "`Permissions[0].HTTP.Header[0].Name`: 0 conditions stand there");
        refused(&header(r#""Name": "x", "Exact": "a", "Present": true"#), "2 conditions stand there");
        refused(&header(r#""Exact": "a""#), "`Permissions[0].HTTP.Header[0].Name`");
        refused(&permission(r#""Action": "allow", "Times": {"From": "25:00", "Until": "01:00"}"#), "Times.From");
        refused(&permission(r#""Action": "allow", "SourcePlatforms": ["mars"]"#), "SourcePlatforms[0]");
        refused(r#"{"Action": "allow", "Permissions": [{"Action": "allow"}]}"#, "`Action`: the permissions say it");
    }

    #[test]
    fn permissions_that_were_read_can_be_sent_back_and_come_as_hcl_writes_them() {
        let body = r#"{"Permissions": [
            {"Action": "deny", "HTTP": {"PathPrefix": "/v2/admin"}},
            {"Action": "allow", "HTTP": {"PathRegex": "/v2/.*", "Methods": ["get", "POST"],
                "Header": {"Name": "X-Env", "Exact": "prod", "Invert": true, "IgnoreCase": true}},
             "SourcePlatforms": ["ecs"], "Times": {"Days": ["monday"], "From": "22:00", "Until": "06:00"},
             "JWT": {"Providers": [{"Name": "okta", "VerifyClaims": [{"Path": ["role"], "Value": "admin"}]}]}}],
            "JWT": {"Providers": [{"Name": "google"}]}}"#;
        let intention = read(body).unwrap();
        let Effect::Permissions(permissions) = &intention.effect else { panic!("{intention:?}") };
        assert_eq!((permissions.len(), permissions[1].http.headers[0].name.as_str()), (2, "x-env"));
        assert_eq!(permissions[1].http.methods, ["GET", "POST"]);
        let text = serde_json::to_string(&Intention::from(&intention)).unwrap();
        assert_eq!(read(&text).unwrap(), intention);
    }

    #[test]
    fn permissions_are_shown_in_consuls_names() {
        use ::catalog::{HeaderMatch, HeaderTest, HttpMatch, JwtProvider, JwtRequirement, PathMatch, Permission};
        let mut intention = ::catalog::Intention::new("web".parse().unwrap(), "api".parse().unwrap(), Action::Allow);
        let http = HttpMatch {
            path: Some(PathMatch::Prefix("/v2".to_owned())),
            methods: vec!["GET".to_owned()],
            headers: vec![HeaderMatch {
                name: "x-env".to_owned(),
                test: HeaderTest::Exact("prod".to_owned()),
                invert: false,
                ignore_case: true,
            }],
        };
        let okta = JwtProvider { name: "okta".to_owned(), verify_claims: Vec::new() };
        let jwt = Some(JwtRequirement { providers: vec![okta] });
        intention.effect = Effect::Permissions(vec![Permission { jwt, ..Permission::new(Action::Allow, http) }]);
        let shown = serde_json::to_value(Intention::from(&intention)).unwrap();
        assert_eq!(
            shown["Permissions"],
            json!([{
                "Action": "allow",
                "HTTP": {"PathPrefix": "/v2", "Methods": ["GET"],
                         "Header": [{"Name": "x-env", "Exact": "prod", "IgnoreCase": true}]},
                "JWT": {"Providers": [{"Name": "okta"}]},
            }])
        );
        assert_eq!(shown.get("Action"), None);
    }
}
