//! What a kubelet does with a pod, on machines that are the pods' own: it mounts what the pod says, starts its containers in their
//! order, each as its user and with its capabilities only, asks them from outside how they are, and ends them.
//!
//! There are no images: a container's program is found on the machine, and `weft` is what has no other one.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::{Machines, PROMISE_FACTOR, eventually, kubernetes::ApiServer};

/// How soon a container is ready.
const READY: Duration = Duration::from_secs(6);

/// Runs pods.
pub(crate) struct Kubelet<'a> {
    pub(crate) machines: &'a Machines,
    pub(crate) cluster: &'a ApiServer,
    /// The machine that pods are asked from.
    pub(crate) on: &'a str,
}

/// Is a pod that runs.
pub(crate) struct RunningPod {
    machine: String,
    address: String,
    pod: Value,
}

impl Kubelet<'_> {
    /// Starts a pod as the API server has it; returns once its containers have been started.
    #[track_caller]
    pub(crate) fn start(&self, machine: &str, address: &str, pod: Value) -> RunningPod {
        let running = RunningPod { machine: machine.to_owned(), address: address.to_owned(), pod };
        for container in running.containers("initContainers").into_iter().chain(running.containers("containers")) {
            self.mount(&running, container);
        }
        for container in running.containers("initContainers") {
            let script = running.command(container);
            if container["restartPolicy"] == "Always" {
                self.launch(&running, container, &script);
                let what = format!("{} of {machine} to have started", name(container));
                eventually(&what, READY * PROMISE_FACTOR, || {
                    (self.probe(&running, name(container), "startupProbe") == 200).then_some(())
                });
            } else {
                self.machines.done(machine, &script);
            }
        }
        for container in running.containers("containers") {
            self.launch(&running, container, &running.command(container));
        }
        running
    }

    /// Makes a container's volumes: memory for what is kept there, and a token of the pod's account.
    fn mount(&self, running: &RunningPod, container: &Value) {
        for mounted in container["volumeMounts"].as_array().into_iter().flatten() {
            let path = mounted["mountPath"].as_str().unwrap();
            let volumes = running.pod["spec"]["volumes"].as_array().unwrap();
            let volume = volumes.iter().find(|volume| volume["name"] == mounted["name"]).unwrap();
            let memory = format!("mkdir -p {path} && mount -t tmpfs -o mode=777 none {path}");
            self.machines.done(&running.machine, &memory);
            let sources = volume["projected"]["sources"].as_array();
            for token in sources.into_iter().flatten().map(|source| &source["serviceAccountToken"]) {
                let account = format!("{}/{}", running.namespace(), running.text("/spec/serviceAccountName"));
                let audience = token["audience"].as_str().unwrap();
                let signed = self.cluster.token(&account, Some(running.text("/metadata/name")), &[audience]);
                let file = format!("{path}/{}", token["path"].as_str().unwrap());
                self.machines.write(&running.machine, &file, &signed);
                self.machines.done(&running.machine, &format!("chmod 644 {file} && chmod 755 {path}"));
            }
        }
    }

    /// Starts a container that goes on, and notes how it ends.
    fn launch(&self, running: &RunningPod, container: &Value, script: &str) {
        let name = name(container);
        let start = format!(
            "cat > $RUN/{name}.sh <<'END-OF-SCRIPT'\n{script} & echo $! > $RUN/{name}.pid\n\
             ended=0; wait $! || ended=$?; echo $ended > $RUN/{name}.ended\nEND-OF-SCRIPT\n\
             setsid bash $RUN/{name}.sh > $RUN/{name}.log 2>&1 < /dev/null &"
        );
        self.machines.done(&running.machine, &start);
    }

    /// Asks a container by one of its probes, at the pod's address as every kubelet does; returns the status, 0 where nobody
    /// answers.
    pub(crate) fn probe(&self, running: &RunningPod, container: &str, probe: &str) -> u16 {
        let asked = &running.container(container)[probe]["httpGet"];
        let url = format!("http://{}:{}{}", running.address, asked["port"], asked["path"].as_str().unwrap());
        let ask = format!("curl -s -m 5 -o /dev/null -w '%{{http_code}}' {url} || true");
        let output = self.machines.run(self.on, &ask);
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default()
    }

    /// Waits until a container has ended by itself; returns its status.
    #[track_caller]
    pub(crate) fn wait(&self, running: &RunningPod, container: &str) -> i32 {
        let ended = format!("cat $RUN/{container}.ended 2>/dev/null");
        eventually(&format!("{container} of {} to end", running.machine), READY * PROMISE_FACTOR, || {
            let output = self.machines.run(&running.machine, &ended);
            String::from_utf8_lossy(&output.stdout).trim().parse().ok()
        })
    }

    /// Ends the containers that go on until the others have ended, and returns how each did.
    #[track_caller]
    pub(crate) fn end_sidecars(&self, running: &RunningPod) -> BTreeMap<String, i32> {
        let sidecars = running.containers("initContainers").into_iter().filter(|it| it["restartPolicy"] == "Always");
        sidecars
            .map(|container| {
                let name = name(container);
                self.signal(running, name, "TERM");
                (name.to_owned(), self.wait(running, name))
            })
            .collect()
    }

    /// Tells all containers that go on to end, as kubelets do that know of no sidecars.
    #[track_caller]
    pub(crate) fn terminate(&self, running: &RunningPod) {
        let sidecars = running.containers("initContainers").into_iter().filter(|it| it["restartPolicy"] == "Always");
        for container in running.containers("containers").into_iter().chain(sidecars) {
            self.signal(running, name(container), "TERM");
        }
    }

    /// Sends a container's process a signal.
    #[track_caller]
    pub(crate) fn signal(&self, running: &RunningPod, container: &str, signal: &str) {
        self.machines.done(&running.machine, &format!("kill -{signal} $(cat $RUN/{container}.pid)"));
    }
}

