//! What ECS says of the tasks behind instances that it registered: a task that is ending serves nobody any more, whatever
//! Cloud Map still says.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ecs::{
    Client,
    types::{Failure, HealthStatus, Task},
};

use super::{
    budget::{Api, Budget},
    client::degraded,
    view::{CloudView, TaskWord},
};

/// How many tasks one call asks about at most.
const TASKS_MAX: usize = 100;

/// Asks about every task that an instance stands for. `words` is what ECS has said so far: where it says nothing now, that
/// still holds, for a task that has ended does not come back.
pub(super) async fn look(
    client: &Client,
    budget: &Budget,
    words: &mut BTreeMap<String, TaskWord>,
    view: &mut CloudView,
) {
    let mut asked = tasks(view);
    let mut elsewhere = Vec::new();
    for (cluster, tasks) in &asked {
        for some in tasks.chunks(TASKS_MAX) {
            let call = || client.describe_tasks().cluster(cluster).set_tasks(Some(some.to_vec())).send();
            match budget.call(Api::DescribeTasks, call).await {
                Ok(answer) => words.extend(said(answer.tasks(), answer.failures())),
                Err(error) => {
                    if error.has_code("ClusterNotFoundException") {
                        elsewhere.push(cluster.clone());
                    }
                    view.problems.push(degraded(&format!("ECS cluster {cluster}"), &error));
                    break;
                }
            }
        }
    }
    // A cluster of another account: Cloud Map alone knows of its tasks.
    elsewhere.iter().for_each(|cluster| drop(asked.remove(cluster)));
    let ids: BTreeSet<String> = asked.into_values().flatten().collect();
    words.retain(|id, _| ids.contains(id));
    let word = |id: String| (id.clone(), words.get(&id).cloned().unwrap_or(TaskWord::Unknown));
    view.tasks = ids.into_iter().map(word).collect();
}

/// Reads what an answer says of each task; one that ECS does not know has ended.
fn said(tasks: &[Task], failures: &[Failure]) -> Vec<(String, TaskWord)> {
    let told = tasks.iter().filter_map(word);
    let missing = failures.iter().filter(|failure| failure.reason() == Some("MISSING")).filter_map(|failure| {
        let why = "ECS knows no such task".to_owned();
        Some((failure.arn()?.rsplit('/').next()?.to_owned(), TaskWord::Ended(why)))
    });
    told.chain(missing).collect()
}

/// Returns the tasks by cluster. ECS names an instance as its task.
fn tasks(view: &CloudView) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for instance in view.services.iter().flat_map(|service| service.instances.iter().flatten()) {
        if let Some(cluster) = instance.attributes.get("ECS_CLUSTER_NAME") {
            found.entry(cluster.clone()).or_default().push(instance.id.clone());
        }
    }
    found
}

/// Returns the task's id, and whether it serves.
fn word(task: &Task) -> Option<(String, TaskWord)> {
    let id = task.task_arn()?.rsplit('/').next()?.to_owned();
    let (status, desired) = (task.last_status().unwrap_or_default(), task.desired_status().unwrap_or_default());
    if desired == "STOPPED" || !matches!(status, "RUNNING" | "ACTIVATING" | "PENDING" | "PROVISIONING") {
        return Some((id, TaskWord::Ended(format!("the task is {status}, and to be {desired}"))));
    }
    let is_ill = matches!(task.health_status(), Some(HealthStatus::Unhealthy));
    let ill = || TaskWord::Ended("its essential containers are UNHEALTHY".to_owned());
    Some((id, if is_ill { ill() } else { TaskWord::Serves }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m4_a_task_that_is_ending_or_ill_serves_nobody_and_one_that_starts_is_left_to_its_health() {
        #[track_caller]
        fn check(status: &str, desired: &str, health: HealthStatus, ends: bool) {
            let task = Task::builder()
                .task_arn("arn:aws:ecs:eu-west-1:123456789012:task/shop/0123abcd")
                .last_status(status)
                .desired_status(desired)
                .health_status(health)
                .build();
            let (id, word) = word(&task).unwrap();
            assert_eq!((id.as_str(), word != TaskWord::Serves), ("0123abcd", ends), "{status} {desired}");
        }
        check("RUNNING", "RUNNING", HealthStatus::Healthy, false);
        check("RUNNING", "RUNNING", HealthStatus::from("UNKNOWN"), false);
        check("PENDING", "RUNNING", HealthStatus::from("UNKNOWN"), false);
        check("RUNNING", "RUNNING", HealthStatus::Unhealthy, true);
        check("RUNNING", "STOPPED", HealthStatus::Healthy, true);
        for status in ["DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED", "DELETED"] {
            check(status, "STOPPED", HealthStatus::from("UNKNOWN"), true);
            check(status, "RUNNING", HealthStatus::Healthy, true);
        }
    }

    #[test]
    fn m4_a_task_that_ecs_does_not_know_has_ended_and_one_that_it_cannot_tell_of_has_no_word() {
        let failure = |id: &str, reason: &str| {
            Failure::builder().arn(format!("arn:aws:ecs:eu-west-1:1:task/shop/{id}")).reason(reason).build()
        };
        let words = said(&[], &[failure("a", "MISSING"), failure("b", "ACCESS_DENIED")]);
        assert_eq!(words, [("a".to_owned(), TaskWord::Ended("ECS knows no such task".to_owned()))]);
    }
}
