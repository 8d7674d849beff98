use serde_json::json;

use super::super::TokenRules;
use super::super::testing::{ISSUER, Issuer, Website, claims, ok};
use super::*;
use crate::web::DOCUMENT_BYTES_MAX;

fn fresh() -> Freshness {
    Freshness::default()
}

fn keys() -> KeySet {
    KeySet::from_jwks(Issuer::new().jwks("k1").to_string().as_bytes()).unwrap()
}

#[test]
fn j1_a_token_that_names_no_key_costs_a_few_tries() {
    let issuers: Vec<Issuer> = (0..9).map(|_| Issuer::new()).collect();
    let named = |number: usize| issuers[number].jwks(&format!("k{number}"))["keys"][0].clone();
    let set = json!({"keys": (0..9).map(named).collect::<Vec<_>>()});
    let keys = KeySet::from_jwks(set.to_string().as_bytes()).unwrap();
    let rules = TokenRules {
        issuer: ISSUER.to_owned(),
        audiences: Vec::new(),
        algorithms: catalog::JwtAlgorithm::ALL.to_vec(),
        clock_skew: Duration::ZERO,
    };
    let counts = |keys: &KeySet, number: usize, kid: Option<&str>| {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = kid.map(str::to_owned);
        let token = issuers[number].sign(&header, &claims(&json!({})));
        rules.check(&rules.read(&token).unwrap(), keys, crate::crypto::now()).unwrap().is_some()
    };
    assert!(counts(&keys, 7, None));
    assert!(!counts(&keys, 8, None), "that is one too many");
    assert!(counts(&keys, 8, Some("k8")));
    let nameless = KeySet::from_pem(&issuers.iter().map(Issuer::public_pem).collect::<Vec<_>>()).unwrap();
    assert!(counts(&nameless, 8, None) && counts(&nameless, 8, Some("any")), "nobody could name those");
}

#[test]
fn j4_keys_are_kept_for_a_day_and_then_every_login_is_denied() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut held = Held::default();
    assert!(matches!(held.decide(at(0), None, fresh()), Step::Fetch));
    assert!(matches!(held.decide(at(1), None, fresh()), Step::Wait), "one fetches for all");
    held.end(at(2), Ok(keys()));
    assert!(matches!(held.decide(at(3), None, fresh()), Step::Use(_)));
    assert!(matches!(held.decide(at(602), None, fresh()), Step::Use(_)), "young");
    assert!(
        matches!(held.decide(at(700), None, fresh()), Step::UseAndFetch(_)),
        "old: used, and somebody looks for new ones"
    );
    assert!(matches!(held.decide(at(701), None, fresh()), Step::Use(_)), "and nobody else does");
    held.end(at(702), Err("it is down".to_owned()));
    assert!(matches!(held.decide(at(703), None, fresh()), Step::Use(_)), "no one asks again so soon");
    assert!(matches!(held.decide(at(731), None, fresh()), Step::UseAndFetch(_)));
    held.end(at(732), Err("it is down".to_owned()));
    let day = 24 * 3600;
    assert!(matches!(held.decide(at(day), None, fresh()), Step::UseAndFetch(_)));
    held.end(at(day + 1), Err("it is down".to_owned()));
    assert!(matches!(held.decide(at(day + 10), None, fresh()), Step::Fail(reason) if reason == "it is down"));
    assert!(matches!(held.decide(at(day + 60), None, fresh()), Step::Fetch), "without keys, a login waits for them");
    held.end(at(day + 61), Ok(keys()));
    assert!(matches!(held.decide(at(day + 62), None, fresh()), Step::Use(_)));
}

#[test]
fn j4_an_unknown_key_is_looked_for_once_in_a_while() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut held = Held::default();
    assert!(matches!(held.decide(at(0), None, fresh()), Step::Fetch));
    held.end(at(1), Ok(keys()));
    assert!(
        matches!(held.decide(at(5), Some(at(1)), fresh()), Step::Use(_)),
        "asked a moment ago: what there is must do"
    );
    assert!(matches!(held.decide(at(31), Some(at(1)), fresh()), Step::Fetch));
    assert!(matches!(held.decide(at(31), Some(at(1)), fresh()), Step::Wait));
    assert!(matches!(held.decide(at(31), None, fresh()), Step::Use(_)), "who needs no new key does not wait");
    held.end(at(32), Ok(keys()));
    assert!(matches!(held.decide(at(33), Some(at(1)), fresh()), Step::Use(_)));
}

