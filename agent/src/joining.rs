//! How a machine becomes a member of the mesh: what its agent finds when it starts, and the unit that runs it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use catalog::NodeName;
use wire::crypto::Secret;

use crate::users;

/// The unit that runs the agent.
pub const UNIT: &str = "weft-agent";

/// Is what an agent joins by.
#[derive(Debug)]
pub struct Joining {
    /// The node's name.
    pub node: NodeName,
    /// The servers' addresses for agents, as host:port.
    pub servers: Vec<String>,
    /// The join token, as it was made.
    pub token: Secret,
    /// Where the agent's settings are.
    pub directory: PathBuf,
    /// The user that the agent runs as, by name.
    pub user: String,
}

/// Names the files that an agent joins by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The agent's settings.
    pub settings: PathBuf,
    /// The join token's file.
    pub token: PathBuf,
}

/// Explains why a machine is not made ready to join.
#[derive(Debug, thiserror::Error)]
pub enum JoiningError {
    /// The machine does not say which users it has.
    #[error("cannot read `{}`, where `{user}` would stand", users::LIST)]
    Users {
        /// Who was looked for.
        user: String,
        /// Why.
        source: io::Error,
    },
    /// There is nobody of that name to get the token's file.
    #[error("there is no user `{user}`")]
    NoUser {
        /// Who was looked for.
        user: String,
    },
    /// A file could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no systemd to ask.
    #[error("cannot run `{command}`")]
    Run {
        /// What was to run.
        command: String,
        /// Why it did not.
        source: io::Error,
    },
    /// Systemd did not do it.
    #[error("`{command}` ended with {status}: {said}")]
    Unit {
        /// What ran.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        said: String,
    },
}

impl JoiningError {
    /// Says what to do, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoUser { .. } => Some("name the agent's user with --user"),
            Self::Users { .. } | Self::Write { .. } => None,
            Self::Run { .. } | Self::Unit { .. } => Some("start the agent by hand, as `weft join --no-start` says"),
        }
    }
}

impl Joining {
    /// Writes the agent's settings, and the token for its user alone.
    ///
    /// # Errors
    ///
    /// [`JoiningError::Users`], [`JoiningError::NoUser`] and [`JoiningError::Write`]; what was written before stays.
    pub fn write(&self) -> Result<Written, JoiningError> {
        let written = Written { settings: self.directory.join("join.hcl"), token: self.directory.join("join-token") };
        let is_root = rustix::process::geteuid().is_root();
        // Whoever is not root can write its own files only.
        let owner = is_root.then(|| self.owner()).transpose()?;
        let token = Secret::new(format!("{}\n", self.token.expose()));
        replace(&written.token, token.expose(), 0o600, owner)?;
        replace(&written.settings, &self.settings(&written.token), 0o644, None)?;
        Ok(written)
    }

    /// Returns the numbers of the user who is to own the token's file, and of its group.
    fn owner(&self) -> Result<(u32, u32), JoiningError> {
        let user = || wire::harmless(&self.user).to_string();
        match users::numbers_of(&self.user) {
            Ok(Some(numbers)) => Ok(numbers),
            Ok(None) => Err(JoiningError::NoUser { user: user() }),
            Err(source) => Err(JoiningError::Users { user: user(), source }),
        }
    }

    fn settings(&self, token: &Path) -> String {
        let servers: Vec<String> = self.servers.iter().map(|server| format!("{server:?}")).collect();
        format!(
            "# Written by `weft join`.\nnode            = \"{}\"\nservers         = [{}]\njoin_token_file = {:?}\n",
            self.node,
            servers.join(", "),
            token.display().to_string(),
        )
    }
}

/// Has systemd run the agent from now on, and begin anew with what was written.
///
/// # Errors
///
/// [`JoiningError::Run`] and [`JoiningError::Unit`].
pub fn start_unit() -> Result<(), JoiningError> {
    systemctl(&["enable", UNIT])?;
    // An agent that runs already reads the new token only when it starts.
    systemctl(&["restart", "--no-block", UNIT])
}

fn replace(path: &Path, content: &str, mode: u32, owner: Option<(u32, u32)>) -> Result<(), JoiningError> {
    wire::replace_file(path, content.as_bytes(), mode, owner)
        .map_err(|source| JoiningError::Write { path: path.to_owned(), source })
}

fn systemctl(arguments: &[&str]) -> Result<(), JoiningError> {
    let command = format!("systemctl {}", arguments.join(" "));
    let ran = match Command::new("systemctl").args(arguments).output() {
        Ok(ran) => ran,
        Err(source) => return Err(JoiningError::Run { command, source }),
    };
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    Err(JoiningError::Unit { command, status: ran.status, said })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_settings_name_the_token_that_nobody_else_reads() {
        let directory = tempfile::tempdir().unwrap();
        let root = std::fs::read_to_string("/etc/passwd").unwrap();
        let user = root.split(':').next().unwrap().to_owned();
        let joining = Joining {
            node: "vm-1".parse().unwrap(),
            servers: vec!["10.0.0.1:8300".to_owned(), "[fd00::1]:8300".to_owned()],
            token: Secret::new("the token"),
            directory: directory.path().to_owned(),
            user,
        };
        let written = joining.write().unwrap();
        assert_eq!(std::fs::read_to_string(&written.token).unwrap(), "the token\n");
        assert_eq!(std::fs::metadata(&written.token).unwrap().permissions().mode() & 0o777, 0o600);
        let settings = std::fs::read_to_string(&written.settings).unwrap();
        assert!(settings.contains("servers         = [\"10.0.0.1:8300\", \"[fd00::1]:8300\"]"), "{settings}");
        assert!(settings.contains(&format!("join_token_file = {:?}", written.token.display().to_string())));
        assert!(!settings.contains("the token"));
    }

    #[test]
    fn what_could_not_be_written_is_named() {
        let joining = Joining {
            node: "vm-1".parse().unwrap(),
            servers: Vec::new(),
            token: Secret::new("the token"),
            directory: "/nowhere/at/all".into(),
            user: std::fs::read_to_string("/etc/passwd").unwrap().split(':').next().unwrap().to_owned(),
        };
        let error = joining.write().unwrap_err();
        assert_eq!(error.to_string(), "cannot write `/nowhere/at/all/join-token`");
    }
}
