//! Ports: whether applications listen where their services say, and who else may reach them there.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::diagnosis::Finding;

use super::LocalService;

/// The state of a socket that listens, as the kernel writes it.
const LISTENING: &str = "0A";

/// The addresses at which somebody listens, by port.
pub(super) type Listening = BTreeMap<u16, Vec<IpAddr>>;

/// Reads which ports are listened on, by what the kernel says of this network namespace; none where it says nothing.
pub(super) fn listening_here() -> Option<Listening> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (four, six) = (read("/proc/net/tcp"), read("/proc/net/tcp6"));
    (!four.is_empty() || !six.is_empty()).then(|| listening(&four, &six))
}

/// Judges the ports of local services.
pub(super) fn of_services(services: &[LocalService], listening: &Listening) -> Vec<Finding> {
    services
        .iter()
        .map(|LocalService { id, port }| {
            let at = listening.get(port).map(Vec::as_slice).unwrap_or_default();
            let open = at.iter().find(|address| !address.is_loopback());
            match (at, open) {
                ([], _) => Finding::problem(
                    "ports",
                    format!("nothing listens on port {port}, where `{id}` should be"),
                    "start the application, or set the port in its service's definition",
                ),
                (_, Some(address)) => Finding::warning(
                    "ports",
                    format!("`{id}` listens on {address} port {port}: whoever reaches the machine gets past the agent"),
                    "have it listen on 127.0.0.1 alone, or close the port to other machines",
                ),
                (_, None) => Finding::fine("ports", format!("`{id}` listens on port {port}, on loopback alone")),
            }
        })
        .collect()
}

/// Reads which ports are listened on, and at which addresses.
fn listening(four: &str, six: &str) -> Listening {
    let mut found = Listening::new();
    for line in four.lines().chain(six.lines()) {
        let mut fields = line.split_whitespace().skip(1);
        let (Some(local), Some(LISTENING)) = (fields.next(), fields.nth(1)) else { continue };
        if let Some((address, port)) = socket(local) {
            found.entry(port).or_default().push(address);
        }
    }
    found
}

/// Reads an address as the kernel writes it: words of four bytes in the machine's own order, in hexadecimal.
fn socket(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    if address.len() % 8 != 0 {
        return None;
    }
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let address = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.as_slice()).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?)).to_canonical(),
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use wire::diagnosis::Verdict;

    use super::*;

    #[test]
    fn l9_an_application_that_can_be_reached_past_its_agent_is_found() {
        let bind = |address: &str| TcpListener::bind((address, 0)).unwrap();
        let (closed, open) = (bind("127.0.0.1"), bind("0.0.0.0"));
        let gone = bind("127.0.0.1").local_addr().unwrap().port();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let service = |id: &str, port| LocalService { id: id.to_owned(), port };
        let services = [service("closed", port(&closed)), service("open", port(&open)), service("gone", gone)];
        let listening = listening_here().unwrap();
        let verdicts: Vec<Verdict> = of_services(&services, &listening).iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Fine, Verdict::Warning, Verdict::Problem]);
        assert!(of_services(&[], &listening).is_empty());
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let rows = [
            ("0100007F:1F90", Some(("127.0.0.1", 8080))),
            ("00000000:0050", Some(("0.0.0.0", 80))),
            ("00000000000000000000000001000000:1F90", Some(("::1", 8080))),
            ("0000000000000000FFFF00000100007F:1F90", Some(("127.0.0.1", 8080))),
            ("0100007F", None),
            ("0100:1F90", None),
            ("", None),
        ];
        for (text, want) in rows {
            assert_eq!(socket(text), want.map(|(address, port)| (address.parse().unwrap(), port)), "{text}");
        }
    }
}
