//! AWS Cloud Map and the mesh, both ways, through throttling, failures and lost answers.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Aws, CREDENTIALS, Fault, Mesh, PATIENCE, PROMISE_FACTOR, Process, eventually, output_within};

/// How soon a change on one side is seen on the other, at the interval that the story uses.
const SEEN: Duration = Duration::from_secs(6);
const LEASE: Duration = Duration::from_secs(5);

fn connector(mesh: &Mesh, aws: &Aws, name: &str) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(arguments(aws)).args(["--interval", "200ms", "--lease", "5s", "--no-admin"]);
    command
        .envs(CREDENTIALS)
        .env("WEFT_HTTP_ADDR", mesh.servers[0].http.to_string())
        .env("WEFT_HTTP_TOKEN", &mesh.token);
    Process::start(name, command, mesh.directory.path())
}

fn arguments(aws: &Aws) -> Vec<String> {
    let endpoint = aws.endpoint();
    let all =
        ["connector", "aws", "--export", "orders=shop", "--ecs-tasks", "--calls-max", "1", "--endpoint-url", &endpoint];
    all.iter().map(|one| (*one).to_owned()).collect()
}

fn get(mesh: &Mesh, path: &str) -> Value {
    mesh.servers[0].request("GET", path, &mesh.token, "").unwrap().json()
}

/// Returns the health of each instance of a service, by its address.
fn health(mesh: &Mesh, service: &str) -> Vec<String> {
    let entries = get(mesh, &format!("/v1/health/service/{service}"));
    let mut all: Vec<String> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let is_bad = entry["Checks"].as_array().unwrap().iter().any(|check| check["Status"] == "critical");
            format!("{} {}", entry["Node"]["Address"].as_str().unwrap(), if is_bad { "critical" } else { "passing" })
        })
        .collect();
    all.sort();
    all
}

#[track_caller]
fn settles(mesh: &Mesh, service: &str, want: &[&str]) {
    eventually(&format!("{service} to be {want:?}"), SEEN * PROMISE_FACTOR, || {
        (health(mesh, service) == want).then_some(())
    });
}

