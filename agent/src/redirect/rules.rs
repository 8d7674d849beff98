//! The rules as nftables reads them.

use std::fmt::{Display, Write};

use catalog::AddressNumber;

use super::{Except, Inbound, Outbound, Redirection, TABLE, User};

/// Writes the transaction that puts a redirection into force, in place of whatever was redirected before.
pub(super) fn write(redirection: &Redirection) -> String {
    let mut text = removal();
    text += &format!("table inet {TABLE} {{\n");
    chain(&mut text, "outbound", "output", &outbound(redirection));
    chain(&mut text, "inbound", "prerouting", &inbound(&redirection.inbound));
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
    *text += &format!("  chain {name} {{\n    type nat hook {hook} priority -100; policy accept;\n");
    for rule in rules {
        let _infallible = writeln!(text, "    {rule}");
    }
    *text += "  }\n";
}

fn outbound(redirection: &Redirection) -> Vec<String> {
    match &redirection.outbound {
        Outbound::Users(users) => {
            users.iter().flat_map(|one| of_user(&one.user, one.port, redirection.dns_port)).collect()
        }
        Outbound::Everybody { agent, port, except } => of_everybody(agent, *port, except, redirection.dns_port),
    }
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
    rules.push(format!("meta l4proto tcp redirect to :{port}"));
    rules
}

fn inbound(inbound: &Inbound) -> Vec<String> {
    let not_from_here = "iif lo return".to_owned();
    match inbound {
        Inbound::Ports { ports, .. } if ports.is_empty() => Vec::new(),
        Inbound::Ports { ports, mesh } => vec![not_from_here, format!("tcp dport {} redirect to :{mesh}", set(ports))],
        Inbound::AllBut { ports, mesh } => {
            let left_alone = set(std::iter::once(mesh).chain(ports));
            vec![
                not_from_here,
                format!("tcp dport {left_alone} return"),
                format!("meta l4proto tcp redirect to :{mesh}"),
            ]
        }
    }
}

/// Writes a set, each element once.
fn set(elements: impl IntoIterator<Item = impl Display>) -> String {
    let elements: std::collections::BTreeSet<String> = elements.into_iter().map(|one| one.to_string()).collect();
    format!("{{ {} }}", elements.into_iter().collect::<Vec<_>>().join(", "))
}
