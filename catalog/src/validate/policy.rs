//! The form of changes of policy.

use std::{collections::BTreeSet, time::Duration};

use super::{META_TEXT_MAX, bounded, check_intention, few};
use crate::{Intention, MeshEntry, PolicyChange, RELAXATION_MAX, Refusal, ServicePattern};

/// How many intentions toward one destination are written at once.
const INTENTIONS_MAX: usize = 1024;
/// How many guardrails there are at most: every agent weighs them all for every connection.
const GUARDRAILS_MAX: usize = 1024;
/// How many namespaces are in audit mode at most.
const AUDITED_MAX: usize = 1024;

pub(super) fn check(change: &PolicyChange) -> Result<(), Refusal> {
    match change {
        PolicyChange::Relax { reason, lasts_ms, .. } => {
            if reason.trim().is_empty() {
                return Err(Refusal::invalid("reason", "it is empty: say why, for the audit trail keeps it"));
            }
            bounded("reason", reason, META_TEXT_MAX)?;
            let lasts = Duration::from_millis(*lasts_ms);
            if lasts < Duration::from_secs(1) || lasts > RELAXATION_MAX {
                return Err(Refusal::invalid(
                    "for",
                    "it lasts for 1s to 24h: relax it again before it ends, if need be",
                ));
            }
            Ok(())
        }
        PolicyChange::TakeOver { intention, .. } => check_intention(intention),
        PolicyChange::WriteDestination { destination, intentions, .. } => check_destination(destination, intentions),
        PolicyChange::EndRelaxation { .. }
        | PolicyChange::DeleteOwned { .. }
        | PolicyChange::DeleteDestination { .. } => Ok(()),
    }
}

fn check_destination(destination: &ServicePattern, intentions: &[Intention]) -> Result<(), Refusal> {
    if intentions.is_empty() {
        return Err(Refusal::invalid("sources", "there are none: name at least one, or delete the entry"));
    }
    few("sources", intentions.len(), INTENTIONS_MAX)?;
    let mut sources = BTreeSet::new();
    for intention in intentions {
        if intention.destination != *destination {
            return Err(Refusal::invalid("sources", format!("{} is toward another destination", intention.key())));
        }
        if !sources.insert(&intention.source) {
            return Err(Refusal::invalid("sources", format!("{} stands twice", intention.source)));
        }
        check_intention(intention)?;
    }
    Ok(())
}

pub(super) fn check_mesh_entry(entry: &MeshEntry) -> Result<(), Refusal> {
    few("guardrails", entry.guardrails.len(), GUARDRAILS_MAX)?;
    few("audit.namespaces", entry.audit.namespaces.len(), AUDITED_MAX)?;
    let mut names = BTreeSet::new();
    for guardrail in &entry.guardrails {
        if guardrail.name.is_empty() {
            return Err(Refusal::invalid(
                "guardrails.name",
                "it is empty: name the guardrail, for explanations use it",
            ));
        }
        bounded("guardrails.name", &guardrail.name, META_TEXT_MAX)?;
        if !names.insert(&guardrail.name) {
            let problem = format!("`{}` stands twice: give each guardrail its own", guardrail.name.escape_debug());
            return Err(Refusal::invalid("guardrails.name", problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Command, Guardrail, RelaxedScope};

    #[track_caller]
    fn refused(command: &Command, field: &str) {
        match command.validate() {
            Err(Refusal::Invalid { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{other:?}"),
        }
    }

    fn relax(reason: &str, lasts_ms: u64) -> Command {
        Command::Policy {
            change: PolicyChange::Relax { scope: RelaxedScope::Mesh, reason: reason.to_owned(), lasts_ms },
        }
    }

    #[test]
    fn a_relaxation_says_why_and_ends_within_a_day() {
        let day = 24 * 60 * 60 * 1000;
        assert_eq!(relax("a broken rollout", 1000).validate(), Ok(()));
        assert_eq!(relax("a broken rollout", day).validate(), Ok(()));
        refused(&relax(" ", 1000), "reason");
        refused(&relax(&"x".repeat(513), 1000), "reason");
        for lasts_ms in [0, 999, day + 1, u64::MAX] {
            refused(&relax("a broken rollout", lasts_ms), "for");
        }
    }

    #[test]
    fn the_list_of_a_destination_names_each_source_once_and_no_other_destination() {
        let line = |source: &str, destination: &str| {
            Intention::new(source.parse().unwrap(), destination.parse().unwrap(), Action::Allow)
        };
        let write = |intentions: Vec<Intention>| Command::Policy {
            change: PolicyChange::WriteDestination {
                destination: "api".parse().unwrap(),
                owner: None,
                intentions,
                compare: None,
            },
        };
        assert_eq!(write(vec![line("web", "api"), line("*", "api")]).validate(), Ok(()));
        refused(&write(vec![]), "sources");
        refused(&write(vec![line("web", "api"), line("web", "api")]), "sources");
        refused(&write(vec![line("web", "db")]), "sources");
        refused(&write((0..1025).map(|number| line(&format!("s{number}"), "api")).collect()), "sources");
    }

    #[test]
    fn two_guardrails_of_one_name_could_not_be_told_apart() {
        let guardrail = |name: &str| Guardrail {
            name: name.to_owned(),
            source: "*/*".parse().unwrap(),
            destination: "api".parse().unwrap(),
        };
        let write =
            |guardrails| Command::WriteMesh { entry: MeshEntry { guardrails, ..MeshEntry::default() }, compare: None };
        assert_eq!(write(vec![guardrail("a"), guardrail("b")]).validate(), Ok(()));
        refused(&write(vec![guardrail("a"), guardrail("a")]), "guardrails.name");
        refused(&write(vec![guardrail("")]), "guardrails.name");
    }
}
