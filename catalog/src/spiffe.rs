//! SPIFFE IDs to the letter of the standard, and how this mesh builds and reads its own.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Namespace, NodeName, Platform, ServerId, ServiceKey, name::is_segment};

/// Explains why a text is not a SPIFFE ID (SPIFFE-ID §2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid SPIFFE ID `{}`: {rule}", text.escape_debug())]
pub struct SpiffeIdError {
    /// The text as it was given, cut to 256 characters.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl SpiffeIdError {
    fn new(text: &str, rule: &'static str) -> Self {
        Self { text: text.chars().take(256).collect(), rule }
    }
}

/// Names the authority that vouches for identities: 1 to 255 of `a-z`, `0-9`, `.`, `_` and `-` (SPIFFE-ID §2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Returns the trust domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let valid = (1..=255).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
        if valid {
            Ok(Self(Arc::from(text)))
        } else {
            Err(SpiffeIdError::new(text, "a trust domain is 1 to 255 of a-z, 0-9, `.`, `_` and `-`"))
        }
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, SpiffeIdError> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Identifies a workload, an agent or a server: `spiffe://<trust domain>/<path>`, at most 2,048 bytes.
///
/// The path is never empty here: an ID without one names the trust domain itself, which signs but never calls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    path: Arc<str>,
}

impl SpiffeId {
    /// Returns the trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the path, starting with `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    fn from_parts(trust_domain: &TrustDomain, path: String) -> Self {
        Self { trust_domain: trust_domain.clone(), path: Arc::from(path) }
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    /// Parses strictly: what the standard allows a writer to emit, and nothing that it merely lets a reader tolerate.
    /// An identity that two parties could read differently is refused.
    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let refuse = |rule| SpiffeIdError::new(text, rule);
        if text.len() > 2048 {
            return Err(refuse("it is longer than 2048 bytes"));
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| refuse("it must start with `spiffe://`"))?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => return Err(refuse("it names no workload: the path is empty")),
        };
        let trust_domain = authority.parse::<TrustDomain>().map_err(|_| {
            refuse("its trust domain must be 1 to 255 of a-z, 0-9, `.`, `_` and `-`, without port or user")
        })?;
        if !path[1..].split('/').all(is_segment) {
            return Err(refuse(
                "each path segment must be non-empty, of A-Z, a-z, 0-9, `.`, `_` and `-`, and neither `.` nor `..`",
            ));
        }
        Ok(Self { trust_domain, path: Arc::from(path) })
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, SpiffeIdError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

/// Explains why a text is no template for workload paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid SPIFFE path template `{}`: {rule}", text.escape_debug())]
pub struct TemplateError {
    /// The text as it was given.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Namespace,
    Service,
    Datacenter,
}

/// Shapes the paths of workload identities; fixed when the mesh is bootstrapped.
///
/// `/ns/{namespace}/sa/{service}` is the default, which Istio's ztunnel accepts. `{namespace}` and `{service}` must each
/// stand once, alone in their segment; `{datacenter}` may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathTemplate(Vec<Segment>);

impl PathTemplate {
    fn render(&self, service: &ServiceKey, datacenter: &str) -> String {
        let mut path = String::new();
        for segment in &self.0 {
            path.push('/');
            path.push_str(match segment {
                Segment::Literal(text) => text,
                Segment::Namespace => service.namespace.as_str(),
                Segment::Service => service.name.as_str(),
                Segment::Datacenter => datacenter,
            });
        }
        path
    }

    fn read(&self, path: &str, datacenter: &str) -> Option<ServiceKey> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        if parts.len() != self.0.len() {
            return None;
        }
        let (mut namespace, mut name) = (None, None);
        for (segment, part) in self.0.iter().zip(parts) {
            match segment {
                Segment::Literal(text) if text != part => return None,
                Segment::Datacenter if datacenter != part => return None,
                Segment::Literal(_) | Segment::Datacenter => {}
                Segment::Namespace => namespace = part.parse().ok(),
                Segment::Service => name = part.parse().ok(),
            }
        }
        Some(ServiceKey::new(namespace?, name?))
    }
}

impl Default for PathTemplate {
    fn default() -> Self {
        Self(vec![
            Segment::Literal("ns".to_owned()),
            Segment::Namespace,
            Segment::Literal("sa".to_owned()),
            Segment::Service,
        ])
    }
}

