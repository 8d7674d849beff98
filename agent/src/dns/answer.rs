//! What is answered to a question about the mesh's own names, by what is known.

use std::collections::BTreeSet;
use std::net::IpAddr;

use catalog::{AddressNumber, CheckStatus, Endpoint};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{CNAME, HINFO, NS, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use wire::random::Seeded;

use super::question::spelled;

/// For how long instances may be remembered, in seconds: no longer than a check takes to see that one is dead.
const INSTANCES_TTL_S: u32 = 5;
/// For how long what does not change may be.
const FIXED_TTL_S: u32 = 30;
/// For how long it may be that there is nothing.
const NOTHING_TTL_S: u32 = 5;

/// Is what is known of what a name asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Known {
    /// There is nothing of that name.
    Nothing,
    /// The domain itself.
    Domain,
    /// There is something, and it has no records.
    Branch,
    /// A service's instances.
    Instances(Vec<Endpoint>),
    /// The number of a service.
    Number(AddressNumber),
    /// Where something is: an IP address, or another name.
    Place(String),
}

/// Is an answer, before it is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) records: Vec<Record>,
    /// What helps to read them.
    pub(super) additionals: Vec<Record>,
    /// For how long it counts that there is nothing.
    pub(super) authority: Option<Record>,
}

/// Answers a question of the type `asked` about `name`, which is in `zone`.
pub(super) fn answer(
    zone: &Name,
    name: &Name,
    asked: RecordType,
    datacenter: &str,
    known: &Known,
    draws: &mut Seeded,
) -> Answer {
    let mut answer = Answer::default();
    let mut add = |ttl: u32, data: RData| answer.records.push(Record::from_rdata(name.clone(), ttl, data));
    match (known, asked) {
        (Known::Nothing, _) => answer.code = ResponseCode::NXDomain,
        // Whoever asks for all there is wants to have it sent to somebody else (RFC 8482).
        (_, RecordType::ANY) => add(FIXED_TTL_S, RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()))),
        (Known::Domain, RecordType::SOA) => answer.records.push(authority(zone)),
        (Known::Domain, RecordType::NS) => {
            add(FIXED_TTL_S, RData::NS(NS(below(zone, &["ns"]))));
        }
        (Known::Domain | Known::Branch, _) => {}
        (Known::Number(number), RecordType::A) => add(FIXED_TTL_S, RData::A(number.virtual_v4().into())),
        (Known::Number(number), RecordType::AAAA) => add(FIXED_TTL_S, RData::AAAA(number.virtual_v6().into())),
        (Known::Number(_), _) => {}
        (Known::Place(place), _) => {
            let data = match place.parse::<IpAddr>() {
                Ok(address) => of_type(address, asked),
                Err(_) => alias(place, asked),
            };
            data.into_iter().for_each(|data| add(FIXED_TTL_S, data));
        }
        (Known::Instances(instances), RecordType::SRV) => {
            let mut healthy = callable(instances);
            draws.shuffle(&mut healthy);
            for instance in healthy.into_iter().filter(|instance| instance.port != 0) {
                srv(&mut answer, zone, name, datacenter, instance);
            }
        }
        (Known::Instances(instances), _) => {
            let healthy = callable(instances);
            let addresses = healthy.iter().filter_map(|instance| instance.address.parse::<IpAddr>().ok());
            let addresses: BTreeSet<IpAddr> = addresses.collect();
            let mut data: Vec<RData> = addresses.into_iter().filter_map(|address| of_type(address, asked)).collect();
            draws.shuffle(&mut data);
            if data.is_empty() {
                // A name has one alias or none.
                data.extend(healthy.iter().find_map(|instance| alias(&instance.address, asked)));
            }
            data.into_iter().for_each(|data| add(INSTANCES_TTL_S, data));
        }
    }
    if answer.records.is_empty() {
        answer.authority = Some(authority(zone));
    }
    answer
}

/// Returns the instances that may be called.
fn callable(instances: &[Endpoint]) -> Vec<&Endpoint> {
    instances.iter().filter(|instance| instance.status != CheckStatus::Critical).collect()
}

fn of_type(address: IpAddr, asked: RecordType) -> Option<RData> {
    match (address, asked) {
        (IpAddr::V4(address), RecordType::A) => Some(RData::A(address.into())),
        (IpAddr::V6(address), RecordType::AAAA) => Some(RData::AAAA(address.into())),
        _ => None,
    }
}

/// Says that something is where another name says; nothing where `place` is no name, or nobody asked for addresses.
fn alias(place: &str, asked: RecordType) -> Option<RData> {
    if !matches!(asked, RecordType::A | RecordType::AAAA | RecordType::CNAME) || place.parse::<IpAddr>().is_ok() {
        return None;
    }
    let mut name = Name::from_ascii(place).ok()?;
    name.set_fqdn(true);
    Some(RData::CNAME(CNAME(name)))
}

/// Adds where an instance is and at which port, and the address of the name that says so.
fn srv(answer: &mut Answer, zone: &Name, name: &Name, datacenter: &str, instance: &Endpoint) {
    let address = instance.address.parse::<IpAddr>().ok();
    let target = match address {
        Some(address) => Some(below(zone, &[&spelled(address), "addr", datacenter])),
        None => Name::from_ascii(&instance.address).ok().map(|mut name| {
            name.set_fqdn(true);
            name
        }),
    };
    let Some(target) = target else { return };
    let weight = match instance.status {
        CheckStatus::Warning => instance.weights.warning,
        CheckStatus::Passing | CheckStatus::Critical => instance.weights.passing,
    };
    let data = SRV::new(1, u16::try_from(weight).unwrap_or(u16::MAX), instance.port, target.clone());
    answer.records.push(Record::from_rdata(name.clone(), INSTANCES_TTL_S, RData::SRV(data)));
    let data = match address {
        Some(IpAddr::V4(address)) => RData::A(address.into()),
        Some(IpAddr::V6(address)) => RData::AAAA(address.into()),
        None => return,
    };
    answer.additionals.push(Record::from_rdata(target, INSTANCES_TTL_S, data));
}