async fn fetched(url: &str, ca_pem: &str) -> Result<(), String> {
    let place = JwtKeys::Url { url: url.to_owned(), ca_pem: Some(ca_pem.to_owned()) };
    let remote = RemoteKeys::new(&place, ISSUER, Reach::Loopback, Freshness::default(), None).unwrap().unwrap();
    remote.get(None).await.map(drop).map_err(|error| crate::one_line(&error))
}

#[tokio::test]
async fn j4_what_is_no_small_plain_key_set_is_refused() {
    let jwks = Issuer::new().jwks("k1");
    let site = Website::start(move |path, _| match path {
        "/good" => ok(&jwks),
        "/giant" => ok(&json!({"keys": [], "filler": "x".repeat(DOCUMENT_BYTES_MAX)})),
        "/empty" => ok(&json!({"keys": []})),
        "/redirect" => b"HTTP/1.1 302 Found\r\nlocation: https://localhost/good\r\ncontent-length: 0\r\n\r\n".to_vec(),
        "/packed" => b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}".to_vec(),
        "/down" => b"HTTP/1.1 502 Bad Gateway\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}".to_vec(),
        "/cut" => b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"keys\"".to_vec(),
        _ => b"nonsense".to_vec(),
    })
    .await;
    let at = |path: &str| format!("{}{path}", site.url);
    assert_eq!(fetched(&at("/good"), &site.ca_pem).await, Ok(()));
    for (path, want) in [
        ("/giant", "more than"),
        ("/empty", "no key that checks signatures"),
        ("/redirect", "redirects are not followed"),
        ("/packed", "compressed"),
        ("/down", "status 502"),
        ("/cut", "cannot be used"),
        ("/nonsense", "over HTTP"),
    ] {
        let error = fetched(&at(path), &site.ca_pem).await.unwrap_err();
        assert!(error.contains(want), "{path}: {error}");
    }
    let stranger = Website::start(|_, _| Vec::new()).await;
    let error = fetched(&at("/good"), &stranger.ca_pem).await.unwrap_err();
    assert!(error.contains("cannot reach"), "another CA: {error}");
}

#[tokio::test]
async fn discovery_speaks_of_the_issuer_that_was_asked() {
    for (configuration, want) in [
        (json!({"issuer": "https://other.example", "jwks_uri": "https://localhost/keys"}), "another issuer"),
        (json!({"jwks_uri": "https://localhost/keys"}), "another issuer"),
        (json!({"issuer": ISSUER}), "no https address"),
        (json!({"issuer": ISSUER, "jwks_uri": "http://localhost/keys"}), "no https address"),
        (json!({"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"}), "no https address"),
        (json!({"issuer": ISSUER, "jwks_uri": "https://169.254.169.254/keys"}), "loopback, link-local and metadata"),
    ] {
        let site = Website::start(move |_, _| ok(&configuration)).await;
        let place = JwtKeys::Discovery { url: site.url.clone(), ca_pem: Some(site.ca_pem.clone()) };
        let remote = RemoteKeys::new(&place, ISSUER, Reach::Loopback, Freshness::default(), None).unwrap().unwrap();
        let error = remote.get(None).await.map(drop).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[tokio::test]
async fn j4_a_fetch_that_breaks_off_ends_as_failed() {
    let place = JwtKeys::Url { url: "https://localhost:1/".to_owned(), ca_pem: None };
    let remote = RemoteKeys::new(&place, ISSUER, Reach::Loopback, Freshness::default(), None).unwrap().unwrap();
    assert!(matches!(remote.shared.held().decide(Instant::now(), None, fresh()), Step::Fetch));
    let waiting = remote.get(None);
    let broken = async { drop(Fetching { shared: Arc::clone(&remote.shared), result: None }) };
    let (waited, ()) = tokio::join!(waiting, broken);
    let error = waited.map(drop).unwrap_err().to_string();
    assert!(error.contains("broke off"), "{error}");
    assert!(!remote.shared.held().is_fetching);
}

#[tokio::test]
async fn j4_nobody_waits_for_keys_without_end() {
    let place = JwtKeys::Url { url: "https://localhost:1/".to_owned(), ca_pem: None };
    let remote = RemoteKeys::new(&place, ISSUER, Reach::Loopback, Freshness::default(), None).unwrap().unwrap();
    assert!(matches!(remote.shared.held().decide(Instant::now(), None, fresh()), Step::Fetch));
    let soon = Instant::now() + Duration::from_millis(20);
    let error = remote.get_by(None, soon).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("in time"), "{error}");
}

#[test]
fn c13_keys_are_all_there_are_only_while_no_others_can_come() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut held = Held::default();
    assert!(held.all_there_are(at(0), fresh()).is_none());
    held.decide(at(0), None, fresh());
    held.end(at(1), Ok(keys()));
    assert!(held.all_there_are(at(2), fresh()).is_some());
    assert!(held.all_there_are(at(31), fresh()).is_none(), "the issuer may be asked again");
}

