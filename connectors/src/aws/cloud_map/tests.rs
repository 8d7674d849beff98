//! What goes between Cloud Map and the mesh, and what never does.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{CheckStatus, ConnectorNode, ProblemKind};
use proptest::prelude::*;

use super::mark::{CLOUD_MAP, ECS_MANAGED, ORIGIN, OWNER, SOURCE, VIA};
use super::*;
use crate::plan::{Caution, Sight, Wanted};

fn owner(mesh: &str) -> Owner {
    Owner { mesh: mesh.to_owned(), connector: "aws".parse().unwrap() }
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn instance(id: &str, attributes: &[(&str, &str)], health: Health) -> CloudInstance {
    CloudInstance { id: id.to_owned(), attributes: texts(attributes), health }
}

fn service(name: &str, instances: Vec<CloudInstance>) -> CloudService {
    CloudService {
        id: format!("srv-{name}"),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        has_custom_health: true,
        tags: None,
        instances: Some(instances),
    }
}

fn view(services: Vec<CloudService>) -> CloudView {
    CloudView { namespaces: texts(&[("shop", "ns-1")]), services, is_complete: true, ..CloudView::default() }
}

fn nodes(sight: &Sight) -> Vec<ConnectorNode> {
    let node = |wanted: &Wanted| match wanted {
        Wanted::Node(node) => (**node).clone(),
        Wanted::Checks(_) => panic!("{wanted:?}"),
    };
    sight.nodes.values().map(node).collect()
}

const IP: (&str, &str) = ("AWS_INSTANCE_IPV4", "10.0.0.7");
const PORT: (&str, &str) = ("AWS_INSTANCE_PORT", "8080");

#[test]
fn an_instance_comes_in_with_its_health_its_zone_and_where_it_is_from() {
    let attributes = [IP, PORT, ("AVAILABILITY_ZONE", "eu-west-1a"), ("ECS_CLUSTER_NAME", "c1"), ("stage", "prod")];
    let task = instance("0123abcd", &attributes, Health::Unhealthy);
    let six = instance("b", &[("AWS_INSTANCE_IPV6", "2001:db8::7")], Health::Unknown);
    let mut seen = view(vec![service("api", vec![task, six])]);
    let sight = import(&seen, &ImportRule::default(), &owner("m1"));
    let [first, second] = &nodes(&sight)[..] else { panic!("{sight:?}") };
    assert_eq!(first.node.name.as_str(), "srv-api.0123abcd");
    assert_eq!((first.node.zone.as_deref(), first.node.platform), (Some("eu-west-1a"), catalog::Platform::Ecs));
    assert_eq!(first.node.owner.to_string(), "connector:aws");
    assert_eq!((first.instances[0].port, first.instances[0].mesh_port), (8080, None));
    assert_eq!(first.instances[0].meta.get("stage").map(String::as_str), Some("prod"));
    assert_eq!(first.checks[0].status, CheckStatus::Critical);
    assert_eq!((second.node.address.as_str(), second.checks.len()), ("2001:db8::7", 0), "nobody looks after it");
    // What the servers would refuse must not get that far.
    let writes = crate::plan(&"aws".parse().unwrap(), &sight, &BTreeMap::new(), Caution::default()).writes;
    let change = catalog::ConnectorChange::Write {
        name: "aws".parse().unwrap(),
        term: catalog::Incarnation(1),
        shares: vec![],
        writes,
    };
    assert_eq!(catalog::Command::Connector { change }.validate(), Ok(()));
    let ended = TaskWord::Ended("the task is DEPROVISIONING, and to be STOPPED".to_owned());
    seen.tasks = BTreeMap::from([("0123abcd".to_owned(), ended)]);
    seen.services[0].instances.as_mut().unwrap()[0].health = Health::Healthy;
    let checks = &nodes(&import(&seen, &ImportRule::default(), &owner("m1")))[0].checks;
    assert_eq!(checks[1].status, CheckStatus::Critical, "what ECS ends is not called, whatever Cloud Map still says");
}

#[test]
fn m3_while_ecs_says_nothing_of_a_task_its_node_stays_as_it_was() {
    let task = |id: &str| instance(id, &[IP, PORT, ("ECS_CLUSTER_NAME", "c1")], Health::Healthy);
    let mut seen = view(vec![service("api", vec![task("a"), task("b")])]);
    let word = |text: &str| TaskWord::Ended(text.to_owned());
    seen.tasks = BTreeMap::from([("a".to_owned(), word("it ends")), ("b".to_owned(), TaskWord::Serves)]);
    let before = nodes(&import(&seen, &ImportRule::default(), &owner("m1")));
    assert_eq!((before[0].checks.len(), before[1].checks.len()), (2, 1));
    seen.tasks.insert("a".to_owned(), TaskWord::Unknown);
    let sight = import(&seen, &ImportRule::default(), &owner("m1"));
    let held = before.into_iter().map(|node| (node.node.name.clone(), node)).collect();
    let plan = crate::plan(&"aws".parse().unwrap(), &sight, &held, Caution::default());
    assert_eq!((plan.writes.len(), plan.unseen), (0, 1), "{plan:?}");
}

#[test]
fn m4_what_the_mesh_cannot_hold_is_named_and_the_rest_comes() {
    let long = "i".repeat(64);
    let seen = view(vec![
        service("API_v2", vec![instance("a", &[IP], Health::Healthy)]),
        service(
            "web",
            vec![
                instance("alias", &[("AWS_ALIAS_DNS_NAME", "lb.example.com")], Health::Healthy),
                instance("port", &[IP, ("AWS_INSTANCE_PORT", "http")], Health::Healthy),
                instance(&long, &[IP], Health::Healthy),
                instance("with space", &[IP], Health::Healthy),
            ],
        ),
    ]);
    let sight = import(&seen, &ImportRule::default(), &owner("m1"));
    assert_eq!(sight.nodes.len(), 2, "{:?}", sight.nodes.keys());
    let again = import(&seen, &ImportRule::default(), &owner("m1"));
    assert_eq!(again, sight, "hashed names stay the same");
    let problems: Vec<&str> = sight.problems.iter().map(|one| one.reason.as_str()).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].contains("its name is none of the mesh") && problems[2].contains("its port `http`"));
}

