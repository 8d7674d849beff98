use super::*;

/// Returns what refuses virtual addresses to whoever is not led to them.
fn stray() -> String {
    let why = "comment \"leads nowhere but into the mesh, and no rule leads this user there\"";
    ["stray", "forwarded_stray"]
        .into_iter()
        .zip(["output", "forward"])
        .map(|(name, hook)| {
            format!(
                "  chain {name} {{
    type filter hook {hook} priority 0; policy accept;
    ip daddr 240.0.0.0/10 meta l4proto tcp reject with tcp reset {why}
    ip daddr 240.0.0.0/10 reject with icmpx admin-prohibited {why}
    ip6 daddr fd77:6566:7400::/96 meta l4proto tcp reject with tcp reset {why}
    ip6 daddr fd77:6566:7400::/96 reject with icmpx admin-prohibited {why}
  }}\n"
            )
        })
        .collect()
}

#[test]
fn a_machine_redirects_what_its_services_users_call_in_the_mesh() {
    let users = [("web", 15_101), ("1001", 15_102)];
    let users = users.map(|(user, port)| UserRedirection { user: user.parse().unwrap(), port });
    let redirection = Redirection {
        outbound: Outbound::Users(users.to_vec()),
        inbound: Inbound::Ports { ports: vec![8080], mesh: 20_000 },
        dns_port: Some(8600),
    };
    assert_eq!(
        rules::write(&redirection),
        "add table inet weft
delete table inet weft
table inet weft {
  chain outbound {
    type nat hook output priority -100; policy accept;
    ip daddr 240.63.255.255 tcp dport { 8080 } redirect to :20000
    meta skuid web meta l4proto { tcp, udp } th dport 53 redirect to :8600
    meta skuid web ip daddr 240.0.0.0/10 meta l4proto tcp redirect to :15101
    meta skuid web ip6 daddr fd77:6566:7400::/96 meta l4proto tcp redirect to :15101
    meta skuid 1001 meta l4proto { tcp, udp } th dport 53 redirect to :8600
    meta skuid 1001 ip daddr 240.0.0.0/10 meta l4proto tcp redirect to :15102
    meta skuid 1001 ip6 daddr fd77:6566:7400::/96 meta l4proto tcp redirect to :15102
  }
  chain inbound {
    type nat hook prerouting priority -100; policy accept;
    iif lo return
    tcp dport { 8080 } tcp flags & (fin | syn | rst | ack) == syn redirect to :20000
  }
STRAY}
"
        .replace("STRAY", &stray())
    );
}

#[test]
fn a_pod_redirects_everything_but_what_it_names_and_what_its_agent_does() {
    let except = Except {
        ports: vec![5432, 443, 443],
        addresses: ["10.0.0.0/8", "fd00::/8"].map(|range| range.parse().unwrap()).to_vec(),
        users: vec!["0".parse().unwrap()],
    };
    let redirection = Redirection {
        outbound: Outbound::Everybody { agent: "5995".parse().unwrap(), port: OUTBOUND_PORT, except },
        inbound: Inbound::AllBut { ports: vec![19_001], mesh: 20_000 },
        dns_port: None,
    };
    assert_eq!(
        rules::write(&redirection),
        "add table inet weft
delete table inet weft
table inet weft {
  chain outbound {
    type nat hook output priority -100; policy accept;
    ip daddr 240.63.255.255 tcp dport != { 19001, 20000 } redirect to :20000
    meta skuid { 0, 5995 } return
    ip daddr 127.0.0.0/8 return
    ip6 daddr ::1 return
    tcp dport { 443, 5432 } return
    ip daddr 240.0.0.0/10 meta l4proto tcp redirect to :15101
    ip6 daddr fd77:6566:7400::/96 meta l4proto tcp redirect to :15101
    ip daddr 10.0.0.0/8 return
    ip6 daddr fd00::/8 return
    tcp flags & (fin | syn | rst | ack) == syn redirect to :15101
  }
  chain inbound {
    type nat hook prerouting priority -100; policy accept;
    iif lo return
    tcp dport != { 19001, 20000 } tcp flags & (fin | syn | rst | ack) == syn redirect to :20000
  }
STRAY}
"
        .replace("STRAY", &stray())
    );
}

#[test]
fn where_nothing_arrives_to_be_redirected_there_is_no_chain_for_it() {
    let redirection = Redirection {
        outbound: Outbound::Users(Vec::new()),
        inbound: Inbound::Ports { ports: Vec::new(), mesh: 20_000 },
        dns_port: Some(8600),
    };
    let none = "add table inet weft\ndelete table inet weft\ntable inet weft {\nSTRAY}\n".replace("STRAY", &stray());
    assert_eq!(rules::write(&redirection), none);
}

#[test]
fn a_user_is_a_number_or_a_name_and_nothing_that_could_be_a_rule() {
    for good in ["0", "5995", "web", "_apt", "www-data", "systemd-resolve"] {
        assert!(good.parse::<User>().is_ok(), "{good}");
    }
    for bad in ["", "-1", "007", "4294967296", "Web", "a b", "web;", "web\n", "{ 0 }", "web return", "$(id)"] {
        assert!(bad.parse::<User>().is_err(), "{bad}");
    }
}

#[test]
fn no_two_services_are_one_caller() {
    let users = |services: &[(&str, &str, Option<u16>)]| {
        let services = services.iter().map(|(name, user, port)| (name.parse().unwrap(), user.parse().unwrap(), *port));
        users_of(services).map(|users| users.iter().map(|one| one.port).collect::<Vec<_>>())
    };
    assert_eq!(users(&[("web", "www-data", None), ("batch", "1001", Some(15_110))]), Ok(vec![15_101, 15_110]));
    assert_eq!(users(&[("web", "1000", None), ("batch", "1001", None)]), Ok(vec![15_101, 15_102]));
    for two in [[("web", "1000", None), ("api", "1000", None)], [("web", "1000", Some(15_102)), ("api", "1001", None)]]
    {
        let refused = users(&two).unwrap_err();
        assert_eq!(refused, OneCaller { service: "api".parse().unwrap(), other: "web".parse().unwrap() });
    }
}
