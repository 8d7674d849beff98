//! A task definition as a document, given to ECS by its own SDK: what the SDK has no place for, it never gets to say.

use std::collections::HashMap;

use aws_sdk_ecs::{
    Client, Config,
    config::{BehaviorVersion, Credentials, Region},
    types::{
        Compatibility, ContainerCondition, ContainerDefinition, ContainerDependency, HealthCheck, KernelCapabilities,
        KeyValuePair, LinuxParameters, LogConfiguration, LogDriver, MountPoint, NetworkMode, PortMapping, Secret,
        TaskDefinition, TransportProtocol, Ulimit, UlimitName, Volume,
    },
};
use serde_json::{Map, Value};

/// Takes the fields of an object out, one by one, and fails the test where one is left or of another type.
struct Fields<'a> {
    of: &'a str,
    left: Map<String, Value>,
}

impl<'a> Fields<'a> {
    #[track_caller]
    fn of(what: &'a str, value: &Value) -> Self {
        Self { of: what, left: value.as_object().unwrap_or_else(|| panic!("{what} is no object: {value}")).clone() }
    }

    /// Takes a field; nothing where there is none.
    #[track_caller]
    fn take<T>(&mut self, name: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.left.remove(name)?;
        Some(read(&value).unwrap_or_else(|| panic!("`{name}` of {} is of another type: {value}", self.of)))
    }

    #[track_caller]
    fn text(&mut self, name: &str) -> Option<String> {
        self.take(name, text)
    }

    #[track_caller]
    fn number(&mut self, name: &str) -> Option<i32> {
        self.take(name, |value| value.as_i64()?.try_into().ok())
    }

    #[track_caller]
    fn flag(&mut self, name: &str) -> Option<bool> {
        self.take(name, Value::as_bool)
    }

    #[track_caller]
    fn list<T>(&mut self, name: &str, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        self.take(name, |value| value.as_array()?.iter().map(&read).collect())
    }

    #[track_caller]
    fn end(self) {
        assert!(self.left.is_empty(), "ECS has no such fields of {}: {:?}", self.of, self.left);
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Reads an object by taking its fields.
fn object<'a, T>(what: &'a str, read: impl Fn(&mut Fields<'a>) -> T) -> impl Fn(&Value) -> Option<T> {
    move |value| {
        let mut fields = Fields::of(what, value);
        let made = read(&mut fields);
        fields.end();
        Some(made)
    }
}

fn health_check(it: &mut Fields<'_>) -> HealthCheck {
    let check = HealthCheck::builder().set_command(it.list("command", text)).set_interval(it.number("interval"));
    let check = check.set_timeout(it.number("timeout")).set_retries(it.number("retries"));
    check.set_start_period(it.number("startPeriod")).build().unwrap()
}

fn port_mapping(it: &mut Fields<'_>) -> PortMapping {
    let mapping = PortMapping::builder().set_container_port(it.number("containerPort"));
    let protocol = it.take("protocol", |value| TransportProtocol::try_parse(value.as_str()?).ok());
    mapping.set_host_port(it.number("hostPort")).set_protocol(protocol).build()
}

fn ulimit(it: &mut Fields<'_>) -> Ulimit {
    let limit = Ulimit::builder().set_name(it.take("name", |value| UlimitName::try_parse(value.as_str()?).ok()));
    limit.set_soft_limit(it.number("softLimit")).set_hard_limit(it.number("hardLimit")).build().unwrap()
}

fn dependency(it: &mut Fields<'_>) -> ContainerDependency {
    let condition = it.take("condition", |value| ContainerCondition::try_parse(value.as_str()?).ok());
    let dependency = ContainerDependency::builder().set_container_name(it.text("containerName"));
    dependency.set_condition(condition).build().unwrap()
}

fn mount_point(it: &mut Fields<'_>) -> MountPoint {
    let point = MountPoint::builder().set_source_volume(it.text("sourceVolume"));
    point.set_container_path(it.text("containerPath")).set_read_only(it.flag("readOnly")).build()
}

fn log_configuration(it: &mut Fields<'_>) -> LogConfiguration {
    let options = |value: &Value| -> Option<HashMap<String, String>> {
        value.as_object()?.iter().map(|(name, value)| Some((name.clone(), text(value)?))).collect()
    };
    let driver = it.take("logDriver", |value| LogDriver::try_parse(value.as_str()?).ok());
    LogConfiguration::builder().set_log_driver(driver).set_options(it.take("options", options)).build().unwrap()
}

fn linux_parameters(it: &mut Fields<'_>) -> LinuxParameters {
    let capabilities = object("capabilities", |it| {
        KernelCapabilities::builder().set_add(it.list("add", text)).set_drop(it.list("drop", text)).build()
    });
    LinuxParameters::builder().set_capabilities(it.take("capabilities", capabilities)).build()
}

fn container(it: &mut Fields<'_>) -> ContainerDefinition {
    let variable = object("a variable", |it| {
        KeyValuePair::builder().set_name(it.text("name")).set_value(it.text("value")).build()
    });
    let secret = object("a secret", |it| {
        Secret::builder().set_name(it.text("name")).set_value_from(it.text("valueFrom")).build().unwrap()
    });
    ContainerDefinition::builder()
        .set_name(it.text("name"))
        .set_image(it.text("image"))
        .set_essential(it.flag("essential"))
        .set_memory(it.number("memory"))
        .set_cpu(it.number("cpu"))
        .set_command(it.list("command", text))
        .set_environment(it.list("environment", variable))
        .set_secrets(it.list("secrets", secret))
        .set_user(it.text("user"))
        .set_readonly_root_filesystem(it.flag("readonlyRootFilesystem"))
        .set_linux_parameters(it.take("linuxParameters", object("linuxParameters", linux_parameters)))
        .set_port_mappings(it.list("portMappings", object("a port mapping", port_mapping)))
        .set_mount_points(it.list("mountPoints", object("a mount point", mount_point)))
        .set_ulimits(it.list("ulimits", object("a limit", ulimit)))
        .set_health_check(it.take("healthCheck", object("a health check", health_check)))
        .set_depends_on(it.list("dependsOn", object("a dependency", dependency)))
        .set_stop_timeout(it.number("stopTimeout"))
        .set_log_configuration(it.take("logConfiguration", object("a log's configuration", log_configuration)))
        .build()
}

/// Registers a task definition at this endpoint; returns what ECS made of it.
///
/// Runs on a runtime of its own.
#[track_caller]
pub(super) fn register(endpoint: &str, task: &Value) -> TaskDefinition {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(endpoint)
        .build();
    let client = Client::from_conf(config);
    let mut it = Fields::of("a task definition", task);
    let volume = object("a volume", |it| Volume::builder().set_name(it.text("name")).build());
    let asked = client
        .register_task_definition()
        .set_family(it.text("family"))
        .set_network_mode(it.take("networkMode", |value| NetworkMode::try_parse(value.as_str()?).ok()))
        .set_requires_compatibilities(
            it.list("requiresCompatibilities", |value| Compatibility::try_parse(value.as_str()?).ok()),
        )
        .set_cpu(it.text("cpu"))
        .set_memory(it.text("memory"))
        .set_container_definitions(it.list("containerDefinitions", object("a container", container)))
        .set_volumes(it.list("volumes", volume));
    it.end();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(asked.send()).unwrap();
    answer.task_definition().unwrap().clone()
}
