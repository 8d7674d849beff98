//! Ports: whether applications listen where their services say, and who else may reach them there.

use wire::diagnosis::Finding;

use super::LocalService;
use crate::sockets::Listening;

/// Judges the ports of local services.
pub(super) fn of_services(services: &[LocalService], listening: &[Listening]) -> Vec<Finding> {
    services.iter().map(|service| of_service(service, listening)).collect()
}

fn of_service(LocalService { id, port, bypassable }: &LocalService, listening: &[Listening]) -> Finding {
    let here: Vec<&Listening> = listening.iter().filter(|socket| socket.address.port() == *port).collect();
    let open = here.iter().map(|socket| socket.address.ip().to_canonical()).find(|address| !address.is_loopback());
    match (open, bypassable) {
        _ if here.is_empty() => Finding::problem(
            "ports",
            format!("nothing listens on port {port}, where `{id}` should be"),
            "start the application, or set the port in its service's definition",
        ),
        (None, _) => Finding::fine("ports", format!("`{id}` listens on port {port}, on loopback alone")),
        // The agent has tried it.
        (Some(address), Some(false)) => Finding::fine(
            "ports",
            format!("`{id}` listens on {address} port {port}, and is not reached past the agent"),
        ),
        (Some(address), _) => Finding::warning(
            "ports",
            format!("`{id}` listens on {address} port {port}: whoever reaches the machine gets past the agent"),
            "have it listen on 127.0.0.1 alone, redirect the port (`weft redirect apply --inbound-port`), or close it to \
             other machines",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use wire::diagnosis::Verdict;

    use super::*;
    use crate::sockets::listening;

    #[test]
    fn l9_an_application_that_can_be_reached_past_its_agent_is_found() {
        let bind = |address: &str| TcpListener::bind((address, 0)).unwrap();
        let (closed, open) = (bind("127.0.0.1"), bind("0.0.0.0"));
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        // A port that is held and not listened at.
        let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        held.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let gone = held.local_addr().unwrap().as_socket().unwrap().port();
        let verdict = |port, bypassable| {
            let service = LocalService { id: "api".to_owned(), port, bypassable };
            of_services(&[service], &listening().unwrap())[0].verdict
        };
        assert_eq!(verdict(port(&closed), None), Verdict::Fine);
        assert_eq!(verdict(port(&open), None), Verdict::Warning);
        assert_eq!(verdict(port(&open), Some(true)), Verdict::Warning);
        assert_eq!(verdict(port(&open), Some(false)), Verdict::Fine);
        assert_eq!(verdict(gone, None), Verdict::Problem);
    }
}
