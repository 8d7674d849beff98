//! Identities of AWS: whom a signed request is from, and which of them an auth method takes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::NameError;

/// The longest name that AWS gives a role or a user, its path included.
const NAME_MAX: usize = 512;
/// The longest name of a session.
const SESSION_MAX: usize = 64;

/// Says which identities of AWS count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsIamConfig {
    /// The roles and users that count; never empty.
    pub principals: Vec<AwsPattern>,
    /// The one endpoint of the Security Token Service that is asked; any of AWS's own where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sts_endpoint: Option<String>,
}

impl AwsIamConfig {
    /// Names the fact that is the account.
    pub const ACCOUNT_ID: &str = "account_id";
    /// Names the fact that tells the role or user from one of the same name before it.
    pub const ENTITY_ID: &str = "entity_id";
    /// Names the fact that is the role's or user's name.
    pub const ENTITY_NAME: &str = "entity_name";
    /// Names the fact that says whether it is a role or a user.
    pub const ENTITY_TYPE: &str = "entity_type";
    /// Names the fact that is the name of the session in which a role was assumed; a user has none.
    pub const SESSION_NAME: &str = "session_name";
    /// Lists what is known of whoever logs in, by name.
    pub const FACTS: [&str; 5] =
        [Self::ACCOUNT_ID, Self::ENTITY_ID, Self::ENTITY_NAME, Self::ENTITY_TYPE, Self::SESSION_NAME];

    /// Returns the facts without which a name may be of more than one identity that counts.
    pub(crate) fn beside_names(&self) -> Vec<&'static str> {
        let is_one = |part: fn(&AwsPattern) -> &str| {
            let mut parts = self.principals.iter().map(part);
            let first = parts.next();
            parts.all(|other| Some(other) == first)
        };
        let facts = [(Self::ACCOUNT_ID, is_one(AwsPattern::account)), (Self::ENTITY_TYPE, is_one(AwsPattern::kind))];
        facts.into_iter().filter_map(|(fact, is_one)| (!is_one).then_some(fact)).collect()
    }
}

/// Is what an identity of AWS can be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AwsKind {
    /// A role that somebody has assumed; tasks and machines have one.
    Role,
    /// A user.
    User,
}

impl AwsKind {
    /// Returns its name in ARNs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::User => "user",
        }
    }
}

/// Is an identity, as the Security Token Service names it, in its one form: an assumed role is the role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsPrincipal {
    /// The part of AWS, such as `aws` or `aws-cn`.
    pub partition: String,
    /// The account: 12 digits.
    pub account: String,
    /// What it is.
    pub kind: AwsKind,
    /// The name; of a user with its path.
    pub name: String,
    /// The name of the session in which a role was assumed: for a task of ECS the task's id, for a machine the machine's.
    pub session: Option<String>,
}

impl AwsPrincipal {
    /// Returns the name without a path.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for AwsPrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arn:{}:iam::{}:{}/{}", self.partition, self.account, self.kind.name(), self.name)
    }
}

impl FromStr for AwsPrincipal {
    type Err = NameError;

    /// Reads `arn:aws:sts::123456789012:assumed-role/name/session` or `arn:aws:iam::123456789012:user/path/name`.
    ///
    /// The service never answers with a role's own ARN: who has a role has assumed it.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::new("AWS identity", text, "roles in a session and users log in, and nobody else");
        let arn = Arn::read(text).ok_or_else(wrong)?;
        let (kind, rest) = arn.resource.split_once('/').ok_or_else(wrong)?;
        let (kind, name, session) = match (arn.service, kind) {
            ("sts", "assumed-role") => {
                let (name, session) = rest.split_once('/').ok_or_else(wrong)?;
                let fits = is_plain(name) && is_plain(session) && session.len() <= SESSION_MAX;
                (AwsKind::Role, name, fits.then(|| Some(session.to_owned())).ok_or_else(wrong)?)
            }
            ("iam", "user") if is_path(rest) => (AwsKind::User, rest, None),
            _ => return Err(wrong()),
        };
        let (partition, account) = (arn.partition.to_owned(), arn.account.to_owned());
        Ok(Self { partition, account, kind, name: name.to_owned(), session })
    }
}

/// Says which roles or users count: one by its whole ARN, or those of one account whose names begin alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AwsPattern(String);

impl AwsPattern {
    /// Reports whether an identity is among those that count.
    #[must_use]
    pub fn matches(&self, principal: &AwsPrincipal) -> bool {
        let found = principal.to_string();
        match self.0.strip_suffix('*') {
            Some(prefix) => found.starts_with(prefix),
            None => found == self.0,
        }
    }

    /// Returns the account whose identities they are.
    fn account(&self) -> &str {
        Arn::read(&self.0).map_or("", |arn| arn.account)
    }

    /// Returns what they are: `role` or `user`.
    fn kind(&self) -> &str {
        Arn::read(&self.0).and_then(|arn| arn.resource.split_once('/')).map_or("", |(kind, _)| kind)
    }
}

impl fmt::Display for AwsPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<AwsPattern> for String {
    fn from(pattern: AwsPattern) -> Self {
        pattern.0
    }
}