#[test]
fn m3_what_cannot_be_listed_is_not_taken_for_gone() {
    let rule = ImportRule {
        namespaces: BTreeMap::from([("shop".to_owned(), "team".parse().unwrap())]),
        ..ImportRule::default()
    };
    let half = CloudService { instances: None, ..service("api", vec![]) };
    let sight = import(&view(vec![half]), &rule, &owner("m1"));
    assert!(sight.is_complete && sight.unseen.contains("srv-api"));
    let blind = CloudView { unseen: BTreeSet::from(["shop".to_owned()]), ..view(vec![]) };
    assert!(!import(&blind, &rule, &owner("m1")).is_complete);
    let elsewhere = CloudView { unseen: BTreeSet::from(["other".to_owned()]), ..view(vec![]) };
    assert!(import(&elsewhere, &rule, &owner("m1")).is_complete, "what stays out anyway need not be seen");
    assert!(!import(&CloudView::default(), &rule, &owner("m1")).is_complete);
}

fn rule() -> ExportRule {
    ExportRule { service: "api".parse().unwrap(), namespace: "shop".to_owned() }
}

fn exported(name: &str, port: u16, is_healthy: bool) -> Exported {
    Exported {
        name: name.to_owned(),
        address: "10.0.0.9".to_owned(),
        port,
        is_healthy,
        node_meta: BTreeMap::new(),
        meta: BTreeMap::new(),
    }
}

fn plan_of(view: &CloudView, instances: &[Exported]) -> ExportPlan {
    export(view, &rule(), instances, &owner("m1"), Caution::default())
}