impl FromStr for PathTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let refuse = |rule| TemplateError { text: text.to_owned(), rule };
        let rest = text.strip_prefix('/').ok_or_else(|| refuse("it must start with `/`"))?;
        let mut segments = Vec::new();
        for part in rest.split('/') {
            segments.push(match part {
                "{namespace}" => Segment::Namespace,
                "{service}" => Segment::Service,
                "{datacenter}" => Segment::Datacenter,
                literal if is_segment(literal) => Segment::Literal(literal.to_owned()),
                _ => return Err(refuse("each segment is a word or one of {namespace}, {service} and {datacenter}")),
            });
        }
        for needed in [Segment::Namespace, Segment::Service] {
            if segments.iter().filter(|segment| **segment == needed).count() != 1 {
                return Err(refuse("{namespace} and {service} must each stand in it once"));
            }
        }
        // A workload must never be able to look like an agent or a server, whatever its namespace is called.
        match segments.first() {
            Some(Segment::Literal(first)) if first != "agent" && first != "server" => Ok(Self(segments)),
            _ => Err(refuse("its first segment must be a word other than `agent` and `server`")),
        }
    }
}

impl TryFrom<String> for PathTemplate {
    type Error = TemplateError;

    fn try_from(text: String) -> Result<Self, TemplateError> {
        text.parse()
    }
}

impl From<PathTemplate> for String {
    fn from(template: PathTemplate) -> Self {
        template.to_string()
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::Namespace => f.write_str("/{namespace}"),
            Segment::Service => f.write_str("/{service}"),
            Segment::Datacenter => f.write_str("/{datacenter}"),
        })
    }
}

/// Says what an identity stands for in this mesh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// A workload: the service that it is.
    Workload(ServiceKey),
    /// An agent, by its platform and node.
    Agent {
        /// The platform that the agent's node is on.
        platform: Platform,
        /// The agent's node.
        node: NodeName,
    },
    /// A weft server.
    Server(ServerId),
    /// An identity of another trust domain.
    Foreign(SpiffeId),
    /// An identity of this trust domain in no form that this mesh issues.
    Unknown(SpiffeId),
}

/// Builds and reads the identities of one mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityScheme {
    /// The authority of every identity in the mesh.
    pub trust_domain: TrustDomain,
    /// The shape of workload paths.
    pub template: PathTemplate,
    /// The datacenter, for templates that name it and for server names in TLS. One label of `a-z`, `0-9` and `-`.
    pub datacenter: String,
}

impl IdentityScheme {
    /// Returns the identity of a service's workloads.
    #[must_use]
    pub fn workload(&self, service: &ServiceKey) -> SpiffeId {
        SpiffeId::from_parts(&self.trust_domain, self.template.render(service, &self.datacenter))
    }

    /// Returns the identity of the agent on a node.
    #[must_use]
    pub fn agent(&self, platform: Platform, node: &NodeName) -> SpiffeId {
        SpiffeId::from_parts(&self.trust_domain, format!("/agent/{platform}/{node}"))
    }

    /// Returns the identity of a server.
    #[must_use]
    pub fn server(&self, id: &ServerId) -> SpiffeId {
        SpiffeId::from_parts(&self.trust_domain, format!("/server/{id}"))
    }

    /// Says what an identity stands for; compares parsed segments, never text with a pattern.
    #[must_use]
    pub fn classify(&self, id: &SpiffeId) -> Principal {
        if *id.trust_domain() != self.trust_domain {
            return Principal::Foreign(id.clone());
        }
        let segments: Vec<&str> = id.path().trim_start_matches('/').split('/').collect();
        let known = match segments.as_slice() {
            ["agent", platform, node] => match (platform.parse(), node.parse()) {
                (Ok(platform), Ok(node)) => Some(Principal::Agent { platform, node }),
                _ => None,
            },
            ["server", server] => server.parse().ok().map(Principal::Server),
            _ => self.template.read(id.path(), &self.datacenter).map(Principal::Workload),
        };
        known.unwrap_or_else(|| Principal::Unknown(id.clone()))
    }

    /// Returns the server name that a tunnel to `service` asks for.
    #[must_use]
    pub fn sni(&self, service: &ServiceKey) -> String {
        format!("{}.{}.{}.internal.{}", service.name, service.namespace, self.datacenter, self.trust_domain)
    }

