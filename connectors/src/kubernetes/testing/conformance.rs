//! What the stand-in and a real API server have in common, as the production client sees it.

use std::collections::BTreeMap;
use std::pin::pin;

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
    WatchEvent, WatchParams,
};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::{ApiServer, Deed, client, eventually, on_each, pod};

fn of<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

fn version(object: &impl ResourceExt) -> u64 {
    object.resource_version().unwrap().parse().unwrap()
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("no answer of the API: {other}"),
    }
}

#[tokio::test]
async fn a_watch_tells_what_happens_after_a_list_and_selectors_choose() {
    on_each(|client: Client| async move {
        let pods: Api<Pod> = Api::namespaced(client, "default");
        let mut web = pod("default", "web-0");
        web["metadata"]["labels"] = json!({"app": "web"});
        pods.create(&PostParams::default(), &of(pod("default", "db-0"))).await.unwrap();
        let made = pods.create(&PostParams::default(), &of(web)).await.unwrap();
        let list = pods.list(&ListParams::default().labels("app=web")).await.unwrap();
        assert_eq!(list.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["web-0"]);
        let from = list.metadata.resource_version.unwrap();
        assert!(from.parse::<u64>().unwrap() >= version(&made));
        let chosen = WatchParams::default().fields("metadata.name=web-0");
        let mut events = pin!(pods.watch(&chosen, &from).await.unwrap());
        let labels = Patch::Merge(json!({"metadata": {"labels": {"tier": "front"}}}));
        pods.patch("db-0", &PatchParams::default(), &labels).await.unwrap();
        pods.patch("web-0", &PatchParams::default(), &labels).await.unwrap();
        pods.delete("web-0", &DeleteParams::default().grace_period(0)).await.unwrap();
        let Some(WatchEvent::Modified(changed)) = events.try_next().await.unwrap() else { panic!("a change") };
        assert_eq!(changed.labels()["tier"], "front");
        let Some(WatchEvent::Deleted(gone)) = events.try_next().await.unwrap() else { panic!("an end") };
        assert!(version(&made) < version(&changed) && version(&changed) < version(&gone));
        assert_eq!(gone.uid(), made.uid());
        assert_eq!(code(&pods.get("web-0").await.unwrap_err()), 404);
    })
    .await;
}

#[tokio::test]
async fn a_write_of_an_old_version_is_a_conflict_and_statuses_are_written_apart() {
    on_each(|client: Client| async move {
        let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
        let mut first = of::<Pod>(pod("default", "p"));
        first.status = Some(of(json!({"phase": "Running"})));
        let first = pods.create(&PostParams::default(), &first).await.unwrap();
        assert_ne!(first.status.clone().and_then(|status| status.phase).as_deref(), Some("Running"));
        let running = Patch::Merge(json!({"status": {"phase": "Running"}, "metadata": {"uid": first.uid()}}));
        let told = pods.patch_status("p", &PatchParams::default(), &running).await.unwrap();
        assert_eq!(told.status.unwrap().phase.as_deref(), Some("Running"));
        let stale = pods.replace("p", &PostParams::default(), &first).await.unwrap_err();
        assert_eq!(code(&stale), 409);
        let again = pods.create(&PostParams::default(), &of(pod("default", "p"))).await.unwrap_err();
        assert_eq!(code(&again), 409);
        let nowhere: Api<Pod> = Api::namespaced(client.clone(), "nowhere");
        let missing = nowhere.create(&PostParams::default(), &of(pod("nowhere", "p"))).await.unwrap_err();
        assert_eq!(code(&missing), 404);
        let maps: Api<ConfigMap> = Api::namespaced(client, "default");
        let map = |value: &str| of::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"a": value}}));
        let made = maps.create(&PostParams::default(), &map("1")).await.unwrap();
        let mut same = made.clone();
        same.data = Some(BTreeMap::from([("a".to_owned(), "1".to_owned())]));
        let same = maps.replace("m", &PostParams::default(), &same).await.unwrap();
        assert_eq!(version(&same), version(&made), "what changes nothing makes no version");
    })
    .await;
}