#[tokio::test]
async fn j4_whoever_needs_keys_at_once_has_them_fetched_for_the_next() {
    let jwks = Issuer::new().jwks("k1");
    let site = Website::start(move |_, _| ok(&jwks)).await;
    let place = JwtKeys::Url { url: site.url.clone(), ca_pem: Some(site.ca_pem.clone()) };
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let told: Told = Arc::new(move |is_fetched| told.send(is_fetched).unwrap());
    let remote = RemoteKeys::new(&place, ISSUER, Reach::Loopback, fresh(), Some(told)).unwrap().unwrap();
    assert!(remote.at_hand().is_none() && remote.at_hand().is_none());
    assert_eq!(heard.recv().await, Some(true));
    assert!(remote.at_hand().is_some());
    assert_eq!(site.asked(), 1, "one fetches for all");
}

/// Keeps in memory, and says when it has.
#[derive(Debug)]
struct Shelf {
    kept: Mutex<std::collections::BTreeMap<String, (String, Timestamp)>>,
    done: std::sync::mpsc::SyncSender<()>,
}

impl KeptKeys for Shelf {
    fn load(&self, place: &str) -> Option<(String, Timestamp)> {
        self.kept.lock().unwrap().get(place).cloned()
    }

    fn keep(&self, place: &str, keys: String, fetched: Timestamp) {
        self.kept.lock().unwrap().insert(place.to_owned(), (keys, fetched));
        self.done.send(()).unwrap();
    }

    fn forget(&self, place: &str) {
        self.kept.lock().unwrap().remove(place);
    }
}

#[tokio::test]
async fn j4_keys_that_were_kept_count_after_a_restart_for_as_long_as_they_would_have_without_one() {
    let jwks = Issuer::new().jwks("k1");
    let is_up = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let up = Arc::clone(&is_up);
    let site = Website::start(move |_, _| match up.load(std::sync::atomic::Ordering::SeqCst) {
        true => ok(&jwks),
        false => b"HTTP/1.1 503 Down\r\ncontent-length: 0\r\n\r\n".to_vec(),
    })
    .await;
    let (done, kept) = std::sync::mpsc::sync_channel(4);
    let shelf: Arc<Shelf> = Arc::new(Shelf { kept: Mutex::default(), done });
    let start = |path: &str, now: Timestamp| {
        let place = JwtKeys::Url { url: format!("{}{path}", site.url), ca_pem: Some(site.ca_pem.clone()) };
        let remote = RemoteKeys::new(&place, ISSUER, Reach::Loopback, fresh(), None).unwrap().unwrap();
        remote.kept_by(shelf.clone(), now)
    };
    let now = crypto::now();
    let (first, found) = start("/keys", now);
    assert_eq!(found, None);
    first.get(None).await.unwrap();
    // It is kept by a thread of its own.
    tokio::task::spawn_blocking(move || kept.recv_timeout(Duration::from_secs(60)).map(|()| kept))
        .await
        .unwrap()
        .unwrap();
    is_up.store(false, std::sync::atomic::Ordering::SeqCst);
    let asked = site.asked();

    let fetched = shelf.kept.lock().unwrap().values().next().unwrap().1;
    let (again, found) = start("/keys", fetched);
    assert_eq!(found, Some(fetched));
    again.get(None).await.unwrap();
    assert_eq!(site.asked(), asked, "they are young");
    let old = fetched.saturating_add(KEPT_MAX);
    let (again, found) = start("/keys", old);
    assert_eq!(found, Some(fetched), "a day has not passed");
    drop(again);
    for (why, path, now) in [
        ("more than a day has passed", "/keys", Timestamp(old.0 + 1)),
        ("nobody can have fetched them tomorrow", "/keys", fetched.saturating_sub(Duration::from_secs(3600))),
        ("they are from elsewhere", "/others", fetched),
    ] {
        let (again, found) = start(path, now);
        assert_eq!(found, None, "{why}");
        again.get(None).await.unwrap_err();
    }
}
