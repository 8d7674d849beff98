//! The Terraform modules: what needs no provider is planned and tested, the rest is read and judged, and what both make of a
//! task is registered by ECS's own SDK.

mod sdk;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::harness::{
    Moto, PATIENCE, copy, entries, free_port, optional_tool, output_within, python, root, succeed, weft,
};

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

/// Reads modules as data, by their folders: every block by its type, labels and body; texts and names without the quotes that
/// they are written in.
fn parsed(python: &Path, modules: &[PathBuf]) -> BTreeMap<PathBuf, Value> {
    let script = "import glob, hcl2, json, sys\n\
        def plain(it):\n \
         if isinstance(it, dict): return {plain(name): plain(value) for name, value in it.items() if not name.startswith('__')}\n \
         if isinstance(it, list): return [plain(one) for one in it]\n \
         return it.strip('\"') if isinstance(it, str) else it\n\
        def read(module): return [plain(hcl2.load(open(path))) for path in sorted(glob.glob(module + '/*.tf'))]\n\
        print(json.dumps({module: read(module) for module in sys.argv[1:]}))";
    let output = output_within(Command::new(python).args(["-c", script]).args(modules), PATIENCE);
    assert!(output.status.success(), "{modules:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the bodies of all blocks of this type with this first label, `resource` and `aws_iam_role` say, by their names.
fn blocks(module: &Value, kind: &str, label: &str) -> BTreeMap<String, Value> {
    let all = module.as_array().unwrap().iter().filter_map(|file| file[kind].as_array()).flatten();
    all.filter_map(|block| block[label].as_object())
        .flatten()
        .map(|(name, body)| (name.clone(), body.clone()))
        .collect()
}

/// Gathers the statements of policies, wherever they stand: objects that name actions.
fn statements(within: &Value, found: &mut Vec<Value>) {
    match within {
        Value::Object(fields) => {
            if fields.contains_key("actions") {
                found.push(within.clone());
            }
            fields.values().for_each(|value| statements(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| statements(item, found)),
        _ => {}
    }
}

/// Returns what a module's policies say: whether it is allowed, what, and on what.
fn grants(module: &Value) -> BTreeSet<(String, String, String)> {
    let mut found = Vec::new();
    statements(module, &mut found);
    let texts = |value: &Value| {
        value.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let one = |statement: &Value| {
        let effect = statement["effect"].as_str().unwrap_or("Allow").to_owned();
        let resources =
            if statement["resources"].is_null() { String::new() } else { texts(&statement["resources"]).join(" ") };
        texts(&statement["actions"])
            .into_iter()
            .map(move |action| (effect.clone(), action, resources.clone()))
            .collect::<Vec<_>>()
    };
    found.iter().flat_map(one).collect()
}

/// Returns the bodies of all blocks of this type that have one label, by that.
fn labelled(module: &Value, kind: &str) -> BTreeMap<String, Value> {
    let all = module.as_array().unwrap().iter().filter_map(|file| file[kind].as_array()).flatten();
    all.filter_map(Value::as_object).flatten().map(|(name, body)| (name.clone(), body.clone())).collect()
}

#[test]
fn every_call_of_a_module_says_what_the_module_asks_and_no_more() {
    let test = "every_call_of_a_module_says_what_the_module_asks_and_no_more";
    let Some(python) = python("hcl2", test) else { return };
    let modules: Vec<_> = modules().into_iter().map(|module| module.canonicalize().unwrap()).collect();
    let (mut calls, modules) = (0, parsed(&python, &modules));
    for (folder, module) in &modules {
        for (name, call) in labelled(module, "module") {
            let source = call["source"].as_str().unwrap();
            let variables = labelled(&modules[&folder.join(source).canonicalize().unwrap()], "variable");
            assert!(!variables.is_empty(), "{}: {source}", folder.display());
            let said: BTreeSet<&str> = call.as_object().unwrap().keys().map(String::as_str).collect();
            let about_the_call = ["source", "version", "providers", "count", "for_each", "depends_on"];
            for argument in said.iter().filter(|argument| !about_the_call.contains(argument)) {
                assert!(variables.contains_key(*argument), "{}: {name} has no {argument}", folder.display());
            }
            for (variable, body) in variables {
                let is_asked = body.get("default").is_none();
                assert!(!is_asked || said.contains(&*variable), "{}: {name} wants {variable}", folder.display());
            }
            calls += 1;
        }
    }
    assert!(calls >= 8, "{calls} calls were found");
}

#[test]
fn l9_the_modules_let_in_only_what_is_named_and_grant_no_more_than_they_need() {
    let test = "l9_the_modules_let_in_only_what_is_named_and_grant_no_more_than_they_need";
    let Some(python) = python("hcl2", test) else { return };
    let [task, server] = ["mesh-task", "server"].map(|module| root().join("terraform/modules").join(module));
    let modules = parsed(&python, &[task.clone(), server.clone()]);
    let (task, server) = (&modules[&task], &modules[&server]);
    let named = |grants: &[(&str, &str, &str)]| -> BTreeSet<_> {
        grants.iter().map(|(effect, what, on)| ((*effect).to_owned(), (*what).to_owned(), (*on).to_owned())).collect()
    };

    // What is allowed, by name and on what; the only star stands in a denial.
    assert_eq!(grants(task), named(&[("Allow", "sts:AssumeRole", "")]));
    let disk = "${aws_efs_file_system.data.arn}";
    let wanted = [
        ("Allow", "sts:AssumeRole", ""),
        ("Allow", "secretsmanager:GetSecretValue", "${var.group.cluster_key_arn}"),
        ("Allow", "kms:Decrypt", "${statement.value}"),
        ("Allow", "elasticfilesystem:ClientMount", disk),
        ("Allow", "elasticfilesystem:ClientWrite", disk),
        ("Deny", "*", disk),
    ];
    assert_eq!(grants(server), named(&wanted));
    let attached = |module: &Value| -> Vec<String> {
        let all = blocks(module, "resource", "aws_iam_role_policy_attachment").into_values();
        all.map(|attached| attached["for_each"].as_str().or(attached["policy_arn"].as_str()).unwrap().to_owned())
            .collect()
    };
    let starts_tasks = ":iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy";
    assert!(attached(server).iter().all(|policy| policy.ends_with(starts_tasks)), "{:?}", attached(server));
    let of_operators =
        |policy: &String| policy.contains("var.additional_task_role_policies") || policy.contains(starts_tasks);
    assert!(attached(task).iter().all(of_operators), "{:?}", attached(task));

    // The role is named as the binding rules of the manual make it the service, and told as the auth method takes it.
    let roles = blocks(task, "resource", "aws_iam_role");
    let locals = task.as_array().unwrap().iter().filter_map(|file| file["locals"].as_array()).flatten();
    let named_so = locals.filter_map(|locals| locals["role_name"].as_str()).collect::<Vec<_>>();
    assert_eq!(roles["task"]["name"], "${local.role_name}");
    assert!(named_so.len() == 1 && named_so[0].contains("var.agent.service"), "{named_so:?}");
    let told = &labelled(task, "output")["principal_arn"]["value"];
    assert!(told.as_str().unwrap().contains("var.iam_role_path"), "{told}");

    // Who is let in, at which port: nothing has an address of its own, and no rule hides in a group.
    let let_in = |module: &Value| -> BTreeMap<String, (String, String)> {
        let rules = blocks(module, "resource", "aws_vpc_security_group_ingress_rule").into_iter();
        rules
            .map(|(name, rule)| {
                assert_eq!(
                    (&rule["from_port"], rule["ip_protocol"].as_str()),
                    (&rule["to_port"], Some("tcp")),
                    "{rule}"
                );
                let sources = ["referenced_security_group_id", "cidr_ipv4", "cidr_ipv6"];
                let sources: Vec<&str> = sources.iter().filter_map(|source| rule[*source].as_str()).collect();
                let port = rule["from_port"].as_str().map_or_else(|| rule["from_port"].to_string(), str::to_owned);
                (name, (port, sources.join(" ")))
            })
            .collect()
    };
    let each = "${each.value.security_group_id} ${each.value.cidr_ipv4} ${each.value.cidr_ipv6}";
    let servers = "${aws_security_group.servers.id}";
    let rules = |rules: &[(&str, &str, &str)]| -> BTreeMap<String, (String, String)> {
        rules.iter().map(|(name, port, from)| ((*name).to_owned(), ((*port).to_owned(), (*from).to_owned()))).collect()
    };
    assert_eq!(let_in(task), rules(&[("mesh", "${var.agent.mesh_port}", each)]));
    let wanted = [
        ("raft", "${var.group.ports.raft}", servers),
        ("clients", "${each.value.port}", each),
        ("data", "2049", servers),
    ];
    assert_eq!(let_in(server), rules(&wanted));
    for module in [task, server] {
        for (name, group) in blocks(module, "resource", "aws_security_group") {
            assert!(group.get("ingress").is_none(), "{name}: {group}");
        }
    }
    let disk = &blocks(server, "resource", "aws_efs_file_system")["data"];
    assert_eq!(disk["encrypted"], json!(true));
    let tasks = &blocks(server, "resource", "aws_ecs_task_definition")["server"];
    assert_eq!(tasks["volume"][0]["efs_volume_configuration"][0]["transit_encryption"], "ENABLED");
    for module in [task, server] {
        let assume = &blocks(module, "data", "aws_iam_policy_document")["assume"]["statement"][0];
        assert_eq!(assume["principals"][0]["identifiers"], json!(["ecs-tasks.amazonaws.com"]));
        let condition = &assume["condition"][0];
        assert_eq!((&condition["test"], &condition["variable"]), (&json!("StringEquals"), &json!("aws:SourceAccount")));
        assert_eq!(condition["values"], json!(["${data.aws_caller_identity.current.account_id}"]));
    }
}

#[test]
fn servers_on_fargate_lie_apart_and_are_changed_one_by_one() {
    let test = "servers_on_fargate_lie_apart_and_are_changed_one_by_one";
    let Some(python) = python("hcl2", test) else { return };
    let server = root().join("terraform/modules/server");
    let server = &parsed(&python, std::slice::from_ref(&server))[&server];
    let service = &blocks(server, "resource", "aws_ecs_service")["server"];
    assert_eq!(service["wait_for_steady_state"], json!(true));
    assert_eq!(service["network_configuration"][0]["subnets"], json!(["${local.subnet_of[each.key]}"]));
    // Never two tasks on one disk.
    assert_eq!(service["deployment_maximum_percent"], json!(100));

    // The one line that places them, computed by terraform itself.
    let Some(program) = optional_tool("terraform", test) else { return };
    let text = fs::read_to_string(root().join("terraform/modules/server/main.tf")).unwrap();
    let line = text.lines().find(|line| line.trim_start().starts_with("subnet_of =")).unwrap();
    let module = "variable \"group\" { type = object({ names = list(string) }) }\n\
        variable \"subnet_ids\" { type = list(string) }\n\
        output \"subnet_of\" { value = local.subnet_of }\n";
    for (subnets, want) in [
        (json!(["a", "b", "c"]), json!({"weft-1": "a", "weft-2": "b", "weft-3": "c"})),
        (json!(["a", "b"]), json!({"weft-1": "a", "weft-2": "b", "weft-3": "a"})),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let rooted = directory.path().join("root");
        fs::create_dir(&rooted).unwrap();
        fs::write(rooted.join("main.tf"), format!("{module}locals {{\n{line}\n}}\n")).unwrap();
        let inputs = json!({"group": {"names": ["weft-1", "weft-2", "weft-3"]}, "subnet_ids": subnets});
        assert_eq!(applied(&program, &rooted, &inputs)["subnet_of"]["value"], want);
    }
}

#[test]
fn every_example_keeps_a_log_and_lets_agents_reach_the_servers() {
    let test = "every_example_keeps_a_log_and_lets_agents_reach_the_servers";
    let Some(python) = python("hcl2", test) else { return };
    let examples = entries(&root().join("terraform/examples"));
    let mut containers = 0;
    let parsed = parsed(&python, &examples);
    for (folder, example) in &parsed {
        assert!(blocks(example, "resource", "aws_cloudwatch_log_group").contains_key("this"), "{}", folder.display());
        for (name, call) in labelled(example, "module") {
            if call["source"].as_str().unwrap().ends_with("-container") {
                containers += 1;
                assert_eq!(call["log_configuration"], "${local.log}", "{}: {name}", folder.display());
                let others = call["container_definitions"].as_array().into_iter().flatten();
                assert!(others.into_iter().all(|it| it["logConfiguration"] == "${local.log}"), "{name}: {call}");
            }
        }
    }
    assert_eq!(containers, 4);
    let beside_eks = parsed.iter().find(|(folder, _)| folder.ends_with("ecs-beside-eks")).unwrap().1;
    let rules = blocks(beside_eks, "resource", "aws_vpc_security_group_ingress_rule");
    let port = |name: &str| rules[name]["from_port"].clone();
    assert_eq!((port("servers"), port("pods")), (json!(8300), json!("${module.orders.mesh_port}")));
}

/// Has terraform compute a module's outputs, which needs no account.
fn outputs(program: &Path, module: &str, inputs: &Value) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let rooted = directory.path().join("root");
    copy(&root().join("terraform/modules").join(module), &rooted);
    applied(program, &rooted, inputs)
}

/// Has terraform compute the outputs of a copied module, beside which it may write.
fn applied(program: &Path, rooted: &Path, inputs: &Value) -> Value {
    fs::write(rooted.join("inputs.auto.tfvars.json"), inputs.to_string()).unwrap();
    succeed(&mut terraform(program, rooted, "init -input=false"));
    succeed(&mut terraform(program, rooted, "apply -auto-approve -input=false"));
    let output = output_within(&mut terraform(program, rooted, "output -json"), PATIENCE);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Has terraform make a task of a service and one of a server.
fn rendered(program: &Path) -> Value {
    let image = "registry.example/weft@sha256:00";
    let log = json!({"logDriver": "awslogs", "options": {"awslogs-group": "weft"}});
    let agent = outputs(
        program,
        "agent-container",
        &json!({
            "image": image, "servers": ["weft.internal:8300"], "root_fingerprints": ["a".repeat(64)], "service_name": "web",
            "service_port": 8080, "upstreams": [{"destination_name": "api", "local_bind_port": 9191}], "volume_name": "weft",
            "settings": {"access_log": "-", "drain_deadline": "60s"}, "stop_timeout": 70, "memory": 128, "cpu": 64,
            "service_settings": {"checks": [{"name": "up", "http": "http://127.0.0.1:8080/", "interval": "5s"}]},
            "environment": {"WEFT_LOG_FORMAT": "json"},
            "log_configuration": log, "container_definitions": [{"name": "web", "image": "registry.example/web", "essential": true}],
        }),
    );
    let key = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:weft-AbCdEf";
    let servers = outputs(
        program,
        "server-container",
        &json!({
            "image": image, "dns_namespace": "weft.internal", "cluster_key_arn": key, "log_configuration": log,
        }),
    );
    let task = |family: &str, containers: &Value, volume: &Value| {
        json!({"family": family, "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"], "cpu": "256",
            "memory": "512", "containerDefinitions": containers, "volumes": [{"name": volume}]})
    };
    let server = json!([servers["containers"]["value"]["weft-1"]]);
    json!([
        task("web", &agent["container_definitions"]["value"], &json!("weft")),
        task("weft-1", &server, &servers["volume_name"]["value"]),
    ])
}

/// Returns what terraform made of both when it was here last.
fn kept() -> (PathBuf, Value) {
    let path = root().join("tests/it/terraform/tasks.json");
    let kept = fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
    (path, kept.unwrap_or_default())
}

#[test]
fn what_the_modules_make_of_a_task_is_what_was_kept_of_it() {
    let test = "what_the_modules_make_of_a_task_is_what_was_kept_of_it";
    let Some(program) = optional_tool("terraform", test) else { return };
    let ((path, kept), tasks) = (kept(), rendered(&program));
    if std::env::var_os("WEFT_UPDATE_GOLDEN").is_some() {
        fs::write(&path, format!("{tasks:#}\n")).unwrap();
        return;
    }
    assert_eq!(tasks, kept, "if it is meant: WEFT_UPDATE_GOLDEN=1 cargo test --test it terraform");
}

#[test]
fn what_the_modules_make_of_a_task_registers_through_the_sdk_of_ecs() {
    let test = "what_the_modules_make_of_a_task_registers_through_the_sdk_of_ecs";
    let Some(moto) = Moto::find(test) else { return };
    let logs = tempfile::tempdir().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let _running = moto.serve(|| Command::new("env"), address, &[], logs.path());
    let (_, tasks) = kept();
    let [web, server] = tasks.as_array().unwrap().as_slice() else { panic!("two tasks: {tasks}") };
    let made = [web, server].map(|task| sdk::register(&format!("http://{address}"), task));
    let told = made.each_ref().map(|made| (made.family().unwrap(), made.status().unwrap().as_str(), made.revision()));
    assert_eq!(told, [("web", "ACTIVE", 1), ("weft-1", "ACTIVE", 1)]);

    // It has the containers whole, and each starts after the agent.
    let [agent, application] = made[0].container_definitions() else { panic!("two containers: {:?}", made[0]) };
    assert_eq!(agent.port_mappings()[0].container_port(), Some(20000));
    assert_eq!(agent.health_check().unwrap().command()[..4], ["CMD", "weft", "exec", "--started"]);
    assert_eq!(agent.readonly_root_filesystem(), Some(true));
    assert_eq!(application.depends_on()[0].container_name(), agent.name().unwrap());
    assert_eq!(made[0].volumes()[0].name(), agent.mount_points()[0].source_volume());
    assert_eq!((agent.memory(), agent.cpu(), agent.stop_timeout()), (Some(128), 64, Some(70)));
    assert_eq!(agent.environment()[1].value(), Some("json"));
    assert_eq!(made[1].container_definitions()[0].secrets()[0].name(), "WEFT_CLUSTER_KEY");

    // And the agent takes what it is told.
    let config = agent.environment()[0].value().unwrap();
    let told: Value = serde_json::from_str(config).unwrap();
    assert_eq!((&told["service"]["name"], &told["auth_method"]), (&json!("web"), &json!("aws")));
    assert_eq!((&told["access_log"], &told["service"]["checks"][0]["name"]), (&json!("-"), &json!("up")));
    let file = logs.path().join("agent.json");
    fs::write(&file, config).unwrap();
    let judged = weft(&["validate", "--as", "agent", &file.display().to_string()], &[]);
    assert_eq!(judged.status, Some(0), "{judged:?}");
}
