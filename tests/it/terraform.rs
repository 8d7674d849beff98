//! The Terraform modules: what needs no provider is planned and tested, the rest is read and judged, and what both make of a
//! task is shown to ECS's own model.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::harness::python;
use crate::packaging::{copy, entries, optional_tool, root, succeed};

/// Runs terraform in an environment of its own, so that nobody's settings or variables change the outcome, and no network is
/// needed.
fn terraform(program: &Path, directory: &Path, arguments: &str) -> Command {
    let mut command = Command::new(program);
    let home = directory.parent().unwrap();
    command.arg(format!("-chdir={}", directory.display())).args(arguments.split(' ')).arg("-no-color").env_clear();
    command.env("HOME", home).env("TF_CLI_CONFIG_FILE", "/dev/null").env("TF_DATA_DIR", home.join("data"));
    command.env("CHECKPOINT_DISABLE", "1");
    command
}

/// Reports whether a module names a provider, which nobody can load without a network.
fn needs_a_provider(module: &Path) -> bool {
    let texts = entries(module).into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "tf"));
    texts.into_iter().any(|path| fs::read_to_string(path).unwrap().contains("required_providers"))
}

fn modules() -> Vec<PathBuf> {
    ["terraform/modules", "terraform/examples"].iter().flat_map(|folder| entries(&root().join(folder))).collect()
}

#[test]
fn terraform_modules_are_valid_tidy_and_pass_their_own_tests() {
    let test = "terraform_modules_are_valid_tidy_and_pass_their_own_tests";
    let Some(program) = optional_tool("terraform", test) else { return };
    for module in modules() {
        // A copy, for terraform writes beside what it reads.
        let directory = tempfile::tempdir().unwrap();
        let copied = directory.path().join("module");
        copy(&module, &copied);
        let all = ["fmt -check -diff -recursive", "init -input=false", "validate", "test"];
        for arguments in if needs_a_provider(&module) { &all[..1] } else { &all[..] } {
            succeed(&mut terraform(&program, &copied, arguments));
        }
    }
}

/// Reads a module as data: every block by its type, labels and body.
fn parsed(python: &Path, module: &Path) -> Value {
    let script = "import glob, hcl2, json, sys\n\
        print(json.dumps([hcl2.load(open(path)) for path in sorted(glob.glob(sys.argv[1] + '/*.tf'))]))";
    let output = Command::new(python).args(["-c", script]).arg(module).output().unwrap();
    assert!(output.status.success(), "{}: {}", module.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn l9_the_modules_let_in_only_what_is_named_and_grant_no_more_than_they_need() {
    let test = "l9_the_modules_let_in_only_what_is_named_and_grant_no_more_than_they_need";
    let Some(python) = python("hcl2", test) else { return };
    for module in modules() {
        let text = parsed(&python, &module).to_string();
        assert!(!text.contains("\"*:*\"") && !text.contains("AdministratorAccess"), "{}", module.display());
    }
    let text = |module: &str| {
        let path = root().join("terraform/modules").join(module).join("main.tf");
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(str::trim).collect::<Vec<_>>().join("\n")
    };
    let (task, server) = (text("mesh-task"), text("server"));
    let ingress = |text: &str| text.matches("resource \"aws_vpc_security_group_ingress_rule\"").count();
    assert_eq!((ingress(&task), ingress(&server)), (1, 4), "a task lets in the mesh port and nothing else");
    assert!(task.contains("from_port                    = module.agent.mesh_port"));
    assert!(!task.contains("ingress {") && !server.contains("ingress {"), "no rule hides in a group");
    // What is allowed is named; a star stands in a denial only.
    let stars = |text: &str| text.matches("actions   = [\"*\"]").count();
    assert_eq!((stars(&task), stars(&server)), (0, 1));
    assert!(server.contains("effect    = \"Deny\"\nactions   = [\"*\"]"), "{server}");
    assert!(server.contains("transit_encryption = \"ENABLED\"") && server.contains("encrypted  = true"));
}

/// Has terraform compute a module's outputs, which needs no account.
fn outputs(program: &Path, module: &str, inputs: &Value) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let rooted = directory.path().join("root");
    copy(&root().join("terraform/modules").join(module), &rooted);
    fs::write(rooted.join("inputs.auto.tfvars.json"), inputs.to_string()).unwrap();
    succeed(&mut terraform(program, &rooted, "init -input=false"));
    succeed(&mut terraform(program, &rooted, "apply -auto-approve -input=false"));
    let output = terraform(program, &rooted, "output -json").output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_the_modules_make_of_a_task_is_what_ecs_takes() {
    let test = "what_the_modules_make_of_a_task_is_what_ecs_takes";
    let Some(program) = optional_tool("terraform", test) else { return };
    let Some(python) = python("moto, boto3", test) else { return };
    let image = "registry.example/weft@sha256:00";
    let log = json!({"logDriver": "awslogs", "options": {"awslogs-group": "weft"}});
    let agent = outputs(
        &program,
        "agent-container",
        &json!({
            "image": image, "servers": ["weft.internal:8300"], "root_fingerprints": ["a".repeat(64)], "service_name": "web",
            "service_port": 8080, "upstreams": [{"destination_name": "api", "local_bind_port": 9191}],
            "log_configuration": log, "container_definitions": [{"name": "web", "image": "registry.example/web", "essential": true}],
        }),
    );
    let key = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:weft";
    let servers = outputs(
        &program,
        "server-container",
        &json!({
            "image": image, "dns_namespace": "weft.internal", "cluster_key_arn": key, "log_configuration": log,
        }),
    );
    let task = |family: &str, containers: &Value, volumes: Value| {
        json!({"family": family, "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"], "cpu": "256",
            "memory": "512", "containerDefinitions": containers, "volumes": volumes})
    };
    let server = json!([servers["containers"]["value"]["weft-1"]]);
    let tasks = json!([
        task("web", &agent["container_definitions"]["value"], json!([])),
        task("weft-1", &server, json!([{"name": servers["volume_name"]["value"]}])),
    ]);
    // boto3 refuses a field or a type that ECS's model does not have, before moto sees anything.
    let script = "import boto3, json, moto, sys\n\
        with moto.mock_aws():\n \
         ecs = boto3.client('ecs', region_name='eu-west-1')\n \
         for task in json.load(sys.stdin):\n  \
          made = ecs.register_task_definition(**task)['taskDefinition']\n  \
          print(made['family'], made['status'], len(made['containerDefinitions']))";
    let mut command = Command::new(python);
    command.args(["-c", script]).envs(crate::harness::CREDENTIALS);
    let said = with_input(command, &tasks.to_string());
    assert_eq!(said, "web ACTIVE 2\nweft-1 ACTIVE 1\n");
    // And the agent takes what it is told.
    let config = agent["config"]["value"].as_str().unwrap();
    let config: Value = serde_json::from_str(config).unwrap();
    assert_eq!((&config["service"]["name"], &config["auth_method"]), (&json!("web"), &json!("aws")));
}

/// Runs a program that must succeed and reads its input; returns what it printed.
#[track_caller]
fn with_input(mut command: Command, input: &str) -> String {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