    /// Returns the server name that a tunnel to one instance of `service` asks for, where a gateway leads to it.
    #[must_use]
    pub fn sni_of_instance(&self, service: &ServiceKey, instance: &InstanceLabel) -> String {
        format!("{instance}.{}", self.sni(service))
    }

    /// Reads whom a server name of this mesh asks for; letter case and one trailing dot do not count.
    #[must_use]
    pub fn asked_by_sni(&self, server_name: &str) -> Option<AskedFor> {
        let name = server_name.strip_suffix('.').unwrap_or(server_name).to_ascii_lowercase();
        let local = name.strip_suffix(self.trust_domain.as_str())?.strip_suffix(".internal.")?;
        let labels = local.strip_suffix(self.datacenter.as_str())?.strip_suffix('.')?;
        let (service, namespace, instance) = match labels.split('.').collect::<Vec<_>>().as_slice() {
            [service, namespace] => (*service, *namespace, None),
            [instance, service, namespace] => (*service, *namespace, Some(InstanceLabel::read(instance)?)),
            _ => return None,
        };
        let service = ServiceKey::new(Namespace::try_from(namespace).ok()?, service.parse().ok()?);
        Some(AskedFor { service, instance })
    }
}

/// Is whom a server name asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedFor {
    /// The service.
    pub service: ServiceKey,
    /// The instance of it; any without one.
    pub instance: Option<InstanceLabel>,
}

/// Is what an instance is called in a server name: the beginning of a digest of its key, since the key itself may be longer
/// than a name may be. It only leads somewhere: who answers there is known by its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceLabel([u8; 10]);

/// What the label of an instance begins with.
const INSTANCE_LABEL: &str = "i-";

impl InstanceLabel {
    /// Is the label of the instance whose key, as text, has this SHA-256 digest.
    #[must_use]
    pub fn of_digest(digest: &[u8; 32]) -> Self {
        let mut short = [0; 10];
        short.copy_from_slice(&digest[..10]);
        Self(short)
    }

