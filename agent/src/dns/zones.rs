//! The domains of the mesh's names, and what a name within them asks for.

use catalog::{Namespace, ServiceKey};
use hickory_proto::rr::Name;

use super::question::{self, Asked};
use super::{DnsError, DnsSettings};

/// Holds the domains that names of the mesh end with.
#[derive(Debug, Clone)]
pub(crate) struct Zones {
    domains: Vec<Name>,
    /// Whose names carry no namespace.
    namespace: Namespace,
}

impl Zones {
    /// Reads the domains of the settings.
    pub(crate) fn new(settings: &DnsSettings) -> Result<Self, DnsError> {
        let zone = |domain: &String| {
            let name = Name::from_ascii(domain).ok().filter(|name| !name.is_root());
            let mut name = name.ok_or_else(|| DnsError::Domain { domain: domain.clone() })?.to_lowercase();
            name.set_fqdn(true);
            Ok(name)
        };
        let domains = [Some(&settings.domain), settings.alt_domain.as_ref()];
        let domains = domains.into_iter().flatten().map(zone).collect::<Result<_, DnsError>>()?;
        Ok(Self { domains, namespace: settings.namespace.clone() })
    }

    /// Returns the domain that a name is in.
    pub(super) fn of(&self, name: &Name) -> Option<&Name> {
        self.domains.iter().find(|zone| zone.zone_of(name))
    }

    /// Reads what a name within a domain asks for.
    pub(super) fn asked(&self, zone: &Name, name: &Name, datacenter: &str) -> Asked {
        let before = usize::from(name.num_labels()).saturating_sub(usize::from(zone.num_labels()));
        let labels: Option<Vec<String>> =
            name.iter().take(before).map(|label| String::from_utf8(label.to_vec()).ok()).collect();
        labels.map_or(Asked::Nothing, |labels| question::read(&labels, datacenter, &self.namespace))
    }

    /// Returns the service that the name of a host stands for, as an application writes it in a URL.
    pub(crate) fn service_of(&self, host: &str, datacenter: &str) -> Option<ServiceKey> {
        let mut name = Name::from_ascii(host).ok()?;
        name.set_fqdn(true);
        match self.asked(self.of(&name)?, &name, datacenter) {
            Asked::Virtual(service) | Asked::Service { service, tag: None } => Some(service),
            _ => None,
        }
    }
}

impl std::fmt::Display for Zones {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let zones: Vec<String> =
            self.domains.iter().map(|zone| zone.to_ascii().trim_end_matches('.').to_owned()).collect();
        formatter.write_str(&zones.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d4_the_name_of_a_host_stands_for_a_service_of_the_mesh_or_for_nothing() {
        let zones = |domain: &str, alt_domain: Option<&str>| {
            let alt_domain = alt_domain.map(str::to_owned);
            Zones::new(&DnsSettings { domain: domain.to_owned(), alt_domain, ..DnsSettings::default() }).unwrap()
        };
        let read = |zones: &Zones, host: &str| zones.service_of(host, "dc1").map(|service| service.to_string());
        let mesh = zones("mesh", None);
        for api in ["api.virtual.mesh", "API.Virtual.Mesh.", "api.service.mesh", "api.virtual.dc1.dc.mesh"] {
            assert_eq!(read(&mesh, api).as_deref(), Some("default/api"), "{api}");
        }
        assert_eq!(read(&mesh, "api.virtual.shop.ns.mesh").as_deref(), Some("shop/api"));
        for other in [
            "api",
            "mesh",
            "example.com",
            "api.mesh",
            "api.virtual.mesh.example.com",
            "a.b.virtual.mesh",
            "v1.api.service.mesh",
            "api.virtual.dc2.dc.mesh",
            ".virtual.mesh",
            "api.virtual.consul",
            "169.254.169.254",
            "[::1]",
            "localhost",
            "api..virtual.mesh",
            "*.virtual.mesh",
            "vm-1.node.mesh",
            "",
        ] {
            assert_eq!(read(&mesh, other), None, "{other}");
        }
        let own = zones("corp.example", Some("consul"));
        assert_eq!(own.to_string(), "corp.example and consul");
        for api in ["api.virtual.corp.example", "api.service.consul"] {
            assert_eq!(read(&own, api).as_deref(), Some("default/api"), "{api}");
        }
        assert_eq!(read(&own, "api.virtual.mesh"), None);
        let settings = DnsSettings { namespace: "shop".parse().unwrap(), ..DnsSettings::default() };
        let shop = Zones::new(&settings).unwrap();
        assert_eq!(read(&shop, "api.virtual.mesh").as_deref(), Some("shop/api"));
        assert_eq!(read(&shop, "api.virtual.default.ns.mesh").as_deref(), Some("default/api"));
    }
}