/// Does to a view what Cloud Map would.
fn carry_out(view: &mut CloudView, actions: &[CloudAction], owner: &Owner) {
    for action in actions {
        match action {
            CloudAction::CreateService { service: name, .. } => {
                let tags = Some(texts(&[(OWNER, &owner.text())]));
                view.services.push(CloudService { tags, ..service(name, vec![]) });
            }
            CloudAction::Register { service, id, attributes } => {
                let instances = instances_of(view, service);
                let health = match attributes.get("AWS_INIT_HEALTH_STATUS").map(String::as_str) {
                    Some("UNHEALTHY") => Health::Unhealthy,
                    _ => Health::Healthy,
                };
                instances.retain(|one| one.id != *id);
                instances.push(CloudInstance { id: id.clone(), attributes: attributes.clone(), health });
            }
            CloudAction::SetHealth { service, id, healthy } => {
                let one = instances_of(view, service).iter_mut().find(|one| one.id == *id).unwrap();
                one.health = if *healthy { Health::Healthy } else { Health::Unhealthy };
            }
            CloudAction::Deregister { service, id } => instances_of(view, service).retain(|one| one.id != *id),
        }
    }
}

fn instances_of<'a>(view: &'a mut CloudView, service: &str) -> &'a mut Vec<CloudInstance> {
    view.services.iter_mut().find(|one| one.id == service).unwrap().instances.as_mut().unwrap()
}

#[test]
fn a_service_is_made_filled_kept_in_step_and_emptied() {
    let mut seen = view(vec![]);
    let mut settle = |instances: &[Exported], want: usize| {
        let plan = plan_of(&seen, instances);
        assert_eq!((plan.actions.len(), plan.problems.len()), (want, 0), "{plan:?}");
        carry_out(&mut seen, &plan.actions, &owner("m1"));
        seen.services[0].instances.clone().unwrap()
    };
    let two = [exported("n1/api", 80, true), exported("n2/api", 80, false)];
    settle(&two, 1);
    let there = settle(&two, 2);
    assert!(there.iter().all(|one| one.id.len() <= 64 && one.attributes.len() <= 30), "{there:?}");
    assert_eq!(there.iter().filter(|one| one.health == Health::Healthy).count(), 1);
    settle(&two, 0);
    let changed = [exported("n1/api", 81, true), exported("n2/api", 80, true)];
    assert!(settle(&changed, 2).iter().all(|one| one.health == Health::Healthy));
    assert!(settle(&[], 2).is_empty());
}

#[test]
fn m2_what_somebody_else_made_or_marked_is_reported_and_left_alone() {
    let ours = owner("m1").text();
    #[track_caller]
    fn check(service: CloudService, want: &str) {
        let plan = plan_of(&view(vec![service]), &[exported("n1/api", 80, true)]);
        assert_eq!(plan.actions, [], "{plan:?}");
        assert!(plan.problems[0].reason.contains(want), "{plan:?}");
    }
    let tagged = |tags: &[(&str, &str)]| CloudService { tags: Some(texts(tags)), ..service("api", vec![]) };
    check(tagged(&[]), "somebody made it who is no connector of ours");
    check(tagged(&[(OWNER, "m2/aws")]), "it belongs to `m2/aws`");
    check(tagged(&[(OWNER, &ours), (ECS_MANAGED, "true")]), "ECS keeps it");
    check(CloudService { has_custom_health: false, ..tagged(&[(OWNER, &ours)]) }, "takes no health");
    check(service("api", vec![]), "could not be seen");
    let id = owner("m1").instance_id("n1/api");
    // Our mark, copied onto what is not ours, and our id with somebody else's marks.
    let forged = instance("theirs", &[IP, (OWNER, &ours), ("weft-instance", "n7/api")], Health::Healthy);
    let squatted = instance(&id, &[IP], Health::Healthy);
    let there = CloudService { instances: Some(vec![forged, squatted]), ..tagged(&[(OWNER, &ours)]) };
    let plan = plan_of(&view(vec![there.clone()]), &[exported("n1/api", 80, true)]);
    assert_eq!((plan.actions.len(), plan.problems[0].kind), (0, ProblemKind::Conflict), "{plan:?}");
    assert_eq!(plan_of(&view(vec![there]), &[]).actions, [], "nor are they removed");
    let nowhere = CloudView { namespaces: BTreeMap::new(), ..view(vec![]) };
    assert!(plan_of(&nowhere, &[]).problems[0].reason.contains("no such namespace"));
    let shared = CloudView { shared_names: BTreeSet::from(["shop".to_owned()]), ..nowhere };
    let plan = plan_of(&shared, &[exported("n1/api", 80, true)]);
    assert_eq!(plan.actions, [], "nobody says which of them is meant");
    assert!(plan.problems[0].reason.contains("several namespaces are called so"), "{plan:?}");
}