fn register(mesh: &Mesh, node: &str, address: &str, status: &str) {
    let id = format!("{node}-orders");
    let body = json!({
        "Node": node, "Address": address, "Service": {"ID": id, "Service": "orders", "Port": 80},
        "Check": {"CheckID": format!("c-{node}"), "Name": "up", "ServiceID": id, "Status": status},
    });
    let answer = mesh.servers[0].request("PUT", "/v1/catalog/register", &mesh.token, &body.to_string()).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn listed(mesh: &Mesh) -> Value {
    let all: Value = serde_json::from_str(&mesh.done(&["connector", "list", "--output", "json"])).unwrap();
    all[0].clone()
}

/// What plain boto3 is told by Cloud Map to call. Where an instance is registered once more, AWS replaces it, and moto has it
/// twice.
fn orders_by_boto3(aws: &Aws) -> String {
    aws.boto3(
        "client = made('servicediscovery')\n\
         try:\n    \
             found = client.discover_instances(NamespaceName='shop', ServiceName='orders', HealthStatus='HEALTHY')['Instances']\n\
         except client.exceptions.ServiceNotFound:\n    found = []\n\
         print(' '.join(sorted({one['Attributes']['AWS_INSTANCE_IPV4'] for one in found})))",
    )
}

fn shop(aws: &Aws) -> String {
    aws.cloud_map("CreateHttpNamespace", &json!({"Name": "shop", "CreatorRequestId": "1"}));
    let namespaces = aws.cloud_map("ListNamespaces", &json!({}));
    let namespace = namespaces["Namespaces"][0]["Id"].as_str().unwrap();
    let made =
        json!({"Name": "payments", "NamespaceId": namespace, "HealthCheckCustomConfig": {"FailureThreshold": 1}});
    aws.cloud_map("CreateService", &made)["Service"]["Id"].as_str().unwrap().to_owned()
}

fn add(aws: &Aws, service: &str, id: &str, address: &str) {
    let attributes = json!({"AWS_INSTANCE_IPV4": address, "AWS_INSTANCE_PORT": "8080"});
    aws.cloud_map("RegisterInstance", &json!({"ServiceId": service, "InstanceId": id, "Attributes": attributes}));
}

fn drop_instance(aws: &Aws, service: &str, id: &str) {
    aws.cloud_map("DeregisterInstance", &json!({"ServiceId": service, "InstanceId": id}));
}

/// Starts Cloud Map with a service `payments` of two instances, and a mesh of one server; returns what keeps the logs, too, and the
/// service's id.
fn begin(test: &str) -> Option<(TempDir, Aws, Mesh, String)> {
    let logs = TempDir::new().unwrap();
    let aws = Aws::start(test, logs.path())?;
    let mesh = Mesh::start(1);
    let payments = shop(&aws);
    add(&aws, &payments, "i-1", "10.9.0.1");
    add(&aws, &payments, "i-2", "10.9.0.2");
    Some((logs, aws, mesh, payments))
}

#[test]
fn m3_cloud_map_and_the_mesh_stay_in_step_through_throttling_failures_and_lost_answers() {
    let test = "m3_cloud_map_and_the_mesh_stay_in_step_through_throttling_failures_and_lost_answers";
    let Some((_logs, aws, mesh, payments)) = begin(test) else { return };
    register(&mesh, "vm-1", "10.1.0.1", "passing");
    register(&mesh, "vm-2", "10.1.0.2", "critical");
    let _connector = connector(&mesh, &aws, "connector-1");
    settles(&mesh, "payments", &["10.9.0.1 passing", "10.9.0.2 passing"]);
    eventually("boto3 to see the healthy instance only", SEEN * PROMISE_FACTOR, || {
        (orders_by_boto3(&aws) == "10.1.0.1").then_some(())
    });
    register(&mesh, "vm-2", "10.1.0.2", "passing");
    eventually("boto3 to see both", SEEN * PROMISE_FACTOR, || {
        (orders_by_boto3(&aws) == "10.1.0.1 10.1.0.2").then_some(())
    });
    let status = json!({"ServiceId": payments, "InstanceId": "i-2", "Status": "UNHEALTHY"});
    aws.cloud_map("UpdateInstanceCustomHealthStatus", &status);
    settles(&mesh, "payments", &["10.9.0.1 passing", "10.9.0.2 critical"]);
    assert_eq!(health(&mesh, "orders").len(), 2, "what went out does not come back");

    lists_that_fail_remove_nothing(&mesh, &aws, &payments);
    an_answer_that_is_lost_is_not_done_twice(&mesh, &aws);
    slow_answers_are_waited_for(&mesh, &aws, &payments);
    expired_credentials_are_said_and_survived(&mesh, &aws);
}

#[test]
fn a_plan_is_told_first_another_process_takes_over_and_what_would_go_in_masses_is_held() {
    let test = "a_plan_is_told_first_another_process_takes_over_and_what_would_go_in_masses_is_held";
    let Some((_logs, aws, mesh, payments)) = begin(test) else { return };
    aws.read_about_tasks();
    register(&mesh, "vm-1", "10.1.0.1", "passing");

    // What would change, before anything does.
    let planned = plan(&mesh, &aws);
    assert_eq!(planned["Catalog"].as_array().unwrap().len(), 2, "{planned}");
    assert_eq!(planned["CloudMap"][0]["Action"], "CreateService", "{planned}");
    assert_eq!(get(&mesh, "/v1/connectors"), json!([]), "a plan changes nothing");

    let mut first = connector(&mesh, &aws, "connector-1");
    settles(&mesh, "payments", &["10.9.0.1 passing", "10.9.0.2 passing"]);
    let holder = listed(&mesh)["Holder"].clone();
    let second = connector(&mesh, &aws, "connector-2");
    drop_instance(&aws, &payments, "i-2");
    settles(&mesh, "payments", &["10.9.0.1 passing"]);
    a_task_that_is_stopped_is_called_no_more(&mesh, &aws, &payments);

    first.kill();
    eventually("the other process to take over", LEASE * PROMISE_FACTOR, || {
        let now = listed(&mesh)["Holder"].clone();
        (now.is_string() && now != holder).then_some(())
    });
    add(&aws, &payments, "i-3", "10.9.0.3");
    settles(&mesh, "payments", &["10.9.0.1 passing", "10.9.0.3 passing"]);
    a_mass_removal_is_held_until_it_is_confirmed(&mesh, &aws, &payments);
    what_goes_out_does_not_hold_up_what_comes_in(&mesh, &aws, &payments);
    leaves_nothing_behind(&mesh, second);
}

fn plan(mesh: &Mesh, aws: &Aws) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(arguments(aws)).args(["--plan", "--output", "json"]).envs(CREDENTIALS);
    command.env("WEFT_HTTP_ADDR", mesh.servers[0].http.to_string()).env("WEFT_HTTP_TOKEN", &mesh.token);
    let output = output_within(&mut command, PATIENCE);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn degraded(mesh: &Mesh, want: &str) {
    eventually(&format!("`{want}` to be said"), SEEN * PROMISE_FACTOR, || {
        let problems = listed(mesh)["Problems"].to_string();
        problems.contains(want).then_some(())
    });
}

fn lists_that_fail_remove_nothing(mesh: &Mesh, aws: &Aws, payments: &str) {
    let faults = [(Fault::Truncate, "ListInstances"), (Fault::LosePage, "ListInstances"), (Fault::Fail, "Discover")];
    for (fault, call) in faults {
        is_well(mesh);
        aws.fault(call, fault);
        drop_instance(aws, payments, "i-2");
        degraded(mesh, "has not succeeded");
        assert_eq!(health(mesh, "payments").len(), 2, "{fault:?}: nothing goes by a list that is not whole");
        aws.heal();
        settles(mesh, "payments", &["10.9.0.1 passing"]);
        add(aws, payments, "i-2", "10.9.0.2");
        settles(mesh, "payments", &["10.9.0.1 passing", "10.9.0.2 passing"]);
    }
    drop_instance(aws, payments, "i-2");
    settles(mesh, "payments", &["10.9.0.1 passing"]);
}

fn an_answer_that_is_lost_is_not_done_twice(mesh: &Mesh, aws: &Aws) {
    aws.fault("RegisterInstance", Fault::LoseAnswer);
    let before = aws.calls("RegisterInstance");
    register(mesh, "vm-3", "10.1.0.3", "passing");
    eventually("the registration to be repeated", SEEN * PROMISE_FACTOR, || {
        (aws.calls("RegisterInstance") > before + 1).then_some(())
    });
    aws.heal();
    eventually("boto3 to see three", SEEN * PROMISE_FACTOR, || {
        (orders_by_boto3(aws) == "10.1.0.1 10.1.0.2 10.1.0.3").then_some(())
    });
}

fn slow_answers_are_waited_for(mesh: &Mesh, aws: &Aws, payments: &str) {
    aws.fault("ListInstances", Fault::Delay);
    add(aws, payments, "i-2", "10.9.0.2");
    settles(mesh, "payments", &["10.9.0.1 passing", "10.9.0.2 passing"]);
    is_well(mesh);
    aws.heal();
    drop_instance(aws, payments, "i-2");
    settles(mesh, "payments", &["10.9.0.1 passing"]);
}

fn expired_credentials_are_said_and_survived(mesh: &Mesh, aws: &Aws) {
    aws.fault("ListServices", Fault::Throttle);
    degraded(mesh, "ThrottlingException");
    aws.heal();
    aws.fault("", Fault::Expired);
    degraded(mesh, "ExpiredTokenException");
    assert_eq!(health(mesh, "payments"), ["10.9.0.1 passing"], "the last state is kept");
    aws.heal();
    is_well(mesh);
}

#[track_caller]
fn is_well(mesh: &Mesh) {
    eventually("all to be well", SEEN * PROMISE_FACTOR, || (listed(mesh)["Problems"] == json!([])).then_some(()));
}

/// Cloud Map still has what ECS registered there, and still calls it healthy.
fn a_task_that_is_stopped_is_called_no_more(mesh: &Mesh, aws: &Aws, payments: &str) {
    aws.keep_tasks();
    let ecs = "ecs, ec2 = made('ecs'), made('ec2')\n";
    let run = "ecs.create_cluster(clusterName='shop')\n\
        one = {'name': 'pay', 'image': 'pay', 'cpu': 256, 'memory': 512}\n\
        ecs.register_task_definition(family='pay', requiresCompatibilities=['FARGATE'], networkMode='awsvpc', cpu='256', \
            memory='512', containerDefinitions=[one])\n\
        group = ec2.describe_security_groups()['SecurityGroups'][0]['GroupId']\n\
        place = {'subnets': [ec2.describe_subnets()['Subnets'][0]['SubnetId']], 'securityGroups': [group]}\n\
        started = ecs.run_task(cluster='shop', taskDefinition='pay', launchType='FARGATE', \
            networkConfiguration={'awsvpcConfiguration': place})\n\
        print(started['tasks'][0]['taskArn'].rsplit('/', 1)[1])";
    let task = aws.boto3(&format!("{ecs}{run}"));
    let attributes = json!({"AWS_INSTANCE_IPV4": "10.9.0.9", "AWS_INSTANCE_PORT": "80", "ECS_CLUSTER_NAME": "shop"});
    aws.cloud_map("RegisterInstance", &json!({"ServiceId": payments, "InstanceId": task, "Attributes": attributes}));
    settles(mesh, "payments", &["10.9.0.1 passing", "10.9.0.9 passing"]);
    aws.boto3(&format!("{ecs}ecs.stop_task(cluster='shop', task='{task}')"));
    settles(mesh, "payments", &["10.9.0.1 passing", "10.9.0.9 critical"]);
    drop_instance(aws, payments, &task);
    settles(mesh, "payments", &["10.9.0.1 passing"]);
}

fn a_mass_removal_is_held_until_it_is_confirmed(mesh: &Mesh, aws: &Aws, payments: &str) {
    for number in 4..8 {
        add(aws, payments, &format!("i-{number}"), &format!("10.9.0.{number}"));
    }
    eventually("six to be there", SEEN * PROMISE_FACTOR, || (health(mesh, "payments").len() == 6).then_some(()));
    // They go together: nobody looks in between, and whoever was looking before has ended. Lists are asked for after changes only.
    aws.fault("Discover", Fault::Fail);
    degraded(mesh, "`discover_instances` has not succeeded");
    for number in [1, 3, 4, 5, 6] {
        drop_instance(aws, payments, &format!("i-{number}"));
    }
    aws.heal();
    degraded(mesh, "--removals 5");
    assert_eq!(health(mesh, "payments").len(), 6);
    let said = mesh.done(&["connector", "list"]);
    assert!(said.contains("held") && said.contains("5 nodes"), "{said}");
    mesh.done(&["connector", "confirm", "aws", "--removals", "5"]);
    eventually("what was confirmed to go", LEASE * PROMISE_FACTOR, || {
        (health(mesh, "payments") == ["10.9.0.7 passing"]).then_some(())
    });
}

fn what_goes_out_does_not_hold_up_what_comes_in(mesh: &Mesh, aws: &Aws, payments: &str) {
    // Each is tried several times before it is given up for now.
    aws.fault("RegisterInstance", Fault::Fail);
    for number in 20..40 {
        register(mesh, &format!("vm-{number}"), &format!("10.1.1.{number}"), "passing");
    }
    degraded(mesh, "`register_instance` has not succeeded");
    drop_instance(aws, payments, "i-7");
    settles(mesh, "payments", &[]);
    aws.heal();
}

fn leaves_nothing_behind(mesh: &Mesh, mut process: Process) {
    let refused = mesh.weft(&["connector", "remove", "aws"]);
    assert_eq!(refused.status, Some(2), "not while somebody runs it: {}", refused.stdout);
    assert_eq!(process.terminate(LEASE * PROMISE_FACTOR), Some(0));
    mesh.done(&["connector", "remove", "aws"]);
    assert_eq!(health(mesh, "payments"), [""; 0]);
    assert_eq!(mesh.done(&["connector", "list"]).trim(), "no connectors");
}