#[tokio::test]
async fn one_of_two_holders_of_a_lease_gets_it() {
    on_each(|client: Client| async move {
        let leases: Api<Lease> = Api::namespaced(client, "default");
        let lease = |holder: &str| json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": holder}});
        let seen = leases.create(&PostParams::default(), &of(lease("a"))).await.unwrap();
        let take = |holder: &str| {
            let mut next = seen.clone();
            next.spec.as_mut().unwrap().holder_identity = Some(holder.to_owned());
            next
        };
        leases.replace("l", &PostParams::default(), &take("b")).await.unwrap();
        let lost = leases.replace("l", &PostParams::default(), &take("c")).await.unwrap_err();
        assert_eq!(code(&lost), 409);
        let holder = leases.get("l").await.unwrap().spec.unwrap().holder_identity;
        assert_eq!(holder.as_deref(), Some("b"));
    })
    .await;
}

#[tokio::test]
async fn pages_of_a_list_are_of_one_version() {
    on_each(|client: Client| async move {
        let maps: Api<ConfigMap> = Api::namespaced(client, "default");
        for name in ["a", "b", "c"] {
            let map = json!({"metadata": {"name": name, "labels": {"mine": "yes"}}});
            maps.create(&PostParams::default(), &of(map)).await.unwrap();
        }
        let asked = ListParams::default().labels("mine=yes").limit(2);
        let first = maps.list(&asked).await.unwrap();
        maps.delete("c", &DeleteParams::default()).await.unwrap();
        let second = maps.list(&asked.clone().continue_token(&first.metadata.continue_.unwrap())).await.unwrap();
        assert_eq!((first.items.len(), second.items.len()), (2, 1));
        assert_eq!(second.items[0].name_any(), "c", "the page is of the first one's version");
        assert_eq!(first.metadata.resource_version, second.metadata.resource_version);
        assert_eq!(second.metadata.continue_.unwrap_or_default(), "");
        assert_eq!(code(&maps.get("c").await.unwrap_err()), 404);
    })
    .await;
}

