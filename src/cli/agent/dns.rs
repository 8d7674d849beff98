//! What `weft agent` is told of names.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::Context;
use catalog::Namespace;
use clap::Args;
use wire::crypto::{Secret, read_secret_file};

use crate::cli::settings::settings;

/// The longest token that is read from a file.
const TOKEN_BYTES_MAX: u64 = 4096;

/// Is where and how names are answered.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Dns {
    /// The port at which names are answered, over UDP and TCP [default: 8600]
    #[arg(long, value_name = "PORT")]
    dns_port: Option<u16>,
    /// The address at which names are answered; beyond loopback, whoever reaches it may ask [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    dns_bind: Option<IpAddr>,
    /// The domain that the names of the mesh end with [default: mesh]
    #[arg(long, value_name = "DOMAIN")]
    dns_domain: Option<String>,
    /// A second such domain
    #[arg(long, value_name = "DOMAIN")]
    dns_alt_domain: Option<String>,
    /// The namespace of names that carry none [default: default]
    #[arg(long, value_name = "NAMESPACE")]
    dns_namespace: Option<Namespace>,
    /// Who is asked for other names, as address:port; may be given several times [default: nobody, they are refused]
    #[arg(long = "dns-recursor", value_name = "ADDRESS:PORT")]
    dns_recursors: Vec<SocketAddr>,
    /// The file that holds the token by whose rights names are told, of mode 0600 [default: all names are]
    #[arg(long, value_name = "FILE")]
    dns_token_file: Option<PathBuf>,
    /// Answer no names
    #[arg(long)]
    no_dns: bool,
}

settings! { Dns:
    flags { no_dns }
    also {}
    number { dns_port }
    parsed { dns_bind, dns_domain, dns_alt_domain, dns_namespace, dns_token_file }
    parsed_list { dns_recursors }
}

impl Dns {
    /// Returns where names are answered on this machine, and the domain that they end with; none where none are.
    pub(super) fn place(&self) -> Option<(SocketAddr, String)> {
        let defaults = agent::DnsSettings::default();
        let bind = self.dns_bind.unwrap_or(defaults.bind);
        // Whoever listens on every address is asked on this machine's own.
        let bind = if bind.is_unspecified() { defaults.bind } else { bind };
        let domain = self.dns_domain.clone().unwrap_or(defaults.domain);
        (!self.no_dns).then(|| (SocketAddr::new(bind, self.dns_port.unwrap_or(defaults.port)), domain))
    }

    /// Returns the agent's settings; none where it answers no names.
    pub(super) fn settings(self) -> anyhow::Result<Option<agent::DnsSettings>> {
        if self.no_dns {
            return Ok(None);
        }
        let token = self.dns_token_file.as_deref().map(|path| read_secret_file(path, TOKEN_BYTES_MAX)).transpose();
        let token = token.context("reading the token by whose rights names are told")?;
        let defaults = agent::DnsSettings::default();
        Ok(Some(agent::DnsSettings {
            bind: self.dns_bind.unwrap_or(defaults.bind),
            port: self.dns_port.unwrap_or(defaults.port),
            domain: self.dns_domain.unwrap_or(defaults.domain),
            alt_domain: self.dns_alt_domain,
            namespace: self.dns_namespace.unwrap_or(defaults.namespace),
            recursors: self.dns_recursors,
            token: token.map(|token| Secret::new(token.expose().trim())),
        }))
    }
}
