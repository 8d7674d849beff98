//! What ECS says of the tasks behind instances that it registered: a task that is ending serves nobody any more, whatever
//! Cloud Map still says.

use std::collections::BTreeMap;

use aws_sdk_ecs::{
    Client,
    types::{HealthStatus, Task},
};

use super::{
    budget::{Api, Budget},
    client::degraded,
    view::CloudView,
};

/// How many tasks one call asks about at most.
const TASKS_MAX: usize = 100;

/// Asks about every task that an instance stands for, and notes those that do not serve.
pub(super) async fn look(client: &Client, budget: &Budget, view: &mut CloudView) {
    for (cluster, tasks) in tasks(view) {
        for some in tasks.chunks(TASKS_MAX) {
            let call = || client.describe_tasks().cluster(&cluster).set_tasks(Some(some.to_vec())).send();
            match budget.call(Api::DescribeTasks, call).await {
                Ok(answer) => view.ended_tasks.extend(answer.tasks().iter().filter_map(ended)),
                Err(error) => {
                    view.problems.push(degraded(&format!("ECS cluster {cluster}"), &error));
                    break;
                }
            }
        }
    }
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

/// Returns the task's id and why it does not serve; none where it does.
fn ended(task: &Task) -> Option<(String, String)> {
    let id = task.task_arn()?.rsplit('/').next()?.to_owned();
    let (status, desired) = (task.last_status().unwrap_or_default(), task.desired_status().unwrap_or_default());
    if desired == "STOPPED" || !matches!(status, "RUNNING" | "ACTIVATING" | "PENDING" | "PROVISIONING") {
        return Some((id, format!("the task is {status}, and to be {desired}")));
    }
    let is_ill = matches!(task.health_status(), Some(HealthStatus::Unhealthy));
    is_ill.then(|| (id, "its essential containers are UNHEALTHY".to_owned()))
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
            assert_eq!(ended(&task).map(|(id, _)| id), ends.then(|| "0123abcd".to_owned()), "{status} {desired}");
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
}