#[tokio::test]
async fn a_token_counts_for_its_audience_while_its_pod_and_its_account_live() {
    on_each(|client: Client| async move {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
        accounts.create(&PostParams::default(), &of(json!({"metadata": {"name": "web"}}))).await.unwrap();
        let bound = pods.create(&PostParams::default(), &of(pod("default", "web-0"))).await.unwrap();
        let request: TokenRequest = of(json!({"spec": {
            "audiences": ["weft"], "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": bound.uid()},
        }}));
        let granted = accounts.create_token_request("web", &PostParams::default(), &request).await.unwrap();
        let token = granted.status.unwrap().token;
        let reviews: Api<TokenReview> = Api::all(client.clone());
        let review = |audience: &str| {
            let asked = of(json!({"metadata": {}, "spec": {"token": token, "audiences": [audience]}}));
            let reviews = reviews.clone();
            async move { reviews.create(&PostParams::default(), &asked).await.unwrap().status.unwrap() }
        };
        let found = review("weft").await;
        assert_eq!(found.authenticated, Some(true), "{found:?}");
        let user = found.user.unwrap();
        assert_eq!(user.username.as_deref(), Some("system:serviceaccount:default:web"));
        let extra = user.extra.unwrap();
        assert_eq!(extra["authentication.kubernetes.io/pod-name"], ["web-0"]);
        assert_eq!(extra["authentication.kubernetes.io/pod-uid"], [bound.uid().unwrap()]);
        assert_ne!(review("another").await.authenticated, Some(true));
        pods.delete("web-0", &DeleteParams::default().grace_period(0)).await.unwrap();
        eventually("the token to end with its pod", || async {
            (review("weft").await.authenticated != Some(true)).then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_definition_adds_a_resource() {
    on_each(|client: Client| async move {
        let kind = GroupVersionKind::gvk("test.weft.dev", "v1", "Thing");
        let things: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &ApiResource::from_gvk(&kind));
        assert_eq!(code(&things.list(&ListParams::default()).await.unwrap_err()), 404);
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let definition = of::<CustomResourceDefinition>(json!({
            "metadata": {"name": "things.test.weft.dev"},
            "spec": {"group": "test.weft.dev", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
                "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema}}]},
        }));
        Api::all(client).create(&PostParams::default(), &definition).await.unwrap();
        let thing = DynamicObject::new("t", &ApiResource::from_gvk(&kind)).data(json!({"spec": {"size": 3}}));
        eventually("the resource", || async { things.create(&PostParams::default(), &thing).await.ok() }).await;
        assert_eq!(things.get("t").await.unwrap().data["spec"]["size"], 3);
    })
    .await;
}

#[tokio::test]
async fn whoever_shows_no_token_of_the_server_is_nobody() {
    let server = ApiServer::start();
    server
        .put(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "default"}}));
    let own = ["https://kubernetes.default.svc.cluster.local"];
    let known = client(server.token_config(&server.token("default/a", None, &own))).await;
    let foreign = client(server.token_config(&ApiServer::start().sign(&json!({"sub": "a"})))).await;
    let elsewhere = client(server.token_config(&server.token("default/a", None, &["weft"]))).await;
    Api::<Namespace>::all(known).get("default").await.unwrap();
    for stranger in [foreign, elsewhere] {
        let refused = Api::<Namespace>::all(stranger).get("default").await.unwrap_err();
        assert_eq!(code(&refused), 401);
    }
    let who = "system:serviceaccount:default:a".to_owned();
    assert!(server.seen().contains(&(who, "get namespaces".to_owned())), "{:?}", server.seen());
}

#[tokio::test]
async fn what_goes_wrong_goes_wrong_on_command() {
    let mut server = ApiServer::start();
    let maps: Api<ConfigMap> = Api::namespaced(client(server.certificate_config("admin")).await, "default");
    let map = |name: &str| of::<ConfigMap>(json!({"metadata": {"name": name}}));
    server.next(1, "GET /api/v1/namespaces/default/configmaps", Deed::Answer(500, None));
    assert_eq!(code(&maps.get("a").await.unwrap_err()), 500);
    server.next(1, "POST", Deed::Lose);
    maps.create(&PostParams::default(), &map("a")).await.unwrap_err();
    assert_eq!(maps.get("a").await.unwrap().name_any(), "a", "it was carried out");
    server.next(1, "GET", Deed::Cut);
    maps.list(&ListParams::default()).await.unwrap_err();

    let from = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let watching = WatchParams::default();
    let mut events = Box::pin(maps.watch(&watching, &from).await.unwrap());
    maps.create(&PostParams::default(), &map("b")).await.unwrap();
    let Some(Ok(WatchEvent::Added(added))) = events.next().await else { panic!("an event") };
    eventually("the watch to wait", || async { (server.watching() == 1).then_some(()) }).await;
    server.repeat(1);
    let Some(Ok(WatchEvent::Added(repeated))) = events.next().await else { panic!("it again") };
    assert_eq!(version(&repeated), version(&added));
    server.bookmark();
    let Some(Ok(WatchEvent::Bookmark(mark))) = events.next().await else { panic!("a bookmark") };
    assert_eq!(mark.metadata.resource_version, added.resource_version().unwrap());
    server.break_watches();
    assert!(events.next().await.is_none_or(|event| event.is_err()));
    let mut events = Box::pin(maps.watch(&watching, &from).await.unwrap());
    assert!(matches!(events.next().await, Some(Ok(WatchEvent::Added(_)))), "what was missed is told");
    server.forget_history();
    let Some(Ok(WatchEvent::Error(gone))) = events.next().await else { panic!("it is too old") };
    assert_eq!(gone.code, 410);
    let first = maps.list(&ListParams::default().limit(1)).await.unwrap();
    server.forget_history();
    let rest = ListParams::default().limit(1).continue_token(&first.metadata.continue_.unwrap());
    assert_eq!(code(&maps.list(&rest).await.unwrap_err()), 410);

    server.go_down();
    maps.get("a").await.unwrap_err();
    server.come_up();
    assert_eq!(maps.get("a").await.unwrap().name_any(), "a");
}
