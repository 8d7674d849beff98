//! A backup, taken and restored while everything else is at rest: what was done since is undone, and nobody who lives is cut.

use std::time::Duration;

use catalog::{Action, AuditHash, BackupStep, Catalog, Command, IntentionKey, RequestId};

use super::checks::{Checked, check};
use super::mesh::Mesh;
use super::operator::intend;
use super::streams::StreamEvent;

/// How long agents may take until they are in step with what was restored.
const RECOVERY: Duration = Duration::from_secs(120);
/// How large the pieces are that a backup goes through the log in.
const PIECE_BYTES: usize = 48 * 1024;
/// What is written after the backup was taken.
const SINCE: (&str, &str) = ("caller-since-the-backup", "api");

impl Mesh {
    /// In some runs, the operator restores a backup in the end.
    pub(super) fn a_backup_is_restored(&mut self) -> Checked {
        if !self.plan.has_policy || !self.random.happens(30) {
            return Ok(());
        }
        let Some(taken) = self.streams.newest().map(Catalog::for_backup) else { return Ok(()) };
        let since = intend(SINCE.0, SINCE.1, Action::Deny);
        let Command::WriteIntention { intention, .. } = &since else { return Ok(()) };
        let since_key = intention.key();
        self.operator_does([since])?;
        check!(self.has(&since_key), "what the operator wrote is nowhere");
        self.operator_does(steps(&taken))?;
        check!(!self.has(&since_key), "what was written after a backup was taken outlived its being restored");
        *self.summary.steps.entry("a backup is restored").or_default() += 1;
        for server in self.servers.values() {
            let Some(room) = server.room() else { continue };
            self.checks.applied(server.id, room.catalog(), true)?;
            self.checks.kept(server.id, room.catalog())?;
        }
        Ok(())
    }

    /// Lets the operator do all of this, one after the other, and everybody come into step with it.
    fn operator_does(&mut self, commands: impl IntoIterator<Item = Command>) -> Checked {
        commands.into_iter().for_each(|command| self.streams.operator.push(command));
        self.plan_stream(Duration::ZERO, StreamEvent::Operator);
        self.run_for(Duration::from_secs(1))?;
        self.come_into_step(RECOVERY)
    }

    fn has(&self, intention: &IntentionKey) -> bool {
        self.streams.newest().is_some_and(|catalog| catalog.intention(intention).is_some())
    }
}

/// Returns what a restore of this catalog is made of.
fn steps(catalog: &Catalog) -> Vec<Command> {
    let state = String::from_utf8(catalog.snapshot()).expect("a catalog is written as text");
    let upload = || "restore-1".parse::<RequestId>().expect("it is a request id");
    let sha256 = AuditHash(wire::crypto::sha256(state.as_bytes()));
    let begin = BackupStep::Begin { upload: upload(), bytes: state.len() as u64, sha256 };
    let mut pieces = Vec::new();
    let mut rest = state.as_str();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
        let offset = (state.len() - rest.len()) as u64;
        pieces.push(BackupStep::Piece { upload: upload(), offset, text: piece.to_owned() });
        rest = after;
    }
    let commit = BackupStep::Commit { upload: upload(), other_cluster: false, form: None };
    let all = std::iter::once(begin).chain(pieces).chain([commit]);
    all.map(|step| Command::Backup { step }).collect()
}