impl TryFrom<String> for AwsPattern {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl FromStr for AwsPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = |rule| NameError::new("AWS principal", text, rule);
        let form = "write arn:aws:iam::123456789012:role/NAME or :user/NAME, with 12 digits of one account";
        let arn = Arn::read(text).filter(|arn| arn.service == "iam").ok_or_else(|| wrong(form))?;
        let (kind, name) = arn.resource.split_once('/').ok_or_else(|| wrong(form))?;
        let fixed = name.strip_suffix('*').unwrap_or(name);
        if fixed.contains('*') {
            return Err(wrong("a `*` stands at the end of the name only"));
        }
        let is_whole = fixed.len() == name.len();
        let fits = match kind {
            "role" if fixed.contains('/') => {
                return Err(wrong(
                    "a role is named without its path: names of roles are unique in an account, and nobody is told paths",
                ));
            }
            "role" => fixed.is_empty() && !is_whole || is_plain(fixed),
            // What a `*` stands for may begin in the middle of a path.
            "user" if is_whole => is_path(fixed),
            "user" => fixed.is_empty() || is_path(fixed.strip_suffix('/').unwrap_or(fixed)),
            _ => false,
        };
        if fits { Ok(Self(text.to_owned())) } else { Err(wrong(form)) }
    }
}

/// Is an ARN of an identity, taken apart.
struct Arn<'t> {
    partition: &'t str,
    service: &'t str,
    account: &'t str,
    resource: &'t str,
}

impl<'t> Arn<'t> {
    fn read(text: &'t str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next();
        let (arn, partition, service, region) = (next()?, next()?, next()?, next()?);
        let (account, resource) = (next()?, next()?);
        let is_partition = partition.starts_with("aws")
            && partition.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
            && partition.len() <= 32;
        let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        let fits = arn == "arn" && region.is_empty() && is_partition && is_account && resource.len() <= NAME_MAX;
        fits.then_some(Self { partition, service, account, resource })
    }
}

/// Reports whether a text can name a role, a user or a session.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b))
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn principal(text: &str, want: Option<(&str, Option<&str>)>) {
        let found = text.parse::<AwsPrincipal>().ok();
        let found = found.as_ref().map(|found| (found.to_string(), found.session.clone()));
        let want = want.map(|(name, session)| (name.to_owned(), session.map(str::to_owned)));
        assert_eq!(found, want, "{text}");
    }

    #[test]
    fn an_assumed_role_is_the_role_and_whoever_is_neither_role_nor_user_is_nobody() {
        let role = Some(("arn:aws:iam::123456789012:role/web", Some("0a1b")));
        principal("arn:aws:sts::123456789012:assumed-role/web/0a1b", role);
        let cn = Some(("arn:aws-cn:iam::123456789012:role/web", Some("i-7")));
        principal("arn:aws-cn:sts::123456789012:assumed-role/web/i-7", cn);
        principal("arn:aws:iam::123456789012:user/ops/ann", Some(("arn:aws:iam::123456789012:user/ops/ann", None)));
        for nobody in [
            "arn:aws:iam::123456789012:root",
            "arn:aws:iam::123456789012:role/web",
            "arn:aws:sts::123456789012:federated-user/ann",
            "arn:aws:sts::123456789012:assumed-role/web",
            "arn:aws:sts::123456789012:assumed-role/web/",
            "arn:aws:sts::123456789012:assumed-role/a/web/0a1b",
            "arn:aws:sts::12345678901:assumed-role/web/0a1b",
            "arn:aws:sts::1234567890123:assumed-role/web/0a1b",
            "arn:aws:sts:eu-west-1:123456789012:assumed-role/web/0a1b",
            "arn:evil:sts::123456789012:assumed-role/web/0a1b",
            "arn:aws:iam::123456789012:assumed-role/web/0a1b",
            "arn:aws:sts::123456789012:assumed-role/w*b/0a1b",
            "arn:aws:sts::123456789012:assumed-role/web/0a 1b",
            " arn:aws:sts::123456789012:assumed-role/web/0a1b",
            "arn:aws:iam::123456789012:user/ops//ann",
            "",
        ] {
            principal(nobody, None);
        }
    }

    #[track_caller]
    fn counts(pattern: &str, arn: &str) -> bool {
        pattern.parse::<AwsPattern>().unwrap().matches(&arn.parse().unwrap())
    }

    #[test]
    fn c11_an_identity_counts_by_its_whole_arn_with_the_account() {
        let web = "arn:aws:sts::123456789012:assumed-role/web/0a1b";
        assert!(counts("arn:aws:iam::123456789012:role/web", web));
        assert!(counts("arn:aws:iam::123456789012:role/w*", web));
        assert!(counts("arn:aws:iam::123456789012:role/*", web));
        for other in [
            "arn:aws:iam::210987654321:role/web",
            "arn:aws:iam::123456789012:role/we",
            "arn:aws:iam::123456789012:role/web2",
            "arn:aws:iam::123456789012:role/web-*",
            "arn:aws:iam::123456789012:user/web",
            "arn:aws:iam::123456789012:user/*",
            "arn:aws-cn:iam::123456789012:role/web",
        ] {
            assert!(!counts(other, web), "{other}");
        }
        let ann = "arn:aws:iam::123456789012:user/ops/ann";
        assert!(counts("arn:aws:iam::123456789012:user/ops/*", ann));
        assert!(counts("arn:aws:iam::123456789012:user/ops/ann", ann));
        assert!(!counts("arn:aws:iam::123456789012:user/ann", ann));
    }

    #[test]
    fn c11_no_pattern_stands_for_more_than_one_account() {
        for refused in [
            "*",
            "arn:aws:iam::*:role/web",
            "arn:aws:iam::1234567890*:role/web",
            "arn:aws:iam::123456789012:*",
            "arn:aws:iam::123456789012:r*",
            "arn:aws:iam::123456789012:role/a*b",
            "arn:aws:iam::123456789012:role/**",
            "arn:aws:iam::123456789012:role/ops/web",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:root",
            "arn:aws:iam::123456789012:group/web",
            "arn:aws:sts::123456789012:assumed-role/web/*",
            "arn:*:iam::123456789012:role/web",
            "arn:aws:iam:eu-west-1:123456789012:role/web",
            "",
        ] {
            assert!(refused.parse::<AwsPattern>().is_err(), "{refused}");
        }
    }
}