impl RunningPod {
    fn containers(&self, list: &str) -> Vec<&Value> {
        self.pod["spec"][list].as_array().into_iter().flatten().collect()
    }

    fn container(&self, wanted: &str) -> &Value {
        let all = self.containers("initContainers").into_iter().chain(self.containers("containers"));
        all.into_iter().find(|container| name(container) == wanted).unwrap_or_else(|| panic!("no container {wanted}"))
    }

    fn text(&self, pointer: &str) -> &str {
        self.pod.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("the pod says no {pointer}"))
    }

    fn namespace(&self) -> &str {
        self.text("/metadata/namespace")
    }

    /// Writes how a container's program is started: with its own environment and no other, on a file system that it cannot change
    /// where the pod says so, as its user, with the capabilities that it is left.
    fn command(&self, container: &Value) -> String {
        let environment = self.environment(container);
        let context = &container["securityContext"];
        let words = |field: &str| container[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut program: Vec<String> = words("command").map(|word| expand(word, &environment)).collect();
        match program.first_mut() {
            // Where the image has it, the machine does not.
            Some(first) if first == "/usr/bin/weft" => "weft".clone_into(first),
            Some(_) => {}
            None => program.push("weft".to_owned()),
        }
        program.extend(words("args").map(|word| expand(word, &environment)));
        let own: String = environment.iter().map(|(name, value)| format!(" {name}={}", quoted(value))).collect();
        let program: Vec<String> = program.iter().map(|word| quoted(word)).collect();
        let of_pod = &self.pod["spec"]["securityContext"]["runAsUser"];
        let user = context["runAsUser"].as_u64().or(of_pod.as_u64()).unwrap_or_default();
        let added = context["capabilities"]["add"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let added: String = added.map(|one| format!(",+{}", one.to_lowercase())).collect();
        let no_more = if context["allowPrivilegeEscalation"] == false { " --no-new-privs" } else { "" };
        let files = if context["readOnlyRootFilesystem"] == true { "mount -o remount,bind,ro / && " } else { "" };
        format!(
            "env -i PATH=\"$PATH\"{own} unshare --mount sh -c '{files}exec \"$@\"' sh setpriv --reuid {user} --regid {user} \
             --clear-groups --bounding-set -all{added} --inh-caps -all{no_more} {}",
            program.join(" ")
        )
    }

    fn environment(&self, container: &Value) -> BTreeMap<String, String> {
        // Every container is told where the cluster's API is.
        let mut environment = BTreeMap::from([("KUBERNETES_SERVICE_HOST".to_owned(), "10.96.0.1".to_owned())]);
        for variable in container["env"].as_array().into_iter().flatten() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.name") => self.text("/metadata/name").to_owned(),
                Some("metadata.namespace") => self.namespace().to_owned(),
                Some("status.podIP") => self.address.clone(),
                // A label that the pod does not have.
                Some(_) => String::new(),
                None => expand(variable["value"].as_str().unwrap_or_default(), &environment),
            };
            environment.insert(variable["name"].as_str().unwrap().to_owned(), value);
        }
        environment
    }
}

fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap()
}

/// Puts variables in place of `$(NAME)`; what has no variable of its name stays, and `$$` is one `$`.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let named = after.strip_prefix('(').and_then(|named| named.split_once(')'));
        rest = match (named.and_then(|(name, beyond)| Some((environment.get(name)?, beyond))), after.strip_prefix('$'))
        {
            (Some((value, beyond)), _) => {
                expanded.push_str(value);
                beyond
            }
            (None, doubled) => {
                expanded.push('$');
                doubled.unwrap_or(after)
            }
        };
    }
    expanded + rest
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