#[test]
fn m4_beyond_the_quota_the_first_thousand_go_and_the_rest_is_named() {
    let many: Vec<Exported> = (0..1003).map(|number| exported(&format!("n{number}/api"), 80, true)).collect();
    let there = CloudService { tags: Some(texts(&[(OWNER, &owner("m1").text())])), ..service("api", vec![]) };
    let plan = plan_of(&view(vec![there]), &many);
    assert_eq!(plan.actions.len(), 1000);
    assert!(plan.problems[0].reason.contains("3 stay out"), "{:?}", plan.problems);
    let odd =
        [exported("n1/api", 0, true), Exported { address: "host.example".to_owned(), ..exported("n2/api", 1, true) }];
    let there = CloudService { tags: Some(texts(&[(OWNER, &owner("m1").text())])), ..service("api", vec![]) };
    assert_eq!(plan_of(&view(vec![there]), &odd).problems.len(), 2);
}

#[test]
fn a_mass_removal_from_cloud_map_is_held() {
    let mut seen = view(vec![]);
    let ten: Vec<Exported> = (0..10).map(|number| exported(&format!("n{number}/api"), 80, true)).collect();
    for _ in 0..2 {
        let plan = plan_of(&seen, &ten);
        carry_out(&mut seen, &plan.actions, &owner("m1"));
    }
    let plan = plan_of(&seen, &ten[..4]);
    assert_eq!((plan.actions.len(), plan.problems[0].kind), (0, ProblemKind::Held), "{plan:?}");
    assert_eq!(plan_of(&seen, &ten[..7]).actions.len(), 3);
    assert!(plan.problems[0].reason.contains("weft connector confirm aws --removals 6"), "{plan:?}");
    for (confirmed, removed) in [(5, 0), (6, 6)] {
        let caution = Caution { confirmed: Some(confirmed), ..Caution::default() };
        let plan = export(&seen, &rule(), &ten[..4], &owner("m1"), caution);
        assert_eq!(plan.actions.len(), removed, "{confirmed} confirmed: {plan:?}");
    }
}

#[test]
fn what_is_sent_to_cloud_map_no_more_goes_from_there_and_nobody_elses_does() {
    let mut seen = view(vec![]);
    let two = [exported("n1/api", 80, true), exported("n2/api", 80, true)];
    for _ in 0..2 {
        let plan = plan_of(&seen, &two);
        carry_out(&mut seen, &plan.actions, &owner("m1"));
    }
    let ours = owner("m1").text();
    let forged = instance("theirs", &[IP, (OWNER, &ours), ("weft-instance", "n7/api")], Health::Healthy);
    instances_of(&mut seen, "srv-api").extend([forged, instance("plain", &[IP], Health::Healthy)]);
    assert!(withdraw(&seen, &[rule()], &owner("m1"), Caution::default()).is_empty(), "it is sent");
    assert!(withdraw(&seen, &[], &owner("m2"), Caution::default()).is_empty(), "they are another mesh's");
    let plans = withdraw(&seen, &[], &owner("m1"), Caution::default());
    assert_eq!((plans.len(), plans[0].actions.len(), plans[0].problems.len()), (1, 2, 0), "{plans:?}");
    carry_out(&mut seen, &plans[0].actions, &owner("m1"));
    let left: Vec<&str> = instances_of(&mut seen, "srv-api").iter().map(|one| one.id.as_str()).collect();
    assert_eq!(left, ["theirs", "plain"]);
    let many: Vec<Exported> = (0..10).map(|number| exported(&format!("n{number}/api"), 80, true)).collect();
    let plan = plan_of(&seen, &many);
    carry_out(&mut seen, &plan.actions, &owner("m1"));
    let plans = withdraw(&seen, &[], &owner("m1"), Caution::default());
    assert_eq!((plans[0].actions.len(), plans[0].problems[0].kind), (0, ProblemKind::Held), "{plans:?}");
    let unlisted = CloudService { instances: None, ..service("api", vec![]) };
    assert!(withdraw(&view(vec![unlisted]), &[], &owner("m1"), Caution::default()).is_empty());
}

