//! What `weft agent` is told of names.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::Context;
use clap::Args;
use wire::{
    crypto::{Secret, read_secret_file},
    decode::{DecodeError, Fields},
};

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

impl Dns {
    /// Reads what a file says of it.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            dns_port: fields.number("dns_port")?,
            dns_bind: fields.parsed("dns_bind")?,
            dns_domain: fields.parsed("dns_domain")?,
            dns_alt_domain: fields.parsed("dns_alt_domain")?,
            dns_recursors: fields.parsed_list("dns_recursors")?,
            dns_token_file: fields.parsed("dns_token_file")?,
            no_dns: fields.flag("no_dns")?.unwrap_or(false),
        })
    }

    /// Keeps what `over` says, and fills up with what this says.
    pub(super) fn under(self, over: Self) -> Self {
        Self {
            dns_port: over.dns_port.or(self.dns_port),
            dns_bind: over.dns_bind.or(self.dns_bind),
            dns_domain: over.dns_domain.or(self.dns_domain),
            dns_alt_domain: over.dns_alt_domain.or(self.dns_alt_domain),
            dns_recursors: if over.dns_recursors.is_empty() { self.dns_recursors } else { over.dns_recursors },
            dns_token_file: over.dns_token_file.or(self.dns_token_file),
            no_dns: over.no_dns || self.no_dns,
        }
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
            recursors: self.dns_recursors,
            token: token.map(|token| Secret::new(token.expose().trim())),
        }))
    }
}
