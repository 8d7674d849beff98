//! A ring on which what a call says leads to an instance: the same to the same, and when one goes only what was its own
//! moves.

use std::hash::Hasher;

use twox_hash::XxHash64;

/// Is a ring of places, each of them an instance's, by number.
#[derive(Debug, Default)]
pub(crate) struct Ring(Vec<(u64, u32)>);

/// Returns the hash of a text; the same in every agent, whatever it was built with.
pub(crate) fn hash_of(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

impl Ring {
    /// Gives each instance places for its weight: so many that the least one has one, between `min` and `max` in all.
    /// Instances are known by their names, so that all agents make the same ring.
    pub(crate) fn new(instances: &[(String, u32)], (min, max): (usize, usize)) -> Self {
        let sum: u64 = instances.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let least = instances.iter().map(|(_, weight)| u64::from(*weight)).filter(|weight| *weight > 0).min();
        let Some(least) = least else { return Self::default() };
        // A whole number of places for the least one.
        let each = (min as u64).saturating_mul(least).div_ceil(sum);
        let size = (each.saturating_mul(sum) / least).clamp(1, max as u64);
        let mut places = Vec::with_capacity(usize::try_from(size).unwrap_or(max));
        for (number, (name, weight)) in (0..).zip(instances) {
            let own = if *weight == 0 { 0 } else { (size.saturating_mul(u64::from(*weight)) / sum).max(1) };
            places.extend((0..own).map(|place| {
                let mut hasher = XxHash64::with_seed(0);
                hasher.write(name.as_bytes());
                hasher.write(&place.to_le_bytes());
                (hasher.finish(), number)
            }));
        }
        places.sort_unstable();
        Self(places)
    }

    /// Returns the instances from a point on, once around; each as often as it has places.
    pub(crate) fn from(&self, point: u64) -> impl Iterator<Item = usize> + '_ {
        let start = self.0.partition_point(|(place, _)| *place < point);
        let (before, after) = self.0.split_at(start);
        after.iter().chain(before).map(|(_, number)| *number as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(weights: &[u32]) -> Vec<(String, u32)> {
        weights.iter().enumerate().map(|(number, weight)| (format!("n{number}/default/api"), *weight)).collect()
    }

    fn shares(ring: &Ring, count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        for point in 0..10_000_u64 {
            shares[ring.from(hash_of(&point.to_le_bytes())).next().unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn each_instance_has_its_weights_share_of_the_ring() {
        let ring = Ring::new(&instances(&[1, 1, 2, 0]), (1024, 65_536));
        assert_eq!(ring.0.len(), 1024);
        let shares = shares(&ring, 4);
        for (share, want) in shares.iter().zip([2500, 2500, 5000, 0]) {
            assert!(share.abs_diff(want) < 600, "{shares:?}");
        }
        let one = Ring::new(&instances(&[1; 1500]), (1024, 65_536));
        assert_eq!(one.0.len(), 1500, "the least has a place");
        assert!(Ring::new(&instances(&[1, 1_000_000]), (16, 64)).0.len() <= 65, "never more than so many");
        assert_eq!(Ring::new(&instances(&[0]), (16, 64)).from(7).next(), None);
    }

    #[test]
    fn when_an_instance_goes_only_what_was_its_own_moves() {
        let all = instances(&[1; 10]);
        let (full, less) = (Ring::new(&all, (1024, 65_536)), Ring::new(&all[..9], (1024, 65_536)));
        let moved = (0..10_000_u64).map(|point| hash_of(&point.to_le_bytes())).filter(|point| {
            let (before, after) = (full.from(*point).next().unwrap(), less.from(*point).next().unwrap());
            before != after && before != 9
        });
        // Sizes differ a little, and with them how many places each has.
        let moved = moved.count();
        assert!(moved < 1_500, "{moved}");
        assert!((0..100).all(|point| full.from(point).nth(1024 * 3).is_none()));
    }
}
