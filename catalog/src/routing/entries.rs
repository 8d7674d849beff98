//! What operators write of where calls go.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Balance, Fault, Hashing, Mirror};
use crate::{HttpMatch, ServiceKey};

/// Chooses where a request goes by what it says. The first rule that matches decides; what none matches goes on to the
/// service itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRouter {
    /// The service that is called.
    pub service: ServiceKey,
    /// The rules, in the order in which they are tried.
    pub routes: Vec<RouteRule>,
}

/// Is one rule of a router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRule {
    /// Which requests it is for; all where it says nothing.
    #[serde(default)]
    pub matches: RouteMatch,
    /// Where these go, and how.
    #[serde(default)]
    pub to: RouteDestination,
}

/// Selects requests; everything that is set must match.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteMatch {
    /// By path, methods and headers. Of a header's several values one that fits is enough.
    #[serde(default)]
    pub http: HttpMatch,
    /// By parameters of the query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryMatch>,
    /// Whether an exact path or a prefix fits in whatever letter case.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_case: bool,
}

/// Selects requests by one parameter of the query; of several of one name, one that fits is enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryMatch {
    /// The parameter's name.
    pub name: String,
    /// What its values are held against.
    pub test: QueryTest,
}

/// Says what a parameter's values are held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueryTest {
    /// The parameter is there.
    Present,
    /// The whole value.
    Exact(String),
    /// A regular expression over the whole value.
    Regex(String),
}

/// Says where requests go, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteDestination {
    /// The service; the router's own where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceKey>,
    /// The subset of it; without one, as its own entries say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// What takes the place of the path or prefix that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_rewrite: Option<String>,
    /// How long until the answer begins, all attempts together, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout_ms: Option<u64>,
    /// When another instance is asked; never, once something was sent, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryRule>,
    /// What of the request's headers changes.
    #[serde(default, skip_serializing_if = "HeaderEdits::is_empty")]
    pub request_headers: HeaderEdits,
    /// What of the answer's headers changes.
    #[serde(default, skip_serializing_if = "HeaderEdits::is_empty")]
    pub response_headers: HeaderEdits,
    /// Where copies of them go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// What goes wrong with them on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Says when another instance is asked the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryRule {
    /// How often at most.
    pub attempts: u32,
    /// After what.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub on: BTreeSet<RetryOn>,
    /// After which statuses besides.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub on_status: BTreeSet<u16>,
}

/// Names a failure after which another instance is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// The instance could not be reached.
    ConnectFailure,
    /// The stream ended before an answer began.
    Reset,
    /// 502, 503 or 504.
    GatewayError,
    /// Any status of 500 or more, and what [`RetryOn::Reset`] names.
    #[serde(rename = "5xx")]
    ServerError,
}

/// Says what of a message's headers changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderEdits {
    /// Put beside those that are there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, String>,
    /// Put in the place of those that are there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Taken away.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<String>,
}

impl HeaderEdits {
    /// Reports whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.set.is_empty() && self.remove.is_empty()
    }
}

/// Chooses where a request goes by weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSplitter {
    /// The service that is called.
    pub service: ServiceKey,
    /// The parts; their weights make 10,000.
    pub splits: Vec<Split>,
}

/// Is one part of a splitter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Its share, in hundredths of a percent.
    pub weight: u16,
    /// The service; the splitter's own where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceKey>,
    /// The subset of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// What of the headers of requests changes that go here.
    #[serde(default, skip_serializing_if = "HeaderEdits::is_empty")]
    pub request_headers: HeaderEdits,
    /// What of the headers of their answers changes.
    #[serde(default, skip_serializing_if = "HeaderEdits::is_empty")]
    pub response_headers: HeaderEdits,
}

/// Says what a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceResolver {
    /// The service that is called.
    pub service: ServiceKey,
    /// The subset that is meant where none is named; all instances without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_subset: Option<String>,
    /// Its subsets by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subsets: BTreeMap<String, Subset>,
    /// What it stands for instead of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// What takes over where nothing is left, by subset; `*` is for all that are not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failover: BTreeMap<String, Vec<FailoverTarget>>,
    /// How long until an answer begins, in milliseconds, where no route says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout_ms: Option<u64>,
    /// How long it may take until an instance is reached, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
    /// How one of several instances is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    /// What requests are told apart by, where instances are chosen on a ring.
    #[serde(default, skip_serializing_if = "Hashing::is_empty")]
    pub hashing: Hashing,
    /// Among how many the least loaded is looked for; two where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<u32>,
    /// Whether instances of the caller's own zone come first; as `proxy-defaults` has it where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_locality: Option<bool>,
}

impl ServiceResolver {
    /// Makes one that says nothing yet.
    #[must_use]
    pub fn new(service: ServiceKey) -> Self {
        Self {
            service,
            default_subset: None,
            subsets: BTreeMap::new(),
            redirect: None,
            failover: BTreeMap::new(),
            request_timeout_ms: None,
            connect_timeout_ms: None,
            balance: None,
            hashing: Hashing::default(),
            choices: None,
            by_locality: None,
        }
    }
}

/// Names some of a service's instances.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    /// The selector that they fit; all where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Whether those with a warning are left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_passing: bool,
}

/// Says what a name stands for instead of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The service; the same where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceKey>,
    /// The subset of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
}

/// Names what takes over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverTarget {
    /// The service; the same where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceKey>,
    /// The subset of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
}
