//! Where calls to a service go: what operators write, and what callers' agents carry out.
//!
//! A call goes through the service's router, which chooses by the request; a splitter, which chooses by weight; and a
//! resolver, which says what a name stands for and what takes over where nothing of it is left. [`Routes`] is all of that in
//! one value, compiled from config entries alike by servers, which refuse what does not compile, and agents.

mod balance;
mod check;
mod compile;
mod entries;
mod evaluate;
mod extras;
mod retry;
#[cfg(test)]
mod tests;

pub use balance::{Balance, Balancing, HashBy, HashPolicy, Hashing, IssuedCookie};
pub(crate) use check::{check_content, check_timeout};
pub use compile::RoutingError;
pub use entries::{
    FailoverTarget, HeaderEdits, QueryMatch, QueryTest, Redirect, RetryOn, RetryRule, RouteDestination, RouteMatch,
    RouteRule, ServiceResolver, ServiceRouter, ServiceSplitter, Split, Subset,
};
pub(crate) use evaluate::PathRule;
pub use evaluate::{Leg, MirrorWay, RouteAction, RoutedRequest, Routes, SplitEdits, Target, TargetKey, Turn};
pub use extras::{AbortFault, DelayFault, Fault, Mirror};
pub use retry::RetryBudget;
