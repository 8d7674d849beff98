//! What a name within the mesh's domain asks for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use catalog::{Namespace, NodeName, ServiceKey};

/// Is what a name asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// The domain itself.
    Domain,
    /// A name that has none of its own, but others below it.
    Branch,
    /// The instances of a service; those with a tag where one is named.
    Service { service: ServiceKey, tag: Option<String> },
    /// The address that stands for a service.
    Virtual(ServiceKey),
    /// A node, as it was spelled.
    Node(NodeName),
    /// The address that the name itself spells.
    Address(IpAddr),
    /// Nothing: there is no such name, and never will be.
    Nothing,
}

/// The words that say what a name is of.
const KINDS: [&str; 4] = ["service", "virtual", "node", "addr"];

/// Reads the labels before the domain, as they were sent; letters count in either case, but those of nodes are kept. What names
/// no namespace is of `current`.
pub(super) fn read(labels: &[String], datacenter: &str, current: &Namespace) -> Asked {
    let lower: Vec<String> = labels.iter().map(|label| label.to_ascii_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let Some((rest, namespace)) = places(&lower, datacenter) else { return Asked::Nothing };
    let (rest, namespace) = match (rest, namespace) {
        // Consul has the namespace of a virtual address right behind the word, too.
        ([before @ .., "virtual", place], None) if !before.is_empty() && !KINDS.contains(place) => {
            (&rest[..rest.len() - 1], Some(*place))
        }
        other => other,
    };
    let [before @ .., kind] = rest else { return if labels.is_empty() { Asked::Domain } else { Asked::Branch } };
    let Ok(namespace) = namespace.map_or_else(|| Ok(current.clone()), str::parse) else { return Asked::Nothing };
    let key = |name: &str| name.parse().ok().map(|name| ServiceKey::new(namespace.clone(), name));
    let asked = match (*kind, before) {
        (kind, []) if KINDS.contains(&kind) => Some(Asked::Branch),
        ("service", [service, protocol]) if is_underscored(service) && is_underscored(protocol) => {
            by_protocol(&namespace, service, protocol)
        }
        ("service", [tag @ .., service]) => key(service).map(|service| {
            let tag = (!tag.is_empty()).then(|| tag.join("."));
            Asked::Service { service, tag }
        }),
        ("virtual", [service]) => key(service).map(Asked::Virtual),
        ("node", before) => labels[..before.len()].join(".").parse().ok().map(Asked::Node),
        ("addr", [digits]) => address(digits).map(Asked::Address),
        (protocol, [service]) if is_underscored(protocol) && is_underscored(service) => {
            by_protocol(&namespace, service, protocol)
        }
        _ => None,
    };
    asked.unwrap_or(Asked::Nothing)
}

/// Takes off where the name is to be looked for; nothing where that is another datacenter.
fn places<'a>(labels: &'a [&'a str], datacenter: &str) -> Option<(&'a [&'a str], Option<&'a str>)> {
    let datacenter = datacenter.to_ascii_lowercase();
    let (mut rest, mut namespace) = (labels, None);
    loop {
        rest = match rest {
            [before @ .., place, "dc"] if *place == datacenter => before,
            [_, "dc"] | [.., _, "dc"] => return None,
            [before @ .., place, "ns"] if namespace.is_none() => {
                namespace = Some(*place);
                before
            }
            // The older form, without the word.
            [before @ .., place] if *place == datacenter && before.len() >= 2 && rest.len() == labels.len() => before,
            _ => return Some((rest, namespace)),
        };
    }
}

fn is_underscored(label: &str) -> bool {
    label.len() > 1 && label.starts_with('_')
}

/// Reads `_service._tcp` or `_service._tag`, as RFC 2782 has it and Consul extends it.
fn by_protocol(namespace: &Namespace, service: &str, protocol: &str) -> Option<Asked> {
    let service = ServiceKey::new(namespace.clone(), service[1..].parse().ok()?);
    let tag = (protocol != "_tcp").then(|| protocol[1..].to_owned());
    Some(Asked::Service { service, tag })
}

fn address(digits: &str) -> Option<IpAddr> {
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    match digits.len() {
        8 => u32::from_str_radix(digits, 16).ok().map(|bits| Ipv4Addr::from(bits).into()),
        32 => u128::from_str_radix(digits, 16).ok().map(|bits| Ipv6Addr::from(bits).into()),
        _ => None,
    }
}

/// Returns the label that spells an address.
pub(super) fn spelled(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08x}", u32::from(address)),
        IpAddr::V6(address) => format!("{:032x}", u128::from(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, want: &Asked) {
        let labels: Vec<String> = name.split('.').filter(|label| !label.is_empty()).map(str::to_owned).collect();
        assert_eq!(read(&labels, "dc1", &Namespace::default()), *want, "{name}");
    }

    #[test]
    fn a_name_without_a_namespace_is_of_the_one_that_the_agent_is_told() {
        let read = |name: &str| {
            let labels: Vec<String> = name.split('.').map(str::to_owned).collect();
            read(&labels, "dc1", &"team".parse().unwrap())
        };
        assert_eq!(read("api.virtual"), Asked::Virtual("team/api".parse().unwrap()));
        assert_eq!(read("_web._tcp.service"), service("team/web", None));
        assert_eq!(read("api.virtual.default.ns"), Asked::Virtual("api".parse().unwrap()));
    }

    fn service(key: &str, tag: Option<&str>) -> Asked {
        Asked::Service { service: key.parse().unwrap(), tag: tag.map(str::to_owned) }
    }

    #[test]
    fn d4_names_are_read_as_consul_writes_them_in_either_case() {
        for name in ["web.service", "WEB.Service", "web.service.dc1", "web.service.dc1.dc", "_web._tcp.service"] {
            check(name, &service("web", None));
        }
        for name in
            ["web.service.team.ns", "web.service.team.ns.dc1.dc", "_web._tcp.service.team.ns", "_web._tcp.team.ns"]
        {
            check(name, &service("team/web", None));
        }
        check("_web._tcp", &service("web", None));
        check("v1.web.service", &service("web", Some("v1")));
        check("_web._v1.service", &service("web", Some("v1")));
        check("v1.2.web.service", &service("web", Some("v1.2")));
        for name in ["api.virtual", "api.virtual.dc1.dc", "api.virtual.default.ns", "api.virtual.default"] {
            check(name, &Asked::Virtual("api".parse().unwrap()));
        }
        check("api.virtual.team", &Asked::Virtual("team/api".parse().unwrap()));
        check("vm-1.node", &Asked::Node("vm-1".parse().unwrap()));
        check("Vm-1.node.dc1", &Asked::Node("Vm-1".parse().unwrap()));
        check("c000020a.addr.dc1", &Asked::Address("192.0.2.10".parse().unwrap()));
        check("C000020A.addr.dc1.dc", &Asked::Address("192.0.2.10".parse().unwrap()));
        check("20010db8000000000000000000000001.addr", &Asked::Address("2001:db8::1".parse().unwrap()));
        assert_eq!(spelled("192.0.2.10".parse().unwrap()), "c000020a");
        assert_eq!(spelled("2001:db8::1".parse().unwrap()), "20010db8000000000000000000000001");
    }

    #[test]
    fn d4_a_name_that_has_others_below_it_is_there_and_any_other_is_not() {
        check("", &Asked::Domain);
        for name in ["service", "virtual", "node", "addr", "service.dc1.dc", "service.team.ns", "dc1.dc"] {
            check(name, &Asked::Branch);
        }
        for name in [
            "web",
            "www",
            "web.services",
            "a_b.service",
            "web.service.dc2.dc",
            "web.service.dc2",
            "-web.service",
            "w\u{e9}b.service",
            "a.b.virtual",
            "c00002.addr",
            "zzzzzzzz.addr",
            "+0000001.addr",
            "_._tcp.service",
            "web.service.x_y.ns",
            "web.service.a.ns.b.ns",
        ] {
            check(name, &Asked::Nothing);
        }
    }
}