/// Returns who answers for the domain, and how long it counts that there is nothing.
pub(super) fn authority(zone: &Name) -> Record {
    let data = SOA::new(below(zone, &["ns"]), below(zone, &["hostmaster"]), 1, 3600, 600, 86_400, NOTHING_TTL_S);
    Record::from_rdata(zone.clone(), NOTHING_TTL_S, RData::SOA(data))
}

/// Returns a name below the domain; the domain itself where that is too long.
fn below(zone: &Name, labels: &[&str]) -> Name {
    let text = format!("{}.{zone}", labels.join("."));
    let mut name = Name::from_ascii(text).unwrap_or_else(|_| zone.clone());
    name.set_fqdn(true);
    name
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use catalog::{InstanceKey, Platform, Weights};

    use super::*;

    fn zone() -> Name {
        Name::from_ascii("mesh.").unwrap()
    }

    fn instance(id: &str, address: &str, status: CheckStatus) -> Endpoint {
        let key = InstanceKey {
            node: "vm-1".parse().unwrap(),
            namespace: catalog::Namespace::default(),
            id: id.parse().unwrap(),
        };
        Endpoint {
            key,
            address: address.to_owned(),
            mesh_port: Some(20_000),
            port: 8080,
            ports: BTreeMap::new(),
            status,
            zone: None,
            network: String::new(),
            platform: Platform::Vm,
            weights: Weights { passing: 7, warning: 2 },
            meta: BTreeMap::new(),
            tags: Vec::new(),
            node_meta: BTreeMap::new(),
        }
    }

    fn asked(known: &Known, asked: RecordType) -> Answer {
        let name = Name::from_ascii("web.service.mesh.").unwrap();
        answer(&zone(), &name, asked, "dc1", known, &mut Seeded::new(7))
    }

    fn data(answer: &Answer) -> Vec<String> {
        let mut data: Vec<String> = answer.records.iter().map(|record| record.data.to_string()).collect();
        data.sort();
        data
    }

    #[test]
    fn d4_only_healthy_instances_are_told_and_none_is_no_error() {
        use CheckStatus::{Critical, Passing, Warning};
        let known = Known::Instances(vec![
            instance("a", "10.0.0.1", Passing),
            instance("b", "10.0.0.2", Warning),
            instance("c", "10.0.0.3", Critical),
            instance("d", "10.0.0.1", Passing),
            instance("e", "2001:db8::1", Passing),
        ]);
        assert_eq!(data(&asked(&known, RecordType::A)), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(data(&asked(&known, RecordType::AAAA)), ["2001:db8::1"]);
        let none = Known::Instances(vec![instance("c", "10.0.0.3", Critical)]);
        for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT] {
            let answer = asked(&none, kind);
            assert_eq!((answer.code, answer.records.len()), (ResponseCode::NoError, 0));
            assert_eq!(answer.authority, Some(authority(&zone())), "how long nothing counts is said");
        }
        assert_eq!(asked(&Known::Nothing, RecordType::A).code, ResponseCode::NXDomain);
        assert_eq!(asked(&Known::Branch, RecordType::A).code, ResponseCode::NoError);
    }

    #[test]
    fn srv_records_have_ports_weights_and_the_addresses_of_their_names() {
        let known = Known::Instances(vec![
            instance("a", "10.0.0.1", CheckStatus::Passing),
            instance("b", "db.example", CheckStatus::Warning),
        ]);
        let answer = asked(&known, RecordType::SRV);
        assert_eq!(data(&answer), ["1 2 8080 db.example.", "1 7 8080 0a000001.addr.dc1.mesh."]);
        let helps: Vec<String> =
            answer.additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
        assert_eq!(helps, ["0a000001.addr.dc1.mesh. 10.0.0.1"]);
    }

    #[test]
    fn a_host_name_is_an_alias_where_there_is_no_address() {
        let known = Known::Instances(vec![instance("b", "db.example", CheckStatus::Passing)]);
        assert_eq!(data(&asked(&known, RecordType::A)), ["db.example."]);
        assert!(asked(&known, RecordType::TXT).records.is_empty());
        let place = Known::Place("10.0.0.9".to_owned());
        assert_eq!(data(&asked(&place, RecordType::A)), ["10.0.0.9"]);
        assert!(asked(&place, RecordType::AAAA).records.is_empty());
    }

    #[test]
    fn a_virtual_name_has_both_addresses_and_d3_all_there_is_is_one_small_record() {
        let known = Known::Number(AddressNumber::new(5).unwrap());
        assert_eq!(data(&asked(&known, RecordType::A)), ["240.0.0.5"]);
        assert_eq!(data(&asked(&known, RecordType::AAAA)), ["fd77:6566:7400::5"]);
        for known in
            [known, Known::Branch, Known::Instances(vec![instance("a", "10.0.0.1", CheckStatus::Passing); 100])]
        {
            let answer = asked(&known, RecordType::ANY);
            assert!(matches!(&answer.records[..], [one] if matches!(one.data, RData::HINFO(_))));
        }
    }
}
