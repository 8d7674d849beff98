//! The rules as nftables reads them.

use std::fmt::{Display, Write};

use catalog::AddressNumber;

use super::{Except, Inbound, Outbound, Redirection, TABLE, User};

/// The first packet of a connection. What was open before there were rules goes on as it is: the kernel would take its next packet
/// for the first.
const NEW: &str = "tcp flags & (fin | syn | rst | ack) == syn";
/// What a refused packet is refused for, as the rules in force tell it.
const REFUSED: &str = "comment \"leads nowhere but into the mesh, and no rule leads this user there\"";

/// Writes the transaction that puts a redirection into force, in place of whatever was redirected before.
pub(super) fn write(redirection: &Redirection) -> String {
    let mut text = removal();
    text += &format!("table inet {TABLE} {{\n");
    chain(&mut text, "outbound", "nat hook output priority -100", &outbound(redirection));
    chain(&mut text, "inbound", "nat hook prerouting priority -100", &inbound(&redirection.inbound));
    chain(&mut text, "stray", "filter hook output priority 0", &stray());
    chain(&mut text, "forwarded_stray", "filter hook forward priority 0", &stray());
    text + "}\n"
}

/// Writes the transaction that ends all redirection, whether there is any or not.
pub(super) fn removal() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

fn chain(text: &mut String, name: &str, hook: &str, rules: &[String]) {
    if rules.is_empty() {
        return;
    }
    *text += &format!("  chain {name} {{\n    type {hook}; policy accept;\n");
    for rule in rules {
        let _infallible = writeln!(text, "    {rule}");
    }
    *text += "  }\n";
}

fn outbound(redirection: &Redirection) -> Vec<String> {
    let rules: Vec<String> = match &redirection.outbound {
        Outbound::Users(users) => {
            users.iter().flat_map(|one| of_user(&one.user, one.port, redirection.dns_port)).collect()
        }
        Outbound::Everybody { agent, port, except } => of_everybody(agent, *port, except, redirection.dns_port),
    };
    trial(&redirection.inbound).into_iter().chain(rules).collect()
}

/// Writes what leads to the mesh listener, at the address that is nobody's, the ports that arriving connections are led from: so
/// that the agent can try from inside whether they are.
fn trial(inbound: &Inbound) -> Option<String> {
    let (ports, mesh) = led(inbound)?;
    Some(format!("ip daddr {} tcp dport {ports} redirect to :{mesh}", AddressNumber::NOBODYS))
}

/// Returns which ports' connections are led to the mesh listener as they arrive, and that one's port.
fn led(inbound: &Inbound) -> Option<(String, u16)> {
    match inbound {
        Inbound::Ports { ports, .. } if ports.is_empty() => None,
        Inbound::Ports { ports, mesh } => Some((set(ports), *mesh)),
        Inbound::AllBut { ports, mesh } => Some((format!("!= {}", set(std::iter::once(mesh).chain(ports))), *mesh)),
    }
}

/// Writes what refuses whatever would leave the machine for a virtual address, since nobody is there: what is led into the mesh
/// has another address by then.
fn stray() -> Vec<String> {
    let networks = [("ip", AddressNumber::NETWORK_V4), ("ip6", AddressNumber::NETWORK_V6)];
    let refused = networks.map(|(family, network)| {
        [
            format!("{family} daddr {network} meta l4proto tcp reject with tcp reset {REFUSED}"),
            format!("{family} daddr {network} reject with icmpx admin-prohibited {REFUSED}"),
        ]
    });
    refused.into_iter().flatten().collect()
}

fn of_user(User(user): &User, port: u16, dns_port: Option<u16>) -> Vec<String> {
    let names =
        dns_port.map(|dns| format!("meta skuid {user} meta l4proto {{ tcp, udp }} th dport 53 redirect to :{dns}"));
    let virtual_addresses = [
        format!("meta skuid {user} ip daddr {} meta l4proto tcp redirect to :{port}", AddressNumber::NETWORK_V4),
        format!("meta skuid {user} ip6 daddr {} meta l4proto tcp redirect to :{port}", AddressNumber::NETWORK_V6),
    ];
    names.into_iter().chain(virtual_addresses).collect()
}

fn of_everybody(agent: &User, port: u16, except: &Except, dns_port: Option<u16>) -> Vec<String> {
    let users = std::iter::once(agent).chain(&except.users).map(|User(user)| user);
    let mut rules = vec![format!("meta skuid {} return", set(users))];
    rules.extend(dns_port.map(|dns| format!("meta l4proto {{ tcp, udp }} th dport 53 redirect to :{dns}")));
    // What stays on loopback is between the parts of one application.
    rules.extend(["ip daddr 127.0.0.0/8 return".to_owned(), "ip6 daddr ::1 return".to_owned()]);
    if !except.ports.is_empty() {
        rules.push(format!("tcp dport {} return", set(&except.ports)));
    }
    // Virtual addresses lead nowhere but into the mesh, whatever range they may lie in.
    let networks = [("ip", AddressNumber::NETWORK_V4), ("ip6", AddressNumber::NETWORK_V6)];
    rules.extend(
        networks.map(|(family, network)| format!("{family} daddr {network} meta l4proto tcp redirect to :{port}")),
    );
    rules.extend(except.addresses.iter().map(|range| {
        let family = if range.is_v4() { "ip" } else { "ip6" };
        format!("{family} daddr {range} return")
    }));
    rules.push(format!("{NEW} redirect to :{port}"));
    rules
}

fn inbound(inbound: &Inbound) -> Vec<String> {
    let rule = led(inbound).map(|(ports, mesh)| format!("tcp dport {ports} {NEW} redirect to :{mesh}"));
    rule.map_or_else(Vec::new, |rule| vec!["iif lo return".to_owned(), rule])
}

/// Writes a set, each element once.
fn set(elements: impl IntoIterator<Item = impl Display>) -> String {
    let elements: std::collections::BTreeSet<String> = elements.into_iter().map(|one| one.to_string()).collect();
    format!("{{ {} }}", elements.into_iter().collect::<Vec<_>>().join(", "))
}