    fn read(label: &str) -> Option<Self> {
        let digits = label.strip_prefix(INSTANCE_LABEL)?;
        let mut bytes = [0; 10];
        if digits.len() != 2 * bytes.len() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, number) in bytes.iter_mut().zip(0..) {
            *byte = u8::from_str_radix(digits.get(2 * number..2 * number + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for InstanceLabel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(INSTANCE_LABEL)?;
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme() -> IdentityScheme {
        IdentityScheme {
            trust_domain: "mesh.example".parse().unwrap(),
            template: PathTemplate::default(),
            datacenter: "dc1".to_owned(),
        }
    }

    #[test]
    fn c5_a_spiffe_id_is_read_to_the_letter() {
        for good in ["spiffe://a/b", "spiffe://a.b_c-9/ns/x/sa/Y._-z", &format!("spiffe://{}/p", "a".repeat(255))] {
            assert_eq!(good.parse::<SpiffeId>().unwrap().to_string(), good);
        }
        let long = format!("spiffe://a/{}", "b".repeat(2048));
        let domain = format!("spiffe://{}/p", "a".repeat(256));
        for bad in [
            "",
            "spiffe:/a/b",
            "SPIFFE://a/b",
            "Spiffe://a/b",
            "https://a/b",
            "spiffe://",
            "spiffe:///b",
            "spiffe://a",
            "spiffe://a/",
            "spiffe://a/b/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b/..",
            "spiffe://A/b",
            "spiffe://a:80/b",
            "spiffe://u@a/b",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/b%2ec",
            "spiffe://a/%62",
            "spiffe://a/b c",
            "spiffe://a/é",
            "spiffe://é/b",
            "spiffe://a/b\0",
            "spiffe://a\0/b",
            " spiffe://a/b",
            "spiffe://a/b\n",
            "spiffe://a/b;c",
            "spiffe://a/b\\c",
            &long,
            &domain,
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_identity_that_the_mesh_builds_reads_back_as_what_it_was_built_from() {
        let scheme = scheme();
        let service: ServiceKey = "shop/web".parse().unwrap();
        assert_eq!(scheme.workload(&service).to_string(), "spiffe://mesh.example/ns/shop/sa/web");
        assert_eq!(scheme.classify(&scheme.workload(&service)), Principal::Workload(service));
        let node: NodeName = "ip-10-0-0-1.local".parse().unwrap();
        let agent = scheme.agent(Platform::Ecs, &node);
        assert_eq!(agent.to_string(), "spiffe://mesh.example/agent/ecs/ip-10-0-0-1.local");
        assert_eq!(scheme.classify(&agent), Principal::Agent { platform: Platform::Ecs, node });
        let server: ServerId = "s1".parse().unwrap();
        assert_eq!(scheme.classify(&scheme.server(&server)), Principal::Server(server));
    }

    #[test]
    fn an_identity_in_no_form_of_ours_is_unknown_and_one_of_elsewhere_foreign() {
        let scheme = scheme();
        for text in
            ["ns/shop/sa", "ns/shop/sa/web/x", "ns/Shop/sa/web", "agent/mainframe/n", "server/a/b", "ns/a/svc/b"]
        {
            let id: SpiffeId = format!("spiffe://mesh.example/{text}").parse().unwrap();
            assert_eq!(scheme.classify(&id), Principal::Unknown(id.clone()), "{text}");
        }
        let id: SpiffeId = "spiffe://mesh.example.evil/ns/shop/sa/web".parse().unwrap();
        assert_eq!(scheme.classify(&id), Principal::Foreign(id.clone()));
    }

    #[test]
    fn a_template_can_have_consuls_form_and_can_never_imitate_an_agent() {
        let consul: PathTemplate = "/ns/{namespace}/dc/{datacenter}/svc/{service}".parse().unwrap();
        let scheme = IdentityScheme { template: consul.clone(), ..scheme() };
        let id = scheme.workload(&"shop/web".parse().unwrap());
        assert_eq!(id.to_string(), "spiffe://mesh.example/ns/shop/dc/dc1/svc/web");
        assert_eq!(scheme.classify(&id), Principal::Workload("shop/web".parse().unwrap()));
        assert_eq!(consul.to_string().parse::<PathTemplate>().unwrap(), consul);
        for bad in [
            "",
            "ns/{namespace}/{service}",
            "/ns/{namespace}",
            "/{namespace}/{service}",
            "/agent/{namespace}/{service}",
            "/server/{service}/{namespace}",
            "/ns/{namespace}/{service}/{service}",
            "/ns/{namespace}/x-{service}",
            "/ns//{namespace}/{service}",
            "/ns/{namespace}/{service}/",
        ] {
            assert!(bad.parse::<PathTemplate>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn l3_a_server_name_is_read_without_regard_to_case_and_one_trailing_dot() {
        let scheme = scheme();
        let want: ServiceKey = "shop/web".parse().unwrap();
        assert_eq!(scheme.sni(&want), "web.shop.dc1.internal.mesh.example");
        for good in ["web.shop.dc1.internal.mesh.example", "WEB.Shop.dc1.internal.mesh.example."] {
            let want = AskedFor { service: want.clone(), instance: None };
            assert_eq!(scheme.asked_by_sni(good), Some(want), "{good}");
        }
        let label = InstanceLabel::of_digest(&[0xa1; 32]);
        let one = scheme.sni_of_instance(&want, &label);
        assert_eq!(one, "i-a1a1a1a1a1a1a1a1a1a1.web.shop.dc1.internal.mesh.example");
        for good in [one.clone(), one.to_ascii_uppercase()] {
            let want = AskedFor { service: want.clone(), instance: Some(label) };
            assert_eq!(scheme.asked_by_sni(&good), Some(want), "{good}");
        }
        for bad in [
            "i-a1a1a1a1a1a1a1a1a1.web.shop.dc1.internal.mesh.example",
            "i-a1a1a1a1a1a1a1a1a1a1a1.web.shop.dc1.internal.mesh.example",
            "i-+1a1a1a1a1a1a1a1a1a1.web.shop.dc1.internal.mesh.example",
            "a1a1a1a1a1a1a1a1a1a1.web.shop.dc1.internal.mesh.example",
            "x.i-a1a1a1a1a1a1a1a1a1a1.web.shop.dc1.internal.mesh.example",
            "",
            ".",
            "web.shop.dc1.internal.mesh.example..",
            "web.shop.dc2.internal.mesh.example",
            "web.dc1.internal.mesh.example",
            "a.web.shop.dc1.internal.mesh.example",
            "web.shop.dc1.internal.mesh.example.evil",
            "web.shopdc1.internal.mesh.example",
            "127.0.0.1",
            "web\0.shop.dc1.internal.mesh.example",
            "wéb.shop.dc1.internal.mesh.example",
        ] {
            assert_eq!(scheme.asked_by_sni(bad), None, "{bad:?}");
        }
    }
}