/// A mesh with workloads of its own, which sends its services to Cloud Map and takes in what is there.
struct Mesh {
    owner: Owner,
    own: BTreeMap<String, Vec<Exported>>,
    imported: BTreeMap<String, ConnectorNode>,
}

impl Mesh {
    /// What the catalog has of a service.
    fn instances(&self, service: &str) -> Vec<Exported> {
        let imported = self.imported.values().filter(|node| node.instances[0].service.as_str() == service);
        let imported = imported.map(|node| Exported {
            name: format!("{}/{}", node.node.name, node.instances[0].key.id),
            address: node.node.address.clone(),
            port: node.instances[0].port,
            is_healthy: true,
            node_meta: node.node.meta.clone(),
            meta: node.instances[0].meta.clone(),
        });
        self.own.get(service).into_iter().flatten().cloned().chain(imported).collect()
    }

    fn round(&mut self, cloud: &mut CloudView) {
        for service in ["s0", "s1", "s2"] {
            let rule = ExportRule { service: service.parse().unwrap(), namespace: "shop".to_owned() };
            let instances = self.instances(service);
            if instances.is_empty() && !cloud.services.iter().any(|one| one.name == service) {
                continue;
            }
            for _ in 0..2 {
                let plan = export(cloud, &rule, &instances, &self.owner, Caution::default());
                carry_out(cloud, &plan.actions, &self.owner);
            }
        }
        let sight = import(cloud, &ImportRule::default(), &self.owner);
        self.imported = nodes(&sight).into_iter().map(|node| (node.node.name.to_string(), node)).collect();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn m1_three_meshes_over_one_cloud_map_come_to_rest_within_two_rounds_and_nothing_goes_in_a_circle(
        own in proptest::collection::vec((0usize..3, 0usize..3, 0u8..4), 0..12),
        order in Just([0usize, 1, 2]).prop_shuffle(),
    ) {
        let mesh = |at: usize| Mesh {
            owner: owner(&format!("m{at}")),
            own: BTreeMap::new(),
            imported: BTreeMap::new(),
        };
        let mut meshes = [mesh(0), mesh(1), mesh(2)];
        for (at, service, number) in own {
            let instances = meshes[at].own.entry(format!("s{service}")).or_default();
            instances.push(exported(&format!("m{at}-n{number}/s{service}-{}", instances.len()), 80, true));
        }
        let mut cloud = view(vec![]);
        let mut round = || {
            order.iter().for_each(|at| meshes[*at].round(&mut cloud));
            let imported: Vec<Vec<String>> = meshes.iter().map(|mesh| mesh.imported.keys().cloned().collect()).collect();
            (cloud.clone(), imported)
        };
        round();
        let second = round();
        prop_assert_eq!(&round(), &second, "it does not come to rest");
        for (at, mesh) in meshes.iter().enumerate() {
            for node in mesh.imported.values() {
                let meta = &node.instances[0].meta;
                prop_assert_ne!(meta.get(ORIGIN), Some(&format!("m{at}")), "its own came back");
                prop_assert_eq!(meta.get(VIA), meta.get(ORIGIN), "it came through somebody else");
                prop_assert_eq!(node.node.meta.get(SOURCE).map(String::as_str), Some(CLOUD_MAP));
            }
        }
    }
}
