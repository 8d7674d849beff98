//! The network between everybody: it delays, loses, repeats, reorders and partitions.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use super::random::Random;

/// Who can send and be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Server(u64),
    Client(u64),
    Agent(u64),
    Operator,
}

/// How long it takes until something lost is sent again over a connection.
const RESENT_AFTER: Duration = Duration::from_millis(200);

/// What happens to everything that is sent.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    pub(crate) loss_percent: u64,
    pub(crate) repeat_percent: u64,
    pub(crate) delay_ms: Range<u64>,
}

impl Weather {
    pub(crate) const FAIR: Weather = Weather { loss_percent: 0, repeat_percent: 0, delay_ms: 1..10 };
    /// Loss and jitter as in fault 10. Delays differ per message, so that order is lost with them.
    pub(crate) const STORM: Weather = Weather { loss_percent: 30, repeat_percent: 10, delay_ms: 1..300 };
    pub(crate) const SLOW: Weather = Weather { loss_percent: 1, repeat_percent: 5, delay_ms: 50..150 };
}

/// Which ways are cut, and what happens on the others.
#[derive(Debug)]
pub(crate) struct Network {
    cut: BTreeSet<(Place, Place)>,
    pub(crate) weather: Weather,
}

impl Network {
    pub(crate) fn new() -> Network {
        Network { cut: BTreeSet::new(), weather: Weather::FAIR }
    }

    /// Cuts one direction.
    pub(crate) fn cut(&mut self, from: Place, to: Place) {
        self.cut.insert((from, to));
    }

    /// Mends one direction.
    pub(crate) fn mend(&mut self, from: Place, to: Place) {
        self.cut.remove(&(from, to));
    }

    pub(crate) fn is_cut(&self, from: Place, to: Place) -> bool {
        self.cut.contains(&(from, to))
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.weather = Weather::FAIR;
    }

    /// Returns after how long something arrives that is sent again until it does; nothing if the way is cut.
    pub(crate) fn carry(&self, from: Place, to: Place, random: &mut Random) -> Option<Duration> {
        let Weather { loss_percent, delay_ms, .. } = &self.weather;
        if self.cut.contains(&(from, to)) {
            return None;
        }
        let mut delay = random.millis(delay_ms.clone());
        while random.happens(*loss_percent) {
            delay += RESENT_AFTER;
        }
        Some(delay)
    }

    /// Returns after how long each copy of a message arrives; none if it is lost.
    pub(crate) fn fate(&self, from: Place, to: Place, random: &mut Random) -> Vec<Duration> {
        let Weather { loss_percent, repeat_percent, delay_ms } = &self.weather;
        if self.cut.contains(&(from, to)) || random.happens(*loss_percent) {
            return Vec::new();
        }
        let copies = if random.happens(*repeat_percent) { 2 } else { 1 };
        (0..copies).map(|_| random.millis(delay_ms.clone())).collect()
    }
}
